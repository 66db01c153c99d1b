//! Files in slabs, which contexts of this size would not need.

use std::path::Path;
use std::sync::Arc;

use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_backend::{Context, ContextStamp, Prompt, ThinkOptions, VerificationPolicy, think};
use avp_wire::slab::{Manifest, Reassembly, Received, SlabError};
use avp_wire::{BufferPool, Frame, Limits, Metadata};

use super::write::save;
use super::{FileError, FileSink, inspect, load_context, open_context};
use crate::incoming::SlabSink;
use crate::outgoing::OutgoingContext;

const DIM: usize = 8;

fn model() -> MatrixBackend {
    let input = (0..256 * DIM).map(|i| (i % 7) as f32 - 3.0).collect();
    MatrixBackend::new("model", MatrixTables { hidden_dim: DIM, input, output: None }, 512)
}

fn thought() -> Context {
    let options = ThinkOptions { steps: 2, ..ThinkOptions::default() };
    think(&model(), &Prompt::User("some notes".into()), None, &options, &mut |_| ()).unwrap()
}

fn pool() -> BufferPool {
    BufferPool::new(0)
}

fn payload(context: &Context) -> Vec<u8> {
    context.to_frame(&ContextStamp::default(), &pool()).unwrap().payload.to_vec()
}

fn load(path: &Path) -> Result<Context, FileError> {
    load_context(path, &model(), VerificationPolicy::Allow, &pool())
}

fn sink(target: std::path::PathBuf, outgoing: &OutgoingContext) -> FileSink {
    let key = (None, outgoing.transfer().clone());
    FileSink::new(target, outgoing.metadata(), outgoing.manifest(), key, None).in_slabs_beyond(0)
}

/// Writes the context in slabs of a few tokens, as one of 4 GiB would be.
fn in_slabs(path: &Path, context: &Context) -> OutgoingContext {
    let outgoing = OutgoingContext::of_context(context).unwrap().with_slab_len(512);
    let mut sink = sink(path.to_owned(), &outgoing);
    for slab in slabs(&outgoing) {
        sink.insert(&slab).unwrap();
    }
    sink.finish().unwrap();
    outgoing
}

fn slabs(outgoing: &OutgoingContext) -> Vec<avp_wire::slab::Slab> {
    let mut reassembly =
        Reassembly::new(*outgoing.manifest(), outgoing.transfer().clone(), &Limits::default()).unwrap();
    let frames = (0..).map_while(|index| outgoing.slab(index, Metadata::default(), &pool()).unwrap());
    let taken = frames.map(|frame| match reassembly.insert(&frame).unwrap() {
        Received::New(slab) => slab,
        Received::Duplicate(id) => panic!("{id} twice"),
    });
    taken.collect()
}

// spec: slabs 7.1
#[test]
fn a_context_too_large_for_a_frame_is_saved_in_slabs_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, context) = (folder.path().join("slabs.avp"), thought());
    let written = save(&context, &path, None, Some("some notes"), &pool(), 0).unwrap();
    assert_eq!(written, path.metadata().unwrap().len());
    let found = inspect(&path).unwrap();
    assert_eq!(found.kv, Some(context.kv_header().unwrap()));
    assert!(found.slabs.is_some());
    assert_eq!(crate::text_of(&found.head.metadata).as_deref(), Some("some notes"));
    assert_eq!(payload(&load(&path).unwrap()), payload(&context));
    let again = open_context(&path, &pool()).unwrap();
    assert_eq!(crate::text_of(again.metadata()).as_deref(), Some("some notes"));
    assert_eq!(slabs(&again).len() as u64, again.manifest().slab_count());
}

// spec: slabs 7.1, slabs 7.2
#[test]
fn slabs_that_came_in_another_order_are_put_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let context = thought();
    let (straight, shuffled) = (folder.path().join("a.avp"), folder.path().join("b.avp"));
    let outgoing = in_slabs(&straight, &context);
    let mut sink = sink(shuffled.clone(), &outgoing);
    for slab in slabs(&outgoing).iter().rev() {
        sink.insert(slab).unwrap();
    }
    sink.finish().unwrap();
    assert_eq!(std::fs::read(&straight).unwrap(), std::fs::read(&shuffled).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    // A file in another order than a writer's is read all the same.
    let bytes = std::fs::read(&straight).unwrap();
    let (manifest, frames) = split(&bytes);
    let reversed: Vec<u8> = manifest.iter().chain(frames.iter().rev().flatten()).copied().collect();
    std::fs::write(&shuffled, reversed).unwrap();
    assert_eq!(payload(&load(&shuffled).unwrap()), payload(&context));
}

#[test]
fn a_file_whose_slabs_are_damaged_missing_or_cut_off_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, context) = (folder.path().join("slabs.avp"), thought());
    in_slabs(&path, &context);
    let bytes = std::fs::read(&path).unwrap();
    let (manifest, frames) = split(&bytes);

    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(load(&path), Err(FileError::Decode { .. })));

    let without_first: Vec<u8> = manifest.iter().chain(frames[1..].iter().flatten()).copied().collect();
    std::fs::write(&path, without_first).unwrap();
    for error in [load(&path).map(drop).unwrap_err(), open_context(&path, &pool()).map(drop).unwrap_err()] {
        assert!(
            matches!(error, FileError::Slabs { source: SlabError::Missing { count: 1, first: 0 }, .. }),
            "{error}"
        );
    }

    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let error = load(&path).map(drop).unwrap_err();
    assert!(matches!(error, FileError::Slabs { source: SlabError::DigestMismatch(_), .. }), "{error}");
    let outgoing = open_context(&path, &pool()).unwrap();
    let last = u32::try_from(outgoing.manifest().slab_count()).unwrap() - 1;
    assert!(outgoing.slab(last, Metadata::default(), &pool()).is_err(), "what is damaged is not handed over");
}

/// The bytes of the manifest's frame and of each slab's.
fn split(bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let header = avp_wire::Header::decode(rest, &Limits::default()).unwrap();
        let (frame, after) = rest.split_at(usize::try_from(header.frame_len()).unwrap());
        frames.push(frame.to_vec());
        rest = after;
    }
    let manifest = frames.remove(0);
    let decoded = Frame::decode(manifest.clone().into(), &Limits::default()).unwrap();
    Manifest::from_frame(&decoded).unwrap();
    (manifest, frames)
}

#[test]
fn a_context_of_an_engine_can_be_read_from_several_threads() {
    let outgoing = Arc::new(OutgoingContext::of_context(&thought()).unwrap().with_slab_len(512));
    let expected: Vec<_> = slabs(&outgoing).into_iter().map(|slab| slab.digest).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let digests: Vec<_> = slabs(&outgoing).into_iter().map(|slab| slab.digest).collect();
                assert_eq!(digests, expected);
            });
        }
    });
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_replaced_and_links_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let context = thought();
    let save = |path: &Path| crate::save_context(&context, path, None, None, &pool());
    let (file, link, dangling) = ["file", "link", "dangling"].map(|name| folder.path().join(name)).into();
    std::fs::write(&file, b"before").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    save(&link).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(load(&file).unwrap().len(), context.len());
    std::os::unix::fs::symlink(folder.path().join("nothing"), &dangling).unwrap();
    save(&dangling).unwrap_err();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for other in [socket.as_path(), folder.path(), Path::new("/dev/stdin")] {
        save(other).unwrap_err();
    }
    assert!(!socket.symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "nothing is left beside them");
}
