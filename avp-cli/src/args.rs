//! What the program can be told.

mod cert;
mod transport;

use std::path::PathBuf;

use avp::transport::Scheme;
use avp::{Device, GenerateOptions, KvDtype, SamplingOptions};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::log::LogLevel;
pub(crate) use cert::{CERT_FOLDER, CertArgs, CertCaArgs, CertCommand, CertIssueArgs};
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
}

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// A Hugging Face model folder, a hub id, or the name of a demo model.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct EngineArgs {
    /// Type of weights and KV cache.
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    pub(crate) dtype: DtypeArg,
    /// Where to compute: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value = "cpu", value_parser = parse_device)]
    pub(crate) device: Device,
}

impl EngineArgs {
    /// The device as it is written on the command line.
    pub(crate) fn device_arg(&self) -> String {
        match self.device {
            Device::Cuda(ordinal) => format!("cuda:{ordinal}"),
            _ => "cpu".to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DtypeArg {
    F32,
    F16,
    Bf16,
}

impl From<DtypeArg> for KvDtype {
    fn from(dtype: DtypeArg) -> Self {
        match dtype {
            DtypeArg::F32 => Self::F32,
            DtypeArg::F16 => Self::F16,
            DtypeArg::Bf16 => Self::Bf16,
        }
    }
}

impl DtypeArg {
    /// As it is written on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

fn parse_device(text: &str) -> Result<Device, String> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(Device::Cpu),
        None if text == "cuda" => Ok(Device::Cuda(0)),
        Some(("cuda", ordinal)) => ordinal.parse().map(Device::Cuda).map_err(|e| e.to_string()),
        _ => Err("expected cpu, cuda or cuda:N".to_owned()),
    }
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
    /// The file to write.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
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
        Self { max_tokens, sampling, stop_strings: stop, stop_tokens: Vec::new() }
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
    /// The model whose contexts are taken: a Hugging Face model folder, a hub id, or the name of a demo model. Its
    /// weights are not loaded.
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
pub(crate) struct DemoArgs {
    /// The model that both agents run: a folder, a hub id, or the name of a demo model.
    #[arg(long, short, value_name = "MODEL", default_value = "avp-demo-qwen2-m")]
    pub(crate) model: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Latent steps that the first agent takes after reading.
    #[arg(long, default_value_t = 2)]
    pub(crate) steps: usize,
    /// What carries the context to the second process. The secure ones use certificates made for this run.
    #[arg(long, value_enum, default_value_t = DemoTransport::Tcp)]
    pub(crate) transport: DemoTransport,
    /// How many questions: the demo's own ten first, then those that measure recall.
    #[arg(long, default_value_t = 10)]
    pub(crate) questions: usize,
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
