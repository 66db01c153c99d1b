//! Frames with something wrong in them: what a fuzzer does, with the structure of a frame in mind.

use super::random::Random;

const HEADER: usize = 12;

/// Changes `wire`, a sound frame, once to four times.
pub(crate) fn mutate(wire: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.between(1, 4) {
        match random.below(9) {
            0 => bytes_of_payload(wire, random),
            1 => header(wire, random),
            2 => stretch_a_varint(wire, random),
            3 => append_a_field(wire, random),
            4 => copy_within(wire, random),
            5 => cut(wire, random),
            6 => compressed_payload(wire, random),
            _ => any_byte(wire, random),
        }
    }
}

fn below(random: &mut Random, len: usize) -> usize {
    random.below(len.max(1) as u64) as usize
}

fn any_byte(wire: &mut [u8], random: &mut Random) {
    let at = below(random, wire.len());
    let Some(byte) = wire.get_mut(at) else { return };
    *byte = if random.coin() { *byte ^ 1 << random.below(8) } else { random.next() as u8 };
}

fn header(wire: &mut [u8], random: &mut Random) {
    if wire.len() < HEADER {
        return;
    }
    match random.below(3) {
        0 => wire[3] = random.next() as u8 & *random.pick(&[0x07, 0xff]),
        field => {
            let at = if field == 1 { 4 } else { 8 };
            let number = read(wire, at);
            let changed = match random.below(3) {
                0 => number.wrapping_add(random.between(1, 3)),
                1 => number.wrapping_sub(random.between(1, 3)),
                _ => random.number(),
            };
            wire[at..at + 4].copy_from_slice(&changed.to_le_bytes());
        }
    }
}

fn bytes_of_payload(wire: &mut [u8], random: &mut Random) {
    let start = HEADER + read(wire, 8) as usize;
    if let Some(payload) = wire.get_mut(start..) {
        any_byte(payload, random);
    }
}

/// A number written in more bytes than it needs, or one that goes on.
fn stretch_a_varint(wire: &mut Vec<u8>, random: &mut Random) {
    let at = HEADER + below(random, read(wire, 8) as usize);
    if at >= wire.len() || wire[at] >= 0x80 {
        return;
    }
    let more = random.between(1, 11) as usize;
    wire[at] |= 0x80;
    let last = *random.pick(&[0, 0, 1, 0x7f]);
    wire.splice(at + 1..at + 1, std::iter::repeat_n(0x80, more - 1).chain([last]));
    grow_metadata(wire, more);
}

/// One more field: known or not, of any wire type, with any value.
fn append_a_field(wire: &mut Vec<u8>, random: &mut Random) {
    let at = HEADER + read(wire, 8) as usize;
    if at > wire.len() {
        return;
    }
    let (number, kind) =
        (*random.pick(&[0, 1, 5, 7, 8, 9, 10, 11, 13, 14, 15, 16, 100, 3000_u32]), random.below(8) as u32);
    let mut field = varint(u64::from(number << 3 | kind));
    match kind {
        0 => {
            let value =
                if random.coin() { u64::from(random.number()) } else { random.next() >> random.below(64) };
            field.extend(varint(value));
        }
        1 => field.extend(random.bytes(8)),
        2 => {
            let entry = [&[0x0a, 1, b'k'][..], &[0x12, 1, b'v'], &[0x18, 1], &[0x0a, 1, 0xff], &[0x0b, 0x0c]];
            let value: Vec<u8> = match random.below(3) {
                0 => (0..random.below(4)).flat_map(|_| random.pick(&entry).to_vec()).collect(),
                1 => random.text(6).into_bytes(),
                _ => {
                    let len = below(random, 6);
                    random.bytes(len)
                }
            };
            field.extend(varint(value.len() as u64));
            field.extend(value);
        }
        3 => field.extend(varint(u64::from(number << 3 | 4))),
        5 => field.extend(random.bytes(4)),
        _ => {}
    }
    let len = field.len();
    wire.splice(at..at, field);
    grow_metadata(wire, len);
}

/// A run of bytes over another.
fn copy_within(wire: &mut [u8], random: &mut Random) {
    let (from, to) = (below(random, wire.len()), below(random, wire.len()));
    let len = below(random, 9).min(wire.len() - from.max(to));
    wire.copy_within(from..from + len, to);
}

fn cut(wire: &mut Vec<u8>, random: &mut Random) {
    match random.below(3) {
        0 => wire.truncate(below(random, wire.len() + 1)),
        1 => wire.extend(random.bytes(3)),
        _ => {
            let at = below(random, wire.len());
            wire.drain(at..(at + 1 + below(random, 3)).min(wire.len()));
        }
    }
}

/// A zstd frame, a skippable one, or what looks like one, and the flag for it.
fn compressed_payload(wire: &mut Vec<u8>, random: &mut Random) {
    let at = HEADER + read(wire, 8) as usize;
    if at > wire.len() {
        return;
    }
    wire.truncate(at);
    let raw = |size: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, size][..], &[0x11, 0, 0], b"ab"].concat();
    let payload = match random.below(5) {
        0 => [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0].to_vec(),
        1 => [&[0x5f, 0x2a, 0x4d, 0x18, 2, 0, 0, 0][..], b"xy"].concat(),
        2 => raw(random.below(4) as u8),
        3 => [raw(2), raw(2)].concat(),
        _ => {
            let mut frame = raw(2);
            any_byte(&mut frame[4..], random);
            frame
        }
    };
    wire[3] |= 1;
    let total = (at - HEADER + payload.len()) as u32;
    wire.extend(payload);
    wire[4..8].copy_from_slice(&total.to_le_bytes());
}

/// Makes the header's lengths follow.
fn grow_metadata(wire: &mut [u8], by: usize) {
    for at in [4, 8] {
        let grown = read(wire, at).wrapping_add(by as u32);
        wire[at..at + 4].copy_from_slice(&grown.to_le_bytes());
    }
}

fn read(wire: &[u8], at: usize) -> u32 {
    wire.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 & 0x7f | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
