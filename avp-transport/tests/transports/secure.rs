//! Certificates and tokens: who is let in, and what the others are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use avp_transport::testing::{encoded, sample};
use avp_transport::tls::DevCa;
use avp_transport::{
    BearerTokens, Connection, Incompatible, IoFault, Options, PeerFault, TlsAuthorities, TlsCertificate,
    TlsFault, Token, TransportError, TransportUrl, Unauthorized, UsageError, connect, listen, memory_pair,
    negotiate_client, negotiate_server,
};
use avp_wire::{ErrorCode, ext};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{authorities, certificate, config, issue, secure_client, secure_server};

/// The transports that certificates secure.
const SECURE: [&str; 3] = ["avp+tls://127.0.0.1:0", "avp+quic://127.0.0.1:0", "https://127.0.0.1:0"];

fn token(text: &str) -> Token {
    Token::new(text).unwrap()
}

/// Connects and says hello; what either side makes of it.
async fn meet(
    address: &str,
    client: &Options,
    server: &Options,
) -> (Result<Connection, TransportError>, Option<Result<Connection, TransportError>>) {
    let listener = listen(&address.parse().unwrap(), server).await.unwrap();
    let url = listener.local_url().clone();
    let serving = tokio::spawn(async move {
        let mut connection = listener.accept().await?;
        negotiate_server(&mut connection, config("server")).await.map(|_| connection)
    });
    let calling = async {
        let mut connection = connect(&url, client).await?;
        negotiate_client(&mut connection, config("client")).await.map(|_| connection)
    };
    let ours = calling.await;
    let abort = serving.abort_handle();
    // A connection that failed below the listener's notice leaves it waiting.
    let patience = Duration::from_millis(if ours.is_ok() { 30_000 } else { 300 });
    let theirs = tokio::time::timeout(patience, serving).await.ok().map(Result::unwrap);
    abort.abort();
    (ours, theirs)
}

async fn tls_fault(address: &str, client: &Options, server: &Options) -> TlsFault {
    match meet(address, client, server).await.0.unwrap_err() {
        TransportError::Incompatible(Incompatible::Tls { fault, .. }) => fault,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_client_certificate_names_the_peer() {
    for address in SECURE {
        let mut server = secure_server(Options::default());
        server.tls.authorities = Some(authorities());
        let mut client = secure_client(Options::default());
        client.tls.certificate = Some(certificate(&issue(&["alice.example", "other.example"])));
        let (ours, theirs) = meet(address, &client, &server).await;
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap().unwrap());
        assert_eq!(theirs.peer().identity(), Some("cert:alice.example"), "{address}");
        assert_eq!(ours.peer().identity(), Some("cert:localhost"), "{address}");
        let (_again, theirs_again) = meet(address, &client, &server).await;
        assert_eq!(theirs.peer_id(), theirs_again.unwrap().unwrap().peer_id(), "the same party again");
    }
}

#[tokio::test]
async fn each_fault_of_a_certificate_is_named() {
    let stranger = DevCa::new("stranger").unwrap();
    let names = ["127.0.0.1".to_owned()];
    let year = Duration::from_secs(365 * 86_400);
    let long_ago = SystemTime::now() - 2 * year;
    let pem = |issued: &avp_transport::tls::Issued| {
        Some(TlsCertificate::from_pem(&issued.certificate, &issued.key).unwrap())
    };
    for address in SECURE {
        let trusting = secure_client(Options::default());
        let with = |certificate| {
            let mut server = secure_server(Options::default());
            server.tls.certificate = certificate;
            server
        };
        let unknown = with(pem(&stranger.issue(&names).unwrap()));
        assert_eq!(tls_fault(address, &trusting, &unknown).await, TlsFault::UnknownAuthority);
        let namesake = with(pem(&DevCa::new("test authority").unwrap().issue(&names).unwrap()));
        assert_eq!(tls_fault(address, &trusting, &namesake).await, TlsFault::UnknownAuthority);
        let mut theirs = trusting.clone();
        theirs.tls.authorities = Some(TlsAuthorities::from_pem(stranger.certificate()).unwrap());
        let expired = with(pem(&stranger.issue_from(&names, long_ago, year).unwrap()));
        assert_eq!(tls_fault(address, &theirs, &expired).await, TlsFault::Expired);
        let early = with(pem(&stranger.issue_from(&names, SystemTime::now() + year, year).unwrap()));
        assert_eq!(tls_fault(address, &theirs, &early).await, TlsFault::NotYetValid);
        let elsewhere = with(pem(&issue(&["example.org"])));
        assert_eq!(tls_fault(address, &trusting, &elsewhere).await, TlsFault::WrongName);

        let mut mutual = secure_server(Options::default());
        mutual.tls.authorities = Some(authorities());
        assert_eq!(tls_fault(address, &trusting, &mutual).await, TlsFault::CertificateRequired);
        let mut impostor = trusting.clone();
        impostor.tls.certificate = pem(&stranger.issue(&names).unwrap());
        assert_eq!(tls_fault(address, &impostor, &mutual).await, TlsFault::CertificateRefused);
    }
}

#[tokio::test]
async fn a_listener_without_a_certificate_says_what_to_give_it() {
    for address in SECURE {
        let error = listen(&address.parse().unwrap(), &Options::default()).await.map(drop).unwrap_err();
        assert!(matches!(error, TransportError::Usage(UsageError::Tls(_))), "{error}");
        assert!(error.to_string().contains("--cert"), "{error}");
    }
}

#[tokio::test]
async fn a_plain_port_is_told_from_one_with_another_certificate() {
    let plain = listen(&"avp+tcp://127.0.0.1:0".parse().unwrap(), &Options::default()).await.unwrap();
    let TransportUrl::Tcp { host, port } = plain.local_url().clone() else { panic!() };
    tokio::spawn(async move {
        let mut connection = plain.accept().await.unwrap();
        let _ = negotiate_server(&mut connection, config("plain")).await;
    });
    let url = TransportUrl::Tls { host, port };
    let error = connect(&url, &secure_client(Options::default())).await.unwrap_err();
    assert!(
        matches!(error, TransportError::Incompatible(Incompatible::Tls { fault: TlsFault::NotTls, .. })),
        "{error}"
    );

    // The other way round: a plain client at a secure port.
    let secure =
        listen(&"avp+tls://127.0.0.1:0".parse().unwrap(), &secure_server(Options::default())).await.unwrap();
    let TransportUrl::Tls { host, port } = secure.local_url().clone() else { panic!() };
    let accepting = tokio::spawn(async move { secure.accept().await });
    let mut client = connect(&TransportUrl::Tcp { host, port }, &Options::default()).await.unwrap();
    let error = negotiate_client(&mut client, config("client")).await.unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::NotAvp { .. })), "{error}");
    assert!(error.to_string().contains("15 03"), "a TLS alert: {error}");
    accepting.abort();
}

#[tokio::test]
async fn an_end_within_the_tls_handshake_is_told_from_another_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // All of what it says, or the end would be a reset.
            let _ = stream.read(&mut [0; 16 << 10]).await;
        }
    });
    for scheme in ["avp+tls", "https"] {
        let url = format!("{scheme}://{address}").parse().unwrap();
        let error = connect(&url, &secure_client(Options::default())).await.unwrap_err();
        assert!(
            matches!(error, TransportError::Incompatible(Incompatible::Tls { fault: TlsFault::Ended, .. })),
            "{error}"
        );
        assert_eq!(error.code(), ErrorCode::ConnectionLost);
        assert!(error.to_string().contains("ended within the TLS handshake; try again"), "{error}");
    }
}

// spec: transports 2.2
#[tokio::test]
async fn another_protocol_over_tls_is_named() {
    // A TLS server of another protocol: here one that picks none.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut config = {
        let issued = issue(&["127.0.0.1"]);
        use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let chain = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        tokio_rustls::rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap()
    };
    for alpn in [vec![], vec![b"h2".to_vec()]] {
        config.alpn_protocols = alpn;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.clone()));
        let url = TransportUrl::Tls { host: "127.0.0.1".into(), port };
        let client = secure_client(Options::default());
        let (error, _) = tokio::join!(connect(&url, &client), async {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = acceptor.accept(stream).await;
        });
        let error = error.unwrap_err();
        assert!(
            matches!(
                error,
                TransportError::Incompatible(Incompatible::Tls { fault: TlsFault::NoProtocol, .. })
            ),
            "{error}"
        );
    }
}

/// A relay that, once armed, turns one bit of what the client sends.
async fn damaging(target: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, armed) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let arm = Arc::clone(&armed);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(target).await.unwrap();
        let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
        let answering = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            if arm.swap(false, Ordering::Relaxed) {
                bytes[count - 1] ^= 4;
            }
            if to.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
        let _ = answering.await;
    });
    (address, armed)
}

#[tokio::test]
async fn a_record_that_was_damaged_on_its_way_breaks_the_connection_and_is_no_refusal() {
    for address in ["avp+tls://127.0.0.1:0", "https://127.0.0.1:0"] {
        let server = secure_server(Options::default());
        let listener = listen(&address.parse().unwrap(), &server).await.unwrap();
        let mut url = listener.local_url().clone();
        let (TransportUrl::Tls { port, .. } | TransportUrl::Http { port, .. }) = &mut url else { panic!() };
        let (through, armed) = damaging(([127, 0, 0, 1], *port).into()).await;
        *port = through.port();
        let client = secure_client(Options::default());
        let (ours, theirs) = tokio::join!(connect(&url, &client), listener.accept());
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        armed.store(true, Ordering::Relaxed);
        ours.send(encoded(&sample(1, 1000))).await.unwrap();
        let (here, there) = tokio::join!(ours.recv(), theirs.recv());
        let (here, there) = (here.unwrap_err(), there.unwrap_err());
        for (error, says) in [(there, "decrypt"), (here, "BadRecordMac")] {
            assert!(matches!(error, TransportError::Io(IoFault::Broken { .. })), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

#[tokio::test]
async fn a_client_that_dawdles_in_tls_holds_up_nobody() {
    let mut server = secure_server(Options::default());
    // None is dropped for its own slowness meanwhile.
    server.limits.handshake_timeout = Duration::from_secs(120);
    let listener = listen(&"avp+tls://127.0.0.1:0".parse().unwrap(), &server).await.unwrap();
    let url = listener.local_url().clone();
    let TransportUrl::Tls { host, port } = &url else { panic!() };
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
        stream.write_all(&[0x16, 3, 1]).await.unwrap();
        silent.push(stream);
    }
    let client = secure_client(Options::default());
    let (ours, theirs) = tokio::join!(connect(&url, &client), listener.accept());
    ours.unwrap();
    theirs.unwrap();
    // The oldest made room for newer ones.
    let mut rest = Vec::new();
    let first = &mut silent[0];
    tokio::time::timeout(Duration::from_secs(30), first.read_to_end(&mut rest)).await.unwrap().ok();
}

// spec: handshake 4.15, handshake 4.16
#[tokio::test(start_paused = true)]
async fn a_token_lets_in_and_names_the_peer() {
    let tokens = BearerTokens::new().with("alice", &token("s3cret"));
    let mut server_options = Options::default();
    server_options.authorize = Some(Arc::new(tokens));
    for (shown, expected) in [
        (Some("s3cret"), Ok(())),
        (Some("guess"), Err(Unauthorized::UnknownToken)),
        (None, Err(Unauthorized::MissingToken)),
    ] {
        let mut client_options = Options::default();
        client_options.token = shown.map(token);
        let (mut client, mut server) = crate::common::memory(&client_options, &server_options).await;
        let (ours, theirs) = tokio::join!(
            negotiate_client(&mut client, config("client")),
            negotiate_server(&mut server, config("server"))
        );
        match expected {
            Ok(()) => {
                theirs.unwrap();
                assert_eq!(server.peer().identity(), Some("token:alice"));
                assert_eq!(server.peer_id(), avp_handshake::PeerId::new("token:alice"));
            }
            Err(source) => {
                assert!(matches!(theirs.unwrap_err(),
                    TransportError::Peer(PeerFault::Unauthorized { source: found, .. }) if found == source));
                let told = ours.unwrap_err();
                assert_eq!(told.code(), ErrorCode::Unauthorized, "{told}");
                assert!(
                    matches!(told, TransportError::Incompatible(Incompatible::TurnedAway { showed_token, .. })
                        if showed_token == shown.is_some()),
                    "{told}"
                );
                assert!(!told.to_string().contains("guess"));
            }
        }
    }
}

// spec: handshake 4.15
#[tokio::test(start_paused = true)]
async fn a_token_rides_in_the_hello_and_nowhere_else() {
    let mut options = Options::default();
    options.token = Some(token("s3cret"));
    let (mut client, mut server) = memory_pair("token", &options);
    let watching = async {
        let hello = server.recv().await.unwrap().unwrap();
        assert_eq!(hello.metadata.extra.get(ext::TOKEN).map(String::as_str), Some("s3cret"));
        // Something that is no answer to a hello, so that the client refuses.
        server.send(avp_transport::testing::encoded(&avp_transport::testing::sample(1, 10))).await.unwrap();
        let refusal = server.recv().await.unwrap().unwrap();
        assert!(!refusal.metadata.extra.contains_key(ext::TOKEN));
    };
    let (outcome, ()) = tokio::join!(negotiate_client(&mut client, config("client")), watching);
    assert!(outcome.is_err());
}
