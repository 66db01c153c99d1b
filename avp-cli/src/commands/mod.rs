//! One module per command.

pub(crate) mod ask;
pub(crate) mod cert;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod model;
pub(crate) mod models;
pub(crate) mod serve;
pub(crate) mod think;
