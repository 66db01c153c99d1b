//! What is particular to QUIC: streams of their own for transfers, stripes, migration, strangers at the port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use avp_transport::testing::{Harness, encoded, sample};
use avp_transport::{
    Connection, Deadline, Incompatible, IoFault, LimitExceeded, Listener, Options, PeerFault, TlsFault,
    Transfer, Transfers, TransportError, TransportUrl, UsageError, connect, listen,
};
use avp_wire::{EncodeOptions, Frame, ext};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::common::{Secure, authorities_pem, issue, secure_client, secure_server};

const QUIC: &str = "avp+quic://127.0.0.1:0";
const A_WHILE: Duration = Duration::from_millis(300);

fn plain() -> EncodeOptions {
    EncodeOptions::default()
}

async fn pair(client: Options, server: Options) -> (Connection, Connection) {
    Secure(QUIC).pair(client, server).await
}

async fn transfers(client: Options, server: Options) -> (Transfers, Transfers) {
    let (client, server) = pair(client, server).await;
    (Transfers::over(client), Transfers::over(server))
}

async fn listener(options: Options) -> (Box<dyn Listener>, SocketAddr) {
    let listener = listen(&QUIC.parse().unwrap(), &secure_server(options)).await.unwrap();
    let TransportUrl::Quic { host, port } = listener.local_url().clone() else { panic!("not QUIC") };
    (listener, format!("{host}:{port}").parse().unwrap())
}

fn url(address: SocketAddr) -> TransportUrl {
    TransportUrl::Quic { host: address.ip().to_string(), port: address.port() }
}

/// A quinn client that trusts the tests' authority and does as it likes.
fn stranger(alpn: &[u8]) -> (quinn::Endpoint, quinn::ClientConfig) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authorities_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.enable_early_data = true;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    (quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(), config)
}

/// A stranger's connection to a listener, and the listener's end of it.
async fn met_by_stranger(options: Options) -> (quinn::Connection, Connection, quinn::Endpoint) {
    let (listener, address) = listener(options).await;
    let (endpoint, config) = stranger(b"avp/1");
    let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    let (theirs, ours) = tokio::join!(connecting, listener.accept());
    (theirs.unwrap(), ours.unwrap(), endpoint)
}

fn wire_of(transfer: &str, frame: Frame) -> Vec<u8> {
    let mut frame = frame;
    frame.metadata.extra.insert(ext::TRANSFER.to_owned(), transfer.to_owned());
    encoded(&frame).to_vec()
}

// spec: transports 3.5
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_transfer_holds_up_no_other() {
    let mut options = Options::default();
    options.quic.stream_window = 1 << 20;
    let (client, server) = transfers(options.clone(), options).await;
    let stalled = client.open("stalled").unwrap();
    let stalling = tokio::spawn(async move {
        for i in 0..64 {
            stalled.send(sample(i, 1 << 20), &plain()).await.unwrap();
        }
    });
    let flowing = client.open("flowing").unwrap();
    let sending = tokio::spawn(async move {
        for i in 0..40 {
            flowing.send(sample(1000 + i, 1 << 20), &plain()).await.unwrap();
        }
    });
    let (mut kept, mut taken) = (None, None);
    for _ in 0..2 {
        let transfer = server.accept().await.unwrap().unwrap();
        if transfer.id() == "stalled" { kept = Some(transfer) } else { taken = Some(transfer) }
    }
    let mut taken = taken.unwrap();
    for i in 0..40 {
        assert_eq!(taken.recv().await.unwrap().unwrap().payload, sample(1000 + i, 1 << 20).payload);
    }
    assert!(taken.recv().await.unwrap().is_none(), "it ends when the peer's transfer is dropped");
    sending.await.unwrap();
    assert!(!stalling.is_finished());
    // It goes on where it was left.
    let mut kept = kept.unwrap();
    for i in 0..64 {
        assert_eq!(kept.recv().await.unwrap().unwrap().payload, sample(i, 1 << 20).payload);
    }
    stalling.await.unwrap();
}

// spec: transports 3.6, transports 3.7
#[tokio::test(flavor = "multi_thread")]
async fn stripes_are_merged_into_their_transfer_each_in_order() {
    const STRIPES: u32 = 3;
    const FRAMES: u32 = 30;
    let (client, server) = transfers(Options::default(), Options::default()).await;
    let transfer = client.open("striped").unwrap();
    let mut sending = Vec::new();
    for stripe in 1..=STRIPES {
        let lane = transfer.stripe().await.unwrap().unwrap();
        sending.push(tokio::spawn(async move {
            for i in 0..FRAMES {
                lane.send(sample(1000 * stripe + i, 50_000), &plain()).await.unwrap();
            }
        }));
    }
    sending.push(tokio::spawn(async move {
        for i in 0..FRAMES {
            transfer.send(sample(i, 50_000), &plain()).await.unwrap();
        }
    }));
    let mut received = server.accept().await.unwrap().unwrap();
    let mut next = [0; 1 + STRIPES as usize];
    while let Some(frame) = received.recv().await.unwrap() {
        let number: u32 = frame.metadata.session_id.strip_prefix("frame-").unwrap().parse().unwrap();
        let (lane, i) = (number / 1000, number % 1000);
        assert_eq!(next[lane as usize], i, "in order on stream {lane}");
        next[lane as usize] += 1;
        assert_eq!(frame.payload, sample(number, 50_000).payload);
    }
    assert_eq!(next, [FRAMES; 1 + STRIPES as usize]);
    for task in sending {
        task.await.unwrap();
    }
    client.finish().await.unwrap();
    assert!(server.accept().await.unwrap().is_none(), "stripes are no transfers");
}

#[tokio::test]
async fn where_there_is_one_stream_there_are_no_stripes() {
    let listener = listen(&"avp+tcp://127.0.0.1:0".parse().unwrap(), &Options::default()).await.unwrap();
    let options = Options::default();
    let (client, _server) = tokio::join!(connect(listener.local_url(), &options), listener.accept());
    let transfer = Transfers::over(client.unwrap()).open("one").unwrap();
    assert!(transfer.stripe().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_transfer_is_answered_on_its_own_stream() {
    let (client, server) = transfers(Options::default(), Options::default()).await;
    let mut asked = client.open("question").unwrap();
    asked.send(sample(1, 1000), &plain()).await.unwrap();
    let mut answering = server.accept().await.unwrap().unwrap();
    assert!(answering.recv().await.unwrap().is_some());
    answering.send(sample(2, 300_000), &plain()).await.unwrap();
    drop(answering);
    assert_eq!(asked.recv().await.unwrap().unwrap().payload, sample(2, 300_000).payload);
    assert!(asked.recv().await.unwrap().is_none());
    // What is sent to a transfer that the peer dropped goes nowhere, as over one stream.
    for i in 0..50 {
        asked.send(sample(i, 1 << 20), &plain()).await.unwrap();
    }
}

// spec: transports 3.9
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_within_a_frame_costs_its_transfer_alone() {
    let (theirs, ours, _endpoint) = met_by_stranger(Options::default()).await;
    let server = Transfers::over(ours);
    let (mut broken, _b) = open_first_and_further(&theirs, "broken").await;
    let (mut whole, _w) = theirs.open_bi().await.unwrap();
    whole.write_all(&wire_of("whole", sample(2, 5000))).await.unwrap();
    let mut found: Vec<Transfer> = Vec::new();
    for _ in 0..3 {
        found.push(server.accept().await.unwrap().unwrap());
    }
    found.sort_by_key(|transfer| transfer.id().to_owned());
    // The frame on the first stream is of the transfer with the empty id.
    let [_, first, second] = &mut found[..] else { panic!() };
    assert_eq!(first.recv().await.unwrap().unwrap().payload.len(), 5000);
    let half = wire_of("broken", sample(3, 100_000));
    broken.write_all(&half[..50_000]).await.unwrap();
    assert!(timeout(A_WHILE, first.recv()).await.is_err());
    broken.reset(1_u32.into()).unwrap();
    let error = first.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Broken { .. })), "{error}");
    assert!(error.to_string().contains("gave up the stream"), "{error}");
    assert!(first.recv().await.is_err(), "a broken transfer does not look finished");
    whole.write_all(&wire_of("whole", sample(4, 5000))).await.unwrap();
    assert_eq!(second.recv().await.unwrap().unwrap().payload, sample(2, 5000).payload);
    assert_eq!(second.recv().await.unwrap().unwrap().payload, sample(4, 5000).payload);
}

/// Opens the first stream, which has to come before all others, and one for a transfer with a frame on it.
async fn open_first_and_further(
    theirs: &quinn::Connection,
    transfer: &str,
) -> (quinn::SendStream, Vec<quinn::RecvStream>) {
    let (mut first, first_recv) = theirs.open_bi().await.unwrap();
    first.write_all(&encoded(&sample(0, 100)).to_vec()).await.unwrap();
    // Dropped, it would be finished.
    std::mem::forget(first);
    let (mut further, recv) = theirs.open_bi().await.unwrap();
    further.write_all(&wire_of(transfer, sample(1, 5000))).await.unwrap();
    (further, vec![first_recv, recv])
}

// spec: transports 3.17
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_another_transfer_is_refused_and_its_stream_goes_on() {
    let (theirs, ours, _endpoint) = met_by_stranger(Options::default()).await;
    let server = Transfers::over(ours);
    let (mut stream, _kept) = open_first_and_further(&theirs, "mine").await;
    stream.write_all(&wire_of("other", sample(2, 5000))).await.unwrap();
    stream.write_all(&encoded(&sample(3, 200_000)).to_vec()).await.unwrap();
    stream.write_all(&wire_of("mine", sample(4, 5000))).await.unwrap();
    // The frame on the first stream is of the transfer with the empty id; either may come first.
    let mut begun = [server.accept().await.unwrap().unwrap(), server.accept().await.unwrap().unwrap()];
    begun.sort_by_key(|transfer| transfer.id().to_owned());
    let [_, transfer] = &mut begun;
    assert_eq!(transfer.recv().await.unwrap().unwrap().payload, sample(1, 5000).payload);
    for other in [Some("other"), None] {
        let error = transfer.recv().await.unwrap_err();
        assert!(error.is_recoverable());
        let TransportError::Peer(PeerFault::OtherTransfer { transfer: of, named, .. }) = error else {
            panic!("{error}");
        };
        assert_eq!((of.as_str(), named.as_deref()), ("mine", other));
    }
    assert_eq!(transfer.recv().await.unwrap().unwrap().payload, sample(4, 5000).payload);
    assert!(timeout(A_WHILE, server.accept()).await.is_err(), "no transfer was begun by them");

    // They count as refused frames.
    for _ in 0..17 {
        stream.write_all(&wire_of("other", sample(5, 100))).await.unwrap();
    }
    for _ in 0..14 {
        assert!(transfer.recv().await.unwrap_err().is_recoverable());
    }
    let error = transfer.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Rejects { limit: 16 })), "{error}");
    assert!(server.accept().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_there_is_no_memory_for_is_told_once_and_its_stream_goes_on() {
    const BIG: usize = 700_000;
    let mut options = Options::default();
    (options.limits.memory_budget, options.limits.frame_timeout) = (1 << 20, A_WHILE);
    let (client, server) = transfers(Options::default(), options).await;
    let sending = client.open("big").unwrap();
    for (i, len) in [BIG, BIG, 1000].into_iter().enumerate() {
        sending.send(sample(i as u32, len), &plain()).await.unwrap();
    }
    let mut transfer = server.accept().await.unwrap().unwrap();
    let held = transfer.recv().await.unwrap().unwrap();
    let error = transfer.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Limit(LimitExceeded::Memory { .. })), "{error}");
    assert_eq!(transfer.recv().await.unwrap().unwrap().payload, sample(2, 1000).payload);
    drop(held);
    sending.send(sample(3, BIG), &plain()).await.unwrap();
    assert_eq!(transfer.recv().await.unwrap().unwrap().payload, sample(3, BIG).payload);
}

// spec: transports 3.7
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_not_finished_before_the_streams_it_announced_came() {
    let (theirs, ours, _endpoint) = met_by_stranger(Options::default()).await;
    let server = Transfers::over(ours);
    let (mut first, _f) = theirs.open_bi().await.unwrap();
    let mut note = Frame::new(Default::default(), Vec::new());
    note.metadata.extra.insert(ext::STREAMS.to_owned(), "2".to_owned());
    first.write_all(&encoded(&note).to_vec()).await.unwrap();
    first.finish().unwrap();
    for id in ["late", "later"] {
        assert!(timeout(A_WHILE, server.accept()).await.is_err(), "one is missing");
        let (mut send, _recv) = theirs.open_bi().await.unwrap();
        send.write_all(&wire_of(id, sample(1, 100))).await.unwrap();
        send.finish().unwrap();
        let mut transfer = server.accept().await.unwrap().unwrap();
        assert_eq!(transfer.id(), id);
        assert!(transfer.recv().await.unwrap().is_some());
        assert!(transfer.recv().await.unwrap().is_none());
    }
    assert!(server.accept().await.unwrap().is_none());
}

// spec: transports 3.10
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_may_open_so_many_streams_and_no_more() {
    let mut options = Options::default();
    (options.limits.max_concurrent_transfers, options.quic.max_stripes) = (5, 2);
    let (theirs, _ours, _endpoint) = met_by_stranger(options).await;
    let mut open = Vec::new();
    while let Ok(stream) = timeout(A_WHILE, theirs.open_bi()).await {
        open.push(stream.unwrap());
    }
    assert_eq!(open.len(), 1 + 5 + 2);
    assert!(timeout(A_WHILE, theirs.open_uni()).await.is_err(), "no streams of one direction");
    assert!(theirs.max_datagram_size().is_none(), "no datagrams");
}

// spec: transports 3.11
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_keeps_opening_streams_for_nothing_is_given_up() {
    let (theirs, ours, _endpoint) = met_by_stranger(Options::default()).await;
    let server = Transfers::over(ours);
    let (_transfer, _halves) = open_first_and_further(&theirs, "real").await;
    let mut transfer = server.accept().await.unwrap().unwrap();
    assert!(transfer.recv().await.unwrap().is_some());
    let flooding = async {
        for _ in 0..1000 {
            let Ok((mut send, _recv)) = theirs.open_bi().await else { break };
            if send.write_all(b"AV").await.is_err() {
                break;
            }
            let _ = send.reset(1_u32.into());
        }
    };
    let (_, given_up) = tokio::join!(timeout(Duration::from_secs(5), flooding), async {
        loop {
            match timeout(Duration::from_secs(10), server.accept()).await.expect("it gives up") {
                Ok(Some(_)) => {}
                other => break other.map(drop),
            }
        }
    });
    let error = given_up.unwrap_err();
    assert!(matches!(error, TransportError::Usage(UsageError::Closed { .. })), "{error}");
}

// spec: transports 3.14
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_dropped_after_finish_delivers_everything() {
    let (client, mut server) = pair(Options::default(), Options::default()).await;
    let (mut sender, receiver) = client.split();
    // Until the receiver has begun, it takes little.
    let (begun, first) = tokio::join!(sender.send(encoded(&sample(0, 1 << 20))), server.recv());
    begun.unwrap();
    assert!(first.unwrap().is_some());
    for i in 1..12 {
        sender.send(encoded(&sample(i, 1 << 20))).await.unwrap();
    }
    sender.finish().await.unwrap();
    drop((sender, receiver));
    sleep(A_WHILE).await;
    for i in 1..12 {
        assert_eq!(server.recv().await.unwrap().unwrap().payload, sample(i, 1 << 20).payload);
    }
    assert!(server.recv().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_connection_that_is_dropped_tells_the_peer_at_once() {
    let mut options = Options::default();
    options.quic.idle_timeout = Duration::from_secs(60);
    let (client, mut server) = pair(options.clone(), options).await;
    let (mut sender, receiver) = client.split();
    // More than the window: the last frame is dropped on its way.
    let endless = async {
        for i in 0.. {
            sender.send(encoded(&sample(i, 4 << 20))).await.unwrap();
        }
    };
    assert!(timeout(A_WHILE, endless).await.is_err());
    drop((sender, receiver));
    let told = async {
        loop {
            match server.recv().await {
                Ok(Some(_)) => {}
                other => break other.map(drop),
            }
        }
    };
    let error =
        timeout(Duration::from_secs(10), told).await.expect("well before the idle timeout").unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Broken { .. })), "{error}");
}

/// Passes datagrams on between a client and a server, from a port that can change, or not at all.
struct Relay {
    address: SocketAddr,
    port: watch::Sender<Option<Arc<UdpSocket>>>,
    seen: Arc<AtomicBool>,
}

impl Relay {
    async fn to(server: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let (port, mut ports) = watch::channel(Some(Self::port(server).await));
        let seen = Arc::new(AtomicBool::new(false));
        let noticed = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut client = None;
            let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            loop {
                let back = ports.borrow_and_update().clone();
                let from_back = async {
                    match &back {
                        Some(back) => back.recv(&mut down).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    Ok((len, from)) = front.recv_from(&mut up) => {
                        client = Some(from);
                        if let Some(back) = &back {
                            let _ = back.send(&up[..len]).await;
                        }
                    }
                    Ok(len) = from_back => {
                        noticed.store(true, Ordering::Relaxed);
                        let _ = front.send_to(&down[..len], client.unwrap()).await;
                    }
                    changed = ports.changed() => if changed.is_err() { return },
                }
            }
        });
        Self { address, port, seen }
    }

    async fn port(server: SocketAddr) -> Arc<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server).await.unwrap();
        Arc::new(socket)
    }
}

async fn relayed(client: Options, server: Options) -> (Connection, Connection, Relay, SocketAddr) {
    let (listener, address) = listener(server).await;
    let relay = Relay::to(address).await;
    let (url, options) = (url(relay.address), secure_client(client));
    let (client, server) = tokio::join!(connect(&url, &options), listener.accept());
    (client.unwrap(), server.unwrap(), relay, address)
}

// spec: transports 3.12
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_survives_a_change_of_the_clients_address() {
    let (mut client, mut server, relay, address) = relayed(Options::default(), Options::default()).await;
    let sending = tokio::spawn(async move {
        for i in 0..60 {
            client.send(encoded(&sample(i, 200_000))).await.unwrap();
        }
        client
    });
    for i in 0..60 {
        if i == 20 {
            relay.port.send(Some(Relay::port(address).await)).unwrap();
            relay.seen.store(false, Ordering::Relaxed);
        }
        assert_eq!(server.recv().await.unwrap().unwrap().payload, sample(i, 200_000).payload);
    }
    assert!(relay.seen.load(Ordering::Relaxed), "the server answers at the new address");
    let client = sending.await.unwrap();
    let (ours, theirs) = tokio::join!(client.close(), server.close());
    ours.unwrap();
    theirs.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_heard_of_is_given_up_with_the_reason() {
    let mut options = Options::default();
    (options.quic.idle_timeout, options.quic.keep_alive) = (Duration::from_millis(500), None);
    let (mut client, mut server, relay, _) = relayed(options.clone(), options).await;
    client.send(encoded(&sample(1, 100))).await.unwrap();
    assert!(server.recv().await.unwrap().is_some());
    relay.port.send(None).unwrap();
    let error = client.recv().await.unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::Broken { .. })), "{error}");
    assert!(error.to_string().contains("idle_timeout"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_the_port_costs_nothing() {
    let (listener, address) = listener(Options::default()).await;
    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for i in 0..2000_u32 {
        let mut junk = sample(i, (i % 1400) as usize + 1).payload.to_vec();
        // Some that look like first packets of a connection.
        junk[0] = if i % 2 == 0 { 0xc0 | junk[0] } else { junk[0] };
        if i % 4 == 0 && junk.len() > 5 {
            junk[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        attacker.send_to(&junk, address).await.unwrap();
    }
    let options = secure_client(Options::default());
    let url = url(address);
    let (ours, theirs) = tokio::join!(connect(&url, &options), listener.accept());
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    ours.send(encoded(&sample(1, 1000))).await.unwrap();
    assert!(theirs.recv().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_prove_their_address_while_many_are_in_their_handshake() {
    let mut options = Options::default();
    options.quic.retry_above = 0;
    let (listener, address) = listener(options).await;
    let relay = Relay::to(address).await;
    let options = secure_client(Options::default());
    let url = url(relay.address);
    let (ours, theirs) = tokio::join!(connect(&url, &options), listener.accept());
    ours.unwrap();
    theirs.unwrap();
}

// spec: transports 3.2
#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_over_quic_is_refused_by_either_side() {
    let (listener, address) = listener(Options::default()).await;
    let accepting = tokio::spawn(async move { listener.accept().await });
    let (endpoint, config) = stranger(b"h3");
    let error = endpoint.connect_with(config, address, "localhost").unwrap().await.unwrap_err();
    let quinn::ConnectionError::ConnectionClosed(close) = &error else { panic!("{error}") };
    assert_eq!(close.error_code, quinn::TransportErrorCode::crypto(120), "no_application_protocol");
    accepting.abort();

    let issued = issue(&["127.0.0.1"]);
    let chain = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    for alpn in [vec![], vec![b"h3".to_vec()]] {
        tls.alpn_protocols = alpn;
        let crypto = QuicServerConfig::try_from(tls.clone()).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let other = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let url = url(other.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let _ = other.accept().await.unwrap().await;
            sleep(A_WHILE).await;
        });
        let error = connect(&url, &secure_client(Options::default())).await.unwrap_err();
        let TransportError::Incompatible(Incompatible::Tls { fault: TlsFault::NoProtocol, .. }) = error
        else {
            panic!("{error}");
        };
        serving.abort();
    }
}

// spec: transports 3.3
#[tokio::test(flavor = "multi_thread")]
async fn no_data_is_taken_before_the_handshake_is_done() {
    let (listener, address) = listener(Options::default()).await;
    let (endpoint, config) = stranger(b"avp/1");
    for _ in 0..2 {
        let connecting = endpoint.connect_with(config.clone(), address, "localhost").unwrap();
        // The second time the client has a ticket, and would send early data if that allowed it.
        let connecting = connecting.into_0rtt().map(drop).expect_err("early data is not on offer");
        let (theirs, ours) = tokio::join!(connecting, listener.accept());
        let (theirs, mut ours) = (theirs.unwrap(), ours.unwrap());
        let (mut send, _recv) = theirs.open_bi().await.unwrap();
        send.write_all(&encoded(&sample(1, 100)).to_vec()).await.unwrap();
        assert!(ours.recv().await.unwrap().is_some());
        sleep(Duration::from_millis(50)).await;
    }
}

// spec: transports 3.13
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_peer_can_send_little() {
    let (theirs, mut ours, _endpoint) = met_by_stranger(Options::default()).await;
    ours.halves().1.restrict(64 << 10);
    let (mut send, _recv) = theirs.open_bi().await.unwrap();
    let mut sent = 0;
    while let Ok(written) = timeout(A_WHILE, send.write(&[0x41; 4096])).await {
        sent += written.unwrap();
    }
    assert_eq!(sent, 128 << 10);
}

#[tokio::test]
async fn nobody_there_is_said_at_the_connect_deadline() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut options = secure_client(Options::default());
    options.timeouts.connect = A_WHILE;
    let error = connect(&url(silent.local_addr().unwrap()), &options).await.unwrap_err();
    let TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Connect, .. }) = error else {
        panic!("{error}");
    };
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let (_first, address) = listener(Options::default()).await;
    let error = listen(&url(address), &secure_server(Options::default())).await.map(drop).unwrap_err();
    assert!(matches!(error, TransportError::Io(IoFault::PortInUse { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_their_listener_and_no_new_ones_are_made() {
    let (listener, address) = listener(Options::default()).await;
    let mut options = secure_client(Options::default());
    let url = url(address);
    let (ours, theirs) = tokio::join!(connect(&url, &options), listener.accept());
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
    drop(listener);
    options.timeouts.connect = A_WHILE;
    let error = connect(&url, &options).await.unwrap_err();
    assert!(error.to_string().contains("takes no more connections"), "{error}");
    ours.send(encoded(&sample(1, 1000))).await.unwrap();
    assert!(theirs.recv().await.unwrap().is_some());
}

// spec: transports 3.16
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_nobody_accepted_are_told_that_the_listener_is_gone() {
    // One that waits for its handshake.
    let (early, address) = listener(Options::default()).await;
    let options = secure_client(Options::default());
    let connecting = tokio::spawn({
        let (url, options) = (url(address), options.clone());
        async move { connect(&url, &options).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!connecting.is_finished());
    drop(early);
    let error = timeout(A_WHILE, connecting).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("takes no more connections"), "{error}");

    // One whose handshake is done.
    let (late, address) = listener(Options::default()).await;
    let connecting = tokio::spawn(async move { connect(&url(address), &options).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Begins the handshake, and does not take what comes of it: polled once, since a timeout of nothing polls again.
    tokio::select! {
        biased;
        accepted = late.accept() => panic!("accepted within one poll: {:?}", accepted.is_ok()),
        () = std::future::ready(()) => {}
    }
    let mut client = timeout(A_WHILE, connecting).await.unwrap().unwrap().unwrap();
    drop(late);
    let gone = timeout(A_WHILE, client.recv()).await.expect("the client is told");
    assert!(!matches!(gone, Ok(Some(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_several_addresses_is_tried_at_all_of_them() {
    // `localhost` may stand for ::1 first, where nobody listens.
    let (listener, address) = listener(Options::default()).await;
    let url = TransportUrl::Quic { host: "localhost".into(), port: address.port() };
    let options = secure_client(Options::default());
    let (ours, theirs) = tokio::join!(connect(&url, &options), listener.accept());
    ours.unwrap();
    theirs.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_accept_loses_no_connection() {
    let (listener, address) = listener(Options::default()).await;
    let options = secure_client(Options::default());
    for _ in 0..5 {
        let url = url(address);
        let connecting = tokio::spawn({
            let options = options.clone();
            async move { connect(&url, &options).await }
        });
        let server = loop {
            if let Ok(server) = timeout(Duration::from_millis(1), listener.accept()).await {
                break server.unwrap();
            }
        };
        let mut client = connecting.await.unwrap().unwrap();
        client.send(encoded(&sample(1, 10))).await.unwrap();
        let (ours, theirs) = tokio::join!(client.close(), server.close());
        ours.unwrap();
        theirs.unwrap();
    }
}
