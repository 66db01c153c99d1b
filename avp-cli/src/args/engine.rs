//! How a model is loaded.

use std::ffi::OsString;
use std::num::NonZero;

use avp::{Device, Engine, KvDtype, KvType, ModelOptions};
use clap::{Args, ValueEnum};

/// Where help lists these. Set on each of them: a heading of the whole would go on over the options that follow.
const HEADING: &str = "Options of the engines";

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EngineArgs {
    /// candle: type of weights and KV cache, f32 if not given. (A GGUF file has the types of its weights; see --kv-type.)
    #[arg(long, help_heading = HEADING, value_enum, value_name = "TYPE")]
    dtype: Option<DtypeArg>,
    /// candle: where to compute, `cpu`, `cuda` or `cuda:N`.
    #[arg(long, help_heading = HEADING, default_value = "cpu", value_parser = parse_device)]
    device: Device,
    /// llama.cpp: type of the KV cache, f16 if not given.
    #[arg(long, help_heading = HEADING, value_enum, value_name = "TYPE")]
    kv_type: Option<KvTypeArg>,
    /// llama.cpp: positions of a context, the model's own number if not given, and never more.
    #[arg(long, help_heading = HEADING, value_name = "N")]
    context_size: Option<NonZero<usize>>,
    /// llama.cpp: layers on the GPU, where llama.cpp was built for one.
    #[arg(long, help_heading = HEADING, value_name = "N")]
    gpu_layers: Option<u32>,
    /// llama.cpp: threads of a pass, all processors if not given, but fewer for small models.
    #[arg(long, help_heading = HEADING, value_name = "N")]
    threads: Option<NonZero<u16>>,
    /// llama.cpp: compute attention with its matrix.
    #[arg(long, help_heading = HEADING)]
    no_flash_attention: bool,
    /// llama.cpp: have the Ollama server that runs here let go of its copy of an `ollama:` model first.
    #[arg(long, help_heading = HEADING)]
    ollama_unload: bool,
}

impl EngineArgs {
    pub(crate) fn options(&self) -> ModelOptions {
        let mut options = ModelOptions::default();
        options.dtype = self.dtype.map(Into::into);
        options.device = self.device;
        options.kv_type = self.kv_type.map(Into::into);
        options.context_size = self.context_size.map(NonZero::get);
        options.gpu_layers = self.gpu_layers;
        options.threads = self.threads.map(|threads| threads.get().into());
        options.flash_attention = self.no_flash_attention.then_some(false);
        options.ollama_unload = self.ollama_unload;
        options
    }

    /// What of this `engine` is told where two agents run different ones: each its own options.
    pub(crate) fn for_one_of_two(&self, engine: Engine) -> Self {
        match engine {
            Engine::Candle => Self { dtype: self.dtype, device: self.device, ..Self::default() },
            // As exact as the other side's cache.
            _ => Self {
                dtype: None,
                device: Device::Cpu,
                kv_type: self.kv_type.or(Some(KvTypeArg::F32)),
                ..self.clone()
            },
        }
    }

    pub(crate) fn unloads_ollama(&self) -> bool {
        self.ollama_unload
    }

    /// As they are written on the command line.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let device = match self.device {
            Device::Cuda(ordinal) => Some(format!("cuda:{ordinal}")),
            _ => None,
        };
        let values = [
            ("--dtype", self.dtype.map(name)),
            ("--device", device),
            ("--kv-type", self.kv_type.map(name)),
            ("--context-size", self.context_size.map(|n| n.to_string())),
            ("--gpu-layers", self.gpu_layers.map(|n| n.to_string())),
            ("--threads", self.threads.map(|n| n.to_string())),
        ];
        let flags =
            [("--no-flash-attention", self.no_flash_attention), ("--ollama-unload", self.ollama_unload)];
        let values = values.into_iter().filter_map(|(flag, value)| Some([flag.into(), value?.into()]));
        let flags = flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag.into());
        values.flatten().chain(flags).collect()
    }
}

/// An option of the library as it is written on the command line.
pub(crate) fn flag(option: &str) -> String {
    match option {
        "flash_attention" => "--no-flash-attention".to_owned(),
        other => format!("--{}", other.replace('_', "-")),
    }
}

fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DtypeArg {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KvTypeArg {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8,
}

impl From<KvTypeArg> for KvType {
    fn from(kv_type: KvTypeArg) -> Self {
        match kv_type {
            KvTypeArg::F32 => Self::F32,
            KvTypeArg::F16 => Self::F16,
            KvTypeArg::Bf16 => Self::Bf16,
            KvTypeArg::Q8 => Self::Q8,
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        engine: EngineArgs,
    }

    #[test]
    fn options_are_written_as_they_are_read() {
        let lines: [&[&str]; 3] = [
            &[],
            &["--dtype", "bf16", "--device", "cuda:1"],
            &[
                "--kv-type",
                "q8_0",
                "--context-size",
                "64",
                "--gpu-layers",
                "3",
                "--threads",
                "2",
                "--no-flash-attention",
                "--ollama-unload",
            ],
        ];
        for line in lines {
            let parsed = Line::try_parse_from([&["avp"], line].concat()).unwrap();
            assert_eq!(parsed.engine.to_args(), line);
        }
    }
}
