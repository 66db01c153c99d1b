//! The handshake over connections: agreement, and what a bad peer can do before it is known.

use std::time::Duration;

use avp_transport::{
    Connection, Deadline, Incompatible, LimitExceeded, Options, Peer, PeerAddress, PeerFault, TransportError,
    connect, connection_over, listen, memory_pair, negotiate_client, negotiate_server,
};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::time::{Instant, sleep};

use crate::common::config;

fn pipe() -> (Connection, DuplexStream) {
    let (ours, theirs) = duplex(256 << 10);
    let (read, write) = split(ours);
    let peer = Peer::at(PeerAddress::Memory("peer".into()));
    (connection_over(read, write, peer, &Options::default()), theirs)
}

#[tokio::test(start_paused = true)]
async fn peers_agree_on_a_session_and_go_on_with_frames() {
    let (mut client, mut server) = memory_pair("agree", &Options::default());
    let (ours, theirs) =
        tokio::join!(negotiate_client(&mut client, config("a")), negotiate_server(&mut server, config("b")));
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert_eq!(ours.session.id, theirs.session.id);
    assert_eq!((ours.remote.agent_id.as_str(), theirs.remote.agent_id.as_str()), ("b", "a"));
    assert_eq!((ours.session.peer, theirs.session.peer), (client.peer_id(), server.peer_id()));
    // The limit of the handshake is over.
    let frame = Frame::new(Metadata::default(), vec![0; 1 << 20]);
    client.send_frame(&frame, &EncodeOptions::default()).await.unwrap();
    assert_eq!(server.recv().await.unwrap().unwrap().payload.len(), 1 << 20);
}

#[tokio::test]
async fn connections_without_authentication_are_parties_of_their_own() {
    let (a, b) = memory_pair("parties", &Options::default());
    let (c, _) = memory_pair("parties", &Options::default());
    assert_ne!(a.peer_id(), b.peer_id());
    assert_ne!(a.peer_id(), c.peer_id());
    let proven = || {
        let peer = Peer::at(PeerAddress::Memory("proven".into())).with_identity("CN=alice".into());
        let (ours, _theirs) = duplex(10);
        let (read, write) = split(ours);
        connection_over(read, write, peer, &Options::default()).peer_id()
    };
    assert_eq!(proven(), proven());
}

// spec: limits 7.2
#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_at_the_handshake_deadline() {
    for trickle in [false, true] {
        let (mut server, mut attacker) = pipe();
        let talking = tokio::spawn(async move {
            for byte in Frame::new(Metadata::default(), vec![1; 1000])
                .encode(&EncodeOptions::default())
                .unwrap()
                .to_vec()
            {
                if trickle && attacker.write_all(&[byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
            attacker
        });
        let start = Instant::now();
        let error = negotiate_server(&mut server, config("b")).await.unwrap_err();
        let TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Handshake, .. }) = error else {
            panic!("{error}");
        };
        // Ten seconds, and one for telling the peer.
        assert!((10..=11).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        talking.abort();
    }
}

// spec: limits 7.1
#[tokio::test(start_paused = true)]
async fn more_than_64_kib_before_the_handshake_is_done_are_refused_by_the_head() {
    let (mut server, mut attacker) = pipe();
    let hello =
        Frame::new(Metadata::default(), vec![b' '; 65_537]).encode(&EncodeOptions::default()).unwrap();
    attacker.write_all(&hello.head).await.unwrap();
    let error = negotiate_server(&mut server, config("b")).await.unwrap_err();
    let TransportError::Limit(LimitExceeded::HandshakeBytes { limit: 65_536, got }) = error else {
        panic!("{error}");
    };
    assert!(got > 65_536);
}

// spec: limits 7.1
#[tokio::test]
async fn a_hello_that_unpacks_to_more_than_64_kib_is_refused_before_it_is_unpacked() {
    let (mut server, mut attacker) = pipe();
    let metadata = Metadata { mode: avp_wire::Mode::Json, ..Metadata::default() };
    let options = EncodeOptions { compression: Some(avp_wire::Compression::Fast), ..Default::default() };
    let hello = Frame::new(metadata, vec![b' '; 100_000_000]).encode(&options).unwrap();
    attacker.write_all(&hello.to_vec()).await.unwrap();
    let error = negotiate_server(&mut server, config("b")).await.unwrap_err();
    let TransportError::Limit(LimitExceeded::HandshakeBytes { limit: 65_536, got: 100_000_000 }) = error
    else {
        panic!("{error}");
    };
}

// spec: handshake 4.2, handshake 4.3
#[tokio::test(start_paused = true)]
async fn a_frame_that_is_no_hello_is_refused_with_its_code() {
    let (mut server, mut attacker) = pipe();
    let frame = Frame::new(Metadata::default(), vec![1; 1000]).encode(&EncodeOptions::default()).unwrap();
    attacker.write_all(&frame.to_vec()).await.unwrap();
    let error = negotiate_server(&mut server, config("b")).await.unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::Handshake { .. })), "{error}");
    assert_eq!(error.code(), ErrorCode::UnexpectedFrame);
    drop(server);
    let mut answer = Vec::new();
    attacker.read_to_end(&mut answer).await.unwrap();
    let answer = Frame::decode(answer.into(), &Default::default()).unwrap();
    assert_eq!(avp_handshake::Reject::from_frame(&answer).unwrap().code, Some(ErrorCode::UnexpectedFrame));
}

// spec: handshake 1.10, handshake 4.8
#[tokio::test(start_paused = true)]
async fn a_refused_client_learns_why() {
    let (mut client, mut server) = memory_pair("refused", &Options::default());
    let mut hello = config("a");
    hello.hello.avp_version = "9.0".into();
    let (ours, theirs) =
        tokio::join!(negotiate_client(&mut client, hello), negotiate_server(&mut server, config("b")));
    assert_eq!(theirs.unwrap_err().code(), ErrorCode::UnsupportedVersion);
    let error = ours.unwrap_err();
    assert!(matches!(error, TransportError::Incompatible(Incompatible::Handshake { .. })), "{error}");
    assert_eq!(error.code(), ErrorCode::UnsupportedVersion);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_or_speaks_something_else_is_told_apart() {
    let (mut server, attacker) = pipe();
    drop(attacker);
    let error = negotiate_server(&mut server, config("b")).await.unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::ClosedInHandshake { .. })), "{error}");
    let (mut server, mut attacker) = pipe();
    attacker.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = negotiate_server(&mut server, config("b")).await.unwrap_err();
    assert!(matches!(error, TransportError::Peer(PeerFault::NotAvp { .. })), "{error}");
}

// spec: limits 8.1
#[tokio::test]
async fn half_open_connections_of_one_peer_are_bounded_and_an_honest_client_still_gets_through() {
    let mut options = Options::default();
    // None is dropped for its own slowness meanwhile.
    options.limits.handshake_timeout = Duration::from_secs(120);
    let listener = listen(&"avp+tcp://127.0.0.1:0".parse().unwrap(), &options).await.unwrap();
    let url = listener.local_url().clone();
    let server = tokio::spawn(async move {
        let mut outcomes = Vec::new();
        for _ in 0..201 {
            let mut connection = listener.accept().await.unwrap();
            outcomes.push(tokio::spawn(async move { negotiate_server(&mut connection, config("b")).await }));
        }
        outcomes
    });
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(connect(&url, &Options::default()).await.unwrap());
    }
    let mut honest = connect(&url, &Options::default()).await.unwrap();
    negotiate_client(&mut honest, config("a")).await.unwrap();
    let mut outcomes = server.await.unwrap();
    assert!(outcomes.pop().unwrap().await.unwrap().is_ok());
    // Of the 200, 64 or 63 may stay: the honest one took a place and gave it back.
    for outcome in outcomes.drain(..200 - 64) {
        let error = outcome.await.unwrap().unwrap_err();
        assert!(matches!(error, TransportError::Limit(LimitExceeded::HalfOpen { limit: 64 })), "{error}");
    }
    assert_eq!(outcomes.iter().filter(|outcome| !outcome.is_finished()).count(), 63);
}

// spec: limits 8.1
#[tokio::test]
async fn a_hello_that_has_come_is_answered_before_its_sender_has_to_make_room() {
    // Several times, since what is asked is an order.
    for _ in 0..10 {
        let listener = listen(&"avp+tcp://127.0.0.1:0".parse().unwrap(), &Options::default()).await.unwrap();
        let mut honest = connect(listener.local_url(), &Options::default()).await.unwrap();
        let asking =
            tokio::spawn(async move { negotiate_client(&mut honest, config("a")).await.map(|_| honest) });
        sleep(Duration::from_millis(20)).await;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(connect(listener.local_url(), &Options::default()).await.unwrap());
        }
        // All 101 wait to be accepted, the honest one first, so that it is the oldest when the 65th comes.
        let server = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            loop {
                let mut connection = listener.accept().await.unwrap();
                sessions.spawn(async move {
                    negotiate_server(&mut connection, config("b")).await.map(|_| connection)
                });
            }
        });
        asking.await.unwrap().unwrap();
        server.abort();
    }
}
