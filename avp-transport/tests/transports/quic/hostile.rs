//! Strangers: clients and servers that do as they like, and other protocols at the port.

use std::sync::Arc;
use std::time::Duration;

use avp_transport::testing::{encoded, sample};
use avp_transport::{
    Connection, Incompatible, IoFault, LimitExceeded, Options, PeerFault, TlsFault, Transfer, Transfers,
    TransportError, UsageError, connect,
};
use avp_wire::{Frame, ext};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::{A_WHILE, GENEROUS, listener, url};
use crate::common::{authorities_pem, issue, secure_client};

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
    for _ in 0..1 + 5 + 2 {
        open.push(timeout(GENEROUS, theirs.open_bi()).await.expect("within the limit").unwrap());
    }
    assert!(timeout(A_WHILE, theirs.open_bi()).await.is_err(), "one more than the limit");
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
    // Until there is no room for more, or the other side is gone.
    let flooding = async {
        while let Ok((mut send, _recv)) = theirs.open_bi().await {
            if send.write_all(b"AV").await.is_err() {
                break;
            }
            let _ = send.reset(1_u32.into());
        }
        std::future::pending::<()>().await;
    };
    let giving_up = async {
        loop {
            match timeout(GENEROUS, server.accept()).await.expect("it gives up") {
                Ok(Some(_)) => {}
                other => break other.map(drop),
            }
        }
    };
    let error = tokio::select! {
        given_up = giving_up => given_up.unwrap_err(),
        () = flooding => unreachable!("it is pending"),
    };
    assert!(matches!(error, TransportError::Usage(UsageError::Closed { .. })), "{error}");
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
            std::future::pending::<()>().await;
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
    timeout(GENEROUS, send.write_all(&[0x41; 128 << 10])).await.expect("the window of a stranger").unwrap();
    assert!(timeout(A_WHILE, send.write(&[0x41])).await.is_err(), "more than that");
}
