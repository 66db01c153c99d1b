//! Tensors of a checkpoint: found, checked against the config, converted once to the type they are computed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use avp_backend::BackendError;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::config::json::{invalid, read_object};
use crate::error::engine;
use crate::mmap;
use crate::options::{LoadProgress, ProgressFn};

pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const SINGLE: &str = "model.safetensors";
/// Elements copied or converted by one rayon task.
const CONVERT_BLOCK: usize = 1 << 16;

/// The safetensors files of a checkpoint, mapped.
pub(crate) struct Shards(Vec<(PathBuf, Mmap)>);

impl Shards {
    /// Maps the files that `folder` holds: those of the index if there is one, else `model.safetensors`, else
    /// every `*.safetensors`.
    pub(crate) fn open(folder: &Path) -> Result<Self, BackendError> {
        let map = |path: PathBuf| mmap::map(&path).map(|m| (path, m));
        Ok(Self(shard_paths(folder)?.into_iter().map(map).collect::<Result<_, _>>()?))
    }

    /// Paths of the files.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        self.0.iter().map(|(path, _)| path.as_path()).collect()
    }
}

fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>, BackendError> {
    let index = folder.join(INDEX);
    if index.is_file() {
        return indexed_paths(folder, &index);
    }
    let single = folder.join(SINGLE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let io = |source| BackendError::Io { path: folder.to_path_buf(), source };
    let mut paths = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            paths.insert(path);
        }
    }
    if paths.is_empty() {
        return Err(BackendError::ModelFileMissing { path: folder.to_path_buf(), what: SINGLE.to_owned() });
    }
    Ok(paths.into_iter().collect())
}

fn indexed_paths(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, BackendError> {
    let existing = |name: String| {
        let path = folder.join(&name);
        let missing = || BackendError::ModelFileMissing {
            path: folder.to_path_buf(),
            what: format!("{name}, which {INDEX} names"),
        };
        if path.is_file() { Ok(path) } else { Err(missing()) }
    };
    indexed_names(index)?.into_iter().map(existing).collect()
}

/// Names of the files that `model.safetensors.index.json` at `index` lists; plain names, no paths.
pub(crate) fn indexed_names(index: &Path) -> Result<BTreeSet<String>, BackendError> {
    let object = read_object(index)?;
    let Some(Value::Object(weight_map)) = object.get("weight_map") else {
        return Err(invalid(index, "has no weight_map object"));
    };
    let mut names = BTreeSet::new();
    for (tensor, file) in weight_map {
        match file.as_str().filter(|f| Path::new(f).file_name().is_some_and(|name| name == *f)) {
            Some(file) => names.insert(file.to_owned()),
            None => return Err(invalid(index, format!("maps {tensor} to {file}, which is not a file name"))),
        };
    }
    if names.is_empty() { Err(invalid(index, "has an empty weight_map")) } else { Ok(names) }
}

/// Reader of tensors by name.
pub(crate) struct Weights<'a> {
    shards: Vec<(&'a Path, SafeTensors<'a>)>,
    /// Shard of each tensor not read yet.
    unread: BTreeMap<String, usize>,
    read: HashMap<String, usize>,
    dtype: DType,
    device: Device,
    progress: Option<ProgressFn>,
    done: u64,
    total: u64,
    /// Whether there are no files, and every tensor that is asked for is made up.
    random: bool,
}

impl<'a> Weights<'a> {
    /// Random weights in `dtype` on `device`, whatever is asked for.
    pub(crate) fn random(dtype: DType, device: &Device) -> Self {
        Self {
            shards: Vec::new(),
            unread: BTreeMap::new(),
            read: HashMap::new(),
            dtype,
            device: device.clone(),
            progress: None,
            done: 0,
            total: 0,
            random: true,
        }
    }

    /// Reads the headers of `shards`. Tensors come out in `dtype` on `device`.
    pub(crate) fn new(
        shards: &'a Shards,
        dtype: DType,
        device: &Device,
        progress: Option<ProgressFn>,
    ) -> Result<Self, BackendError> {
        let mut this = Self { progress, random: false, ..Self::random(dtype, device) };
        for (i, (path, bytes)) in shards.0.iter().enumerate() {
            let tensors = SafeTensors::deserialize(bytes).map_err(|e| {
                invalid(path, format!("is not a whole safetensors file ({e}); download it again"))
            })?;
            for (name, view) in tensors.iter() {
                this.total = this.total.saturating_add(view.data().len() as u64);
                if let Some(other) = this.unread.insert(name.to_owned(), i) {
                    let other = shards.0.get(other).map_or(Path::new(""), |(p, _)| p.as_path());
                    return Err(invalid(path, format!("has tensor {name}, as {} has", other.display())));
                }
            }
            this.shards.push((path, tensors));
        }
        Ok(this)
    }

    /// The weights' type.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Tensor `name` of `shape`, in the weights' type.
    pub(crate) fn get(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, BackendError> {
        self.get_as(name, shape, self.dtype)
    }

    /// Tensor `name` of `shape` as `dtype`.
    pub(crate) fn get_as(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: DType,
    ) -> Result<Tensor, BackendError> {
        let (first, row) = shape.split_first().unwrap_or((&1, &[]));
        self.joined(&[(name.to_owned(), *first)], row, dtype)
    }

    /// Tensors one below the other as `dtype`: of each `(name, rows)` the one of shape `[rows, row..]`.
    pub(crate) fn joined(
        &mut self,
        parts: &[(String, usize)],
        row: &[usize],
        dtype: DType,
    ) -> Result<Tensor, BackendError> {
        let shape = |rows: usize| [&[rows], row].concat();
        let all = shape(parts.iter().map(|(_, rows)| rows).sum());
        if self.random {
            let name = parts.first().map_or("", |(name, _)| name);
            return random(name, &all, dtype, &self.device).map_err(engine);
        }
        let mut views = Vec::with_capacity(parts.len());
        for (name, rows) in parts {
            let (path, view) = self.view(name)?;
            let shape = shape(*rows);
            if view.shape() != shape {
                let problem =
                    format!("tensor {name} has shape {:?}, but config.json asks for {shape:?}", view.shape());
                return Err(invalid(path, problem));
            }
            if !matches!(view.dtype(), Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let problem = format!("tensor {name} is of type {}; supported: F32, F16, BF16", view.dtype());
                return Err(invalid(path, problem));
            }
            views.push(view);
        }
        let tensor = match dtype {
            DType::F32 => tensor::<f32>(&views, &all),
            DType::F16 => tensor::<f16>(&views, &all),
            DType::BF16 => tensor::<bf16>(&views, &all),
            other => return Err(BackendError::Engine(format!("no weights of type {other:?}"))),
        };
        let tensor = tensor.and_then(|t| t.to_device(&self.device)).map_err(engine)?;
        self.done = views.iter().fold(self.done, |done, view| done.saturating_add(view.data().len() as u64));
        if let Some(progress) = &self.progress {
            progress(&LoadProgress { what: "weights".into(), done: self.done, total: self.total });
        }
        Ok(tensor)
    }

    fn view(&mut self, name: &str) -> Result<(&'a Path, TensorView<'a>), BackendError> {
        let missing =
            |path: &Path| invalid(path, format!("has no tensor {name}, which config.json asks for"));
        let first = self.shards.first().map_or(Path::new(SINGLE), |(path, _)| path);
        let shard = match self.unread.remove(name) {
            Some(shard) => {
                self.read.insert(name.to_owned(), shard);
                Some(shard)
            }
            None => self.read.get(name).copied(),
        };
        let Some((path, tensors)) = shard.and_then(|i| self.shards.get(i)) else {
            let several = first.parent().filter(|_| self.shards.len() > 1);
            return Err(missing(several.unwrap_or(first)));
        };
        let view = tensors.tensor(name).map_err(|e| invalid(path, e.to_string()))?;
        Ok((path, view))
    }

    /// Refuses checkpoints that hold more than the config uses: a sign that the two do not belong together.
    pub(crate) fn finish(self, ignorable: impl Fn(&str) -> bool) -> Result<(), BackendError> {
        match self.unread.iter().find(|(name, _)| !ignorable(name)) {
            None => Ok(()),
            Some((name, shard)) => {
                let path = self.shards.get(*shard).map_or(Path::new(SINGLE), |(path, _)| path);
                Err(invalid(path, format!("has tensor {name}, which config.json has no use for")))
            }
        }
    }
}

/// A tensor of standard deviation 0.02, as `transformers` initialises weights; ones where it is a norm's.
fn random(name: &str, shape: &[usize], dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    /// Half the width of a uniform distribution of that deviation.
    const BOUND: f32 = 0.034_641;
    if name.ends_with("norm.weight") {
        return Tensor::ones(shape, dtype, device);
    }
    Tensor::rand(-BOUND, BOUND, shape, device)?.to_dtype(dtype)
}

/// An element type that weights are computed in.
trait Stored: candle_core::WithDType + bytemuck::Pod {
    const STORED: Dtype;
    fn from_f32(value: f32) -> Self;
}

impl Stored for f32 {
    const STORED: Dtype = Dtype::F32;
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Stored for f16 {
    const STORED: Dtype = Dtype::F16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Stored for bf16 {
    const STORED: Dtype = Dtype::BF16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// A tensor of the values of all views, one after the other.
fn tensor<T: Stored>(views: &[TensorView<'_>], shape: &[usize]) -> candle_core::Result<Tensor> {
    // From zeroed pages, which the threads that fill them touch first; most of the time goes there.
    let mut values: Vec<T> = bytemuck::zeroed_vec(shape.iter().product());
    let mut rest = values.as_mut_slice();
    for view in views {
        let (part, behind) = rest.split_at_mut(rest.len().min(view.shape().iter().product()));
        fill(part, view);
        rest = behind;
    }
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Writes the values of a view, which is as long: safetensors has checked that its length is that of its shape.
fn fill<T: Stored>(out: &mut [T], view: &TensorView<'_>) {
    let bytes = view.data();
    match view.dtype() {
        same if same == T::STORED => {
            copy(bytemuck::cast_slice_mut(out), bytes, CONVERT_BLOCK * size_of::<T>())
        }
        Dtype::F32 => convert(out, bytes, |b: [u8; 4]| T::from_f32(f32::from_le_bytes(b))),
        Dtype::F16 => convert(out, bytes, |b: [u8; 2]| T::from_f32(f16::from_le_bytes(b).to_f32())),
        Dtype::BF16 => convert(out, bytes, |b: [u8; 2]| T::from_f32(bf16::from_le_bytes(b).to_f32())),
        // Refused before.
        _ => {}
    }
}

fn copy(out: &mut [u8], bytes: &[u8], block: usize) {
    out.par_chunks_mut(block).zip(bytes.par_chunks(block)).for_each(|(out, block)| {
        if let Some(block) = block.get(..out.len()) {
            out.copy_from_slice(block);
        }
    });
}

fn convert<T: Stored, const N: usize>(out: &mut [T], bytes: &[u8], one: impl Fn([u8; N]) -> T + Sync) {
    let (elements, _) = bytes.as_chunks::<N>();
    out.par_chunks_mut(CONVERT_BLOCK).zip(elements.par_chunks(CONVERT_BLOCK)).for_each(|(out, block)| {
        for (o, e) in out.iter_mut().zip(block) {
            *o = one(*e);
        }
    });
}
