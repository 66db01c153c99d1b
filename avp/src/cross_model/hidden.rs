//! Hidden states on their way to another model.

use std::sync::Arc;

use avp_backend::{ContextError, GateMode, GateOptions, HiddenStates, ProjectionOptions, VerificationPolicy};

use crate::Agent;

/// Hidden states to hand over, and the agent whose model had them: its output head makes distributions of them.
/// Cloning copies pointers.
#[derive(Clone)]
pub struct OutgoingHidden {
    pub(crate) agent: Agent,
    pub(crate) states: Arc<HiddenStates>,
    /// Most tokens of a position that are sent. 1,024.
    pub top_k: usize,
    /// Temperature of the distributions. 1.
    pub temperature: f32,
    /// What the quality gate may do. It is enforced.
    pub gate: GateMode,
    /// What the quality gate asks for.
    pub gate_options: GateOptions,
}

impl OutgoingHidden {
    /// Hidden states of the model of `agent`.
    ///
    /// # Errors
    /// [`ContextError`] where they are another model's.
    pub fn new(
        agent: &Agent,
        states: HiddenStates,
        policy: VerificationPolicy,
    ) -> Result<Self, ContextError> {
        states.check(agent.backend().as_ref(), policy)?;
        let (agent, states) = (agent.clone(), Arc::new(states));
        let (gate, gate_options) = (GateMode::default(), GateOptions::default());
        Ok(Self { agent, states, top_k: 1024, temperature: 1.0, gate, gate_options })
    }

    pub(crate) fn options(&self) -> ProjectionOptions {
        ProjectionOptions { temperature: self.temperature, ..ProjectionOptions::default() }
    }
}

impl std::fmt::Debug for OutgoingHidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutgoingHidden")
            .field("model", &self.states.identity().model_id)
            .field("positions", &self.states.len())
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}
