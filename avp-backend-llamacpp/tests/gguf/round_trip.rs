//! What is written is what is read.

use avp_backend_llamacpp::gguf::{Array, GgmlType, GgufFile, Value};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::writer::{Put, PutTensor, Writer};

fn value() -> impl Strategy<Value = Put> {
    prop_oneof![
        any::<u8>().prop_map(Put::U8),
        any::<i8>().prop_map(Put::I8),
        any::<u16>().prop_map(Put::U16),
        any::<i16>().prop_map(Put::I16),
        any::<u32>().prop_map(Put::U32),
        any::<i32>().prop_map(Put::I32),
        any::<f32>().prop_map(Put::F32),
        any::<bool>().prop_map(Put::Bool),
        any::<String>().prop_map(Put::Str),
        any::<u64>().prop_map(Put::U64),
        any::<i64>().prop_map(Put::I64),
        any::<f64>().prop_map(Put::F64),
        vec(any::<u32>(), 0..20).prop_map(Put::U32s),
        vec(any::<i32>(), 0..20).prop_map(Put::I32s),
        vec(any::<f32>(), 0..20).prop_map(Put::F32s),
        vec(any::<String>(), 0..20).prop_map(Put::Strs),
    ]
}

fn tensor() -> impl Strategy<Value = (GgmlType, Vec<u64>)> {
    let ty = prop::sample::select(GgmlType::ALL);
    (ty, 1..3_u64, vec(1..4_u64, 0..4))
        .prop_map(|(ty, blocks, rest)| (ty, [vec![blocks * ty.block_len()], rest].concat()))
}

/// Whether a key of `file` reads as it was written, through the access of its type.
fn same(file: &GgufFile, key: &str, put: &Put) -> bool {
    match (put, file.value(key).unwrap()) {
        (Put::U8(a), Value::U8(b)) => a == b,
        (Put::I8(a), Value::I8(b)) => a == b,
        (Put::U16(a), _) => *a == file.get_u16(key).unwrap(),
        (Put::I16(a), Value::I16(b)) => a == b,
        (Put::U32(a), _) => *a == file.get_u32(key).unwrap(),
        (Put::I32(a), Value::I32(b)) => a == b,
        (Put::F32(a), _) => a.to_bits() == file.get_f32(key).unwrap().to_bits(),
        (Put::Bool(a), _) => *a == file.get_bool(key).unwrap(),
        (Put::Str(a), _) => a == file.get_str(key).unwrap(),
        (Put::U64(a), _) => *a == file.get_u64(key).unwrap(),
        (Put::I64(a), Value::I64(b)) => a == b,
        (Put::F64(a), Value::F64(b)) => a.to_bits() == b.to_bits(),
        (Put::U32s(a), Value::Array(b)) => {
            *a == file.find_u32_array(key).unwrap().unwrap() && a.len() == b.len()
        }
        (Put::I32s(a), _) => *a == file.find_i32_array(key).unwrap().unwrap(),
        (Put::F32s(a), _) => {
            let bits = |all: &[f32]| all.iter().map(|f| f.to_bits()).collect::<Vec<_>>();
            bits(a) == bits(&file.find_f32_array(key).unwrap().unwrap())
        }
        (Put::Strs(a), Value::Array(Array::Strings(b))) => {
            b.len() == a.len() && b.iter().eq(a.iter().map(String::as_str)) && b.get(a.len()).is_none()
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn metadata_and_tensors_read_as_they_were_written(
        version in 2..=3_u32,
        alignment in prop::sample::select(&[1_u64, 8, 32, 64, 4096][..]),
        values in prop::collection::btree_map("[a-z.\u{e9}]{1,20}", value(), 0..12),
        tensors in vec(tensor(), 0..8),
    ) {
        let mut writer = Writer { version, alignment, ..Writer::empty() };
        writer.keys.extend(values.clone());
        writer.put("general.alignment", Put::U32(alignment as u32));
        for (i, (ty, dims)) in tensors.iter().enumerate() {
            writer.tensors.push(PutTensor::new(&format!("t{i}"), dims, *ty));
        }
        let bytes = writer.bytes();
        let file = crate::writer::open(&bytes).unwrap();
        prop_assert_eq!((file.version(), file.alignment()), (version, alignment));
        prop_assert_eq!(file.keys().count(), values.len() + 1);
        for (key, put) in &values {
            prop_assert!(same(&file, key, put), "{} {:?}", key, put);
        }
        prop_assert_eq!(file.tensors().len(), tensors.len());
        for (i, (ty, dims)) in tensors.iter().enumerate() {
            let tensor = file.tensor(&format!("t{i}")).unwrap();
            prop_assert_eq!((tensor.ty, &tensor.dims), (*ty, dims));
            let elements: u64 = dims.iter().product();
            prop_assert_eq!(tensor.row_len() * tensor.rows(), elements);
            prop_assert_eq!(tensor.len, elements / ty.block_len() * ty.block_bytes());
            let start = tensor.offset as usize;
            let data = &bytes[start..start + tensor.len as usize];
            prop_assert!(data.iter().enumerate().all(|(i, &b)| b == (i % 251) as u8));
        }
    }
}

#[test]
fn a_value_of_another_type_and_a_missing_one_are_told_apart() {
    let file = Writer::model("qwen2").open().unwrap();
    assert_eq!(file.find_u32("no.such.key").unwrap(), None);
    let text = file.get_u32("no.such.key").unwrap_err().to_string();
    assert!(text.contains("has no metadata key 'no.such.key'"), "{text}");
    let text = file.get_u32("general.architecture").unwrap_err().to_string();
    assert!(text.contains("'general.architecture' as string, and it must be u32"), "{text}");
    let text = file.get_str("tokenizer.ggml.tokens").unwrap_err().to_string();
    assert!(text.contains("as array of string, and it must be string"), "{text}");
    let text = file.find_f32_array("tokenizer.ggml.token_type").unwrap_err().to_string();
    assert!(text.contains("as array of i32, and it must be array of f32"), "{text}");
    let text = file.tensor("no\nsuch").unwrap_err().to_string();
    assert!(text.contains("has no tensor 'no\\nsuch'"), "{text}");
}

#[test]
fn every_tensor_type_has_the_size_that_llama_cpp_gives_it() {
    // Bits for each element, from the comments in ggml-common.h; GGUF files are full of these.
    let bits = |ty: GgmlType| ty.block_bytes() as f64 * 8.0 / ty.block_len() as f64;
    for (ty, expected) in [
        (GgmlType::Q4_0, 4.5),
        (GgmlType::Q8_0, 8.5),
        (GgmlType::Q2_K, 2.625),
        (GgmlType::Q3_K, 3.4375),
        (GgmlType::Q4_K, 4.5),
        (GgmlType::Q5_K, 5.5),
        (GgmlType::Q6_K, 6.5625),
        (GgmlType::IQ2_XXS, 2.0625),
        (GgmlType::IQ2_XS, 2.3125),
        (GgmlType::IQ2_S, 2.5625),
        (GgmlType::IQ3_XXS, 3.0625),
        (GgmlType::IQ3_S, 3.4375),
        (GgmlType::IQ1_S, 1.5625),
        (GgmlType::IQ1_M, 1.75),
        (GgmlType::IQ4_XS, 4.25),
        (GgmlType::IQ4_NL, 4.5),
        (GgmlType::TQ1_0, 1.6875),
        (GgmlType::TQ2_0, 2.0625),
        (GgmlType::MXFP4, 4.25),
        (GgmlType::BF16, 16.0),
    ] {
        assert_eq!(bits(ty), expected, "{ty}");
    }
    for &ty in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
    }
}
