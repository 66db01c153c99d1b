//! A certificate authority for development and for closed networks: two files, and certificates issued under it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::ServerName;

use super::{TlsCertificate, TlsConfigError};

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
    #[error("{} exists; choose another folder or name, or have it replaced (--force)", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no authority in the folder.
    #[error("no authority in {} (ca.pem and ca.key); `avp cert ca` makes one", folder.display())]
    NoAuthority {
        /// The folder.
        folder: PathBuf,
    },
    /// The files of the authority cannot be used.
    #[error(transparent)]
    Authority(#[from] TlsConfigError),
    /// The text is no name of a host or an agent.
    #[error(
        "`{name}` cannot be in a certificate; write a host name of letters, digits, `-` and `.`, or an IP address"
    )]
    Name {
        /// The text.
        name: String,
    },
    /// The name would put the certificate where the authority's own is.
    #[error("`ca` is what the authority's own files are called; choose another name")]
    Reserved,
    /// The certificate cannot be made.
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
        let (certificate, key) = (folder.join(CA_FILES.0), folder.join(CA_FILES.1));
        if !certificate.exists() || !key.exists() {
            return Err(CertificateError::NoAuthority { folder: folder.to_owned() });
        }
        // Nobody would accept what is issued with another certificate's key.
        TlsCertificate::from_files(&certificate, &key)?;
        let read =
            |path: PathBuf| fs::read_to_string(&path).map_err(|source| CertificateError::Io { path, source });
        let (certificate, key) = (read(certificate)?, read(key)?);
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key)?)?;
        Ok(Self { issuer, certificate, key })
    }

    /// Writes `ca.pem` and `ca.key` into `folder`, which is made where it is missing, the key readable by its owner
    /// alone. Gives the paths.
    ///
    /// # Errors
    /// [`CertificateError`]; a file that exists is not replaced.
    pub fn write(&self, folder: &Path) -> Result<[PathBuf; 2], CertificateError> {
        write_pair(folder, CA_FILES, &self.certificate, &self.key)
    }

    /// As [`write`](Self::write), in place of an authority that is there; what that one issued is of no use then.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn replace(&self, folder: &Path) -> Result<[PathBuf; 2], CertificateError> {
        remove_pair(folder, CA_FILES)?;
        self.write(folder)
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
    /// [`CertificateError::Name`] if a name cannot be in a certificate.
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
        names.iter().try_for_each(|name| check_name(name))?;
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
    /// Writes `NAME.pem` and `NAME.key` into `folder`, which is made where it is missing, the key readable by its owner
    /// alone. Gives the paths. The `*` of a wildcard is `_` in the files' names.
    ///
    /// # Errors
    /// [`CertificateError`]; a file that exists is not replaced.
    pub fn write(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2], CertificateError> {
        let (certificate, key) = file_names(name)?;
        write_pair(folder, (&certificate, &key), &self.certificate, &self.key)
    }

    /// As [`write`](Self::write), in place of files that are there.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn replace(&self, folder: &Path, name: &str) -> Result<[PathBuf; 2], CertificateError> {
        let (certificate, key) = file_names(name)?;
        remove_pair(folder, (&certificate, &key))?;
        self.write(folder, name)
    }
}

/// What a certificate can be for: a host name, maybe with `*.` in front, or an address.
fn check_name(name: &str) -> Result<(), CertificateError> {
    let host = name.strip_prefix("*.").unwrap_or(name);
    ServerName::try_from(host).map(drop).map_err(|_| CertificateError::Name { name: name.to_owned() })
}

fn file_names(name: &str) -> Result<(String, String), CertificateError> {
    check_name(name)?;
    if name.eq_ignore_ascii_case("ca") {
        return Err(CertificateError::Reserved);
    }
    let stem = name.replace('*', "_");
    Ok((format!("{stem}.pem"), format!("{stem}.key")))
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
    fs::create_dir_all(folder).map_err(|source| CertificateError::Io { path: folder.to_owned(), source })?;
    write(&key_path, key, 0o600)?;
    write(&certificate_path, certificate, 0o644)?;
    Ok([certificate_path, key_path])
}

fn remove_pair(folder: &Path, files: (&str, &str)) -> Result<(), CertificateError> {
    for path in [folder.join(files.0), folder.join(files.1)] {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(CertificateError::Io { path, source });
            }
            _ => {}
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_no_peer_could_be_called_gets_no_certificate() {
        let ca = DevCa::new("test").unwrap();
        for name in ["", "a b", "../a", "http://a", "a:1", "ü.example", "*", "a.*.b"] {
            assert!(
                matches!(ca.issue(&names(&["localhost", name])), Err(CertificateError::Name { .. })),
                "{name}"
            );
        }
        assert!(ca.issue(&names(&["alice", "h.example", "*.example.org", "127.0.0.1", "::1"])).is_ok());
    }

    #[test]
    fn files_are_replaced_on_request_only_and_never_an_authority_by_what_it_issued() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made");
        let ca = DevCa::new("test").unwrap();
        let [certificate, key] = ca.write(&folder).unwrap();
        assert!(matches!(ca.write(&folder), Err(CertificateError::Exists { .. })));
        let issued = ca.issue(&names(&["localhost"])).unwrap();
        issued.write(&folder, "localhost").unwrap();
        assert!(matches!(issued.write(&folder, "localhost"), Err(CertificateError::Exists { .. })));
        issued.replace(&folder, "localhost").unwrap();
        for name in ["ca", "CA"] {
            assert!(matches!(issued.replace(&folder, name), Err(CertificateError::Reserved)));
        }
        assert_eq!(fs::read_to_string(&certificate).unwrap(), ca.certificate());
        let other = DevCa::new("other").unwrap();
        other.replace(&folder).unwrap();
        assert_eq!(fs::read_to_string(&certificate).unwrap(), other.certificate());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let _ = key;
    }

    #[test]
    fn an_authority_that_is_missing_or_put_together_of_two_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(matches!(DevCa::read(folder), Err(CertificateError::NoAuthority { .. })));
        let [_, key] = DevCa::new("one").unwrap().write(folder).unwrap();
        DevCa::read(folder).unwrap();
        fs::write(&key, &DevCa::new("two").unwrap().key).unwrap();
        let error = DevCa::read(folder).map(drop).unwrap_err();
        assert!(error.to_string().contains("does not belong"), "{error}");
        fs::write(&key, "nothing").unwrap();
        let error = DevCa::read(folder).map(drop).unwrap_err();
        assert!(error.to_string().contains("ca.key holds no private key"), "{error}");
    }
}
