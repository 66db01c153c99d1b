//! A backend made of two given tables, small enough to follow by hand.

use std::collections::{BTreeMap, HashMap};
#[cfg(unix)]
use std::fs::File;
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use avp_handshake::ModelIdentity;
use avp_wire::KvDtype;

use crate::{
    Backend, BackendError, Input, KvRange, ModelInfo, RealignmentProducts, Sequence, TextCodec, TokenMix,
    TokenPieces,
};

/// How much of the past a position keeps, per step back.
const DECAY: f32 = 0.8;

/// Embedding tables, row-major.
#[derive(Clone, Debug)]
pub struct MatrixTables {
    /// Width of both tables.
    pub hidden_dim: usize,
    /// Input embeddings `[vocab, hidden_dim]`.
    pub input: Vec<f32>,
    /// Output head `[vocab, hidden_dim]`; `None` ties it to `input`.
    pub output: Option<Vec<f32>>,
}

/// A model of one layer and one head whose keys and values are the input embeddings themselves, and whose
/// hidden state is their decaying sum. One token per byte; id 0 ends a text.
pub struct MatrixBackend {
    info: ModelInfo,
    tables: Arc<MatrixTables>,
    device: Option<TestDevice>,
}

/// A device whose memory is that of the host: a file stands for what a driver would share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestDevice {
    /// Its name in all processes.
    pub name: String,
    /// Bytes that what it shares is too short by.
    pub lacking: usize,
}

impl MatrixBackend {
    /// A model with these tables and a window of `max_positions`.
    ///
    /// # Panics
    /// If a table is not a whole number of rows.
    #[must_use]
    pub fn new(name: &str, tables: MatrixTables, max_positions: usize) -> Self {
        let dim = tables.hidden_dim;
        let output_rows = tables.output.as_ref().map_or(tables.input.len(), Vec::len);
        assert!(tables.input.len().is_multiple_of(dim) && output_rows.is_multiple_of(dim), "whole rows");
        let identity = ModelIdentity {
            model_family: "matrix".to_owned(),
            model_id: name.to_owned(),
            model_hash: name.to_owned(),
            hidden_dim: dim as u32,
            num_layers: 1,
            num_kv_heads: 1,
            head_dim: dim as u32,
            tokenizer_hash: String::new(),
        };
        let info = ModelInfo {
            identity,
            weights: Some(name.bytes().map(|b| format!("{b:02x}")).collect()),
            source: PathBuf::from(name),
            num_heads: 1,
            vocab_size: output_rows / dim,
            max_positions,
            tied_embeddings: tables.output.is_none(),
            dtype: KvDtype::F32,
            device: "cpu".to_owned(),
            stop_tokens: vec![0],
            chat_template: None,
            special_tokens: HashMap::new(),
        };
        Self { info, tables: Arc::new(tables), device: None }
    }

    /// The same model with its caches in memory of a device.
    #[must_use]
    pub fn with_device(self, device: TestDevice) -> Self {
        Self { device: Some(device), ..self }
    }

    /// The same model announcing another checkpoint fingerprint, or none.
    #[must_use]
    pub fn with_weights(mut self, weights: Option<&str>) -> Self {
        self.info.weights = weights.map(str::to_owned);
        self
    }

    /// The same model announcing this hash of its vocabulary.
    #[must_use]
    pub fn with_tokenizer_hash(mut self, hash: &str) -> Self {
        hash.clone_into(&mut self.info.identity.tokenizer_hash);
        self
    }

    /// The same model with no token that ends a text.
    #[must_use]
    pub fn without_stop_tokens(mut self) -> Self {
        self.info.stop_tokens.clear();
        self
    }

    fn output(&self) -> &[f32] {
        self.tables.output.as_deref().unwrap_or(&self.tables.input)
    }
}

impl Backend for MatrixBackend {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn codec(&self) -> &dyn TextCodec {
        &ByteCodec
    }

    fn new_sequence(&self, capacity: usize) -> Result<Box<dyn Sequence>, BackendError> {
        let mut sequence = MatrixSequence {
            tables: Arc::clone(&self.tables),
            window: self.info.max_positions,
            rows: Vec::new(),
            ahead: BTreeMap::new(),
            device: self.device.clone(),
        };
        sequence.reserve(capacity)?;
        Ok(Box::new(sequence))
    }

    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, BackendError> {
        let dim = self.tables.hidden_dim;
        let dot = |h: &[f32], row: &[f32]| h.iter().zip(row).map(|(a, b)| a * b).sum::<f32>();
        let rows = hidden.chunks_exact(dim);
        Ok(rows.flat_map(|h| self.output().chunks_exact(dim).map(move |row| dot(h, row))).collect())
    }

    fn embed_mix(&self, mixes: &[TokenMix<'_>]) -> Result<Vec<f32>, BackendError> {
        let dim = self.tables.hidden_dim;
        let mut out = Vec::with_capacity(mixes.len() * dim);
        for mix in mixes {
            let mut sum = vec![0.0; dim];
            let mut add = |id: usize, weight: f32| {
                let row = &self.tables.input[id * dim..(id + 1) * dim];
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += weight * x);
            };
            match mix {
                TokenMix::Sparse { ids, weights } => {
                    ids.iter().zip(*weights).for_each(|(&id, &w)| add(id as usize, w));
                }
                TokenMix::Dense(weights) => weights.iter().enumerate().for_each(|(id, &w)| add(id, w)),
            }
            out.append(&mut sum);
        }
        Ok(out)
    }

    fn shared_device(&self) -> Option<&str> {
        self.device.as_ref().map(|device| device.name.as_str())
    }

    fn mean_embedding_norm(&self) -> Result<f32, BackendError> {
        let rows = self.tables.input.chunks_exact(self.tables.hidden_dim);
        let count = rows.len() as f32;
        Ok(rows.map(|row| row.iter().map(|x| x * x).sum::<f32>().sqrt()).sum::<f32>() / count)
    }

    fn realignment_products(&self) -> Result<RealignmentProducts, BackendError> {
        let dim = self.tables.hidden_dim;
        let product = |left: &[f32], right: &[f32]| {
            let mut out = vec![0.0_f64; dim * dim];
            for (l, r) in left.chunks_exact(dim).zip(right.chunks_exact(dim)) {
                for (i, &a) in l.iter().enumerate() {
                    for (j, &b) in r.iter().enumerate() {
                        out[i * dim + j] += f64::from(a) * f64::from(b);
                    }
                }
            }
            out
        };
        Ok(RealignmentProducts {
            gram: product(self.output(), self.output()),
            cross: product(self.output(), &self.tables.input),
        })
    }
}

#[derive(Clone)]
struct MatrixSequence {
    tables: Arc<MatrixTables>,
    window: usize,
    /// Cached embeddings `[len, hidden_dim]`: both the keys and the values.
    rows: Vec<f32>,
    /// Rows that were imported ahead of others, by their first position.
    ahead: BTreeMap<usize, Vec<f32>>,
    device: Option<TestDevice>,
}

impl Sequence for MatrixSequence {
    fn len(&self) -> usize {
        self.rows.len() / self.tables.hidden_dim
    }

    fn capacity(&self) -> usize {
        self.rows.capacity() / self.tables.hidden_dim
    }

    fn reserve(&mut self, additional: usize) -> Result<(), BackendError> {
        let needed = self.len() + additional;
        if needed > self.window {
            return Err(BackendError::ContextWindow { needed, window: self.window });
        }
        self.rows.reserve(additional * self.tables.hidden_dim);
        Ok(())
    }

    fn forward(&mut self, input: Input<'_>) -> Result<Vec<f32>, BackendError> {
        let all = self.forward_all(input)?;
        Ok(all[all.len() - self.tables.hidden_dim..].to_vec())
    }

    fn forward_all(&mut self, input: Input<'_>) -> Result<Vec<f32>, BackendError> {
        let dim = self.tables.hidden_dim;
        let new: Vec<f32> = match input {
            Input::Embeddings(rows) => rows.to_vec(),
            Input::Tokens(ids) => {
                ids.iter().flat_map(|&id| &self.tables.input[id as usize * dim..][..dim]).copied().collect()
            }
        };
        self.reserve(new.len() / dim)?;
        let mut out = Vec::with_capacity(new.len());
        for row in new.chunks_exact(dim) {
            self.rows.extend_from_slice(row);
            let mut hidden = vec![0.0; dim];
            for cached in self.rows.chunks_exact(dim) {
                hidden.iter_mut().zip(cached).for_each(|(h, x)| *h = *h * DECAY + x);
            }
            out.append(&mut hidden);
        }
        Ok(out)
    }

    fn kv_dtype(&self) -> KvDtype {
        KvDtype::F32
    }

    fn export_kv(&self, range: &KvRange, out: &mut [u8]) -> Result<(), BackendError> {
        let dim = self.tables.hidden_dim;
        let rows =
            self.rows.get(range.tokens.start * dim..range.tokens.end * dim).ok_or(self.outside(range))?;
        if out.len() != rows.len() * 8 {
            return Err(BackendError::Shape { what: "KV bytes", expected: rows.len() * 8, got: out.len() });
        }
        for plane in out.chunks_exact_mut(rows.len() * 4) {
            plane.chunks_exact_mut(4).zip(rows).for_each(|(b, x)| b.copy_from_slice(&x.to_le_bytes()));
        }
        Ok(())
    }

    fn import_kv(&mut self, range: &KvRange, dtype: KvDtype, bytes: &[u8]) -> Result<(), BackendError> {
        let dim = self.tables.hidden_dim;
        let reach = self.len().max(self.capacity());
        if range.layers != (0..1) || range.tokens.start > reach || dtype != KvDtype::F32 {
            return Err(self.outside(range));
        }
        let expected = range.tokens.len() * dim * 8;
        if bytes.len() != expected {
            return Err(BackendError::Shape { what: "KV bytes", expected, got: bytes.len() });
        }
        let values = &bytes[bytes.len() / 2..];
        let values = values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if range.tokens.start > self.len() {
            self.ahead.insert(range.tokens.start, values);
            return Ok(());
        }
        self.append(range.tokens.start, &values)?;
        while let Some((start, values)) = self.ahead.pop_first() {
            if start > self.len() {
                self.ahead.insert(start, values);
                break;
            }
            self.append(start, &values)?;
        }
        Ok(())
    }

    #[cfg(unix)]
    fn share_kv(&self, device: &str) -> Result<Option<OwnedFd>, BackendError> {
        let Some(own) = self.device.as_ref().filter(|own| own.name == device) else { return Ok(None) };
        let mut bytes = vec![0; self.rows.len() * 8];
        self.export_kv(&KvRange { layers: 0..1, tokens: 0..self.len() }, &mut bytes)?;
        bytes.truncate(bytes.len() - own.lacking);
        let failed = |error: std::io::Error| BackendError::Engine(error.to_string());
        let memory = tempfile::tempfile().map_err(failed)?;
        memory.write_all_at(&bytes, 0).map_err(failed)?;
        Ok(Some(memory.into()))
    }

    #[cfg(unix)]
    fn take_shared_kv(&mut self, tokens: usize, dtype: KvDtype, memory: OwnedFd) -> Result<(), BackendError> {
        let mut bytes = vec![0; tokens * self.tables.hidden_dim * 8];
        let read = File::from(memory).read_exact_at(&mut bytes, 0);
        read.map_err(|error| BackendError::Engine(error.to_string()))?;
        self.import_kv(&KvRange { layers: 0..1, tokens: 0..tokens }, dtype, &bytes)
    }

    fn fork(&self) -> Result<Box<dyn Sequence>, BackendError> {
        let mut fork = self.clone();
        // A clone of a vector has no room.
        fork.rows.reserve_exact(self.rows.capacity() - self.rows.len());
        Ok(Box::new(fork))
    }
}

impl MatrixSequence {
    /// Rows from position `start` on, which is at most the length.
    fn append(&mut self, start: usize, rows: &[f32]) -> Result<(), BackendError> {
        let dim = self.tables.hidden_dim;
        self.rows.truncate(start * dim);
        self.reserve(rows.len() / dim)?;
        self.rows.extend(rows);
        Ok(())
    }

    fn outside(&self, range: &KvRange) -> BackendError {
        BackendError::KvRange {
            layers: range.layers.clone(),
            tokens: range.tokens.clone(),
            num_layers: 1,
            num_tokens: self.len(),
        }
    }
}

/// One token per byte.
struct ByteCodec;

impl TextCodec for ByteCodec {
    fn encode(&self, text: &str, _add_special: bool) -> Result<Vec<u32>, BackendError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, BackendError> {
        let kept = ids.iter().filter(|&&id| !(skip_special && id == 0));
        let bytes: Vec<u8> = kept.map(|&id| u8::try_from(id).unwrap_or(b'?')).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn vocab(&self) -> HashMap<String, u32> {
        (0..256).map(|id| (format!("<{id:#04x}>"), id)).collect()
    }

    fn pieces(&self) -> Result<Arc<TokenPieces>, BackendError> {
        let piece = |byte: u8| if byte == 0 { Vec::new() } else { vec![byte] };
        Ok(Arc::new(TokenPieces::new((0..=255).map(piece))))
    }
}
