//! The arguments of `avp map`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::EngineArgs;

#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    #[command(subcommand)]
    pub(crate) command: MapCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MapCommand {
    /// Make the map from one model to another, and keep it.
    Make(MapMakeArgs),
    /// List the maps that are here, and files that are broken.
    List(MapListArgs),
    /// Say what a map holds.
    Inspect(MapInspectArgs),
    /// Remove a map.
    Remove(MapRemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MapFolderArgs {
    /// The folder of the maps: AVP_MAP_DIR if not given, or `maps` in the cache folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct MapMakeArgs {
    /// The model whose hidden states are mapped: a Hugging Face folder, a hub id, the name of a demo model, a GGUF file, or one
    /// of Ollama's models.
    #[arg(long, value_name = "MODEL")]
    pub(crate) source: String,
    /// The model that is to read them.
    #[arg(long, value_name = "MODEL")]
    pub(crate) target: String,
    /// A linear map instead of one over the vocabulary: a safetensors file with `matrix` of source width by target width,
    /// `target_norm` of one number and, where there is one, `bias` of target width, all F32.
    #[arg(long, value_name = "FILE")]
    pub(crate) linear: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) folder: MapFolderArgs,
    /// Replace the map of these two models that is there.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MapListArgs {
    #[command(flatten)]
    pub(crate) folder: MapFolderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MapInspectArgs {
    /// A map's file, or the id of one in the folder.
    #[arg(value_name = "FILE or ID")]
    pub(crate) map: String,
    #[command(flatten)]
    pub(crate) folder: MapFolderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MapRemoveArgs {
    /// The id of a map in the folder, or the name of its file.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) folder: MapFolderArgs,
}
