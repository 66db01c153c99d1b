//! The state of a sequence as llama.cpp writes and reads it, from and to canonical keys and values.
//!
//! llama.cpp reads a state without looking twice. No byte of a peer therefore goes into one but as an element: every
//! count, type and length of the state is written here.
//!
//! Layout (llama.cpp `llama_kv_cache::state_write`, little-endian): magic u32, sequence i32, streams u32 = 1, cells u32; for
//! each cell its position i32, the number of its sequences u32 = 1, the sequence i32; whether V lies transposed u32, layers
//! u32, width of the rotation of K and of V u32 (0 is none); then for each layer K: type i32, bytes of a row u64, a row for
//! each cell; then for each layer V in the same way, or transposed: type i32, bytes of an element u32, width u32, and for
//! each channel an element for each cell. A row holds the heads one after another.

mod elements;
#[cfg(test)]
mod tests;

use std::ops::Range;

use avp_wire::KvDtype;

use crate::ffi::{fence, stream, wide};
use crate::gguf::GgmlType;
use elements::{Elements, QUANTS, decode_row, encode_row};

const MAGIC: u32 = 0xaf14_3cd8;
/// Magic, sequence, streams, cells.
const HEAD: usize = 16;
const CELL: usize = 12;
/// Transposition, layers, two rotations.
const KINDS: usize = 16;
/// States of so many bytes are copied past the caches.
const LARGE: usize = 16 << 20;
/// Type and sizes, before the elements of a plane.
const PLANE_HEAD: usize = 12;

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheType {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 8-bit integers and a scale.
    Q8,
}

impl CacheType {
    pub(crate) fn ggml_type(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::Bf16 => GgmlType::BF16,
            Self::Q8 => GgmlType::Q8_0,
        }
    }

    /// The type in which it is handed over. What is quantised is unpacked to f32, from which it comes back as it was.
    pub(crate) fn canonical(self) -> KvDtype {
        match self {
            Self::F32 | Self::Q8 => KvDtype::F32,
            Self::F16 => KvDtype::F16,
            Self::Bf16 => KvDtype::Bf16,
        }
    }

    /// Bytes of `width` elements.
    fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::F32 => width * 4,
            Self::F16 | Self::Bf16 => width * 2,
            Self::Q8 => width / QUANTS * (QUANTS + 2),
        }
    }
}

/// What a cache of a model looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) kind: CacheType,
    /// Whether V lies transposed, as it does without flash attention.
    pub(crate) transposed: bool,
    /// Whether the channels of a K head that are rotated together lie side by side instead of in two halves.
    pub(crate) interleaved: bool,
}

/// K or V.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    K,
    V,
}

impl Layout {
    fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    fn row_bytes(&self) -> usize {
        self.kind.row_bytes(self.width())
    }

    /// Channels that llama.cpp mixes by a Hadamard matrix before it quantises them; 0 where it does not.
    fn rotation(&self, half: Half) -> usize {
        if self.kind != CacheType::Q8 || !self.head_dim.is_multiple_of(64) {
            return 0;
        }
        match half {
            Half::V => 64,
            Half::K => {
                let doubled = (0..).map(|power| 64_usize << power);
                doubled.take_while(|width| self.head_dim.is_multiple_of(*width)).last().unwrap_or(64)
            }
        }
    }

    fn planes(&self, cells: usize) -> usize {
        HEAD + cells * CELL + KINDS
    }

    /// Where the elements of `layer` begin, after the head of its plane.
    fn plane(&self, half: Half, layer: usize, cells: usize) -> usize {
        let size = cells * self.row_bytes();
        let k = self.planes(cells) + layer * (PLANE_HEAD + size) + PLANE_HEAD;
        match half {
            Half::K => k,
            Half::V => k + self.layers * (PLANE_HEAD + size),
        }
    }

    /// Bytes of a state of so many cells.
    pub(crate) fn state_bytes(&self, cells: usize) -> usize {
        self.planes(cells) + 2 * self.layers * (PLANE_HEAD + cells * self.row_bytes())
    }

    /// Cells of a plane of so many bytes.
    pub(crate) fn cells(&self, plane_bytes: usize) -> Option<usize> {
        let row_bytes = self.row_bytes();
        (row_bytes > 0 && plane_bytes.is_multiple_of(row_bytes)).then(|| plane_bytes / row_bytes)
    }

    /// Everything of a state of so many cells, at positions from 0 on, that is not elements: where it lies and what it is.
    fn heads(&self, cells: usize) -> Option<Vec<(usize, Vec<u8>)>> {
        let mut first = Vec::with_capacity(self.planes(cells));
        let mut say = |value: u32| first.extend_from_slice(&value.to_le_bytes());
        let count = u32::try_from(cells).ok()?;
        [MAGIC, 0, 1, count].into_iter().for_each(&mut say);
        (0..count).for_each(|position| [position, 1, 0].into_iter().for_each(&mut say));
        say(u32::from(self.transposed));
        say(u32::try_from(self.layers).ok()?);
        for half in [Half::K, Half::V] {
            say(u32::try_from(self.rotation(half)).ok()?);
        }
        let mut heads = vec![(0, first)];
        for half in [Half::K, Half::V] {
            let head = self.plane_head(half)?;
            let starts = (0..self.layers).map(|layer| self.plane(half, layer, cells) - PLANE_HEAD);
            heads.extend(starts.map(|start| (start, head.to_vec())));
        }
        Some(heads)
    }

    fn plane_head(&self, half: Half) -> Option<[u8; PLANE_HEAD]> {
        let (first, second) = match half {
            Half::V if self.transposed => {
                (u32::try_from(self.kind.row_bytes(1)).ok()?, u32::try_from(self.width()).ok()?)
            }
            // A row's bytes, u64.
            _ => (u32::try_from(self.row_bytes()).ok()?, 0),
        };
        let mut head = [0; PLANE_HEAD];
        let words = [self.kind.ggml_type().id(), first, second];
        for (out, word) in head.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *out = word.to_le_bytes();
        }
        Some(head)
    }

    /// Makes `state` one of so many cells at positions from 0 on, without touching its elements. `None` if it is of another
    /// size.
    pub(crate) fn begin(&self, state: &mut [u8], cells: usize) -> Option<()> {
        if state.len() != self.state_bytes(cells) {
            return None;
        }
        for (start, head) in self.heads(cells)? {
            state.get_mut(start..start + head.len())?.copy_from_slice(&head);
        }
        Some(())
    }

    /// Whether `state` is one of this layout with so many cells at positions from 0 on: what is not elements is compared.
    pub(crate) fn is_state(&self, state: &[u8], cells: usize) -> bool {
        let is_head =
            |(start, head): (usize, Vec<u8>)| state.get(start..start + head.len()) == Some(&head[..]);
        state.len() == self.state_bytes(cells)
            && self.heads(cells).is_some_and(|heads| heads.into_iter().all(is_head))
    }

    /// K and V of each layer in a state of so many cells.
    pub(crate) fn layers<'a>(
        &self,
        state: &'a [u8],
        cells: usize,
    ) -> impl ExactSizeIterator<Item = [&'a [u8]; 2]> + use<'a> {
        let each = PLANE_HEAD + cells * self.row_bytes();
        let planes = state.get(self.planes(cells)..).unwrap_or_default();
        let (k, v) = planes.split_at_checked(self.layers * each).unwrap_or_default();
        let elements = |plane: &'a [u8]| plane.get(PLANE_HEAD..).unwrap_or_default();
        k.chunks_exact(each).zip(v.chunks_exact(each)).map(move |(k, v)| [elements(k), elements(v)])
    }

    /// The same, to be written.
    pub(crate) fn layers_mut<'a>(
        &self,
        state: &'a mut [u8],
        cells: usize,
    ) -> impl ExactSizeIterator<Item = [&'a mut [u8]; 2]> + use<'a> {
        let each = PLANE_HEAD + cells * self.row_bytes();
        let planes = state.get_mut(self.planes(cells)..).unwrap_or_default();
        let (k, v) = planes.split_at_mut_checked(self.layers * each).unwrap_or_default();
        let elements = |plane: &'a mut [u8]| plane.get_mut(PLANE_HEAD..).unwrap_or_default();
        k.chunks_exact_mut(each).zip(v.chunks_exact_mut(each)).map(move |(k, v)| [elements(k), elements(v)])
    }

    /// Copies `tokens` of a layer of so many cells to `out`: K then V, each `[head][token][dim]` in the
    /// [canonical type](CacheType::canonical). `None` if a size does not fit.
    pub(crate) fn read(
        &self,
        [k, v]: [&[u8]; 2],
        cells: usize,
        tokens: &Range<usize>,
        out: &mut [u8],
    ) -> Option<()> {
        let (k_out, v_out) = out.split_at_mut_checked(out.len() / 2)?;
        self.read_plane(Half::K, k, cells, tokens, k_out)?;
        self.read_plane(Half::V, v, cells, tokens, v_out)
    }

    /// The reverse of [`read`](Self::read), for elements of type `dtype`.
    pub(crate) fn write(
        &self,
        [k, v]: [&mut [u8]; 2],
        cells: usize,
        tokens: &Range<usize>,
        dtype: KvDtype,
        bytes: &[u8],
    ) -> Option<()> {
        let (k_bytes, v_bytes) = bytes.split_at_checked(bytes.len() / 2)?;
        self.write_plane(Half::K, k, cells, tokens, &Elements { dtype, bytes: k_bytes })?;
        self.write_plane(Half::V, v, cells, tokens, &Elements { dtype, bytes: v_bytes })
    }

    /// Copies the first `tokens` of a layer from planes of `cells.0` to planes of `cells.1` cells.
    pub(crate) fn copy(
        &self,
        from: [&[u8]; 2],
        to: [&mut [u8]; 2],
        cells: (usize, usize),
        tokens: usize,
    ) -> Option<()> {
        for (half, (from, to)) in [Half::K, Half::V].into_iter().zip(from.into_iter().zip(to)) {
            // Of V that lies transposed each channel is a run of cells, otherwise all cells are one run.
            let (runs, unit) = match half == Half::V && self.transposed {
                true => (self.width(), self.kind.row_bytes(1)),
                false => (1, self.row_bytes()),
            };
            let len = tokens * unit;
            let copy = if self.state_bytes(tokens) < LARGE { <[u8]>::copy_from_slice } else { stream };
            for run in 0..runs {
                let (from_start, to_start) = (run * cells.0 * unit, run * cells.1 * unit);
                copy(to.get_mut(to_start..to_start + len)?, from.get(from_start..from_start + len)?);
            }
        }
        fence();
        Some(())
    }

    /// How elements are copied of which a state has so many cells.
    fn copies(&self, cells: usize) -> fn(&mut [u8], &[u8]) {
        if self.state_bytes(cells) < LARGE { copy_lines } else { stream }
    }

    fn read_plane(
        &self,
        half: Half,
        plane: &[u8],
        cells: usize,
        tokens: &Range<usize>,
        out: &mut [u8],
    ) -> Option<()> {
        let size = self.kind.canonical().size();
        let (dim, count) = (self.head_dim, tokens.len());
        if out.len() != self.width() * count * size {
            return None;
        }
        if half == Half::V && self.transposed {
            for (channel, run) in plane.chunks_exact(cells * size).enumerate() {
                let run = run.get(tokens.start * size..tokens.end * size)?;
                let head = out.get_mut(channel / dim * count * dim * size..)?;
                let to = head.get_mut(channel % dim * size..)?;
                for (element, to) in run.chunks_exact(size).zip(to.chunks_mut(dim * size)) {
                    to.get_mut(..size)?.copy_from_slice(element);
                }
            }
            return Some(());
        }
        let row_bytes = self.row_bytes();
        let rows = plane.get(tokens.start * row_bytes..tokens.end * row_bytes)?;
        let is_packed = self.kind == CacheType::Q8;
        let (mut values, mut unpacked) = match is_packed {
            true => (vec![0.0; self.width()], vec![0; self.width() * size]),
            false => Default::default(),
        };
        let copy = self.copies(cells);
        let done = wide(
            #[inline(always)]
            || {
                for (i, mut row) in rows.chunks_exact(row_bytes).enumerate() {
                    if is_packed {
                        decode_row(self.kind, row, &mut values, self.rotation(half));
                        elements::put(KvDtype::F32, &values, &mut unpacked);
                        row = &unpacked;
                    }
                    for (head, from) in row.chunks_exact(dim * size).enumerate() {
                        let at = (head * count + i) * dim * size;
                        let to = out.get_mut(at..at + dim * size)?;
                        match half {
                            Half::K if self.interleaved => elements::split_pairs(size, from, to),
                            _ => copy(to, from),
                        }
                    }
                }
                Some(())
            },
        );
        fence();
        done
    }

    fn write_plane(
        &self,
        half: Half,
        plane: &mut [u8],
        cells: usize,
        tokens: &Range<usize>,
        from: &Elements<'_>,
    ) -> Option<()> {
        let (dim, count, given) = (self.head_dim, tokens.len(), from.dtype.size());
        if from.bytes.len() != self.width() * count * given {
            return None;
        }
        let stored = self.kind.row_bytes(1);
        if half == Half::V && self.transposed {
            let mut values = vec![0.0; dim];
            for head in 0..self.kv_heads {
                for (i, token) in tokens.clone().enumerate() {
                    let vector = from.vector((head * count + i) * dim, dim)?;
                    vector.unpack(&mut values);
                    for (d, value) in values.iter().enumerate() {
                        let at = ((head * dim + d) * cells + token) * stored;
                        let to = plane.get_mut(at..at + stored)?;
                        elements::put(self.kind.canonical(), std::slice::from_ref(value), to);
                    }
                }
            }
            return Some(());
        }
        let row_bytes = self.row_bytes();
        let rows = plane.get_mut(tokens.start * row_bytes..tokens.end * row_bytes)?;
        let is_interleaved = half == Half::K && self.interleaved;
        let is_as_given = self.kind != CacheType::Q8 && from.dtype == self.kind.canonical();
        let (mut values, mut pairs) = (vec![0.0; self.width()], vec![0; dim * given]);
        let copy = self.copies(cells);
        let done = wide(
            #[inline(always)]
            || {
                for (i, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
                    for head in 0..self.kv_heads {
                        let mut vector = from.vector((head * count + i) * dim, dim)?;
                        if is_interleaved {
                            elements::join_pairs(given, vector.bytes, &mut pairs);
                            vector.bytes = &pairs;
                        }
                        if is_as_given {
                            copy(row.get_mut(head * dim * given..(head + 1) * dim * given)?, vector.bytes);
                        } else {
                            vector.unpack(values.get_mut(head * dim..(head + 1) * dim)?);
                        }
                    }
                    if !is_as_given {
                        encode_row(self.kind, &mut values, row, self.rotation(half));
                    }
                }
                Some(())
            },
        );
        fence();
        done
    }
}

/// Copies a head's elements, which are as many on both sides: a few cache lines, for which a call of memcpy takes longer than the
/// copy.
fn copy_lines(to: &mut [u8], from: &[u8]) {
    let ((to_lines, to_rest), (from_lines, from_rest)) = (to.as_chunks_mut::<64>(), from.as_chunks::<64>());
    to_lines.iter_mut().zip(from_lines).for_each(|(to, from)| *to = *from);
    to_rest.copy_from_slice(from_rest);
}
