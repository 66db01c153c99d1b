//! `avp cert`: the files that it writes, and the command lines that it prints.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Server, avp, cache_dir, error_line, json, models, names, refused};
use serde_json::Value;
use tempfile::tempdir;

fn lines(reply: &Value) -> Vec<String> {
    reply["next"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect()
}

/// A command line for `avp`, run by a shell that gives way to it.
#[cfg(unix)]
fn shell(line: &str) -> Command {
    let exec = if line.starts_with("avp ") { "exec " } else { "" };
    let program = Path::new(env!("CARGO_BIN_EXE_avp")).parent().unwrap();
    let mut path = program.as_os_str().to_owned();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{exec}{line}")]).env("PATH", path).env("M", "avp-demo-qwen2-s");
    command.env("AVP_CACHE_DIR", cache_dir()).env("AVP_MODELS", fs::canonicalize(models()).unwrap());
    command
}

/// The lines of the README's first block under `heading`.
#[cfg(unix)]
fn readme(heading: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.lines().map(|line| line.split("   #").next().unwrap().trim_end().to_owned()).collect()
}

#[cfg(unix)]
#[test]
fn the_readmes_way_over_a_network_works_as_it_stands() {
    let folder = tempdir().unwrap();
    let think = readme("The program").into_iter().find(|line| line.starts_with("avp think ")).unwrap();
    let mut lines = readme("Over a network");
    lines.insert(0, think);
    let mut server = None;
    for line in lines {
        let Some(serve) = line.strip_suffix(" &") else {
            let port = server.as_ref().map_or(0, Server::port);
            let output =
                shell(&line.replace(":7701", &format!(":{port}"))).current_dir(&folder).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            continue;
        };
        assert!(serve.contains(":7701"), "{serve}");
        let serve = format!("{} --json --until-stdin-closes", serve.replace(":7701", ":0"));
        server = Some(Server::spawn(shell(&serve).current_dir(&folder)));
    }
    let server = server.unwrap();
    // Without the token there is no answer.
    let ask = format!("avp ask --to avp+tls://localhost:{} --prompt x --ca avp-certs/ca.pem", server.port());
    names(&refused(shell(&ask).current_dir(&folder)), &["no token was shown"]);
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
