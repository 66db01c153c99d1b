//! `avp cert`: the files that it writes, and the command lines that it prints.

mod common;

use std::fs;
use std::process::Command;

use common::{Server, avp, cache_dir, error_line, json, models, names, refused};
use serde_json::Value;
use tempfile::tempdir;

fn lines(reply: &Value) -> Vec<String> {
    reply["next"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

/// A command line that `avp` printed, run by a shell.
#[cfg(unix)]
fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &line.replacen("avp ", "exec \"$AVP\" ", 1)]);
    command
        .env("AVP", env!("CARGO_BIN_EXE_avp"))
        .env("AVP_CACHE_DIR", cache_dir())
        .env("AVP_MODELS", models());
    command
}

#[cfg(unix)]
#[test]
fn what_cert_prints_makes_a_server_and_a_question_to_it() {
    let folder = tempdir().unwrap();
    // A name that a shell would take apart.
    let certs = folder.path().join("bob's certs");
    let made = json(["cert", "ca", "--out", certs.to_str().unwrap()]);
    let [issue] = &lines(&made)[..] else { panic!("{made}") };
    let issued: Value =
        serde_json::from_slice(&shell(&format!("{issue} --json")).output().unwrap().stdout).unwrap();
    let [serve, ask] = &lines(&issued)[..] else { panic!("{issued}") };
    assert!(serve.contains(":7700 ") && ask.contains(":7700 "));

    let serve = serve.replace(":7700", ":0").replace("avp-demo-qwen2-m", "avp-demo-qwen2-s");
    let server = Server::spawn(&mut shell(&format!("{serve} --json --until-stdin-closes")));
    let ask = ask.replace(":7700", &format!(":{}", server.port()));
    let output = shell(&format!("{ask} --max-tokens 2")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_files_that_were_written_are_named_and_keys_are_their_owners_alone() {
    let folder = tempdir().unwrap();
    let run = |args: &[&str]| avp(args).current_dir(&folder).output().unwrap();
    let ca = run(&["cert", "ca"]);
    names(
        &String::from_utf8(ca.stdout).unwrap(),
        &["avp-certs/ca.pem", "avp-certs/ca.key", "avp cert issue"],
    );
    let issued = run(&["cert", "issue", "agent.example.org", "::1", "--days", "3"]);
    let text = String::from_utf8(issued.stdout).unwrap();
    names(
        &text,
        &["agent.example.org.pem", "agent.example.org.key", "::1", "3 days", "avp serve", "avp ask"],
    );
    names(&text, &["avp+tls://0.0.0.0:7700", "avp+tls://agent.example.org:7700", "--ca avp-certs/ca.pem"]);
    for name in ["ca", "agent.example.org"] {
        let certs = folder.path().join("avp-certs");
        assert!(fs::read_to_string(certs.join(format!("{name}.pem"))).unwrap().contains("BEGIN CERTIFICATE"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(certs.join(format!("{name}.key"))).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}.key");
        }
    }
}

#[test]
fn nothing_is_replaced_without_force() {
    let folder = tempdir().unwrap();
    let run = |args: &[&str]| avp(args).current_dir(&folder).output().unwrap();
    let read = |name: &str| fs::read(folder.path().join("avp-certs").join(name)).unwrap();
    for (args, file) in
        [(&["cert", "ca"][..], "ca.key"), (&["cert", "issue", "localhost"][..], "localhost.key")]
    {
        assert!(run(args).status.success());
        let before = read(file);
        names(&error_line(&run(args)), &["exists", "--force"]);
        assert_eq!(read(file), before);
        assert!(run(&[args, &["--force"]].concat()).status.success());
        assert_ne!(read(file), before);
    }
}

#[test]
fn a_certificate_that_cannot_be_is_refused_in_one_line() {
    let folder = tempdir().unwrap();
    let certs = folder.path().join("certs");
    let certs = certs.to_str().unwrap();
    let issue = |name: &str| refused(&mut avp(["cert", "issue", name, "--ca", certs]));
    names(&issue("localhost"), &["no authority", "avp cert ca"]);
    json(["cert", "ca", "--out", certs]);
    names(&issue("not a name"), &["`not a name`", "host name"]);
    names(&issue("../up"), &["`../up`", "host name"]);
    names(&issue("ca"), &["another name"]);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    names(&refused(&mut avp(["cert", "ca", "--out", file.to_str().unwrap()])), &["file"]);
}
