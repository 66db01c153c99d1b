//! Files are tried by another process, whose end is an error here, and once as long as they stay as they are.
#![cfg(all(feature = "native", unix))]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use avp_backend_llamacpp::{LlamaCppBackend, LoadOptions, Probe};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/gguf/avp-demo-qwen2-s-q8_0.gguf");

/// Another process that does what `script` says with the file `$1`.
fn probe(script: &str, cache_dir: Option<&Path>) -> Probe {
    let mut probe = Probe::new("/bin/sh", ["-c", script, "probe"]);
    probe.cache_dir = cache_dir.map(Path::to_owned);
    probe
}

fn load(file: &Path, probe: Probe) -> Result<(), String> {
    let mut options = LoadOptions::default();
    options.probe = Some(probe);
    LlamaCppBackend::load(file, &options).map(drop).map_err(|error| error.to_string())
}

fn copy(folder: &Path) -> PathBuf {
    let file = folder.join("model.gguf");
    fs::copy(DEMO, &file).unwrap();
    file
}

#[test]
fn what_the_other_process_says_and_how_it_ends_is_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    let path = file.display();
    let refused = |script: &str| load(&file, probe(script, Some(folder.path()))).unwrap_err();
    let said = refused("echo before >&2; echo \"error: $1: has no weights; convert it again\" >&2; exit 1");
    assert_eq!(said, format!("{path}: has no weights; convert it again"));
    let ended = refused("echo '/a/folder/ggml.c:1: GGML_ASSERT(x) failed' >&2; kill -ABRT $$");
    assert!(ended.contains("ends llama.cpp (signal 6: ggml.c:1: GGML_ASSERT(x) failed)"), "{ended}");
    let silent = refused("exit 3");
    assert!(silent.contains("refused when it is tried") && silent.contains('3'), "{silent}");
    let much = refused("yes 'much to say' | head -c 1200000 >&2; echo last words >&2; exit 1");
    assert_eq!(much, format!("{path}: last words"));
    // Nobody waits for those that it leaves behind.
    let left = refused("sleep 30 & echo gone >&2; exit 1");
    assert_eq!(left, format!("{path}: gone"));
    let mut slow = probe("exec sleep 30", None);
    slow.patience = Duration::from_secs(1);
    assert_eq!(load(&file, slow).unwrap_err(), format!("{path}: is not loaded within 1 s; convert it again"));
    let mut none = probe("", None);
    none.program = folder.path().join("no program");
    assert!(load(&file, none).unwrap_err().contains("no program"));
}

#[test]
fn a_file_is_tried_once_until_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    let cache = folder.path().join("cache");
    let tries = folder.path().join("tries");
    let count = format!("echo >> {}", tries.display());
    let tried = |file: &Path| {
        load(file, probe(&count, Some(&cache))).unwrap();
        fs::read(&tries).unwrap().len()
    };
    assert_eq!([tried(&file), tried(&file)], [1, 1]);
    // As long, and as old by what copying tools set back.
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    assert_eq!([tried(&file), tried(&file)], [2, 2]);
    let other = folder.path().join("other.gguf");
    fs::rename(&file, &other).unwrap();
    fs::copy(&other, &file).unwrap();
    assert_eq!([tried(&file), tried(&other)], [3, 4]);
    // A failure is not kept.
    fs::remove_dir_all(&cache).unwrap();
    assert!(load(&file, probe("exit 1", Some(&cache))).is_err());
    assert_eq!(tried(&file), 5);
}

#[test]
fn a_file_that_changes_while_it_is_tried_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    for change in ["printf more >> \"$1\"", "cp \"$1\" \"$1.new\"; mv \"$1.new\" \"$1\"", "rm \"$1\""] {
        copy(folder.path());
        let error = load(&file, probe(change, Some(folder.path()))).unwrap_err();
        assert!(error.contains("changed while it was tried"), "{change}: {error}");
    }
}

#[test]
fn without_a_folder_for_marks_a_file_is_tried_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = copy(folder.path());
    let tries = folder.path().join("tries");
    let count = format!("echo >> {}", tries.display());
    // A file stands where the folder should be; folders that cannot be written fail alike.
    let in_the_way = folder.path().join("in the way");
    fs::write(&in_the_way, b"").unwrap();
    for cache in [None, Some(in_the_way.as_path())] {
        for _ in 0..2 {
            load(&file, probe(&count, cache)).unwrap();
        }
    }
    assert_eq!(fs::read(&tries).unwrap().len(), 4);
}
