//! The rigs for datagrams do to them what they say, and QUIC comes through both.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use avp_transport::TransportUrl;
use avp_transport::testing::{Chaos, EmulatedLink, Link};
use avp_transport::tls::DevCa;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep, timeout};

fn quic(address: SocketAddr) -> TransportUrl {
    TransportUrl::Quic { host: address.ip().to_string(), port: address.port() }
}

fn address(url: &TransportUrl) -> SocketAddr {
    let TransportUrl::Quic { host, port } = url else { panic!("not QUIC") };
    SocketAddr::new(host.parse().unwrap(), *port)
}

/// What came of numbered datagrams.
struct Numbers {
    /// In the order of arrival.
    came: Vec<u32>,
    /// After the first was sent.
    first: Duration,
    last: Duration,
    /// How long it took to send them.
    sending: Duration,
}

/// Sends `count` numbered datagrams of `len` bytes through `link`.
async fn numbers_through(link: Link, count: u32, len: usize) -> Numbers {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let link = EmulatedLink::before(&quic(server.local_addr().unwrap()), link, 9).await.unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address(link.url())).await.unwrap();
    let start = Instant::now();
    let sending = async {
        for number in 0..count {
            let mut datagram = vec![0; len];
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            client.send(&datagram).await.unwrap();
            // Slowly enough that no socket's buffer overflows.
            sleep(Duration::from_micros(100)).await;
        }
        start.elapsed()
    };
    let receiving = async {
        let (mut numbers, mut first, mut last) = (Vec::new(), None, Duration::ZERO);
        let mut buffer = vec![0; 2000];
        while let Ok(got) = timeout(Duration::from_secs(2), server.recv(&mut buffer)).await {
            assert_eq!(got.unwrap(), len);
            numbers.push(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
            last = start.elapsed();
            first.get_or_insert(last);
        }
        (numbers, first.unwrap_or_default(), last)
    };
    let ((came, first, last), sending) = tokio::join!(receiving, sending);
    Numbers { came, first, last, sending }
}

#[tokio::test]
async fn datagrams_are_delayed_and_kept_to_the_rate_in_order() {
    let mut link = Link::default();
    (link.rate, link.delay) = (Some(4_000_000), Duration::from_millis(30));
    let Numbers { came, first, last, .. } = numbers_through(link, 1000, 1000).await;
    assert_eq!(came, (0..1000).collect::<Vec<u32>>());
    // A million bytes at half a million a second.
    assert!(first >= link.delay && last >= Duration::from_millis(1990), "{first:?} to {last:?}");
}

#[tokio::test]
async fn datagrams_are_lost_doubled_and_overtaken_as_often_as_asked() {
    let mut link = Link::default();
    (link.delay, link.loss, link.duplicate) = (Duration::from_millis(20), 0.1, 0.05);
    link.reorder = 0.2;
    let came = numbers_through(link, 2000, 100).await.came;
    let mut distinct = came.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let (lost, doubled) = (2000 - distinct.len(), came.len() - distinct.len());
    assert!((120..280).contains(&lost), "{lost} of 2000 lost");
    assert!((40..150).contains(&doubled), "{doubled} doubled");
    let overtaken = came.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(overtaken > 50, "{overtaken} overtaken");
}

#[tokio::test]
async fn a_full_queue_drops_datagrams() {
    let mut link = Link::default();
    (link.rate, link.queue) = (Some(80_000), 10_000);
    let Numbers { came, sending, .. } = numbers_through(link, 100, 1000).await;
    // What the queue holds, and one more for each 100 ms in which it was emptied meanwhile.
    let most = 12 + sending.as_millis() as usize / 100;
    assert!((10..=most).contains(&came.len()), "{} of at most {most} came through", came.len());
    assert!(most < 100, "sent too slowly to fill the queue");
}

/// A QUIC server that answers each stream with what came, and a client that trusts it.
fn echo() -> (Endpoint, Endpoint) {
    let authority = DevCa::new("rig").unwrap();
    let issued = authority.issue(&["localhost".to_owned()]).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let theirs = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let ours = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut patience = TransportConfig::default();
    patience.max_idle_timeout(Some(Duration::from_secs(3).try_into().unwrap()));
    let patience = Arc::new(patience);
    let loopback = "127.0.0.1:0".parse().unwrap();
    let mut theirs = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(theirs).unwrap()));
    theirs.transport_config(Arc::clone(&patience));
    let server = Endpoint::server(theirs, loopback).unwrap();
    let mut ours = ClientConfig::new(Arc::new(QuicClientConfig::try_from(ours).unwrap()));
    ours.transport_config(patience);
    let mut client = Endpoint::client(loopback).unwrap();
    client.set_default_client_config(ours);
    let accepting = server.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await?;
                let (mut send, mut recv) = connection.accept_bi().await?;
                let came = recv.read_to_end(4 << 20).await?;
                send.write_all(&came).await?;
                send.finish()?;
                connection.closed().await;
                Ok::<(), Box<dyn Error + Send + Sync>>(())
            });
        }
    });
    (server, client)
}

/// Whether the server's echo is exactly what is sent; an error where the connection did not last.
async fn echoes(client: &Endpoint, through: SocketAddr, len: usize) -> Result<bool, Box<dyn Error>> {
    let connection = client.connect(through, "localhost")?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    let sent: Vec<u8> = (0..len).map(|i| ((i * 31) >> 3) as u8).collect();
    send.write_all(&sent).await?;
    send.finish()?;
    let came = recv.read_to_end(4 << 20).await?;
    connection.close(VarInt::from_u32(0), b"");
    Ok(came == sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_goes_through_a_lossy_link_unchanged() {
    let (server, client) = echo();
    let mut link = Link::default();
    (link.rate, link.delay, link.loss) = (Some(50_000_000), Duration::from_millis(10), 0.01);
    (link.reorder, link.duplicate) = (0.02, 0.01);
    let link = EmulatedLink::before(&quic(server.local_addr().unwrap()), link, 4).await.unwrap();
    assert!(echoes(&client, address(link.url()), 1 << 20).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_through_chaos_is_exact_or_an_error_in_time() {
    let (server, client) = echo();
    let target = quic(server.local_addr().unwrap());
    let mut running = tokio::task::JoinSet::new();
    for seed in 0..24 {
        let chaos = Chaos::before(&target, seed).await.unwrap().unwrap();
        let client = client.clone();
        running.spawn(async move {
            let transfer = echoes(&client, address(chaos.url()), 200_000);
            let ended = timeout(Duration::from_secs(120), transfer).await;
            ended.unwrap_or_else(|_| panic!("seed {seed} did not end")).map_err(|error| error.to_string())
        });
    }
    let ended = running.join_all().await;
    assert!(ended.iter().all(|outcome| *outcome != Ok(false)), "bytes changed: {ended:?}");
    assert!(ended.iter().any(Result::is_ok) && ended.iter().any(Result::is_err), "{ended:?}");
}
