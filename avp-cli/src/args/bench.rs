//! What `avp bench` can be told.

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
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "512,8192", value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pub(crate) prefill: Vec<u32>,
    /// Latent steps that are taken at once.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) steps: u16,
    /// Rounds, of which each figure is the median.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=25))]
    pub(crate) rounds: u16,
}
