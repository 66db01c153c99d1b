//! Streams of frames, split anywhere.

use alloc::vec::Vec;

use bytes::Bytes;

use super::limits;
use crate::header::{len_u64, to_usize};
use crate::{BufferPool, ChecksumCheck, DecodeError, Frame, FrameDecoder, FrameHead, Header, Limits};

/// Zeros behind the stream, so that a frame can announce a payload that is long enough for a pool.
const TAIL: usize = 40_000;

/// A stream gives the frames, and the end, that decoding one message after the other gives, however it is split. The
/// first two bytes say how it is split and read.
pub fn splits(data: &[u8]) {
    let Some((&[seed, control], stream)) = data.split_first_chunk() else { return };
    let presets = [Limits::default(), Limits::strict(), Limits::lenient(), Limits::trusted()];
    let preset = presets.into_iter().cycle().nth(usize::from(control & 3)).unwrap_or_default();
    let reading = Reading {
        limits: limits(preset),
        checksum: if control & 4 == 0 { ChecksumCheck::AsBytesArrive } else { ChecksumCheck::Deferred },
        pooled: control & 8 != 0,
        judging: control & 16 != 0,
    };
    let long = control & 32 != 0;
    let mut stream = stream.to_vec();
    stream.resize(stream.len() + if long { TAIL } else { 0 }, 0);
    let expected = reading.one_by_one(&stream);
    assert_eq!(reading.of_pieces([&*stream]), expected);
    assert_eq!(reading.of_pieces(pieces(&stream, seed, long)), expected);
}

fn pieces(mut rest: &[u8], seed: u8, long: bool) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed);
    core::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = usize::try_from(state >> if long { 19 } else { 27 }).unwrap_or_default();
        let (piece, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        let more = !rest.is_empty();
        rest = after;
        more.then_some(piece)
    })
}

/// How a stream is read.
struct Reading {
    limits: Limits,
    checksum: ChecksumCheck,
    pooled: bool,
    /// Whether heads are judged and some frames dropped.
    judging: bool,
}

type Read = (Vec<Frame>, Result<(), DecodeError>);

impl Reading {
    fn drops(&self, head: &FrameHead) -> bool {
        self.judging && head.payload_len_on_wire() % 3 == 1
    }

    /// What the stream holds, without [`FrameDecoder`].
    fn one_by_one(&self, stream: &[u8]) -> Read {
        let (mut frames, mut rest) = (Vec::new(), stream);
        loop {
            match self.first(rest) {
                Ok(None) => return (frames, Ok(())),
                Ok(Some((frame, len))) => {
                    frames.extend(frame);
                    rest = rest.get(len..).unwrap_or_default();
                }
                Err(error) => return (frames, Err(error)),
            }
        }
    }

    /// The first frame, unless it is dropped, and its bytes on the wire.
    fn first(&self, stream: &[u8]) -> Result<Option<(Option<Frame>, usize)>, DecodeError> {
        if stream.is_empty() {
            return Ok(None);
        }
        let header = Header::decode(stream, &self.limits)?;
        let head = FrameHead::decode(stream, &self.limits)?;
        let (needed, got) = (header.frame_len(), len_u64(stream));
        let len = Header::SIZE.saturating_add(to_usize(header.payload_length));
        let message = stream.get(..len).ok_or(DecodeError::Truncated { needed, got })?;
        if self.drops(&head) {
            return Ok(Some((None, len)));
        }
        let payload = message.get(len.saturating_sub(to_usize(head.payload_len_on_wire()))..);
        let payload = Bytes::copy_from_slice(payload.unwrap_or_default());
        let frame = match self.checksum {
            ChecksumCheck::AsBytesArrive => Frame::decode(Bytes::copy_from_slice(message), &self.limits)?,
            ChecksumCheck::Deferred => head.into_unverified(payload, &self.limits)?,
        };
        Ok(Some((Some(frame), len)))
    }

    fn of_pieces<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let mut decoder = FrameDecoder::new(self.limits.clone()).with_checksum(self.checksum);
        if self.pooled {
            decoder = decoder.with_pool(BufferPool::new(1 << 20));
        }
        let (mut frames, mut begun) = (Vec::new(), false);
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            if let Err(error) = self.take(&mut decoder, &mut piece, &mut frames, &mut begun) {
                assert_eq!(decoder.decode(&mut piece), Err(error.clone()), "an error did not stay");
                assert_eq!(decoder.finish(), Err(error.clone()));
                return (frames, Err(error));
            }
            assert!(piece.is_empty(), "input was left over");
        }
        (frames, decoder.finish())
    }

    /// Takes one piece of input. Some frames are dropped at once, others with a part of their payload there: then
    /// `begun` is set.
    fn take(
        &self,
        decoder: &mut FrameDecoder,
        piece: &mut Bytes,
        frames: &mut Vec<Frame>,
        begun: &mut bool,
    ) -> Result<(), DecodeError> {
        loop {
            let Some(head) = decoder.decode_head(piece)? else { return Ok(()) };
            let len = to_usize(head.payload_len_on_wire());
            if self.drops(head) {
                *begun = !*begun && len % 2 == 1 && piece.len() < len;
                if !*begun {
                    decoder.discard();
                    assert_eq!(decoder.head(), None);
                    continue;
                }
            }
            match decoder.decode(piece)? {
                Some(frame) => frames.push(frame),
                None => return Ok(()),
            }
        }
    }
}
