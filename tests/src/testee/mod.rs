//! The crates of this workspace as a testee of `avp-conform`: JSON requests in, JSON replies out, a line each
//! (spec-vectors/README.md). Every operation is a thin call; nothing is decided here.

mod distribution;
mod error;
mod extension;
mod fingerprint;
mod form;
mod frame;
mod handshake;
mod identity;
mod kv;
mod message;
#[cfg(feature = "numerics")]
mod numerics;
mod resolve;
mod slab;
mod stream;
mod vocabulary;

use std::io::{BufRead, Write};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use error::Failure;

/// What an operation answers: its result, or why there is none.
type Answer = Result<Value, Failure>;

/// Answers every request on `input` until that ends.
///
/// # Errors
/// A request that this protocol does not know how to read, which is a mistake of the runner and no answer to it.
pub fn serve(input: impl BufRead, mut output: impl Write) -> Result<()> {
    for line in input.lines() {
        let line = line?;
        let mut request: Map<String, Value> = serde_json::from_str(&line).context("not a JSON object")?;
        let id = request.remove("id").context("a request without id")?;
        let Some(Value::String(op)) = request.remove("op") else { anyhow::bail!("a request without op") };
        let mut reply = match answer(&op, Value::Object(request)) {
            Some(Ok(result)) => json!({ "ok": result }),
            Some(Err(Failure::Refused { code, detail })) => {
                json!({ "error": code.as_str(), "detail": detail })
            }
            Some(Err(Failure::BadRequest(error))) => return Err(error.context(format!("a request of {op}"))),
            None => json!({ "unsupported": format!("{op} is not known here") }),
        };
        reply["id"] = id;
        writeln!(output, "{reply}")?;
        output.flush()?;
    }
    Ok(())
}

fn answer(op: &str, fields: Value) -> Option<Answer> {
    let answer = match op {
        "describe" => describe(),
        "decode_frame" => frame::decode(fields),
        "decode_stream" => stream::decode(fields),
        "encode_frame" => frame::encode(fields),
        "decode_kv" => kv::decode(fields),
        "encode_kv" => kv::encode(fields),
        "read_context" => kv::read_context(fields),
        "reassemble" => slab::reassemble(fields),
        "encode_manifest" => slab::encode_manifest(fields),
        "decode_distributions" => distribution::decode(fields),
        "encode_distributions" => distribution::encode(fields),
        "decode_vocabulary" => vocabulary::decode(fields),
        "encode_vocabulary" => vocabulary::encode(fields),
        "hash_token" => vocabulary::hash_token(fields),
        "shared_tokens" => vocabulary::shared(fields),
        "hash_model" => identity::hash_model(fields),
        "hash_tokenizer" => identity::hash_tokenizer(fields),
        "identity" => identity::of_config(fields),
        "fingerprint" => fingerprint::of_tensors(fields),
        "hello" => message::hello(fields),
        "text_message" => message::text(fields),
        "decode_response" => message::decode_response(fields),
        "encode_response" => message::encode_response(fields),
        "resolve" => resolve::resolve(fields),
        "handshake" => handshake::play(fields),
        "extension" => extension::check(fields),
        "error_code" => error::describe(fields),
        #[cfg(feature = "numerics")]
        _ => return numerics::answer(op, fields),
        #[cfg(not(feature = "numerics"))]
        _ => return None,
    };
    Some(answer)
}

fn describe() -> Answer {
    Ok(json!({ "name": "avp-rs", "version": env!("CARGO_PKG_VERSION"), "codes": true }))
}
