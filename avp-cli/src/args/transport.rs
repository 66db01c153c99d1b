//! The transport arguments of the commands that listen and of those that connect, and the transport options made of them.

use std::env::{self, VarError};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use avp::transport::{
    BearerTokens, Scheme, TlsAuthorities, TlsCertificate, TlsConfigError, Token, connector,
};
use avp::{TransportOptions, TransportUrl};
use clap::Args;

/// The heading of these arguments in help texts.
const TRANSPORT: &str = "Transport";
/// Names the token that a client shows. A token on the command line could be seen by everyone on the machine.
const TOKEN_VARIABLE: &str = "AVP_TOKEN";

/// What both sides have; what it is for is told by each.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TransportArgs {
    /// This side's certificate, a PEM file (`avp cert` makes one).
    #[arg(long, value_name = "FILE", requires = "key", help_heading = TRANSPORT)]
    pub(crate) cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file.
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = TRANSPORT)]
    pub(crate) key: Option<PathBuf>,
    /// Certificates of the authorities to trust, a PEM file.
    #[arg(long, value_name = "FILE", help_heading = TRANSPORT)]
    pub(crate) ca: Option<PathBuf>,
    /// Go beyond this machine without encryption: plain TCP and HTTP are neither encrypted nor authenticated.
    #[arg(long, help_heading = TRANSPORT)]
    pub(crate) allow_remote: bool,
}

impl TransportArgs {
    fn options(&self, url: &TransportUrl) -> Result<TransportOptions> {
        if let TransportUrl::Memory { .. } = url {
            bail!("`{url}` reaches nobody outside of this process; use {}", forms(|_| true));
        }
        let mut options = TransportOptions::default();
        options.allow_remote = self.allow_remote;
        let given = [("--cert", &self.cert), ("--ca", &self.ca)].into_iter().find(|(_, file)| file.is_some());
        if let Some((flag, _)) = given.filter(|_| !url.scheme().is_secure()) {
            bail!(
                "{flag} is of no use at `{url}`, which is not encrypted; use {}, or leave it out",
                secure_forms()
            );
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            options.tls.certificate = Some(TlsCertificate::from_files(cert, key)?);
        }
        if let Some(ca) = &self.ca {
            options.tls.authorities = Some(TlsAuthorities::from_file(ca)?);
        }
        Ok(options)
    }
}

#[derive(Clone, Debug, Args)]
#[command(
    mut_arg("cert", |cert| cert.help(
        "This side's certificate, a PEM file (`avp cert` makes one). Secure addresses need it"
    )),
    mut_arg("ca", |ca| ca.help(
        "Let in only clients with a certificate of these authorities, a PEM file. Without it any client may come"
    ))
)]
pub(crate) struct ListenArgs {
    #[arg(long, value_name = "URL", default_value = "avp+tcp://127.0.0.1:7700", help = serve_help())]
    pub(crate) listen: String,
    #[command(flatten)]
    pub(crate) transport: TransportArgs,
    /// Let in only who shows one of these tokens: a file of lines NAME:TOKEN.
    #[arg(long, value_name = "FILE", help_heading = TRANSPORT)]
    pub(crate) tokens: Option<PathBuf>,
}

impl ListenArgs {
    /// The options of the listener. What cannot work is told here, before a model is loaded.
    pub(crate) fn options(&self) -> Result<TransportOptions> {
        let url: TransportUrl = self.listen.parse()?;
        let mut options = self.transport.options(&url)?;
        connector(&url, &options).context("cannot listen")?;
        if url.scheme().is_secure() && options.tls.certificate.is_none() {
            bail!(TlsConfigError::CertificateNeeded);
        }
        if let Some(tokens) = &self.tokens {
            options.authorize = Some(Arc::new(BearerTokens::read(tokens)?));
        }
        Ok(options)
    }
}

#[derive(Clone, Debug, Args)]
#[command(
    mut_arg("cert", |cert| cert.help(
        "This side's certificate, a PEM file (`avp cert` makes one), where the agent demands one"
    )),
    mut_arg("ca", |ca| ca.help(
        "The authorities to trust, a PEM file. Without it those of the system are trusted"
    ))
)]
pub(crate) struct ConnectArgs {
    #[arg(long, value_name = "URL", help = connect_help())]
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) transport: TransportArgs,
    /// A file with the token to show, where the server wants one. AVP_TOKEN in the environment does the same.
    #[arg(long, value_name = "FILE", help_heading = TRANSPORT)]
    pub(crate) token_file: Option<PathBuf>,
}

impl ConnectArgs {
    /// The options of the connector.
    pub(crate) fn options(&self) -> Result<TransportOptions> {
        let mut options = self.transport.options(&self.to.parse()?)?;
        options.token = self.token()?;
        Ok(options)
    }

    fn token(&self) -> Result<Option<Token>> {
        if let Some(file) = &self.token_file {
            return Ok(Some(Token::read(file)?));
        }
        let token = match env::var(TOKEN_VARIABLE) {
            Ok(text) => text,
            Err(VarError::NotPresent) => return Ok(None),
            Err(VarError::NotUnicode(_)) => "\u{FFFD}".to_owned(),
        };
        let token = Some(token.trim()).filter(|token| !token.is_empty());
        token.map(Token::new).transpose().context(TOKEN_VARIABLE)
    }
}

fn serve_help() -> String {
    format!(
        "{}. At http and https addresses requests are answered too, as the Python SDK makes them, and what is counted \
         is told (/metrics)",
        listen_help()
    )
}

pub(super) fn listen_help() -> String {
    format!("Where to listen: {}. Port 0 takes a free one", forms(|_| true))
}

fn connect_help() -> String {
    format!("The agent's address: {}", forms(|_| true))
}

fn secure_forms() -> String {
    forms(Scheme::is_secure)
}

/// Forms of the addresses that this build carries and another process can reach.
fn forms(which: impl Fn(Scheme) -> bool) -> String {
    let schemes = Scheme::ALL.into_iter().filter(|scheme| scheme.available() && *scheme != Scheme::Memory);
    schemes.filter(|scheme| which(*scheme)).map(Scheme::form).collect::<Vec<_>>().join(", ")
}
