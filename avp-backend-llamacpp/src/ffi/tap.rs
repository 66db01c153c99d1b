//! What the callback of a graph takes out of it as it is computed: [`Tap`].

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

/// The tensor that the output head multiplies.
const HIDDEN: &CStr = c"result_norm";
/// What the tensors of a cache are called, before the number of their layer.
const PLANES: [&[u8]; 2] = [b"cache_k_l", b"cache_v_l"];

/// Hidden states, and where the cache is.
pub(super) struct Tap {
    pub(super) hidden: Vec<f32>,
    /// K and V of each layer; null where they were not seen.
    planes: Vec<[*const sys::ggml_tensor; 2]>,
    /// Whether some were not.
    looks: bool,
    /// Whether the rest of the graph, the output head, is left out.
    pub(super) stops: bool,
    /// Whether the hidden states were seen where they can be read, in f32.
    pub(super) seen: bool,
}

/// A [`Tap`] whose address llama.cpp keeps, and through which alone it is reached here and there.
pub(super) struct TapCell(NonNull<Tap>);

impl TapCell {
    pub(super) fn new(layers: usize) -> Self {
        let planes = vec![[std::ptr::null(); 2]; layers];
        let tap = Tap { hidden: Vec::new(), planes, looks: true, stops: false, seen: false };
        Self(NonNull::from(Box::leak(Box::new(tap))))
    }

    /// For [`tapped`].
    pub(super) fn as_ptr(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    pub(super) fn get(&self) -> &Tap {
        // SAFETY: it lives until this is dropped; the callback runs within passes alone, which take `&mut` of this.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn get_mut(&mut self) -> &mut Tap {
        // SAFETY: as above.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for TapCell {
    fn drop(&mut self) {
        // SAFETY: it was a box, and is dropped once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Tap {
    /// The memory of K and V of each layer, if each is one piece in this process.
    pub(super) fn planes(&self) -> Option<Vec<[NonNull<[u8]>; 2]>> {
        // SAFETY: the tensors of a cache live as long as its context, and so as long as this.
        let plane = |tensor| unsafe { elements(tensor) };
        self.planes.iter().map(|[k, v]| Some([plane(*k)?, plane(*v)?])).collect()
    }

    /// Keeps a tensor of the cache. Its name says what it is.
    ///
    /// # Safety
    /// `tensor` is null or alive.
    unsafe fn see(&mut self, tensor: *const sys::ggml_tensor) {
        if tensor.is_null() {
            return;
        }
        // SAFETY: the tensor is alive, and its name ends with a zero byte.
        let name = unsafe { CStr::from_ptr(sys::ggml_get_name(tensor)) }.to_bytes();
        for (half, prefix) in PLANES.into_iter().enumerate() {
            let layer = name.strip_prefix(prefix).and_then(|layer| std::str::from_utf8(layer).ok());
            let layer = layer.and_then(|layer| layer.parse::<usize>().ok());
            let planes = layer.and_then(|layer| self.planes.get_mut(layer));
            if let Some(plane) = planes.and_then(|planes| planes.get_mut(half)) {
                *plane = tensor;
                self.looks = self.planes.iter().flatten().any(|plane| plane.is_null());
            }
        }
    }

    /// Keeps hidden states.
    ///
    /// # Safety
    /// `tensor` is computed.
    unsafe fn take(&mut self, tensor: *const sys::ggml_tensor) {
        // SAFETY: the tensor is alive.
        let (kind, bytes) = unsafe { ((*tensor).type_, sys::ggml_nbytes(tensor)) };
        // SAFETY: as above.
        if kind != sys::GGML_TYPE_F32 || !unsafe { sys::ggml_is_contiguous(tensor) } {
            return;
        }
        let from = self.hidden.len();
        self.hidden.resize(from + bytes / size_of::<f32>(), 0.0);
        if let Some(out) = self.hidden.get_mut(from..) {
            // SAFETY: `out` has as many bytes as the tensor.
            unsafe { sys::ggml_backend_tensor_get(tensor, out.as_mut_ptr().cast::<c_void>(), 0, bytes) };
        }
        self.seen = true;
    }
}

/// The memory of a tensor, if it is one piece in this process.
///
/// # Safety
/// `tensor` is null or alive.
unsafe fn elements(tensor: *const sys::ggml_tensor) -> Option<NonNull<[u8]>> {
    // SAFETY: as said above.
    let tensor = unsafe { tensor.as_ref() }?;
    // SAFETY: the tensor is alive, and so is its buffer.
    let is_here =
        unsafe { sys::ggml_is_contiguous(tensor) && sys::ggml_backend_buffer_is_host(tensor.buffer) };
    let data = NonNull::new(tensor.data.cast::<u8>()).filter(|_| is_here)?;
    // SAFETY: the tensor is alive.
    Some(NonNull::slice_from_raw_parts(data, unsafe { sys::ggml_nbytes(tensor) }))
}

/// Asked for each tensor whether it is wanted, and given it when it is computed. `tap` is that of a [`TapCell`].
pub(super) unsafe extern "C" fn tapped(tensor: *mut sys::ggml_tensor, ask: bool, tap: *mut c_void) -> bool {
    // SAFETY: the cell lives as long as the context, and only the thread that decodes is here.
    let tap = unsafe { &mut *tap.cast::<Tap>() };
    if ask && tap.looks {
        // SAFETY: what a tensor is a view of lives as long as the tensor.
        unsafe { tap.see((*tensor).view_src) };
    }
    // SAFETY: llama.cpp gives a tensor of its graph, whose name ends with a zero byte.
    let is_hidden = unsafe { CStr::from_ptr(sys::ggml_get_name(tensor)) } == HIDDEN;
    if ask || !is_hidden {
        return is_hidden;
    }
    // SAFETY: it was asked for, and is computed.
    unsafe { tap.take(tensor) };
    !tap.stops
}
