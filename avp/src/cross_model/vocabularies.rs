//! What is known of vocabularies: one's own, those of peers, and which tokens they have in common.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use avp_backend::{Backend, token_hashes};
use avp_handshake::VocabularyClaim;
use avp_handshake::fingerprint::Fingerprint;
use avp_wire::Bytes;
use avp_wire::vocabulary::{SharedPairs, TokenHashes};

/// Comparisons that are kept in memory; each takes a megabyte for large vocabularies.
const MOST_COMPARED: usize = 16;
/// Vocabularies of peers that are kept on disk; each takes 2.5 MB for 150,000 tokens.
const MOST_FILES: usize = 32;
const EXTENSION: &str = "vocabulary";

/// An agent's vocabulary, and those of other models as they came to be known.
#[derive(Default)]
pub(crate) struct Vocabularies {
    own: OnceLock<Option<OwnVocabulary>>,
    compared: Mutex<HashMap<Fingerprint, Arc<SharedPairs>>>,
}

/// The agent's own vocabulary.
pub(crate) struct OwnVocabulary {
    pub(crate) hashes: TokenHashes,
    pub(crate) fingerprint: Fingerprint,
}

impl Vocabularies {
    /// The vocabulary of `backend`; `None` where it is not known what its tokens mean.
    pub(crate) fn own(&self, backend: &dyn Backend) -> Option<&OwnVocabulary> {
        let make = || {
            let hashes = token_hashes(backend.codec()).inspect_err(|error| {
                tracing::debug!(%error, "the vocabulary is not announced");
            });
            let hashes = hashes.ok()?;
            let fingerprint = Fingerprint::from_bytes(hashes.fingerprint());
            Some(OwnVocabulary { hashes, fingerprint })
        };
        self.own.get_or_init(make).as_ref()
    }

    /// What the hello says of it.
    pub(crate) fn claim(&self, backend: &dyn Backend) -> Option<VocabularyClaim> {
        let rows = u32::try_from(backend.info().vocab_size).ok()?;
        Some(VocabularyClaim { fingerprint: self.own(backend)?.fingerprint, rows })
    }

    /// The tokens in common with the vocabulary that is announced as `theirs`, if that is known, now or from an earlier run.
    pub(crate) fn compared(
        &self,
        backend: &dyn Backend,
        theirs: Fingerprint,
        cache_dir: Option<&Path>,
    ) -> Option<Arc<SharedPairs>> {
        if let Some(pairs) = self.lock().get(&theirs) {
            return Some(Arc::clone(pairs));
        }
        let bytes = fs::read(file(cache_dir?, theirs)).ok()?;
        let hashes = TokenHashes::decode(&Bytes::from(bytes)).ok()?;
        hashes.check(theirs.as_bytes()).ok()?;
        self.compare(backend, theirs, &hashes)
    }

    /// Compares with a vocabulary whose fingerprint was checked.
    pub(crate) fn compare(
        &self,
        backend: &dyn Backend,
        theirs: Fingerprint,
        hashes: &TokenHashes,
    ) -> Option<Arc<SharedPairs>> {
        let pairs = Arc::new(SharedPairs::between(&self.own(backend)?.hashes, hashes));
        let mut compared = self.lock();
        if compared.len() >= MOST_COMPARED
            && let Some(any) = compared.keys().next().copied()
        {
            compared.remove(&any);
        }
        compared.insert(theirs, Arc::clone(&pairs));
        Some(pairs)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Fingerprint, Arc<SharedPairs>>> {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a peer's vocabulary for later runs. A disk that refuses costs another exchange, no more.
pub(crate) fn keep(cache_dir: &Path, theirs: Fingerprint, payload: &[u8]) {
    let save = || {
        let path = file(cache_dir, theirs);
        let dir = path.parent().unwrap_or(cache_dir);
        fs::create_dir_all(dir)?;
        make_room(dir)?;
        let mut beside = tempfile::NamedTempFile::new_in(dir)?;
        beside.write_all(payload)?;
        beside.persist(&path).map(drop).map_err(|error| error.error)
    };
    if let Err(error) = save() {
        tracing::debug!(%error, "a vocabulary is not kept");
    }
}

/// Removes the oldest where there are too many.
fn make_room(dir: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push((path.metadata()?.modified()?, path));
        }
    }
    files.sort_unstable();
    let spare = (files.len() + 1).saturating_sub(MOST_FILES);
    files.iter().take(spare).try_for_each(|(_, path)| fs::remove_file(path))
}

/// 64 hex digits of our own writing, whatever the peer said.
fn file(cache_dir: &Path, fingerprint: Fingerprint) -> PathBuf {
    cache_dir.join("vocabularies").join(format!("{fingerprint}.{EXTENSION}"))
}
