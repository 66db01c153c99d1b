//! A certificate authority for development and for closed networks: two files, and certificates issued under it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// How long an authority is valid: 10 years.
pub const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a certificate is valid: 90 days.
pub const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(90 * 86_400);

/// Names of an authority's two files.
const CA_FILES: (&str, &str) = ("ca.pem", "ca.key");

/// A certificate authority of one's own.
pub struct DevCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    key: String,
}

/// A certificate and its key as PEM text.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// Why an authority or a certificate could not be made, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is there; it is not replaced.
    #[error("{} exists; choose another folder or name, or remove it first", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A name cannot be in a certificate, or the files of the authority are broken.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl DevCa {
    /// Makes an authority that calls itself `name`.
    ///
    /// # Errors
    /// [`CertificateError::Make`] if the name cannot be in a certificate.
    pub fn new(name: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, SystemTime::now(), CA_VALIDITY);
        let certificate = params.self_signed(&key)?.pem();
        let text = key.serialize_pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate, key: text })
    }

    /// Reads `ca.pem` and `ca.key` in `folder`.
    ///
    /// # Errors
    /// [`CertificateError`] naming the file that is missing or broken.
    pub fn read(folder: &Path) -> Result<Self, CertificateError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|source| CertificateError::Io { path, source })
        };
        let (certificate, key) = (read(CA_FILES.0)?, read(CA_FILES.1)?);
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key)?)?;
        Ok(Self { issuer, certificate, key })
    }

    /// Writes `ca.pem` and `ca.key` into `folder`, the key readable by its owner alone. Gives the paths.
    ///
    /// # Errors
    /// [`CertificateError`]; a file that exists is never replaced.
    pub fn write(&self, folder: &Path) -> Result<[PathBuf; 2], CertificateError> {
        write_pair(folder, CA_FILES, &self.certificate, &self.key)
    }

    /// The authority's certificate as PEM text.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate for `names` (host names or addresses), for servers and clients alike, valid for
    /// [`CERTIFICATE_VALIDITY`] from now. The first name is the peer's identity.
    ///
    /// # Errors
    /// [`CertificateError::Make`] if a name cannot be in a certificate.
    pub fn issue(&self, names: &[String]) -> Result<Issued, CertificateError> {
        self.issue_from(names, SystemTime::now(), CERTIFICATE_VALIDITY)
    }

    /// As [`issue`](Self::issue), valid for `time` from `start`.
    ///
    /// # Errors
    /// As [`issue`](Self::issue).
    pub fn issue_from(
        &self,
        names: &[String],
        start: SystemTime,
        time: Duration,
    ) -> Result<Issued, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = common_name(names.first().map_or("agent", String::as_str));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, start, time);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

impl Issued {
    /// Writes `NAME.pem` and `NAME.key` into `folder`, the key readable by its owner alone. Gives the paths.
    ///
    /// # Errors
    /// [`CertificateError`]; a file that exists is never replaced.
    pub fn write(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2], CertificateError> {
        let files = (format!("{name}.pem"), format!("{name}.key"));
        write_pair(folder, (&files.0, &files.1), &self.certificate, &self.key)
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn validity(params: &mut CertificateParams, start: SystemTime, time: Duration) {
    // A day's grace, since clocks differ.
    params.not_before = (start - Duration::from_secs(86_400)).into();
    params.not_after = (start + time).into();
}

fn write_pair(
    folder: &Path,
    files: (&str, &str),
    certificate: &str,
    key: &str,
) -> Result<[PathBuf; 2], CertificateError> {
    let (certificate_path, key_path) = (folder.join(files.0), folder.join(files.1));
    for path in [&certificate_path, &key_path] {
        if path.exists() {
            return Err(CertificateError::Exists { path: path.clone() });
        }
    }
    write(&key_path, key, 0o600)?;
    write(&certificate_path, certificate, 0o644)?;
    Ok([certificate_path, key_path])
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let failed = |source| CertificateError::Io { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(failed)
}
