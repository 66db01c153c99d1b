//! Frames out of bytes that come in any split.

use bytes::Bytes;

use crate::error::DecodeError;
use crate::frame::{Frame, FrameHead};
use crate::header::{Header, to_usize};
use crate::limits::Limits;

/// Decodes a stream of frames incrementally.
///
/// A payload that lies in one piece of input is a view of it; one that comes in several is gathered in a buffer
/// that grows as bytes arrive, so an announced length costs nothing. The first error ends the stream: it is
/// given again for all that follows.
///
/// ```
/// use avp_wire::{EncodeOptions, Frame, FrameDecoder, Limits, Metadata};
///
/// let frame = Frame::new(Metadata::default(), vec![7; 100]);
/// let wire = frame.encode(&EncodeOptions::default()).unwrap().to_vec();
/// let mut decoder = FrameDecoder::new(Limits::default());
/// let mut frames = Vec::new();
/// for piece in wire.chunks(10) {
///     let mut piece = bytes::Bytes::copy_from_slice(piece);
///     while let Some(frame) = decoder.decode(&mut piece).unwrap() {
///         frames.push(frame);
///     }
/// }
/// decoder.finish().unwrap();
/// assert_eq!(frames[0].payload, frame.payload);
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    limits: Limits,
    state: State,
    gathered: Vec<u8>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per stream, and boxing costs an allocation per frame")]
enum State {
    Header,
    Metadata(Header),
    Payload(FrameHead),
    Failed(DecodeError),
}

impl FrameDecoder {
    /// A decoder at the start of a stream. In a stream, metadata beyond the payload is an error under every
    /// profile: there would be no telling where the next frame starts.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Header, gathered: Vec::new() }
    }

    /// Takes from `input` what the current frame needs. Gives the frame once it is whole and `None` once
    /// `input` is used up; call again while it gives frames.
    ///
    /// # Errors
    /// Any [`DecodeError`], and the same one ever after.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame>, DecodeError> {
        self.step(input).inspect_err(|error| {
            self.gathered = Vec::new();
            self.state = State::Failed(error.clone());
        })
    }

    /// The head of the frame whose payload is being waited for, so that it can be judged early.
    #[must_use]
    pub fn head(&self) -> Option<&FrameHead> {
        match &self.state {
            State::Payload(head) => Some(head),
            _ => None,
        }
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// `Truncated` in the middle of a frame; the stream's error if it had one.
    pub fn finish(&self) -> Result<(), DecodeError> {
        let (before, part) = match &self.state {
            State::Header if self.gathered.is_empty() => return Ok(()),
            State::Header => (0, Header::SIZE),
            State::Metadata(header) => (Header::SIZE, to_usize(header.metadata_length)),
            State::Payload(head) => {
                let header = &head.header;
                (Header::SIZE + to_usize(header.metadata_length), to_usize(header.payload_len_on_wire()))
            }
            State::Failed(error) => return Err(error.clone()),
        };
        let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        Err(DecodeError::Truncated {
            needed: count(before.saturating_add(part)),
            got: count(before.saturating_add(self.gathered.len())),
        })
    }

    fn step(&mut self, input: &mut Bytes) -> Result<Option<Frame>, DecodeError> {
        loop {
            match &self.state {
                State::Header => {
                    let Some(bytes) = take(&mut self.gathered, input, Header::SIZE) else { return Ok(None) };
                    let header = Header::decode(&bytes, &self.limits)?;
                    self.state = State::Metadata(header);
                }
                &State::Metadata(header) => {
                    let len = to_usize(header.metadata_length);
                    let Some(bytes) = take(&mut self.gathered, input, len) else { return Ok(None) };
                    self.state = State::Payload(FrameHead::from_parts(header, &bytes, &self.limits)?);
                }
                State::Payload(head) => {
                    let len = to_usize(head.payload_len_on_wire());
                    let Some(bytes) = take(&mut self.gathered, input, len) else { return Ok(None) };
                    let State::Payload(head) = std::mem::replace(&mut self.state, State::Header) else {
                        return Ok(None);
                    };
                    return head.into_frame(bytes, &self.limits).map(Some);
                }
                State::Failed(error) => return Err(error.clone()),
            }
        }
    }
}

/// `len` bytes, as a view where `input` holds them all; else moves `input` to `gathered` and waits for more.
fn take(gathered: &mut Vec<u8>, input: &mut Bytes, len: usize) -> Option<Bytes> {
    if gathered.is_empty() && input.len() >= len {
        return Some(input.split_to(len));
    }
    let wanted = len.saturating_sub(gathered.len()).min(input.len());
    let room = gathered.capacity().saturating_sub(gathered.len());
    if room < wanted {
        // Doubling, but never beyond the announced length.
        let target =
            gathered.capacity().saturating_mul(2).min(len).max(gathered.len().saturating_add(wanted));
        gathered.reserve_exact(target.saturating_sub(gathered.len()));
    }
    gathered.extend_from_slice(&input.split_to(wanted));
    if input.is_empty() {
        // The view is used up: let go of the buffer under it.
        *input = Bytes::new();
    }
    (gathered.len() == len && len > 0).then(|| std::mem::take(gathered).into())
}
