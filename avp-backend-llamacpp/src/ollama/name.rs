//! Names of Ollama models.

use std::fmt;
use std::str::FromStr;

use crate::shown::shown;

/// Name of an Ollama model: `[host[:port]/][namespace/]name[:tag]`.
///
/// No part can leave its folder in a path: each begins with a letter, a digit or `_`, and holds these, `-`, `.` and, in a host,
/// the `:` before a port. Namespaces have no `.`.
///
/// ```
/// use avp_backend_llamacpp::ollama::ModelName;
///
/// let name: ModelName = "qwen2.5:0.5b".parse()?;
/// assert_eq!(name.host(), "registry.ollama.ai");
/// assert_eq!((name.namespace(), name.model(), name.tag()), ("library", "qwen2.5", "0.5b"));
/// assert_eq!(ModelName::from_reference("ollama:hf.co/user/some-GGUF:Q8_0").unwrap()?.host(), "hf.co");
/// # Ok::<(), avp_backend_llamacpp::ollama::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

impl ModelName {
    /// The name in a model reference that begins with `ollama:`; `None` for other references.
    #[must_use]
    pub fn from_reference(reference: &str) -> Option<Result<Self, InvalidName>> {
        reference.strip_prefix("ollama:").map(str::parse)
    }

    /// The registry, `registry.ollama.ai` where none is said.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whose model it is, `library` where nobody is said.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Which one of its kind, `latest` where none is said.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Whether it comes from Ollama's own registry, under either of its names.
    pub(super) fn is_public(&self) -> bool {
        PUBLIC_HOSTS.iter().any(|host| self.host.eq_ignore_ascii_case(host))
    }

    /// The same model at another registry.
    pub(super) fn at(&self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self.clone() }
    }

    /// A name from the four parts of a manifest's path.
    pub(super) fn from_parts(parts: [&str; 4]) -> Option<Self> {
        let [host, namespace, model, tag] = parts;
        let kinds = [Part::Host, Part::Namespace, Part::Model, Part::Tag];
        let valid = kinds.into_iter().zip(parts).all(|(kind, part)| kind.problem(part).is_none());
        let own = |part: &str| part.to_owned();
        valid.then(|| Self { host: own(host), namespace: own(namespace), model: own(model), tag: own(tag) })
    }

    /// Its parts, outermost first: the path of its manifest.
    pub(super) fn parts(&self) -> [&str; 4] {
        [&self.host, &self.namespace, &self.model, &self.tag]
    }

    /// Ollama takes names that differ in case alone for the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        let host = (self.is_public() && other.is_public()) || self.host.eq_ignore_ascii_case(&other.host);
        let rest = |name: &Self| [name.namespace.clone(), name.model.clone(), name.tag.clone()];
        host && rest(self).iter().zip(rest(other)).all(|(a, b)| a.eq_ignore_ascii_case(&b))
    }
}

impl FromStr for ModelName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |problem: String| InvalidName { name: shown(text), problem };
        let (path, tag) = match text.rsplit_once(':') {
            // A colon before the last slash is that of a port.
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, DEFAULT_TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let parts = match parts.as_slice() {
            [model] => [DEFAULT_HOST, DEFAULT_NAMESPACE, model, tag],
            [namespace, model] => [DEFAULT_HOST, namespace, model, tag],
            [host, namespace, model] => [host, namespace, model, tag],
            _ => return Err(invalid("it has more than three parts between slashes".to_owned())),
        };
        let kinds = [Part::Host, Part::Namespace, Part::Model, Part::Tag];
        let problem = kinds.into_iter().zip(parts).find_map(|(kind, part)| kind.problem(part));
        match (problem, Self::from_parts(parts)) {
            (None, Some(name)) => Ok(name),
            (problem, _) => Err(invalid(problem.unwrap_or_default())),
        }
    }
}

/// As short as Ollama prints it: without what is the default, but with the tag.
impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_public() {
            write!(f, "{}/{}/", self.host, self.namespace)?;
        } else if !self.namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE) {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

/// A text that is no name of an Ollama model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{name}' is no name of an Ollama model: {problem}; give [host[:port]/][namespace/]name[:tag], e.g. qwen2.5:0.5b"
)]
pub struct InvalidName {
    /// The text, escaped and cut.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Namespace,
    Model,
    Tag,
}

impl Part {
    fn problem(self, part: &str) -> Option<String> {
        let what = match self {
            Self::Host => "host",
            Self::Namespace => "namespace",
            Self::Model => "name",
            Self::Tag => "tag",
        };
        let longest = if self == Self::Host { 350 } else { 80 };
        let allowed = |c: char| match c {
            '-' | '_' => true,
            '.' => self != Self::Namespace,
            ':' => self == Self::Host,
            c => c.is_ascii_alphanumeric(),
        };
        if part.is_empty() {
            Some(format!("its {what} is empty"))
        } else if part.len() > longest {
            Some(format!("its {what} is longer than {longest} characters"))
        } else if part.contains("..") {
            Some(format!("its {what} has two dots in a row"))
        } else if let Some(c) = part.chars().find(|&c| !allowed(c)) {
            Some(format!("its {what} has the character {c:?}"))
        } else if part.starts_with(['-', '.', ':']) {
            Some(format!("its {what} begins with neither a letter nor a digit"))
        } else {
            None
        }
    }
}

/// Host of Ollama's own registry.
pub(super) const DEFAULT_HOST: &str = "registry.ollama.ai";
/// Its other name, which paths in `manifests-v2` have.
pub(super) const V2_HOST: &str = "ollama.com";
const PUBLIC_HOSTS: [&str; 2] = [DEFAULT_HOST, V2_HOST];
const DEFAULT_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
