//! Writes GGUF files as llama.cpp's conversion does, and wrong ones where a test asks for them.

use std::io::Write as _;

use avp_backend_llamacpp::gguf::{GgmlType, GgufError, GgufFile};

/// A value to write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Put {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    U64(u64),
    I64(i64),
    F64(f64),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Strs(Vec<String>),
    /// A type number and the bytes after it.
    Raw(u32, Vec<u8>),
}

impl Put {
    pub(crate) fn str(text: &str) -> Self {
        Self::Str(text.to_owned())
    }

    pub(crate) fn strs<S: ToString>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::Strs(texts.into_iter().map(|text| text.to_string()).collect())
    }

    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, ty: u32, len: usize| {
            u32_(out, 9);
            u32_(out, ty);
            u64_(out, len as u64);
        };
        let scalar = |out: &mut Vec<u8>, ty: u32, bytes: &[u8]| {
            u32_(out, ty);
            out.extend(bytes);
        };
        match self {
            Self::U8(v) => scalar(out, 0, &v.to_le_bytes()),
            Self::I8(v) => scalar(out, 1, &v.to_le_bytes()),
            Self::U16(v) => scalar(out, 2, &v.to_le_bytes()),
            Self::I16(v) => scalar(out, 3, &v.to_le_bytes()),
            Self::U32(v) => scalar(out, 4, &v.to_le_bytes()),
            Self::I32(v) => scalar(out, 5, &v.to_le_bytes()),
            Self::F32(v) => scalar(out, 6, &v.to_le_bytes()),
            Self::Bool(v) => scalar(out, 7, &[u8::from(*v)]),
            Self::Str(v) => {
                u32_(out, 8);
                str_(out, v);
            }
            Self::U64(v) => scalar(out, 10, &v.to_le_bytes()),
            Self::I64(v) => scalar(out, 11, &v.to_le_bytes()),
            Self::F64(v) => scalar(out, 12, &v.to_le_bytes()),
            Self::U32s(v) => {
                array(out, 4, v.len());
                v.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            Self::I32s(v) => {
                array(out, 5, v.len());
                v.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            Self::F32s(v) => {
                array(out, 6, v.len());
                v.iter().for_each(|v| out.extend(v.to_le_bytes()));
            }
            Self::Strs(v) => {
                array(out, 8, v.len());
                v.iter().for_each(|v| str_(out, v));
            }
            Self::Raw(ty, bytes) => scalar(out, *ty, bytes),
        }
    }
}

/// A tensor to write.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PutTensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) ty: u32,
    /// Where it says it is, instead of where it is.
    pub(crate) offset: Option<u64>,
}

impl PutTensor {
    pub(crate) fn new(name: &str, dims: &[u64], ty: GgmlType) -> Self {
        Self { name: name.to_owned(), dims: dims.to_vec(), ty: ty.id(), offset: None }
    }

    fn len(&self) -> u64 {
        let Some(ty) = GgmlType::from_id(self.ty) else { return 64 };
        let elements = self.dims.iter().fold(1_u64, |n, &dim| n.saturating_mul(dim));
        (elements / ty.block_len()).saturating_mul(ty.block_bytes()).min(1 << 20)
    }
}

/// A file to write.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) version: u32,
    pub(crate) keys: Vec<(String, Put)>,
    pub(crate) tensors: Vec<PutTensor>,
    pub(crate) alignment: u64,
}

impl Writer {
    pub(crate) fn empty() -> Self {
        Self { version: 3, keys: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }

    /// A small model of an architecture: 2 layers, 4 heads on 2 of length 8, 5 tokens.
    pub(crate) fn model(architecture: &str) -> Self {
        let mut file = Self::empty();
        file.put("general.architecture", Put::str(architecture));
        file.put("general.type", Put::str("model"));
        file.put("general.name", Put::str("A small one"));
        for (name, value) in [
            ("block_count", 2),
            ("context_length", 2048),
            ("embedding_length", 32),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            file.put(&format!("{architecture}.{name}"), Put::U32(value));
        }
        file.put(&format!("{architecture}.rope.freq_base"), Put::F32(1e6));
        file.put(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Put::F32(1e-6));
        file.put("tokenizer.ggml.model", Put::str("gpt2"));
        file.put("tokenizer.ggml.pre", Put::str("qwen2"));
        file.put("tokenizer.ggml.tokens", Put::strs(["a", "b", "ab", "<|im_end|>", "[PAD4]"]));
        file.put("tokenizer.ggml.token_type", Put::I32s(vec![1, 1, 1, 3, 5]));
        file.put("tokenizer.ggml.merges", Put::strs(["a b"]));
        file.put("tokenizer.ggml.eos_token_id", Put::U32(3));
        file.tensors.push(PutTensor::new("token_embd.weight", &[32, 5], GgmlType::F16));
        file.tensors.push(PutTensor::new("blk.0.attn_k.weight", &[32, 16], GgmlType::Q8_0));
        file.tensors.push(PutTensor::new("output_norm.weight", &[32], GgmlType::F32));
        file
    }

    /// Sets a key, in its place where it is there already.
    pub(crate) fn put(&mut self, key: &str, value: Put) {
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    pub(crate) fn without(&mut self, key: &str) {
        self.keys.retain(|(k, _)| k != key);
    }

    /// Everything before the tensors' data.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        u32_(&mut out, self.version);
        u64_(&mut out, self.tensors.len() as u64);
        u64_(&mut out, self.keys.len() as u64);
        for (key, value) in &self.keys {
            str_(&mut out, key);
            value.write(&mut out);
        }
        let mut free = 0;
        for tensor in &self.tensors {
            str_(&mut out, &tensor.name);
            u32_(&mut out, tensor.dims.len() as u32);
            tensor.dims.iter().for_each(|&dim| u64_(&mut out, dim));
            u32_(&mut out, tensor.ty);
            u64_(&mut out, tensor.offset.unwrap_or(free));
            free = (free + tensor.len()).next_multiple_of(self.alignment);
        }
        out
    }

    /// The whole file; byte `i` of a tensor's data is `i` modulo 251, so that places can be told apart.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.head();
        let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        for tensor in &self.tensors {
            pad(&mut out);
            out.extend((0..tensor.len()).map(|i| (i % 251) as u8));
        }
        out
    }

    /// The whole file, with elements of tensors in f32.
    #[allow(dead_code, reason = "of the engine's tests")]
    pub(crate) fn bytes_with(&self, mut element: impl FnMut(&PutTensor) -> f32) -> Vec<u8> {
        let mut out = self.head();
        for tensor in &self.tensors {
            assert_eq!(tensor.ty, GgmlType::F32.id());
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
            (0..tensor.len() / 4).for_each(|_| out.extend(element(tensor).to_le_bytes()));
        }
        out
    }

    pub(crate) fn open(&self) -> Result<GgufFile, GgufError> {
        open(&self.bytes())
    }
}

/// Opens bytes as a file.
pub(crate) fn open(bytes: &[u8]) -> Result<GgufFile, GgufError> {
    let mut file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    file.write_all(bytes).unwrap();
    file.flush().unwrap();
    GgufFile::open(file.path())
}

pub(crate) fn u32_(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

pub(crate) fn u64_(out: &mut Vec<u8>, value: u64) {
    out.extend(value.to_le_bytes());
}

pub(crate) fn str_(out: &mut Vec<u8>, text: &str) {
    u64_(out, text.len() as u64);
    out.extend(text.as_bytes());
}
