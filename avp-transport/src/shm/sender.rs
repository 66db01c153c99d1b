//! Frames into a connection over shared memory: small ones through the socket, large payloads by reference.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use avp_wire::EncodedFrame;
use bytes::{Buf, BytesMut};
use rustix::net::Shutdown;

use super::lending::{LOOK_FRAMES, Lending};
use super::link;
use super::options::ShmMode;
use super::placing::Placing;
use super::socket::Socket;
use super::wire::Record;
use crate::error::PeerFault;
use crate::link::Result;
use crate::sender::{Outbox, Standing};

/// What is still to be written to the socket, and the memory that it speaks of.
pub(super) struct ShmOutbox {
    socket: Arc<Socket>,
    placing: Placing,
    out: BytesMut,
    /// What goes beside the bytes of `out`, by offset.
    descriptors: VecDeque<(usize, OwnedFd)>,
    /// The frame at the end of `out`, until it is written or given up.
    last: Option<Last>,
    /// Small frames since the peer's words about payloads were last looked at.
    unlooked: u32,
}

/// A frame that a dropped future takes with it, if none of its bytes has gone.
struct Last {
    start: usize,
    token: Option<u64>,
    /// Descriptors that are its alone.
    descriptors: usize,
    begun: bool,
}

impl ShmOutbox {
    pub(super) fn new(socket: Arc<Socket>, lending: Arc<Lending>, mode: ShmMode) -> Self {
        let placing = Placing::new(lending, mode);
        Self { socket, placing, out: BytesMut::new(), descriptors: VecDeque::new(), last: None, unlooked: 0 }
    }

    /// Puts a frame whose payload lies in memory.
    async fn refer(&mut self, frame: EncodedFrame, standing: &mut Standing) -> Result<()> {
        let (placed, token) = self.placing.lend(&frame.payload, standing).await?;
        for (record, descriptor) in placed.before {
            self.record(record, descriptor);
        }
        self.begin_frame(token, usize::from(placed.own.is_some()));
        if let Some((record, descriptor)) = placed.own {
            self.record(record, Some(descriptor));
        }
        let (segment, offset, token) = (placed.segment, placed.offset, token.unwrap_or_default());
        self.record(Record::Payload { segment, offset, token }, None);
        self.out.extend_from_slice(&frame.head);
        Ok(())
    }

    fn begin_frame(&mut self, token: Option<u64>, descriptors: usize) {
        self.last = Some(Last { start: self.out.len(), token, descriptors, begun: false });
    }

    fn record(&mut self, record: Record, descriptor: Option<OwnedFd>) {
        if let Some(descriptor) = descriptor {
            self.descriptors.push_back((self.out.len(), descriptor));
        }
        self.out.extend_from_slice(&record.encode());
    }

    fn advance(&mut self, sent: usize) {
        self.out.advance(sent);
        if self.descriptors.front().is_some_and(|(at, _)| *at == 0) {
            self.descriptors.pop_front();
        }
        for (at, _) in &mut self.descriptors {
            *at = at.saturating_sub(sent);
        }
        if let Some(last) = &mut self.last {
            last.begun |= sent > last.start;
            last.start = last.start.saturating_sub(sent);
        }
        if self.out.is_empty() {
            self.last = None;
        }
    }
}

impl Outbox for ShmOutbox {
    fn is_small(&self, frame: &EncodedFrame) -> bool {
        frame.payload.len() <= self.placing.lending.inline
    }

    fn gathered(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    async fn put(&mut self, frame: EncodedFrame, standing: &mut Standing) -> Result<()> {
        if !self.is_small(&frame) {
            return self.refer(frame, standing).await;
        }
        self.unlooked += 1;
        if self.unlooked >= LOOK_FRAMES {
            self.unlooked = 0;
            if let Some(fault) = self.placing.lending.fault() {
                let peer = standing.peer.clone();
                return Err(standing.failed(PeerFault::SharedMemory { peer, fault }));
            }
        }
        self.begin_frame(None, 0);
        self.out.extend_from_slice(&frame.head);
        self.out.extend_from_slice(&frame.payload);
        Ok(())
    }

    fn pass(&mut self, token: u64, descriptor: OwnedFd) -> bool {
        // As of a frame: a dropped future takes it with it, if none of its bytes has gone.
        self.begin_frame(None, 1);
        self.record(Record::Descriptor { token }, Some(descriptor));
        true
    }

    fn left(&self) -> usize {
        self.out.len()
    }

    fn has_begun(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.begun)
    }

    fn forget(&mut self) {
        let Some(last) = self.last.take() else { return };
        self.out.truncate(last.start);
        self.descriptors.truncate(self.descriptors.len().saturating_sub(last.descriptors));
        if let Some(token) = last.token {
            self.placing.lending.cancel(token);
        }
    }

    async fn write(&mut self) -> io::Result<usize> {
        let Self { socket, out, descriptors, .. } = self;
        // A descriptor goes beside the first byte of its record, and a write takes one.
        let beside = descriptors.front().filter(|(at, _)| *at == 0).map(|(_, fd)| fd);
        let next = descriptors.iter().map(|(at, _)| *at).find(|&at| at > 0).unwrap_or(out.len());
        let sent = link::send(socket, out.get(..next.min(out.len())).unwrap_or_default(), beside).await?;
        self.advance(sent);
        Ok(sent)
    }

    async fn end(&mut self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&*self.socket, Shutdown::Write)?)
    }
}

impl Drop for ShmOutbox {
    fn drop(&mut self) {
        // The peer's receiver ends, also where the other half of this connection lives on.
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Write);
        self.placing.lending.end();
    }
}
