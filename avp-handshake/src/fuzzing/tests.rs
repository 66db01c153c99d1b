//! The bodies over the committed corpus, and as property tests.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

type Body = fn(&[u8]);

/// Every target, by its name in `fuzz/`.
const TARGETS: [(&str, Body); 4] = [
    ("handshake_hello", super::hello),
    ("handshake_json", super::json),
    ("handshake_negotiator", super::negotiator),
    ("handshake_pair", super::pair),
];

#[test]
fn every_input_of_the_corpus_holds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let files = |folder: &str| -> Vec<PathBuf> {
        let folder = fuzz.join(folder);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    let ours = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().starts_with("handshake_");
    for folder in ["fuzz_targets", "corpus"] {
        let there: Vec<PathBuf> = files(folder).into_iter().filter(ours).collect();
        let names = there.iter().map(|path| path.file_stem().unwrap().to_str().unwrap());
        assert!(names.eq(TARGETS.map(|(name, _)| name)), "fuzz/{folder} holds {there:?}");
    }
    for (target, body) in TARGETS {
        let inputs = files(&format!("corpus/{target}"));
        assert!(!inputs.is_empty(), "fuzz/corpus/{target} is empty");
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            assert!(panic::catch_unwind(|| body(&bytes)).is_ok(), "{target} breaks on {}", input.display());
        }
    }
}

proptest! {
    #[test]
    fn messages_and_documents_hold_up_to_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        super::hello(&bytes);
        super::json(&bytes);
    }

    #[test]
    fn messages_and_documents_hold_up_to_nearly_sound_text(
        text in r#"\{("(agent_id|capabilities|identity|avp.rs|v|x)": ?(\{\}|1e5|-0|"\\ud83d\\ude00"|null|\[1, NaN\]|"a"), ?){0,4}"x": 1\}"#
    ) {
        super::hello(text.as_bytes());
        super::json(text.as_bytes());
    }
    #[test]
    fn a_handshake_ends_once_whatever_comes(ops in prop::collection::vec(any::<u8>(), 0..200)) {
        super::negotiator(&ops);
    }

    #[test]
    fn two_sides_agree_unless_disturbed(ops in prop::collection::vec(any::<u8>(), 0..80)) {
        super::pair(&ops);
    }

    #[test]
    fn two_sides_agree_where_frames_only_wait(
        choices in any::<[u8; 6]>(), ops in prop::collection::vec(prop_oneof![0..6_u8, 8..12_u8], 0..40),
    ) {
        super::pair(&[&choices[..], &ops].concat());
    }
}
