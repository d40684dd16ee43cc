//! Whom the operator's program believes over `https`: the cluster's CA, by fingerprint or by file.
//!
//! With a fingerprint the host name does not matter: the CA signs masters and nobody else, and any master may answer. With a
//! file, the certificate must also name the host. TLS 1.3 only, *ring* only. Certificates are checked at a fixed instant,
//! because theirs never end and a wrong clock should not lock the operator out.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use saltern_wire::crypto::{Fingerprint, PublicKey};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust<'a> {
    /// The CA whose key has this fingerprint; masters send its certificate along.
    Fingerprint(Fingerprint),
    /// The CA certificates in this PEM file.
    File(&'a Path),
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be used.
    #[error("{path}: {cause}; give a PEM file with the cluster's CA certificate")]
    File {
        /// Which file.
        path: String,
        /// What was wrong.
        cause: String,
    },
    /// rustls refused.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] Error),
}

/// The TLS settings of a client that trusts `trust`.
pub fn client(trust: &Trust<'_>) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ClientConfig::builder_with_details(provider.clone(), Arc::new(Timeless)).with_protocol_versions(&[&TLS13])?;
    let mut config = match trust {
        Trust::Fingerprint(fingerprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint: *fingerprint, provider }))
            .with_no_client_auth(),
        Trust::File(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, TrustError> {
    let refuse = |cause: String| TrustError::File { path: path.display().to_string(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| refuse(error.to_string()))? {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() { Err(refuse("it holds no certificate".into())) } else { Ok(roots) }
}

/// The instant at which certificates are checked: 2030-01-01, inside the validity of every certificate of a cluster.
#[derive(Debug)]
struct Timeless;

const TIMELESS_UNIX_SECONDS: u64 = 1_893_456_000;

impl TimeProvider for Timeless {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(TIMELESS_UNIX_SECONDS)))
    }
}

/// Whether a certificate holds the ed25519 key with this fingerprint.
fn holds(certificate: &CertificateDer<'_>, fingerprint: Fingerprint) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let key = parsed.public_key().subject_public_key.data.as_ref();
    <[u8; 32]>::try_from(key).is_ok_and(|key| PublicKey(key).fingerprint() == fingerprint)
}

/// Verifies a chain whose root is known by its fingerprint only.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(ca) = intermediates.iter().find(|certificate| holds(certificate, self.fingerprint)) else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            &[],
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
