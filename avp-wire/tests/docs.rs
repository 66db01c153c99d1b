//! The pages of `docs/spec/` and the code say the same about error codes and examples.

use std::path::PathBuf;

use avp_wire::slab::{Manifest, transfer_digest};
use avp_wire::{
    DType, EncodeOptions, ErrorCode, Frame, KvDtype, KvHeader, KvPayload, Limits, Metadata, Mode,
    PayloadType, ext,
};
use half::f16;

fn page(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "docs", "spec", name].iter().collect();
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_code_is_in_the_table_with_its_number_and_fault() {
    let page = page("errors.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.contains("| `")).collect();
    assert_eq!(rows.len(), ErrorCode::ALL.len());
    for (row, code) in rows.iter().zip(ErrorCode::ALL) {
        let fault = format!("{:?}", code.fault()).to_lowercase();
        let expected = format!("| {} | `{code}` | {fault} | ", code.number());
        assert!(row.starts_with(&expected), "{row} should start with {expected}");
    }
}

#[test]
fn every_code_that_a_page_names_exists() {
    let prefixes =
        ["frame.", "metadata.", "compression.", "kv.", "handshake.", "transport.", "transfer.", "caller."];
    let mut named = 0;
    for name in ["frame", "kv", "slabs", "handshake", "http", "extensions", "exchange", "limits"] {
        let name = &format!("{name}.md");
        for word in page(name).split('`').skip(1).step_by(2) {
            if prefixes.iter().any(|prefix| word.starts_with(prefix)) && !word.ends_with(".md") {
                assert!(ErrorCode::from_name(word).is_some(), "{name} names {word}");
                named += 1;
            }
        }
    }
    assert!(named > 40, "{named}");
}

/// The hexadecimal bytes in the first column of a page's example.
fn example(name: &str) -> Vec<u8> {
    let page = page(name);
    let (_, example) = page.split_once("Example\n").expect("a section with an example");
    let cells = example.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.flat_map(|(bytes, _)| hex::decode(bytes.replace(' ', "")).unwrap()).collect()
}

#[test]
fn the_example_of_a_frame_is_what_is_written_here() {
    let metadata = Metadata {
        model_id: "m".into(),
        hidden_dim: 2,
        dtype: DType::Float16,
        tensor_shape: vec![1, 2],
        extra: [("k".to_owned(), "v".to_owned())].into(),
        ..Metadata::default()
    };
    let frame = Frame::new(metadata, [f16::ONE, f16::from_f32(-2.0)].map(f16::to_le_bytes).concat());
    assert_eq!(frame.encode(&EncodeOptions::default()).unwrap().to_vec(), example("frame.md"));
    assert!(Frame::decode(example("frame.md").into(), &Limits::strict()).is_ok());
}

// spec: slabs 3.5, slabs 3.8
#[test]
fn the_example_of_slabs_is_what_is_sent_here() {
    let page = page("slabs.md");
    let (_, example) = page.split_once("Example\n").expect("a section with an example");
    // Lines that start with bytes, without the remark after them.
    let bytes = |text: &str| {
        let lines = text.lines().map(|line| line.split("   ").next().unwrap().replace(' ', ""));
        lines.filter_map(|line| hex::decode(line).ok()).flatten().collect::<Vec<u8>>()
    };
    let mut blocks = example.split("```");
    let manifest = Manifest::decode(&bytes(blocks.nth(1).unwrap())).unwrap();
    let id = "t".parse().unwrap();
    let mut digests = Vec::new();
    for (index, part) in blocks.nth(1).unwrap().split("index ").skip(1).enumerate() {
        let slab = manifest.slab(u32::try_from(index).unwrap()).unwrap();
        let (payload, stated) = part.split_once("avp.blake3 ").unwrap();
        let frame = manifest.slab_frame(Metadata::default(), &id, &slab, bytes(payload).into()).unwrap();
        assert!(part.starts_with(&format!("{index}, avp.slab {slab}\n")), "{part}");
        assert_eq!(frame.metadata.extra[ext::BLAKE3], stated.trim());
        assert_eq!(frame.metadata.extra[ext::SLAB], slab.to_string());
        assert_eq!((frame.metadata.mode, frame.metadata.payload_type), (Mode::Latent, PayloadType::KvCache));
        digests.push(*blake3::hash(&frame.payload).as_bytes());
    }
    assert_eq!(u64::try_from(digests.len()), Ok(manifest.slab_count()));
    let digest = hex::encode(transfer_digest(&digests));
    assert!(example.trim_end().ends_with(&format!("`{digest}`.")), "{digest}");
}

#[test]
fn the_example_of_a_kv_cache_holds_what_the_page_says() {
    let kv = KvPayload::parse(example("kv.md").into()).unwrap();
    let KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype } = *kv.header();
    assert_eq!((num_layers, num_kv_heads, head_dim, seq_len, dtype), (1, 1, 2, 1, KvDtype::F16));
    let plane = |numbers: [f32; 2]| numbers.map(|x| f16::from_f32(x).to_le_bytes()).concat();
    assert_eq!(kv.k(0), Some(&plane([1.0, -2.0])[..]));
    assert_eq!(kv.v(0), Some(&plane([0.5, 0.0])[..]));
}
