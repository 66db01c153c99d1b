//! GGUF files of a given shape with random weights, as llama.cpp's conversion would write them.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use half::f16;
use rayon::prelude::*;

use crate::shape::{STD, Shape, uniform};

/// Part of the files' names: another number, and they are made anew.
const VERSION: u32 = 1;
/// What the start of each tensor is a multiple of.
const ALIGNMENT: usize = 32;
/// Blocks made at a time.
const AT_A_TIME: usize = 1 << 15;
/// Elements of a block; [`Weights::F16`] has none, but is made in runs as long.
const BLOCK: usize = 32;
/// Standard deviation that the logits are to have. They follow Laplace's distribution, since the rows of the token table are
/// scaled for it: the probability of the token of rank `r` then falls as `r` to the power of `-sqrt(2) / LOGITS_STD`.
const LOGITS_STD: f32 = 2.828;
/// Ids before those without a meaning: a letter for every byte, and what the one merge makes.
const BYTES: u32 = 256;
const MERGED: &str = "ab";

/// Type of the matrices. Norms and biases are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    F16,
    Q8,
}

impl Weights {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8 => "q8_0",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::F16 => Kind::F16,
            Self::Q8 => Kind::Q8,
        }
    }
}

/// The file of this shape in `folder`, made if it is not there.
pub(crate) fn file(name: &str, shape: &Shape, weights: Weights, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join(format!("{name}-{}-{VERSION}.gguf", weights.name()));
    if !path.exists() {
        let unfinished = path.with_extension("part");
        write(shape, weights, &unfinished).with_context(|| format!("writing {}", unfinished.display()))?;
        fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

fn write(shape: &Shape, weights: Weights, path: &Path) -> Result<()> {
    let tensors = tensors(shape, weights);
    let metadata = metadata(shape);
    let mut file = Counted { file: BufWriter::new(File::create(path)?), written: 0 };
    file.write_all(b"GGUF")?;
    file.write_all(&3_u32.to_le_bytes())?;
    file.write_all(&u64::try_from(tensors.len())?.to_le_bytes())?;
    file.write_all(&metadata.count.to_le_bytes())?;
    file.write_all(&metadata.bytes)?;
    let mut offset = 0_usize;
    for tensor in &tensors {
        let mut entry = Vec::new();
        put_str(&mut entry, &tensor.name);
        put_u32(&mut entry, u32::try_from(tensor.dims.len())?);
        tensor.dims.iter().for_each(|&dim| entry.extend((dim as u64).to_le_bytes()));
        put_u32(&mut entry, tensor.kind.id());
        entry.extend(u64::try_from(offset)?.to_le_bytes());
        file.write_all(&entry)?;
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    for (seed, tensor) in (1_u64..).zip(&tensors) {
        file.pad()?;
        tensor.write(seed, &mut file)?;
    }
    file.pad()?;
    file.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(())
}

struct Counted {
    file: BufWriter<File>,
    written: usize,
}

impl Counted {
    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        Ok(self.file.write_all(bytes)?)
    }

    fn pad(&mut self) -> Result<()> {
        let missing = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.write_all(&[0; ALIGNMENT][..missing])
    }
}

/// Keys and values as they are in the file.
#[derive(Default)]
struct Metadata {
    count: u64,
    bytes: Vec<u8>,
}

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.count += 1;
        put_str(&mut self.bytes, key);
        put_u32(&mut self.bytes, kind);
        &mut self.bytes
    }

    fn u32(&mut self, key: &str, value: usize) {
        put_u32(self.key(key, 4), value as u32);
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, 6).extend(value.to_le_bytes());
    }

    fn str(&mut self, key: &str, value: &str) {
        put_str(self.key(key, 8), value);
    }

    fn array(&mut self, key: &str, kind: u32, count: usize) -> &mut Vec<u8> {
        let bytes = self.key(key, 9);
        put_u32(bytes, kind);
        bytes.extend((count as u64).to_le_bytes());
        bytes
    }
}

fn put_u32(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend(value.to_le_bytes());
}

fn put_str(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn metadata(shape: &Shape) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.str("general.architecture", "qwen2");
    metadata.str("general.type", "model");
    metadata.str("general.name", "Random weights");
    metadata.u32("qwen2.block_count", shape.layers);
    metadata.u32("qwen2.context_length", 32_768);
    metadata.u32("qwen2.embedding_length", shape.hidden);
    metadata.u32("qwen2.feed_forward_length", shape.intermediate);
    metadata.u32("qwen2.attention.head_count", shape.heads);
    metadata.u32("qwen2.attention.head_count_kv", shape.kv_heads);
    metadata.f32("qwen2.rope.freq_base", 1e6);
    metadata.f32("qwen2.attention.layer_norm_rms_epsilon", 1e-6);
    metadata.str("tokenizer.ggml.model", "gpt2");
    metadata.str("tokenizer.ggml.pre", "qwen2");
    let (vocabulary, end) = (vocabulary(shape), vocabulary_of(shape) - 1);
    let tokens = metadata.array("tokenizer.ggml.tokens", 8, vocabulary.len());
    vocabulary.iter().for_each(|token| put_str(tokens, token));
    let kinds = metadata.array("tokenizer.ggml.token_type", 5, vocabulary.len());
    // The last one is a control token, all others text.
    (0..vocabulary.len()).for_each(|id| put_u32(kinds, if id == end { 3 } else { 1 }));
    put_str(metadata.array("tokenizer.ggml.merges", 8, 1), "a b");
    metadata.u32("tokenizer.ggml.eos_token_id", end);
    metadata
}

/// Ids of a file of this shape: those of a byte-level tokenizer at least.
fn vocabulary_of(shape: &Shape) -> usize {
    shape.vocab.max(512)
}

/// The tokens: a letter for each byte, a merge, and names for the rest, since the benches give token ids.
fn vocabulary(shape: &Shape) -> Vec<String> {
    let is_printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut others = BYTES..;
    let mut letter = |byte: u32| {
        let code = if is_printable(byte) { Some(byte) } else { others.next() };
        code.and_then(char::from_u32).map(String::from).unwrap_or_default()
    };
    let mut tokens: Vec<String> = (0..BYTES).map(&mut letter).collect();
    tokens.push(MERGED.to_owned());
    let len = vocabulary_of(shape);
    tokens.extend((tokens.len()..len - 1).map(|id| format!("token{id}")));
    tokens.push("<|im_end|>".to_owned());
    tokens
}

/// Type of a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    F16,
    Q8,
}

impl Kind {
    fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8 => 8,
        }
    }

    /// Bytes of [`BLOCK`] elements.
    fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4 * BLOCK,
            Self::F16 => 2 * BLOCK,
            Self::Q8 => 2 + BLOCK,
        }
    }

    fn pack(self, values: &[f32; BLOCK], out: &mut [u8]) {
        match self {
            Self::F32 => {
                out.chunks_exact_mut(4)
                    .zip(values)
                    .for_each(|(out, v)| out.copy_from_slice(&v.to_le_bytes()));
            }
            Self::F16 => {
                let halves = values.map(f16::from_f32);
                out.chunks_exact_mut(2)
                    .zip(halves)
                    .for_each(|(out, v)| out.copy_from_slice(&v.to_le_bytes()));
            }
            Self::Q8 => {
                let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
                let scale = f16::from_f32(largest / 127.0);
                let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
                let (head, quants) = out.split_at_mut(2);
                head.copy_from_slice(&scale.to_le_bytes());
                for (quant, value) in quants.iter_mut().zip(values) {
                    *quant = ((value * inverse).round() as i8).cast_unsigned();
                }
            }
        }
    }
}

/// A tensor of random or constant values, the columns first as GGUF counts them.
struct Tensor {
    name: String,
    dims: Vec<usize>,
    kind: Kind,
    values: Values,
}

#[derive(Clone, Copy)]
enum Values {
    Random,
    /// Rows of norms that make the products with a vector of normally distributed elements follow Laplace's distribution.
    RandomRows,
    Constant(f32),
}

fn tensors(shape: &Shape, weights: Weights) -> Vec<Tensor> {
    let (hidden, wide) = (shape.hidden, shape.intermediate);
    let kv = hidden / shape.heads * shape.kv_heads;
    let tensor = |name: &str, dims: &[usize], values| Tensor {
        name: format!("{name}.weight"),
        dims: dims.to_vec(),
        kind: if dims.len() == 1 { Kind::F32 } else { weights.kind() },
        values,
    };
    // A normalised hidden state has the norm `scale * sqrt(hidden)`, which times STD is that of a logit.
    let scale = LOGITS_STD / (STD * (hidden as f32).sqrt());
    let mut tensors = vec![
        tensor("token_embd", &[hidden, vocabulary_of(shape)], Values::RandomRows),
        tensor("output_norm", &[hidden], Values::Constant(scale)),
    ];
    for layer in 0..shape.layers {
        let mut add = |part: &str, dims: &[usize], values| {
            tensors.push(tensor(&format!("blk.{layer}.{part}"), dims, values));
        };
        add("attn_norm", &[hidden], Values::Constant(1.0));
        add("ffn_norm", &[hidden], Values::Constant(1.0));
        for (part, columns, rows) in [
            ("attn_q", hidden, hidden),
            ("attn_k", hidden, kv),
            ("attn_v", hidden, kv),
            ("attn_output", hidden, hidden),
            ("ffn_gate", hidden, wide),
            ("ffn_up", hidden, wide),
            ("ffn_down", wide, hidden),
        ] {
            add(part, &[columns, rows], Values::Random);
        }
        for (part, len) in [("attn_q", hidden), ("attn_k", kv), ("attn_v", kv)] {
            let bias = tensor(&format!("blk.{layer}.{part}"), &[len], Values::Random);
            tensors.push(Tensor { name: format!("blk.{layer}.{part}.bias"), ..bias });
        }
    }
    tensors
}

impl Tensor {
    fn blocks(&self) -> usize {
        self.dims.iter().product::<usize>() / BLOCK
    }

    fn bytes(&self) -> usize {
        self.blocks() * self.kind.block_bytes()
    }

    fn write(&self, seed: u64, file: &mut Counted) -> Result<()> {
        let size = self.kind.block_bytes();
        let mut buffer = vec![0_u8; AT_A_TIME * size];
        for start in (0..self.blocks()).step_by(AT_A_TIME) {
            let count = AT_A_TIME.min(self.blocks() - start);
            let part = &mut buffer[..count * size];
            part.par_chunks_exact_mut(size).enumerate().for_each(|(i, out)| {
                self.kind.pack(&self.block(seed, start + i), out);
            });
            file.write_all(part)?;
        }
        Ok(())
    }

    fn block(&self, seed: u64, number: usize) -> [f32; BLOCK] {
        let first = (number * BLOCK) as u64;
        let random = |i: usize| uniform(seed << 40 | (first + i as u64));
        match self.values {
            Values::Constant(value) => [value; BLOCK],
            Values::Random => std::array::from_fn(random),
            Values::RandomRows => {
                let row = first / self.dims[0] as u64;
                let norm = rayleigh(uniform(0xff << 40 | row));
                std::array::from_fn(|i| norm * random(i))
            }
        }
    }
}

/// From a value of [`uniform`], one of Rayleigh's distribution whose square has the mean 1.
fn rayleigh(value: f32) -> f32 {
    let unit = value / (2.0 * 3f32.sqrt() * STD) + 0.5;
    (-unit.clamp(1e-7, 1.0).ln()).sqrt()
}

#[cfg(test)]
mod tests {
    use avp_backend_llamacpp::gguf::GgufFile;

    use super::*;

    #[test]
    fn files_are_ones_that_the_backend_takes() {
        let folder = tempfile::tempdir().unwrap();
        for weights in [Weights::F16, Weights::Q8] {
            let path = file("small", &Shape::HALF_B_CACHE, weights, folder.path()).unwrap();
            let meta = GgufFile::open(&path).unwrap().meta().unwrap();
            assert_eq!((meta.head_count_kv, meta.head_dim, meta.block_count), (2, 64, 24));
            let backend = avp_backend_llamacpp::LlamaCppBackend::load(&path, &Default::default());
            assert_eq!(avp_backend::Backend::info(&backend.unwrap()).vocab_size, 512);
        }
    }
}
