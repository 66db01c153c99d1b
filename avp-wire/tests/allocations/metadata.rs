//! Metadata takes memory as the documentation of `Metadata::decode` says, also at its worst.

use avp_wire::{Limits, Metadata};

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
    for part in parts {
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

/// Metadata of about 64 KiB: what it is made of, and whether it is taken.
fn worst_under_default_limits() -> Vec<(&'static str, Vec<u8>, bool)> {
    let len = 64 * KIB;
    let text = |bytes: u64| vec![b'a'; usize::try_from(bytes).unwrap()];
    let repeat = |part: Vec<u8>| fill(len, std::iter::repeat(part));
    let entries_that_fill_it = fill(len, (0..64).map(|n| entry(&[b' ' + n; 256], &text(756))));
    let short_entries: Vec<u8> = (0..64).flat_map(|n| bare_entry(&[n])).collect();
    let short_entries_and_text = [short_entries, field(4, &text(len - 324))].concat();
    let keys_in_an_entry = field(14, &fill(len - 4, std::iter::repeat(field(1, b"k"))));
    vec![
        ("one text", field(1, &text(len - 4)), true),
        ("texts of one byte", repeat(field(2, b"a")), true),
        ("texts of half of it", repeat(field(13, &text(len / 2 - 4))), true),
        ("packed shapes", repeat(field(9, &[1; 8])), false),
        ("one packed shape", field(9, &text(len - 4)), false),
        ("an unpacked shape", repeat(vec![9 << 3, 1]), false),
        ("64 entries", entries_that_fill_it, true),
        ("64 short entries and a text", short_entries_and_text, true),
        ("an entry too many", fill(len, (0..).map(|n| bare_entry(&short_key(n)))), false),
        ("the same entry again and again", repeat(entry(b"key", &text(4070))), true),
        ("the same short entry again and again", repeat(bare_entry(b"k")), true),
        ("an entry with many keys", keys_in_an_entry, true),
        ("a text that ends in no UTF-8", field(1, &[&text(len - 5)[..], b"\xff"].concat()), false),
        ("groups in groups", repeat(vec![12 << 3 | 3]), false),
        ("unknown fields", repeat(field(12, &text(100))), true),
    ]
}

#[test]
fn any_metadata_under_default_limits_takes_at_most_its_length_and_8_kib() {
    let limits = Limits::default();
    let mut most_beyond = 0;
    for (what, bytes, taken) in worst_under_default_limits() {
        assert!((63 << 10..=64 << 10).contains(&bytes.len()), "{what}: {} bytes", bytes.len());
        let (info, decoded) = measure(|| Metadata::decode(&bytes, &limits));
        assert!(info.bytes_total <= bytes.len() as u64 + 8 * KIB, "{what}: {info:?}");
        assert_eq!(decoded.is_ok(), taken, "{what}: {decoded:?}");
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
