//! Hidden states in files.

use std::path::Path;

use avp_backend::{ContextStamp, HiddenStates};
use avp_wire::{BufferPool, EncodeOptions, Metadata, PayloadType, ext};

use super::write::{beside, persist, put};
use super::{FileError, inspect, open_context, read_frame};
use crate::outgoing::OutgoingContext;

/// What a context file holds.
#[derive(Debug)]
#[non_exhaustive]
pub enum Saved {
    /// A KV cache, to be handed over.
    Kv(Box<OutgoingContext>),
    /// Hidden states, and what is said of them beside.
    Hidden(Box<HiddenStates>, Box<Metadata>),
}

impl Saved {
    /// What is said beside the cache or the states.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Kv(context) => context.metadata(),
            Self::Hidden(_, metadata) => metadata,
        }
    }
}

/// Opens the context file at `path`, whichever kind it is of.
///
/// # Errors
/// [`FileError`] if the file is neither, or a part of it is missing.
pub fn open_saved(path: &Path, pool: &BufferPool) -> Result<Saved, FileError> {
    let found = inspect(path)?;
    if found.slabs.is_some() || found.head.metadata.payload_type == PayloadType::KvCache {
        return Ok(Saved::Kv(Box::new(open_context(path, pool)?)));
    }
    let frame = read_frame(path, pool)?;
    let states = HiddenStates::from_frame(&frame);
    let states = states.map_err(|source| FileError::Hidden { path: path.to_owned(), source })?;
    Ok(Saved::Hidden(Box::new(states), Box::new(frame.metadata)))
}

/// Writes hidden states to `path`, whole or not at all, as [`save_context`](crate::save_context) writes caches. Gives the
/// file's bytes.
///
/// # Errors
/// [`FileError`].
pub fn save_hidden(
    states: &HiddenStates,
    path: &Path,
    model_hash: Option<&str>,
    text: Option<&str>,
) -> Result<u64, FileError> {
    let model_hash = model_hash.map(str::to_owned);
    let stamp = ContextStamp { model_hash, extensions: true, ..ContextStamp::default() };
    let mut frame = states.to_frame(&stamp);
    if let Some(value) = text.and_then(crate::text_key::encode) {
        frame.metadata.extra.insert(ext::TEXT.to_owned(), value);
    }
    let options = EncodeOptions { align: true, ..EncodeOptions::default() };
    let mut file = beside(path)?;
    let written = put(&mut file, &frame.encode(&options).map_err(FileError::encode(path))?, path)?;
    persist(file, path)?;
    Ok(written)
}
