//! Asking behind a KV cache that stays in memory of the device that both engines compute on (docs/spec/exchange.md, 9).

use avp_handshake::TextMessage;
use avp_wire::ext::{self, FrameKind};
use avp_wire::slab::SlabError;
use avp_wire::{Frame, Mode};
use tokio::time::timeout;

use super::{Ask, Peer, answer_on};
use crate::Handover;
use crate::ask_error::AskError;
use crate::asking::{accepted, blocking, send};
use crate::outgoing::OutgoingContext;

/// Why a cache has to go as frames; nothing where it is not on the device.
type Why = Option<String>;

impl Peer {
    /// Asks behind the cache in memory of the device that the peer has announced, in a transfer of its own.
    pub(super) async fn ask_on_device(
        &mut self,
        context: &OutgoingContext,
        ask: &Ask,
        sent: &mut u64,
    ) -> Result<Result<TextMessage, Why>, AskError> {
        let capabilities =
            self.established.capabilities.as_ref().filter(|theirs| theirs.has_key(ext::MEMORY));
        let device = capabilities.and_then(|theirs| theirs.device.clone());
        let Some(device) = device.filter(|_| self.questions.passes_descriptors()) else {
            return Ok(Err(None));
        };
        let source = context.clone();
        let memory = match blocking(move || source.share(&device)).await? {
            Ok(Some(memory)) => memory,
            Ok(None) => return Ok(Err(None)),
            Err(error) => return Ok(Err(Some(error.to_string()))),
        };
        let context = self.with_free_id(context);
        let mut lane = self.transfers.open(context.transfer().as_str())?;
        let question = self.question(ask.prompt.clone(), ask, &Handover::Kv, Some(context.transfer()));
        let mut described = self.described_as_one(&context);
        let patience = self.options.limits.frame_timeout;
        let asking = async {
            let token = lane.pass(memory).await?;
            described.extra.insert(ext::MEMORY.to_owned(), token.to_string());
            *sent += send(&lane, Frame::new(described, context.kv_header().encode().to_vec())).await?;
            // A receiver that lost the frame does not know that an answer is due.
            let Ok(reply) = timeout(patience, lane.recv()).await else {
                return Ok(Err(Some(format!("the peer said nothing to it for {} s", patience.as_secs()))));
            };
            if let Some(why) = refused(reply?.ok_or(AskError::Closed)?)? {
                return Ok(Err(Some(why)));
            }
            *sent += send(&lane, question).await?;
            answer_on(&mut lane).await.map(Ok)
        };
        self.unless_turned_away(asking).await
    }
}

/// Why the peer has not taken the cache; nothing if it has.
fn refused(reply: Frame) -> Result<Option<String>, AskError> {
    let is_ack = reply.kind() == Ok(Some(FrameKind::Ack)) && reply.metadata.mode == Mode::Latent;
    if is_ack && reply.payload.is_empty() {
        return Ok(None);
    }
    match accepted(reply) {
        // What is wrong with the context itself is said again of its frames.
        Err(AskError::Refused { message, .. }) => Ok(Some(message)),
        Err(error) => Err(error),
        Ok(_) => Err(AskError::Protocol(SlabError::NotAck)),
    }
}
