//! Small models of any shape, with weights drawn by chance.

use std::io::Write as _;

use avp_backend_llamacpp::gguf::GgmlType;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::NamedTempFile;

use crate::writer::{Put, PutTensor, Writer};

/// What a model looks like.
pub(crate) struct Shape {
    architecture: &'static str,
    pre_tokenizer: &'static str,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    positions: u32,
}

const LAYERS: u32 = 3;
const FEED_FORWARD: u32 = 160;
/// One token for each byte, and an end.
const VOCABULARY: u32 = 257;

impl Shape {
    pub(crate) const LLAMA_64: Self = Self {
        architecture: "llama",
        pre_tokenizer: "llama-bpe",
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        positions: 256,
    };
    pub(crate) const QWEN2_128: Self = Self {
        architecture: "qwen2",
        pre_tokenizer: "qwen2",
        heads: 2,
        kv_heads: 1,
        head_dim: 128,
        positions: 256,
    };
    /// Contexts of several passes, whose cache is worth several threads.
    pub(crate) const LLAMA_LONG: Self = Self { positions: 4096, ..Self::LLAMA_64 };

    /// A file of a model of this shape, the same each time.
    pub(crate) fn write(&self) -> NamedTempFile {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let bytes = self.writer().bytes_with(|tensor| {
            let spread: f32 = rng.random_range(-1.0..1.0);
            match &tensor.dims[..] {
                [_] if tensor.name.ends_with("norm.weight") => 1.0 + 0.1 * spread,
                // Of about the size that their sum has.
                [input, _] => spread * (3.0 / *input as f32).sqrt(),
                _ => 0.1 * spread,
            }
        });
        let mut file = NamedTempFile::with_suffix(".gguf").unwrap();
        file.write_all(&bytes).unwrap();
        file.flush().unwrap();
        file
    }

    fn writer(&self) -> Writer {
        let mut file = Writer::model(self.architecture);
        let width = self.heads * self.head_dim;
        for (name, value) in [
            ("block_count", LAYERS),
            ("context_length", self.positions),
            ("embedding_length", width),
            ("feed_forward_length", FEED_FORWARD),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
        ] {
            file.put(&format!("{}.{name}", self.architecture), Put::U32(value));
        }
        let end = VOCABULARY - 1;
        let tokens = (0..=255).map(byte_token).chain(["<|im_end|>".to_owned()]);
        file.put("tokenizer.ggml.pre", Put::str(self.pre_tokenizer));
        file.put("tokenizer.ggml.tokens", Put::strs(tokens));
        file.put(
            "tokenizer.ggml.token_type",
            Put::I32s((0..=end).map(|id| if id == end { 3 } else { 1 }).collect()),
        );
        // llama.cpp wants some; these two never meet.
        file.put("tokenizer.ggml.merges", Put::strs(["\u{100} \u{101}"]));
        file.put("tokenizer.ggml.eos_token_id", Put::U32(end));
        file.put("tokenizer.ggml.add_bos_token", Put::Bool(false));
        file.tensors = self.tensors();
        file
    }

    fn tensors(&self) -> Vec<PutTensor> {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let width = queries;
        let tensor = |name: &str, dims: &[u32]| {
            let dims: Vec<u64> = dims.iter().copied().map(u64::from).collect();
            PutTensor::new(name, &dims, GgmlType::F32)
        };
        let mut tensors = vec![tensor("token_embd.weight", &[width, VOCABULARY])];
        for layer in 0..LAYERS {
            let mut push =
                |name: &str, dims: &[u32]| tensors.push(tensor(&format!("blk.{layer}.{name}"), dims));
            push("attn_norm.weight", &[width]);
            push("attn_q.weight", &[width, queries]);
            push("attn_k.weight", &[width, keys]);
            push("attn_v.weight", &[width, keys]);
            if self.architecture == "qwen2" {
                push("attn_q.bias", &[queries]);
                push("attn_k.bias", &[keys]);
                push("attn_v.bias", &[keys]);
            }
            push("attn_output.weight", &[queries, width]);
            push("ffn_norm.weight", &[width]);
            push("ffn_gate.weight", &[width, FEED_FORWARD]);
            push("ffn_up.weight", &[width, FEED_FORWARD]);
            push("ffn_down.weight", &[FEED_FORWARD, width]);
        }
        tensors.push(tensor("output_norm.weight", &[width]));
        tensors
    }
}

/// How byte-level tokenizers write a byte: printable ones as they are, the others from U+0100 on.
fn byte_token(byte: u8) -> String {
    let is_itself = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..byte).filter(|byte| !is_itself(byte)).count();
    let code = if is_itself(&byte) { u32::from(byte) } else { 0x100 + others as u32 };
    char::from_u32(code).unwrap().to_string()
}
