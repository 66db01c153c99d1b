//! Messages of any bytes.

use crate::json::Json;
use crate::{Capabilities, Hello, MAX_HELLO_BYTES, ModelIdentity, TextMessage};

/// Any bytes give a message or an error, and a message that was read reads back as it is written.
///
/// # Panics
/// Where that does not hold.
pub fn hello(bytes: &[u8]) {
    let _ = TextMessage::from_json(bytes);
    let _ = ModelIdentity::from_config_json(bytes);
    let Ok(hello) = Hello::from_json(bytes) else { return };
    let _ = Capabilities::from_hello(&hello);
    let text = hello.to_json();
    if text.len() <= MAX_HELLO_BYTES {
        assert_eq!(Hello::from_json(text.as_bytes()), Ok(hello));
    }
}

/// Any bytes give a document or an error, and canonical text stays as it is.
///
/// # Panics
/// Where that does not hold.
pub fn json(bytes: &[u8]) {
    let Ok(document) = Json::parse(bytes) else { return };
    let text = document.to_canonical();
    assert_eq!(Json::parse(text.as_bytes()).map(|again| again.to_canonical()), Ok(text));
}
