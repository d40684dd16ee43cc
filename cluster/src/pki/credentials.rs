//! What a master is and knows before it has spoken to anybody: the small files in its data folder.
//!
//! | file | holds |
//! |---|---|
//! | `identity.key` | the master's ed25519 secret key, 64 hexadecimal digits |
//! | `state.secret` | the secret that seals secret values of the truth, 64 hexadecimal digits |
//! | `state.secrets` | every state secret that this master was given ([`super::ring`]) |
//! | `ca.pem`, `tls.pem` | the X.509 certificates of the cluster CA and of this master |
//! | `master.json` | everything public: cluster, id, name, endpoints, certificate, directory. Written last |
//! | `directory.json` | the newest directory that this master has applied, for the day on which its tables cannot be read |
//!
//! **Invariant.** A folder without `master.json` belongs to nobody: whoever is killed half way through writing leaves a
//! folder that counts as empty. With it, every file is there and fits the others, or [`Credentials::load`] says which does
//! not. Files have mode 0600 and the folder 0700, which is the business of [`Disk`].

use super::ring::Keyring;
use super::{PkiError, certificate_from_pem, certified_key, peer_master_id};
use rustls::pki_types::CertificateDer;
use saltern_wire::crypto::{Fingerprint, Identity, PublicKey, Signed};
use saltern_wire::io::Disk;
use saltern_wire::master::{Certificate, Directory, Endpoints};
use saltern_wire::{ClusterId, MasterId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Everything public about this master; the file whose presence makes the folder a master's.
pub const MASTER_FILE: &str = "master.json";
const IDENTITY_FILE: &str = "identity.key";
const SECRET_FILE: &str = "state.secret";
const CA_FILE: &str = "ca.pem";
const TLS_FILE: &str = "tls.pem";

/// The newest directory that was applied. Not part of the credentials: without it the one in [`MASTER_FILE`] has to do.
pub const DIRECTORY_FILE: &str = "directory.json";

/// Every file that [`Credentials::store`] writes, in its order.
pub const FILES: [&str; 5] = [IDENTITY_FILE, SECRET_FILE, CA_FILE, TLS_FILE, MASTER_FILE];

/// Longest file that is read, in bytes: a directory of 32 masters written as JSON numbers stays below a fifth of it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A master's identity, certificates and secrets.
#[derive(Clone)]
pub struct Credentials {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Its number in it.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// Where it is reached, as it was founded or joined.
    pub endpoints: Endpoints,
    /// Region label.
    pub region: String,
    /// Zone label.
    pub zone: String,
    /// Its ed25519 key: sessions, signed jobs, signed frames and TLS.
    pub identity: Arc<Identity>,
    /// Its certificate for sessions.
    pub certificate: Signed<Certificate>,
    /// The cluster CA's key.
    pub ca: PublicKey,
    /// The CA's X.509 certificate, PEM.
    pub ca_certificate_pem: String,
    /// The CA's X.509 certificate.
    pub ca_certificate: CertificateDer<'static>,
    /// Its own X.509 certificate, PEM.
    pub tls_certificate_pem: String,
    /// Its own X.509 certificate.
    pub tls_certificate: CertificateDer<'static>,
    /// Seals secret values of the truth, as it was when the credentials were made or read. What is in force now: `ring`.
    pub state_secret: Zeroizing<[u8; 32]>,
    /// Every state secret that this master holds.
    pub ring: Arc<Keyring>,
    /// The newest directory outside of the truth: as it was when this master was founded or joined, or as it was kept since.
    pub directory: Signed<Directory>,
}

/// Why a data folder gives no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Nobody founded or joined here.
    #[error("{folder} holds no master: run `saltern-master init` for a new cluster or `saltern-master join TOKEN`")]
    Absent {
        /// The data folder.
        folder: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is missing, damaged, or belongs to another master.
    #[error("{path}: {cause}; restore the file, or empty the folder and join the cluster again under a new id")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
}

/// The content of [`MASTER_FILE`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MasterFile {
    format: u32,
    cluster: ClusterId,
    master: MasterId,
    name: String,
    endpoints: Endpoints,
    region: String,
    zone: String,
    ca: PublicKey,
    certificate: Signed<Certificate>,
    directory: Signed<Directory>,
}

/// The newest format of [`MASTER_FILE`] that this build reads, and the one it writes.
const FORMAT: u32 = 1;

impl Credentials {
    /// Reads and checks a data folder.
    pub fn load(disk: &dyn Disk, folder: &Path) -> Result<Self, CredentialsError> {
        let text = |name: &str| read_text(disk, folder, name);
        let Some(master_json) = text(MASTER_FILE)? else {
            return Err(CredentialsError::Absent { folder: folder.into() });
        };
        let file: MasterFile = serde_json::from_str(&master_json)
            .map_err(|error| malformed(folder, MASTER_FILE, format!("it is not this build's format: {error}")))?;
        if file.format > FORMAT {
            let cause = format!("it has format {}, this build reads up to {FORMAT}: upgrade this machine", file.format);
            return Err(malformed(folder, MASTER_FILE, cause));
        }
        let required = |name: &str| text(name)?.ok_or_else(|| malformed(folder, name, "the file is missing".into()));
        let identity = Identity::from_seed(*secret(folder, IDENTITY_FILE, &Zeroizing::new(required(IDENTITY_FILE)?))?);
        let state_secret = secret(folder, SECRET_FILE, &Zeroizing::new(required(SECRET_FILE)?))?;
        let ca_certificate_pem = required(CA_FILE)?;
        let tls_certificate_pem = required(TLS_FILE)?;
        let pem = |name: &str, text: &str| {
            certificate_from_pem(name, text).map_err(|error: PkiError| malformed(folder, name, error.to_string()))
        };
        let mut credentials = Self {
            cluster: file.cluster,
            master: file.master,
            name: file.name,
            endpoints: file.endpoints,
            region: file.region,
            zone: file.zone,
            identity: Arc::new(identity),
            certificate: file.certificate,
            ca: file.ca,
            ca_certificate: pem(CA_FILE, &ca_certificate_pem)?,
            ca_certificate_pem,
            tls_certificate: pem(TLS_FILE, &tls_certificate_pem)?,
            tls_certificate_pem,
            ring: Keyring::load(&state_secret, disk, folder)
                .map_err(|(path, cause)| CredentialsError::Malformed { path, cause })?,
            state_secret,
            directory: file.directory,
        };
        credentials.check().map_err(|(name, cause)| malformed(folder, name, cause))?;
        match credentials.kept_directory(disk, folder) {
            Ok(kept) => credentials.directory = kept.unwrap_or(credentials.directory),
            Err(cause) => tracing::warn!(cause, "the kept directory of masters is passed over"),
        }
        Ok(credentials)
    }

    /// Keeps `directory` beside the credentials, durably. The caller has verified it.
    pub fn keep_directory(disk: &dyn Disk, folder: &Path, directory: &Signed<Directory>) -> std::io::Result<()> {
        let text = serde_json::to_string(directory).map_err(std::io::Error::other)?;
        disk.replace(&folder.join(DIRECTORY_FILE), format!("{text}\n").as_bytes())
    }

    /// The kept directory, if there is one and it is newer than the one at hand.
    pub fn kept_directory(&self, disk: &dyn Disk, folder: &Path) -> Result<Option<Signed<Directory>>, String> {
        let Some(text) = read_text(disk, folder, DIRECTORY_FILE).map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let refuse = |error: &dyn fmt::Display| format!("{}: {error}", folder.join(DIRECTORY_FILE).display());
        let kept: Signed<Directory> = serde_json::from_str(&text).map_err(|error| refuse(&error))?;
        let listed = kept.verify(&self.ca).map_err(|error| refuse(&error))?.into_inner();
        let held = self.directory.verify(&self.ca).map_err(|error| refuse(&error))?;
        Ok(Some(kept).filter(|_| listed.replaces(&held)))
    }

    /// Writes the data folder, [`MASTER_FILE`] last. On an error nothing of it stays behind.
    pub fn store(&self, disk: &dyn Disk, folder: &Path) -> Result<(), CredentialsError> {
        let file = MasterFile {
            format: FORMAT,
            cluster: self.cluster,
            master: self.master,
            name: self.name.clone(),
            endpoints: self.endpoints.clone(),
            region: self.region.clone(),
            zone: self.zone.clone(),
            ca: self.ca,
            certificate: self.certificate.clone(),
            directory: self.directory.clone(),
        };
        let public =
            serde_json::to_string_pretty(&file).map_err(|error| malformed(folder, MASTER_FILE, error.to_string()))?;
        let identity = Zeroizing::new(hex::encode(self.identity.seed().as_slice()));
        let state_secret = Zeroizing::new(hex::encode(self.state_secret.as_slice()));
        let contents = [
            identity.as_str(),
            state_secret.as_str(),
            self.ca_certificate_pem.as_str(),
            self.tls_certificate_pem.as_str(),
            public.as_str(),
        ];
        for (name, content) in FILES.iter().zip(contents) {
            let path = folder.join(name);
            if let Err(source) = disk.replace(&path, format!("{}\n", content.trim_end()).as_bytes()) {
                for written in FILES {
                    // The first error is the one to report; a file that cannot be removed has no marker beside it.
                    let _ = disk.remove(&folder.join(written));
                }
                return Err(CredentialsError::Io { path, source });
            }
        }
        Ok(())
    }

    /// What minions and joiners pin.
    pub fn ca_fingerprint(&self) -> Fingerprint {
        self.ca.fingerprint()
    }

    /// Whether the parts belong together; names the file that does not.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let own = self.identity.public_key();
        let certificate = self.certificate.verify(&self.ca).map_err(|error| (MASTER_FILE, error.to_string()))?;
        if (certificate.cluster, certificate.master, certificate.public_key) != (self.cluster, self.master, own) {
            return Err((IDENTITY_FILE, "the certificate in master.json is for another key or master".into()));
        }
        self.directory.verify(&self.ca).map_err(|error| (MASTER_FILE, format!("the directory: {error}")))?;
        if certified_key(&self.ca_certificate) != Some(self.ca) {
            return Err((CA_FILE, "it is not the certificate of the CA in master.json".into()));
        }
        if certified_key(&self.tls_certificate) != Some(own) {
            return Err((TLS_FILE, "it is not a certificate of the key in identity.key".into()));
        }
        if peer_master_id(self.cluster, &self.tls_certificate) != Some(self.master) {
            return Err((TLS_FILE, format!("it does not name master {} of this cluster", self.master)));
        }
        Ok(())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(master {} {:?} of cluster {})", self.master, self.name, self.cluster)
    }
}

/// Writes a secret key that no certificate goes with yet.
pub fn keep_identity(disk: &dyn Disk, path: &Path, identity: &Identity) -> std::io::Result<()> {
    let text = Zeroizing::new(format!("{}\n", hex::encode(identity.seed().as_slice())));
    disk.replace(path, text.as_bytes())
}

/// Reads what [`keep_identity`] wrote; `None` if there is nothing.
pub fn kept_identity(disk: &dyn Disk, folder: &Path, name: &str) -> Result<Option<Identity>, CredentialsError> {
    let Some(text) = read_text(disk, folder, name)? else { return Ok(None) };
    Ok(Some(Identity::from_seed(*secret(folder, name, &Zeroizing::new(text))?)))
}

fn read_text(disk: &dyn Disk, folder: &Path, name: &str) -> Result<Option<String>, CredentialsError> {
    let path = folder.join(name);
    match disk.read(&path, FILE_BYTES_MAX) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| CredentialsError::Malformed { path, cause: "it is not text".into() }),
        Err(source) => Err(CredentialsError::Io { path, source }),
    }
}

/// 32 bytes from 64 hexadecimal digits; the error never repeats them.
fn secret(folder: &Path, name: &str, text: &str) -> Result<Zeroizing<[u8; 32]>, CredentialsError> {
    let mut bytes = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), bytes.as_mut_slice())
        .map_err(|_| malformed(folder, name, "it does not hold 64 hexadecimal digits".into()))?;
    Ok(bytes)
}

fn malformed(folder: &Path, name: &str, cause: String) -> CredentialsError {
    CredentialsError::Malformed { path: folder.join(name), cause }
}
