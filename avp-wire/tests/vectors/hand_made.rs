//! The suites made by hand: each operation on our types, its result in the form of the vectors.

use avp_wire::{
    Compression, DType, EncodeOptions, ErrorCode, Fault, Frame, FrameDecoder, FrameHead, KvDtype, KvHeader,
    KvPayload, Limits, Metadata, Mode, PayloadType, TransmitResponse,
};
use serde_json::{Value, json};

use crate::cases::{Answer, bytes, check, number, text, text_map};
use crate::load::sha256;

fn limits(profile: &str) -> Limits {
    match profile {
        "strict" => Limits::strict(),
        "default" => Limits::default(),
        "lenient" => Limits::lenient(),
        other => panic!("no profile {other}"),
    }
}

fn refused(code: ErrorCode) -> String {
    code.as_str().to_owned()
}

fn u32_of(value: &Value) -> u32 {
    u32::try_from(number(value)).expect("32 bits")
}

#[test]
fn messages_decode_as_the_specification_says() {
    check("decode_frame", 400, |input, profile| {
        let (message, limits) = (bytes(&input["message"]), limits(profile));
        let frame = Frame::decode(message.clone().into(), &limits).map_err(|error| refused(error.code()))?;
        let header = FrameHead::decode(&message, &limits).expect("the frame has a head").header;
        let mut out = frame_json(&frame);
        out["flags"] = json!(header.flags.bits());
        out["payload_length"] = json!(header.payload_length);
        out["metadata_length"] = json!(header.metadata_length);
        Ok(out)
    });
}

#[test]
fn streams_decode_alike_however_they_are_split() {
    check("decode_stream", 60, |input, profile| {
        let mut decoder = FrameDecoder::new(limits(profile));
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
        Ok(json!({"frames": frames, "end": end}))
    });
}

#[test]
fn frames_encode_to_the_bytes_that_the_specification_says() {
    check("encode_frame", 30, |input, _| {
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
        let encoded = frame.encode(&options).map_err(|error| refused(error.code()))?;
        Ok(json!({"message": hex::encode(encoded.to_vec())}))
    });
}

#[test]
fn kv_payloads_decode_as_the_specification_says() {
    check("decode_kv", 60, |input, _| {
        let payload = KvPayload::parse(bytes(&input["payload"]).into());
        payload.map(|payload| kv_json(&payload)).map_err(|error| refused(error.code()))
    });
}

#[test]
fn kv_payloads_encode_as_the_specification_says() {
    check("encode_kv", 10, |input, _| {
        let header = kv_header(input);
        let planes: Vec<_> = input["planes"].as_array().expect("planes").iter().map(bytes).collect();
        let sound = header.plane_len().is_ok_and(|len| planes.iter().all(|plane| plane.len() == len));
        if !sound || planes.len() != 2 * header.num_layers as usize {
            return Err(refused(ErrorCode::KvSizeMismatch));
        }
        let mut payload = header.encode().to_vec();
        payload.extend(planes.concat());
        Ok(json!({"payload": hex::encode(payload)}))
    });
}

#[test]
fn frames_are_read_as_kv_caches_only_where_they_are_some() {
    check("read_context", 15, |input, profile| {
        let frame = Frame::decode(bytes(&input["message"]).into(), &limits(profile));
        let frame = frame.map_err(|error| refused(error.code()))?;
        frame.kv().map(|payload| kv_json(&payload)).map_err(|error| refused(error.code()))
    });
}

#[test]
fn responses_are_read_and_written_as_the_specification_says() {
    check("decode_response", 10, |input, _| {
        let response = TransmitResponse::decode(&bytes(&input["payload"]), &Limits::default());
        let response = response.map_err(|error| refused(error.code()))?;
        let TransmitResponse { success, message, request_id, extra } = response;
        Ok(json!({"success": success, "message": message, "request_id": request_id, "extra": extra}))
    });
    check("encode_response", 5, |input, _| {
        let optional = |field: &str| input[field].as_str().map(str::to_owned);
        let response = TransmitResponse {
            success: input["success"].as_bool().expect("success is a bool"),
            message: optional("message"),
            request_id: optional("request_id"),
            extra: text_map(&input["extra"]),
        };
        Ok(json!({"payload": hex::encode(response.to_vec())}))
    });
}

#[test]
fn error_codes_have_the_numbers_and_faults_of_the_table() {
    check("error_code", ErrorCode::ALL.len(), |input, _| {
        let unknown = || refused(ErrorCode::InvalidArgument);
        let code = ErrorCode::from_name(text(&input["name"])).ok_or_else(unknown)?;
        let fault = match code.fault() {
            Fault::Peer => "peer",
            Fault::Incompatible => "incompatible",
            Fault::Limit => "limit",
            Fault::Caller => "caller",
            Fault::Io => "io",
        };
        Ok(json!({"number": code.number(), "fault": fault}))
    });
}

fn frame_json(frame: &Frame) -> Value {
    let Metadata { session_id, source_agent_id, target_agent_id, model_id, hidden_dim, .. } = &frame.metadata;
    let Metadata { num_layers, payload_type, dtype, tensor_shape, mode, .. } = &frame.metadata;
    let Metadata { compression, avp_map_id, extra, payload_checksum, .. } = &frame.metadata;
    json!({
        "metadata": {
            "session_id": session_id,
            "source_agent_id": source_agent_id,
            "target_agent_id": target_agent_id,
            "model_id": model_id,
            "hidden_dim": hidden_dim,
            "num_layers": num_layers,
            "payload_type": payload_type.number(),
            "dtype": dtype.number(),
            "tensor_shape": tensor_shape,
            "mode": mode.number(),
            "compression": compression,
            "avp_map_id": avp_map_id,
            "extra": extra,
            "payload_checksum": payload_checksum,
        },
        "payload": {"len": frame.payload.len(), "sha256": sha256(&frame.payload)},
    })
}

fn metadata(value: &Value) -> Metadata {
    let string = |field: &str| text(&value[field]).to_owned();
    let enumeration = |field: &str| i32::try_from(number(&value[field])).expect("31 bits");
    Metadata {
        session_id: string("session_id"),
        source_agent_id: string("source_agent_id"),
        target_agent_id: string("target_agent_id"),
        model_id: string("model_id"),
        hidden_dim: u32_of(&value["hidden_dim"]),
        num_layers: u32_of(&value["num_layers"]),
        payload_type: PayloadType::from_number(enumeration("payload_type")).expect("a payload type"),
        dtype: DType::from_number(enumeration("dtype")).expect("a dtype"),
        tensor_shape: value["tensor_shape"].as_array().expect("a shape").iter().map(u32_of).collect(),
        mode: Mode::from_number(enumeration("mode")).expect("a mode"),
        avp_map_id: string("avp_map_id"),
        extra: text_map(&value["extra"]),
        ..Metadata::default()
    }
}

fn kv_header(value: &Value) -> KvHeader {
    KvHeader {
        num_layers: u32_of(&value["num_layers"]),
        num_kv_heads: u32_of(&value["num_kv_heads"]),
        head_dim: u32_of(&value["head_dim"]),
        seq_len: u32_of(&value["seq_len"]),
        dtype: u8::try_from(number(&value["dtype"]))
            .ok()
            .and_then(|byte| KvDtype::from_byte(byte).ok())
            .expect("a dtype"),
    }
}

fn kv_json(payload: &KvPayload) -> Value {
    let KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype } = *payload.header();
    let planes = (0..num_layers).flat_map(|layer| [payload.k(layer), payload.v(layer)]);
    let planes: Vec<_> =
        planes.map(|plane| sha256(plane.expect("a checked payload has its planes"))).collect();
    json!({
        "num_layers": num_layers,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "seq_len": seq_len,
        "dtype": dtype.byte(),
        "planes": planes,
    })
}
