//! Metadata takes memory as the documentation of `Metadata::decode` says, also at its worst.

use avp_wire::{DecodeError, Limits, Metadata};

use crate::{KIB, MIB, full_metadata, measure};

#[test]
fn up_to_three_extra_entries_take_at_most_16_allocations() {
    for entries in 0..=3 {
        let metadata = full_metadata(entries);
        let bytes = metadata.to_vec();
        let (info, decoded) = measure(|| Metadata::decode(&bytes, &Limits::default()).unwrap());
        assert_eq!(decoded, metadata);
        assert!(info.count_total <= 16, "{entries} entries: {info:?}");
    }
}

/// A field of wire type 2.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut len = content.len();
    while len > 0x7f {
        bytes.push(len as u8 | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend_from_slice(content);
    bytes
}

fn entry(key: &[u8], value: &[u8]) -> Vec<u8> {
    field(14, &[field(1, key), field(2, value)].concat())
}

/// An entry in the fewest bytes: its key alone.
fn bare_entry(key: &[u8]) -> Vec<u8> {
    field(14, &field(1, key))
}

/// `parts` again and again, up to `len` bytes.
fn fill(len: u64, parts: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let len = usize::try_from(len).unwrap();
    let mut bytes = Vec::with_capacity(len);
    for part in parts.take_while(|part| !part.is_empty()) {
        if bytes.len() + part.len() > len {
            break;
        }
        bytes.extend_from_slice(&part);
    }
    bytes
}

/// Different keys of three ASCII characters, one for each `n` below 2^21.
fn short_key(n: u32) -> [u8; 3] {
    [(n >> 14) as u8 & 0x7f, (n >> 7) as u8 & 0x7f, n as u8 & 0x7f]
}

fn worst_under_default_limits() -> Vec<(&'static str, Vec<u8>)> {
    let len = 64 * KIB;
    let text = |bytes: u64| vec![b'a'; usize::try_from(bytes).unwrap()];
    let repeat = |part: Vec<u8>| fill(len, std::iter::repeat(part));
    vec![
        ("one text", field(1, &text(len - 4))),
        ("texts of one byte", repeat(field(2, b"a"))),
        ("texts of half the metadata", repeat(field(13, &text(len / 2 - 4)))),
        ("packed shapes", repeat(field(9, &[1; 8]))),
        ("one packed shape of the longest kind", field(9, &text(len - 4))),
        ("unpacked shape", fill(len, std::iter::repeat(vec![9 << 3, 1]))),
        ("64 entries that fill it", fill(len, (0..64).map(|n| entry(&[b'a' + n; 256], &text(760))))),
        (
            "64 entries and a text",
            [(0..64).flat_map(|n| bare_entry(&[n])).collect(), field(4, &text(len - 400))].concat(),
        ),
        ("an entry too many", fill(len, (0..).map(|n| bare_entry(&short_key(n))))),
        ("the same entry again", repeat(entry(b"key", &text(4096)))),
        ("the same short entry again", repeat(bare_entry(b"k"))),
        ("key and value again within an entry", field(14, &fill(len - 4, std::iter::repeat(field(1, b"k"))))),
        ("a text that is not UTF-8 at its end", field(1, &[&text(len - 5)[..], b"\xff"].concat())),
        ("groups in groups", vec![0xa3; 64 << 10]),
        ("unknown fields", repeat(field(12, &text(100)))),
    ]
}

#[test]
fn any_metadata_under_default_limits_takes_at_most_its_length_and_8_kib() {
    let limits = Limits::default();
    let mut most_beyond = 0;
    for (what, bytes) in worst_under_default_limits() {
        assert!(bytes.len() <= 64 << 10, "{what}");
        let (info, decoded) = measure(|| Metadata::decode(&bytes, &limits));
        assert!(info.bytes_total <= bytes.len() as u64 + 8 * KIB, "{what}: {info:?}");
        assert!(!matches!(decoded, Err(DecodeError::MetadataTooLarge { .. })), "{what}: {decoded:?}");
        most_beyond = most_beyond.max(info.bytes_total.saturating_sub(bytes.len() as u64));
    }
    // The inputs come near the bound: it is not one that anything would keep.
    assert!(most_beyond > 4 * KIB, "{most_beyond}");
}

/// Keys in an order that leaves the map's nodes as empty as they can be. The sixth of each run falls in the middle of
/// a node that is full: five keys stay behind, and no later key falls among them.
fn emptiest_order(count: u32) -> impl Iterator<Item = u32> {
    (0..count / 6 * 6).step_by(6).flat_map(|start| (start + 1..start + 6).chain([start]))
}

#[test]
fn metadata_without_limits_takes_at_most_24_times_its_length() {
    let limits = Limits::lenient();
    let entries =
        |keys: &mut dyn Iterator<Item = u32>| fill(2 * MIB, keys.map(|n| bare_entry(&short_key(n))));
    let cases = [
        ("one text", field(1, &vec![b'a'; (16 << 20) - 5])),
        ("the longest packed shape", field(9, &vec![1; (16 << 20) - 5])),
        ("a packed shape that has just grown", field(9, &vec![1; (8 << 20) + 1])),
        ("unpacked shape", fill(2 * MIB, std::iter::repeat(vec![9 << 3, 1]))),
        ("entries upwards", entries(&mut (0..1 << 20))),
        ("entries downwards", entries(&mut (0..1 << 20).rev())),
        ("entries in the emptiest nodes", entries(&mut emptiest_order(1 << 20))),
        ("the shortest entries", emptiest_order(128).flat_map(|n| bare_entry(&[n as u8])).collect()),
    ];
    let mut highest = 0.0_f64;
    for (what, bytes) in cases {
        let (info, metadata) = measure(|| Metadata::decode(&bytes, &limits).unwrap());
        let len = bytes.len() as u64;
        assert!(info.bytes_total <= 24 * len + 2 * KIB, "{what}, {len} bytes: {info:?}");
        assert_ne!(metadata, Metadata::default(), "{what}");
        highest = highest.max(info.bytes_total as f64 / len as f64);
    }
    assert!(highest > 20.0, "{highest}");
}
