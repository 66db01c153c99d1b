//! Handing a context over within a session, slab by slab (docs/spec/slabs.md, 8): the sending side.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use avp_handshake::Reject;
use avp_transport::{Options as TransportOptions, Transfer};
use avp_wire::slab::{Ack, SlabError};
use avp_wire::{EncodeOptions, Frame, Metadata};
use tokio::task::JoinHandle;

use crate::ask_error::AskError;
use crate::outgoing::{OutgoingContext, SourceError};

/// Rounds in which a receiver may ask for slabs that it was sent. Each costs it a damaged frame.
const MAX_ROUNDS: usize = 16;
/// Slabs that are read and hashed while others are being sent.
const AHEAD: usize = 2;
/// A slab carries its digest, so a checksum would say nothing more.
const WITHOUT_CHECKSUM: EncodeOptions = EncodeOptions { compression: None, checksum: false, align: false };

/// How far a handover has come. A receiver that had a part of it before starts there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Slabs that the receiver has or that were sent.
    pub slabs: u64,
    /// Slabs of the context.
    pub of: u64,
    /// Bytes of slabs that were sent now.
    pub sent: u64,
}

/// A handover that a receiver has taken up: it has said what it lacks.
pub(crate) struct Delivery<'a> {
    lane: &'a mut Transfer,
    context: &'a OutgoingContext,
    stamp: &'a Metadata,
    options: &'a TransportOptions,
    asked: Ack,
    progress: Handed,
}

impl<'a> Delivery<'a> {
    /// Sends the manifest and waits for what the receiver says to it. `stamp` says between whom frames travel,
    /// `described` what the context is.
    pub(crate) async fn offer(
        lane: &'a mut Transfer,
        context: &'a OutgoingContext,
        described: Metadata,
        stamp: &'a Metadata,
        options: &'a TransportOptions,
    ) -> Result<Self, AskError> {
        let frame = context.manifest().to_frame(described, context.transfer());
        lane.send(frame, &EncodeOptions::default()).await?;
        let asked = ack(lane.recv().await?, context)?;
        let of = context.manifest().slab_count();
        let progress = Handed { slabs: of.saturating_sub(u64::from(asked.missing())), of, sent: 0 };
        Ok(Self { lane, context, stamp, options, asked, progress })
    }

    /// The way to the receiver, for what is to go before the slabs.
    pub(crate) fn lane(&self) -> &Transfer {
        self.lane
    }

    /// Sends what is missing until nothing is. Gives the bytes that were sent.
    pub(crate) async fn complete(mut self, on: &(dyn Fn(Handed) + Sync)) -> Result<u64, AskError> {
        on(self.progress);
        for _ in 0..MAX_ROUNDS {
            if self.asked.is_complete() {
                return Ok(self.progress.sent);
            }
            self.asked = match self.send_asked(on).await? {
                Some(early) => early,
                None => ack(self.lane.recv().await?, self.context)?,
            };
            let missing = u64::from(self.asked.missing());
            self.progress.slabs = self.progress.of.saturating_sub(missing);
        }
        if self.asked.is_complete() {
            return Ok(self.progress.sent);
        }
        Err(AskError::Damaged { rounds: MAX_ROUNDS })
    }

    /// Sends one round of slabs, unless the receiver says something before.
    async fn send_asked(&mut self, on: &(dyn Fn(Handed) + Sync)) -> Result<Option<Ack>, AskError> {
        let indices: Vec<u32> = self.asked.indices().collect();
        let mut indices = indices.into_iter();
        let mut read: VecDeque<_> = indices.by_ref().take(AHEAD).map(|index| self.read(index)).collect();
        while let Some(next) = read.pop_front() {
            let frame = next.await.map_err(|_| AskError::Lost)??;
            read.extend(indices.next().map(|index| self.read(index)));
            self.progress.sent += frame.payload.len() as u64;
            self.lane.send(frame, &WITHOUT_CHECKSUM).await?;
            self.progress.slabs += 1;
            on(self.progress);
            if let Some(word) = ready(self.lane).await? {
                return ack(Some(word), self.context).map(Some);
            }
        }
        Ok(None)
    }

    /// Reads and hashes slab `index` on a blocking thread.
    fn read(&self, index: u32) -> JoinHandle<Result<Frame, SourceError>> {
        let (context, stamp) = (self.context.clone(), self.stamp.clone());
        let pool = self.options.pool.clone();
        tokio::task::spawn_blocking(move || {
            let outside = SlabError::Missing { count: 1, first: index };
            context.slab(index, stamp, &pool)?.ok_or(SourceError::Slab(outside))
        })
    }
}

/// What has come and not been taken, without waiting.
async fn ready(lane: &mut Transfer) -> Result<Option<Frame>, AskError> {
    let mut next = pin!(lane.recv());
    let polled = poll_fn(|context| match next.as_mut().poll(context) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending => Poll::Ready(None),
    });
    match polled.await {
        None => Ok(None),
        Some(Ok(None)) => Err(AskError::Closed),
        Some(frame) => Ok(frame?),
    }
}

fn ack(frame: Option<Frame>, context: &OutgoingContext) -> Result<Ack, AskError> {
    let frame = frame.ok_or(AskError::Closed)?;
    match Ack::from_frame(&frame, context.manifest(), context.transfer()) {
        Err(SlabError::NotAck) => match Reject::from_frame(&frame) {
            Some(Reject { code, message }) => Err(AskError::Refused { code, message }),
            None => Err(AskError::Protocol(SlabError::NotAck)),
        },
        other => other.map_err(AskError::Protocol),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use avp_transport::{Transfers, memory_pair};
    use avp_wire::ext::FrameKind;
    use avp_wire::slab::{Delivery as Incoming, Manifest, SlabId};
    use avp_wire::{KvDtype, KvHeader, Limits};

    use super::*;
    use crate::outgoing::SlabSource;

    const LONG: Duration = Duration::from_secs(60);

    /// A cache whose last layer cannot be read before the first has arrived.
    struct Lagging(Mutex<Receiver<()>>);

    impl SlabSource for Lagging {
        fn read(&self, manifest: &Manifest, id: &SlabId, out: &mut [u8]) -> Result<(), SourceError> {
            if id.first_layer + id.layers == manifest.kv.num_layers {
                self.0.lock().unwrap().recv_timeout(LONG).expect("the first layer arrives meanwhile");
            }
            manifest.slab_header(id).write_to(out).unwrap().fill(0);
            Ok(())
        }
    }

    #[tokio::test]
    async fn slabs_leave_while_later_layers_are_still_being_read() {
        let kv = KvHeader { num_layers: 6, num_kv_heads: 1, head_dim: 2, seq_len: 3, dtype: KvDtype::F16 };
        let (arrived, first) = channel();
        let source = Arc::new(Lagging(Mutex::new(first)));
        let context = OutgoingContext::new(Metadata::default(), Manifest::new(kv, 1, 3), source);
        let options = TransportOptions::default();
        let (left, right) = memory_pair("lagging", &options);
        let (left, right) = (Transfers::over(left), Transfers::over(right));
        let mut lane = left.open(context.transfer().as_str()).unwrap();
        let receiver = tokio::spawn(async move {
            let mut lane = right.accept().await.unwrap().unwrap();
            let (manifest, id) = Manifest::from_frame(&lane.recv().await.unwrap().unwrap()).unwrap();
            let mut incoming = Incoming::new(manifest, id.clone(), &Limits::default()).unwrap();
            let (mut ack, mut round) = incoming.begin(&manifest).unwrap();
            while !ack.is_complete() {
                lane.send(ack.to_frame(Metadata::default(), &id), &EncodeOptions::default()).await.unwrap();
                for _ in 0..ack.missing() {
                    let slab = lane.recv().await.unwrap().unwrap();
                    assert_eq!(slab.kind(), Ok(Some(FrameKind::Slab)));
                    incoming.insert(&slab).unwrap();
                    round.count();
                    if incoming.reassembly().arrived() == 1 {
                        arrived.send(()).unwrap();
                    }
                }
                ack = incoming.answer(&mut round).unwrap().unwrap();
            }
            lane.send(ack.to_frame(Metadata::default(), &id), &EncodeOptions::default()).await.unwrap();
        });
        let described = context.metadata().clone();
        let delivery = Delivery::offer(&mut lane, &context, described.clone(), &described, &options).await;
        assert!(delivery.unwrap().complete(&|_| ()).await.unwrap() > 0);
        receiver.await.unwrap();
    }
}
