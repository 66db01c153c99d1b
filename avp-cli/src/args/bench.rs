//! What `avp bench` can be told.

use std::num::NonZero;

use avp::Shape;
use clap::Args;

use super::EngineArgs;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// `qwen2.5-0.5b`, `qwen2.5-7b` or `llama-3.1-8b`. Its weights are made where it computes: nothing is downloaded.
    #[arg(long, value_name = "SHAPE")]
    pub(crate) shape: Shape,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Lengths of the prompts that are read.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "512,8192")]
    pub(crate) prefill: Vec<NonZero<usize>>,
    /// Latent steps that are taken at once.
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) steps: NonZero<usize>,
    /// Rounds, of which each figure is the median.
    #[arg(long, value_name = "N", default_value = "5")]
    pub(crate) rounds: NonZero<usize>,
}
