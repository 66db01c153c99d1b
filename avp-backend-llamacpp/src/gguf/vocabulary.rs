//! The tokenizer's vocabulary, as the Hugging Face tokenizer that it was converted from has it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::array::StrArray;
use super::error::{GgufError, GgufFault};
use super::file::GgufFile;
use super::value::ValueType;
use crate::shown::shown;

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what no other token can say.
    Unknown,
    /// Not text: the end of a turn, for example.
    Control,
    /// Added after the tokenizer was trained.
    UserDefined,
    /// Never comes up; the padding of a conversion is of this kind.
    Unused,
    /// One byte.
    Byte,
    /// Nothing is said.
    Undefined,
}

impl TokenKind {
    fn of(number: i32) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Undefined,
        }
    }
}

/// The tokens of a file: of a byte-level BPE (`gpt2`) or SentencePiece (`llama`) tokenizer.
///
/// Strings are as the file has them, which for both is as `tokenizer.json` has them: bytes as letters, `▁` for a space. A
/// conversion adds `[PAD...]` tokens up to the model's vocabulary size; [`Self::iter`], and with it [`Self::hash`], leaves them
/// out, so that the hash is that of the tokenizer the model came with. Where a conversion rewrote an added token (`▁` to a
/// space), the hash differs and the peers meet under a lower rule.
#[derive(Debug)]
pub struct Vocabulary<'a> {
    model: &'a str,
    pre: Option<&'a str>,
    tokens: &'a StrArray,
    kinds: Vec<TokenKind>,
}

impl<'a> Vocabulary<'a> {
    /// Kind of tokenizer: `gpt2` or `llama`.
    #[must_use]
    pub fn model(&self) -> &'a str {
        self.model
    }

    /// How text is split before it is merged, by llama.cpp's name: `qwen2`, `llama-bpe`.
    #[must_use]
    pub fn pre_tokenizer(&self) -> Option<&'a str> {
        self.pre
    }

    /// Number of ids, padding included: the logits of a token have as many.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.tokens.len()).unwrap_or(u32::MAX)
    }

    /// Whether it has no tokens, which no vocabulary that was read has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The string of an id, padding included.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<&'a str> {
        self.tokens.get(usize::try_from(id).ok()?)
    }

    /// The kind of a token. Without `token_type` in the file all are [`TokenKind::Normal`].
    #[must_use]
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.token(id)?;
        Some(self.kinds.get(usize::try_from(id).ok()?).copied().unwrap_or(TokenKind::Normal))
    }

    /// Whether a conversion added this token to fill the vocabulary up.
    #[must_use]
    pub fn is_padding(&self, id: u32) -> bool {
        let number = self.token(id).and_then(|token| token.strip_prefix("[PAD")?.strip_suffix(']'));
        let Some(number) = number else { return false };
        match self.kind(id) {
            // SentencePiece conversions count their padding from 1.
            Some(TokenKind::Unused) => !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()),
            // Conversions of 2023 and 2024 made padding user-defined, always under its own id.
            Some(TokenKind::UserDefined) => number == id.to_string(),
            _ => false,
        }
    }

    /// Every token of the tokenizer with its id, by id, without padding and empty strings.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, u32)> {
        let all = (0..self.len()).filter_map(|id| Some((self.token(id)?, id)));
        all.filter(|&(token, id)| !token.is_empty() && !self.is_padding(id))
    }

    /// Every token with its id, as [`Self::iter`] has them.
    #[must_use]
    pub fn to_map(&self) -> HashMap<String, u32> {
        self.iter().map(|(token, id)| (token.to_owned(), id)).collect()
    }

    /// `tokenizer_hash` of the hello (docs/spec/handshake.md, section 2).
    #[must_use]
    pub fn hash(&self) -> String {
        avp_handshake::tokenizer_hash(self.iter())
    }

    pub(super) fn of(file: &'a GgufFile) -> Result<Self, GgufError> {
        let model = file.get_str("tokenizer.ggml.model")?;
        if !matches!(model, "gpt2" | "llama") {
            return Err(file.error(GgufFault::Tokenizer { model: shown(model) }));
        }
        let pre = file.find_str("tokenizer.ggml.pre")?;
        let tokens = file.get_str_array(TOKENS)?;
        if tokens.is_empty() {
            return Err(file.bad_value(TOKENS, "an empty array", "at least one token"));
        }
        check_merges(file, model, pre)?;
        check_scores(file, tokens.len())?;
        check_distinct(file, tokens)?;
        let kinds = file.find_i32_array(KINDS)?;
        if let Some(kinds) = &kinds {
            check_length(file, KINDS, kinds.len(), tokens.len())?;
        }
        let kinds = kinds.unwrap_or_default().into_iter().map(TokenKind::of).collect();
        let vocabulary = Self { model, pre, tokens, kinds };
        vocabulary.check_bytes(file)?;
        vocabulary.check_ends(file)?;
        Ok(vocabulary)
    }
}

/// What llama.cpp ends the process over when it reads or writes text.
impl Vocabulary<'_> {
    /// SentencePiece writes what no token says byte by byte, so that there is a token for each; and each of these says which.
    fn check_bytes(&self, file: &GgufFile) -> Result<(), GgufError> {
        if self.model != "llama" {
            return Ok(());
        }
        let names: HashSet<&str> = self.tokens.iter().collect();
        let is_there = |byte: &u8| {
            let plain = char::from(*byte);
            names.contains(format!("<0x{byte:02X}>").as_str())
                || (plain.is_ascii() && names.contains(&*plain.encode_utf8(&mut [0; 4])))
        };
        if let Some(byte) = (0..=u8::MAX).find(|byte| !is_there(byte)) {
            return Err(file.error(GgufFault::MissingByte { byte }));
        }
        let mut bytes = (0..self.len()).filter(|&id| self.kind(id) == Some(TokenKind::Byte));
        let no_byte = |id: &u32| self.token(*id).and_then(|token| as_read(token).get(3..5)).is_none();
        match bytes.find(no_byte) {
            Some(id) => {
                let token = format!("'{}' as a byte", self.token(id).unwrap_or_default());
                Err(file.bad_value(TOKENS, token, "a byte as '<0x0A>'"))
            }
            None => Ok(()),
        }
    }

    /// The tokens that are put before and after every text are in the vocabulary. llama.cpp's own ids for them go up to 11.
    fn check_ends(&self, file: &GgufFile) -> Result<(), GgufError> {
        for name in ["bos", "eos"] {
            let adds = file.find_bool(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(false);
            let id = format!("tokenizer.ggml.{name}_token_id");
            if adds && self.len() <= 11 {
                file.get_u32(&id)?;
            }
        }
        Ok(())
    }
}

fn check_merges(file: &GgufFile, model: &str, pre: Option<&str>) -> Result<(), GgufError> {
    let has_none = model != "gpt2" || pre == Some("kimi-k2");
    if has_none && file.value(MERGES).is_none() {
        return Ok(());
    }
    file.get_str_array(MERGES).map(|_| ())
}

fn check_scores(file: &GgufFile, tokens: usize) -> Result<(), GgufError> {
    let Some(scores) = file.find_array(SCORES)? else { return Ok(()) };
    if !matches!(scores.element_type(), ValueType::F32 | ValueType::I32) {
        let got = format!("an array of {}", scores.element_type());
        return Err(file.bad_value(SCORES, got, "an array of f32"));
    }
    check_length(file, SCORES, scores.len(), tokens)
}

fn check_length(file: &GgufFile, key: &str, len: usize, tokens: usize) -> Result<(), GgufError> {
    if len >= tokens {
        return Ok(());
    }
    Err(file.bad_value(
        key,
        format!("an array of {len}"),
        format!("an entry for each of the {tokens} tokens"),
    ))
}

/// llama.cpp aborts where two ids have one string; it gives empty ones a name of its own.
fn check_distinct(file: &GgufFile, tokens: &StrArray) -> Result<(), GgufError> {
    let mut seen: HashMap<Cow<'_, str>, u32> = HashMap::with_capacity(tokens.len());
    for (token, id) in tokens.iter().zip(0_u32..) {
        let read = as_read(token);
        let name = if read.is_empty() { Cow::Owned(format!("[EMPTY_{id}]")) } else { Cow::Borrowed(read) };
        if let Some(first) = seen.insert(name, id) {
            return Err(file.error(GgufFault::DuplicateToken { token: shown(token), first, second: id }));
        }
    }
    Ok(())
}

/// A token as llama.cpp reads it, to the first NUL.
fn as_read(token: &str) -> &str {
    token.split('\0').next().unwrap_or_default()
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
