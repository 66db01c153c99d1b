//! Contexts through memory of a device, between agents over a socket. The device here is the host: what a GPU's driver would share is
//! a file.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use avp::{Agent, AskError, KvPath, Peer, ServeOptions, TransportOptions, TransportUrl, serve};
use avp_backend::testing::TestDevice;
use avp_handshake::{NegotiatorConfig, Reject, TextMessage};
use avp_transport::{Transfer, Transfers, connect, listen, negotiate_client, negotiate_server};
use avp_wire::ext::FrameKind;
use avp_wire::{EncodeOptions, ErrorCode, Frame, KvHeader, Mode, ext};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::common::delivery::{alone, ask, outgoing, thought_by};
use crate::common::{LONG, agent, model, question};

fn on(name: &str, lacking: usize) -> Agent {
    let device = TestDevice { name: name.to_owned(), lacking };
    Agent::new("agent", Arc::new(model().with_device(device)))
}

/// Serves for as long as the test runs, at a socket in `folder`.
async fn start(folder: &TempDir, agent: Agent) -> String {
    let url = format!("avp+shm://{}", folder.path().join("agent.sock").display());
    let server = serve(agent, &url, ServeOptions::default(), |_| ()).await.unwrap();
    tokio::spawn(server.run(std::future::pending()));
    url
}

/// Which way a context of `ours` goes to `theirs`, which answers as its maker would.
async fn path(url: &str, ours: &Agent) -> KvPath {
    let context = thought_by(ours).await;
    let mut peer = Peer::connect(url, ours.hello(), &TransportOptions::default()).await.unwrap();
    let mut paths = Vec::new();
    for _ in 0..2 {
        let ask = ask(Some(outgoing(&context)));
        let answer = timeout(LONG, peer.ask(&ask)).await.unwrap().unwrap();
        assert_eq!(answer.tokens, alone(&context).await);
        assert_eq!(answer.context_tokens, context.len());
        paths.push(answer.kv_path.unwrap());
    }
    assert_eq!(paths[0], paths[1]);
    peer.close().await.unwrap();
    paths.remove(0)
}

// spec: exchange 9.1, exchange 9.5
#[tokio::test]
async fn on_one_device_a_context_does_not_leave_it() {
    let folder = tempfile::tempdir().unwrap();
    let url = start(&folder, on("cuda:1", 0)).await;
    assert_eq!(path(&url, &on("cuda:1", 0)).await, KvPath::Device);
    for ours in [on("cuda:2", 0), agent()] {
        assert_eq!(path(&url, &ours).await, KvPath::Host { why: None }, "devices differ");
    }
}

// spec: exchange 9.6
#[tokio::test]
async fn memory_that_cannot_be_used_costs_a_message_and_not_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let url = start(&folder, on("cuda:1", 0)).await;
    let KvPath::Host { why: Some(why) } = path(&url, &on("cuda:1", 1)).await else {
        panic!("it was too short")
    };
    assert!(why.contains("cannot be used"), "{why}");
}

// spec: extensions 2.7
#[tokio::test]
async fn peers_that_are_not_on_this_machine_do_not_hear_of_devices() {
    for url in ["avp+mem:no-device", "avp+tcp://127.0.0.1:0", "http://127.0.0.1:0"] {
        let server = serve(on("cuda:1", 0), url, ServeOptions::default(), |_| ()).await.unwrap();
        let url = server.url().to_string();
        tokio::spawn(server.run(std::future::pending()));
        assert_eq!(path(&url, &on("cuda:1", 0)).await, KvPath::Host { why: None });
        let mut connection = connect(&url.parse().unwrap(), &TransportOptions::default()).await.unwrap();
        let config = NegotiatorConfig::new(agent().hello(), connection.peer_id());
        let established = negotiate_client(&mut connection, config).await.unwrap();
        assert_eq!(established.capabilities.unwrap().device, None, "{url}");
    }
}

/// A transfer in which any frame can be said.
struct Hostile {
    lane: Transfer,
    session: String,
    header: KvHeader,
}

impl Hostile {
    /// A session as of an agent on the same device.
    async fn connect(url: &str, header: KvHeader) -> Self {
        let mut connection = connect(&url.parse().unwrap(), &TransportOptions::default()).await.unwrap();
        let config = NegotiatorConfig::new(on("cuda:1", 0).hello(), connection.peer_id());
        let established = negotiate_client(&mut connection, config).await.unwrap();
        assert_eq!(established.capabilities.as_ref().unwrap().device.as_deref(), Some("cuda:1"));
        let session = established.session.id.to_string();
        Self { lane: Transfers::over(connection).open("t").unwrap(), session, header }
    }

    /// What the agent says to a context whose memory has this token and whose payload is this.
    async fn offered(&mut self, token: &str, payload: Vec<u8>) -> Frame {
        let context = thought_by(&on("cuda:1", 0)).await;
        let mut metadata = outgoing(&context).metadata().clone();
        metadata.session_id.clone_from(&self.session);
        for (key, value) in [(ext::KIND, "slab"), (ext::MEMORY, token)] {
            metadata.extra.insert(key.to_owned(), value.to_owned());
        }
        self.lane.send(Frame::new(metadata, payload), &EncodeOptions::default()).await.unwrap();
        timeout(LONG, self.lane.recv()).await.unwrap().unwrap().unwrap()
    }

    async fn refusal(&mut self, token: &str, payload: Vec<u8>) -> Reject {
        Reject::from_frame(&self.offered(token, payload).await).expect("a refusal")
    }

    /// What the agent says to a question behind what came.
    async fn asked(&mut self) -> Frame {
        let greedy = serde_json::json!({ "max_tokens": 6, "temperature": 0.0 });
        let mut behind = question("question", Some("t"), greedy);
        behind.metadata.session_id.clone_from(&self.session);
        behind.metadata.extra.insert(ext::KIND.into(), "text".into());
        self.lane.send(behind, &EncodeOptions::default()).await.unwrap();
        timeout(LONG, self.lane.recv()).await.unwrap().unwrap().unwrap()
    }

    async fn refusal_of(&mut self, memory: impl Into<OwnedFd>, payload: Vec<u8>) -> Reject {
        let token = self.lane.pass(memory.into()).await.unwrap();
        self.refusal(&token.to_string(), payload).await
    }
}

// spec: exchange 9.2, exchange 9.3, exchange 9.6, extensions 1.1
#[tokio::test]
async fn a_hostile_peer_s_memory_is_refused_and_the_transfer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let url = start(&folder, on("cuda:1", 0)).await;
    let context = thought_by(&on("cuda:1", 0)).await;
    let header = *outgoing(&context).kv_header();
    let mut hostile = Hostile::connect(&url, header).await;

    for token in ["", "-1", "+1", "x", "18446744073709551616"] {
        let refusal = hostile.refusal(token, header.encode().to_vec()).await;
        assert_eq!(refusal.code, Some(ErrorCode::InvalidExtension), "{token}");
    }
    let unknown = hostile.refusal("7", header.encode().to_vec()).await;
    assert!(unknown.message.contains("no memory was passed"), "{}", unknown.message);
    for memory in [File::open("/dev/null").unwrap().into(), OwnedFd::from(std::io::pipe().unwrap().1)] {
        let refusal = hostile.refusal_of(memory, header.encode().to_vec()).await;
        assert!(refusal.message.contains("cannot be used"), "{}", refusal.message);
    }
    let long = KvHeader { seq_len: u32::MAX, ..header }.encode().to_vec();
    for (payload, says) in [
        (Vec::new(), "17 bytes, not 0"),
        (vec![0; KvHeader::SIZE + 1], "17 bytes, not 18"),
        (vec![0xff; KvHeader::SIZE], ""),
        (long, "window"),
    ] {
        let refusal = hostile.refusal_of(File::open("/dev/zero").unwrap(), payload).await;
        assert!(refusal.message.contains(says) && !refusal.message.contains("passed"), "{}", refusal.message);
    }

    let reply = hostile.asked().await;
    assert_eq!(Reject::from_frame(&reply).unwrap().code, Some(ErrorCode::SlabsMissing));
}

// spec: exchange 9.4
#[tokio::test]
async fn what_a_sender_does_to_the_memory_after_the_answer_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let url = start(&folder, on("cuda:1", 0)).await;
    let context = thought_by(&on("cuda:1", 0)).await;
    let source = outgoing(&context);
    let mut hostile = Hostile::connect(&url, *source.kv_header()).await;
    let memory = File::from(context.sequence().share_kv("cuda:1").unwrap().unwrap());
    let token = hostile.lane.pass(memory.try_clone().unwrap().into()).await.unwrap();
    let header = hostile.header.encode().to_vec();
    let taken = hostile.offered(&token.to_string(), header).await;
    assert_eq!((taken.kind(), taken.metadata.mode), (Ok(Some(FrameKind::Ack)), Mode::Latent));
    let again = hostile.refusal_of(memory.try_clone().unwrap(), hostile.header.encode().to_vec()).await;
    assert_eq!(again.code, Some(ErrorCode::UnexpectedFrame), "one context a transfer");
    memory.write_all_at(&vec![0x41; source.kv_bytes() as usize], 0).unwrap();
    memory.set_len(1).unwrap();
    let answer = TextMessage::from_json(&hostile.asked().await.payload).unwrap();
    assert_eq!(answer.extra["answer"]["tokens"], serde_json::json!(alone(&context).await));
}

#[tokio::test]
async fn a_peer_that_says_nothing_to_memory_is_sent_frames_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let url: TransportUrl =
        format!("avp+shm://{}", folder.path().join("mute.sock").display()).parse().unwrap();
    let listener = listen(&url, &TransportOptions::default()).await.unwrap();
    let mute = tokio::spawn(async move {
        let mut connection = listener.accept().await.unwrap();
        let config = NegotiatorConfig::new(on("cuda:1", 0).hello(), connection.peer_id());
        negotiate_server(&mut connection, config).await.unwrap();
        let transfers = Transfers::over(connection);
        let mut first = transfers.accept().await.unwrap().unwrap();
        assert!(first.recv().await.unwrap().unwrap().metadata.extra.contains_key(ext::MEMORY));
        let mut second = transfers.accept().await.unwrap().unwrap();
        assert_eq!(second.recv().await.unwrap().unwrap().kind(), Ok(Some(FrameKind::Manifest)));
        let refusal = Reject::new(ErrorCode::Busy, "enough").to_frame();
        second.send(refusal, &EncodeOptions::default()).await.unwrap();
        let _ = transfers.accept().await;
    });
    let mut options = TransportOptions::default();
    options.limits.frame_timeout = Duration::from_millis(200);
    let ours = on("cuda:1", 0);
    let context = thought_by(&ours).await;
    let mut peer = Peer::connect(&url.to_string(), ours.hello(), &options).await.unwrap();
    let ask = ask(Some(outgoing(&context)));
    let error = timeout(LONG, peer.ask(&ask)).await.unwrap().unwrap_err();
    assert!(matches!(error, AskError::Refused { code: Some(ErrorCode::Busy), .. }), "{error}");
    drop(peer);
    timeout(LONG, mute).await.unwrap().unwrap();
}
