//! An agent: a loaded model with a name.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use avp_backend::{
    Backend, Context, GenerateError, GenerateEvent, GenerateOptions, Generation, MapFolder, ModelInfo,
    ModelKey, ProjectionMap, Prompt, ThinkError, ThinkOptions, generate, think,
};
use avp_handshake::fingerprint::Fingerprint;
use avp_handshake::{Capabilities, Hello, VocabularyClaim};
use avp_wire::ext;
use avp_wire::vocabulary::{SharedPairs, TokenHashes};

use crate::cross_model::{OwnVocabulary, Vocabularies};

/// Keys of the `extra` map that this implementation understands and announces.
const KEYS: [&str; 7] =
    [ext::PAD, ext::KIND, ext::TRANSFER, ext::SLAB, ext::BLAKE3, ext::WEIGHTS, ext::QUESTION];

/// A loaded model with a name. Clones share the model.
#[derive(Clone)]
pub struct Agent {
    name: String,
    backend: Arc<dyn Backend>,
    cache_dir: Option<PathBuf>,
    vocabularies: Arc<Vocabularies>,
    maps: Option<Arc<MapFolder>>,
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
        Self { name: name.into(), backend, cache_dir: None, vocabularies: Arc::default(), maps: None }
    }

    /// Keeps under `dir` between runs: realignments of untied models, vocabularies of other models, and what projections into
    /// these are worth.
    #[must_use]
    pub fn with_cache_dir(self, dir: Option<PathBuf>) -> Self {
        Self { cache_dir: dir, ..self }
    }

    /// Uses the projection maps of a folder: over tokens towards any peer, linear ones within this process
    /// ([`project_into`](crate::project_into)).
    #[must_use]
    pub fn with_maps(self, maps: Option<MapFolder>) -> Self {
        Self { maps: maps.map(Arc::new), ..self }
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

    /// What it says of itself to a peer. The first time it reads the whole vocabulary, which takes some ten milliseconds.
    #[must_use]
    pub fn hello(&self) -> Hello {
        let info = self.backend.info();
        let mut hello = Hello::new(&self.name, info.identity.clone());
        let device = self.backend.shared_device().map(str::to_owned);
        announce(&mut hello, info.weights.as_deref(), self.vocabularies.claim(self.backend.as_ref()), device);
        hello
    }

    /// The map from its model to another one.
    pub(crate) fn map_to(&self, target: ModelKey<'_>) -> Option<ProjectionMap> {
        self.maps.as_ref()?.find(self.backend.info(), target)
    }

    pub(crate) fn cache_dir(&self) -> Option<&Path> {
        self.cache_dir.as_deref()
    }

    pub(crate) fn own_vocabulary(&self) -> Option<&OwnVocabulary> {
        self.vocabularies.own(self.backend.as_ref())
    }

    /// Its vocabulary as it goes to a peer that asks.
    pub(crate) fn vocabulary(&self) -> Option<Vec<u8>> {
        self.own_vocabulary().map(|own| own.hashes.encode())
    }

    /// Tokens in common with a vocabulary that is known.
    pub(crate) fn compared(&self, theirs: Fingerprint) -> Option<Arc<SharedPairs>> {
        self.vocabularies.compared(self.backend.as_ref(), theirs, self.cache_dir())
    }

    /// Tokens in common with a vocabulary that has come.
    pub(crate) fn compare(&self, theirs: Fingerprint, hashes: &TokenHashes) -> Option<Arc<SharedPairs>> {
        self.vocabularies.compare(self.backend.as_ref(), theirs, hashes)
    }

    /// Reads `prompt` after `context` and takes `steps` latent steps, on a blocking thread. The hidden states of the prompt's
    /// last position and of the steps stay in the context, for models of other kinds ([`Context::hidden`]).
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn think(
        &self,
        prompt: Prompt,
        context: Option<Context>,
        steps: usize,
    ) -> Result<Context, AgentError> {
        self.think_keeping(prompt, context, steps, 1).await
    }

    /// As [`think`](Self::think), with the hidden states of the prompt's last `positions`.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn think_keeping(
        &self,
        prompt: Prompt,
        context: Option<Context>,
        steps: usize,
        positions: usize,
    ) -> Result<Context, AgentError> {
        let agent = self.clone();
        let run = move || {
            let options = ThinkOptions { steps, cache_dir: agent.cache_dir, hidden_positions: positions };
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

/// What an agent says of itself that takes contexts of this model and nothing else.
pub(crate) fn hello_of(name: &str, model: &ModelInfo) -> Hello {
    let mut hello = Hello::new(name, model.identity.clone());
    announce(&mut hello, model.weights.as_deref(), None, None);
    hello
}

/// Announces our extension, the checkpoint where it is known, the vocabulary of who takes distributions, and the device in whose
/// memory contexts are taken.
pub(crate) fn announce(
    hello: &mut Hello,
    weights: Option<&str>,
    vocabulary: Option<VocabularyClaim>,
    device: Option<String>,
) {
    let capabilities = Capabilities {
        weights: weights.and_then(|hex| hex.parse::<Fingerprint>().ok()),
        keys: KEYS.into_iter().chain(device.is_some().then_some(ext::MEMORY)).map(str::to_owned).collect(),
        codecs: Vec::new(),
        vocabulary,
        device,
    };
    capabilities.announce(hello);
}
