//! A case: one operation, and what it has to answer.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

/// How literally a decoder applies the rules (docs/spec/limits.md, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Profile {
    Strict,
    Default,
    Lenient,
}

impl Profile {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Default => "default",
            Self::Lenient => "lenient",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Strict, Self::Default, Self::Lenient].into_iter().find(|profile| profile.as_str() == name)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Operations that take a profile.
const BY_PROFILE: [&str; 4] = ["decode_frame", "decode_stream", "read_context", "reassemble"];

/// A case in the form of the hand-made files; those made with the SDK are brought into it ([`crate::adapt`]).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// Name of its file, without the ending.
    #[serde(default)]
    pub(crate) suite: String,
    pub(crate) name: String,
    /// Rule of docs/spec that it tests, as `page n.m`.
    pub(crate) section: String,
    /// Further rules that it needs.
    #[serde(default)]
    pub(crate) also: Vec<String>,
    pub(crate) op: String,
    /// Fields of the request.
    pub(crate) input: Map<String, Value>,
    pub(crate) expect: Expect,
    /// Relative tolerance of numbers; without it they are equal or not.
    #[serde(default)]
    pub(crate) rtol: Option<f64>,
    /// A second operation, on the bytes that the first gave.
    #[serde(default)]
    pub(crate) then: Option<Then>,
    #[serde(default, rename = "note")]
    pub(crate) _note: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Then {
    pub(crate) op: String,
    #[serde(default)]
    pub(crate) profile: Option<ProfileName>,
    pub(crate) expect: Answer,
}

/// A [`Profile`] in JSON.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ProfileName(pub(crate) Profile);

impl TryFrom<String> for ProfileName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Profile::from_name(&name).map(Self).ok_or_else(|| format!("there is no profile {name}"))
    }
}

/// What has to be answered, under each profile or under all.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Expect {
    ByProfile { strict: Answer, default: Answer, lenient: Answer },
    Always(Answer),
}

impl Expect {
    pub(crate) fn under(&self, profile: Option<Profile>) -> &Answer {
        match (self, profile) {
            (Self::Always(answer), _) => answer,
            (Self::ByProfile { strict, .. }, Some(Profile::Strict)) => strict,
            (Self::ByProfile { lenient, .. }, Some(Profile::Lenient)) => lenient,
            (Self::ByProfile { default, .. }, _) => default,
        }
    }
}

/// One answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// A result that has at least these fields.
    Ok(Value),
    /// A refusal with one of these codes.
    Error(Codes),
}

/// One code or, where the specification leaves it open, several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Codes {
    One(String),
    Any(Vec<String>),
}

impl Codes {
    pub(crate) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(code) => std::slice::from_ref(code),
            Self::Any(codes) => codes,
        }
    }
}

impl Case {
    /// Whether it is run under each profile, or once.
    pub(crate) fn has_profiles(&self) -> bool {
        BY_PROFILE.contains(&self.op.as_str())
    }

    /// `suite/case`, as lists of known failures name it.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.suite, self.name)
    }
}
