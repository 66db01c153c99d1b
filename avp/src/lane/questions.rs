//! What is asked over a lane, and about what.

use std::sync::Arc;

use avp_handshake::{Reject, TextMessage};
use avp_wire::{ErrorCode, Frame, ext};
use serde_json::Value;

use super::{Given, Lane};
use crate::answering::{Behind, Question, answer, blocking, internal, turn};
use crate::cross_model::{Incoming, validated};
use crate::exchange::{Asked, answer_message, question_of, text_frame};
use crate::session::Session;

/// Questions of one transfer that may wait for the one that is being answered.
const MAX_WAITING: usize = 16;

impl Lane {
    /// Begins to answer a question, or has it wait for those before.
    pub(super) fn question_in_turn(&mut self, frame: Frame) -> Result<(), Reject> {
        if self.answering.is_empty() {
            return self.question(&frame);
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(Reject::new(ErrorCode::Busy, format!("{MAX_WAITING} questions wait already")));
        }
        self.waiting.push_back(frame);
        Ok(())
    }

    /// Begins to answer a question.
    pub(super) fn question(&mut self, frame: &Frame) -> Result<(), Reject> {
        let Asked { prompt, request, said, validate } = question_of(TextMessage::from_json(&frame.payload))?;
        let behind = match frame.metadata.extra.get(ext::TRANSFER) {
            None => Behind::Nothing,
            Some(_) => self.context_for_question()?,
        };
        let session = Arc::clone(&self.session);
        match (validate, behind) {
            (None, behind) => {
                self.answering.spawn(answered(session, Question { prompt, behind, request, said }));
            }
            (Some(validate), Behind::Distributions(came)) => {
                self.answering.spawn(measured(session, validate, came));
            }
            (Some(_), _) => {
                let message = "extra.validate comes without the distributions that it is about";
                return Err(Reject::new(ErrorCode::InvalidArgument, message));
            }
        }
        Ok(())
    }

    fn context_for_question(&mut self) -> Result<Behind, Reject> {
        match std::mem::replace(&mut self.context, Given::Nothing) {
            Given::Nothing | Given::Vocabulary => {
                Err(Reject::new(ErrorCode::SlabsMissing, "no context came for this transfer"))
            }
            Given::Distributions(came) => came.map(Behind::Distributions),
            Given::Whole(context) => context.map(Behind::Context),
            Given::Slabs(incoming, round) => {
                self.context = Given::Slabs(Arc::clone(&incoming), round);
                Ok(Behind::Slabs(incoming))
            }
        }
    }
}

/// The frame that answers a question.
async fn answered(session: Arc<Session>, question: Question) -> Result<Frame, Reject> {
    let shared = &session.shared;
    let (turn, _working) = turn(shared, &question.behind, || session.place.work()).await?;
    let written = answer(shared, &session.peer_name, question, turn).await?;
    Ok(text_frame(answer_message(&session.id, shared.agent.name(), written), None))
}

/// The frame that says what distributions are worth.
async fn measured(session: Arc<Session>, validate: Value, came: Incoming) -> Result<Frame, Reject> {
    let _working = session.place.work();
    let shared = Arc::clone(&session.shared);
    let turns = Arc::clone(&shared.generations);
    let turn = turns.acquire_owned().await.map_err(|_| internal())?;
    let measure = move || {
        let _turn = turn;
        validated(shared.agent.backend().as_ref(), came, validate)
    };
    let extra = blocking(measure).await??;
    let (session_id, source_agent_id) = (session.id.clone(), session.shared.agent.name().to_owned());
    Ok(text_frame(TextMessage { session_id, source_agent_id, extra, ..TextMessage::default() }, None))
}
