//! Why a text is not taken as JSON.

/// Why a text is not JSON, or not JSON that is read here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The text is not UTF-8.
    #[error("byte {at}: not UTF-8")]
    Utf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
    /// Something else was expected here.
    #[error("byte {at}: expected {expected}")]
    Expected {
        /// Byte offset in the text.
        at: usize,
        /// What would have been right.
        expected: &'static str,
    },
    /// An escape of half a surrogate pair, which no UTF-8 string can hold.
    #[error("byte {at}: half a surrogate pair")]
    LoneSurrogate {
        /// Byte offset of the escape.
        at: usize,
    },
    /// Nested too deep.
    #[error("nested deeper than {limit} levels")]
    TooDeep {
        /// Levels allowed.
        limit: usize,
    },
    /// Too many values.
    #[error("more than {limit} values")]
    TooManyValues {
        /// Values allowed.
        limit: usize,
    },
    /// An integer with too many digits.
    #[error("byte {at}: an integer of more than {limit} digits")]
    IntegerTooLong {
        /// Byte offset of the integer.
        at: usize,
        /// Digits allowed.
        limit: usize,
    },
}
