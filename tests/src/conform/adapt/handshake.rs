//! handshake_json, hashes, resolve: what the handshake is made of.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Source;
use crate::case::Case;

/// handshake_json: what is read is written as the SDK writes it.
pub(super) fn messages(source: &Source<'_>) -> Result<Vec<Case>> {
    let wire = source.text("wire")?;
    let input = source.get("input").and_then(Value::as_str).unwrap_or(wire);
    let op = if source.name()?.starts_with("jsonmessage") { "text_message" } else { "hello" };
    Ok(vec![source.case("", op, json!({ "text": input }), json!({ "ok": { "text": wire } }))?])
}

/// hashes: of configs and vocabularies, and identities.
pub(super) fn hashes(source: &Source<'_>) -> Result<Vec<Case>> {
    if let Some(identity) = source.get("identity") {
        let config = source.text("config_text")?;
        let mut expect = identity.clone();
        if expect.get("tokenizer_hash").is_none() {
            expect["tokenizer_hash"] = "".into();
        }
        let expect = source.get("identity_here").unwrap_or(&expect);
        return Ok(vec![source.case(
            "",
            "identity",
            json!({ "config": config }),
            json!({ "ok": expect }),
        )?]);
    }
    let expect = json!({ "ok": { "hash": source.text("sha256")? } });
    if let Some(config) = source.get("config_text") {
        return Ok(vec![source.case("", "hash_model", json!({ "config": config }), expect)?]);
    }
    let vocab = match source.field("vocab")? {
        Value::Object(vocab) => vocab.iter().map(|(token, id)| json!([token, id])).collect(),
        _ => generated_vocabulary(source.name()?)?,
    };
    Ok(vec![source.case("", "hash_tokenizer", json!({ "vocab": vocab }), expect)?])
}

fn generated_vocabulary(name: &str) -> Result<Vec<Value>> {
    ensure!(name == "tok_generated_5000", "a vocabulary that is not known here");
    let token = |i: u32| {
        let mark = if i.is_multiple_of(3) { '\u{2581}' } else { '\u{120}' };
        let han = char::from_u32(0x4e00 + i).context("a character")?;
        Ok(json!([format!("tok_{i}_{mark}{han}"), i]))
    };
    (0..5000).map(token).collect()
}

/// resolve: the six rules. One map was on disk.
pub(super) fn resolutions(source: &Source<'_>) -> Result<Vec<Case>> {
    let request = json!({
        "local": source.field("local")?, "remote": source.field("remote")?,
        "maps": [["1".repeat(64), "2".repeat(64)]], "shared_tokens": shared_tokens(source),
        "policy": "allow",
    });
    let answer = source.get("here").unwrap_or(source.raw);
    let fields = ["mode", "avp_map_id", "resolution_path"];
    let expect = fields.map(|field| (field.to_owned(), answer[field].clone()));
    let expect = json!({ "ok": Value::Object(expect.into_iter().collect()) });
    Ok(vec![source.case("", "resolve", request, expect)?])
}

/// The SDK had two vocabularies of these sizes, one a part of the other, but where a note says that they differ.
fn shared_tokens(source: &Source<'_>) -> Option<u64> {
    let sizes = [source.get("source_vocab_size")?.as_u64()?, source.get("target_vocab_size")?.as_u64()?];
    let note = source.get("note").and_then(Value::as_str).unwrap_or_default();
    if note.contains("not normalised") { Some(0) } else { sizes.into_iter().min() }
}
