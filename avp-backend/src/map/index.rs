//! Which models the maps of a folder are for, kept in memory: a peer's hello costs no reading of files.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use avp_handshake::MapLookup;

use super::{MapEnd, MapFolder, ModelKey, ProjectionMap};

/// What is known of each file.
#[derive(Debug, Default)]
pub(super) struct Index(Mutex<HashMap<PathBuf, Known>>);

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    /// None of files that are broken.
    ends: Option<(MapEnd, MapEnd)>,
}

/// Size and time of modification: a file in which neither changes stays as it was.
type Stamp = (u64, Option<SystemTime>);

impl MapFolder {
    /// Files that may hold the map, best first.
    pub(super) fn candidates(&self, source: ModelKey<'_>, target: ModelKey<'_>) -> Vec<PathBuf> {
        let known = self.known();
        let mut found: Vec<(usize, &PathBuf)> = known
            .iter()
            .filter_map(|(path, known)| {
                let (from, to) = known.ends.as_ref()?;
                let (from, to) = (ModelKey::from(from), ModelKey::from(to));
                let verified = [source.is_verified(&from), target.is_verified(&to)];
                let unverified = verified.iter().filter(|verified| !**verified).count();
                (source.is(&from) && target.is(&to)).then_some((unverified, path))
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, path)| path.clone()).collect()
    }

    /// The index as the folder is now. One that cannot be read has no maps.
    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Known>> {
        let mut index = self.index.0.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = self.files().unwrap_or_default();
        let mut former = std::mem::take(&mut *index);
        for path in paths {
            let Some(stamp) = stamp(&path) else { continue };
            let known = match former.remove(&path) {
                Some(known) if known.stamp == stamp => known,
                _ => Known { stamp, ends: ends(&path) },
            };
            index.insert(path, known);
        }
        index
    }
}

impl MapLookup for MapFolder {
    fn has_map(&self, source_hash: &str, target_hash: &str) -> bool {
        let is_for = |(source, target): &(MapEnd, MapEnd)| {
            !source_hash.is_empty()
                && !target_hash.is_empty()
                && source.model_hash == source_hash
                && target.model_hash == target_hash
        };
        self.known().values().filter_map(|known| known.ends.as_ref()).any(is_for)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.len(), found.modified().ok()))
}

fn ends(path: &Path) -> Option<(MapEnd, MapEnd)> {
    let map = ProjectionMap::read(path).ok()?;
    Some((map.source, map.target))
}
