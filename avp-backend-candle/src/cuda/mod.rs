//! What is particular to a GPU: keys and values out of and into its memory.
//!
//! - `transfers`: to the host and back.
//! - `sharing`, `mapping`: to another process of this machine, without the host.
//! - `timing`: how fast the device copies, and steps.
#![allow(unsafe_code)]

mod mapping;
mod sharing;
pub(crate) mod timing;
mod transfers;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{Device, Result};
pub(crate) use sharing::Sharing;
pub(crate) use transfers::Transfers;

/// Bytes of freed memory that a device keeps for the next operation. By default it gives all back whenever the host waits for it.
const KEPT: u64 = 4 << 30;

/// The device, with one stream for everything that is computed, whichever thread asks: with a stream of each thread, as by default,
/// threads that take turns would not wait for one another.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: one stream keeps its order without events. The other one, of `Transfers`, waits for it by events of its own, and
        // what it reads is kept until it has done so.
        //
        // With them each operation costs a dozen calls of the driver more.
        unsafe { cuda.disable_event_tracking() };
        let mut kept = KEPT;
        // SAFETY: the device is one, and the attribute a number of 64 bits.
        unsafe {
            let pool = result::device::get_default_mem_pool(cuda.cuda_stream().context().cu_device()).w()?;
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, threshold, (&raw mut kept).cast()).w()?;
        }
    }
    Ok(device)
}
