//! Finding and loading models.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, process, thread};

use anyhow::{Context as _, Error, Result, anyhow, bail};
use avp::{
    Agent, Backend, BackendError, BufferPool, Context, Engine, MapFolder, ModelInfo, ModelOptions, Probe,
    Saved, TransportOptions, VerificationPolicy, describe_model, load_backend, open_saved,
};

use crate::args::{EngineArgs, flag};
use crate::log;
use crate::progress::Bar;

/// Longer than anybody waits for the trial of a file.
const LONGEST_TRIAL: Duration = Duration::from_secs(180);

/// Loads the model that `name` says, with a progress bar.
pub(crate) fn load(name: &str, engine: &EngineArgs) -> Result<Arc<dyn Backend>> {
    if engine.unloads_ollama() {
        log::warnings();
    }
    let bar = Bar::default();
    let mut options = engine.options();
    options.progress = Some(bar.loading());
    options.probe = Some(probe()?);
    let backend = load_backend(&resolve(name), &options);
    bar.clear();
    backend.map_err(told).with_context(|| format!("cannot load the model `{name}`"))
}

/// Reads the context at `path` into `backend`, be it a KV cache or hidden states.
pub(crate) fn load_context(
    path: &Path,
    backend: &dyn Backend,
    policy: VerificationPolicy,
) -> Result<Context> {
    match open_saved(path, &pool())? {
        Saved::Hidden(states, _) => states
            .inject(backend, policy, cache_dir().as_deref())
            .with_context(|| format!("cannot take the hidden states of {}", path.display())),
        _ => Ok(avp::load_context(path, backend, policy, &pool())?),
    }
}

/// What the model that `name` says is; its weights are not loaded.
pub(crate) fn describe(name: &str) -> Result<ModelInfo> {
    let bar = Bar::default();
    let mut options = ModelOptions::default();
    options.progress = Some(bar.loading());
    let info = describe_model(&resolve(name), &options);
    bar.clear();
    info.with_context(|| format!("cannot read the model `{name}`"))
}

/// This program tries GGUF files for itself: `avp probe-gguf`.
fn probe() -> Result<Probe> {
    let program = env::current_exe().context("cannot find this program's own file")?;
    let mut probe = Probe::new(program, ["probe-gguf"]);
    probe.cache_dir = cache_dir();
    Ok(probe)
}

/// What [`probe`] runs. It ends in time, also where whoever waited for it is gone.
pub(crate) fn try_file(file: &Path) -> Result<()> {
    thread::spawn(|| {
        thread::sleep(LONGEST_TRIAL);
        process::exit(1);
    });
    Ok(avp::try_model(file)?)
}

/// An error of loading, with options as they are written here.
fn told(error: BackendError) -> Error {
    match error {
        BackendError::NoSuchOption { engine, option, instead } => {
            let do_this =
                instead.map_or_else(|| "leave it out".to_owned(), |other| format!("give {}", flag(other)));
            anyhow!("{engine} has no option {}; {do_this}", flag(option))
        }
        other => other.into(),
    }
}

/// The name of a demo model becomes its folder, that of one of its GGUF files its path; anything else stays.
fn resolve(name: &str) -> String {
    let is_plain = !name.is_empty() && !name.contains(['/', '\\', ':']) && !Path::new(name).exists();
    let Some(models) = demo_folder().filter(|_| is_plain) else { return name.to_owned() };
    let (folder, file) = (models.join(name), models.join("gguf").join(name));
    let is_gguf = Path::new(name).extension().is_some_and(|extension| extension == "gguf");
    if folder.is_dir() {
        folder.display().to_string()
    } else if is_gguf && file.is_file() {
        file.display().to_string()
    } else {
        name.to_owned()
    }
}

/// The engine that runs `name`.
pub(crate) fn engine_of(name: &str) -> Engine {
    Engine::of(&resolve(name))
}

/// The model to give to `engine` for `name`: for llama.cpp a demo model is its GGUF file.
///
/// # Errors
/// Models of another engine.
pub(crate) fn on_engine(name: &str, engine: Engine) -> Result<String> {
    if engine_of(name) == engine {
        return Ok(name.to_owned());
    }
    let file = demo_folder().map(|folder| folder.join(format!("gguf/{name}-f16.gguf")));
    match file.filter(|file| engine == Engine::LlamaCpp && file.is_file()) {
        Some(file) => Ok(file.display().to_string()),
        None if engine == Engine::LlamaCpp => {
            bail!("`{name}` is no model of llama.cpp; give a GGUF file, an `ollama:` model or a demo model")
        }
        None => {
            bail!("`{name}` is a model of llama.cpp; give a Hugging Face model folder, or leave candle out")
        }
    }
}

/// Where the demo models are: `AVP_MODELS`, `models` here, or `models` in the source tree.
pub(crate) fn demo_folder() -> Option<PathBuf> {
    let candidates = [
        env::var_os("AVP_MODELS").map(PathBuf::from),
        Some(PathBuf::from("models")),
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")),
    ];
    candidates.into_iter().flatten().find(|folder| folder.join("questions").is_dir())
}

/// Where what was computed or found out of models is kept between runs.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    let own = folder_of("AVP_CACHE_DIR");
    let xdg = || folder_of("XDG_CACHE_HOME").map(|dir| dir.join("avp"));
    let home = || folder_of("HOME").map(|dir| dir.join(".cache").join("avp"));
    own.or_else(xdg).or_else(home)
}

/// Where projection maps are kept, unless told otherwise.
pub(crate) fn map_dir() -> Option<PathBuf> {
    folder_of("AVP_MAP_DIR").or_else(|| cache_dir().map(|dir| dir.join("maps")))
}

/// An agent that keeps what it finds out of other models, and uses the maps in `map_dir`, or where maps are kept.
pub(crate) fn agent(name: &str, backend: Arc<dyn Backend>, map_dir: Option<&PathBuf>) -> Agent {
    let maps = map_dir.cloned().or_else(self::map_dir).map(MapFolder::new);
    Agent::new(name, backend).with_cache_dir(cache_dir()).with_maps(maps)
}

/// The folder that a variable names. An empty variable is one that is not set.
fn folder_of(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

pub(crate) fn policy(require_verified: bool) -> VerificationPolicy {
    if require_verified { VerificationPolicy::Require } else { VerificationPolicy::Allow }
}

/// The process's pool, which connections use too, so that a buffer serves again whatever it held.
pub(crate) fn pool() -> BufferPool {
    TransportOptions::default().pool
}
