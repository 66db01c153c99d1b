//! The vocabulary of a file is that of the Hugging Face tokenizer that it was converted from.

use std::collections::BTreeMap;
use std::path::Path;

use avp_backend_llamacpp::gguf::{GgufFault, TokenKind};
use serde_json::Value as Json;

use crate::writer::{Put, Writer};

/// Token strings by id, and which of them were added, of a model folder's `tokenizer.json`.
fn tokenizer(model: &str) -> (BTreeMap<u64, String>, BTreeMap<u64, bool>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(model).join("tokenizer.json");
    let json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens: BTreeMap<u64, String> =
        vocab.iter().map(|(t, id)| (id.as_u64().unwrap(), t.clone())).collect();
    let mut added = BTreeMap::new();
    for token in json["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap();
        tokens.insert(id, token["content"].as_str().unwrap().to_owned());
        added.insert(id, token["special"].as_bool().unwrap());
    }
    (tokens, added)
}

/// What llama.cpp's `get_vocab_base` makes of it for a model with `size` rows: gaps filled, kinds set.
fn convert(tokens: &BTreeMap<u64, String>, added: &BTreeMap<u64, bool>, size: u64, padding: i32) -> Writer {
    let name = |id: u64| tokens.get(&id).cloned().unwrap_or_else(|| format!("[PAD{id}]"));
    let kind = |id: u64| match (tokens.contains_key(&id), added.get(&id)) {
        (false, _) => padding,
        (true, Some(true)) => 3,
        (true, Some(false)) => 4,
        (true, None) => 1,
    };
    let mut file = Writer::model("qwen2");
    file.put("tokenizer.ggml.tokens", Put::strs((0..size).map(name)));
    file.put("tokenizer.ggml.token_type", Put::I32s((0..size).map(kind).collect()));
    file
}

#[test]
fn the_hash_of_a_converted_vocabulary_is_that_of_its_hugging_face_tokenizer() {
    for model in ["avp-demo-llama", "avp-demo-qwen2-m", "avp-demo-qwen2-s"] {
        let (mut tokens, mut added) = tokenizer(model);
        // As larger models have it: an added token that is no control token, after a gap.
        let end = tokens.keys().last().unwrap() + 1;
        for gap in [0, 7] {
            if gap > 0 {
                tokens.insert(end + gap, "<tool_call>".to_owned());
                added.insert(end + gap, false);
            }
            let expected = avp_handshake::tokenizer_hash(tokens.iter().map(|(&id, t)| (t, id as u32)));
            // Padding is unused; it was user-defined in conversions of 2023 and 2024.
            for (size, padding) in [(end + gap + 1, 5), (end + 200, 5), (end + 200, 4)] {
                let file = convert(&tokens, &added, size, padding).open().unwrap();
                let vocabulary = file.vocabulary().unwrap();
                assert_eq!(u64::from(vocabulary.len()), size);
                assert_eq!(vocabulary.hash(), expected, "{model} {gap} {size} {padding}");
                assert_eq!(vocabulary.to_map().len(), tokens.len());
            }
        }
    }
}

/// A SentencePiece file of these tokens and kinds, with a token for each byte but `less` after them.
fn sentencepiece(tokens: &[&str], kinds: &[i32], less: Option<u8>) -> (Writer, Vec<String>) {
    let bytes = (0..=u8::MAX).filter(|&byte| Some(byte) != less).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = tokens.iter().map(|&token| token.to_owned()).chain(bytes).collect();
    let mut kinds = kinds.to_vec();
    kinds.resize(tokens.len(), 6);
    let mut file = Writer::model("llama");
    file.put("tokenizer.ggml.model", Put::str("llama"));
    file.put("tokenizer.ggml.tokens", Put::strs(&tokens));
    file.put("tokenizer.ggml.scores", Put::F32s(vec![0.0; tokens.len()]));
    file.put("tokenizer.ggml.token_type", Put::I32s(kinds));
    file.without("tokenizer.ggml.merges");
    (file, tokens)
}

#[test]
fn sentencepiece_strings_stand_as_they_are() {
    let named = ["[PAD1]", "[PAD2]", "<unk>", "<s>", "</s>", "▁the", "▁", "<|user|>"];
    let (file, tokens) = sentencepiece(&named, &[5, 5, 2, 3, 3, 1, 1, 4], None);
    let file = file.open().unwrap();
    let vocabulary = file.vocabulary().unwrap();
    let expected: Vec<(&str, u32)> = tokens.iter().map(String::as_str).zip(0..).skip(2).collect();
    assert!(vocabulary.iter().eq(expected.iter().copied()));
    assert_eq!(vocabulary.hash(), avp_handshake::tokenizer_hash(expected));
    assert_eq!(vocabulary.model(), "llama");
    assert_eq!((vocabulary.kind(8), vocabulary.kind(264)), (Some(TokenKind::Byte), None));
}

#[test]
fn sentencepiece_without_a_token_for_each_byte_is_refused_by_the_byte() {
    for (less, others) in [(0x0A, &["a"][..]), (0xC3, &["a", "Ã"]), (b'a', &["b"])] {
        let (file, _) = sentencepiece(others, &vec![1; others.len()], Some(less));
        let fault = file.open().unwrap().vocabulary().unwrap_err().fault;
        assert!(matches!(fault, GgufFault::MissingByte { byte } if byte == less), "{fault}");
    }
    let (file, _) = sentencepiece(&["a"], &[1], Some(b'a'));
    assert!(file.open().unwrap().vocabulary().is_ok(), "a letter stands for its byte");
    let (file, _) = sentencepiece(&["<0"], &[6], None);
    let fault = file.open().unwrap().vocabulary().unwrap_err().fault;
    assert!(matches!(fault, GgufFault::BadValue { .. }), "{fault}");
}

#[test]
fn tokens_that_only_look_like_padding_stay() {
    let mut file = Writer::model("qwen2");
    file.put("tokenizer.ggml.tokens", Put::strs(["[PAD0]", "[PAD]", "[PAD7]", "[PADx]", "unused", "[PAD5]"]));
    file.put("tokenizer.ggml.token_type", Put::I32s(vec![3, 5, 4, 5, 5, 5]));
    let file = file.open().unwrap();
    let kept: Vec<&str> = file.vocabulary().unwrap().iter().map(|(token, _)| token).collect();
    assert_eq!(kept, ["[PAD0]", "[PAD]", "[PAD7]", "[PADx]", "unused"]);
}

#[test]
fn vocabularies_that_llama_cpp_cannot_read_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Writer)| {
        let mut file = Writer::model("qwen2");
        change(&mut file);
        let file = file.open().unwrap();
        let error = file.vocabulary().unwrap_err();
        assert_eq!(error.to_string(), file.meta().unwrap_err().to_string());
        error.fault
    };
    let bert = refused(&|file| file.put("tokenizer.ggml.model", Put::str("bert")));
    assert!(matches!(bert, GgufFault::Tokenizer { model } if model == "bert"));
    let twice = refused(&|file| {
        file.put("tokenizer.ggml.tokens", Put::strs(["a", "b", "a", "c", "d"]));
    });
    assert!(matches!(twice, GgufFault::DuplicateToken { first: 0, second: 2, .. }));
    let named = refused(&|file| {
        file.put("tokenizer.ggml.tokens", Put::strs(["[EMPTY_1]", "", "b", "c", "d"]));
    });
    assert!(matches!(named, GgufFault::DuplicateToken { first: 0, second: 1, .. }));
    let cut = refused(&|file| {
        file.put("tokenizer.ggml.tokens", Put::strs(["a", "b", "c", "b\0d", "e"]));
    });
    assert!(matches!(cut, GgufFault::DuplicateToken { first: 1, second: 3, .. }));
    let none = refused(&|file| file.put("tokenizer.ggml.tokens", Put::Strs(Vec::new())));
    assert!(matches!(none, GgufFault::BadValue { .. }));
    let short = refused(&|file| file.put("tokenizer.ggml.token_type", Put::I32s(vec![1; 4])));
    assert!(matches!(short, GgufFault::BadValue { key, .. } if key == "tokenizer.ggml.token_type"));
    let scores = refused(&|file| file.put("tokenizer.ggml.scores", Put::F32s(vec![0.0; 4])));
    assert!(matches!(scores, GgufFault::BadValue { key, .. } if key == "tokenizer.ggml.scores"));
    let kinds = refused(&|file| file.put("tokenizer.ggml.token_type", Put::U32s(vec![1; 5])));
    assert!(matches!(kinds, GgufFault::WrongType { .. }));
    let begins = refused(&|file| file.put("tokenizer.ggml.add_bos_token", Put::Bool(true)));
    assert!(matches!(begins, GgufFault::MissingKey { key } if key == "tokenizer.ggml.bos_token_id"));
    let merges = refused(&|file| file.without("tokenizer.ggml.merges"));
    assert!(matches!(merges, GgufFault::MissingKey { key } if key == "tokenizer.ggml.merges"));
}
