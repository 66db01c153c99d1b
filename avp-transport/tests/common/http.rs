//! What the tests of the HTTP binding share: an agent that answers, and clients that speak by hand.

use std::sync::Arc;
use std::time::Duration;

use avp_handshake::{Session, TextMessage};
use avp_transport::testing::{encoded, sample};
use avp_transport::{
    BoxFuture, HttpAgent, HttpCaller, HttpClient, HttpHandler, HttpListener, HttpRefusal, HttpReply,
    HttpServerOptions, Listener, Options, TransportUrl,
};
use avp_wire::{EncodeOptions, Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::config;

/// Says what came, and sends frames to `back` back.
#[derive(Debug)]
pub(crate) struct Echo {
    pub(crate) takes_text: bool,
}

impl HttpHandler for Echo {
    fn frame<'a>(
        &'a self,
        caller: &'a HttpCaller,
        session: Option<Session>,
        frame: Frame,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        Box::pin(async move {
            if frame.metadata.target_agent_id == "back" {
                return Ok(HttpReply::Frame(frame.encode(&EncodeOptions::default()).unwrap()));
            }
            let fields = serde_json::json!({
                "bytes": frame.payload.len(),
                "blake3": blake3::hash(&frame.payload).to_hex().as_str(),
                "session": session.map(|session| session.remote_agent),
                "address": caller.peer().to_string(),
                "identity": caller.peer().identity(),
                "agent": caller.agent_id(),
            });
            Ok(HttpReply::Json(fields.as_object().unwrap().clone()))
        })
    }

    fn takes_text(&self) -> bool {
        self.takes_text
    }

    fn text<'a>(
        &'a self,
        _caller: &'a HttpCaller,
        _session: Option<Session>,
        message: TextMessage,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        let content = message.content.to_uppercase();
        Box::pin(async move { Ok(TextMessage { content, ..message }.into()) })
    }
}

pub(crate) fn service(takes_text: bool) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.service = Some(Arc::new(HttpAgent::new(config("server"), Echo { takes_text }).unwrap()));
    options
}

pub(crate) async fn serve(options: Options, http: HttpServerOptions) -> HttpListener {
    HttpListener::serve(&"http://127.0.0.1:0".parse().unwrap(), options, http).await.unwrap()
}

pub(crate) fn client(listener: &HttpListener, options: Options) -> HttpClient {
    HttpClient::new(listener.local_url(), "client", options).unwrap()
}

pub(crate) async fn dial(url: &TransportUrl) -> TcpStream {
    let TransportUrl::Http { host, port, .. } = url else { panic!("{url}") };
    TcpStream::connect((host.as_str(), *port)).await.unwrap()
}

/// Sends bytes and reads until the server closes, or says nothing more for a while.
pub(crate) async fn talk(url: &TransportUrl, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = dial(url).await;
    stream.write_all(bytes.as_ref()).await.unwrap();
    listen_to(&mut stream).await
}

pub(crate) async fn listen_to(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    let mut patience = Duration::from_secs(30);
    while let Ok(Ok(count @ 1..)) = timeout(patience, stream.read(&mut part)).await {
        text.extend_from_slice(&part[..count]);
        patience = Duration::from_secs(1);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A request that asks to close after it; `headers` are lines without their end.
pub(crate) fn request(line: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text =
        format!("{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for header in headers {
        text.push_str(&format!("{header}\r\n"));
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

pub(crate) fn transmit(headers: &[&str], body: &[u8]) -> Vec<u8> {
    request("POST /avp/v2/transmit", headers, body)
}

/// A frame on the wire.
pub(crate) fn wire(len: usize) -> Vec<u8> {
    encoded(&sample(1, len)).to_vec()
}

/// Status line, and body.
pub(crate) fn parts(answer: &str) -> (u16, &str) {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or_else(|| panic!("no status in {answer:?}")), body)
}
