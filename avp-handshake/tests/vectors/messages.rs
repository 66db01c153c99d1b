use avp_handshake::json::Json;
use avp_handshake::{Hello, TextMessage};

use crate::{cases, text};

// spec: handshake 1.1, http 2.3
#[test]
fn hellos_and_text_messages_have_the_sdks_bytes() {
    for case in cases("handshake_json.json") {
        let name = text(&case, "name");
        let wire = match case.get("wire") {
            Some(wire) => wire.as_str().unwrap().to_owned(),
            // What the SDK makes of a lenient input, written the way it writes.
            None => Json::from(&case["result"]).to_text(),
        };
        let input = case.get("input").map_or(wire.as_str(), |input| input.as_str().unwrap());
        let written = if name.starts_with("jsonmessage") {
            TextMessage::from_json(input.as_bytes()).unwrap().to_json()
        } else {
            Hello::from_json(input.as_bytes()).unwrap().to_json()
        };
        assert_eq!(written, wire, "{name}");
        if let Some(hex) = case.get("utf8_hex") {
            assert_eq!(hex::encode(&written), hex.as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn messages_that_say_nothing_are_the_sdks_smallest() {
    let wire = |name: &str| {
        let cases = cases("handshake_json.json");
        let case = cases.iter().find(|case| case["name"] == name).unwrap();
        text(case, "wire").to_owned()
    };
    assert_eq!(Hello::default().to_json(), wire("hello_minimal"));
    assert_eq!(TextMessage::default().to_json(), wire("jsonmessage_default"));
}
