//! Transfers in slabs: the manifest, and what becomes of slabs as they come.

use avp_wire::slab::{Manifest, Reassembly, Received, SlabError};
use avp_wire::{Frame, Limits};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::error::Failure;
use super::form::{Hex, Profile, read};
use super::kv::HeaderFields;

#[derive(Deserialize)]
struct Transfer {
    profile: Profile,
    manifest: Hex,
    slabs: Vec<Hex>,
}

pub(super) fn reassemble(fields: Value) -> Answer {
    let Transfer { profile, manifest: Hex(manifest), slabs } = read(fields)?;
    let limits = profile.limits();
    let (manifest, id) = Manifest::from_frame(&Frame::decode(manifest, &limits)?)?;
    let mut transfer = Reassembly::new(manifest, id, &limits)?;
    let shown: Vec<&str> = slabs.into_iter().map(|Hex(slab)| insert(&mut transfer, slab, &limits)).collect();
    let gaps: Vec<_> = transfer.gaps().map(|gap| [gap.start, gap.end]).collect();
    let layers: Vec<_> = (0..manifest.kv.num_layers).map(|layer| transfer.layer_is_complete(layer)).collect();
    let end = transfer.finish().map_or_else(|error| error.code().as_str().to_owned(), hex::encode);
    Ok(json!({
        "slabs": shown, "gaps": gaps, "resume": transfer.resume_point(), "end": end, "layers": layers,
    }))
}

fn insert(transfer: &mut Reassembly, message: Bytes, limits: &Limits) -> &'static str {
    let received = Frame::decode(message, limits)
        .map_err(|error| error.code())
        .and_then(|frame| transfer.insert(&frame).map_err(|error| error.code()));
    match received {
        Ok(Received::New(_)) => "new",
        Ok(Received::Duplicate(_)) => "duplicate",
        Err(code) => code.as_str(),
    }
}

impl From<SlabError> for Failure {
    fn from(error: SlabError) -> Self {
        Self::refused(error.code(), error)
    }
}

#[derive(Deserialize)]
struct ManifestFields {
    kv: HeaderFields,
    slab_layers: u32,
    slab_tokens: u32,
    #[serde(default)]
    digest: Option<Hex>,
}

pub(super) fn encode_manifest(fields: Value) -> Answer {
    let ManifestFields { kv, slab_layers, slab_tokens, digest } = read(fields)?;
    let digest = digest.map(|Hex(digest)| digest.as_ref().try_into());
    let digest = digest.transpose().map_err(|_| Failure::invalid("a digest has 32 bytes"))?;
    let manifest = Manifest { kv: kv.header()?, slab_layers, slab_tokens, digest };
    // The grid of counts that no manifest may have is not asked for.
    let payload = manifest.encode();
    Manifest::decode(&payload)?;
    let slabs: Vec<String> = manifest.slabs().map(|slab| slab.to_string()).collect();
    Ok(json!({ "payload": hex::encode(payload), "slab_count": manifest.slab_count(), "slabs": slabs }))
}
