//! What one transfer of a chaos run sends both ways, and how what came is judged.

use std::time::Duration;

use avp_wire::{Compression, EncodeOptions, Frame, FrameHead, Metadata};

use crate::options::Options;
use crate::testing::datagrams::Direction;
use crate::testing::dice::Dice;

/// What the client does beside sending and receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Straight,
    /// Drops and repeats its waiting for the answer.
    CancelReceive,
    /// Drops the connection after the handshake.
    Leave,
    /// Drops the connection and the `send` that is under way.
    LeaveWhileSending(Duration),
    /// Says nothing until the server must have given up.
    Dawdle,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Exact,
    AlteredHead,
    AlteredPayload,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) index: u64,
    seed: u64,
    sizes: [usize; 2],
    encodings: [EncodeOptions; 2],
    pub(super) manner: Manner,
}

impl Job {
    /// The transfer of this number; both ends draw the same. `unruly` is the share of clients that misbehave.
    pub(super) fn of(seed: u64, index: u64, largest: usize, unruly: f64) -> Self {
        let mut dice = Dice::new(seed, &[index, 2]);
        let sizes = [0, 1].map(|_| match dice.below(20) {
            0 => 0,
            1 => largest,
            _ => dice.below_by_magnitude(largest as u64) as usize,
        });
        let encodings = [0, 1].map(|_| EncodeOptions {
            compression: dice.chance(0.4).then_some(Compression::Fast),
            checksum: true,
            align: false,
        });
        let manner = if dice.chance(unruly) {
            match dice.below(8) {
                0..=3 => Manner::CancelReceive,
                4 => Manner::Leave,
                5 | 6 => Manner::LeaveWhileSending(dice.time(Duration::from_millis(20))),
                _ => Manner::Dawdle,
            }
        } else {
            Manner::Straight
        };
        Self { index, seed, sizes, encodings, manner }
    }

    /// By which the server knows the transfer: in the hello, whose checksum covers it.
    pub(super) fn name(&self) -> String {
        format!("transfer-{}", self.index)
    }

    pub(super) fn index_of(name: &str) -> Option<u64> {
        name.strip_prefix("transfer-")?.parse().ok()
    }

    pub(super) fn frame(&self, direction: Direction, session: &str) -> Frame {
        let metadata = Metadata {
            session_id: session.to_owned(),
            source_agent_id: format!("{}-{direction:?}", self.name()),
            ..Metadata::default()
        };
        let payload = content(self.seed ^ self.index << 1 ^ direction as u64, self.sizes[direction as usize]);
        Frame::new(metadata, payload)
    }

    pub(super) fn encoding(&self, direction: Direction) -> &EncodeOptions {
        &self.encodings[direction as usize]
    }

    pub(super) fn judge(&self, frame: &Frame, direction: Direction, session: &str) -> Verdict {
        let expected = self.frame(direction, session);
        if frame.payload != expected.payload {
            return Verdict::AlteredPayload;
        }
        // As it is read off the wire, checksum included.
        let plain = EncodeOptions { compression: None, ..*self.encoding(direction) };
        let encoded = expected.encode(&plain).unwrap();
        let mut head = FrameHead::decode(&encoded.head, &Options::default().limits).unwrap();
        head.metadata.compression =
            self.encoding(direction).compression.map(|_| Compression::NAME.to_owned());
        if frame.metadata == head.metadata { Verdict::Exact } else { Verdict::AlteredHead }
    }

    /// Longest time that the client may take by its deadlines.
    pub(super) fn allowed(&self, options: &Options) -> Duration {
        let frames: Duration = self.sizes.iter().map(|&len| options.limits.frame_deadline(len as u64)).sum();
        let Options { limits, timeouts, .. } = options;
        let waits = timeouts.connect + limits.handshake_timeout + 2 * timeouts.idle + timeouts.close;
        // A second for telling a peer why the handshake failed, one frame deadline for ending the sending side.
        waits + frames + limits.frame_timeout + Duration::from_secs(1)
    }
}

/// Bytes that follow from a seed, every other block of 4 KiB a repetition so that compression finds something.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let block = bytes.len() >> 12;
        let word = if block % 2 == 0 { state } else { seed.wrapping_add(block as u64) };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
