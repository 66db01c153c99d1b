//! Spans and events at TRACE, those of every dependency too, hold no payload, no prompt and no token.

use std::io;
use std::sync::{Arc, Mutex};

use avp_handshake::{Reject, TextMessage};
use avp_transport::{
    BearerTokens, HttpClient, HttpServerOptions, Listener, Options, Token, Transfers, TransportUrl, connect,
    listen, negotiate_client, negotiate_server,
};
use avp_wire::ext::{self, FrameKind};
use avp_wire::{Bytes, EncodeOptions, ErrorCode, Frame, Metadata, Mode};
use tracing_subscriber::fmt::MakeWriter;

use crate::common::{config, http, secure_client, secure_server};
use crate::{alone, on_one_thread};

const TOKEN: &str = "token-lapis-2317";
const WRONG_TOKEN: &str = "token-amber-8841";
const PROMPT: &str = "prompt-cobalt-5520";
const PAYLOAD: &str = "payload-ochre-9934";

const PLAIN: EncodeOptions = EncodeOptions { compression: None, checksum: true, align: false };

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn options(token: &str) -> Options {
    let mut options = secure_client(secure_server(Options::default()));
    options.token = Some(Token::new(token).unwrap());
    let known = BearerTokens::new().with("alice", &Token::new(TOKEN).unwrap());
    options.authorize = Some(Arc::new(known));
    options
}

fn question() -> Frame {
    let message = TextMessage { content: PROMPT.into(), ..TextMessage::default() };
    let mut metadata = Metadata { mode: Mode::Json, ..Metadata::default() };
    metadata.extra.insert(ext::KIND.to_owned(), FrameKind::Text.as_str().to_owned());
    metadata.extra.insert(ext::TEXT.to_owned(), PROMPT.to_owned());
    Frame::new(metadata, message.to_json().into_bytes())
}

fn cache(len: usize) -> Frame {
    Frame::new(Metadata::default(), PAYLOAD.as_bytes().repeat(len / PAYLOAD.len() + 1))
}

/// A session with everything in it: a peer that is turned away, one that is let in, a damaged frame, transfers with a
/// question, a context and a refusal.
async fn session(url: &TransportUrl) {
    let listener = listen(url, &options(TOKEN)).await.unwrap();
    let url = listener.local_url();
    for token in [WRONG_TOKEN, TOKEN] {
        let options = options(token);
        let (client, server) =
            tokio::join!(connect(url, &options), listener.accept_if(token == TOKEN || !is_http(url)));
        let (Ok(mut client), Some(mut server)) = (client, server) else {
            assert!(is_http(url) && token == WRONG_TOKEN);
            continue;
        };
        let (ours, theirs) = tokio::join!(
            negotiate_client(&mut client, config("a")),
            negotiate_server(&mut server, config("b"))
        );
        assert_eq!((ours.is_ok(), theirs.is_ok()), (token == TOKEN, token == TOKEN), "{url}");
        if token == WRONG_TOKEN {
            continue;
        }
        let mut damaged = cache(20_000).encode(&PLAIN).unwrap();
        damaged.payload = Bytes::from([&damaged.payload[1..], b"!"].concat());
        let (sent, came) = tokio::join!(client.send(damaged), server.recv());
        assert!(sent.is_ok() && came.is_err());
        let (client, server) = (Transfers::over(client), Transfers::over(server));
        let mut ours = client.open("one").unwrap();
        ours.send(question(), &PLAIN).await.unwrap();
        ours.send(cache(300_000), &PLAIN).await.unwrap();
        let mut theirs = server.accept().await.unwrap().unwrap();
        theirs.recv().await.unwrap().unwrap();
        theirs.recv().await.unwrap().unwrap();
        theirs.send(question(), &PLAIN).await.unwrap();
        theirs.send(Reject::new(ErrorCode::Busy, PROMPT).to_frame(), &PLAIN).await.unwrap();
        ours.recv().await.unwrap().unwrap();
        ours.recv().await.unwrap().unwrap();
        client.finish().await.unwrap();
    }
}

fn is_http(url: &TransportUrl) -> bool {
    matches!(url, TransportUrl::Http { .. })
}

trait AcceptIf {
    /// The next connection, where one is to come: HTTP turns away who shows a wrong token before that.
    async fn accept_if(&self, comes: bool) -> Option<avp_transport::Connection>;
}

impl AcceptIf for Box<dyn Listener> {
    async fn accept_if(&self, comes: bool) -> Option<avp_transport::Connection> {
        if comes { Some(self.accept().await.unwrap()) } else { None }
    }
}

/// Requests over HTTP, with and without the right token.
async fn requests(server: HttpServerOptions) {
    let listener = http::serve(options(TOKEN), server).await;
    for token in [WRONG_TOKEN, TOKEN] {
        for h2 in [false, true] {
            let client = HttpClient::new(listener.local_url(), "client", options(token)).unwrap();
            let client = if h2 { client.with_http2() } else { client };
            let text = TextMessage { content: PROMPT.into(), ..TextMessage::default() };
            let answers = [
                client.transmit(cache(100_000).encode(&PLAIN).unwrap()).await.is_ok(),
                client.text(&text).await.is_ok(),
            ];
            assert_eq!(answers, [token == TOKEN; 2]);
        }
    }
}

#[test]
fn spans_and_events_tell_what_goes_on_and_no_secret() {
    alone(|| on_one_thread(session_on_every_transport()));
}

async fn session_on_every_transport() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let mut urls: Vec<TransportUrl> = [
        "avp+mem:secrets",
        "avp+tcp://127.0.0.1:0",
        "avp+tls://127.0.0.1:0",
        "avp+quic://127.0.0.1:0",
        "http://127.0.0.1:0",
        "https://127.0.0.1:0",
    ]
    .map(|url| url.parse().unwrap())
    .into();
    if cfg!(target_os = "linux") {
        urls.push(TransportUrl::SharedMemory { path: folder.path().join("avp.sock") });
    }
    for url in &urls {
        session(url).await;
    }
    requests(http::service(true)).await;

    let bytes = log.0.lock().unwrap().clone();
    let text = String::from_utf8(bytes).unwrap();
    for secret in [TOKEN, WRONG_TOKEN, PROMPT, PAYLOAD] {
        // As text, and as `Debug` prints bytes.
        let numbers = format!("{:?}", &secret.as_bytes()[..8]);
        for form in [secret, numbers.trim_matches(['[', ']'])] {
            let found = text.lines().find(|line| line.contains(form));
            assert_eq!(found, None, "{secret}");
        }
    }
    for transport in ["mem", "tcp", "tls", "quic", "http", "https", "shm"] {
        if transport == "shm" && !cfg!(target_os = "linux") {
            continue;
        }
        let mine: Vec<&str> = text
            .lines()
            .filter(|line| line.contains(&format!("connection{{transport=\"{transport}\"")))
            .collect();
        for what in [
            "established",
            "closed",
            "handshake{outcome=\"agreed\"",
            "code=\"handshake.unauthorized\" outcome=\"rejected\"",
            "code=\"frame.checksum_mismatch\" goes_on=true",
            "transfer{id=\"one\" kind=\"text\"",
            "code=\"transport.busy\"",
        ] {
            if what.contains("unauthorized") && transport.starts_with("http") {
                continue;
            }
            assert!(mine.iter().any(|line| line.contains(what)), "{transport}: {what}\n{}", mine.join("\n"));
        }
    }
}
