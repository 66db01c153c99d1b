//! Files that llama.cpp could not read, each refused by name.

use std::io::Write as _;

use avp_backend_llamacpp::gguf::{GgmlType, GgufError, GgufFault, GgufFile};

use crate::writer::{Put, PutTensor, Writer, open, str_, u32_, u64_};

/// The error of bytes, whose text must be one line that begins with the path and holds `says`.
fn refused(bytes: &[u8], says: &str) -> GgufFault {
    told(open(bytes).unwrap_err(), says)
}

fn told(error: GgufError, says: &str) -> GgufFault {
    let text = error.to_string();
    assert!(text.contains(says), "{text}");
    assert!(text.starts_with(&error.path.display().to_string()), "{text}");
    assert!(text.chars().all(|c| !c.is_control()) && text.len() < 600, "{text}");
    error.fault
}

/// The error of a model whose tensors are changed.
fn refused_tensors(tensors: Vec<PutTensor>, says: &str) -> GgufFault {
    let mut file = Writer::model("qwen2");
    file.tensors = tensors;
    refused(&file.bytes(), says)
}

fn header(tensors: u64, keys: u64) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    u32_(&mut out, 3);
    u64_(&mut out, tensors);
    u64_(&mut out, keys);
    out
}

#[test]
fn a_file_goes_on_for_little_after_its_last_tensor() {
    let mut bytes = Writer::model("qwen2").bytes();
    bytes.resize(bytes.len() + (1 << 20), 0);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    assert!(GgufFile::open(file.path()).is_ok());
    // A sparse tail costs no disk, but llama.cpp asks for all of it.
    file.as_file().set_len(1 << 40).unwrap();
    let fault = GgufFile::open(file.path()).unwrap_err().fault;
    assert!(matches!(fault, GgufFault::Trailing { .. }), "{fault}");
}

#[test]
fn what_is_no_gguf_file_is_named() {
    assert!(matches!(refused(b"PK\x03\x04 and so on", "'PK\\x03\\x04'"), GgufFault::NotGguf { .. }));
    assert!(matches!(refused(b"GG", "magic"), GgufFault::Truncated { .. }));
    assert!(matches!(refused(b"", "magic"), GgufFault::Truncated { .. }));
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(told(GgufFile::open(folder.path()).unwrap_err(), "regular file"), GgufFault::NotAFile));
    let missing = GgufFile::open(folder.path().join("none.gguf")).unwrap_err();
    assert!(matches!(told(missing, "cannot be read"), GgufFault::Io(_)));
}

#[test]
fn big_endian_files_are_named_in_both_forms() {
    assert!(matches!(refused(b"FUGG\x00\x00\x00\x03", "big-endian"), GgufFault::BigEndian));
    assert!(matches!(refused(b"GGUF\x00\x00\x00\x03", "big-endian"), GgufFault::BigEndian));
}

#[test]
fn other_versions_are_named() {
    for version in [0, 1, 4, 0xffff_ffff] {
        let mut file = Writer::model("qwen2");
        file.version = version;
        let fault = refused(&file.bytes(), "versions 2 and 3");
        assert!(matches!(fault, GgufFault::Version { version: v } if v == version));
    }
}

#[test]
fn counts_are_held_against_the_bytes_that_are_there() {
    assert!(matches!(refused(&header(0, 60_000), "the metadata"), GgufFault::Truncated { .. }));
    assert!(matches!(refused(&header(60_000, 0), "the tensor infos"), GgufFault::Truncated { .. }));
    assert!(matches!(refused(&header(0, u64::MAX), "metadata keys"), GgufFault::TooMany { .. }));
    assert!(matches!(refused(&header(65_537, 0), "65537 tensors"), GgufFault::TooMany { .. }));
}

#[test]
fn lengths_are_held_against_the_bytes_that_are_there() {
    let key_of = |len: u64| {
        let mut out = header(0, 1);
        u64_(&mut out, len);
        out.extend([b'k'; 40]);
        out
    };
    assert!(matches!(refused(&key_of(60_000), "a metadata key"), GgufFault::Truncated { .. }));
    assert!(matches!(refused(&key_of(65_536), "65535 is the most"), GgufFault::StringTooLong { .. }));
    assert!(matches!(refused(&key_of(u64::MAX), "65535 is the most"), GgufFault::StringTooLong { .. }));
    assert!(matches!(refused(&key_of(0), "without a name"), GgufFault::EmptyKey));
    let value = |ty: u32, after: &[u64]| {
        let mut out = header(0, 1);
        str_(&mut out, "k");
        u32_(&mut out, ty);
        after.iter().for_each(|&n| u64_(&mut out, n));
        out
    };
    for len in [100, u64::MAX, u64::MAX / 8 + 1, 1 << 61] {
        assert!(matches!(refused(&value(8, &[len]), "the value of 'k'"), GgufFault::Truncated { .. }));
        for ty in [4_u8, 7, 8, 12] {
            let mut out = value(9, &[]);
            u32_(&mut out, ty.into());
            u64_(&mut out, len);
            out.extend([0; 16]);
            assert!(matches!(refused(&out, "the array 'k'"), GgufFault::Truncated { .. }));
        }
    }
}

#[test]
fn every_truncation_of_the_head_is_named() {
    let file = Writer::model("qwen2");
    let (head, bytes) = (file.head(), file.bytes());
    for end in 0..head.len() {
        assert!(matches!(refused(&bytes[..end], "truncated"), GgufFault::Truncated { .. }), "{end}");
    }
    for end in head.len()..bytes.len() {
        assert!(matches!(refused(&bytes[..end], "truncated"), GgufFault::OutOfFile { .. }), "{end}");
    }
}

#[test]
fn more_metadata_than_any_model_has_is_refused_before_it_is_read() {
    let mut out = header(0, 1);
    str_(&mut out, "k");
    u32_(&mut out, 9);
    u32_(&mut out, 4);
    u64_(&mut out, 1 << 28);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &out).unwrap();
    // Sparse: the bytes are there but take no room.
    file.as_file().set_len(2 << 30).unwrap();
    let error = GgufFile::open(file.path()).unwrap_err();
    assert!(matches!(told(error, "bytes of metadata"), GgufFault::HeadTooLarge { .. }));
}

#[test]
fn wrong_metadata_is_named() {
    let with = |key: &str, value: Put| {
        let mut file = Writer::empty();
        file.put(key, value);
        file.bytes()
    };
    let mut twice = Writer::model("qwen2");
    twice.keys.push(twice.keys[0].clone());
    assert!(matches!(
        refused(&twice.bytes(), "'general.architecture' twice"),
        GgufFault::DuplicateKey { .. }
    ));
    assert!(matches!(
        refused(&with("k", Put::Raw(13, vec![0; 8])), "type 13"),
        GgufFault::UnknownValueType { .. }
    ));
    assert!(matches!(
        refused(&with("k", Put::Raw(7, vec![2])), "neither 0 nor 1"),
        GgufFault::NotABool { .. }
    ));
    let bools = [&[7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..], &[1, 3]].concat();
    assert!(matches!(refused(&with("k", Put::Raw(9, bools)), "neither 0 nor 1"), GgufFault::NotABool { .. }));
    let nested = [&9_u32.to_le_bytes()[..], &[0; 8]].concat();
    assert!(matches!(
        refused(&with("k", Put::Raw(9, nested)), "array of arrays"),
        GgufFault::NestedArray { .. }
    ));
    let bytes = [&2_u64.to_le_bytes()[..], &[0xc3, 0x28]].concat();
    assert!(matches!(refused(&with("k", Put::Raw(8, bytes)), "not UTF-8"), GgufFault::NotUtf8 { .. }));
    let escaped = with("line\nbreak\u{1b}[2J", Put::Raw(99, vec![0; 8]));
    assert!(matches!(refused(&escaped, "'line\\nbreak\\u{1b}[2J'"), GgufFault::UnknownValueType { .. }));
}

#[test]
fn an_alignment_that_is_no_power_of_two_is_named() {
    for alignment in [0, 3, 48, u32::MAX] {
        let mut file = Writer::model("qwen2");
        file.put("general.alignment", Put::U32(alignment));
        let says = format!("general.alignment {alignment}");
        assert!(matches!(refused(&file.bytes(), &says), GgufFault::Alignment { .. }));
    }
    let mut file = Writer::model("qwen2");
    file.put("general.alignment", Put::U64(32));
    assert!(matches!(refused(&file.bytes(), "as u64, and it must be u32"), GgufFault::WrongType { .. }));
    let mut file = Writer::model("qwen2");
    file.put("general.alignment", Put::U32(1 << 31));
    assert!(matches!(refused(&file.bytes(), "from byte 2147483648"), GgufFault::OutOfFile { .. }));
}

#[test]
fn wrong_tensors_are_named() {
    let tensor = |dims: &[u64]| PutTensor::new("t", dims, GgmlType::F32);
    let of_type = |ty: u32| PutTensor { ty, ..tensor(&[256]) };
    let named = |name: &str| PutTensor::new(name, &[4], GgmlType::F32);
    let fault = refused_tensors(vec![named("t"), named("t")], "the tensor 't' twice");
    assert!(matches!(fault, GgufFault::DuplicateTensor { .. }));
    assert!(matches!(refused_tensors(vec![named("")], "without a name"), GgufFault::EmptyTensorName));
    let long = refused_tensors(vec![named(&"n".repeat(64))], "63 is the most");
    assert!(matches!(long, GgufFault::StringTooLong { len: 64, .. }));
    let dims = refused_tensors(vec![tensor(&[1; 5])], "5 dimensions");
    assert!(matches!(dims, GgufFault::TooManyDims { .. }));
    for shape in [&[0][..], &[4, 0], &[u64::MAX], &[1 << 32, 1 << 32], &[1 << 62, 2], &[1 << 61, 2, 1, 1]] {
        assert!(
            matches!(refused_tensors(vec![tensor(shape)], "the shape"), GgufFault::BadShape { .. }),
            "{shape:?}"
        );
    }
    assert!(matches!(refused_tensors(vec![of_type(43)], "type 43"), GgufFault::UnknownTensorType { .. }));
    assert!(matches!(refused_tensors(vec![of_type(u32::MAX)], "type"), GgufFault::UnknownTensorType { .. }));
    assert!(matches!(refused_tensors(vec![of_type(31)], "q4_0_4_4"), GgufFault::RemovedTensorType { .. }));
    let row = PutTensor::new("t", &[33, 2], GgmlType::Q8_0);
    let row = refused_tensors(vec![row], "33 elements, no multiple of the 32 of a q8_0 block");
    assert!(matches!(row, GgufFault::RowNotInBlocks { .. }));
}

#[test]
fn tensors_that_do_not_follow_one_another_are_named() {
    let at = |name: &str, offset: u64| PutTensor {
        offset: Some(offset),
        ..PutTensor::new(name, &[16], GgmlType::F32)
    };
    assert!(matches!(
        refused_tensors(vec![at("a", 0), at("b", 65)], "alignment 32"),
        GgufFault::Unaligned { .. }
    ));
    assert!(matches!(refused_tensors(vec![at("a", 0), at("b", 32)], "overlap"), GgufFault::Overlap { .. }));
    assert!(matches!(refused_tensors(vec![at("a", 0), at("b", 0)], "overlap"), GgufFault::Overlap { .. }));
    assert!(matches!(refused_tensors(vec![at("a", 64), at("b", 0)], "gaps"), GgufFault::Gap { .. }));
    let beyond = [128, 1 << 40, u64::MAX - 31];
    for offset in beyond {
        let fault = refused_tensors(vec![at("a", 0), at("b", offset)], "beyond its end");
        assert!(matches!(fault, GgufFault::OutOfFile { .. }), "{offset}");
    }
    let mut longer = Writer::model("qwen2").bytes();
    longer.extend([0; 4096]);
    assert!(open(&longer).is_ok(), "bytes after the last tensor are nobody's");
}
