//! messages, decode_lenient, negative: whole frames.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::Source;
use crate::case::Case;
use crate::generate::bytes_of;

/// messages: encode the input, to these bytes or to what decodes alike; then decode the SDK's message.
pub(super) fn encoded(source: &Source<'_>) -> Result<Vec<Case>> {
    let input = source.field("input")?;
    let exact = source.field("byte_exact_expected")?.as_bool().context("byte_exact_expected")?;
    let compression = match input["compression"].as_str() {
        Some("NONE") => Value::Null,
        Some(level) => level.to_lowercase().into(),
        None => anyhow::bail!("no compression"),
    };
    let request = json!({
        "metadata": input["metadata"], "payload": bytes_of(&input["payload"])?, "compression": compression,
        "checksum": true, "align": false,
    });
    let message = source.field("message")?;
    let decoded = decoded(source.field("decoded")?)?;
    let expect = if exact { json!({ "ok": { "message": blob(message) } }) } else { json!({ "ok": {} }) };
    let mut encode = source.case("encode", "encode_frame", request, expect)?;
    let fields = ["flags", "metadata", "payload"];
    let same = fields.map(|field| (field.to_owned(), decoded[field].clone()));
    encode.then = Some(serde_json::from_value(json!({
        "op": "decode_frame", "profile": "lenient",
        "expect": { "ok": Value::Object(same.into_iter().collect()) },
    }))?);
    let mut cases = vec![encode];
    if let Some(bytes) = bytes_of(message)? {
        let expect = source.unless_errors(&json!({ "ok": decoded }))?;
        cases.push(source.case("decode", "decode_frame", json!({ "message": bytes }), expect)?);
    }
    Ok(cases)
}

/// decode_lenient: what the SDK takes, and so the lenient profile.
pub(super) fn lenient(source: &Source<'_>) -> Result<Vec<Case>> {
    let message = bytes_of(source.field("message")?)?.context("no bytes")?;
    let expect = source.unless_errors(&json!({ "ok": decoded(source.field("decoded")?)? }))?;
    Ok(vec![source.case("", "decode_frame", json!({ "message": message }), expect)?])
}

/// negative: frames, KV payloads and contexts that the SDK rejects, or should.
pub(super) fn negative(source: &Source<'_>) -> Result<Vec<Case>> {
    let bytes = bytes_of(source.field("message")?)?.context("no bytes")?;
    let (op, field) = match source.name()?.split_once('/') {
        Some(("decode", _)) => ("decode_frame", "message"),
        Some(("kv", _)) => ("decode_kv", "payload"),
        Some(("ctx", _)) => ("read_context", "message"),
        _ => anyhow::bail!("a case of no known kind"),
    };
    Ok(vec![source.case("", op, json!({ field: bytes }), source.unless_errors(&json!({ "ok": {} }))?)?])
}

/// What a frame decodes to, as the reply of `decode_frame` says it.
pub(super) fn decoded(decoded: &Value) -> Result<Value> {
    let mut metadata = decoded["metadata"].as_object().context("no metadata")?.clone();
    metadata.insert("compression".to_owned(), decoded["pb_compression"].clone());
    metadata.insert("payload_checksum".to_owned(), decoded["payload_checksum"].clone());
    Ok(json!({
        "flags": decoded["flags"], "payload_length": decoded["payload_length"],
        "metadata_length": decoded["metadata_length"], "metadata": metadata,
        "payload": { "len": decoded["payload_len"], "sha256": decoded["payload_sha256"] },
    }))
}

/// Bytes by length and hash, as they are compared with the hex of a reply.
pub(super) fn blob(bytes: &Value) -> Value {
    json!({ "len": bytes["len"], "sha256": bytes["sha256"] })
}
