//! negative.json: what the reference peer rejects, or should have. `errors` says what is answered here, `python_only`
//! why a case is no message. A case without either is held against what the reference peer said.

use std::collections::BTreeMap;

use avp_wire::{ErrorCode, Frame, KvPayload, Limits, PayloadType};
use serde::Deserialize;

use crate::load::{Blob, cases};

#[derive(Deserialize)]
struct Case {
    name: String,
    error: Raised,
    message: Option<Blob>,
    errors: Option<Errors>,
    python_only: Option<String>,
    section: Option<String>,
}

/// What the reference peer raised; the type is `NO ERROR` where it did not.
#[derive(Deserialize)]
struct Raised {
    r#type: String,
}

/// A code, or one by profile.
#[derive(Deserialize)]
#[serde(untagged)]
enum Errors {
    Always(String),
    ByProfile(BTreeMap<String, String>),
}

impl Case {
    /// Cases of this kind that are messages.
    fn of(kind: &str) -> Vec<Self> {
        let is_message = |case: &Case| case.name.starts_with(kind) && case.message.is_some();
        cases::<Self>("negative.json").into_iter().filter(is_message).collect()
    }

    fn bytes(&self) -> bytes::Bytes {
        self.message.as_ref().and_then(Blob::bytes).expect("a message")
    }

    fn assert_answer(&self, profile: &str, got: Option<ErrorCode>) {
        let expected = match &self.errors {
            Some(Errors::Always(code)) => Some(code.as_str()),
            Some(Errors::ByProfile(codes)) => codes.get(profile).map(String::as_str),
            None if self.section.is_some() => None,
            // Without a word on it: rejected where the reference peer rejects.
            None => {
                let rejected = self.error.r#type != "NO ERROR";
                return assert_eq!(got.is_some(), rejected, "{} {profile}", self.name);
            }
        };
        assert_eq!(got.map(ErrorCode::as_str), expected, "{} {profile}", self.name);
    }
}

fn profiles() -> [(&'static str, Limits); 3] {
    [("strict", Limits::strict()), ("default", Limits::default()), ("lenient", Limits::lenient())]
}

// spec: frame 2.1, frame 2.2, frame 3.5, frame 3.6, frame 3.9
#[test]
fn what_the_reference_peer_rejects_is_rejected_by_code() {
    let cases = Case::of("decode/");
    assert!(cases.len() >= 10);
    for case in cases {
        for (profile, limits) in profiles() {
            // The reference peer's errors are those of the lenient profile.
            if case.errors.is_some() || case.section.is_some() || profile == "lenient" {
                let got = Frame::decode(case.bytes(), &limits).err();
                case.assert_answer(profile, got.map(|error| error.code()));
            }
        }
    }
}

// spec: kv 1.1, kv 2.2
#[test]
fn kv_payloads_that_lie_are_rejected_by_code() {
    for case in Case::of("kv/") {
        case.assert_answer("default", KvPayload::parse(case.bytes()).err().map(|error| error.code()));
    }
}

// spec: kv 2.4
#[test]
fn a_hidden_state_is_never_read_as_a_kv_cache() {
    let mut seen = 0;
    for case in Case::of("ctx/") {
        let frame = Frame::decode(case.bytes(), &Limits::default()).unwrap();
        if frame.metadata.payload_type != PayloadType::KvCache {
            assert_eq!(frame.kv().unwrap_err().code(), ErrorCode::NotKvCache, "{}", case.name);
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

#[test]
fn every_case_is_tested_or_says_why_not() {
    const OTHER_CRATES: [&str; 4] = ["hello/", "hash/", "identity/", "proj/"];
    for case in cases::<Case>("negative.json") {
        let of_others = OTHER_CRATES.iter().any(|kind| case.name.starts_with(kind));
        let not_annotated = case.section.is_none();
        let tested = case.message.is_some() || of_others || not_annotated;
        assert!(tested || case.python_only.is_some(), "{} is neither tested nor explained", case.name);
    }
}
