//! The suites made by hand: each operation on our types, its result in the form of the vectors.

mod form;

use avp_wire::ext::{self, ExtError, FrameKind, SlabId};
use avp_wire::slab::{Manifest, Reassembly, Received, SlabError, TransferId};
use avp_wire::vocabulary::{HashedToken, Meaning, SharedPairs, TokenHashes, meaning_hash, string_hash};
use avp_wire::{
    Compression, Distribution, EncodeOptions, ErrorCode, Fault, Frame, FrameDecoder, FrameHead, KvPayload,
    Limits, TransmitResponse,
};
use serde_json::{Value, json};

use crate::suite::{Answer, bytes, check, number, text};
use form::{frame_json, kv_header, kv_json, metadata, text_map};

#[test]
fn messages_decode_as_the_specification_says() {
    check("decode_frame", 500, answer);
}

#[test]
fn streams_decode_alike_however_they_are_split() {
    check("decode_stream", 60, answer);
}

#[test]
fn frames_encode_to_the_bytes_that_the_specification_says() {
    check("encode_frame", 60, answer);
}

#[test]
fn kv_payloads_are_read_and_written_as_the_specification_says() {
    check("decode_kv", 60, answer);
    check("encode_kv", 10, answer);
    check("read_context", 15, answer);
}

#[test]
fn extensions_are_read_by_their_syntax() {
    check("extension", 80, answer);
}

#[test]
fn responses_are_read_and_written_as_the_specification_says() {
    check("decode_response", 20, answer);
    check("encode_response", 5, answer);
}

#[test]
fn transfers_are_put_together_as_the_specification_says() {
    check("reassemble", 100, answer);
    check("encode_manifest", 5, answer);
}

#[test]
fn distributions_are_read_and_written_as_the_specification_says() {
    check("decode_distributions", 70, answer);
    check("encode_distributions", 10, answer);
}

#[test]
fn vocabularies_are_read_written_and_compared_as_the_specification_says() {
    check("decode_vocabulary", 70, answer);
    check("encode_vocabulary", 8, answer);
    check("hash_token", 15, answer);
    check("shared_tokens", 20, answer);
}

#[test]
fn error_codes_have_the_numbers_and_faults_of_the_table() {
    check("error_code", ErrorCode::ALL.len(), answer);
}

fn answer(op: &str, input: &Value, profile: &str) -> Answer {
    let limits = match profile {
        "strict" => Limits::strict(),
        "default" => Limits::default(),
        "lenient" => Limits::lenient(),
        other => panic!("no profile {other}"),
    };
    let answer = match op {
        "decode_frame" => decode_frame(input, &limits),
        "decode_stream" => Ok(decode_stream(input, limits)),
        "encode_frame" => encode_frame(input),
        "decode_kv" => KvPayload::parse(bytes(&input["payload"]).into())
            .map(|payload| kv_json(&payload))
            .map_err(|error| error.code()),
        "encode_kv" => encode_kv(input),
        "read_context" => read_context(input, &limits),
        "decode_response" => decode_response(input),
        "encode_response" => Ok(encode_response(input)),
        "reassemble" => reassemble(input, &limits),
        "encode_manifest" => Ok(encode_manifest(input)),
        "decode_distributions" => decode_distributions(input),
        "encode_distributions" => encode_distributions(input),
        "decode_vocabulary" => decode_vocabulary(input),
        "encode_vocabulary" => encode_vocabulary(input),
        "hash_token" => Ok(json!({"hash": hash_json(token_hash(input))})),
        "shared_tokens" => shared_tokens(input),
        "extension" => extension(text(&input["key"]), text(&input["value"])),
        "error_code" => error_code(input),
        other => panic!("no operation {other}"),
    };
    answer.map_err(|code| code.as_str().to_owned())
}

fn decode(message: &Value, limits: &Limits) -> Result<Frame, ErrorCode> {
    Frame::decode(bytes(message).into(), limits).map_err(|error| error.code())
}

fn decode_frame(input: &Value, limits: &Limits) -> Result<Value, ErrorCode> {
    let frame = decode(&input["message"], limits)?;
    let head = FrameHead::decode(&bytes(&input["message"]), limits).expect("the frame has a head");
    let mut out = frame_json(&frame);
    out["flags"] = json!(head.header.flags.bits());
    out["payload_length"] = json!(head.header.payload_length);
    out["metadata_length"] = json!(head.header.metadata_length);
    Ok(out)
}

fn decode_stream(input: &Value, limits: Limits) -> Value {
    let mut decoder = FrameDecoder::new(limits);
    let mut frames = Vec::new();
    let mut run = || {
        for piece in input["pieces"].as_array().expect("pieces") {
            let mut piece = bytes(piece).into();
            while let Some(frame) = decoder.decode(&mut piece)? {
                frames.push(frame_json(&frame));
            }
        }
        decoder.finish()
    };
    let end = run().map_or_else(|error| error.code().as_str(), |()| "ok");
    json!({"frames": frames, "end": end})
}

fn encode_frame(input: &Value) -> Result<Value, ErrorCode> {
    let options = EncodeOptions {
        compression: input["compression"].as_str().map(|level| match level {
            "fast" => Compression::Fast,
            "balanced" => Compression::Balanced,
            "max" => Compression::Max,
            other => panic!("no level {other}"),
        }),
        checksum: input["checksum"].as_bool().expect("checksum is a bool"),
        align: input["align"].as_bool().expect("align is a bool"),
    };
    let frame = Frame::new(metadata(&input["metadata"]), bytes(&input["payload"]));
    let encoded = frame.encode(&options).map_err(|error| error.code())?;
    Ok(json!({"message": hex::encode(encoded.to_vec())}))
}

fn encode_kv(input: &Value) -> Result<Value, ErrorCode> {
    let header = kv_header(input);
    let planes: Vec<_> = input["planes"].as_array().expect("planes").iter().map(bytes).collect();
    let sound = header.plane_len().is_ok_and(|len| planes.iter().all(|plane| plane.len() == len));
    if !sound || planes.len() != 2 * header.num_layers as usize {
        return Err(ErrorCode::KvSizeMismatch);
    }
    let payload = [&header.encode()[..], &planes.concat()].concat();
    Ok(json!({"payload": hex::encode(payload)}))
}

fn read_context(input: &Value, limits: &Limits) -> Result<Value, ErrorCode> {
    let frame = decode(&input["message"], limits)?;
    frame.kv().map(|payload| kv_json(&payload)).map_err(|error| error.code())
}

fn decode_response(input: &Value) -> Result<Value, ErrorCode> {
    let response = TransmitResponse::decode(&bytes(&input["payload"]), &Limits::default());
    let TransmitResponse { success, message, request_id, extra } = response.map_err(|error| error.code())?;
    Ok(json!({"success": success, "message": message, "request_id": request_id, "extra": extra}))
}

fn encode_response(input: &Value) -> Value {
    let optional = |field: &str| input[field].as_str().map(str::to_owned);
    let response = TransmitResponse {
        success: input["success"].as_bool().expect("success is a bool"),
        message: optional("message"),
        request_id: optional("request_id"),
        extra: text_map(&input["extra"]),
    };
    json!({"payload": hex::encode(response.to_vec())})
}

fn reassemble(input: &Value, limits: &Limits) -> Result<Value, ErrorCode> {
    let code = |error: SlabError| error.code();
    let (manifest, transfer) = Manifest::from_frame(&decode(&input["manifest"], limits)?).map_err(code)?;
    let mut reassembly = Reassembly::new(manifest, transfer, limits).map_err(code)?;
    let mut take = |message: &Value| match reassembly.insert(&decode(message, limits)?).map_err(code)? {
        Received::New(_) => Ok("new"),
        Received::Duplicate(_) => Ok("duplicate"),
    };
    let slabs = input["slabs"].as_array().expect("slabs").iter();
    let slabs: Vec<_> =
        slabs.map(|slab| take(slab).unwrap_or_else(|code: ErrorCode| code.as_str())).collect();
    let gaps: Vec<_> = reassembly.gaps().map(|gap| [gap.start, gap.end]).collect();
    let layers: Vec<_> =
        (0..manifest.kv.num_layers).map(|layer| reassembly.layer_is_complete(layer)).collect();
    let end = reassembly.finish().map_or_else(|error| error.code().as_str().to_owned(), hex::encode);
    let resume = reassembly.resume_point();
    Ok(json!({"slabs": slabs, "gaps": gaps, "resume": resume, "end": end, "layers": layers}))
}

fn encode_manifest(input: &Value) -> Value {
    let step = |field: &str| u32::try_from(number(&input[field])).expect("32 bits");
    let digest =
        input["digest"].as_str().map(|hex| hex::decode(hex).expect("hex").try_into().expect("32 bytes"));
    let (slab_layers, slab_tokens) = (step("slab_layers"), step("slab_tokens"));
    let manifest = Manifest { kv: kv_header(&input["kv"]), slab_layers, slab_tokens, digest };
    let slabs: Vec<_> = manifest.slabs().map(|slab| slab.to_string()).collect();
    json!({"payload": hex::encode(manifest.encode()), "slab_count": manifest.slab_count(), "slabs": slabs})
}

fn decode_distributions(input: &Value) -> Result<Value, ErrorCode> {
    let count = u32::try_from(number(&input["positions"])).expect("32 bits");
    let positions = Distribution::decode_all(&bytes(&input["payload"]).into(), count);
    let positions: Vec<_> = positions
        .map_err(|error| error.code())?
        .iter()
        .map(|p| json!({"ids": p.ids(), "probabilities": p.probabilities(), "left_out": p.left_out()}))
        .collect();
    Ok(json!({"positions": positions}))
}

fn encode_distributions(input: &Value) -> Result<Value, ErrorCode> {
    let float = |value: &Value| value.as_f64().expect("a number") as f32;
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let position = |position: &Value| {
        let id = |id: &Value| u32::try_from(number(id)).expect("32 bits");
        let ids = list(&position["ids"]).iter().map(id).collect();
        let probabilities = list(&position["probabilities"]).iter().map(float).collect();
        Distribution::new(ids, probabilities, float(&position["left_out"]))
    };
    let positions: Result<Vec<_>, _> = list(&input["positions"]).iter().map(position).collect();
    let positions = positions.map_err(|error| error.code())?;
    let payload = Distribution::encode_all(&positions);
    let count = u32::try_from(positions.len()).expect("32 bits");
    Distribution::decode_all(&payload.clone().into(), count).map_err(|error| error.code())?;
    Ok(json!({"payload": hex::encode(payload)}))
}

fn vocabulary(payload: &Value) -> Result<TokenHashes, ErrorCode> {
    TokenHashes::decode(&bytes(payload).into()).map_err(|error| error.code())
}

fn decode_vocabulary(input: &Value) -> Result<Value, ErrorCode> {
    let vocabulary = vocabulary(&input["payload"])?;
    if let Some(announced) = input["announced"].as_str() {
        let announced = hex::decode(announced).expect("hex").try_into().expect("32 bytes");
        vocabulary.check(&announced).map_err(|error| error.code())?;
    }
    let token = |token: &HashedToken| json!([token.id, hash_json(token.meaning), hash_json(token.string)]);
    let tokens: Vec<_> = vocabulary.tokens().iter().map(token).collect();
    Ok(json!({"tokens": tokens, "fingerprint": hex::encode(vocabulary.fingerprint())}))
}

fn hash_json(hash: u64) -> String {
    hex::encode(hash.to_le_bytes())
}

/// Of what a token writes, what it is called, or its string: what is stated.
fn token_hash(stated: &Value) -> u64 {
    match (stated.get("text"), stated.get("name")) {
        (Some(written), _) => meaning_hash(Meaning::Text(&bytes(written))),
        (_, Some(name)) => meaning_hash(Meaning::Name(text(name))),
        _ => string_hash(text(&stated["string"])),
    }
}

fn encode_vocabulary(input: &Value) -> Result<Value, ErrorCode> {
    let token = |token: &Value| HashedToken {
        id: u32::try_from(number(&token["id"])).expect("32 bits"),
        meaning: token_hash(token),
        string: string_hash(text(&token["string"])),
    };
    let tokens = input["tokens"].as_array().expect("tokens").iter().map(token);
    let vocabulary = TokenHashes::new(tokens).map_err(|error| error.code())?;
    let fingerprint = hex::encode(vocabulary.fingerprint());
    Ok(json!({"payload": hex::encode(vocabulary.encode()), "fingerprint": fingerprint}))
}

fn shared_tokens(input: &Value) -> Result<Value, ErrorCode> {
    let shared = SharedPairs::between(&vocabulary(&input["source"])?, &vocabulary(&input["target"])?);
    Ok(json!({"pairs": shared.pairs(), "strings": shared.strings()}))
}

fn extension(key: &str, value: &str) -> Result<Value, ErrorCode> {
    let read = match key {
        ext::KIND => value.parse::<FrameKind>().map(drop),
        ext::SLAB => value.parse::<SlabId>().map(drop),
        ext::TRANSFER => value.parse::<TransferId>().map(drop),
        ext::BLAKE3 => ext::parse_hash(ext::BLAKE3, value).map(drop),
        ext::WEIGHTS => ext::parse_hash(ext::WEIGHTS, value).map(drop),
        ext::TOKENS => ext::parse_count(ext::TOKENS, value).map(drop),
        ext::ENDING => ext::parse_probability(ext::ENDING, value).map(drop),
        // Nothing in this crate reads these two.
        ext::PAD if value.len() >= 64 || !value.trim_matches(' ').is_empty() => {
            Err(ExtError { key: ext::PAD })
        }
        ext::TEXT if !value.is_ascii() || serde_json::from_str::<String>(value).is_err() => {
            Err(ExtError { key: ext::TEXT })
        }
        _ => Ok(()),
    };
    read.map(|()| json!({})).map_err(|error| error.code())
}

fn error_code(input: &Value) -> Result<Value, ErrorCode> {
    let code = ErrorCode::from_name(text(&input["name"])).ok_or(ErrorCode::InvalidArgument)?;
    let fault = match code.fault() {
        Fault::Peer => "peer",
        Fault::Incompatible => "incompatible",
        Fault::Limit => "limit",
        Fault::Caller => "caller",
        Fault::Io => "io",
    };
    Ok(json!({"number": code.number(), "fault": fault}))
}
