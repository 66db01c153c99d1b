//! How fast a GPU is: copies to and from the host, and steps that do not wait for launches.

mod busy;
mod pinned;
mod queued;

pub(crate) use pinned::copies;
pub(crate) use queued::queued_steps;
