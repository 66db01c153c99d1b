//! Where the tensors lie, and whether they can lie there.

use std::collections::HashSet;
use std::io::BufRead;

use super::error::GgufFault;
use super::ggml_type::GgmlType;
use super::source::Source;
use crate::shown::shown;

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Name, e.g. `blk.0.attn_k.weight`.
    pub name: String,
    /// Shape as the file has it: length of a row first, at most four dimensions.
    pub dims: Vec<u64>,
    /// Type of the elements.
    pub ty: GgmlType,
    /// Where its data starts, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes of its data.
    pub len: u64,
}

impl TensorInfo {
    /// Elements of a row: the first dimension.
    #[must_use]
    pub fn row_len(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Rows: the product of the other dimensions.
    #[must_use]
    pub fn rows(&self) -> u64 {
        // Elements were counted when the tensor was read, so that this fits.
        self.dims.iter().skip(1).fold(1, |rows, &dim| rows.saturating_mul(dim))
    }

    /// Reads one; `offset` is still from the start of the data.
    fn read<R: BufRead>(source: &mut Source<R>) -> Result<Self, GgufFault> {
        let name = source.string("the name of a tensor", LONGEST_NAME)?;
        if name.is_empty() {
            return Err(GgufFault::EmptyTensorName);
        }
        let what = format!("the shape of the tensor '{}'", shown(&name));
        let count = source.u32(&what)?;
        if count > MAX_DIMS {
            return Err(GgufFault::TooManyDims { name: shown(&name), dims: count });
        }
        let dims = (0..count).map(|_| source.u64(&what)).collect::<Result<Vec<u64>, _>>()?;
        let id = source.u32(&what)?;
        let ty = GgmlType::from_id(id).ok_or_else(|| match GgmlType::removed(id) {
            Some(ty) => GgufFault::RemovedTensorType { name: shown(&name), ty },
            None => GgufFault::UnknownTensorType { name: shown(&name), id },
        })?;
        let offset = source.u64(&what)?;
        let mut tensor = Self { name, dims, ty, offset, len: 0 };
        tensor.len = tensor.bytes()?;
        Ok(tensor)
    }

    fn bytes(&self) -> Result<u64, GgufFault> {
        let bad = || GgufFault::BadShape { name: shown(&self.name), dims: self.dims.clone() };
        let elements = self.dims.iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim)).ok_or_else(bad)?;
        if elements == 0 || i64::try_from(elements).is_err() {
            return Err(bad());
        }
        let row = self.row_len();
        if !row.is_multiple_of(self.ty.block_len()) {
            return Err(GgufFault::RowNotInBlocks { name: shown(&self.name), row, ty: self.ty });
        }
        let bytes = self.ty.row_bytes(row).and_then(|bytes| bytes.checked_mul(self.rows()));
        bytes.filter(|&bytes| i64::try_from(bytes).is_ok()).ok_or_else(bad)
    }
}

/// Reads `count` tensor infos, and checks that their data follow one another to the end of the file at most, each aligned: all
/// that llama.cpp reads.
pub(super) fn read_all<R: BufRead>(
    source: &mut Source<R>,
    count: u64,
    alignment: u64,
) -> Result<Vec<TensorInfo>, GgufFault> {
    source.expect("the tensor infos", count, SHORTEST)?;
    let mut tensors = Vec::new();
    for _ in 0..count {
        tensors.push(TensorInfo::read(source)?);
    }
    let mut names = HashSet::with_capacity(tensors.len());
    if let Some(twice) = tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        return Err(GgufFault::DuplicateTensor { name: shown(&twice.name) });
    }
    place(&mut tensors, source.at(), source.len(), alignment)?;
    Ok(tensors)
}

/// Checks offsets and makes them absolute.
fn place(tensors: &mut [TensorInfo], head: u64, file_len: u64, alignment: u64) -> Result<(), GgufFault> {
    let mut free = 0;
    for tensor in tensors {
        let name = || shown(&tensor.name);
        let TensorInfo { offset, len, .. } = *tensor;
        if !offset.is_multiple_of(alignment) {
            return Err(GgufFault::Unaligned { name: name(), offset, alignment });
        }
        if offset < free {
            return Err(GgufFault::Overlap { name: name(), offset, free });
        }
        let start = head.checked_next_multiple_of(alignment).and_then(|data| data.checked_add(offset));
        let end = start.and_then(|start| start.checked_add(len));
        let (Some(start), true) = (start, end.is_some_and(|end| end <= file_len)) else {
            return Err(GgufFault::OutOfFile {
                name: name(),
                offset: start.unwrap_or(offset),
                len,
                file_len,
            });
        };
        if offset > free {
            return Err(GgufFault::Gap { name: name(), offset, free });
        }
        // Past the last tensor of a file that ends unpadded nothing is due any more.
        free = offset.saturating_add(len).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        tensor.offset = start;
    }
    Ok(())
}

/// `GGML_MAX_NAME` less its final zero.
const LONGEST_NAME: u64 = 63;
const MAX_DIMS: u32 = 4;
/// Bytes of the shortest tensor info: a name of one byte, no dimensions.
const SHORTEST: u64 = 8 + 1 + 4 + 4 + 8;
