use proptest::prelude::*;

use super::Grammar;
use super::tests::{bytes, is_text};

proptest! {
    #[test]
    fn any_text_is_a_grammar_or_an_error(text in "\\PC{0,60}") {
        let _ = text.parse::<Grammar>();
    }

    #[test]
    fn what_looks_like_a_grammar_never_panics_and_its_masks_are_what_it_takes(
        parts in prop::collection::vec(prop::sample::select(PARTS), 0..24),
        tokens in prop::collection::vec(prop::sample::select(&b"abcx\xC3\xA9\xF0("[..]), 0..20),
    ) {
        let text = format!("root ::= {}", parts.concat());
        let constraint = text.parse::<Grammar>().and_then(|grammar| grammar.constraint(bytes()));
        let Ok(mut constraint) = constraint else { return Ok(()) };
        for token in tokens {
            let mut logits = vec![0.0; 256];
            if constraint.mask(&mut logits).is_err() { break; }
            for id in 0..256 {
                let masked = logits[id as usize] == f32::NEG_INFINITY;
                prop_assert_eq!(constraint.allows(id).ok(), Some(!masked), "{} at {}", &text, id);
            }
            let masked = logits[usize::from(token)] == f32::NEG_INFINITY;
            prop_assert_eq!(constraint.accept(token.into()).is_err(), masked);
        }
    }

    /// Against a reading of the same grammar that is another one altogether: a derivative of a tree.
    #[test]
    fn grammars_without_rules_take_what_regular_expressions_take(
        tree in tree(), texts in prop::collection::vec("[abc]{0,6}", 1..20),
    ) {
        let grammar = format!("root ::= {}", tree.text());
        for text in texts {
            let rests = tree.rests(&text);
            prop_assert_eq!(is_text(&grammar, &text), rests.contains(&""), "{} on {}", &grammar, &text);
        }
    }
}

const PARTS: &[&str] = &[
    "\"a\"", "\"ab\"", "[a-c]", "[^a]", ".", "(", ")", "|", "*", "+", "?", "{2}", "{0,3}", "{1,}", " ", "\n",
    "root", "x", "\nx ::= ", "\"é\"", "[é-ü]", "\"\"", "#", "\\", "-", "<", "{", "\"",
];

#[derive(Clone, Debug)]
enum Tree {
    Literal(String),
    Both(Box<Tree>, Box<Tree>),
    Either(Box<Tree>, Box<Tree>),
    Times(Box<Tree>, usize, Option<usize>),
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = "[abc]{0,2}".prop_map(Tree::Literal);
    leaf.prop_recursive(4, 12, 2, |inner| {
        let pair = || (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        prop_oneof![
            pair().prop_map(|(a, b)| Tree::Both(a, b)),
            pair().prop_map(|(a, b)| Tree::Either(a, b)),
            (inner.clone(), 0..3_usize, prop::option::of(0..3_usize)).prop_map(|(a, min, more)| Tree::Times(
                Box::new(a),
                min,
                more.map(|more| min + more)
            )),
        ]
    })
}

impl Tree {
    fn text(&self) -> String {
        match self {
            Self::Literal(text) => format!("\"{text}\""),
            Self::Both(a, b) => format!("({}) ({})", a.text(), b.text()),
            Self::Either(a, b) => format!("({} | {})", a.text(), b.text()),
            Self::Times(a, min, None) => format!("({}){{{min},}}", a.text()),
            Self::Times(a, min, Some(max)) => format!("({}){{{min},{max}}}", a.text()),
        }
    }

    /// What may be left of `text` behind this.
    fn rests<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut rests: Vec<&str> = match self {
            Self::Literal(literal) => text.strip_prefix(literal.as_str()).into_iter().collect(),
            Self::Both(a, b) => a.rests(text).iter().flat_map(|rest| b.rests(rest)).collect(),
            Self::Either(a, b) => [a.rests(text), b.rests(text)].concat(),
            Self::Times(a, min, max) => {
                // Nothing is gained by repeating what is empty more often than there are letters.
                let most = max.unwrap_or(min + text.len());
                let mut level = vec![text];
                let mut out = Vec::new();
                for times in 0..=most {
                    if times >= *min {
                        out.extend(&level);
                    }
                    level = level.iter().flat_map(|rest| a.rests(rest)).collect();
                    level.sort_unstable();
                    level.dedup();
                }
                out
            }
        };
        rests.sort_unstable();
        rests.dedup();
        rests
    }
}
