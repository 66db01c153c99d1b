//! Slabs into an engine's cache, and to a generation that follows them as they come.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use avp_backend::{
    Backend, BackendError, Context, ContextImport, GenerateError, GenerateEvent, GenerateOptions, Generation,
    KvPart, Prompt, Verification, VerificationPolicy, generate_arriving, part,
};
use avp_handshake::Reject;
use avp_wire::slab::Slab;
use avp_wire::{ErrorCode, KvHeader, Metadata};

use crate::Agent;
use crate::answering::{Stop, import_refusal};
use crate::incoming::SlabSink;

/// How often a generation that waits for slabs looks whether anybody still waits for it.
const LOOK: Duration = Duration::from_millis(50);

/// A context on its way into the model of an agent.
pub(crate) struct ContextSink {
    import: ContextImport,
    backend: Arc<dyn Backend>,
    followers: Vec<Sender<KvPart>>,
}

impl ContextSink {
    /// Judges a context by what is said of it.
    pub(crate) fn begin(
        metadata: &Metadata,
        header: &KvHeader,
        agent: &Agent,
        policy: VerificationPolicy,
    ) -> Result<Self, Reject> {
        let backend = Arc::clone(agent.backend());
        let import = ContextImport::begin(metadata, header, backend.as_ref(), policy);
        Ok(Self { import: import.map_err(|error| import_refusal(&error))?, backend, followers: Vec::new() })
    }

    /// What has come, and everything that still comes.
    pub(crate) fn follow(&mut self) -> Result<Arriving, Reject> {
        let fork = self.import.fork().map_err(|e| Reject::new(ErrorCode::Internal, e.to_string()))?;
        let (follower, parts) = channel();
        self.followers.push(follower);
        Ok(Arriving { import: fork, parts })
    }
}

impl SlabSink for ContextSink {
    type Whole = Context;

    fn insert(&mut self, slab: &Slab) -> Result<(), Reject> {
        self.import.insert(&slab.id, &slab.kv).map_err(|error| import_refusal(&error))?;
        self.followers.retain(|follower| follower.send(part(&slab.id, &slab.kv)).is_ok());
        Ok(())
    }

    fn finish(self) -> Result<Context, Reject> {
        Ok(self.import.finish(self.backend.as_ref()))
    }
}

/// A context that a generation builds on while it arrives.
pub(crate) struct Arriving {
    import: ContextImport,
    parts: Receiver<KvPart>,
}

impl Arriving {
    pub(crate) fn verification(&self) -> Verification {
        self.import.verification()
    }

    /// Generates; gives up where no slab comes for too long, or nobody waits for the answer any more.
    pub(crate) fn generate(
        self,
        backend: &dyn Backend,
        prompt: &Prompt,
        options: &GenerateOptions,
        on_event: &mut dyn FnMut(GenerateEvent<'_>) -> ControlFlow<()>,
        stop: &Stop,
    ) -> Result<Generation, GenerateError> {
        let Self { import, parts } = self;
        let mut arrive = || {
            let since = Instant::now();
            loop {
                match parts.recv_timeout(LOOK) {
                    Ok(part) => return Ok(part),
                    Err(RecvTimeoutError::Timeout) if !stop.is_set() && since.elapsed() < stop.patience => {}
                    Err(_) => return Err(BackendError::ContextInterrupted),
                }
            }
        };
        generate_arriving(backend, prompt, import, &mut arrive, options, on_event)
    }
}
