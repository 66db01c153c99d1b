//! The sending half of a QUIC stream. Payloads go to quinn as they are; only small frames are copied together.

use std::io;
use std::sync::Arc;

use avp_wire::EncodedFrame;
use bytes::{Buf, Bytes, BytesMut};
use quinn::{SendStream, WriteError};

use super::fault;
use super::link::{self, Link};
use crate::link::Result;
use crate::sender::{Outbox, Sender, Standing};

/// Frames up to this size are copied together, or head and payload of one.
const SMALL_FRAME: usize = 16 << 10;
/// What quinn is given at a time: it counts a piece against the send window until all of it is acknowledged.
const PIECE: usize = 256 << 10;

/// Frames onto a QUIC stream.
pub(super) type QuicSender = Sender<QuicOutbox>;

impl QuicSender {
    /// Onto the connection's first stream, which may still have to come.
    pub(super) fn first(link: Arc<Link>) -> Self {
        Self::onto(link, None, true)
    }

    /// Onto a further stream. A peer that stops reading it has dropped a transfer, which is no failure: what is sent on
    /// it then goes nowhere.
    pub(super) fn further(link: Arc<Link>, stream: SendStream) -> Self {
        Self::onto(link, Some(stream), false)
    }

    fn onto(link: Arc<Link>, stream: Option<SendStream>, is_first: bool) -> Self {
        let outbox = QuicOutbox {
            link: Arc::clone(&link),
            stream,
            is_first,
            gathered: BytesMut::new(),
            parts: Default::default(),
            begun: false,
            unwanted: false,
        };
        Self::over(outbox, link.peer().to_owned(), link.options(), link.meter().clone())
    }
}

/// What quinn has not taken.
pub(super) struct QuicOutbox {
    link: Arc<Link>,
    stream: Option<SendStream>,
    is_first: bool,
    /// Frames held back.
    gathered: BytesMut,
    /// Whole small frames, then head and payload of a large one.
    parts: [Bytes; 3],
    /// Whether a byte of the frame in `parts` has gone, so that it must be completed.
    begun: bool,
    /// The peer takes no more of a stream that it may choose not to take.
    unwanted: bool,
}

impl QuicOutbox {
    fn advance(&mut self, mut bytes: usize) {
        for (part, begins) in self.parts.iter_mut().zip([false, true, true]) {
            let gone = bytes.min(part.len());
            part.advance(gone);
            bytes -= gone;
            self.begun |= begins && gone > 0;
        }
        self.begun &= self.parts.iter().any(|part| !part.is_empty());
    }

    /// Drops all that is left; gives how much that was.
    fn discard(&mut self) -> usize {
        let left = self.left();
        self.gathered.clear();
        self.parts = Default::default();
        self.begun = false;
        left
    }
}

impl Outbox for QuicOutbox {
    fn is_small(&self, frame: &EncodedFrame) -> bool {
        frame.len() <= SMALL_FRAME
    }

    fn gathered(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    async fn put(&mut self, frame: EncodedFrame, _: &mut Standing) -> Result<()> {
        let [_, head, payload] = &mut self.parts;
        if frame.len() <= SMALL_FRAME {
            // One piece for quinn to keep track of instead of two.
            *head = [&frame.head[..], &frame.payload[..]].concat().into();
        } else {
            *head = frame.head;
            *payload = frame.payload;
        }
        Ok(())
    }

    fn left(&self) -> usize {
        self.gathered.len() + self.parts.iter().map(Bytes::len).sum::<usize>()
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn forget(&mut self) {
        let [_, head, payload] = &mut self.parts;
        head.clear();
        payload.clear();
    }

    async fn write(&mut self) -> io::Result<usize> {
        if self.unwanted {
            return Ok(self.discard());
        }
        let [gathered, head, payload] = &mut self.parts;
        if gathered.is_empty() && !self.begun {
            *gathered = if self.gathered.len() <= SMALL_FRAME {
                // Quinn keeps it until it is acknowledged, and with it all the room that was made.
                let copy = Bytes::copy_from_slice(&self.gathered);
                self.gathered.clear();
                copy
            } else {
                self.gathered.split().freeze()
            };
        }
        let mut pieces = if self.gathered.is_empty() {
            [gathered.clone(), head.clone(), payload.slice(..payload.len().min(PIECE))]
        } else {
            // What was gathered since a write was given up goes before the frame.
            [gathered.clone(), Bytes::new(), Bytes::new()]
        };
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(self.link.first_send().await.map_err(|error| fault::lost(&error))?),
        };
        match stream.write_chunks(&mut pieces).await {
            Ok(written) => {
                self.advance(written.bytes);
                Ok(written.bytes)
            }
            Err(WriteError::Stopped(_)) if !self.is_first => {
                self.unwanted = true;
                Ok(self.discard())
            }
            Err(error) => Err(fault::writing(&error)),
        }
    }

    async fn end(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Some(stream) => {
                // Fails where the peer has stopped the stream, so that nothing more will be taken anyway.
                let _ = stream.finish();
                if self.is_first {
                    self.link.finished(stream).await;
                }
            }
            None => self.link.forgo_first_send(),
        }
        Ok(())
    }
}

impl Drop for QuicOutbox {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if self.begun {
            link::abandon(stream);
        } else {
            // Whole frames that quinn has taken still arrive, as over TCP.
            self.link.finish(stream);
        }
    }
}
