//! Servers with certificates and tokens: whoever is not let in is told in one line what to do about it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::common::{Server, avp, json, names, refused, think};
use avp::transport::tls::DevCa;
use avp::{Peer, TransportOptions};
use tempfile::{TempDir, tempdir};

const MODEL: &str = "avp-demo-qwen2-s";
const TLS: [&str; 2] = ["--listen", "avp+tls://127.0.0.1:0"];
const PROMPT: &str = "Where does Quintessa live?";

/// An authority's folder, with certificates by their file's name.
struct Certs(TempDir);

impl Certs {
    /// An authority that has issued a certificate called `server`.
    fn new() -> Self {
        let folder = tempdir().unwrap();
        DevCa::new("test").unwrap().write(folder.path()).unwrap();
        let certs = Self(folder);
        certs.issue("server", "127.0.0.1", SystemTime::now());
        certs
    }

    /// Issues a certificate for `name` that ends 30 days after `start`.
    fn issue(&self, file: &str, name: &str, start: SystemTime) {
        let ca = DevCa::read(self.0.path()).unwrap();
        let issued = ca.issue_from(&[name.to_owned()], start, Duration::from_secs(30 * 86_400)).unwrap();
        issued.write(self.0.path(), file).unwrap();
    }

    fn path(&self, file: &str) -> String {
        self.0.path().join(file).to_str().unwrap().to_owned()
    }

    /// `--cert` and `--key`.
    fn show(&self, file: &str) -> Vec<String> {
        let (cert, key) = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        vec!["--cert".into(), cert, "--key".into(), key]
    }

    fn trust(&self) -> Vec<String> {
        vec!["--ca".into(), self.path("ca.pem")]
    }

    fn write(&self, file: &str, text: &str) -> String {
        fs::write(self.0.path().join(file), text).unwrap();
        self.path(file)
    }
}

fn serve(args: &[Vec<String>]) -> Command {
    let args = args.concat();
    let args: Vec<&str> = TLS.into_iter().chain(args.iter().map(String::as_str)).collect();
    Server::command(MODEL, &args)
}

fn ask(url: &str, args: &[Vec<String>]) -> Command {
    let mut command = avp(["ask", "--to", url, "--prompt", PROMPT, "--max-tokens", "2"]);
    command.args(args.concat()).env_remove("AVP_TOKEN");
    command
}

fn answers(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What is in a log once `word` is.
fn logged(log: &Path, word: &str) -> String {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(log).unwrap();
        if text.contains(word) {
            return text;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "no `{word}` in {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn each_fault_of_a_certificate_is_one_line_with_what_to_do() {
    let (certs, stranger) = (Certs::new(), Certs::new());
    let plain_port = |url: &str| url.replace("avp+tls", "avp+tcp");
    let server = Server::run(&mut serve(&[certs.show("server")]));
    answers(ask(&server.url, &[certs.trust()]));
    names(&refused(&mut ask(&server.url, &[stranger.trust()])), &["authority", "not trusted", "--ca"]);
    names(&refused(&mut ask(&server.url, &[])), &[&server.url, "authority", "--ca"]);
    names(&refused(&mut ask(&plain_port(&server.url), &[])), &["that is TLS", "avp+tls"]);
    let plain = Server::start(MODEL, &[]);
    let url = plain.url.replace("avp+tcp", "avp+tls");
    names(&refused(&mut ask(&url, &[certs.trust()])), &["does not speak TLS", "avp+tcp"]);

    certs.issue("expired", "127.0.0.1", SystemTime::now() - Duration::from_secs(60 * 86_400));
    let server = Server::run(&mut serve(&[certs.show("expired")]));
    names(&refused(&mut ask(&server.url, &[certs.trust()])), &["expired", "avp cert"]);
    certs.issue("elsewhere", "example.org", SystemTime::now());
    let server = Server::run(&mut serve(&[certs.show("elsewhere")]));
    names(&refused(&mut ask(&server.url, &[certs.trust()])), &["not for this name", "avp cert"]);
}

#[test]
fn a_server_that_is_given_authorities_takes_clients_of_theirs_alone() {
    let (certs, stranger) = (Certs::new(), Certs::new());
    certs.issue("alice", "alice", SystemTime::now());
    let server = Server::run(&mut serve(&[certs.show("server"), certs.trust()]));
    answers(ask(&server.url, &[certs.trust(), certs.show("alice")]));
    names(&refused(&mut ask(&server.url, &[certs.trust()])), &["asks for a certificate", "--cert", "--key"]);
    let impostor = [certs.trust(), stranger.show("server")];
    names(&refused(&mut ask(&server.url, &impostor)), &["does not accept this side's certificate"]);
}

#[test]
fn a_token_lets_in_and_whoever_has_none_or_another_learns_which() {
    let certs = Certs::new();
    let tokens = certs.write("tokens", "# who: secret\nalice:open-sesame\n");
    let (right, wrong) = (certs.write("right", "open-sesame\n"), certs.write("wrong", "close-sesame\n"));
    let log = certs.0.path().join("log");
    let mut command = serve(&[certs.show("server"), vec!["--tokens".into(), tokens]]);
    command.args(["--log", "debug"]);
    let server = Server::run(command.stderr(File::create(&log).unwrap()));
    let token = |file: &str| vec!["--token-file".to_owned(), file.to_owned()];

    answers(ask(&server.url, &[certs.trust(), token(&right)]));
    let mut by_variable = ask(&server.url, &[certs.trust()]);
    by_variable.env("AVP_TOKEN", "open-sesame");
    answers(by_variable);
    // The file is what was asked for; the environment is what happens to be there.
    let mut both = ask(&server.url, &[certs.trust(), token(&right)]);
    both.env("AVP_TOKEN", "close-sesame");
    answers(both);

    let line = refused(&mut ask(&server.url, &[certs.trust()]));
    names(&line, &["does not let this side in", "no token was shown", "--token-file"]);
    let line = refused(&mut ask(&server.url, &[certs.trust(), token(&wrong)]));
    names(&line, &["does not let this side in", "not one of those", "--token-file"]);
    assert!(!line.contains("sesame"));

    logged(&log, "no token was shown");
    let log = logged(&log, "the token is not known");
    assert!(log.matches("turned away").count() == 2 && !log.contains("sesame"), "{log}");
}

#[test]
fn files_that_cannot_be_used_are_named_before_anything_is_loaded_or_reached() {
    let certs = Certs::new();
    certs.issue("other", "127.0.0.1", SystemTime::now());
    let nonsense = certs.write("nonsense.pem", "no certificate");
    let flags = |pairs: &[(&str, &str)]| -> Vec<String> {
        pairs.iter().flat_map(|(flag, file)| [flag.to_string(), file.to_string()]).collect()
    };
    let (cert, key, other) = (certs.path("server.pem"), certs.path("server.key"), certs.path("other.key"));
    let missing = certs.path("missing.pem");
    let (two_tokens, no_names) = (certs.write("two", "a\nb\n"), certs.write("nameless", "secret\n"));
    let both: [(Vec<String>, &[&str]); 6] = [
        (flags(&[("--cert", &missing), ("--key", &key)]), &["missing.pem", "check the path"]),
        (flags(&[("--cert", certs.0.path().to_str().unwrap()), ("--key", &key)]), &["cannot read"]),
        (flags(&[("--cert", &nonsense), ("--key", &key)]), &["nonsense.pem", "no certificate in PEM"]),
        (flags(&[("--cert", &cert), ("--key", &cert)]), &["server.pem", "no private key in PEM"]),
        (flags(&[("--cert", &cert), ("--key", &other)]), &["other.key", "does not belong", "server.pem"]),
        (
            flags(&[("--cert", &cert), ("--key", &key), ("--ca", &key)]),
            &["server.key", "no certificate in PEM"],
        ),
    ];
    for (args, words) in both {
        names(&refused(&mut serve(std::slice::from_ref(&args))), words);
        names(&refused(&mut ask("avp+tls://127.0.0.1:1", &[args])), words);
    }
    let nobody = "avp+tls://127.0.0.1:1";
    names(&refused(&mut ask(nobody, &[flags(&[("--token-file", &two_tokens)])])), &["two", "one token"]);
    names(&refused(&mut ask(nobody, &[flags(&[("--token-file", &missing)])])), &["missing.pem", "check"]);
    names(&refused(ask(nobody, &[]).env("AVP_TOKEN", "a b")), &["AVP_TOKEN", "printable ASCII"]);
    let with_tokens = |file: &str| serve(&[certs.show("server"), flags(&[("--tokens", file)])]);
    names(&refused(&mut with_tokens(&no_names)), &["nameless", "line 1", "NAME:TOKEN"]);
    names(&refused(&mut with_tokens(&missing)), &["missing.pem", "check the path"]);
}

#[test]
fn certificates_and_addresses_that_do_not_go_together_are_refused() {
    let certs = Certs::new();
    names(&refused(&mut serve(&[])), &["needs a certificate", "--cert", "avp cert"]);
    let plain = ["--listen", "avp+tcp://127.0.0.1:0"].map(str::to_owned).to_vec();
    let args = [plain, certs.show("server")].concat();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    names(&refused(&mut Server::command(MODEL, &args)), &["--cert", "not encrypted", "avp+tls://HOST:PORT"]);
    names(&refused(&mut ask("avp+tcp://127.0.0.1:1", &[certs.trust()])), &["--ca", "not encrypted"]);
    names(&refused(&mut ask("avp+tsl://127.0.0.1:1", &[])), &["avp+tsl", "did you mean `avp+tls`"]);
    let server = Server::run(&mut serve(&[certs.show("server")]));
    let mut second = Server::command(MODEL, &["--listen", &server.url]);
    names(&refused(second.args(certs.show("server"))), &["in use", "another port"]);
}

#[test]
fn a_browser_at_a_port_costs_a_line_in_the_log_that_says_so() {
    let certs = Certs::new();
    let log = |name: &str| -> (PathBuf, File) {
        let path = certs.0.path().join(name);
        let file = File::create(&path).unwrap();
        (path, file)
    };
    let browse = |server: &Server| {
        let mut browser = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        browser.write_all(b"GET / HTTP/1.1\r\nHost: \x1b[31mred\r\n\r\n").unwrap();
        let _ = browser.read_to_end(&mut Vec::new());
    };
    let (plain_log, file) = log("plain");
    let plain = Server::run(Server::command(MODEL, &[]).env("AVP_LOG", "debug").stderr(file));
    browse(&plain);
    names(&logged(&plain_log, "HTTP request"), &["DEBUG", "127.0.0.1"]);
    answers(ask(&plain.url, &[]));

    let (secure_log, file) = log("secure");
    let secure = Server::run(serve(&[certs.show("server")]).env("AVP_LOG", "debug").stderr(file));
    browse(&secure);
    names(&logged(&secure_log, "does not speak TLS"), &["DEBUG", "127.0.0.1"]);
    answers(ask(&secure.url, &[certs.trust()]));

    let (quiet_log, file) = log("quiet");
    let quiet = Server::run(Server::command(MODEL, &["--log", "off"]).stderr(file));
    browse(&quiet);
    answers(ask(&quiet.url, &[]));
    assert_eq!(fs::read_to_string(quiet_log).unwrap(), "");
}

#[test]
fn no_log_level_shows_what_is_asked_or_answered() {
    let certs = Certs::new();
    let path = certs.0.path().join("log");
    let mut command = Server::command(MODEL, &["--log", "trace"]);
    let server = Server::run(command.stderr(File::create(&path).unwrap()));
    let mut question = ask(&server.url, &[]);
    let answer = json(question.args(["--text", "Notes: Homes: Quintessa Oslo."]).get_args());
    // Something that is logged, after the answer.
    TcpStream::connect(("127.0.0.1", server.port())).unwrap().write_all(b"no frame").unwrap();
    let log = logged(&path, "session ended");
    let text = answer["text"].as_str().unwrap().trim();
    assert!(!text.is_empty() && !log.contains(text), "{log}");
    assert!(!log.contains("Quintessa") && !log.contains("Homes"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_no_session_left_says_how_many_it_holds() {
    let server = Server::start(MODEL, &["--max-sessions", "1"]);
    let hello = Peer::hello_for("holder", None);
    let peer = Peer::connect(&server.url, hello, &TransportOptions::default()).await.unwrap();
    let folder = tempdir().unwrap();
    let file = folder.path().join("notes.avp");
    let notes = "Notes: Homes: Quintessa Oslo. ".repeat(60);
    answers(think(MODEL, &notes, &file));
    let file = file.to_str().unwrap();
    let once = || vec!["--retries".to_owned(), "0".to_owned()];
    let behind = vec!["--context".to_owned(), file.to_owned()];
    let mut send = avp(["send", file, "--to", &server.url]);
    for command in [
        &mut ask(&server.url, &[once()]),
        &mut ask(&server.url, &[once(), behind.clone()]),
        send.args(once()),
    ] {
        names(&refused(command), &["holds 1 session", "try again later"]);
    }

    // Whoever is patient gets the place that comes free.
    let mut asking = ask(&server.url, &[behind, vec!["--retries".into(), "9".into()]]);
    let asking = asking.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    peer.close().await.unwrap();
    let output = asking.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_receiver_logs_what_becomes_of_connections_too() {
    let folder = tempdir().unwrap();
    let log = folder.path().join("log");
    let to = folder.path().to_str().unwrap();
    let mut recv = avp(["recv", "--json", "--model", MODEL, "--folder", to, "--log", "debug"]);
    recv.args(["--listen", "avp+tcp://127.0.0.1:0"]).stderr(File::create(&log).unwrap());
    let receiver = Server::spawn(&mut recv);
    let mut browser = TcpStream::connect(("127.0.0.1", receiver.port())).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    names(&logged(&log, "HTTP request"), &["DEBUG", "127.0.0.1"]);
}
