//! A bare hyper connection with this crate's settings, to hold requests over HTTP/2 against.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::http::bare::{PIECE, Tasks, http2_client, http2_server};

/// Both ends of an HTTP/2 connection without frames, checks or limits of this crate. The server copies bodies into one
/// warm buffer.
#[derive(Debug)]
pub struct BareHttp2 {
    sender: client::SendRequest<Whole>,
    payload: Bytes,
}

impl BareHttp2 {
    /// Connects through loopback. Bodies have `size` bytes.
    ///
    /// # Panics
    /// If loopback does not work.
    pub async fn pair(size: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        accepted.set_nodelay(true).unwrap();
        let target = Arc::new(Mutex::new(vec![1_u8; size.max(64 << 10)]));
        let mut tasks = Tasks::default();
        let mut builder = server::Builder::new(tasks.executor());
        http2_server(&mut builder);
        let service = service_fn(move |request| take(request, Arc::clone(&target)));
        let serving = builder.serve_connection(TokioIo::new(accepted), service);
        tokio::spawn(async move { tasks.beside(serving).await });
        let mut tasks = Tasks::default();
        let mut builder = client::Builder::new(tasks.executor());
        http2_client(&mut builder);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move { tasks.beside(connection).await });
        Self { sender, payload: vec![1; size].into() }
    }

    /// Sends the body `count` times, one request after the other.
    ///
    /// # Panics
    /// If the connection fails.
    pub async fn blast(&mut self, count: usize) {
        for _ in 0..count {
            let request = Request::post("http://bare/").body(Whole(self.payload.clone())).unwrap();
            assert!(self.sender.send_request(request).await.unwrap().status().is_success());
        }
    }
}

async fn take(
    request: Request<Incoming>,
    target: Arc<Mutex<Vec<u8>>>,
) -> Result<Response<Whole>, Infallible> {
    let (mut body, mut at) = (request.into_body(), 0);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        if let Ok(piece) = frame.unwrap().into_data() {
            target.lock().unwrap()[at..at + piece.len()].copy_from_slice(&piece);
            at += piece.len();
        }
    }
    Ok(Response::new(Whole(Bytes::new())))
}

/// A body, handed over in pieces.
#[derive(Debug)]
struct Whole(Bytes);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let len = self.0.len().min(PIECE);
        Poll::Ready((len > 0).then(|| Ok(Frame::data(self.0.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
