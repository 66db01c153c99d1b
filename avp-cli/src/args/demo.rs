//! The arguments of `avp demo`.

use avp::Engine;
use avp::transport::Scheme;
use clap::{Args, ValueEnum};

use super::{EngineArgs, GateArgs, PositionsArg};

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The model that both agents run: a folder, a hub id, a GGUF file, one of Ollama's models, or the name of a demo model.
    #[arg(long, short, value_name = "MODEL", default_value = "avp-demo-qwen2-m")]
    pub(crate) model: String,
    /// Which engine both agents use; the model's own by default. For llama.cpp a demo model is its GGUF file in models/gguf.
    #[arg(long, value_name = "ENGINE", value_enum, conflicts_with = "pair")]
    pub(crate) backend: Option<EngineArg>,
    /// Which engines the first and the second agent use, as in `candle,llamacpp`. With one of each, llama.cpp keeps its cache
    /// in f32, as candle does, unless `--kv-type` says otherwise.
    #[arg(long, value_name = "ENGINE,ENGINE", value_parser = parse_pair)]
    pub(crate) pair: Option<EnginePair>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Have the second agent run another model: what the first would say travels as distributions over the tokens that both
    /// models have.
    #[arg(long)]
    pub(crate) cross_model: bool,
    /// The model of the second agent.
    #[arg(long, value_name = "MODEL", default_value = "avp-demo-llama", requires = "cross_model")]
    pub(crate) to: String,
    /// Which questions: those that are answered in one word, which is one token, or in a sentence.
    #[arg(long = "set", value_name = "SET", value_enum, default_value_t = QuestionSet::Words, requires = "cross_model")]
    pub(crate) set: QuestionSet,
    /// Load the second model in this process too, and project into it here as well.
    #[arg(long, requires = "cross_model")]
    pub(crate) in_process: bool,
    #[command(flatten)]
    pub(crate) positions: PositionsArg,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    /// Latent steps that the first agent takes after reading; 2 if not given, and none for another model.
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// What carries the context to the second process. The secure ones use certificates made for this run.
    #[arg(long, value_enum, default_value_t = DemoTransport::Tcp)]
    pub(crate) transport: DemoTransport,
    /// How many questions: the demo's own ten first, then those that measure recall.
    #[arg(long, default_value_t = 10)]
    pub(crate) questions: usize,
}

impl DemoArgs {
    pub(crate) fn latent_steps(&self) -> usize {
        self.steps.unwrap_or(if self.cross_model { 0 } else { 2 })
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuestionSet {
    Words,
    Sentences,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    Candle,
    #[value(name = "llamacpp")]
    LlamaCpp,
}

/// The engines of the first and the second agent.
pub(crate) type EnginePair = [EngineArg; 2];

fn parse_pair(text: &str) -> Result<EnginePair, String> {
    let engine = |name: &str| EngineArg::from_str(name.trim(), false).ok();
    let pair = text.split_once(',').and_then(|(first, second)| Some([engine(first)?, engine(second)?]));
    pair.ok_or_else(|| "expected two of candle and llamacpp, as in candle,llamacpp".to_owned())
}

impl From<EngineArg> for Engine {
    fn from(engine: EngineArg) -> Self {
        match engine {
            EngineArg::Candle => Self::Candle,
            EngineArg::LlamaCpp => Self::LlamaCpp,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DemoTransport {
    Tcp,
    Tls,
    Quic,
    Shm,
    Http,
    Https,
}

impl DemoTransport {
    pub(crate) fn scheme(self) -> Scheme {
        match self {
            Self::Tcp => Scheme::Tcp,
            Self::Tls => Scheme::Tls,
            Self::Quic => Scheme::Quic,
            Self::Shm => Scheme::SharedMemory,
            Self::Http => Scheme::Http,
            Self::Https => Scheme::Https,
        }
    }
}
