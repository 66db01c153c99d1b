//! `avp cert`: an authority for development and closed networks, and certificates under it.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use avp::transport::tls::DevCa;
use serde_json::json;

use crate::args::{CERT_FOLDER, CertArgs, CertCaArgs, CertCommand, CertIssueArgs};
use crate::output;

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn run(args: CertArgs, json: bool) -> Result<()> {
    match args.command {
        CertCommand::Ca(args) => authority(&args, json),
        CertCommand::Issue(args) => issue(&args, json),
    }
}

fn authority(args: &CertCaArgs, json: bool) -> Result<()> {
    let ca = DevCa::new(&args.name).context("--name")?;
    let [certificate, key] = if args.force { ca.replace(&args.out) } else { ca.write(&args.out) }?;
    let folder = match args.out == Path::new(CERT_FOLDER) {
        true => String::new(),
        false => format!(" --ca {}", quoted(&args.out)),
    };
    let next = [format!("avp cert issue localhost{folder}")];
    if json {
        return Ok(output::object(&json!({ "files": [certificate, key], "next": next }))?);
    }
    output::line(&format!("wrote {}: others trust it with --ca", certificate.display()))?;
    output::line(&format!("wrote {}: issues certificates; keep it to yourself", key.display()))?;
    output::line("\nnext, a certificate for each agent, by the name or address at which others reach it:\n")?;
    commands(&next)
}

fn issue(args: &CertIssueArgs, json: bool) -> Result<()> {
    let ca = DevCa::read(&args.ca)?;
    let issued = ca.issue_from(&args.names, SystemTime::now(), DAY * u32::from(args.days))?;
    let out = args.out.as_ref().unwrap_or(&args.ca);
    let name = args.names.first().map_or("agent", String::as_str);
    let [certificate, key] = if args.force { issued.replace(out, name) } else { issued.write(out, name) }?;
    let next = serve_and_ask(name, &certificate, &key, &args.ca.join("ca.pem"));
    if json {
        return Ok(output::object(&json!({ "files": [certificate, key], "next": next }))?);
    }
    let (names, days) = (args.names.join(", "), args.days);
    output::line(&format!("wrote {}: {names}, valid for {days} days", certificate.display()))?;
    output::line(&format!("wrote {}: its key, for this agent alone", key.display()))?;
    output::line("\nnext, to serve with it and to ask there:\n")?;
    commands(&next)?;
    output::line(
        "\n`serve --ca` with the authority's file demands certificates of the clients; `ask --cert --key` shows one.",
    )?;
    Ok(())
}

/// The command lines that use a certificate, with the demo model.
fn serve_and_ask(name: &str, certificate: &Path, key: &Path, ca: &Path) -> [String; 2] {
    let is_address = name.parse::<IpAddr>().is_ok();
    let host = match name.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => name.replace('*', "agent"),
    };
    let listen = if is_address || name == "localhost" { host.as_str() } else { "0.0.0.0" };
    let (certificate, key, ca) = (quoted(certificate), quoted(key), quoted(ca));
    [
        format!(
            "avp serve --model avp-demo-qwen2-m --listen avp+tls://{listen}:7700 --cert {certificate} --key {key}"
        ),
        format!("avp ask --to avp+tls://{host}:7700 --ca {ca} --prompt \"Where does Ann live?\""),
    ]
}

fn commands(lines: &[String]) -> Result<()> {
    lines.iter().try_for_each(|line| output::line(&format!("  {line}")))?;
    Ok(())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
