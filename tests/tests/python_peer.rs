//! The Python SDK in a live process and this implementation read each other, and hash and decide alike.
//!
//! `cargo xtask interop` runs these with the interpreter of an environment that it makes.

mod common;

use std::collections::BTreeMap;

use avp_handshake::json::Json;
use avp_handshake::{
    Hello, ModelIdentity, ResolveOptions, TextMessage, count_shared_tokens, model_hash, resolve,
    tokenizer_hash,
};
use avp_wire::{
    Compression, DType, EncodeOptions, Frame, FrameHead, KvDtype, KvHeader, Limits, Metadata, PayloadType,
    ext,
};
use common::frames::{KV_DTYPES, fields, frame, kv_header};
use common::python::Python;
use common::random::Random;
use common::workspace;
use half::{bf16, f16};
use serde_json::{Value, json};

/// Random cases of each kind.
const CASES: usize = 300;
const LEVELS: [Option<Compression>; 4] =
    [None, Some(Compression::Fast), Some(Compression::Balanced), Some(Compression::Max)];

fn peer() -> Python {
    let mut python = Python::start("peer.py");
    assert_eq!(python.get("versions")["avp"], "0.6.2", "the reference peer is another version");
    python
}

fn level(compression: Option<Compression>) -> i32 {
    compression.map_or(0, Compression::level)
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn the_sdk_reads_every_frame_that_is_written_here() {
    let (mut python, mut random) = (peer(), Random::new(1));
    for n in 0..CASES {
        let frame = frame(&mut random);
        let compression = *random.pick(&LEVELS);
        let options = EncodeOptions { compression, checksum: random.below(4) > 0, align: random.coin() };
        let wire = frame.encode(&options).unwrap().to_vec();
        let header = FrameHead::decode(&wire, &Limits::default()).unwrap().header;

        let mut read = python.call("decode", json!({ "message": hex::encode(&wire) }));
        assert_eq!(read["payload"], hex::encode(&frame.payload), "case {n}");
        assert_eq!(read["flags"], header.flags.bits(), "case {n}");
        assert_eq!(read["payload_length"], header.payload_length, "case {n}");
        assert_eq!(read["metadata_length"], header.metadata_length, "case {n}");
        let metadata = read["metadata"].as_object_mut().unwrap();
        assert_eq!(metadata.remove("compression").unwrap(), json!(compression.map(|_| "zstd")), "case {n}");
        let padded = metadata["extra"].as_object_mut().unwrap().remove(ext::PAD).is_some();
        assert_eq!(padded, options.align && compression.is_none(), "case {n}");
        assert_eq!(read["metadata"], fields(&frame.metadata), "case {n}");
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn every_frame_that_the_sdk_writes_is_read_here_and_written_alike() {
    let (mut python, mut random) = (peer(), Random::new(2));
    let mut equal = 0;
    for n in 0..CASES {
        let frame = frame(&mut random);
        let compression = *random.pick(&LEVELS);
        let arguments = json!({
            "metadata": fields(&frame.metadata),
            "payload": hex::encode(&frame.payload),
            "level": level(compression),
        });
        let wire = bytes(&python.call("encode", arguments));

        let read =
            Frame::decode(wire.clone().into(), &Limits::strict()).unwrap_or_else(|e| panic!("case {n}: {e}"));
        assert_eq!(read.payload, frame.payload, "case {n}");
        assert_eq!(read.metadata.payload_checksum, Some(crc32fast::hash(&frame.payload)), "case {n}");
        assert_eq!(read.metadata.compression.as_deref(), compression.map(|_| "zstd"), "case {n}");
        assert_eq!(fields(&read.metadata), fields(&frame.metadata), "case {n}");
        // The SDK's order of several extra keys is random, and so may be its zstd.
        if compression.is_none() && frame.metadata.extra.len() <= 1 {
            assert_eq!(frame.encode(&EncodeOptions::default()).unwrap().to_vec(), wire, "case {n}");
            equal += 1;
        }
    }
    assert!(equal >= CASES / 10, "{equal} frames could be compared byte by byte");
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn both_refuse_a_frame_that_was_cut_or_damaged_on_the_way() {
    let (mut python, mut random) = (peer(), Random::new(3));
    for n in 0..CASES {
        let frame = frame(&mut random);
        let encoded = frame.encode(&EncodeOptions::default()).unwrap();
        let mut wire = encoded.to_vec();
        if random.coin() || encoded.payload.is_empty() {
            wire.truncate(random.below(wire.len() as u64) as usize);
        } else {
            let at = encoded.head.len() + random.below(encoded.payload.len() as u64) as usize;
            wire[at] ^= 1 << random.below(8);
        }
        let there = python.ask("decode", json!({ "message": hex::encode(&wire) }));
        assert!(there.is_err(), "case {n}: the SDK read it");
        assert!(Frame::decode(wire.into(), &Limits::default()).is_err(), "case {n}");
    }
}

/// What `plane` of tests/python/peer.py holds at a place.
fn value(layer: u32, which: u32, head: u32, token: u32, channel: u32) -> f32 {
    let place = ((layer * 2 + which) * 31 + head * 17 + token * 5 + channel * 3) % 251;
    (place as f32 - 125.0) / 8.0
}

fn plane(header: &KvHeader, layer: u32, which: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for head in 0..header.num_kv_heads {
        for token in 0..header.seq_len {
            for channel in 0..header.head_dim {
                let x = value(layer, which, head, token, channel);
                match header.dtype {
                    KvDtype::F32 => bytes.extend(x.to_le_bytes()),
                    KvDtype::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
                    KvDtype::Bf16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
                }
            }
        }
    }
    bytes
}

/// Metadata of a context as `AVPContext.to_bytes` writes it.
fn context_metadata(random: &mut Random, header: &KvHeader) -> Metadata {
    let extra = [
        (ext::MODEL_HASH, random.hex(64)),
        (ext::MODEL_FAMILY, random.text(10)),
        (ext::NUM_STEPS, random.below(100).to_string()),
    ];
    Metadata {
        session_id: random.text(12),
        model_id: random.text(24),
        hidden_dim: random.number(),
        num_layers: header.num_layers,
        payload_type: PayloadType::KvCache,
        dtype: header.dtype.into(),
        extra: extra.map(|(key, value)| (key.to_owned(), value)).into(),
        ..Metadata::default()
    }
}

fn dtype_name(dtype: KvDtype) -> &'static str {
    KV_DTYPES.iter().find(|(known, _)| *known == dtype).unwrap().1
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn the_sdk_finds_every_value_of_a_context_in_its_place() {
    let (mut python, mut random) = (peer(), Random::new(4));
    for n in 0..CASES {
        let header = kv_header(&mut random);
        let metadata = context_metadata(&mut random, &header);
        let mut payload = vec![0; header.payload_len().unwrap()];
        header.write_to(&mut payload).unwrap();
        for layer in 0..header.num_layers {
            payload[header.k_range(layer).unwrap()].copy_from_slice(&plane(&header, layer, 0));
            payload[header.v_range(layer).unwrap()].copy_from_slice(&plane(&header, layer, 1));
        }
        let options = EncodeOptions { compression: *random.pick(&LEVELS), ..EncodeOptions::default() };
        let wire = Frame::new(metadata.clone(), payload).encode(&options).unwrap().to_vec();

        let read = python.call("read_context", json!({ "message": hex::encode(wire) }));
        assert_eq!(read["planes_agree"], true, "case {n}: {header:?}");
        let shape = [header.num_layers, header.num_kv_heads, header.head_dim, header.seq_len];
        let found = ["num_layers", "num_kv_heads", "head_dim", "seq_len"]
            .map(|key| read[key].as_u64().unwrap() as u32);
        assert_eq!(found, shape, "case {n}");
        assert_eq!(read["dtype"], dtype_name(header.dtype), "case {n}");
        assert_eq!(read["metadata"]["extra"], json!(metadata.extra), "case {n}");
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn every_value_of_an_sdk_context_is_found_in_its_place() {
    let (mut python, mut random) = (peer(), Random::new(5));
    for n in 0..CASES {
        let header = kv_header(&mut random);
        let metadata = context_metadata(&mut random, &header);
        let made = python.call(
            "make_context",
            json!({
                "layers": header.num_layers,
                "heads": header.num_kv_heads,
                "dim": header.head_dim,
                "tokens": header.seq_len,
                "dtype": dtype_name(header.dtype),
                "metadata": fields(&metadata),
                "level": level(*random.pick(&LEVELS)),
            }),
        );
        let frame =
            Frame::decode(bytes(&made).into(), &Limits::strict()).unwrap_or_else(|e| panic!("case {n}: {e}"));
        assert_eq!(fields(&frame.metadata), fields(&metadata), "case {n}");
        let kv = frame.kv().unwrap();
        assert_eq!(kv.header(), &header, "case {n}");
        for layer in 0..header.num_layers {
            assert_eq!(kv.k(layer).unwrap(), plane(&header, layer, 0), "case {n}, K of layer {layer}");
            assert_eq!(kv.v(layer).unwrap(), plane(&header, layer, 1), "case {n}, V of layer {layer}");
        }
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn numpy_reads_the_hidden_states_that_are_written_here() {
    let (mut python, mut random) = (peer(), Random::new(6));
    // The SDK has no way to read bfloat16 without torch.
    let dtypes = [DType::Float32, DType::Float16, DType::Int8];
    for n in 0..CASES {
        let dtype = *random.pick(&dtypes);
        let shape = [random.between(1, 5), random.between(1, 40)];
        let values: Vec<f32> =
            (0..shape[0] * shape[1]).map(|_| random.between(0, 250) as f32 - 125.0).collect();
        let payload: Vec<u8> = match dtype {
            DType::Float32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DType::Float16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|&x| (x as i8).to_le_bytes()).collect(),
        };
        let metadata =
            Metadata { dtype, tensor_shape: shape.to_vec(), hidden_dim: shape[1], ..Metadata::default() };
        let wire = Frame::new(metadata, payload).encode(&EncodeOptions::default()).unwrap().to_vec();
        let read = python.call("numbers", json!({ "message": hex::encode(wire) }));
        let read: Vec<f32> = read.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        assert_eq!(read, values, "case {n}, {dtype:?}");
    }
}

fn identity(random: &mut Random) -> ModelIdentity {
    ModelIdentity {
        model_family: random.text(10),
        model_id: random.text(20),
        model_hash: random.hex(64),
        hidden_dim: random.number(),
        num_layers: random.number(),
        num_kv_heads: random.number(),
        head_dim: random.number(),
        tokenizer_hash: if random.coin() { random.hex(64) } else { String::new() },
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn hellos_have_the_same_bytes_on_both_sides() {
    let (mut python, mut random) = (peer(), Random::new(7));
    for n in 0..CASES {
        let mut hello = Hello { agent_id: random.text(20), ..Hello::default() };
        if random.coin() {
            hello.identity = Some(identity(&mut random));
        }
        hello.capabilities = (0..random.below(4)).map(|_| (random.text(10), random.json(3))).collect();
        let there = python.call("hello", json!({ "text": hello.to_json() }));
        assert_eq!(there, hello.to_json(), "case {n}");
        assert_eq!(Hello::from_json(there.as_str().unwrap().as_bytes()).unwrap(), hello, "case {n}");
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn text_messages_have_the_same_bytes_on_both_sides() {
    let (mut python, mut random) = (peer(), Random::new(8));
    for n in 0..CASES {
        let message = TextMessage {
            session_id: random.hex(32),
            source_agent_id: random.text(12),
            target_agent_id: random.text(12),
            content: random.text(300),
            extra: (0..random.below(4)).map(|_| (random.text(10), random.json(3))).collect(),
            ..TextMessage::default()
        };
        let there = python.call("text", json!({ "text": message.to_json() }));
        assert_eq!(there, message.to_json(), "case {n}");
        assert_eq!(TextMessage::from_json(there.as_str().unwrap().as_bytes()).unwrap(), message, "case {n}");
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn any_config_has_the_same_model_hash_on_both_sides() {
    let (mut python, mut random) = (peer(), Random::new(9));
    for n in 0..CASES {
        let entries = (0..random.below(12)).map(|_| (random.text(14), random.json(3))).collect();
        let config = Value::Object(entries).to_string();
        let here = model_hash(&Json::parse(config.as_bytes()).unwrap());
        assert_eq!(python.call("model_hash", json!({ "config": config })), here, "case {n}: {config}");
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn any_vocabulary_has_the_same_tokenizer_hash_on_both_sides() {
    let (mut python, mut random) = (peer(), Random::new(10));
    for n in 0..CASES {
        let size = random.below(60);
        let vocab: BTreeMap<String, u32> = (0..size).map(|_| (random.text(8), random.number())).collect();
        let here = tokenizer_hash(vocab.iter().map(|(token, &id)| (token, id)));
        assert_eq!(python.call("tokenizer_hash", json!({ "vocab": vocab })), here, "case {n}");
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn configs_give_the_same_identity_on_both_sides() {
    let (mut python, mut random) = (peer(), Random::new(11));
    for n in 0..CASES {
        let mut config = serde_json::Map::new();
        let mut put = |random: &mut Random, key: &str, value: Value| {
            if random.below(5) > 0 {
                config.insert(key.to_owned(), value);
            }
        };
        let names =
            [["hidden_size", "num_hidden_layers", "num_attention_heads"], ["n_embd", "n_layer", "n_head"]];
        let name = *random.pick(&names);
        for (key, low, high) in [(name[0], 0, 8192), (name[1], 0, 80), (name[2], 0, 64)] {
            let value = random.between(low, high).into();
            put(&mut random, key, value);
        }
        let kv_heads = random.between(1, 16).into();
        put(&mut random, "num_key_value_heads", kv_heads);
        let head_dim = (*random.pick(&[Value::Null, 0.into(), 64.into(), 128.into()])).clone();
        put(&mut random, "head_dim", head_dim);
        let family = random.text(8).into();
        put(&mut random, "model_type", family);
        let id = random.text(16).into();
        put(&mut random, "_name_or_path", id);
        let more = random.json(2);
        put(&mut random, "more", more);

        let config = Value::Object(config).to_string();
        let there = python.call("model_identity", json!({ "config": config }));
        let here = ModelIdentity::from_config_json(config.as_bytes()).unwrap();
        assert_eq!(ModelIdentity::from_json(&(&there).into()).unwrap(), here, "case {n}: {config}");
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn the_shipped_models_have_the_same_identity_on_both_sides() {
    let mut python = peer();
    for name in ["avp-demo-qwen2-s", "avp-demo-qwen2-m", "avp-demo-llama"] {
        let folder = workspace("models").join(name);
        let there = python.call("folder", json!({ "path": folder }));
        let backend = avp::load_backend(folder.to_str().unwrap(), &avp::ModelOptions::default()).unwrap();
        let here = ModelIdentity { model_id: String::new(), ..backend.info().identity.clone() };
        assert_eq!(ModelIdentity::from_json(&(&there).into()).unwrap(), here, "{name}");
        assert!(!here.tokenizer_hash.is_empty());
    }
}

/// An identity of few possible values, so that rules fire.
fn common_identity(random: &mut Random, hashes: &[String]) -> ModelIdentity {
    ModelIdentity {
        model_family: (*random.pick(&["", "qwen2", "llama"])).to_owned(),
        model_hash: random.pick(hashes).clone(),
        hidden_dim: *random.pick(&[0, 64, 128]),
        num_layers: *random.pick(&[0, 2, 3]),
        tokenizer_hash: random.pick(hashes).clone(),
        ..ModelIdentity::default()
    }
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn the_six_rules_decide_alike_on_both_sides() {
    let (mut python, mut random) = (peer(), Random::new(12));
    let mut hashes: Vec<String> = (0..3).map(|_| random.hex(64)).collect();
    hashes.push(String::new());
    let mut seen = BTreeMap::new();
    for n in 0..CASES {
        let (local, remote) = (common_identity(&mut random, &hashes), common_identity(&mut random, &hashes));
        let maps: Vec<(String, String)> = (0..random.below(3))
            .map(|_| (random.pick(&hashes).clone(), random.pick(&hashes).clone()))
            .collect();
        let tokens = |random: &mut Random| -> Option<Vec<String>> {
            let count = *random.pick(&[0, 99, 100, 130]);
            let first = *random.pick(&[0, 0, 1, 60]);
            (random.below(4) > 0).then(|| (first..first + count).map(|i| format!("\u{120}{i}")).collect())
        };
        let (mine, theirs) = (tokens(&mut random), tokens(&mut random));

        let there = python.call(
            "resolve",
            json!({
                "local": local.to_json().to_serde(),
                "remote": remote.to_json().to_serde(),
                "local_tokens": mine,
                "remote_tokens": theirs,
                "maps": maps,
            }),
        );
        let has_map = |source: &str, target: &str| maps.iter().any(|(s, t)| s == source && t == target);
        let shared = mine.as_ref().zip(theirs.as_ref()).map(|(mine, theirs)| {
            count_shared_tokens(mine.iter().map(String::as_str), theirs.iter().map(String::as_str))
        });
        let options =
            ResolveOptions { maps: Some(&has_map), shared_tokens: shared, ..ResolveOptions::default() };
        let here = resolve(&local, &remote, &options);
        let here = json!({ "mode": here.mode.number(), "map_id": here.map_id, "path": here.path.as_str() });
        assert_eq!(here, there, "case {n}: {local:?} {remote:?}");
        *seen.entry(there["path"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 6, "not every rule fired: {seen:?}");
}
