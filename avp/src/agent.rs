//! An agent: a loaded model with a name.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use avp_backend::{
    Backend, Context, GenerateError, GenerateEvent, GenerateOptions, Generation, ModelInfo, Prompt,
    ThinkError, ThinkOptions, generate, think,
};
use avp_handshake::fingerprint::Fingerprint;
use avp_handshake::{Capabilities, Hello};
use avp_wire::ext;

/// Keys of the `extra` map that this implementation understands and announces.
const KEYS: [&str; 7] =
    [ext::PAD, ext::KIND, ext::TRANSFER, ext::SLAB, ext::BLAKE3, ext::WEIGHTS, ext::QUESTION];

/// A loaded model with a name. Clones share the model.
#[derive(Clone)]
pub struct Agent {
    name: String,
    backend: Arc<dyn Backend>,
    cache_dir: Option<PathBuf>,
}

/// Why an agent could not think or write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Thinking failed.
    #[error(transparent)]
    Think(#[from] ThinkError),
    /// Generating failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The engine's thread ended without a result.
    #[error("the engine's thread ended without a result")]
    Lost,
}

impl Agent {
    /// An agent of a loaded model.
    #[must_use]
    pub fn new(name: impl Into<String>, backend: Arc<dyn Backend>) -> Self {
        Self { name: name.into(), backend, cache_dir: None }
    }

    /// Keeps realignments of untied models under `dir` between runs.
    #[must_use]
    pub fn with_cache_dir(self, dir: Option<PathBuf>) -> Self {
        Self { cache_dir: dir, ..self }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its model.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// What it says of itself to a peer.
    #[must_use]
    pub fn hello(&self) -> Hello {
        hello_of(&self.name, self.backend.info())
    }

    /// Reads `prompt` after `context` and takes `steps` latent steps, on a blocking thread.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn think(
        &self,
        prompt: Prompt,
        context: Option<Context>,
        steps: usize,
    ) -> Result<Context, AgentError> {
        let agent = self.clone();
        let run = move || {
            let options = ThinkOptions { steps, cache_dir: agent.cache_dir, ..ThinkOptions::default() };
            think(agent.backend.as_ref(), &prompt, context.as_ref(), &options, &mut |_| ())
        };
        Ok(tokio::task::spawn_blocking(run).await.map_err(|_| AgentError::Lost)??)
    }

    /// Reads `prompt` after `context` and writes, on a blocking thread. `on_event` hears text as it comes and may
    /// end the generation.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn generate(
        &self,
        prompt: Prompt,
        context: Option<Context>,
        options: GenerateOptions,
        mut on_event: impl FnMut(GenerateEvent<'_>) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Generation, AgentError> {
        let backend = Arc::clone(&self.backend);
        let run = move || generate(backend.as_ref(), &prompt, context.as_ref(), &options, &mut on_event);
        Ok(tokio::task::spawn_blocking(run).await.map_err(|_| AgentError::Lost)??)
    }
}

/// What an agent of this model says of itself.
pub(crate) fn hello_of(name: &str, model: &ModelInfo) -> Hello {
    let mut hello = Hello::new(name, model.identity.clone());
    announce(&mut hello, model.weights.as_deref());
    hello
}

/// Announces our extension, and the checkpoint where it is known.
pub(crate) fn announce(hello: &mut Hello, weights: Option<&str>) {
    let capabilities = Capabilities {
        weights: weights.and_then(|hex| hex.parse::<Fingerprint>().ok()),
        keys: KEYS.map(str::to_owned).to_vec(),
        codecs: Vec::new(),
        vocabulary: None,
    };
    capabilities.announce(hello);
}
