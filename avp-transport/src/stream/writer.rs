//! Frames onto a byte stream: vectored writes of head and payload, small frames gathered on request.

use std::io::{self, IoSlice};

use avp_wire::EncodedFrame;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::link::Result;
use crate::sender::{Outbox, Standing};

/// Frames up to this size are worth copying together when they are fed.
const GATHER_FRAME: usize = 16 << 10;

/// What is still to be written to a stream.
pub(super) struct StreamOutbox<W> {
    io: W,
    gathered: BytesMut,
    head: Bytes,
    payload: Bytes,
    /// Whether a byte of `head` or `payload` has gone, so that the frame must be completed.
    begun: bool,
}

impl<W> StreamOutbox<W> {
    pub(super) fn new(io: W) -> Self {
        let (head, payload) = (Bytes::new(), Bytes::new());
        Self { io, gathered: BytesMut::new(), head, payload, begun: false }
    }

    fn advance(&mut self, mut bytes: usize) {
        let gathered = bytes.min(self.gathered.len());
        self.gathered.advance(gathered);
        bytes -= gathered;
        let head = bytes.min(self.head.len());
        self.head.advance(head);
        let payload = (bytes - head).min(self.payload.len());
        self.payload.advance(payload);
        self.begun = (self.begun || bytes > 0) && !(self.head.is_empty() && self.payload.is_empty());
    }
}

impl<W: AsyncWrite + Unpin + Send> Outbox for StreamOutbox<W> {
    fn is_small(&self, frame: &EncodedFrame) -> bool {
        frame.len() <= GATHER_FRAME
    }

    fn gathered(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    async fn put(&mut self, frame: EncodedFrame, _: &mut Standing) -> Result<()> {
        self.head = frame.head;
        self.payload = frame.payload;
        Ok(())
    }

    fn left(&self) -> usize {
        self.gathered.len() + self.head.len() + self.payload.len()
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn forget(&mut self) {
        self.head.clear();
        self.payload.clear();
    }

    async fn write(&mut self) -> io::Result<usize> {
        let parts = [IoSlice::new(&self.gathered), IoSlice::new(&self.head), IoSlice::new(&self.payload)];
        let written = self.io.write_vectored(&parts).await?;
        self.advance(written);
        Ok(written)
    }

    /// A stream such as TLS may have taken the last bytes without passing them on.
    async fn flush(&mut self) -> io::Result<()> {
        self.io.flush().await
    }

    async fn end(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }
}
