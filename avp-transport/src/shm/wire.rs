//! The bytes on the sockets (docs/spec/shm.md): greetings, records between frames, words about payloads.

use super::fault::ShmFault;
use super::options::ShmMode;

/// Most segments of one side that are not retired.
pub(super) const MAX_SEGMENTS: usize = 64;
/// Longest payload that may come through the socket.
pub(super) const MAX_INLINE: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"AVP-SHM\n";
const VERSION: u16 = 1;

/// What either side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// What a connector would do, or what the listener has chosen.
    pub(super) mode: ShmMode,
    /// Why the listener closes the connection, as the number of an error; 0 where it does not.
    pub(super) refusal: u16,
    /// Bytes of the peer's memory that this side maps.
    pub(super) peer_arena: u64,
}

impl Greeting {
    pub(super) const SIZE: usize = 24;

    pub(super) fn encode(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mode = u16::from(self.mode == ShmMode::Sealed);
        let fields = MAGIC
            .into_iter()
            .chain(VERSION.to_le_bytes())
            .chain(mode.to_le_bytes())
            .chain(self.refusal.to_le_bytes())
            .chain([0; 2])
            .chain(self.peer_arena.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, ShmFault> {
        let mut fields = Fields(bytes);
        if fields.take() != MAGIC || u16::from_le_bytes(fields.take()) != VERSION {
            return Err(ShmFault::NotAvp);
        }
        let mode = match u16::from_le_bytes(fields.take()) {
            0 => ShmMode::Pooled,
            1 => ShmMode::Sealed,
            _ => return Err(ShmFault::Malformed),
        };
        let refusal = u16::from_le_bytes(fields.take());
        if fields.take() != [0; 2] {
            return Err(ShmFault::Malformed);
        }
        Ok(Self { mode, refusal, peer_arena: u64::from_le_bytes(fields.take()) })
    }
}

/// What stands between frames, or before the head of one. Begins with `S`, a frame begins with `A`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A segment, whose descriptor comes with the record.
    Segment { id: u32, size: u64 },
    /// The head of a frame follows, its payload lies here.
    Payload { segment: u32, offset: u64, token: u64 },
    /// The segment is used no more.
    Retire { id: u32 },
    /// A descriptor that a later frame names by its token comes with the record.
    Descriptor { token: u64 },
}

impl Record {
    pub(super) const SIZE: usize = 24;
    pub(super) const FIRST: u8 = b'S';

    pub(super) fn encode(self) -> [u8; Self::SIZE] {
        let (kind, id, first, second) = match self {
            Self::Segment { id, size } => (b'G', id, size, 0),
            Self::Payload { segment, offset, token } => (b'P', segment, offset, token),
            Self::Retire { id } => (b'R', id, 0, 0),
            Self::Descriptor { token } => (b'D', 0, 0, token),
        };
        let mut bytes = [0; Self::SIZE];
        let fields = [Self::FIRST, kind, 0, 0]
            .into_iter()
            .chain(id.to_le_bytes())
            .chain(first.to_le_bytes())
            .chain(second.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, ShmFault> {
        let mut fields = Fields(bytes);
        let kind: [u8; 4] = fields.take();
        let id = u32::from_le_bytes(fields.take());
        let first = u64::from_le_bytes(fields.take());
        let second = u64::from_le_bytes(fields.take());
        match (&kind, first, second) {
            (b"SG\0\0", size, 0) => Ok(Self::Segment { id, size }),
            (b"SP\0\0", offset, token) if token <= Word::MAX_TOKEN => {
                Ok(Self::Payload { segment: id, offset, token })
            }
            (b"SR\0\0", 0, 0) => Ok(Self::Retire { id }),
            (b"SD\0\0", 0, token) if id == 0 && token <= Word::MAX_TOKEN => Ok(Self::Descriptor { token }),
            _ => Err(ShmFault::Malformed),
        }
    }
}

/// What a receiver says about payloads, by the token that their record gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The payload was taken and is in use.
    Taken(u64),
    /// It is not used any more, or never was.
    Released(u64),
    /// All payloads not taken yet, and all that still come, are dropped unseen.
    Discarding,
}

impl Word {
    pub(super) const SIZE: usize = 8;
    pub(super) const MAX_TOKEN: u64 = u64::MAX >> 2;
    const RELEASED: u64 = 1 << 63;

    pub(super) fn encode(self) -> [u8; Self::SIZE] {
        let word = match self {
            Self::Taken(token) => token,
            Self::Released(token) => token | Self::RELEASED,
            Self::Discarding => u64::MAX,
        };
        word.to_le_bytes()
    }

    pub(super) fn decode(bytes: [u8; Self::SIZE]) -> Self {
        match u64::from_le_bytes(bytes) {
            u64::MAX => Self::Discarding,
            word if word & Self::RELEASED != 0 => Self::Released(word & !Self::RELEASED),
            word => Self::Taken(word),
        }
    }
}

/// Fixed fields from the front of bytes that are long enough; zeros where they are not.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: shm 2.1
    #[test]
    fn a_greeting_is_24_bytes_of_fixed_fields() {
        let greeting = Greeting { mode: ShmMode::Sealed, refusal: 0x0203, peer_arena: 0x0405 };
        let bytes = greeting.encode();
        assert_eq!(bytes, *b"AVP-SHM\n\x01\0\x01\0\x03\x02\0\0\x05\x04\0\0\0\0\0\0");
        assert_eq!(Greeting::decode(&bytes), Ok(greeting));
        for (at, fault) in [
            (0, ShmFault::NotAvp),
            (8, ShmFault::NotAvp),
            (10, ShmFault::Malformed),
            (14, ShmFault::Malformed),
        ] {
            let mut bad = bytes;
            bad[at] ^= 0x80;
            assert_eq!(Greeting::decode(&bad), Err(fault), "at {at}");
        }
    }

    // spec: shm 4.1
    #[test]
    fn records_are_24_bytes_and_nothing_else_is_one() {
        for (record, bytes) in [
            (Record::Segment { id: 1, size: 2 }, b"SG\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            (
                Record::Payload { segment: 1, offset: 2, token: 3 },
                b"SP\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0",
            ),
            (Record::Descriptor { token: 3 }, b"SD\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"),
            (Record::Retire { id: 1 }, b"SR\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ] {
            assert_eq!(record.encode(), *bytes);
            assert_eq!(Record::decode(bytes), Ok(record));
            for at in [0, 1, 2, 3] {
                let mut bad = *bytes;
                bad[at] ^= 0x40;
                assert_eq!(Record::decode(&bad), Err(ShmFault::Malformed), "at {at}");
            }
        }
        let mut token = Record::Payload { segment: 0, offset: 0, token: Word::MAX_TOKEN }.encode();
        assert!(Record::decode(&token).is_ok());
        token[23] = 0x40;
        assert_eq!(Record::decode(&token), Err(ShmFault::Malformed));
    }

    // spec: shm 6.1
    #[test]
    fn words_are_a_token_and_a_bit() {
        for word in [Word::Taken(5), Word::Released(5), Word::Taken(Word::MAX_TOKEN), Word::Discarding] {
            assert_eq!(Word::decode(word.encode()), word);
        }
        assert_eq!(Word::Taken(5).encode(), [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Word::Released(5).encode(), [5, 0, 0, 0, 0, 0, 0, 0x80]);
        assert_eq!(Word::Discarding.encode(), [0xff; 8]);
    }
}
