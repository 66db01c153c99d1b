//! strict.json: where the default limits reject what the reference peer lets through, and frames of our own.

use avp_wire::{Frame, Limits};
use serde::Deserialize;

use crate::load::{Blob, cases};

#[derive(Deserialize)]
struct Case {
    name: String,
    section: String,
    message: Blob,
    /// What each profile says: `ok` or an error code.
    strict: String,
    default: String,
    lenient: String,
}

#[test]
fn every_profile_answers_as_the_specification_says() {
    for case in cases::<Case>("strict.json") {
        let message = case.message.bytes().unwrap();
        for (limits, expected) in [
            (Limits::strict(), &case.strict),
            (Limits::default(), &case.default),
            (Limits::lenient(), &case.lenient),
        ] {
            let got = Frame::decode(message.clone(), &limits);
            let got = got.map_or_else(|error| error.code().as_str(), |_| "ok");
            assert_eq!(got, expected, "{} ({}) {:?}", case.name, case.section, limits.profile);
        }
    }
}
