//! The Python SDK's HTTP client asks a real `avp serve`, with and without a context.
//!
//! `cargo xtask interop` runs these with the interpreter of an environment that it makes.

use std::path::Path;

use crate::common::{MAX_TOKENS, Question, Server, greedy_args, json, models, questions, think, tokens};
use crate::python::Python;
use avp::transport::tls::DevCa;
use avp::{ModelOptions, describe_model};
use serde_json::{Value, json};
use tempfile::tempdir;

const MODEL: &str = "avp-demo-qwen2-s";

/// What the model writes about a question, behind a context file or alone.
fn alone(prompt: &str, context: Option<&Path>) -> Vec<u32> {
    let mut args = ["generate", "--model", MODEL, "--prompt", prompt].map(str::to_owned).to_vec();
    args.extend(
        context.into_iter().flat_map(|file| ["--context".to_owned(), file.to_str().unwrap().to_owned()]),
    );
    tokens(&json(args.into_iter().chain(greedy_args())))
}

/// The SDK's client at `url`: a hello, a context, questions about it, and one without.
fn talk(python: &mut Python, url: &str, authority: Option<&Path>, folder: &Path) {
    let Question { notes, ask } = &questions()[0];
    let file = folder.join("notes.avp");
    assert!(think(MODEL, notes, &file).status().unwrap().success());
    let (behind, without) = (alone(ask, Some(&file)), alone(ask, None));
    assert_ne!(behind, without, "the notes should matter");

    let model = describe_model(models().join(MODEL).to_str().unwrap(), &ModelOptions::default()).unwrap();
    let identity = model.identity.to_json().to_serde();
    let connecting =
        json!({ "url": url, "agent_id": "python", "identity": identity, "authority": authority });
    let client = python.call("connect", connecting);
    assert_eq!(python.call("handshake", json!({ "client": client }))["mode"], 0, "equal hashes are LATENT");
    let generate = json!({ "max_tokens": MAX_TOKENS, "temperature": 0 });
    let answered = |reply: &Value| {
        assert_eq!(reply["json"]["success"], true, "{reply}");
        assert!(!reply["json"]["content"].as_str().unwrap().is_empty());
        tokens(&reply["json"]["extra"]["answer"])
    };

    // Compressed, as the SDK would over a slow network.
    let transmitting = |extra: Value| json!({ "client": client, "path": file, "extra": extra, "level": 1 });
    let kept = python.call("transmit_file", transmitting(json!({})));
    let id = kept["json"]["extra"]["avp.transfer"].clone();
    for _ in 0..2 {
        let extra = json!({ "avp.transfer": id, "generate": generate });
        let reply = python.call("ask", json!({ "client": client, "content": ask, "extra": extra }));
        assert_eq!(answered(&reply), behind);
    }
    let question = json!({ "content": ask, "extra": { "generate": generate } }).to_string();
    let reply = python.call("transmit_file", transmitting(json!({ "avp.question": question })));
    assert_eq!(answered(&reply), behind);
    let extra = json!({ "generate": generate });
    let reply = python.call("ask", json!({ "client": client, "content": ask, "extra": extra }));
    assert_eq!(answered(&reply), without);
    let extra = json!({ "avp.transfer": "never-came" });
    let error = python.ask("ask", json!({ "client": client, "content": ask, "extra": extra })).unwrap_err();
    assert!(error.contains("TransportError") && error.contains("transfer.slabs_missing"), "{error}");
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn the_sdks_client_asks_this_agent_behind_a_context_that_it_transmits() {
    let (mut python, folder) = (Python::start("http_peer.py"), tempdir().unwrap());
    assert_eq!(python.get("versions")["avp"], "0.6.2", "the reference peer is another version");
    let server = Server::start(MODEL, &["--listen", "http://127.0.0.1:0"]);
    talk(&mut python, &server.url, None, folder.path());
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn the_sdks_client_asks_this_agent_over_http2_and_tls() {
    let (mut python, folder) = (Python::start("http_peer.py"), tempdir().unwrap());
    let authority = DevCa::new("test authority").unwrap();
    let [certificate, _] = authority.write(folder.path()).unwrap();
    authority.issue(&["127.0.0.1".into()]).unwrap().write(folder.path(), "server").unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("server.pem"), path("server.key"));
    let server = Server::start(MODEL, &["--listen", "https://127.0.0.1:0", "--cert", &cert, "--key", &key]);
    talk(&mut python, &server.url, Some(&certificate), folder.path());
}
