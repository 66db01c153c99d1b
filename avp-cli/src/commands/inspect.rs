//! `avp inspect`.

use anyhow::Result;
use avp::{Inspection, ext, inspect};
use serde_json::{Map, Value, json};

use crate::args::InspectArgs;
use crate::output::{self, printable};

pub(crate) fn run(args: InspectArgs, json: bool) -> Result<()> {
    let found = inspect(&args.file)?;
    if json {
        return Ok(output::object(&record(&found))?);
    }
    for (name, value) in rows(&found) {
        output::line(&format!("{name:<18} {value}"))?;
    }
    Ok(())
}

fn rows(found: &Inspection) -> Vec<(String, String)> {
    let metadata = &found.head.metadata;
    let mut rows = vec![
        ("file".to_owned(), output::bytes(found.file_len)),
        ("holds".to_owned(), format!("{:?}, {:?}", metadata.payload_type, metadata.mode)),
        ("dtype".to_owned(), format!("{:?}", metadata.dtype)),
        ("model_id".to_owned(), printable(&metadata.model_id)),
        ("hidden_dim".to_owned(), metadata.hidden_dim.to_string()),
        ("num_layers".to_owned(), metadata.num_layers.to_string()),
    ];
    if let Some(kv) = &found.kv {
        rows.push(("tokens".to_owned(), kv.seq_len.to_string()));
        rows.push(("num_kv_heads".to_owned(), kv.num_kv_heads.to_string()));
        rows.push(("head_dim".to_owned(), kv.head_dim.to_string()));
    }
    rows.extend(found.slabs.map(|slabs| ("slabs".to_owned(), slabs.to_string())));
    rows.push(("compression".to_owned(), metadata.compression.clone().unwrap_or_else(|| "none".to_owned())));
    let checksum = metadata.payload_checksum.map_or_else(|| "none".to_owned(), |c| format!("{c:#010x}"));
    rows.push(("checksum".to_owned(), checksum));
    rows.extend(metadata.extra.iter().map(|(key, value)| (printable(key), shown(key, value))));
    rows
}

fn record(found: &Inspection) -> Value {
    let metadata = &found.head.metadata;
    let extra: Map<String, Value> =
        metadata.extra.iter().map(|(key, value)| (key.clone(), shown(key, value).into())).collect();
    json!({
        "file_bytes": found.file_len,
        "flags": found.head.header.flags.bits(),
        "metadata_bytes": found.head.header.metadata_length,
        "payload_bytes": found.head.payload_len_on_wire(),
        "session_id": metadata.session_id,
        "source_agent_id": metadata.source_agent_id,
        "target_agent_id": metadata.target_agent_id,
        "model_id": metadata.model_id,
        "hidden_dim": metadata.hidden_dim,
        "num_layers": metadata.num_layers,
        "payload_type": format!("{:?}", metadata.payload_type),
        "dtype": format!("{:?}", metadata.dtype),
        "tensor_shape": metadata.tensor_shape,
        "mode": format!("{:?}", metadata.mode),
        "compression": metadata.compression,
        "avp_map_id": metadata.avp_map_id,
        "payload_checksum": metadata.payload_checksum,
        "kv": found.kv.map(|kv| json!({
            "num_layers": kv.num_layers,
            "num_kv_heads": kv.num_kv_heads,
            "head_dim": kv.head_dim,
            "tokens": kv.seq_len,
            "dtype": format!("{:?}", kv.dtype),
        })),
        "slabs": found.slabs,
        "extra": extra,
    })
}

/// The value of an extension; prompts and padding by their length only.
fn shown(key: &str, value: &str) -> String {
    match key {
        ext::TEXT => format!("({} characters of text)", value.chars().count()),
        ext::PAD => format!("({} bytes)", value.len()),
        _ => printable(value),
    }
}
