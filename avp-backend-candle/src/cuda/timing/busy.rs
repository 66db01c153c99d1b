//! What a GPU takes for work that is queued before it begins, so that it never waits for the host to launch the next of it.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, sys::CUevent_flags};
use candle_core::cuda_backend::{CudaDevice, WrapErr};

/// Bytes of a copy that keeps a device busy: large, because each takes a place in its queue.
const COPY: usize = 1 << 30;

/// Keeps the stream of a device busy with copies, behind which work is queued.
#[derive(Debug)]
pub(crate) struct Busy {
    stream: Arc<CudaStream>,
    from: CudaSlice<u8>,
    to: CudaSlice<u8>,
    /// Seconds that one copy takes.
    copy: f64,
}

/// Work that is being queued behind copies.
#[derive(Debug)]
pub(crate) struct Queueing<'a> {
    stream: &'a CudaStream,
    start: CudaEvent,
}

impl Busy {
    /// Takes 2 GiB of the device.
    pub(crate) fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let (from, to) = (stream.alloc_zeros(COPY).w()?, stream.alloc_zeros(COPY).w()?);
        let mut busy = Self { stream, from, to, copy: 0.0 };
        // The first warms up.
        for _ in 0..2 {
            let start = busy.event()?;
            busy.copy()?;
            busy.copy = seconds_between(&start, &busy.event()?)?;
        }
        Ok(busy)
    }

    /// Keeps the device busy for `seconds`, in which what comes behind is to be queued.
    pub(crate) fn begin(&mut self, seconds: f64) -> Result<Queueing<'_>> {
        self.stream.synchronize().w()?;
        let mut ahead = 0.0;
        while ahead < seconds {
            self.copy()?;
            // At least one, and an end, whatever a copy was measured to take.
            ahead += self.copy.max(1e-5);
        }
        Ok(Queueing { start: self.event()?, stream: &self.stream })
    }

    fn copy(&mut self) -> Result<()> {
        self.stream.memcpy_dtod(&self.from, &mut self.to).w()
    }

    fn event(&self) -> Result<CudaEvent> {
        event(&self.stream)
    }
}

impl Queueing<'_> {
    /// Whether the device is still busy with the copies: what was queued so far has not begun.
    pub(crate) fn is_ahead(&self) -> Result<bool> {
        self.start.try_is_complete().w().map(|begun| !begun)
    }

    /// Seconds of what was queued since, on the device. Waits for it.
    pub(crate) fn seconds(self) -> Result<f64> {
        seconds_between(&self.start, &event(self.stream)?)
    }
}

fn event(stream: &CudaStream) -> Result<CudaEvent> {
    stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).w()
}

fn seconds_between(start: &CudaEvent, end: &CudaEvent) -> Result<f64> {
    Ok(f64::from(start.elapsed_ms(end).w()?) / 1e3)
}
