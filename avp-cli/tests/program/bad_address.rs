//! Addresses that are none, and whoever is behind those that are.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use crate::common::{Server, avp, context, greedy_args, json, names, refused, tokens};
use tempfile::tempdir;

const MODEL: &str = "avp-demo-qwen2-s";
const ASK: &str = "Where does Finn live?";

#[test]
fn an_address_with_nobody_or_a_stranger_behind_it_is_named() {
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("avp+tcp://{free}");
    let once = ["--to", &url, "--retries", "0"];
    names(&refused(avp(["ask", "--prompt", ASK]).args(once)), &[&free.to_string(), "avp serve"]);
    let folder = tempdir().unwrap();
    let line = refused(avp(["send", context(&folder, MODEL, &[]).to_str().unwrap()]).args(once));
    names(&line, &[&free.to_string(), "avp recv"]);
    assert!(!line.contains("avp serve"), "{line}");

    let strangers: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "does not speak AVP"),
        (b"", "closed the connection"),
        (b"AV\x01\x00\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "4294967295 bytes exceeds the limit"),
    ];
    for (reply, word) in strangers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stranger = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(reply).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Until the other side gives up; a reset is as good.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let line = refused(&mut avp(["ask", "--to", &format!("avp+tcp://{address}"), "--prompt", ASK]));
        names(&line, &[&address, word]);
        stranger.join().unwrap();
    }
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("avp+tcp://{free}");
    let mut asking = avp(["ask", "--to", &url, "--prompt", ASK, "--max-tokens", "2", "--retries", "9"]);
    let asking = asking.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let _server = Server::start(MODEL, &["--listen", &url]);
    let output = asking.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_peer_that_never_says_a_word_is_given_up() {
    // Connections wait in the listener's queue; nobody takes them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let line = refused(&mut avp(["ask", "--to", &format!("avp+tcp://{address}"), "--prompt", ASK]));
    names(&line, &[&address, "timed out", "handshake"]);
}

#[test]
fn an_address_that_is_none_is_named_with_what_would_be_one() {
    for (url, words) in [
        ("127.0.0.1:7700", ["no scheme", "avp+tcp://127.0.0.1:7700"]),
        ("avp+tpc://127.0.0.1:7700", ["avp+tpc", "avp+tcp"]),
        ("avp+tcp://127.0.0.1:99999", ["99999", "port"]),
        ("avp+tcp://203.0.113.1:7700", ["203.0.113.1", "loopback"]),
        ("avp+tcp//127.0.0.1:7700", ["no scheme", "write for example `avp+tcp://127.0.0.1:7700`"]),
        ("avp+mem:here", ["outside of this process", "avp+tcp://HOST:PORT"]),
        ("", ["scheme", ""]),
    ] {
        for mut command in
            [avp(["ask", "--to", url, "--prompt", ASK]), avp(["serve", "--model", MODEL, "--listen", url])]
        {
            let line = refused(&mut command);
            names(&line, &words);
            assert!(url.starts_with("avp+mem") || !line.contains("avp+mem"), "{line}");
        }
    }
    let elsewhere = ["serve", "--model", MODEL, "--listen", "avp+tcp://203.0.113.1:0", "--allow-remote"];
    names(&refused(&mut avp(elsewhere)), &["203.0.113.1", "no address of this machine", "127.0.0.1"]);
    let server = Server::start(MODEL, &[]);
    let line = refused(&mut avp(["serve", "--model", MODEL, "--listen", &server.url]));
    names(&line, &["in use", "another port"]);
}

#[test]
fn a_server_outlives_a_peer_that_talks_nonsense() {
    let server = Server::start(MODEL, &[]);
    let address = server.url.strip_prefix("avp+tcp://").unwrap();
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 4096], b"AV\x01", b""] {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(nonsense).unwrap();
        drop(stream);
    }
    let args = ["ask", "--to", &server.url, "--prompt", ASK].map(str::to_owned);
    assert!(!tokens(&json(args.into_iter().chain(greedy_args()))).is_empty());
}
