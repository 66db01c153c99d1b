//! What the program can be told.

mod bench;
mod cert;
mod cross_model;
mod demo;
mod engine;
mod map;
mod transport;

use std::path::PathBuf;

use avp::{GenerateOptions, SamplingOptions};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::log::LogLevel;
pub(crate) use bench::BenchArgs;
pub(crate) use cert::{CERT_FOLDER, CertArgs, CertCaArgs, CertCommand, CertIssueArgs};
use cross_model::{GateArgs, MapDirArg, PositionsArg};
pub(crate) use demo::{DemoArgs, DemoTransport, QuestionSet};
pub(crate) use engine::{EngineArgs, flag};
pub(crate) use map::{
    MapArgs, MapCommand, MapFolderArgs, MapInspectArgs, MapListArgs, MapMakeArgs, MapRemoveArgs,
};
pub(crate) use transport::{ConnectArgs, ListenArgs};

/// Agents that hand over what they computed: KV cache instead of text.
#[derive(Debug, Parser)]
#[command(name = "avp", version, propagate_version = true)]
pub(crate) struct Cli {
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a handover: one agent reads notes, another process answers from what was computed.
    Demo(DemoArgs),
    /// Read a prompt, think in latent steps, and write the context to a file.
    Think(ThinkArgs),
    /// Write text after a prompt, and after a context where one is given.
    Generate(GenerateArgs),
    /// Say what a context file holds; reads its head only.
    Inspect(InspectArgs),
    /// Load a model once and answer other agents.
    Serve(ServeArgs),
    /// Ask an agent that serves.
    Ask(AskArgs),
    /// Hand a context file over to `avp recv`, or to an agent that serves.
    Send(SendArgs),
    /// Receive contexts into files.
    Recv(RecvArgs),
    /// Make certificates for agents on a network.
    Cert(CertArgs),
    /// List the models that are here.
    Models(ModelsArgs),
    /// Keep what takes hidden states of one model to another.
    Map(MapArgs),
    /// Measure a model of a well-known shape, with random weights, beside what memory allows.
    Bench(BenchArgs),
    /// Load a GGUF file and compute with it: what this program has another process do with files that it has not seen before,
    /// since llama.cpp ends the process where its assertions fail.
    #[command(hide = true)]
    ProbeGguf(ProbeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// A Hugging Face model folder, a hub id, the name of a demo model, a GGUF file, or one of Ollama's models as
    /// `ollama:NAME[:TAG]`.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ThinkArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// What the agent reads.
    #[arg(long, short)]
    pub(crate) prompt: String,
    /// Latent steps after the prompt; 0 reads only.
    #[arg(long, default_value_t = 20)]
    pub(crate) steps: usize,
    /// A context to start from.
    #[arg(long, value_name = "FILE")]
    pub(crate) context: Option<PathBuf>,
    /// Stamp this model hash, which an SDK receiver expects, instead of the model's own.
    #[arg(long, value_name = "HEX")]
    pub(crate) model_hash: Option<String>,
    /// Leave the prompt's text out of the file; agents of other models then cannot be asked with it.
    #[arg(long)]
    pub(crate) no_text: bool,
    /// Take no context whose checkpoint cannot be verified.
    #[arg(long)]
    pub(crate) require_verified: bool,
    /// What the file holds: the KV cache, which the same model goes on from; or hidden states, a few kilobytes, from which another
    /// model can be told.
    #[arg(long, value_enum, default_value_t = OutputArg::Kv)]
    pub(crate) output: OutputArg,
    #[command(flatten)]
    pub(crate) positions: PositionsArg,
    /// The file to write.
    #[arg(long = "file", short = 'o', value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// What a context file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputArg {
    Kv,
    Hidden,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// What the agent is asked.
    #[arg(long, short)]
    pub(crate) prompt: String,
    /// A context to start from.
    #[arg(long, value_name = "FILE")]
    pub(crate) context: Option<PathBuf>,
    /// Take no context whose checkpoint cannot be verified.
    #[arg(long)]
    pub(crate) require_verified: bool,
    /// The model that had the hidden states of the context, where it is another one: what it would say is told to this one.
    #[arg(long, value_name = "MODEL", requires = "context")]
    pub(crate) source: Option<String>,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    #[command(flatten)]
    pub(crate) maps: MapDirArg,
    /// A file with a grammar (GBNF) that the text obeys.
    #[arg(long, value_name = "FILE")]
    pub(crate) grammar: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// How freely tokens are chosen; 0 always takes the most probable one.
    #[arg(long, default_value_t = 0.7, value_parser = parse_temperature)]
    temperature: f32,
    /// Keep the most probable tokens up to this mass.
    #[arg(long, default_value_t = 0.95, value_parser = parse_top_p)]
    top_p: f32,
    /// Keep this many of the most probable tokens; 0 keeps all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Most tokens to write.
    #[arg(long, default_value_t = 512)]
    max_tokens: usize,
    /// The same seed gives the same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End at this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl From<SamplingArgs> for GenerateOptions {
    fn from(args: SamplingArgs) -> Self {
        let SamplingArgs { temperature, top_p, top_k, max_tokens, seed, stop } = args;
        let sampling = SamplingOptions { temperature, top_p, top_k, seed };
        Self { max_tokens, sampling, stop_strings: stop, ..Self::default() }
    }
}

fn parse_temperature(text: &str) -> Result<f32, String> {
    in_range(text, "0 or more", |t| t >= 0.0)
}

fn parse_top_p(text: &str) -> Result<f32, String> {
    in_range(text, "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)
}

fn in_range(text: &str, range: &str, holds: impl Fn(f32) -> bool) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("expected a number {range}"))?;
    if value.is_finite() && holds(value) { Ok(value) } else { Err(format!("expected a number {range}")) }
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The context file.
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// The agent's name.
    #[arg(long, default_value = "avp")]
    pub(crate) name: String,
    /// Take no context whose checkpoint cannot be verified.
    #[arg(long)]
    pub(crate) require_verified: bool,
    /// Sessions at a time, and requests over HTTP; further peers are told that this agent is busy.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_sessions: u16,
    /// Generations that compute at a time; further questions wait.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_generations: u16,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// End when standard input is closed, as it is when the process that started this one ends.
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// How much to log on stderr.
    #[arg(long = "log", value_name = "LEVEL", value_enum, default_value_t = LogLevel::Warn, env = "AVP_LOG")]
    pub(crate) level: LogLevel,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// How often to try again where the connection fails, the agent is busy, or nobody listens there yet: within about 8
    /// seconds for 5 tries, about twice as long for each further one.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) retries: u32,
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// What it is asked.
    #[arg(long, short)]
    pub(crate) prompt: String,
    /// A context that it is to build on.
    #[arg(long, value_name = "FILE")]
    pub(crate) context: Option<PathBuf>,
    /// The model here, which had the hidden states of the context, or reads what `--think` says.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// What the model here reads first. What comes of it goes as the session allows: KV cache, distributions or text.
    #[arg(long, value_name = "TEXT", requires = "model", conflicts_with = "context")]
    pub(crate) think: Option<String>,
    /// Latent steps after that.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "think")]
    pub(crate) steps: usize,
    #[command(flatten)]
    pub(crate) positions: PositionsArg,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
    #[command(flatten)]
    pub(crate) maps: MapDirArg,
    /// The text behind the context, for an agent of another model; the file's own by default.
    #[arg(long)]
    pub(crate) text: Option<String>,
    /// This agent's name.
    #[arg(long, default_value = "avp-ask")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) retry: RetryArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// The context file.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    /// This agent's name.
    #[arg(long, default_value = "avp-send")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) retry: RetryArgs,
}

#[derive(Debug, Args)]
#[command(
    group(ArgGroup::new("into").required(true).args(["output", "folder"])),
    mut_arg("listen", |listen| listen.help(transport::listen_help()))
)]
pub(crate) struct RecvArgs {
    /// The model whose contexts are taken, as for the other commands: a Hugging Face model folder, a GGUF file. Its weights
    /// are not loaded.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    /// Receive one context into this file, then end.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file that is there.
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
    /// Receive contexts into this folder, each into a file of its own, until Ctrl-C.
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// This agent's name.
    #[arg(long, default_value = "avp-recv")]
    pub(crate) name: String,
    /// Take no context whose checkpoint cannot be verified.
    #[arg(long)]
    pub(crate) require_verified: bool,
    /// Most bytes under way at a time.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) window: u64,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// A folder of model folders, beside the demo models and the hub's cache.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    pub(crate) file: PathBuf,
}
