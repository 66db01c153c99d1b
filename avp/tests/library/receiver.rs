//! Contexts in slabs, into files.

use std::path::{Path, PathBuf};

use avp::{
    AskError, BufferPool, Context, ContextStamp, ReceiveEvent, ReceiveInto, ReceiveOptions,
    VerificationPolicy, load_context, open_context, read_frame, receive,
};
use avp_wire::ErrorCode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::common::delivery::{Delivery, alone, ask, connect, outgoing, thought};
use crate::common::{LONG, agent};

type Received = mpsc::UnboundedReceiver<ReceiveEvent>;

/// Receives into `into` until the returned sender is dropped.
async fn receiver(name: &str, into: ReceiveInto) -> (String, oneshot::Sender<()>, Received) {
    let (events, received) = mpsc::unbounded_channel();
    let model = agent().backend().info().clone();
    let on = move |event| drop(events.send(event));
    let url = format!("avp+mem:{name}");
    let receiver = receive("receiver", model, &url, into, ReceiveOptions::default(), on).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(receiver.run(async move { drop(stopped.await) }));
    (url, stop, received)
}

async fn path(received: &mut Received) -> PathBuf {
    loop {
        if let ReceiveEvent::Received { path, from } = timeout(LONG, received.recv()).await.unwrap().unwrap()
        {
            assert_eq!(from, "agent");
            return path;
        }
    }
}

fn load(path: &Path) -> Context {
    let agent = agent();
    load_context(path, agent.backend().as_ref(), VerificationPolicy::Allow, &BufferPool::new(0)).unwrap()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn a_manifest_alone_claims_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("received.avp");
    let (url, _stop, mut received) = receiver("claim", ReceiveInto::File(target.clone())).await;
    let context = thought().await;
    let _never = Delivery::begin(&url, &context).await;
    assert_eq!(files(folder.path()), 0);
    connect(&url).await.hand_over(&outgoing(&context), &|_| ()).await.unwrap();
    assert_eq!(path(&mut received).await, target);
}

#[tokio::test]
async fn a_context_is_received_into_one_frame_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("received.avp");
    let (url, _stop, mut received) = receiver("file", ReceiveInto::File(target.clone())).await;
    let context = thought().await;
    let first = outgoing(&context);
    connect(&url).await.hand_over(&first, &|_| ()).await.unwrap();
    assert_eq!(path(&mut received).await, target);
    let expected = context.to_frame(&ContextStamp::default(), &BufferPool::new(0)).unwrap();
    let frame = read_frame(&target, &BufferPool::new(0)).unwrap();
    assert_eq!(frame.payload, expected.payload);
    assert!(frame.metadata.payload_checksum.is_some());
    assert_eq!(alone(&load(&target)).await, alone(&context).await);
    assert_eq!(files(folder.path()), 1, "nothing else is left");
    // Another context is not for this file.
    let error = connect(&url).await.hand_over(&outgoing(&context), &|_| ()).await.unwrap_err();
    assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::Busy), .. }), "{error}");
    // A file can be handed over as well.
    let again = open_context(&target, &BufferPool::new(0)).unwrap();
    assert_eq!(again.kv_header(), first.kv_header());
}

#[tokio::test]
async fn what_is_no_transfer_is_refused_by_a_receiver() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _stop, _) = receiver("folder", ReceiveInto::Folder(folder.path().to_owned())).await;
    let error = connect(&url).await.ask(&ask(None)).await.unwrap_err();
    assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::NoHandler), .. }), "{error}");
    let mut delivery = Delivery::connect(&url, &thought().await).await;
    delivery.say(&delivery.slabs[0].clone()).await;
    assert_eq!(delivery.refusal().await, Some(ErrorCode::UnexpectedFrame));
    assert_eq!(files(folder.path()), 0);
}
