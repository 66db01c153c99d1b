//! The server's part of a handshake, begun only for a client that is still there.

use std::future::pending;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::half_open::{Progress, Step};
use crate::turns::Turns;

/// Shakes hands with a client. The key exchange and the signature, which cost it nothing and this side much, wait for
/// their turn, and are spared where it leaves before.
pub(crate) async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    turns: &Turns,
    progress: Progress,
) -> io::Result<TlsStream<TcpStream>> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    progress.mark(Step::Spoken);
    let turn = tokio::select! {
        biased;
        () = left(&hello.io) => {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it left within the handshake"));
        }
        turn = turns.hold() => turn,
    };
    let answer = hello.into_stream(config);
    // What is ready beside it goes first, before the next has its turn.
    yield_now().await;
    drop(turn);
    answer.await
}

/// Resolves when the client closes. It has nothing to say before it is answered.
async fn left(stream: &TcpStream) {
    match stream.peek(&mut [0]).await {
        Ok(0) | Err(_) => {}
        Ok(_) => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::options::Options;
    use crate::tls::{ALPN, DevCa, TlsCertificate};

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    fn config() -> Arc<ServerConfig> {
        let issued = DevCa::new("turns").unwrap().issue(&["localhost".to_owned()]).unwrap();
        let mut options = Options::default();
        options.tls.certificate = Some(TlsCertificate::from_pem(&issued.certificate, &issued.key).unwrap());
        Arc::new(options.tls.server(&[ALPN]).unwrap())
    }

    /// What a client of TLS says first.
    fn client_hello() -> Vec<u8> {
        let issued = DevCa::new("turns").unwrap();
        let mut options = Options::default();
        options.tls.authorities = Some(crate::tls::TlsAuthorities::from_pem(issued.certificate()).unwrap());
        let config = Arc::new(options.tls.client(&[ALPN]).unwrap());
        let mut session = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        hello
    }

    #[tokio::test]
    async fn handshakes_wait_for_their_turn_and_are_spared_for_clients_that_have_left() {
        let turns = Arc::new(Turns::at_once(1));
        let config = config();
        let (release, released) = oneshot::channel::<()>();
        let (taken, holding) = oneshot::channel();
        let held = Arc::clone(&turns);
        let holder = tokio::spawn(async move {
            let _turn = held.hold().await;
            taken.send(()).unwrap();
            let _ = released.await;
        });
        holding.await.unwrap();
        let serve = |stream| {
            let (turns, config) = (Arc::clone(&turns), Arc::clone(&config));
            tokio::spawn(async move { accept(stream, config, &turns, Progress::default()).await.map(drop) })
        };
        let ((mut leaver, one), (mut stayer, two)) = (sockets().await, sockets().await);
        let (left, staying) = (serve(one), serve(two));
        leaver.write_all(&client_hello()).await.unwrap();
        stayer.write_all(&client_hello()).await.unwrap();
        let mut answer = [0; 5];
        let answered = timeout(Duration::from_millis(200), stayer.read_exact(&mut answer)).await;
        assert!(answered.is_err(), "it is not its turn");
        drop(leaver);
        // Its place is free before its turn.
        let error = timeout(Duration::from_secs(10), left).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
        drop(release);
        holder.await.unwrap();
        stayer.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[0], 0x16, "a ServerHello");
        staying.abort();
    }
}
