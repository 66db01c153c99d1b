//! The format, and everything that is not it.

use serde_json::{Value, json};

use super::*;

/// A file's header and data.
pub(super) fn parts(bytes: &[u8]) -> (Value, Vec<u8>) {
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), bytes[8 + len..].to_vec())
}

pub(super) fn joined(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

fn changed(map: &ProjectionMap, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Vec<u8> {
    let (mut header, mut data) = parts(&map.encode());
    change(&mut header, &mut data);
    joined(&header, &data)
}

fn fault(map: &ProjectionMap, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> MapFault {
    ProjectionMap::decode(&changed(map, change)).unwrap_err()
}

// spec: projection 9.1, projection 9.2, projection 9.3, projection 9.4
#[test]
fn every_map_comes_back_as_it_was_from_the_same_bytes() {
    for map in maps() {
        let bytes = map.encode();
        assert_eq!(ProjectionMap::decode(&bytes).unwrap(), map);
        assert_eq!(map.encode(), bytes);
        let (header, data) = parts(&bytes);
        assert_eq!((bytes.len() - data.len()) % 8, 0);
        let fields = &header["__metadata__"];
        assert_eq!((&fields["avp.map"], &fields["method"]), (&"1".into(), &map.projection.method().into()));
        assert_eq!(fields["source.model_hash"], "source");
        assert_eq!(fields["target.rows"], "260");
        let tensors: Vec<&str> = header
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .filter(|key| *key != "__metadata__")
            .collect();
        let expected: &[&str] = match map.projection.method() {
            "vocab_mediated" => &[],
            "vocab_overlap" => &["source_ids", "target_ids"],
            _ => &["matrix", "bias"],
        };
        assert_eq!(tensors, expected);
    }
}

// spec: projection 9.2
#[test]
fn what_optional_fields_leave_out_is_not_known() {
    let [mut same, ..] = maps();
    same.target_norm = None;
    same.source.weights = None;
    same.target.model_id = "\u{1b}[31m\"\\\n千".to_owned();
    same.validation = Some(Validation { cosine: -1.0, perplexity: None });
    assert_eq!(ProjectionMap::decode(&same.encode()).unwrap(), same);
    // Fields that are not known here are passed over.
    let more = changed(&same, |header, _| header["__metadata__"]["made.by"] = "someone".into());
    assert_eq!(ProjectionMap::decode(&more).unwrap(), same);
}

// spec: projection 9.1, projection 9.2
#[test]
fn a_field_that_is_missing_or_cannot_be_is_named() {
    let [same, pairs, linear] = maps();
    let without = |map: &ProjectionMap, field: &str| {
        fault(map, |header, _| drop(header["__metadata__"].as_object_mut().unwrap().remove(field)))
    };
    for end in ["source", "target"] {
        for field in ["model_id", "model_hash", "tokenizer_hash", "hidden_dim", "rows"] {
            let name = format!("{end}.{field}");
            assert_eq!(without(&same, &name), MapFault::Missing(name));
        }
    }
    assert_eq!(without(&same, "avp.map"), MapFault::NoMap);
    assert_eq!(without(&pairs, "method"), MapFault::Missing("method".into()));
    assert_eq!(without(&pairs, "shared_tokens"), MapFault::Missing("shared_tokens".into()));
    assert_eq!(without(&pairs, "validation.cosine"), MapFault::Missing("validation.cosine".into()));
    assert_eq!(without(&linear, "target_norm"), MapFault::Missing("target_norm".into()));

    let with = |map: &ProjectionMap, field: &str, value: &str| {
        fault(map, |header, _| header["__metadata__"][field] = value.into())
    };
    assert_eq!(with(&same, "avp.map", "2"), MapFault::Version("2".into()));
    assert_eq!(with(&same, "method", "magic"), MapFault::Method("magic".into()));
    let cases = [
        ("source.hidden_dim", ["0", "-4", "+4", "04", "4.0", "4294967296", "1048577", ""].as_slice()),
        ("target.rows", &["0", "x", "268435457"]),
        ("target_norm", &["0", "-1", "NaN", "inf", "1e39", ""]),
        ("validation.cosine", &["1.5", "NaN", "-inf"]),
        ("validation.perplexity", &["-1", "NaN"]),
        ("source.weights", &[""]),
    ];
    for (field, values) in cases {
        for value in values {
            let named =
                matches!(with(&pairs, field, value), MapFault::Field { field: of, .. } if of == field);
            assert!(named, "{field} = {value}");
        }
    }
    let long = with(&same, "source.model_id", &"x".repeat(4097));
    assert!(matches!(long, MapFault::Field { .. }), "{long}");
    let nameless = fault(&same, |header, _| {
        header["__metadata__"]["target.model_hash"] = "".into();
        drop(header["__metadata__"].as_object_mut().unwrap().remove("target.weights"));
    });
    assert_eq!(nameless, MapFault::Unidentified("target"));
    for shared in ["0", "257", "18446744073709551615"] {
        assert!(
            matches!(with(&same, "shared_tokens", shared), MapFault::Shared { most: 256, .. }),
            "{shared}"
        );
    }
    assert!(matches!(with(&same, "shared_tokens", "18446744073709551616"), MapFault::Field { .. }));
    let no_text = fault(&same, |header, _| header["__metadata__"]["method"] = json!(1));
    assert!(matches!(no_text, MapFault::Safetensors(_)));
}

// spec: projection 9.3
#[test]
fn ids_ascend_and_are_rows_of_their_models() {
    let [_, pairs, _] = maps();
    let with = |at: usize, id: u32| {
        fault(&pairs, |_, data| data[at * 4..at * 4 + 4].copy_from_slice(&id.to_le_bytes()))
    };
    assert_eq!(with(7, 6), MapFault::Order(6));
    assert_eq!(with(7, 5), MapFault::Order(5));
    assert_eq!(with(255, 256), MapFault::Id { end: "source", id: 256, rows: 256 });
    assert_eq!(with(255, u32::MAX), MapFault::Id { end: "source", id: u32::MAX, rows: 256 });
    assert_eq!(with(256 + 9, 260), MapFault::Id { end: "target", id: 260, rows: 260 });
    // Several of the source may stand for one of the target.
    let bytes = changed(&pairs, |_, data| data.copy_within(256 * 4..256 * 4 + 4, 257 * 4));
    ProjectionMap::decode(&bytes).unwrap();
    // Fewer than the negotiation asks for.
    let mut few = pairs;
    few.projection = MapProjection::Vocabulary(SharedTokens::Pairs((0..99).map(|id| (id, id)).collect()));
    let few = ProjectionMap::decode(&few.encode()).unwrap_err();
    assert_eq!(few, MapFault::Shared { shared: 99, least: 100, most: 256 });
}

// spec: projection 9.3, projection 9.4
#[test]
fn tensors_are_those_of_the_method_in_type_and_shape() {
    let [same, pairs, linear] = maps();
    let tensor = |map: &ProjectionMap, name: &str, key: &str, value: Value| {
        fault(map, |header, _| header[name][key] = value)
    };
    assert!(matches!(tensor(&pairs, "source_ids", "dtype", "I32".into()), MapFault::Dtype { .. }));
    assert!(matches!(tensor(&linear, "matrix", "dtype", "U32".into()), MapFault::Dtype { .. }));
    assert!(matches!(tensor(&pairs, "target_ids", "shape", json!([16, 16])), MapFault::Shape { .. }));
    assert!(matches!(tensor(&linear, "matrix", "shape", json!([6, 4])), MapFault::Shape { .. }));
    assert!(matches!(tensor(&linear, "bias", "shape", json!([1, 6])), MapFault::Shape { .. }));
    assert!(matches!(tensor(&linear, "matrix", "dtype", "Q9".into()), MapFault::Safetensors(_)));
    assert!(matches!(tensor(&linear, "matrix", "shape", json!([u64::MAX, 2])), MapFault::Safetensors(_)));
    let renamed = |map: &ProjectionMap, from: &str, to: &str| {
        fault(map, |header, _| {
            let tensor = header.as_object_mut().unwrap().remove(from).unwrap();
            header[to] = tensor;
        })
    };
    assert_eq!(renamed(&pairs, "target_ids", "ids"), MapFault::UnknownTensor("ids".into()));
    assert_eq!(renamed(&linear, "bias", "offset"), MapFault::UnknownTensor("offset".into()));
    let moved = fault(&same, |header, data| {
        header["matrix"] = json!({ "dtype": "F32", "shape": [1], "data_offsets": [0, 4] });
        data.extend([0; 4]);
    });
    assert_eq!(moved, MapFault::UnknownTensor("matrix".into()));
    let gone = fault(&linear, |header, data| {
        drop(header.as_object_mut().unwrap().remove("matrix"));
        header["bias"]["data_offsets"] = json!([0, 24]);
        data.drain(..96);
    });
    assert_eq!(gone, MapFault::Missing("matrix".into()));
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for (at, name) in [(0, "matrix"), (23, "matrix"), (24, "bias")] {
        for value in values {
            let found =
                fault(&linear, |_, data| data[at * 4..at * 4 + 4].copy_from_slice(&value.to_le_bytes()));
            assert_eq!(found, MapFault::NonFinite(name));
        }
    }
}

// spec: projection 9.1
#[test]
fn a_file_that_is_cut_off_goes_on_or_is_another_is_refused() {
    for map in maps() {
        let bytes = map.encode();
        for len in 0..bytes.len() {
            assert!(ProjectionMap::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        let longer = ProjectionMap::decode(&[&bytes[..], &[0]].concat());
        assert!(matches!(longer, Err(MapFault::Safetensors(_))));
    }
    let plain = joined(&json!({}), &[]);
    assert_eq!(ProjectionMap::decode(&plain), Err(MapFault::NoMap));
    let header = ProjectionMap::decode(&[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    assert!(matches!(header, Err(MapFault::TooLarge { what: "a header", .. })));
    let [same, ..] = maps();
    let padded = fault(&same, |header, _| header["__metadata__"]["more"] = "x".repeat(64 << 10).into());
    assert!(matches!(padded, MapFault::TooLarge { what: "a header", .. }));
}

#[test]
fn a_matrix_is_read_from_a_safetensors_file_of_anyone() {
    let linear = linear_map();
    let words = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let file = |shape: Value, norm: f32, with_bias: bool| {
        let data = [words(linear.matrix()), words(&[norm])].concat();
        let mut header = json!({
            "matrix": { "dtype": "F32", "shape": shape, "data_offsets": [0, 96] },
            "target_norm": { "dtype": "F32", "shape": [1], "data_offsets": [96, 100] },
        });
        if !with_bias {
            return joined(&header, &data);
        }
        header["bias"] = json!({ "dtype": "F32", "shape": [6], "data_offsets": [100, 124] });
        joined(&header, &[data, words(linear.bias().unwrap())].concat())
    };
    let read = |bytes: &[u8]| LinearMap::from_safetensors(bytes, 4, 6);
    assert_eq!(read(&file(json!([4, 6]), 1.5, true)).unwrap(), linear);
    assert_eq!(read(&file(json!([4, 6]), 1.5, false)).unwrap().bias(), None);
    assert!(matches!(read(&file(json!([6, 4]), 1.5, true)), Err(MapFault::Shape { tensor: "matrix", .. })));
    assert_eq!(read(&file(json!([4, 6]), f32::NAN, true)), Err(MapFault::NonFinite("target_norm")));
    assert_eq!(read(&joined(&json!({}), &[])), Err(MapFault::Missing("target_norm".into())));
    assert!(matches!(read(b"what is this?"), Err(MapFault::TooLarge { .. } | MapFault::Safetensors(_))));
}
