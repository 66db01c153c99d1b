//! Validations kept between runs: [`ValidationCache`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Validation;

/// Most bytes of a file that is read.
const MOST_BYTES: u64 = 64 << 10;

/// What a validation is of: each end by everything that tells it from others, and the texts by
/// [`validation_texts_hash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidationKey<'a> {
    /// The source model.
    pub source: &'a str,
    /// The target model.
    pub target: &'a str,
    /// Hash of the texts.
    pub texts: &'a str,
}

/// BLAKE3 over texts, hex.
#[must_use]
pub fn validation_texts_hash(texts: &[String]) -> String {
    hash(texts.iter().map(String::as_str))
}

fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// A folder with a JSON file for each pair of models that was validated.
#[derive(Clone, Debug)]
pub struct ValidationCache {
    folder: PathBuf,
}

impl ValidationCache {
    /// A cache in `folder`, which is made when something is first kept.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// What was kept of `key`; nothing where the file is broken or another key's.
    #[must_use]
    pub fn load(&self, key: &ValidationKey<'_>) -> Option<Validation> {
        let mut bytes = Vec::new();
        File::open(self.file(key)).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        let kept: Value = serde_json::from_slice(&bytes).ok()?;
        let same = |name: &str, value: &str| kept.get(name).and_then(Value::as_str) == Some(value);
        let is_of_key = same("source", key.source) && same("target", key.target) && same("texts", key.texts);
        let number = |value: &Value| Some(value.as_f64()? as f32).filter(|value| value.is_finite());
        let perplexity = match kept.get("perplexity")? {
            Value::Null => None,
            value => Some(number(value)?),
        };
        let cosine = number(kept.get("cosine")?)?;
        is_of_key.then_some(Validation { cosine, perplexity })
    }

    /// Keeps `validation`, in place of what there was.
    ///
    /// # Errors
    /// Those of the file system. Without the cache the next run validates again.
    pub fn store(&self, key: &ValidationKey<'_>, validation: &Validation) -> io::Result<()> {
        let kept = json!({
            "source": key.source, "target": key.target, "texts": key.texts,
            "cosine": validation.cosine, "perplexity": validation.perplexity,
        });
        fs::create_dir_all(&self.folder)?;
        let mut beside = tempfile::NamedTempFile::new_in(&self.folder)?;
        beside.write_all(format!("{kept:#}\n").as_bytes())?;
        beside.persist(self.file(key))?;
        Ok(())
    }

    fn file(&self, key: &ValidationKey<'_>) -> PathBuf {
        self.folder.join(hash([key.source, key.target, key.texts].into_iter()) + ".json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ValidationKey<'_> = ValidationKey { source: "a", target: "b", texts: "c" };
    const FOUND: Validation = Validation { cosine: 0.71, perplexity: Some(12.3) };

    #[test]
    fn what_is_kept_is_found_by_both_models_and_the_texts() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ValidationCache::new(folder.path().join("new"));
        assert_eq!(cache.load(&KEY), None);
        cache.store(&KEY, &FOUND).unwrap();
        assert_eq!(cache.load(&KEY), Some(FOUND));
        let found = Validation { cosine: -0.1, perplexity: None };
        cache.store(&KEY, &found).unwrap();
        assert_eq!(cache.load(&KEY), Some(found));
        for other in [
            ValidationKey { source: "ab", target: "", ..KEY },
            ValidationKey { source: "b", target: "a", ..KEY },
            ValidationKey { texts: "d", ..KEY },
        ] {
            assert_eq!(cache.load(&other), None);
        }
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_broken_or_of_other_models_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ValidationCache::new(folder.path());
        cache.store(&KEY, &FOUND).unwrap();
        let kept = fs::read_to_string(cache.file(&KEY)).unwrap();
        for broken in [
            kept[..kept.len() / 2].to_owned(),
            kept.replace("\"a\"", "\"z\""),
            kept.replace("0.7", "\"0.7\" "),
            kept.replace("perplexity", "complexity"),
            String::new(),
        ] {
            assert_ne!(broken, kept);
            fs::write(cache.file(&KEY), broken).unwrap();
            assert_eq!(cache.load(&KEY), None);
        }
        cache.store(&KEY, &FOUND).unwrap();
        assert_eq!(cache.load(&KEY), Some(FOUND));
    }

    #[test]
    fn texts_that_are_divided_otherwise_have_another_hash() {
        let hash = |texts: &[&str]| {
            validation_texts_hash(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&[]), hash(&[""]));
    }
}
