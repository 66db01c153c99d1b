//! What can be wrong with a grammar, or with a text under it.

/// Why a grammar cannot be used, or a text not go on under it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// More text than is read.
    #[error("the grammar has {bytes} bytes, at most {most} are read; shorten it")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most.
        most: usize,
    },
    /// The text is no grammar.
    #[error("line {line}, column {column} of the grammar: {fault}")]
    Text {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        fault: GrammarFault,
    },
    /// There is no rule to begin with.
    #[error("the grammar has no rule `root`, with which every text begins; add `root ::= ...`")]
    NoRoot,
    /// What was written can be read in more ways than are followed.
    #[error(
        "the grammar reads the same text in too many ways at once; let the alternatives of a rule begin differently, and repeat nothing that may be empty"
    )]
    TooAmbiguous,
    /// A token was accepted that may not come next.
    #[error("token {token} is not what the grammar asks for next; mask the logits before a token is chosen")]
    Refused {
        /// The token.
        token: u32,
    },
}

/// What is wrong at a place of a grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarFault {
    /// Something else should stand here.
    #[error("expected {expected}, found {found}")]
    Expected {
        /// What should.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// A backslash before something else than is known.
    #[error(
        r#"unknown escape; known are \n \r \t \\ \" \[ \] \- and \xHH \uHHHH \UHHHHHHHH with hexadecimal digits"#
    )]
    Escape,
    /// An escape that stands for no character.
    #[error("U+{value:04X} is no character; the last is U+10FFFF, and U+D800 to U+DFFF are none")]
    NoCharacter {
        /// The number.
        value: u32,
    },
    /// `[]` or `[^]`.
    #[error("the set of characters is empty; name some, or write `.` for any")]
    EmptySet,
    /// `[z-a]`.
    #[error("the range of characters ends before it begins; swap its ends")]
    ReversedRange,
    /// `*`, `+`, `?` or `{` at the beginning.
    #[error("there is nothing before this to repeat; put it behind a literal, a set, a rule or a group")]
    NothingToRepeat,
    /// A number of repetitions too large.
    #[error("more than {most} repetitions; use a smaller number, or `*` for any")]
    Repetitions {
        /// The most.
        most: usize,
    },
    /// `{5,2}`.
    #[error("at least {min} but at most {max} repetitions; swap the numbers")]
    ReversedRepetitions {
        /// The first number.
        min: usize,
        /// The second.
        max: usize,
    },
    /// `<token>` or `<[id]>`.
    #[error("tokens by name or id are not supported; write the text that they stand for")]
    Token,
    /// A rule that is used but not there.
    #[error("the rule `{name}` is not there; add `{name} ::= ...`, or correct its name")]
    Undefined {
        /// Its name.
        name: String,
    },
    /// A rule that is there twice.
    #[error("the rule `{name}` is there already; join both with `|`, or rename one")]
    Twice {
        /// Its name.
        name: String,
    },
    /// A rule that begins with itself.
    #[error(
        "the rule `{name}` begins with itself (left recursion); have it begin with something else, or repeat with `*`"
    )]
    LeftRecursion {
        /// Its name.
        name: String,
    },
    /// Groups in groups.
    #[error("groups are nested more than {most} deep; give the inner ones rules of their own")]
    TooDeep {
        /// The most.
        most: usize,
    },
    /// More than is kept once repetitions are written out.
    #[error(
        "the grammar is too large from here on, with its repetitions written out; repeat less, or use `*`"
    )]
    TooLarge,
}

/// Text of a grammar in a message: escaped, and not too long.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push_str("...");
    }
    out
}
