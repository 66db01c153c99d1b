//! What is particular to a GPU: keys and values out of and into its memory.
//!
//! - `transfers`: to the host and back.
//! - `sharing`: to another process of this machine, without the host.
//! - `timing`: how fast the device copies, and steps.
#![allow(unsafe_code)]

mod sharing;
pub(crate) mod timing;
mod transfers;

pub(crate) use sharing::Sharing;
pub(crate) use transfers::Transfers;
