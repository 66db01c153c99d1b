//! Fingerprints of checkpoints on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use avp_handshake::fingerprint::{Fingerprint, FingerprintCache, FingerprintError};

type Tensor<'a> = (&'a str, &'a str, &'a [u64], Vec<u8>);

fn write(dir: &Path, file: &str, tensors: &[Tensor<'_>]) -> PathBuf {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{}]}}"#,
            data.len()
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = u64::try_from(header.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    let path = dir.join(file);
    fs::write(&path, bytes).unwrap();
    path
}

fn a() -> Tensor<'static> {
    ("a.weight", "BF16", &[2, 2], (0..8).collect())
}

/// More than one chunk, and not a whole number of them.
fn b() -> Tensor<'static> {
    ("b", "F32", &[2_500_001], (0..10_000_004u32).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect())
}

/// The definition, written down a second time.
fn defined(tensors: &[Tensor<'_>]) -> String {
    let mut all = b"avp.weights.v1\0".to_vec();
    for (name, dtype, shape, bytes) in tensors {
        all.extend_from_slice(&u32::try_from(name.len()).unwrap().to_le_bytes());
        all.extend_from_slice(name.as_bytes());
        all.extend_from_slice(&u32::try_from(dtype.len()).unwrap().to_le_bytes());
        all.extend_from_slice(dtype.as_bytes());
        all.extend_from_slice(&u32::try_from(shape.len()).unwrap().to_le_bytes());
        shape.iter().for_each(|dim| all.extend_from_slice(&dim.to_le_bytes()));
        all.extend_from_slice(&u64::try_from(bytes.len()).unwrap().to_le_bytes());
        all.extend_from_slice(bytes);
    }
    blake3::hash(&all).to_hex().to_string()
}

// spec: handshake 5.1
#[test]
fn the_fingerprint_is_the_documented_hash_however_the_tensors_are_laid_out() {
    let dir = tempfile::tempdir().unwrap();
    let expected = defined(&[a(), b()]);
    let one = write(dir.path(), "one.safetensors", &[b(), a()]);
    assert_eq!(Fingerprint::of_safetensors(&[one]).unwrap().to_string(), expected);
    let shards = [write(dir.path(), "2.safetensors", &[b()]), write(dir.path(), "1.safetensors", &[a()])];
    let mut last = (0, 0);
    let found = Fingerprint::of_safetensors_with(&shards, |done, total| last = (done, total)).unwrap();
    assert_eq!(found.to_string(), expected);
    assert_eq!(last, (10_000_012, 10_000_012));
}

#[test]
fn one_bit_a_name_a_dtype_or_a_shape_makes_another_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let of = |tensor: Tensor<'_>| {
        Fingerprint::of_safetensors(&[write(dir.path(), "t.safetensors", &[tensor])]).unwrap()
    };
    let mut flipped = a();
    flipped.3[7] ^= 1;
    let others = [
        flipped,
        ("a.weighu", "BF16", &[2, 2], a().3),
        ("a.weight", "F16", &[2, 2], a().3),
        ("a.weight", "BF16", &[4], a().3),
    ];
    for other in others {
        assert_ne!(of(a()), of(other));
    }
}

// spec: handshake 5.6
#[test]
fn a_tensor_in_two_shards_is_an_error_that_names_both() {
    let dir = tempfile::tempdir().unwrap();
    let shards = [write(dir.path(), "1.safetensors", &[a()]), write(dir.path(), "2.safetensors", &[a()])];
    let error = Fingerprint::of_safetensors(&shards).unwrap_err().to_string();
    assert!(error.contains("a.weight") && error.contains("1.safe") && error.contains("2.safe"), "{error}");
}

#[test]
fn missing_and_damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.safetensors");
    assert!(Fingerprint::of_safetensors(&[missing]).unwrap_err().to_string().contains("missing.safetensors"));
    let cut = write(dir.path(), "cut.safetensors", &[a()]);
    let bytes = fs::read(&cut).unwrap();
    for len in 0..bytes.len() {
        fs::write(&cut, &bytes[..len]).unwrap();
        let error = Fingerprint::of_safetensors(&[&cut]).unwrap_err();
        assert!(matches!(error, FingerprintError::Header { .. }), "{len}: {error}");
        assert!(error.to_string().contains("cut.safetensors"));
    }
    assert!(matches!(Fingerprint::of_safetensors::<PathBuf>(&[]), Err(FingerprintError::NoFiles)));
}

/// Whether the cache answers without reading the tensors.
fn is_cached(cache: &FingerprintCache, file: &Path) -> bool {
    let mut reads = 0;
    cache.of_safetensors_with(&[file], |_, _| reads += 1).unwrap();
    reads == 0
}

#[test]
fn a_checkpoint_is_read_again_only_when_size_or_time_changed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FingerprintCache::new(dir.path().join("cache"));
    let file = write(dir.path(), "m.safetensors", &[a()]);
    let first = cache.of_safetensors(&[&file]).unwrap();
    assert!(is_cached(&cache, &file));
    assert_eq!(cache.of_safetensors(&[&file]).unwrap(), first);

    let mut changed = a();
    changed.3[0] ^= 1;
    write(dir.path(), "m.safetensors", &[changed]);
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    assert_ne!(cache.of_safetensors(&[&file]).unwrap(), first);
    assert!(is_cached(&cache, &file));
    let entries = fs::read_dir(dir.path().join("cache")).unwrap().count();
    assert_eq!(entries, 1, "the old entry is replaced and nothing is left beside it");
}

#[test]
fn a_damaged_cache_is_made_again_and_an_impossible_one_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FingerprintCache::new(dir.path().join("cache"));
    let file = write(dir.path(), "m.safetensors", &[a()]);
    let expected = cache.of_safetensors(&[&file]).unwrap();
    let entry = fs::read_dir(dir.path().join("cache")).unwrap().next().unwrap().unwrap().path();
    let sound = fs::read_to_string(&entry).unwrap();
    let lying = sound.replace(&expected.to_string(), "xyz");
    for damaged in ["", "{", "[]", "{\"weights\": 5}", &sound[..sound.len() / 2], &lying] {
        fs::write(&entry, damaged).unwrap();
        assert!(!is_cached(&cache, &file), "{damaged}");
        assert_eq!(cache.of_safetensors(&[&file]).unwrap(), expected);
        assert!(is_cached(&cache, &file));
    }
    let impossible = FingerprintCache::new(file.join("below a file"));
    assert_eq!(impossible.of_safetensors(&[&file]).unwrap(), expected);
}
