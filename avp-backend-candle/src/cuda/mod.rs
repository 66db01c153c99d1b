//! Keys and values out of and into the memory of a GPU.
//!
//! - `transfers`: to the host and back.
//! - `sharing`: to another process of this machine, without the host.
#![allow(unsafe_code)]

mod sharing;
mod transfers;

pub(crate) use sharing::Sharing;
pub(crate) use transfers::Transfers;
