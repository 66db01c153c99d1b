//! A grammar as rules over sets of characters, and whether it can be followed.

use std::collections::HashMap;
use std::ops::Range;

use super::error::{GrammarError, GrammarFault, shown};
use super::recursion::left_recursive;

/// Elements of a grammar, its repetitions written out.
const MAX_ELEMENTS: usize = 1 << 18;
/// Ranges of all its sets.
const MAX_RANGES: usize = 1 << 18;

/// A rule, by its place in the list of rules.
pub(super) type RuleId = u32;

/// A step of an alternative of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// One character out of a set, which is a run of [`Rules::ranges`].
    Set { from: u32, to: u32 },
    /// What a rule says.
    Rule(RuleId),
    /// The alternative ends.
    End,
}

/// The rules of a grammar, each with alternatives, each of which is a run of elements up to an [`End`](Element::End).
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rules {
    elements: Vec<Element>,
    /// First elements of alternatives, those of a rule in a row.
    alternatives: Vec<u32>,
    /// By rule, where in `alternatives` its own are.
    rules: Vec<Range<usize>>,
    /// Inclusive ranges; those of a set are sorted and apart, and hold characters only.
    ranges: Vec<(u32, u32)>,
    pub(super) root: RuleId,
}

impl Rules {
    pub(super) fn element(&self, at: u32) -> Element {
        usize::try_from(at).ok().and_then(|at| self.elements.get(at)).copied().unwrap_or(Element::End)
    }

    /// First elements of a rule's alternatives.
    pub(super) fn alternatives(&self, rule: RuleId) -> &[u32] {
        let range = usize::try_from(rule).ok().and_then(|rule| self.rules.get(rule));
        range.and_then(|range| self.alternatives.get(range.clone())).unwrap_or_default()
    }

    /// Number of rules.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether the set `from..to` holds a character of `low..=high`.
    pub(super) fn set_meets(&self, from: u32, to: u32, low: u32, high: u32) -> bool {
        let index = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
        let set = self.ranges.get(index(from)..index(to)).unwrap_or_default();
        let first = set.partition_point(|&(_, last)| last < low);
        set.get(first).is_some_and(|&(begin, _)| begin <= high)
    }
}

/// A rule that is being written.
#[derive(Debug, Default)]
struct Draft {
    name: String,
    /// Byte of the text where it was named first.
    at: usize,
    alternatives: Option<Vec<Vec<Element>>>,
    /// Whether it repeats something: it may begin with itself behind something empty, which leads nowhere new.
    repeats: bool,
}

/// Collects rules.
#[derive(Debug, Default)]
pub(super) struct Builder {
    drafts: Vec<Draft>,
    names: HashMap<String, RuleId>,
    ranges: Vec<(u32, u32)>,
    sets: HashMap<Vec<(u32, u32)>, (u32, u32)>,
    size: usize,
}

/// A fault, and the byte of the text where it is.
pub(super) type Fault = (usize, GrammarFault);

pub(super) fn id(index: usize) -> u32 {
    // Fewer than `MAX_ELEMENTS`.
    u32::try_from(index).unwrap_or(u32::MAX)
}

pub(super) fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

impl Builder {
    /// The rule that is called `name`, there or still to come.
    pub(super) fn named(&mut self, name: &str, at: usize) -> Result<RuleId, Fault> {
        if let Some(&rule) = self.names.get(name) {
            return Ok(rule);
        }
        let rule = self.unnamed(at)?;
        self.names.insert(name.to_owned(), rule);
        if let Some(draft) = self.drafts.last_mut() {
            name.clone_into(&mut draft.name);
        }
        Ok(rule)
    }

    /// A rule of a group or a repetition.
    fn unnamed(&mut self, at: usize) -> Result<RuleId, Fault> {
        self.grow(1, at)?;
        self.drafts.push(Draft { at, ..Draft::default() });
        Ok(id(self.drafts.len() - 1))
    }

    /// Says what a named rule is.
    pub(super) fn define(
        &mut self,
        rule: RuleId,
        at: usize,
        alternatives: Vec<Vec<Element>>,
    ) -> Result<(), Fault> {
        let size = alternatives.iter().map(|alternative| alternative.len() + 1).sum();
        self.grow(size, at)?;
        let Some(draft) = self.drafts.get_mut(index(rule)) else { return Ok(()) };
        if draft.alternatives.is_some() {
            return Err((at, GrammarFault::Twice { name: shown(&draft.name) }));
        }
        draft.at = at;
        draft.alternatives = Some(alternatives);
        Ok(())
    }

    /// A rule of its own for a group.
    pub(super) fn group(&mut self, at: usize, alternatives: Vec<Vec<Element>>) -> Result<Element, Fault> {
        let rule = self.unnamed(at)?;
        self.define(rule, at, alternatives)?;
        Ok(Element::Rule(rule))
    }

    /// `item` so many times, without a `max` as often as one likes: put at the end of `sequence`.
    pub(super) fn repeat(
        &mut self,
        item: Element,
        (min, max): (usize, Option<usize>),
        at: usize,
        sequence: &mut Vec<Element>,
    ) -> Result<(), Fault> {
        // Counted now for its rule, so that no sequence grows beyond what is kept before it is defined.
        self.grow(min, at)?;
        sequence.extend(std::iter::repeat_n(item, min));
        let Some(max) = max else {
            let rule = self.unnamed(at)?;
            self.define(rule, at, vec![vec![item, Element::Rule(rule)], vec![]])?;
            if let Some(draft) = self.drafts.get_mut(index(rule)) {
                draft.repeats = true;
            }
            sequence.push(Element::Rule(rule));
            return Ok(());
        };
        let mut rest = None;
        for _ in min..max {
            let once = [item].into_iter().chain(rest).collect();
            rest = Some(self.group(at, vec![once, vec![]])?);
        }
        sequence.extend(rest);
        Ok(())
    }

    /// The set of the characters in `ranges`, or of all others.
    pub(super) fn set(&mut self, ranges: &[(u32, u32)], negated: bool, at: usize) -> Result<Element, Fault> {
        let mut ranges = normalised(ranges);
        if negated {
            ranges = others(&ranges);
        }
        if let Some(&(from, to)) = self.sets.get(&ranges) {
            return Ok(Element::Set { from, to });
        }
        if self.ranges.len() + ranges.len() > MAX_RANGES {
            return Err((at, GrammarFault::TooLarge));
        }
        let from = id(self.ranges.len());
        self.ranges.extend_from_slice(&ranges);
        let to = id(self.ranges.len());
        self.sets.insert(ranges, (from, to));
        Ok(Element::Set { from, to })
    }

    fn grow(&mut self, by: usize, at: usize) -> Result<(), Fault> {
        self.size = self.size.saturating_add(by);
        if self.size > MAX_ELEMENTS { Err((at, GrammarFault::TooLarge)) } else { Ok(()) }
    }

    /// The rules, once all of them are there. `place` makes an error of a fault.
    pub(super) fn finish(self, place: impl Fn(Fault) -> GrammarError) -> Result<Rules, GrammarError> {
        let mut rules = Rules { ranges: self.ranges, ..Rules::default() };
        for draft in &self.drafts {
            let undefined = || place((draft.at, GrammarFault::Undefined { name: shown(&draft.name) }));
            let from = rules.alternatives.len();
            for alternative in draft.alternatives.as_ref().ok_or_else(undefined)? {
                rules.alternatives.push(id(rules.elements.len()));
                rules.elements.extend_from_slice(alternative);
                rules.elements.push(Element::End);
            }
            rules.rules.push(from..rules.alternatives.len());
        }
        rules.root = *self.names.get("root").ok_or(GrammarError::NoRoot)?;
        let is_named = |rule: RuleId| !self.drafts[index(rule)].name.is_empty();
        if let Some(rule) = left_recursive(&rules, |rule| self.drafts[index(rule)].repeats, is_named) {
            let Draft { name, at, .. } = &self.drafts[index(rule)];
            return Err(place((*at, GrammarFault::LeftRecursion { name: shown(name) })));
        }
        Ok(rules)
    }
}

/// Sorted and apart, without what is no character.
fn normalised(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    const SURROGATES: (u32, u32) = (0xD800, 0xDFFF);
    let parts = ranges.iter().flat_map(|&(first, last)| {
        [(first, last.min(SURROGATES.0 - 1)), (first.max(SURROGATES.1 + 1), last)]
    });
    let mut parts: Vec<_> = parts.filter(|(first, last)| first <= last).collect();
    parts.sort_unstable();
    let mut out: Vec<(u32, u32)> = Vec::with_capacity(parts.len());
    for (first, last) in parts {
        match out.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

/// All characters that `ranges`, which are normalised, leave out.
fn others(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut next = 0;
    let mut out = Vec::new();
    for &(first, last) in ranges {
        if next < first {
            out.push((next, first - 1));
        }
        next = last + 1;
    }
    if next <= u32::from(char::MAX) {
        out.push((next, char::MAX.into()));
    }
    normalised(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_sorted_apart_and_hold_characters_only() {
        assert_eq!(normalised(&[(5, 9), (1, 3), (4, 4), (8, 12)]), [(1, 12)]);
        assert_eq!(normalised(&[(0xD000, 0xE000)]), [(0xD000, 0xD7FF), (0xE000, 0xE000)]);
        assert_eq!(normalised(&[(0xD900, 0xDA00)]), []);
        assert_eq!(others(&[(0, 9), (11, 0x10_FFFF)]), [(10, 10)]);
        assert_eq!(others(&[]), [(0, 0xD7FF), (0xE000, 0x10_FFFF)]);
        assert_eq!(others(&others(&[(65, 90)])), [(65, 90)]);
    }
}
