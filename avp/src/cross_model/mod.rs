//! Handing over to another model: which tokens both have, what is shipped of a hidden state, and whether it is good enough.

mod agreement;
mod hidden;
mod incoming;
mod plan;
mod shared;
mod validation;
mod vocabularies;
mod within;

pub(crate) use agreement::{Agreed, agree, vocabulary_frame};
pub use hidden::OutgoingHidden;
pub(crate) use incoming::Incoming;
pub(crate) use plan::{Plan, plan};
pub(crate) use shared::has_same_tokenizer;
pub(crate) use validation::{VALIDATE, validated, validation};
pub(crate) use vocabularies::{OwnVocabulary, Vocabularies};
pub use within::{Projected, project_into};
