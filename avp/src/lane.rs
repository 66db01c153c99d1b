//! One transfer of a session: the context that comes, and what is asked about it.

#[cfg(target_os = "linux")]
mod device;
mod questions;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use avp_backend::Context;
use avp_handshake::Reject;
use avp_transport::{Transfer, TransportError};
use avp_wire::ext::{self, FrameKind};
use avp_wire::slab::{Ack, Round, TransferId};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata, Mode, PayloadType};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::answering::{blocking, import, internal};
use crate::context_sink::ContextSink;
use crate::cross_model::{Incoming, vocabulary_frame};
use crate::incoming::{self, Answer};
use crate::session::{Session, can_go_on, is_idle};

/// How often a session is given the vocabulary.
const MAX_VOCABULARIES: usize = 4;
/// How often a peer that says nothing more, and waits for its answer, is sent a sign of life. Many transports tell only
/// by what is sent whether there is still somebody.
const SIGN_OF_LIFE: Duration = Duration::from_millis(250);

/// One transfer: a context and what is asked about it, or, with the empty id, questions without one.
pub(crate) struct Lane {
    session: Arc<Session>,
    transfer: Transfer,
    context: Given,
    /// The context's place among those of the session.
    permit: Option<OwnedSemaphorePermit>,
    /// The question that is being answered.
    answering: JoinSet<Result<Frame, Reject>>,
    /// Questions that wait for it.
    waiting: VecDeque<Frame>,
}

/// The context that came over a lane.
enum Given {
    Nothing,
    /// In one frame, for one question.
    Whole(Result<Context, Reject>),
    /// In slabs; known to later connections too. What was asked for is this one's own.
    Slabs(incoming::Shared<ContextSink>, Round),
    /// Of another model, for one question.
    Distributions(Result<Incoming, Reject>),
    /// The vocabulary, which was asked for and given: nothing more is to come.
    Vocabulary,
}

enum Step {
    Answered(Result<Frame, Reject>),
    Came(Result<Option<Frame>, TransportError>),
    /// Nothing more can come, and an answer is still being written.
    Waited,
}

impl Lane {
    pub(crate) fn new(session: &Arc<Session>, transfer: Transfer) -> Self {
        let (session, answering) = (Arc::clone(session), JoinSet::new());
        let (context, waiting) = (Given::Nothing, VecDeque::new());
        Self { session, transfer, context, permit: None, answering, waiting }
    }

    pub(crate) async fn run(mut self) {
        if let Err(error) = self.serve().await {
            tracing::debug!(%error, transfer = self.transfer.id(), "a transfer ended early");
        }
    }

    /// Serves until the lane's work is done, or the peer has ended its side and heard what was left to say.
    async fn serve(&mut self) -> Result<(), TransportError> {
        let mut open = true;
        while open || !self.answering.is_empty() {
            let flow = match self.step(open).await {
                Step::Answered(reply) => self.answered(reply).await?,
                Step::Came(Ok(Some(frame))) => self.take(frame).await?,
                Step::Came(Ok(None)) => {
                    open = false;
                    self.no_more().await?;
                    ControlFlow::Continue(())
                }
                Step::Waited => {
                    self.reply(self.bare_ack()).await?;
                    ControlFlow::Continue(())
                }
                Step::Came(Err(error)) if is_idle(&error) && can_go_on(&self.session.place, &error) => {
                    ControlFlow::Continue(())
                }
                Step::Came(Err(error)) if error.is_recoverable() && !is_idle(&error) => {
                    self.damaged(error).await?
                }
                Step::Came(Err(error)) => return Err(error),
            };
            if flow.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn step(&mut self, open: bool) -> Step {
        let Self { answering, transfer, .. } = self;
        tokio::select! {
            biased;
            Some(reply) = answering.join_next() => Step::Answered(reply.unwrap_or_else(|_| Err(internal()))),
            frame = transfer.recv(), if open => Step::Came(frame),
            () = sleep(SIGN_OF_LIFE), if !open => Step::Waited,
        }
    }

    /// The peer has ended its side. What it asked behind a context that is not whole has no answer.
    async fn no_more(&mut self) -> Result<(), TransportError> {
        let Given::Slabs(incoming, _) = &self.context else { return Ok(()) };
        let incoming = Arc::clone(incoming);
        if !matches!(blocking(move || incoming.whole()).await, Ok(None)) {
            return Ok(());
        }
        let questions = self.answering.len() + self.waiting.len();
        self.answering = JoinSet::new();
        self.waiting.clear();
        for _ in 0..questions {
            let missing =
                Reject::new(ErrorCode::SlabsMissing, "the sender ended before its context was whole");
            self.reply(missing.to_frame()).await?;
        }
        Ok(())
    }

    /// That what came of the transfer is whole; a sign of life where that was said before.
    fn bare_ack(&self) -> Frame {
        let mut metadata = self.stamp();
        metadata.extra.insert(ext::KIND.to_owned(), FrameKind::Ack.as_str().to_owned());
        Frame::new(metadata, Vec::new())
    }

    /// Says the answer, and goes on with the next question.
    async fn answered(&mut self, reply: Result<Frame, Reject>) -> Result<ControlFlow<()>, TransportError> {
        self.reply(reply.unwrap_or_else(|reject| reject.to_frame())).await?;
        while self.answering.is_empty()
            && let Some(next) = self.waiting.pop_front()
        {
            if let Err(reject) = self.question(&next) {
                self.reply(reject.to_frame()).await?;
            }
        }
        let is_over = self.answering.is_empty() && self.is_done();
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Whether nothing more is to come for a context that was asked about.
    fn is_done(&self) -> bool {
        match &self.context {
            _ if self.transfer.id().is_empty() => false,
            // One that is locked is in use.
            Given::Slabs(incoming, _) => incoming.whole_now().is_some(),
            _ => true,
        }
    }

    /// Takes a frame; breaks where the lane ends with it.
    async fn take(&mut self, frame: Frame) -> Result<ControlFlow<()>, TransportError> {
        let session = Arc::clone(&self.session);
        let _working = session.place.work();
        let kind = frame.kind();
        let refusal = match self.handle(frame).await {
            Ok(replies) => {
                for reply in replies {
                    self.reply(reply).await?;
                }
                return Ok(self.settle());
            }
            Err(refusal) => refusal,
        };
        self.reply(refusal.to_frame()).await?;
        // A sender whose manifest or question was refused has no use for the rest.
        let is_last = match kind {
            Ok(Some(FrameKind::Manifest)) => true,
            Ok(Some(FrameKind::Text)) => self.answering.is_empty() && !self.transfer.id().is_empty(),
            _ => false,
        };
        Ok(if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Gives the place of a context back that is whole, since it is kept elsewhere; breaks where one has failed.
    fn settle(&mut self) -> ControlFlow<()> {
        let incoming = match &self.context {
            Given::Slabs(incoming, _) => incoming,
            Given::Vocabulary => return ControlFlow::Break(()),
            _ => return ControlFlow::Continue(()),
        };
        match incoming.whole_now() {
            Some(Ok(_)) => {
                self.permit = None;
                ControlFlow::Continue(())
            }
            Some(Err(_)) if self.answering.is_empty() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    async fn reply(&self, frame: Frame) -> Result<(), TransportError> {
        self.transfer.send(frame, &EncodeOptions::default()).await
    }

    /// The replies to a frame; a question's comes when it is answered.
    async fn handle(&mut self, frame: Frame) -> Result<Vec<Frame>, Reject> {
        // Before anything can be wrong: the memory of a frame that is refused is let go of.
        #[cfg(target_os = "linux")]
        let memory = device::claimed(&self.transfer, &frame);
        if frame.metadata.session_id != self.session.id {
            return Err(Reject::new(ErrorCode::UnknownSession, "this connection has another session"));
        }
        let named = frame.metadata.extra.get(ext::TRANSFER).map_or("", String::as_str);
        if named != self.transfer.id() {
            return Err(Reject::new(ErrorCode::UnexpectedFrame, "the frame is of another transfer"));
        }
        let kind = frame.kind().map_err(|e| Reject::new(e.code(), e.to_string()))?;
        match kind {
            Some(FrameKind::Text) if frame.metadata.mode == Mode::Json => {
                self.question_in_turn(frame).map(|()| Vec::new())
            }
            Some(FrameKind::Manifest) => self.manifest(frame).await.map(|reply| vec![reply]),
            Some(FrameKind::Vocabulary) if frame.payload.is_empty() && !self.transfer.id().is_empty() => {
                self.vocabulary().await.map(|reply| vec![reply])
            }
            Some(FrameKind::Distribution)
                if frame.metadata.mode == Mode::Latent && !self.transfer.id().is_empty() =>
            {
                self.distributions(&frame);
                Ok(Vec::new())
            }
            Some(FrameKind::Slab)
                if frame.metadata.payload_type == PayloadType::KvCache && !self.transfer.id().is_empty() =>
            {
                #[cfg(target_os = "linux")]
                if let Some(memory) = memory {
                    return self.take_from_device(memory, frame).await;
                }
                self.slab(frame).await
            }
            _ => {
                Err(Reject::new(ErrorCode::UnexpectedFrame, "expected a context (slab) or a question (text)"))
            }
        }
    }

    /// A frame whose payload was damaged or too large. Of a context in slabs it is asked for again; for a context in one
    /// frame the question that builds on it is refused; anything else is refused at once.
    async fn damaged(&mut self, error: TransportError) -> Result<ControlFlow<()>, TransportError> {
        let reject = Reject::new(error.code(), error.to_string());
        let is_slab = matches!(error.lost_kind(), Some(FrameKind::Slab) | None);
        match &mut self.context {
            Given::Slabs(incoming, round) if is_slab => {
                let (incoming, mut ours) = (Arc::clone(incoming), std::mem::take(round));
                let counted = blocking(move || {
                    let answer = incoming.lost(&mut ours);
                    (answer, ours)
                });
                let answer = match counted.await {
                    Ok((answer, ours)) => {
                        *round = ours;
                        answer
                    }
                    Err(reject) => Answer { refusal: Some(reject), ..Answer::default() },
                };
                for reply in self.replies(answer) {
                    self.reply(reply).await?;
                }
                Ok(self.settle())
            }
            Given::Nothing if is_slab && !self.transfer.id().is_empty() => {
                self.context = Given::Whole(Err(reject));
                Ok(ControlFlow::Continue(()))
            }
            _ => {
                self.reply(reject.to_frame()).await?;
                let is_manifest = error.lost_kind() == Some(FrameKind::Manifest);
                Ok(if is_manifest { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            }
        }
    }

    async fn manifest(&mut self, frame: Frame) -> Result<Frame, Reject> {
        self.take_permit()?;
        let session = Arc::clone(&self.session);
        let begun = blocking(move || {
            let shared = &session.shared;
            shared.transfers.manifest(&session.peer, &frame, |manifest, _| {
                ContextSink::begin(&frame.metadata, &manifest.kv, &shared.agent, shared.options.policy)
            })
        });
        let (incoming, ack, round) = begun.await??;
        self.context = Given::Slabs(incoming, round);
        let _ = self.settle();
        Ok(self.acknowledge(&ack))
    }

    async fn slab(&mut self, frame: Frame) -> Result<Vec<Frame>, Reject> {
        if let Given::Slabs(incoming, round) = &mut self.context {
            let (incoming, mut ours) = (Arc::clone(incoming), std::mem::take(round));
            let taken = blocking(move || {
                let answer = incoming.slab(&frame, &mut ours);
                (answer, ours)
            });
            let (answer, ours) = taken.await?;
            *round = ours;
            return Ok(self.replies(answer));
        }
        // The question will hear what is wrong with it.
        self.context = Given::Whole(match self.take_permit() {
            Ok(()) => import(Arc::clone(&self.session.shared), frame).await,
            Err(reject) => Err(reject),
        });
        if matches!(self.context, Given::Whole(Err(_))) {
            self.release_permit();
        }
        Ok(Vec::new())
    }

    /// This agent's vocabulary. A session may ask for it a few times, since it is large.
    async fn vocabulary(&mut self) -> Result<Frame, Reject> {
        let asked = self.session.vocabularies.fetch_add(1, Ordering::Relaxed);
        if asked >= MAX_VOCABULARIES {
            let message = format!("this session was given the vocabulary {MAX_VOCABULARIES} times, its most");
            return Err(Reject::new(ErrorCode::Busy, message));
        }
        let session = Arc::clone(&self.session);
        let vocabulary = blocking(move || session.shared.agent.vocabulary()).await?;
        let unknown = || Reject::new(ErrorCode::UnexpectedFrame, "no vocabulary is announced here");
        let payload = vocabulary.ok_or_else(unknown)?;
        self.context = Given::Vocabulary;
        Ok(vocabulary_frame(&self.stamp(), self.transfer.id(), payload))
    }

    /// Takes distributions; the question will hear what is wrong with them.
    fn distributions(&mut self, frame: &Frame) {
        let backend = self.session.shared.agent.backend().as_ref();
        let came = Incoming::of_frame(frame, backend);
        self.context = Given::Distributions(self.take_permit().and(came));
        if matches!(self.context, Given::Distributions(Err(_))) {
            self.release_permit();
        }
    }

    fn replies(&self, answer: Answer) -> Vec<Frame> {
        let Answer { refusal, ack, .. } = answer;
        let ack = ack.map(|ack| self.acknowledge(&ack));
        refusal.map(|reject| reject.to_frame()).into_iter().chain(ack).collect()
    }

    fn take_permit(&mut self) -> Result<(), Reject> {
        if self.permit.is_none() {
            let most = self.session.shared.options.max_contexts;
            let busy =
                || Reject::new(ErrorCode::Busy, format!("this session holds {most} contexts, its most"));
            let place = Arc::clone(&self.session.contexts).try_acquire_owned();
            self.permit = Some(place.map_err(|_| busy())?);
        }
        Ok(())
    }

    /// Gives back the place of a context that could not be taken, unless an earlier one is still being asked about.
    fn release_permit(&mut self) {
        if self.answering.is_empty() {
            self.permit = None;
        }
    }

    fn acknowledge(&self, ack: &Ack) -> Frame {
        match self.transfer.id().parse::<TransferId>() {
            Ok(id) => ack.to_frame(self.stamp(), &id),
            // A manifest without a sound id was refused.
            Err(_) => internal().to_frame(),
        }
    }

    /// Between whom frames travel.
    fn stamp(&self) -> Metadata {
        Metadata {
            session_id: self.session.id.clone(),
            source_agent_id: self.session.shared.agent.name().to_owned(),
            ..Metadata::default()
        }
    }
}
