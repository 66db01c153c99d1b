//! A context larger than a frame can be, from a file through a transport into a file, in bounded memory: its rate, and the
//! most memory that each side ever took (Linux).
//!
//! `cargo run --release -p avp --example large_context -- [URL] [GIB] [FOLDER]`: by default `avp+tcp://127.0.0.1:0`, 5 GiB
//! and the folder for temporary files, which must hold it twice. The cache is made up: 32 layers of 8 heads of 128
//! halves, which is 128 KiB a token.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::{File, read_to_string};
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use avp::{
    BufferPool, ModelInfo, Peer, ReceiveEvent, ReceiveInto, ReceiveOptions, TransportOptions, inspect,
    open_context, receive,
};
use avp_backend::Backend as _;
use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_wire::slab::{Manifest, TransferId};
use avp_wire::{Bytes, DType, EncodeOptions, FrameDecoder, KvDtype, KvHeader, Limits, Metadata, PayloadType};
use tokio::sync::mpsc;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TOKENS_PER_GIB: u32 = 8 << 10;
const LAYERS: u32 = 32;
const ENDED: &str = "the receiver ended early";

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, url, target] = &args[..]
        && mode == "receive"
    {
        return receive_one(url, target.into()).await;
    }
    let url = args.first().map_or("avp+tcp://127.0.0.1:0", String::as_str);
    let gib: u32 = args.get(1).map_or(Ok(5), |text| text.parse())?;
    let folder = tempfile::tempdir_in(args.get(2).map_or_else(std::env::temp_dir, PathBuf::from))?;
    let (source, target) = (folder.path().join("source.avp"), folder.path().join("target.avp"));
    write_context(&source, gib * TOKENS_PER_GIB)?;

    let mut receiver = Command::new(std::env::current_exe()?)
        .args(["receive", url])
        .arg(&target)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(receiver.stdout.take().unwrap()).lines();
    let at = said.next().ok_or(ENDED)??;

    let context = open_context(&source, &BufferPool::new(64 << 20))?;
    let mut peer =
        Peer::connect(&at, Peer::hello_for("sender", Some(&context)), &TransportOptions::default()).await?;
    let started = Instant::now();
    let sent = peer.hand_over(&context, &|_| ()).await?;
    let took = started.elapsed();
    peer.close().await?;
    let of_receiver = said.next().ok_or(ENDED)??;
    if !receiver.wait()?.success() {
        return Err(ENDED.into());
    }
    println!(
        "{sent} bytes in {} slabs over {at}: {:.2} GB/s from file to file, digests and checksums included",
        context.manifest().slab_count(),
        sent as f64 / took.as_secs_f64() / 1e9,
    );
    println!("most memory: sender {} MiB, receiver {of_receiver} MiB", most_memory()?);
    if !same(&source, &target)? {
        return Err("what was received is not what was sent".into());
    }
    Ok(())
}

async fn receive_one(url: &str, target: PathBuf) -> Outcome<()> {
    let (events, mut heard) = mpsc::unbounded_channel();
    let on = move |event| drop(events.send(event));
    let into = ReceiveInto::File(target);
    let receiver = receive("receiver", model(), url, into, ReceiveOptions::default(), on).await?;
    println!("{}", receiver.url());
    let delivered = async move {
        while let Some(event) = heard.recv().await {
            if let ReceiveEvent::Left { delivered: true } = event {
                return;
            }
        }
    };
    receiver.run(delivered).await?;
    println!("{}", most_memory()?);
    Ok(())
}

/// A model that such a cache could be of.
fn model() -> ModelInfo {
    let tables = MatrixTables { hidden_dim: 1, input: vec![0.0; 256], output: None };
    let mut info = MatrixBackend::new("large", tables, 1 << 20).info().clone();
    (info.identity.num_layers, info.identity.num_kv_heads, info.identity.head_dim) = (LAYERS, 8, 128);
    info.dtype = KvDtype::F16;
    info
}

/// Writes a context in slabs as `avp` does, no two tokens alike.
fn write_context(path: &Path, tokens: u32) -> Outcome<()> {
    let model = model();
    let mut metadata = Metadata {
        model_id: model.identity.model_id.clone(),
        hidden_dim: model.identity.hidden_dim,
        num_layers: LAYERS,
        payload_type: PayloadType::KvCache,
        dtype: DType::from(KvDtype::F16),
        ..Metadata::default()
    };
    metadata.extra.insert(avp_wire::ext::MODEL_FAMILY.to_owned(), model.identity.model_family.clone());
    if let Some(weights) = &model.weights {
        metadata.extra.insert(avp_wire::ext::WEIGHTS.to_owned(), weights.clone());
    }
    let kv =
        KvHeader { num_layers: LAYERS, num_kv_heads: 8, head_dim: 128, seq_len: tokens, dtype: KvDtype::F16 };
    let (manifest, transfer) = (Manifest::with_slab_len(kv, 4 << 20), TransferId::from_random([7; 16]));
    let mut file = BufWriter::new(File::create(path)?);
    let encode = EncodeOptions::default();
    file.write_all(&manifest.to_frame(metadata.clone(), &transfer).encode(&encode)?.to_vec())?;
    let mut state = 1_u64;
    for id in manifest.slabs() {
        let header = manifest.slab_header(&id);
        let mut payload = vec![0; header.payload_len()?];
        for word in header.write_to(&mut payload)?.chunks_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        let frame = manifest.slab_frame(Metadata::default(), &transfer, &id, payload.into())?;
        file.write_all(&frame.encode(&encode)?.to_vec())?;
    }
    file.flush()?;
    assert!(inspect(path)?.slabs.is_some());
    Ok(())
}

/// Whether the slabs of both files are alike. Heads say between whom they travelled and may differ.
fn same(one: &Path, other: &Path) -> Outcome<bool> {
    let digests = |path: &Path| -> Outcome<Vec<[u8; 32]>> {
        let (mut file, mut decoder) = (File::open(path)?, FrameDecoder::new(Limits::default()));
        let (mut digests, mut buffer) = (Vec::new(), vec![0; 8 << 20]);
        loop {
            let len = file.read(&mut buffer)?;
            if len == 0 {
                decoder.finish()?;
                return Ok(digests);
            }
            let mut input = Bytes::copy_from_slice(&buffer[..len]);
            while let Some(frame) = decoder.decode(&mut input)? {
                digests.push(*blake3::hash(&frame.payload).as_bytes());
            }
        }
    };
    Ok(digests(one)? == digests(other)?)
}

/// The most memory this process ever had in use, MiB.
fn most_memory() -> Outcome<u64> {
    let status = read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).ok_or("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? >> 10)
}
