//! Where the two agents meet: an address for the chosen transport, and throw-away certificates where it is a secure one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use avp::transport::tls::DevCa;
use avp::transport::{TlsAuthorities, TlsCertificate, connector};
use avp::{TransportOptions, TransportUrl};
use tempfile::TempDir;

use crate::args::DemoTransport;

/// What both sides are told. Its files are gone with [`Meeting::remove_files`].
pub(crate) struct Meeting {
    /// What the second agent is started with.
    pub(crate) serve_args: Vec<OsString>,
    /// What this process connects with.
    pub(crate) options: TransportOptions,
    folder: TempDir,
}

impl Meeting {
    /// Fails where this build does not carry the transport.
    pub(crate) fn prepare(transport: DemoTransport) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let socket = folder.path().join("avp.sock");
        let url = match transport {
            DemoTransport::Shm => format!("avp+shm://{}", socket.display()),
            _ => format!("{}://127.0.0.1:0", transport.scheme()),
        };
        let parsed: TransportUrl = url.parse()?;
        let mut options = TransportOptions::default();
        connector(&parsed, &options)?;
        let mut serve_args = vec!["--listen".into(), url.into()];
        if transport.scheme().is_secure() {
            secure(folder.path(), &mut serve_args, &mut options)
                .context("cannot make the demo's certificates")?;
        }
        Ok(Self { serve_args, options, folder })
    }

    /// To be called once connected: neither socket nor certificates are read again.
    pub(crate) fn remove_files(self) {
        // What is left is a folder of the system's temporary ones.
        let _ = self.folder.close();
    }
}

/// Mutual TLS: each side shows a certificate of an authority that is made for this and trusts no other.
fn secure(folder: &Path, serve_args: &mut Vec<OsString>, options: &mut TransportOptions) -> Result<()> {
    let ca = DevCa::new("avp demo")?;
    let [ca_file, _] = ca.write(folder)?;
    let issue = |name: &str, names: &[&str]| -> Result<[PathBuf; 2]> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Ok(ca.issue(&names)?.write(folder, name)?)
    };
    let [certificate, key] = issue("answerer", &["localhost", "127.0.0.1"])?;
    for (flag, file) in [("--ca", &ca_file), ("--cert", &certificate), ("--key", &key)] {
        serve_args.extend([flag.into(), file.into()]);
    }
    let [certificate, key] = issue("reader", &["reader"])?;
    options.tls.certificate = Some(TlsCertificate::from_files(&certificate, &key)?);
    options.tls.authorities = Some(TlsAuthorities::from_file(&ca_file)?);
    Ok(())
}
