//! Frames out of bytes that come in any split (docs/spec/frame.md, section 8).

use alloc::vec::Vec;
use core::mem;

use bytes::Bytes;

use crate::error::DecodeError;
use crate::frame::{Frame, FrameHead};
use crate::header::{Header, to_usize};
use crate::limits::Limits;
use crate::payload_buffer::PayloadBuffer;
#[cfg(feature = "std")]
use crate::pool::BufferPool;

/// Decodes a stream of frames incrementally.
///
/// A payload that lies in one piece of input is a view of it; one that comes in several is gathered in an aligned
/// buffer that grows as bytes arrive, so an announced length costs no more than a first step. The first error ends the stream: it is
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
///
/// A frame can be judged by its head before its payload is taken:
///
/// ```
/// # use avp_wire::{EncodeOptions, Frame, FrameDecoder, Limits, Metadata};
/// # let wire = |name: &str| {
/// #     let metadata = Metadata { model_id: name.into(), ..Metadata::default() };
/// #     Frame::new(metadata, vec![7; 100]).encode(&EncodeOptions::default()).unwrap().to_vec()
/// # };
/// let mut input = [wire("unwanted"), wire("wanted")].concat().into();
/// let mut decoder = FrameDecoder::new(Limits::default());
/// let head = decoder.decode_head(&mut input).unwrap().unwrap();
/// if head.metadata.model_id != "wanted" {
///     decoder.discard();
/// }
/// assert_eq!(decoder.decode(&mut input).unwrap().unwrap().metadata.model_id, "wanted");
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    settings: Settings,
    state: State,
    /// Of the header or the metadata, what came before the rest of it.
    gathered: Vec<u8>,
}

/// When a [`FrameDecoder`] holds payloads against their checksums. [`Limits::verify_checksum`] says whether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum ChecksumCheck {
    /// Sums each piece as it arrives, while it is in cache. A compressed payload is summed when it is unpacked.
    #[default]
    AsBytesArrive,
    /// Not at all: the caller does it, with [`Frame::verify_checksum`].
    Deferred,
}

#[derive(Debug)]
struct Settings {
    limits: Limits,
    check: ChecksumCheck,
    #[cfg(feature = "std")]
    pool: Option<BufferPool>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per stream, and boxing costs an allocation per frame")]
enum State {
    Header,
    Metadata(Header),
    /// With what is there of a payload that does not come in one piece.
    Payload(FrameHead, Option<PayloadBuffer>),
    Discarding {
        header: Header,
        left: usize,
    },
    Failed(DecodeError),
}

impl FrameDecoder {
    /// A decoder at the start of a stream. In a stream, metadata beyond the payload is an error under every
    /// profile: there would be no telling where the next frame starts.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let settings = Settings {
            limits,
            check: ChecksumCheck::default(),
            #[cfg(feature = "std")]
            pool: None,
        };
        Self { settings, state: State::Header, gathered: Vec::new() }
    }

    /// Gathers payloads in buffers of `pool`.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn with_pool(mut self, pool: BufferPool) -> Self {
        self.settings.pool = Some(pool);
        self
    }

    /// Chooses when checksums are verified.
    #[must_use]
    pub fn with_checksum(mut self, check: ChecksumCheck) -> Self {
        self.settings.check = check;
        self
    }

    /// Takes from `input` what the current frame needs. Gives the frame once it is whole and `None` once
    /// `input` is used up; call again while it gives frames.
    ///
    /// # Errors
    /// Any [`DecodeError`], and the same one ever after.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame>, DecodeError> {
        if self.decode_head(input)?.is_none() {
            return Ok(None);
        }
        let frame = self.read_payload(input);
        self.keep_failure(frame)
    }

    /// As [`decode`](Self::decode), but stops before the payload and gives the frame's head, again and again until
    /// `decode` takes the payload or [`discard`](Self::discard) drops it.
    ///
    /// # Errors
    /// Those of [`Header::decode`] and [`FrameHead::from_parts`], and the same one ever after.
    pub fn decode_head(&mut self, input: &mut Bytes) -> Result<Option<&FrameHead>, DecodeError> {
        let read = self.read_head(input);
        self.keep_failure(read)?;
        Ok(self.head())
    }

    /// The head of the frame whose payload is being waited for.
    #[must_use]
    pub fn head(&self) -> Option<&FrameHead> {
        match &self.state {
            State::Payload(head, _) => Some(head),
            _ => None,
        }
    }

    /// Drops the frame whose head was given: its payload passes by, neither kept nor summed, and the next frame
    /// follows. Without such a frame it does nothing.
    pub fn discard(&mut self) {
        if let State::Payload(head, buffer) = &self.state {
            let there = buffer.as_ref().map_or(0, PayloadBuffer::filled);
            let left = to_usize(head.payload_len_on_wire()).saturating_sub(there);
            self.state = State::Discarding { header: head.header, left };
        }
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    /// `Truncated` in the middle of a frame; the stream's error if it had one.
    pub fn finish(&self) -> Result<(), DecodeError> {
        let gathered = to_u64(self.gathered.len());
        let (needed, got) = match &self.state {
            State::Header if self.gathered.is_empty() => return Ok(()),
            State::Discarding { left: 0, .. } => return Ok(()),
            State::Failed(error) => return Err(error.clone()),
            State::Header => (to_u64(Header::SIZE), gathered),
            State::Metadata(header) => {
                let before = to_u64(Header::SIZE);
                (before + u64::from(header.metadata_length), before + gathered)
            }
            State::Payload(head, buffer) => {
                let left = buffer
                    .as_ref()
                    .map_or_else(|| u64::from(head.payload_len_on_wire()), |buffer| to_u64(buffer.left()));
                if left == 0 {
                    return Ok(());
                }
                (head.header.frame_len(), head.header.frame_len() - left)
            }
            State::Discarding { header, left } => (header.frame_len(), header.frame_len() - to_u64(*left)),
        };
        Err(DecodeError::Truncated { needed, got })
    }

    fn keep_failure<T>(&mut self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.inspect_err(|error| {
            self.gathered = Vec::new();
            self.state = State::Failed(error.clone());
        })
    }

    /// Goes on until a payload is waited for or `input` is used up.
    fn read_head(&mut self, input: &mut Bytes) -> Result<(), DecodeError> {
        loop {
            match &mut self.state {
                State::Header => {
                    let Some(bytes) = take(&mut self.gathered, input, Header::SIZE) else { return Ok(()) };
                    self.state = State::Metadata(Header::decode(&bytes, &self.settings.limits)?);
                }
                &mut State::Metadata(header) => {
                    let len = to_usize(header.metadata_length);
                    let Some(bytes) = take(&mut self.gathered, input, len) else { return Ok(()) };
                    let head = FrameHead::from_parts(header, &bytes, &self.settings.limits)?;
                    self.state = State::Payload(head, None);
                }
                State::Payload(..) => return Ok(()),
                State::Discarding { left, .. } => {
                    let passing = input.split_to((*left).min(input.len()));
                    *left -= passing.len();
                    if *left > 0 {
                        return Ok(());
                    }
                    self.state = State::Header;
                }
                State::Failed(error) => return Err(error.clone()),
            }
        }
    }

    /// The frame, once its payload is there as a whole.
    fn read_payload(&mut self, input: &mut Bytes) -> Result<Option<Frame>, DecodeError> {
        let State::Payload(head, buffer) = &mut self.state else { return Ok(None) };
        let len = to_usize(head.payload_len_on_wire());
        if input.is_empty() && len > 0 {
            // Nothing is taken before there is something to keep, and what comes next may be all of it.
            return Ok(None);
        }
        if buffer.is_some() || input.len() < len {
            let buffer = buffer.get_or_insert_with(|| self.settings.gather(head));
            let piece = input.split_to(buffer.left().min(input.len()));
            buffer.put(&piece);
            if buffer.left() > 0 {
                // The view is used up: let go of the buffer under it.
                *input = Bytes::new();
                return Ok(None);
            }
        }
        let State::Payload(head, buffer) = mem::replace(&mut self.state, State::Header) else {
            return Ok(None);
        };
        let checksum = buffer.as_ref().and_then(PayloadBuffer::checksum);
        let payload = buffer.map_or_else(|| input.split_to(len), PayloadBuffer::finish);
        match checksum {
            Some(checksum) => head.into_summed(payload, checksum, &self.settings.limits),
            None => self.settings.join(head, payload),
        }
        .map(Some)
    }
}

impl Settings {
    fn gather(&self, head: &FrameHead) -> PayloadBuffer {
        #[cfg(feature = "std")]
        let pool = self.pool.as_ref();
        #[cfg(feature = "std")]
        let buffer = pool.map_or_else(|| PayloadBuffer::new(head), |pool| PayloadBuffer::pooled(head, pool));
        #[cfg(not(feature = "std"))]
        let buffer = PayloadBuffer::new(head);
        let sums = self.check == ChecksumCheck::AsBytesArrive && head.sums_on_arrival(&self.limits);
        if sums { buffer.summing() } else { buffer }
    }

    fn join(&self, head: FrameHead, payload: Bytes) -> Result<Frame, DecodeError> {
        match self.check {
            ChecksumCheck::AsBytesArrive => head.into_frame(payload, &self.limits),
            ChecksumCheck::Deferred => head.into_unverified(payload, &self.limits),
        }
    }
}

/// `len` bytes of header or metadata, as a view where `input` holds them all; else moves `input` to `gathered` and
/// waits for more.
fn take(gathered: &mut Vec<u8>, input: &mut Bytes, len: usize) -> Option<Bytes> {
    if gathered.is_empty() && input.len() >= len {
        return Some(input.split_to(len));
    }
    let wanted = len.saturating_sub(gathered.len()).min(input.len());
    gathered.extend_from_slice(&input.split_to(wanted));
    if input.is_empty() {
        // The view is used up: let go of the buffer under it.
        *input = Bytes::new();
    }
    (gathered.len() == len && len > 0).then(|| mem::take(gathered).into())
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
