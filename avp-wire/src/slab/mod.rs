//! Transfers of KV caches as slabs: runs of layers by runs of tokens (docs/spec/slabs.md).
//!
//! A [`Manifest`] describes the cache and the grid that cuts it. Each slab is a frame of its own, made by
//! [`Manifest::slab_frame`]. The receiver's [`Reassembly`] checks slabs in any order, knows what is missing and
//! where to resume, and keeps digests only: slabs are handed on as views, to be injected or copied into place
//! ([`Manifest::place`]) as they come. Within a session a [`Delivery`] says with [`Ack`]s what it lacks, also to a sender
//! that comes back on another connection.
//!
//! ```
//! use avp_wire::slab::{Manifest, Reassembly, Received, TransferId};
//! use avp_wire::{Frame, KvDtype, KvHeader, KvPayload, Limits, Metadata};
//!
//! let kv = KvHeader { num_layers: 3, num_kv_heads: 2, head_dim: 4, seq_len: 10, dtype: KvDtype::F16 };
//! let mut payload: Vec<u8> = (0..kv.payload_len().unwrap()).map(|n| n as u8).collect();
//! kv.write_to(&mut payload).unwrap();
//! let cache = KvPayload::parse(payload.into()).unwrap();
//!
//! let manifest = Manifest::new(kv, 2, 4);
//! let id: TransferId = "t1".parse().unwrap();
//! let send = |index| {
//!     let slab = manifest.slab(index).unwrap();
//!     let mut payload = vec![0; manifest.slab_header(&slab).payload_len().unwrap()];
//!     manifest.extract(&cache, &slab, &mut payload).unwrap();
//!     manifest.slab_frame(Metadata::default(), &id, &slab, payload.into()).unwrap()
//! };
//!
//! let limits = Limits::default();
//! let mut reassembly = Reassembly::new(manifest, id.clone(), &limits).unwrap();
//! let mut copy = vec![0; kv.payload_len().unwrap()];
//! kv.write_to(&mut copy).unwrap();
//! for index in [5, 0, 3, 4, 1, 3, 2] {
//!     if let Received::New(slab) = reassembly.insert(&send(index)).unwrap() {
//!         manifest.place(&slab.id, &slab.kv, &mut copy).unwrap();
//!     }
//! }
//! reassembly.finish().unwrap();
//! assert_eq!(copy, *cache.as_bytes());
//! ```

mod ack;
mod copy;
mod delivery;
mod error;
mod manifest;
mod reassembly;
mod transfer_id;

pub use crate::ext::SlabId;
pub use ack::Ack;
pub use delivery::{Delivery, Round};
pub use error::SlabError;
pub use manifest::Manifest;
pub use reassembly::{Reassembly, Received, Slab, transfer_digest};
pub use transfer_id::TransferId;
