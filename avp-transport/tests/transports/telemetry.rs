//! Metrics say exactly what went on, on every transport.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use avp_handshake::Reject;
use avp_transport::testing::{Harness, encoded, sample};
use avp_transport::{
    BoxFuture, Connection, Options, Peer, PeerAddress, Token, Transfers, TransportUrl, connect,
    connection_over, describe_metrics, listen, memory_pair, negotiate_client, negotiate_server,
};
use avp_wire::{Bytes, EncodeOptions, EncodedFrame, ErrorCode};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncWriteExt, duplex, split};
use tokio::time::{Instant, sleep};

use crate::common::{Secure, config, http, secure_client, secure_server};

const PLAIN: EncodeOptions = EncodeOptions { compression: None, checksum: true, align: false };

/// What has been counted so far.
#[derive(Clone)]
struct Counts(PrometheusHandle);

impl Counts {
    /// The sum of all series of a metric that have these labels.
    fn of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.0.render();
        let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        lines
            .filter_map(|line| line.split_once("} "))
            .filter(|(found, _)| {
                labels.iter().all(|(key, value)| found.split(',').any(|l| l == format!("{key}=\"{value}\"")))
            })
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }

    async fn becomes(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let start = Instant::now();
        while self.of(name, labels) != value {
            let found = self.of(name, labels);
            assert!(start.elapsed() < Duration::from_secs(20), "{name} {labels:?}: {found}, not {value}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Runs a scenario on one thread, with a recorder of its own.
fn observe<F: Future<Output = ()>>(paused: bool, scenario: impl FnOnce(Counts) -> F) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let counts = Counts(recorder.handle());
    let _recording = metrics::set_default_local_recorder(&recorder);
    describe_metrics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build();
    runtime.unwrap().block_on(scenario(counts));
}

/// Pairs over addresses that need no certificates.
struct Plain(&'static str);

impl Harness for Plain {
    fn pair(&self, client: Options, server: Options) -> BoxFuture<'_, (Connection, Connection)> {
        Box::pin(async move {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("avp.sock");
            let url = match self.0 {
                "shm" => TransportUrl::SharedMemory { path },
                address => address.parse().unwrap(),
            };
            let listener = listen(&url, &server).await.unwrap();
            let (client, server) = tokio::join!(connect(listener.local_url(), &client), listener.accept());
            (client.unwrap(), server.unwrap())
        })
    }
}

/// Every transport, as its label names it.
fn transports() -> Vec<(&'static str, Box<dyn Harness>)> {
    let mut all: Vec<(&str, Box<dyn Harness>)> = vec![
        ("tcp", Box::new(Plain("avp+tcp://127.0.0.1:0"))),
        ("tls", Box::new(Secure("avp+tls://127.0.0.1:0"))),
        ("quic", Box::new(Secure("avp+quic://127.0.0.1:0"))),
        ("http", Box::new(Plain("http://127.0.0.1:0"))),
        ("https", Box::new(Secure("https://127.0.0.1:0"))),
    ];
    if cfg!(target_os = "linux") {
        all.push(("shm", Box::new(Plain("shm"))));
    }
    all
}

fn on_every_transport(check: impl AsyncFn(Counts, &'static str, &dyn Harness)) {
    for (transport, harness) in transports() {
        observe(false, |counts| check(counts, transport, &*harness));
    }
    // Names in memory are shared by the tests of this process.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("avp+mem:telemetry-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let memory = Plain(name.leak());
    observe(false, |counts| check(counts, "mem", &memory));
}

async fn pair(harness: &dyn Harness) -> (Connection, Connection) {
    harness.pair(Options::default(), Options::default()).await
}

fn damaged() -> EncodedFrame {
    let frame = encoded(&sample(1, 20_000));
    EncodedFrame { payload: Bytes::from(vec![0; 20_000]), ..frame }
}

#[test]
fn connections_handshakes_frames_and_damage_are_counted() {
    on_every_transport(async |counts, transport, harness| {
        let of = |name: &str, label: (&str, &str)| counts.of(name, &[("transport", transport), label]);
        let (mut client, mut server) = pair(harness).await;
        let (ours, theirs) = tokio::join!(
            negotiate_client(&mut client, config("a")),
            negotiate_server(&mut server, config("b"))
        );
        ours.and(theirs).unwrap();
        for side in ["client", "server"] {
            assert_eq!(of("avp_connections_total", ("side", side)), 1.0, "{transport}");
            let labels = [("transport", transport), ("side", side), ("outcome", "agreed")];
            assert_eq!(counts.of("avp_handshakes_total", &labels), 1.0, "{transport}");
        }
        assert_eq!(counts.of("avp_connections_open", &[("transport", transport)]), 2.0, "{transport}");
        let count = || {
            ["avp_frames_total", "avp_bytes_total"]
                .map(|name| ["sent", "received"].map(|way| of(name, ("direction", way))))
        };
        let [[frames_sent, frames_came], [bytes_sent, bytes_came]] = count();
        assert!(frames_sent >= 2.0 && frames_sent == frames_came, "{transport}");

        let frames: Vec<EncodedFrame> =
            [1000, 300_000].map(|len| encoded(&sample(2, len))).into_iter().chain([damaged()]).collect();
        for frame in frames.clone() {
            let (sent, came) = tokio::join!(client.send(frame), server.recv());
            sent.unwrap();
            assert_eq!(came.is_err(), of("avp_faults_total", ("code", "frame.checksum_mismatch")) == 1.0);
        }
        let bytes = |frames: &[EncodedFrame]| frames.iter().map(EncodedFrame::len).sum::<usize>() as f64;
        let sent = [frames_sent + 3.0, frames_came + 2.0];
        let came = [bytes_sent + bytes(&frames), bytes_came + bytes(&frames[..2])];
        assert_eq!(count(), [sent, came], "{transport}");
        assert_eq!(counts.of("avp_faults_total", &[]), 1.0, "{transport}");
        for never in ["avp_rejects_total", "avp_stall_seconds_count", "avp_transfers_total"] {
            assert_eq!(counts.of(never, &[]), 0.0, "{transport}: {never}");
        }
        drop((client, server));
        counts.becomes("avp_connections_open", &[("transport", transport)], 0.0).await;
    });
}

#[test]
fn a_refused_handshake_is_counted_by_its_code_on_both_sides() {
    on_every_transport(async |counts, transport, harness| {
        let (mut client, mut server) = pair(harness).await;
        let mut hello = config("a");
        hello.hello.avp_version = "9.0".into();
        let (ours, theirs) =
            tokio::join!(negotiate_client(&mut client, hello), negotiate_server(&mut server, config("b")));
        assert!(ours.is_err() && theirs.is_err());
        let code = ErrorCode::UnsupportedVersion.as_str();
        for direction in ["sent", "received"] {
            let labels = [("transport", transport), ("direction", direction), ("code", code)];
            assert_eq!(counts.of("avp_rejects_total", &labels), 1.0, "{transport} {direction}");
        }
        assert_eq!(counts.of("avp_rejects_total", &[]), 2.0, "{transport}");
        for side in ["client", "server"] {
            let labels = [("transport", transport), ("side", side), ("outcome", "rejected")];
            assert_eq!(counts.of("avp_handshakes_total", &labels), 1.0, "{transport}");
        }
    });
}

#[test]
fn a_peer_that_takes_nothing_for_over_a_second_is_one_stall() {
    on_every_transport(async |counts, transport, harness| {
        let (client, mut server) = pair(harness).await;
        let (mut sender, _receiver) = client.split();
        let sent = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&sent);
        let sending = tokio::spawn(async move {
            let frame = encoded(&sample(0, 1 << 20));
            while sender.send(frame.clone()).await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Until the transport has been full for over a second.
        sleep(Duration::from_millis(300)).await;
        let mut before = u32::MAX;
        while before != sent.load(Ordering::Relaxed) {
            before = sent.load(Ordering::Relaxed);
            sleep(Duration::from_millis(1200)).await;
        }
        let labels = [("transport", transport), ("direction", "sent")];
        assert_eq!(counts.of("avp_stalls_total", &labels), 0.0, "{transport}: it is not over");
        while counts.of("avp_stalls_total", &labels) == 0.0 {
            server.recv().await.unwrap().unwrap();
        }
        sending.abort();
        assert_eq!(counts.of("avp_stalls_total", &labels), 1.0, "{transport}");
        assert_eq!(counts.of("avp_stall_seconds_count", &labels), 1.0, "{transport}");
        let seconds = counts.of("avp_stall_seconds_sum", &labels);
        assert!((1.0..60.0).contains(&seconds), "{transport}: {seconds}");
    });
}

#[test]
fn a_peer_that_pauses_within_a_frame_is_a_stall_and_one_that_pauses_between_frames_is_none() {
    observe(true, async |counts| {
        let (ours, mut theirs) = duplex(256 << 10);
        let (read, write) = split(ours);
        let peer = Peer::at(PeerAddress::Memory("pipe".into()));
        let mut server = connection_over(read, write, peer, &Options::default());
        let writing = async {
            let bytes = encoded(&sample(1, 100_000)).to_vec();
            for pause in [5, 60, 0] {
                let (early, late) = bytes.split_at(50_000);
                theirs.write_all(early).await.unwrap();
                sleep(Duration::from_millis(500)).await;
                theirs.write_all(&late[..10_000]).await.unwrap();
                sleep(Duration::from_secs(pause.min(5))).await;
                theirs.write_all(&late[10_000..]).await.unwrap();
                sleep(Duration::from_secs(60)).await;
            }
        };
        let reading = async {
            for _ in 0..3 {
                server.recv().await.unwrap().unwrap();
            }
        };
        tokio::join!(writing, reading);
        let labels = [("transport", "stream"), ("direction", "received")];
        assert_eq!(counts.of("avp_stalls_total", &labels), 2.0);
        assert_eq!(counts.of("avp_stall_seconds_sum", &labels).round(), 10.0);
        assert_eq!(counts.of("avp_stalls_total", &[]), 2.0);
    });
}

#[test]
fn waiting_for_memory_that_the_application_holds_is_a_stall() {
    observe(true, async |counts| {
        let mut options = Options::default();
        options.limits.memory_budget = 1 << 20;
        let (mut client, mut server) = memory_pair("stall", &options);
        for seed in 0..2 {
            client.send(encoded(&sample(seed, 700 << 10))).await.unwrap();
        }
        let held = server.recv().await.unwrap().unwrap();
        let letting_go = async {
            sleep(Duration::from_secs(3)).await;
            drop(held);
        };
        let (second, ()) = tokio::join!(server.recv(), letting_go);
        second.unwrap().unwrap();
        let labels = [("transport", "mem"), ("direction", "received")];
        assert_eq!(counts.of("avp_stalls_total", &labels), 1.0);
        assert_eq!(counts.of("avp_stall_seconds_sum", &labels).round(), 3.0);
    });
}

#[test]
fn transfers_are_counted_by_how_they_ended() {
    on_every_transport(async |counts, transport, harness| {
        let (client, server) = pair(harness).await;
        let (client, server) = (Transfers::over(client), Transfers::over(server));
        let refusal = Reject::new(ErrorCode::Busy, "not now").to_frame();
        for (id, answer) in [("good", sample(2, 10)), ("refused", refusal)] {
            let mut ours = client.open(id).unwrap();
            ours.send(sample(1, 1000), &PLAIN).await.unwrap();
            let mut theirs = server.accept().await.unwrap().unwrap();
            theirs.recv().await.unwrap().unwrap();
            theirs.send(answer, &PLAIN).await.unwrap();
            ours.recv().await.unwrap().unwrap();
        }
        let of =
            |outcome| counts.of("avp_transfers_total", &[("transport", transport), ("outcome", outcome)]);
        assert_eq!([of("done"), of("rejected"), of("failed")], [2.0, 2.0, 0.0], "{transport}");
        for direction in ["sent", "received"] {
            let labels = [("transport", transport), ("direction", direction), ("code", "transport.busy")];
            assert_eq!(counts.of("avp_rejects_total", &labels), 1.0, "{transport} {direction}");
        }
        let mut broken = client.open("broken").unwrap();
        broken.send(sample(3, 20_000), &PLAIN).await.unwrap();
        client.open("unfinished").unwrap().send(sample(1, 10), &PLAIN).await.unwrap();
        drop(server);
        while let Ok(Some(_)) = broken.recv().await {}
        drop((broken, client));
        assert_eq!(of("done") + of("failed"), 4.0, "{transport}");
    });
}

#[test]
fn a_connection_that_breaks_fails_its_transfers() {
    observe(true, async |counts| {
        let (ours, mut theirs) = duplex(256 << 10);
        let (read, write) = split(ours);
        let peer = Peer::at(PeerAddress::Memory("pipe".into()));
        let client = Transfers::over(connection_over(read, write, peer, &Options::default()));
        let mut transfer = client.open("one").unwrap();
        let bystander = client.open("two").unwrap();
        transfer.send(sample(1, 10), &PLAIN).await.unwrap();
        theirs.write_all(&encoded(&sample(1, 1000)).to_vec()[..500]).await.unwrap();
        drop(theirs);
        transfer.recv().await.unwrap_err();
        drop((transfer, bystander));
        assert_eq!(counts.of("avp_transfers_total", &[("outcome", "failed")]), 2.0);
        assert_eq!(counts.of("avp_transfers_total", &[]), 2.0);
        assert_eq!(counts.of("avp_faults_total", &[("code", "transport.connection_lost")]), 1.0);
    });
}

#[test]
fn connections_that_do_not_come_about_are_counted_on_the_side_that_notices() {
    observe(false, async |counts| {
        // Held, so that nobody else gets the port, and without a listener.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let nobody = format!("avp+tcp://{}", held.local_addr().unwrap());
        connect(&nobody.parse().unwrap(), &Options::default()).await.unwrap_err();
        let labels = [("transport", "tcp"), ("side", "client"), ("outcome", "failed")];
        assert_eq!(counts.of("avp_connections_total", &labels), 1.0);

        let server = secure_server(Options::default());
        let listener = listen(&"avp+tls://127.0.0.1:0".parse().unwrap(), &server).await.unwrap();
        let calling = async {
            // It does not know the authority.
            connect(listener.local_url(), &Options::default()).await.unwrap_err();
            connect(listener.local_url(), &secure_client(Options::default())).await.unwrap()
        };
        let (_client, accepted) = tokio::join!(calling, listener.accept());
        accepted.unwrap();
        for side in ["client", "server"] {
            for outcome in ["established", "failed"] {
                let labels = [("transport", "tls"), ("side", side), ("outcome", outcome)];
                counts.becomes("avp_connections_total", &labels, 1.0).await;
            }
        }
    });
}

#[test]
fn requests_over_http_are_counted_without_a_connection() {
    observe(false, async |counts| {
        let mut options = Options::default();
        let token = Token::new("s3cret").unwrap();
        options.authorize = Some(Arc::new(avp_transport::BearerTokens::new().with("alice", &token)));
        let listener = http::serve(options, http::service(false)).await;
        http::client(&listener, Options::default()).transmit(encoded(&sample(1, 10))).await.unwrap_err();

        let mut known = Options::default();
        known.token = Some(token);
        let client = http::client(&listener, known);
        client.handshake(config("client")).await.unwrap();
        let mut frame = sample(1, 1000);
        frame.metadata.target_agent_id = "back".into();
        client.transmit(encoded(&frame)).await.unwrap();

        let code = ErrorCode::Unauthorized.as_str();
        for direction in ["sent", "received"] {
            let labels = [("transport", "http"), ("direction", direction), ("code", code)];
            assert_eq!(counts.of("avp_rejects_total", &labels), 1.0, "{direction}");
            let labels = [("transport", "http"), ("direction", direction)];
            let frames = if direction == "sent" { 3.0 } else { 2.0 };
            assert_eq!(counts.of("avp_frames_total", &labels), frames, "{direction}");
        }
        assert_eq!(counts.of("avp_handshakes_total", &[("outcome", "agreed")]), 2.0);
        assert_eq!(counts.of("avp_connections_total", &[]), 0.0);
    });
}
