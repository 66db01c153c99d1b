//! Grammars in GBNF, the form that llama.cpp reads, for text that a model is to write in a given shape.
//!
//! They are read, judged and followed here, for every engine that can say what bytes its tokens write
//! ([`TextCodec::pieces`](crate::TextCodec::pieces)). llama.cpp's own reader serves tests alone, to compare with: grammars
//! come from anywhere, and some have it recurse without end or count to 2^64 (`"a"{5,2}`), or double its work with every
//! character (`root ::= "a" root "b" | "a" root "c" | "d"`), which nothing that is known beforehand excludes.

mod constraint;
mod error;
mod machine;
mod parse;
mod pieces;
#[cfg(test)]
mod properties;
mod recursion;
mod rules;
#[cfg(test)]
mod tests;
mod utf8;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use constraint::GrammarConstraint;
pub use error::{GrammarError, GrammarFault};
pub use pieces::TokenPieces;
use rules::Rules;

/// A grammar that was read and can be followed.
///
/// ```text
/// # The text is what `root` says.
/// root   ::= "Homes: " home (", " home){0,9} "."
/// home   ::= name " in " name
/// name   ::= [A-Z] [a-z]+          # a set, and one or more
/// ```
///
/// Rules are `name ::= ...`, one a line, and go on over lines within `( )` and after `|`; names have letters, digits and
/// `-`. There are literals `"..."`, sets `[a-z]` and `[^a-z]`, `.` for any character, groups, alternatives, and `*`,
/// `+`, `?`, `{2}`, `{2,}`, `{2,5}`. In literals and sets stand `\n \r \t \\ \" \[ \] \-`, `\xHH`, `\uHHHH` and
/// `\UHHHHHHHH`. `#` begins a comment.
///
/// It is stricter than llama.cpp's reader: a rule is there once, sets are not empty, ranges and numbers of repetitions
/// (at most 2,000) do not run backwards, and tokens by name or id (`<...>`) are not known. A grammar has at most 256 KiB,
/// groups 64 deep, and 262,144 elements once its repetitions are written out. None of its rules may begin with itself.
/// A text is followed in up to 16,384 readings at once.
///
/// ```
/// use avp_backend::Grammar;
///
/// assert!("root ::= \"yes\" | \"no\"".parse::<Grammar>().is_ok());
/// let error = "root ::= \"yes\" | no".parse::<Grammar>().unwrap_err();
/// assert!(error.to_string().starts_with("line 1, column 18 of the grammar: the rule `no` is not there"));
/// ```
#[derive(Clone, PartialEq)]
pub struct Grammar(Arc<Rules>);

impl Grammar {
    /// Follows a text from its beginning, in the tokens of a model.
    ///
    /// # Errors
    /// [`GrammarError::TooAmbiguous`] if even its beginning can be read in too many ways.
    pub fn constraint(&self, pieces: Arc<TokenPieces>) -> Result<GrammarConstraint, GrammarError> {
        GrammarConstraint::new(Arc::clone(&self.0), pieces)
    }
}

impl FromStr for Grammar {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self, GrammarError> {
        parse::parse(text).map(|rules| Self(Arc::new(rules)))
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}
