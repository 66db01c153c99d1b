//! The receiving half of a transport: how far the next frame has come, and what ends it all. What brings the bytes is
//! its inbox's.

use std::fmt;
use std::future::{Future, ready};

use avp_wire::{Frame, FrameHead};

use crate::error::{TransportError, UsageError};
use crate::intake::{Arrived, Checking, Intake};
use crate::link::{BoxFuture, FrameReceiver, Result};
use crate::work::Check;

/// What brings the frames of one peer. What was read is kept by the inbox or in its payload and not in a future, so a
/// dropped future loses nothing. After an error that is not recoverable it is asked for nothing more.
pub(crate) trait Inbox: Send {
    /// A payload that has not been taken: where it is, or how much of it is there.
    type Payload: Send;

    /// Brings the next head, and leads to its payload; `None` once the peer has finished.
    fn next(
        &mut self,
        intake: &mut Intake,
    ) -> impl Future<Output = Result<Option<(FrameHead, Self::Payload)>>> + Send;

    /// Brings all of a payload and claims its memory. After a recoverable error it can be tried again.
    fn take(
        &mut self,
        intake: &Intake,
        head: &FrameHead,
        payload: &mut Self::Payload,
    ) -> impl Future<Output = Result<Arrived>> + Send;

    /// Gives up a payload.
    fn refuse(&mut self, head: &FrameHead, payload: Self::Payload);

    /// Skips what still comes of payloads that were given up; done before the next head.
    fn skip(&mut self, _: &Intake) -> impl Future<Output = Result<()>> + Send {
        ready(Ok(()))
    }

    /// Reads and drops whatever still comes, until the peer finishes.
    fn drain(&mut self, intake: &Intake) -> impl Future<Output = Result<()>> + Send;
}

/// Receives the frames that an inbox brings.
pub(crate) struct Receiver<I: Inbox> {
    inbox: I,
    intake: Intake,
    stage: Stage<I::Payload>,
}

// One per connection; boxing the head would cost an allocation per frame.
#[allow(clippy::large_enum_variant)]
enum Stage<P> {
    /// Before a head.
    Between,
    /// The head is known, the payload is not taken.
    Pending(FrameHead, P),
    /// The payload is there and being checked.
    Checking(FrameHead, Check),
    /// The peer finished.
    Ended,
    /// Nothing more can be received.
    Failed,
}

impl<I: Inbox> Receiver<I> {
    pub(crate) fn over(inbox: I, intake: Intake) -> Self {
        Self { inbox, intake, stage: Stage::Between }
    }

    pub(crate) fn into_inbox(self) -> I {
        self.inbox
    }

    /// Brings a head; `false` when the peer has finished.
    async fn await_head(&mut self) -> Result<bool> {
        match self.stage {
            Stage::Pending(..) | Stage::Checking(..) => return Ok(true),
            Stage::Ended => return Ok(false),
            Stage::Failed => return Err(self.closed()),
            Stage::Between => {}
        }
        self.inbox.skip(&self.intake).await?;
        self.stage = match self.inbox.next(&mut self.intake).await? {
            Some((head, payload)) => Stage::Pending(head, payload),
            None => Stage::Ended,
        };
        Ok(matches!(self.stage, Stage::Pending(..)))
    }

    async fn take(&mut self) -> Result<Frame> {
        if let Stage::Pending(head, payload) = &mut self.stage {
            let arrived = self.inbox.take(&self.intake, head, payload).await?;
            if let Stage::Pending(head, _) = std::mem::replace(&mut self.stage, Stage::Between) {
                match self.intake.check(head, arrived) {
                    Checking::Done(frame) => return frame,
                    Checking::Running(head, check) => self.stage = Stage::Checking(head, check),
                }
            }
        }
        let Stage::Checking(head, check) = &mut self.stage else {
            return Err(self.no_head());
        };
        let frame = self.intake.checked(head, check).await;
        self.stage = Stage::Between;
        frame
    }

    async fn next(&mut self) -> Result<Option<Frame>> {
        if self.await_head().await? { self.take().await.map(Some) } else { Ok(None) }
    }

    async fn give_up(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.stage, Stage::Between) {
            Stage::Pending(head, payload) => self.inbox.refuse(&head, payload),
            Stage::Checking(..) => {}
            other => {
                self.stage = other;
                return Err(self.no_head());
            }
        }
        self.intake.refused()?;
        self.inbox.skip(&self.intake).await
    }

    fn closed(&self) -> TransportError {
        UsageError::Closed { peer: self.intake.peer.clone() }.into()
    }

    fn no_head(&self) -> TransportError {
        if matches!(self.stage, Stage::Failed) { self.closed() } else { UsageError::NoHead.into() }
    }

    /// What the caller gets: an error that is the peer's fault counts, one that is not recoverable is the end.
    fn noted<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if outcome.as_ref().is_err_and(|error| !error.is_recoverable()) {
            self.stage = Stage::Failed;
        }
        self.intake.meter.faulted(outcome)
    }
}

impl<I: Inbox> FrameReceiver for Receiver<I> {
    fn head(&mut self) -> BoxFuture<'_, Result<Option<&FrameHead>>> {
        Box::pin(async move {
            let there = self.await_head().await;
            self.noted(there)?;
            match &self.stage {
                Stage::Pending(head, _) | Stage::Checking(head, _) => Ok(Some(head)),
                _ => Ok(None),
            }
        })
    }

    fn payload(&mut self) -> BoxFuture<'_, Result<Frame>> {
        Box::pin(async move {
            let frame = self.take().await;
            self.noted(frame)
        })
    }

    fn refuse(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let refused = self.give_up().await;
            self.noted(refused)
        })
    }

    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Frame>>> {
        Box::pin(async move {
            let frame = self.next().await;
            self.noted(frame)
        })
    }

    fn restrict(&mut self, bytes: u64) {
        self.intake.restrict(bytes);
    }

    fn unrestrict(&mut self) {
        self.intake.unrestrict();
    }

    fn drain(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if !matches!(self.stage, Stage::Ended) {
                self.stage = Stage::Failed;
                self.inbox.drain(&self.intake).await?;
                self.stage = Stage::Ended;
            }
            Ok(())
        })
    }
}

impl<I: Inbox> fmt::Debug for Receiver<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("peer", &self.intake.peer).finish_non_exhaustive()
    }
}
