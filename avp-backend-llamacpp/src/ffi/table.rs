//! A table of a model file (token embeddings, output head), used where it lies: rows are unpacked as they are needed.

use std::ffi::c_void;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;
use memmap2::Mmap;

use super::{Threads, unpack_q8, wide};
use crate::gguf::GgmlType;

/// Vectors that are multiplied in one go.
const AT_ONCE: usize = 16;

/// The file, mapped. Its pages are those that llama.cpp maps too.
pub(crate) struct Mapped(Mmap);

impl Mapped {
    pub(crate) fn open(path: &Path) -> std::io::Result<Arc<Self>> {
        let file = File::open(path)?;
        // SAFETY: as with every mapped model, whoever changes the file while it is in use changes the model; no
        // memory outside of the mapping is reached by it, since lengths were checked once and are not read again.
        Ok(Arc::new(Self(unsafe { Mmap::map(&file) }?)))
    }
}

/// Rows of a type that ggml can unpack.
#[derive(Clone)]
pub(crate) struct Table {
    file: Arc<Mapped>,
    bytes: Range<usize>,
    kind: GgmlType,
    width: usize,
    row_bytes: usize,
}

impl Table {
    /// The table at `bytes` of the file, in rows of `width`. `None` where it is not whole rows of a type that can be unpacked.
    pub(crate) fn new(file: Arc<Mapped>, bytes: Range<usize>, kind: GgmlType, width: usize) -> Option<Self> {
        let inside = file.0.get(bytes.clone())?;
        // SAFETY: gives null or a pointer to a static for types that it knows; the number is one of a checked file.
        let traits =
            (kind.id() < sys::GGML_TYPE_COUNT).then(|| unsafe { sys::ggml_get_type_traits(kind.id()) })?;
        // SAFETY: a static of the library.
        let traits = unsafe { traits.as_ref() }?;
        let block = usize::try_from(traits.blck_size).ok().filter(|&block| block > 0)?;
        let row_bytes = width.is_multiple_of(block).then(|| width / block * traits.type_size)?;
        let is_whole = row_bytes > 0 && inside.len().is_multiple_of(row_bytes);
        (is_whole && (kind == GgmlType::F32 || traits.to_float.is_some())).then_some(Self {
            file,
            bytes,
            kind,
            width,
            row_bytes,
        })
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// Unpacks row `index` to `out`, which is as wide. `false` where there is no such row.
    pub(crate) fn unpack(&self, index: usize, out: &mut [f32]) -> bool {
        let from = index.saturating_mul(self.row_bytes);
        let Some(row) = self.all().get(from..from.saturating_add(self.row_bytes)) else { return false };
        if out.len() != self.width {
            return false;
        }
        if self.kind == GgmlType::F32 {
            for (out, value) in out.iter_mut().zip(row.chunks_exact(4)) {
                *out = f32::from_le_bytes(value.try_into().unwrap_or_default());
            }
            return true;
        }
        let width = i64::try_from(self.width).unwrap_or(0);
        // SAFETY: `row` holds `width` elements, `out` as many floats; ggml is started with the model. For half types ggml has faster functions than its table names.
        match self.kind {
            GgmlType::F16 => unsafe {
                sys::ggml_cpu_fp16_to_fp32(row.as_ptr().cast(), out.as_mut_ptr(), width)
            },
            GgmlType::BF16 => unsafe {
                sys::ggml_cpu_bf16_to_fp32(row.as_ptr().cast(), out.as_mut_ptr(), width)
            },
            GgmlType::Q8_0 => wide(
                #[inline(always)]
                || unpack_q8(row, out),
            ),
            _ => return self.unpack_blocks(row, out, width),
        }
        true
    }

    fn unpack_blocks(&self, row: &[u8], out: &mut [f32], width: i64) -> bool {
        // SAFETY: checked when the table was made.
        let unpack = unsafe { (*sys::ggml_get_type_traits(self.kind.id())).to_float };
        let Some(unpack) = unpack else { return false };
        // SAFETY: `row` holds the blocks of `width` elements, `out` as many floats.
        unsafe { unpack(row.as_ptr().cast::<c_void>(), out.as_mut_ptr(), width) };
        true
    }

    /// Products of each of `vectors [n, width]` with each row: `[n, rows]`. `None` where there is no memory for it.
    pub(crate) fn product(&self, vectors: &[f32], threads: &Threads) -> Option<Vec<f32>> {
        let mut out = Vec::new();
        out.try_reserve_exact(self.rows().checked_mul(vectors.len() / self.width)?).ok()?;
        for vectors in vectors.chunks(self.width * AT_ONCE) {
            self.product_of_some(vectors, threads, &mut out)?;
        }
        Some(out)
    }

    /// ggml ends the process where it gets no memory: so that it needs little, only a few at once.
    fn product_of_some(&self, vectors: &[f32], threads: &Threads, out: &mut Vec<f32>) -> Option<()> {
        let count = vectors.len() / self.width;
        let (width, rows, n) =
            (i64::try_from(self.width).ok()?, i64::try_from(self.rows()).ok()?, i64::try_from(count).ok()?);
        let bytes = (vectors.len() + self.rows().checked_mul(count)?).checked_mul(4)?;
        // Beside the tensors' elements there is a graph.
        let memory = bytes.checked_add(1 << 20)?;
        let params =
            sys::ggml_init_params { mem_size: memory, mem_buffer: std::ptr::null_mut(), no_alloc: false };
        // SAFETY: takes nothing of ours.
        let arena = Arena(NonNull::new(unsafe { sys::ggml_init(params) })?);
        let context = arena.0.as_ptr();
        // SAFETY: the arena was made large enough for what follows. The table's tensor is made without memory of its own and
        // then points at the mapping, which outlives the computation and is only read.
        unsafe {
            sys::ggml_set_no_alloc(context, true);
            let table = sys::ggml_new_tensor_2d(context, self.kind.id(), width, rows);
            (*table).data = self.all().as_ptr().cast_mut().cast::<c_void>();
            sys::ggml_set_no_alloc(context, false);
            let input = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F32, width, n);
            std::ptr::copy_nonoverlapping(vectors.as_ptr(), (*input).data.cast::<f32>(), self.width * count);
            let product = sys::ggml_mul_mat(context, table, input);
            let graph = sys::ggml_new_graph(context);
            sys::ggml_build_forward_expand(graph, product);
            let mut plan = sys::ggml_graph_plan(graph, threads.count(), threads.as_ptr());
            let mut work = vec![0_u8; plan.work_size];
            plan.work_data = work.as_mut_ptr();
            let _pass = threads.lock();
            if sys::ggml_graph_compute(graph, &raw mut plan) != sys::GGML_STATUS_SUCCESS {
                return None;
            }
            let products = (*product).data.cast::<f32>();
            out.extend_from_slice(std::slice::from_raw_parts(products, self.rows() * count));
            Some(())
        }
    }

    fn all(&self) -> &[u8] {
        self.file.0.get(self.bytes.clone()).unwrap_or_default()
    }
}

struct Arena(NonNull<sys::ggml_context>);

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: nothing else owns it.
        unsafe { sys::ggml_free(self.0.as_ptr()) };
    }
}
