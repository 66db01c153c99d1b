//! The arguments of `avp cert`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Where an authority and what it issues are kept, unless told otherwise.
pub(crate) const CERT_FOLDER: &str = "avp-certs";

#[derive(Debug, Args)]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    pub(crate) command: CertCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make an authority of one's own: ca.pem, which others trust, and ca.key, which issues certificates.
    Ca(CertCaArgs),
    /// Issue a certificate under that authority, for an agent that serves or asks: NAME.pem and NAME.key.
    Issue(CertIssueArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CertCaArgs {
    /// The folder to write to.
    #[arg(long, value_name = "DIR", default_value = CERT_FOLDER)]
    pub(crate) out: PathBuf,
    /// What the authority calls itself.
    #[arg(long, default_value = "AVP development authority")]
    pub(crate) name: String,
    /// Replace an authority that is there; what it issued is of no use then.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CertIssueArgs {
    /// Host names or addresses of the agent. The first is the name that others know it by.
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// The authority's folder.
    #[arg(long, value_name = "DIR", default_value = CERT_FOLDER)]
    pub(crate) ca: PathBuf,
    /// The folder to write to; the authority's by default.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// How many days the certificate is valid.
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(crate) days: u16,
    /// Replace a certificate that is there.
    #[arg(long)]
    pub(crate) force: bool,
}
