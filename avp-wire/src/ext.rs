//! The registry of `extra` keys (docs/spec/extensions.md).

use core::fmt;
use core::str::FromStr;

/// Spaces, so that tensor data starts 64-byte aligned from the frame's start. The encoder owns it.
pub const PAD: &str = "avp.pad";
/// What a frame is on native transports: a [`FrameKind`].
pub const KIND: &str = "avp.kind";
/// Id of the transfer that a frame belongs to.
pub const TRANSFER: &str = "avp.transfer";
/// How many further streams the sender has opened, decimal; in notes of transports with several streams alone.
pub const STREAMS: &str = "avp.streams";
/// Which layers and tokens a slab holds: a [`SlabId`].
pub const SLAB: &str = "avp.slab";
/// BLAKE3 of the payload before compression, 64 hex digits.
pub const BLAKE3: &str = "avp.blake3";
/// Fingerprint of the source checkpoint, 64 hex digits.
pub const WEIGHTS: &str = "avp.weights";
/// Chain hash of the token blocks that precede a slab.
pub const PREFIX: &str = "avp.prefix";
/// Name of the KV codec.
pub const CODEC: &str = "avp.codec";
/// What the model read to make a context, as a JSON string in ASCII. In files only.
pub const TEXT: &str = "avp.text";
/// Tokens that a model had read when it had the hidden states of a file, decimal.
pub const TOKENS: &str = "avp.tokens";
/// How probably it ends its turn after its most probable next token, decimal, 0 to 1. In files only.
pub const ENDING: &str = "avp.ending";
/// Token of a descriptor that was passed beside the frame, of memory that holds the planes of its KV cache, decimal; over shared
/// memory alone.
pub const MEMORY: &str = "avp.memory";
/// What is asked behind a context, as a text message in ASCII; over HTTP alone.
pub const QUESTION: &str = "avp.question";
/// What a client shows to be let in; in its hello alone.
pub const TOKEN: &str = "avp.token";
/// Name of an [`ErrorCode`](crate::ErrorCode), in the `extra` map of a
/// [`TransmitResponse`](crate::TransmitResponse) that says no.
pub const CODE: &str = "avp.code";

/// Hash of the source model's configuration; an SDK receiver takes a context only if it is its own.
pub const MODEL_HASH: &str = "model_hash";
/// Family of the source model.
pub const MODEL_FAMILY: &str = "model_family";
/// Latent steps behind a context, decimal.
pub const NUM_STEPS: &str = "num_steps";

/// What a frame is on native transports (`avp.kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FrameKind {
    /// A hello as JSON.
    Hello,
    /// A text message as JSON.
    Text,
    /// An answer to a transfer.
    Ack,
    /// What slabs follow.
    Manifest,
    /// A run of layers by a run of tokens of a KV cache.
    Slab,
    /// Token probabilities in the receiver's vocabulary.
    Distribution,
    /// Tokens of the receiver's vocabulary as hashes, or a request for them.
    Vocabulary,
}

impl FrameKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Hello,
        Self::Text,
        Self::Ack,
        Self::Manifest,
        Self::Slab,
        Self::Distribution,
        Self::Vocabulary,
    ];

    /// The value of `avp.kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Text => "text",
            Self::Ack => "ack",
            Self::Manifest => "manifest",
            Self::Slab => "slab",
            Self::Distribution => "distribution",
            Self::Vocabulary => "vocabulary",
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FrameKind {
    type Err = ExtError;

    fn from_str(value: &str) -> Result<Self, ExtError> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == value).ok_or(ExtError { key: KIND })
    }
}

/// Which layers and tokens of a context a slab holds (`avp.slab`): `L<first>+<count>,T<first>+<count>`.
///
/// ```
/// use avp_wire::ext::SlabId;
///
/// let slab: SlabId = "L0+4,T128+64".parse().unwrap();
/// assert_eq!((slab.first_layer, slab.layers, slab.first_token, slab.tokens), (0, 4, 128, 64));
/// assert_eq!(slab.to_string(), "L0+4,T128+64");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlabId {
    /// First layer.
    pub first_layer: u32,
    /// Layers, at least 1.
    pub layers: u32,
    /// First token.
    pub first_token: u32,
    /// Tokens, at least 1.
    pub tokens: u32,
}

impl fmt::Display for SlabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first_layer, layers, first_token, tokens } = self;
        write!(f, "L{first_layer}+{layers},T{first_token}+{tokens}")
    }
}

impl FromStr for SlabId {
    type Err = ExtError;

    fn from_str(value: &str) -> Result<Self, ExtError> {
        let parse = || {
            let (layers, tokens) = value.split_once(',')?;
            let (first_layer, layers) = run(layers.strip_prefix('L')?)?;
            let (first_token, tokens) = run(tokens.strip_prefix('T')?)?;
            Some(Self { first_layer, layers, first_token, tokens })
        };
        parse().ok_or(ExtError { key: SLAB })
    }
}

/// `<first>+<count>`: a run that is not empty and whose end fits in 32 bits.
fn run(text: &str) -> Option<(u32, u32)> {
    let (first, count) = text.split_once('+')?;
    let (first, count) = (decimal(first)?, decimal(count)?);
    (count > 0 && first.checked_add(count).is_some()).then_some((first, count))
}

/// A number in the one way to write it: digits only, no leading zero.
fn decimal(text: &str) -> Option<u32> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

/// A 256-bit hash as 64 lowercase hex digits (`avp.blake3`, `avp.weights`).
///
/// # Errors
/// `ExtError` naming `key`.
pub fn parse_hash(key: &'static str, value: &str) -> Result<[u8; 32], ExtError> {
    let mut hash = [0; 32];
    let (pairs, rest) = value.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return Err(ExtError { key });
    }
    for (byte, &[high, low]) in hash.iter_mut().zip(pairs) {
        let digits = hex_digit(high).zip(hex_digit(low)).ok_or(ExtError { key })?;
        *byte = digits.0 << 4 | digits.1;
    }
    Ok(hash)
}

/// A decimal number, digits alone (`avp.tokens`).
///
/// # Errors
/// `ExtError` naming `key`.
pub fn parse_count(key: &'static str, value: &str) -> Result<u64, ExtError> {
    is_digits(value).then(|| value.parse().ok()).flatten().ok_or(ExtError { key })
}

/// A decimal number from 0 to 1, without sign or exponent (`avp.ending`).
///
/// # Errors
/// `ExtError` naming `key`.
pub fn parse_probability(key: &'static str, value: &str) -> Result<f32, ExtError> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let number = (is_digits(whole) && is_digits(fraction)).then(|| value.parse().ok()).flatten();
    number.filter(|number| (0.0..=1.0).contains(number)).ok_or(ExtError { key })
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A registered key whose value breaks its syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of {key} is not what the registry of extensions says")]
pub struct ExtError {
    /// The key.
    pub key: &'static str,
}

impl ExtError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> crate::ErrorCode {
        crate::ErrorCode::InvalidExtension
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: extensions 1.1
    #[test]
    fn kinds_are_read_as_written() {
        for kind in FrameKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("Hello".parse::<FrameKind>(), Err(ExtError { key: KIND }));
    }

    // spec: extensions 1.1
    #[test]
    fn slab_ids_have_one_spelling() {
        for good in ["L0+1,T0+1", "L27+1,T4294967294+1"] {
            assert_eq!(good.parse::<SlabId>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "L0+1",
            "L0+1,T0",
            "T0+1,L0+1",
            "L0+0,T0+1",
            "L0+1,T0+0",
            "L00+1,T0+1",
            "L+0+1,T0+1",
            "L0+1,T0+1 ",
            "L0+1,T4294967295+1",
            "L-1+1,T0+1",
            "L0+1,T0+1,T0+1",
            "L4294967296+1,T0+1",
            "L+1,T0+1",
        ] {
            assert_eq!(bad.parse::<SlabId>(), Err(ExtError { key: SLAB }), "{bad}");
        }
    }

    // spec: extensions 1.1
    #[test]
    fn numbers_are_digits_and_probabilities_at_most_1() {
        assert_eq!(parse_count(TOKENS, "0"), Ok(0));
        assert_eq!(parse_count(TOKENS, "131072"), Ok(131_072));
        for bad in ["", "+1", "-1", "1.0", " 1", "1e3", "0x1", "18446744073709551616", "\u{661}"] {
            assert_eq!(parse_count(TOKENS, bad), Err(ExtError { key: TOKENS }), "{bad}");
        }
        for good in [0.0_f32, 1.0, 0.25, f32::MIN_POSITIVE, 0.1] {
            assert_eq!(parse_probability(ENDING, &good.to_string()), Ok(good));
        }
        for bad in
            ["", ".", ".5", "1.", "1.5", "2", "-0", "+0.5", "1e-3", "NaN", "inf", "0,5", " 0.5", "0.5.0"]
        {
            assert_eq!(parse_probability(ENDING, bad), Err(ExtError { key: ENDING }), "{bad}");
        }
    }

    // spec: extensions 1.1
    #[test]
    fn hashes_are_64_lowercase_digits() {
        let hash = parse_hash(WEIGHTS, &"0f".repeat(32)).unwrap();
        assert_eq!(hash, [0x0f; 32]);
        for bad in ["", "0", &"0F".repeat(32), &"0f".repeat(31), &"0g".repeat(32), &"0f".repeat(33)] {
            assert_eq!(parse_hash(WEIGHTS, bad), Err(ExtError { key: WEIGHTS }));
        }
    }
}
