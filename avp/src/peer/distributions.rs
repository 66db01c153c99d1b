//! Asking a peer of another model: what goes to it as distributions, and what is found out for that.

use std::sync::Arc;

use avp_backend::{GateMode, MapProjection, ModelKey, ProjectionMap, SharedTokens, Validation};
use avp_handshake::{Capabilities, Hello, ResolutionPath, ResolveOptions, TextMessage, resolve};
use avp_transport::Transfer;
use avp_wire::ext::{self, FrameKind};
use avp_wire::slab::TransferId;
use avp_wire::{Distribution, Frame, Metadata};

use super::{Ask, Peer, answer_on};
use crate::ask_error::AskError;
use crate::asking::{blocking, send};
use crate::choice::name;
use crate::cross_model::{Agreed, OutgoingHidden, Plan, agree, has_same_tokenizer, plan, validation};
use crate::{Agent, Handover};

impl Peer {
    /// Distributions for the peer's model, or why not.
    pub(super) async fn project(&mut self, hidden: &OutgoingHidden) -> Result<Plan, AskError> {
        let has_same_tokenizer =
            has_same_tokenizer(&hidden.agent.backend().info().identity, &self.identity());
        let (capabilities, stamp) = (self.established.capabilities.clone(), self.stamp());
        let map = self.map_of(&hidden.agent);
        let (has_map, measured) = (map.is_some(), map.as_ref().and_then(|map| map.validation));
        let agreed =
            agree(&hidden.agent, capabilities.as_ref(), has_same_tokenizer, map, &stamp, || self.lane());
        let (shared, strings) = match agreed.await? {
            Agreed::Tokens(shared, strings) => (shared, strings),
            Agreed::Nothing(why) => {
                let (name, path) = (name(&self.identity()), self.resolution().path);
                return Ok(Plan::Text(format!("another model there ({name}, {path}): {why}")));
            }
        };
        self.resolve_again(has_map, strings);
        let validation = match (hidden.gate, measured) {
            (GateMode::Off, _) => None,
            (_, Some(measured)) => Some(measured),
            (_, None) => Some(self.validation(hidden, &shared).await?),
        };
        let hidden = hidden.clone();
        Ok(blocking(move || plan(&hidden, &shared, validation)).await??)
    }

    /// The map over tokens from an agent's model to the peer's, where there is one.
    fn map_of(&self, agent: &Agent) -> Option<ProjectionMap> {
        let remote = self.established.remote.identity.as_ref()?;
        let map = agent.map_to(ModelKey { model_hash: &remote.model_hash, weights: &self.weights() })?;
        matches!(map.projection, MapProjection::Vocabulary(_)).then_some(map)
    }

    /// The peer's checkpoint; empty where it did not say.
    fn weights(&self) -> String {
        let announced = self.established.capabilities.as_ref().and_then(|c| c.weights);
        announced.map(|weights| weights.to_string()).unwrap_or_default()
    }

    /// Resolves once more by rules 4 and 5, now that it is known what there is.
    fn resolve_again(&mut self, has_map: bool, strings: Option<usize>) {
        let (Some(local), Some(remote)) = (&self.hello.identity, &self.established.remote.identity) else {
            return;
        };
        let weights = |hello: &Hello| Capabilities::from_hello(hello).ok().flatten()?.weights;
        let maps = |_: &str, _: &str| has_map;
        let options = ResolveOptions {
            maps: Some(&maps),
            shared_tokens: strings,
            local_weights: weights(&self.hello),
            remote_weights: weights(&self.established.remote),
            ..ResolveOptions::default()
        };
        let resolution = resolve(local, remote, &options);
        if matches!(resolution.path, ResolutionPath::AvpMapFile | ResolutionPath::VocabOverlap) {
            self.established.session.resolution = resolution;
        }
    }

    /// What a projection into the peer's model is worth.
    async fn validation(
        &mut self,
        hidden: &OutgoingHidden,
        shared: &Arc<SharedTokens>,
    ) -> Result<Validation, AskError> {
        let (remote, weights) = (self.identity(), self.weights());
        let target = ModelKey { model_hash: &remote.model_hash, weights: &weights };
        let frame = |distributions: Vec<Distribution>, transfer: &str| {
            self.distribution_frame(&distributions, transfer)
        };
        let session = self.established.session.id.as_str();
        validation(hidden, shared, target, frame, session, || self.lane()).await
    }

    /// Asks behind distributions.
    pub(super) async fn ask_behind_distributions(
        &mut self,
        distributions: Vec<Distribution>,
        ask: &Ask,
        handover: &Handover,
        sent: &mut u64,
    ) -> Result<TextMessage, AskError> {
        let id = TransferId::from_random(rand::random());
        let mut lane = self.transfers.open(id.as_str())?;
        let frame = self.distribution_frame(&distributions, id.as_str());
        let question = self.question(ask.prompt.clone(), ask, handover, Some(&id));
        let asking = async {
            *sent += send(&lane, frame).await?;
            *sent += send(&lane, question).await?;
            answer_on(&mut lane).await
        };
        self.unless_turned_away(asking).await
    }

    fn distribution_frame(&self, distributions: &[Distribution], transfer: &str) -> Frame {
        let mut metadata = Metadata {
            // A transfer has no more positions than a window.
            tensor_shape: vec![u32::try_from(distributions.len()).unwrap_or(u32::MAX)],
            avp_map_id: self.resolution().map_id.clone(),
            ..self.stamp()
        };
        metadata.extra.insert(ext::KIND.to_owned(), FrameKind::Distribution.as_str().to_owned());
        metadata.extra.insert(ext::TRANSFER.to_owned(), transfer.to_owned());
        Frame::new(metadata, Distribution::encode_all(distributions))
    }

    /// A new transfer.
    fn lane(&self) -> Result<Transfer, AskError> {
        Ok(self.transfers.open(TransferId::from_random(rand::random()).as_str())?)
    }
}
