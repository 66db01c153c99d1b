//! The text of a grammar, read.

use super::error::{GrammarError, GrammarFault, shown};
use super::rules::{Builder, Element, Fault, Rules};

/// Most text that is read, in bytes.
const MAX_TEXT: usize = 256 << 10;
/// Groups in groups: the reader of one calls that of the next.
const MAX_DEPTH: usize = 64;
/// Repetitions by number.
const MAX_REPETITIONS: usize = 2000;

/// Reads a whole grammar.
pub(super) fn parse(text: &str) -> Result<Rules, GrammarError> {
    if text.len() > MAX_TEXT {
        return Err(GrammarError::TooLong { bytes: text.len(), most: MAX_TEXT });
    }
    let place = |(at, fault): Fault| {
        let before = text.get(..at).unwrap_or(text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        GrammarError::Text { line, column, fault }
    };
    let mut parser = Parser { text, at: 0, depth: 0, builder: Builder::default() };
    parser.rules().map_err(place)?;
    parser.builder.finish(place)
}

struct Parser<'a> {
    text: &'a str,
    /// Byte that is next.
    at: usize,
    depth: usize,
    builder: Builder,
}

/// Whether a rule goes on in the next line.
#[derive(Clone, Copy, PartialEq)]
enum Lines {
    /// Within a group, or where something must follow.
    Across,
    /// Elsewhere the next line is another rule.
    One,
}

impl<'a> Parser<'a> {
    fn rules(&mut self) -> Result<(), Fault> {
        self.skip_space(Lines::Across);
        while self.peek().is_some() {
            let at = self.at;
            let name = self.name()?;
            self.skip_space(Lines::One);
            if !self.take("::=") {
                return Err(self.expected("`::=` after the name of a rule"));
            }
            self.skip_space(Lines::Across);
            let rule = self.builder.named(name, at)?;
            let alternatives = self.alternatives(Lines::One)?;
            if !matches!(self.peek(), None | Some('\n' | '\r')) {
                return Err(
                    self.expected("a literal, a set, a rule's name, a group, `|` or the end of the line")
                );
            }
            self.builder.define(rule, at, alternatives)?;
            self.skip_space(Lines::Across);
        }
        Ok(())
    }

    fn alternatives(&mut self, lines: Lines) -> Result<Vec<Vec<Element>>, Fault> {
        let mut alternatives = vec![self.sequence(lines)?];
        while self.take("|") {
            self.skip_space(Lines::Across);
            alternatives.push(self.sequence(lines)?);
        }
        Ok(alternatives)
    }

    fn sequence(&mut self, lines: Lines) -> Result<Vec<Element>, Fault> {
        let mut sequence = Vec::new();
        // Where that begins which an operator would repeat.
        let mut last = 0;
        while let Some(next) = self.peek() {
            if matches!(next, '*' | '+' | '?' | '{') {
                self.repetition(&mut sequence, last)?;
            } else {
                last = sequence.len();
                match next {
                    '"' => self.literal(&mut sequence)?,
                    '[' => sequence.push(self.set()?),
                    '(' => sequence.push(self.group()?),
                    '.' => {
                        sequence.push(self.builder.set(&[], true, self.at)?);
                        self.at += 1;
                    }
                    '<' | '!' => return Err((self.at, GrammarFault::Token)),
                    next if is_name(next) => {
                        let at = self.at;
                        let name = self.name()?;
                        sequence.push(Element::Rule(self.builder.named(name, at)?));
                    }
                    _ => break,
                }
            }
            self.skip_space(lines);
        }
        Ok(sequence)
    }

    /// Repeats what `sequence` holds from `last` on.
    fn repetition(&mut self, sequence: &mut Vec<Element>, last: usize) -> Result<(), Fault> {
        let at = self.at;
        let times = self.times()?;
        let mut repeated = sequence.split_off(last.min(sequence.len()));
        let item = match (repeated.pop(), repeated.is_empty()) {
            (None, _) => return Err((at, GrammarFault::NothingToRepeat)),
            (Some(item), true) => item,
            (Some(item), false) => {
                repeated.push(item);
                self.builder.group(at, vec![repeated])?
            }
        };
        self.builder.repeat(item, times, at, sequence)
    }

    /// `*`, `+`, `?`, `{2}`, `{2,}` or `{2,5}`.
    fn times(&mut self) -> Result<(usize, Option<usize>), Fault> {
        for (operator, times) in [("*", (0, None)), ("+", (1, None)), ("?", (0, Some(1)))] {
            if self.take(operator) {
                return Ok(times);
            }
        }
        let at = self.at;
        self.at += 1;
        self.skip_space(Lines::One);
        let min = self.number()?;
        let mut max = Some(min);
        if self.take(",") {
            self.skip_space(Lines::One);
            let is_open = self.peek() == Some('}');
            max = if is_open { None } else { Some(self.number()?) };
        }
        if !self.take("}") {
            return Err(self.expected("`}` after the number of repetitions"));
        }
        match max {
            Some(max) if max < min => Err((at, GrammarFault::ReversedRepetitions { min, max })),
            _ => Ok((min, max)),
        }
    }

    fn number(&mut self) -> Result<usize, Fault> {
        let at = self.at;
        let digits = self.take_while(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(self.expected("a number of repetitions"));
        }
        let number = digits.parse().ok().filter(|number| *number <= MAX_REPETITIONS);
        self.skip_space(Lines::One);
        number.ok_or((at, GrammarFault::Repetitions { most: MAX_REPETITIONS }))
    }

    fn group(&mut self) -> Result<Element, Fault> {
        let at = self.at;
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err((at, GrammarFault::TooDeep { most: MAX_DEPTH }));
        }
        self.skip_space(Lines::Across);
        let alternatives = self.alternatives(Lines::Across)?;
        if !self.take(")") {
            return Err(self.expected("`)` at the end of a group"));
        }
        self.depth -= 1;
        self.builder.group(at, alternatives)
    }

    fn literal(&mut self, sequence: &mut Vec<Element>) -> Result<(), Fault> {
        self.at += 1;
        while !self.take("\"") {
            let at = self.at;
            let value = self.character("`\"` at the end of a literal")?;
            sequence.push(self.builder.set(&[(value, value)], false, at)?);
        }
        Ok(())
    }

    fn set(&mut self) -> Result<Element, Fault> {
        const END: &str = "`]` at the end of a set";
        let at = self.at;
        self.at += 1;
        let negated = self.take("^");
        let mut ranges = Vec::new();
        while !self.take("]") {
            let at = self.at;
            let first = self.character(END)?;
            // A `-` before the end is one.
            let is_range = self.peek() == Some('-') && !self.rest().starts_with("-]");
            let last = match is_range && self.take("-") {
                true => self.character(END)?,
                false => first,
            };
            if last < first {
                return Err((at, GrammarFault::ReversedRange));
            }
            ranges.push((first, last));
        }
        if ranges.is_empty() {
            return Err((at, GrammarFault::EmptySet));
        }
        self.builder.set(&ranges, negated, at)
    }

    /// One character of a literal or a set, or an escape for one.
    fn character(&mut self, or: &'static str) -> Result<u32, Fault> {
        let at = self.at;
        let c = self.peek().ok_or_else(|| self.expected(or))?;
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(c.into());
        }
        let escaped = self.peek().ok_or((at, GrammarFault::Escape))?;
        self.at += escaped.len_utf8();
        let digits = match escaped {
            'n' => return Ok('\n'.into()),
            'r' => return Ok('\r'.into()),
            't' => return Ok('\t'.into()),
            '\\' | '"' | '[' | ']' | '-' => return Ok(escaped.into()),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err((at, GrammarFault::Escape)),
        };
        let digits = self.rest().get(..digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let value = value.ok_or((at, GrammarFault::Escape))?;
        self.at += digits.map_or(0, str::len);
        char::from_u32(value).map(u32::from).ok_or((at, GrammarFault::NoCharacter { value }))
    }

    fn name(&mut self) -> Result<&'a str, Fault> {
        let from = self.at;
        if self.take_while(is_name).is_empty() {
            return Err(self.expected("the name of a rule (letters, digits and `-`)"));
        }
        Ok(&self.text[from..self.at])
    }

    /// Blanks and comments, and the ends of lines where a rule goes on across them.
    fn skip_space(&mut self, lines: Lines) {
        loop {
            self.take_while(|c| {
                matches!(c, ' ' | '\t') || lines == Lines::Across && matches!(c, '\n' | '\r')
            });
            if self.peek() != Some('#') {
                return;
            }
            self.take_while(|c| !matches!(c, '\n' | '\r'));
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let is_next = self.rest().starts_with(text);
        self.at += if is_next { text.len() } else { 0 };
        is_next
    }

    fn take_while(&mut self, holds: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !holds(c)).unwrap_or(rest.len())];
        let from = self.at;
        self.at += taken.len();
        &self.text[from..self.at]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&self, expected: &'static str) -> Fault {
        let line = self.rest().lines().next().unwrap_or_default();
        let found = match self.peek() {
            None => "the end of the grammar".to_owned(),
            Some('\n' | '\r') => "the end of the line".to_owned(),
            Some(_) => format!("`{}`", shown(line.trim_end())),
        };
        (self.at, GrammarFault::Expected { expected, found })
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}
