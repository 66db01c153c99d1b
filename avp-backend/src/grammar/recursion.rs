//! Whether a rule can come to begin with itself, which would have a text followed without end.

use super::rules::{Element, RuleId, Rules, id, index};

/// A rule that can come to begin with itself, where one does: one with a name, which every such circle has.
pub(super) fn left_recursive(
    rules: &Rules,
    repeats: impl Fn(RuleId) -> bool,
    is_named: impl Fn(RuleId) -> bool,
) -> Option<RuleId> {
    let firsts = firsts(rules, &nullable(rules));
    let mut seen = vec![Seen::No; rules.len()];
    for start in 0..rules.len() {
        if seen[start] != Seen::No {
            continue;
        }
        // By hand, not by recursion: a chain may be as long as there are rules.
        seen[start] = Seen::Above;
        let mut path = vec![(start, 0)];
        while let Some((rule, next)) = path.last_mut() {
            let rule = *rule;
            let Some(&first) = firsts[rule].get(*next) else {
                seen[rule] = Seen::Done;
                path.pop();
                continue;
            };
            *next += 1;
            match seen[index(first)] {
                Seen::Above if index(first) == rule && repeats(first) => {}
                Seen::Above => {
                    let mut circle = path.iter().map(|&(rule, _)| id(rule)).skip_while(|rule| *rule != first);
                    return circle.find(|rule| is_named(*rule)).or(Some(first));
                }
                Seen::No => {
                    seen[index(first)] = Seen::Above;
                    path.push((index(first), 0));
                }
                Seen::Done => {}
            }
        }
    }
    None
}

/// How far a walk over rules has come with one.
#[derive(Clone, Copy, PartialEq)]
enum Seen {
    No,
    /// On the way from the start to here.
    Above,
    Done,
}

/// By rule, the rules that it can begin with.
fn firsts(rules: &Rules, nullable: &[bool]) -> Vec<Vec<RuleId>> {
    let of = |rule: usize| {
        let mut out = Vec::new();
        for &alternative in rules.alternatives(id(rule)) {
            for at in alternative.. {
                let Element::Rule(first) = rules.element(at) else { break };
                out.push(first);
                if !nullable[index(first)] {
                    break;
                }
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    };
    (0..rules.len()).map(of).collect()
}

/// By rule, whether it can be empty.
fn nullable(rules: &Rules) -> Vec<bool> {
    let mut nullable = vec![false; rules.len()];
    // Alternatives of rules only, with the number of those that are not known to be empty; and in which a rule stands.
    let mut left = Vec::new();
    let mut uses: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    let mut todo = Vec::new();
    for rule in 0..rules.len() {
        for &alternative in rules.alternatives(id(rule)) {
            let elements = (alternative..).map(|at| rules.element(at)).take_while(|e| *e != Element::End);
            let inner: Option<Vec<RuleId>> =
                elements.map(|e| if let Element::Rule(inner) = e { Some(inner) } else { None }).collect();
            let Some(inner) = inner else { continue };
            if inner.is_empty() {
                todo.push(rule);
            }
            inner.iter().for_each(|&inner| uses[index(inner)].push(left.len()));
            left.push((rule, inner.len()));
        }
    }
    while let Some(rule) = todo.pop() {
        if std::mem::replace(&mut nullable[rule], true) {
            continue;
        }
        for &alternative in &uses[rule] {
            let (of, left) = &mut left[alternative];
            *left -= 1;
            if *left == 0 {
                todo.push(*of);
            }
        }
    }
    nullable
}
