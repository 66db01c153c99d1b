//! How a model of another kind is told what a model had in mind.

use std::path::PathBuf;

use avp::{Agent, ContextError, GateMode, HiddenStates, OutgoingHidden, VerificationPolicy};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct PositionsArg {
    /// Hidden states of how many of the last positions of the prompt, beside those of all latent steps, another model is told.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    positions: u16,
}

impl PositionsArg {
    pub(crate) fn count(&self) -> usize {
        self.positions.into()
    }
}

/// How another model is told.
#[derive(Debug, Args)]
pub(crate) struct GateArgs {
    /// What the quality gate may do: let everything pass, say what it finds, or have text go instead.
    #[arg(long, value_name = "MODE", default_value = "enforce", value_parser = parse_gate)]
    pub(crate) gate: GateMode,
    /// Most tokens of a distribution that are sent.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) distribution_tokens: u32,
}

/// Where projection maps are taken from.
#[derive(Debug, Args)]
pub(crate) struct MapDirArg {
    /// The folder of projection maps: AVP_MAP_DIR if not given, or `maps` in the cache folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) map_dir: Option<PathBuf>,
}

impl GateArgs {
    /// Hidden states to hand over, as these options say.
    pub(crate) fn outgoing(
        &self,
        agent: &Agent,
        states: HiddenStates,
        policy: VerificationPolicy,
    ) -> Result<OutgoingHidden, ContextError> {
        let mut hidden = OutgoingHidden::new(agent, states, policy)?;
        hidden.gate = self.gate;
        hidden.top_k = self.distribution_tokens as usize;
        Ok(hidden)
    }
}

fn parse_gate(text: &str) -> Result<GateMode, String> {
    text.parse().map_err(|_| "expected off, advise or enforce".to_owned())
}
