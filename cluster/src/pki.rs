//! Who the masters are to each other and to operators: the cluster CA, X.509 certificates, TLS.
//!
//! ```text
//!   Authority (ed25519, sealed in the truth) ──signs──▶ Signed<Certificate>   sessions with minions
//!                                            ──signs──▶ Signed<Directory>     what minions obey
//!                                            ──issues─▶ X.509 certificate     mesh (mutual TLS 1.3) and API (HTTPS)
//! ```
//!
//! One ed25519 key per master serves both worlds: the X.509 certificate carries the same key as the signed one, and both are
//! issued by the same CA key. Serial numbers and signatures are derived, so issuing draws no random number.
//!
//! **Validity.** Certificates name no end (RFC 5280, section 4.1.2.5) and a beginning long past, and [`tls`] checks them at a
//! fixed instant: no clock decides whether two masters may speak. A master is withdrawn by a directory without it, never by
//! waiting.
//!
//! **It refuses** rustls' process-wide default provider: *ring* is named in every configuration.

pub mod credentials;
pub mod ring;
pub mod tls;

pub use credentials::Credentials;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use saltern_store::view::CertificateAuthority;
use saltern_wire::crypto::seal::Sealer;
use saltern_wire::crypto::{Identity, PublicKey, Signed};
use saltern_wire::io::{Entropy, draw};
use saltern_wire::master::{Certificate, Directory, Endpoints};
use saltern_wire::{ClusterId, MasterId};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Separates the sealed CA key from every other secret under the same state secret.
pub const CA_SEAL_CONTEXT: &str = "cluster ca";

/// An ed25519 PKCS#8 version 1 document up to its 32 secret bytes (RFC 8410, section 7).
const PKCS8_ED25519_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why a certificate was not made or not understood.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The X.509 library refused.
    #[error("cannot make the certificate of {subject}: {cause}")]
    Issue {
        /// For whom it was to be.
        subject: String,
        /// What the library said.
        cause: String,
    },
    /// A text is not a PEM certificate.
    #[error("{what} is not a PEM certificate: {cause}")]
    Pem {
        /// Where it came from.
        what: String,
        /// What the parser found.
        cause: String,
    },
    /// The sealed CA key does not open.
    #[error("the cluster's CA key does not open with this master's state secret: {0}")]
    Sealed(String),
    /// The CA key is not the one that the cluster knows.
    #[error("the CA key has fingerprint {found}, the cluster's CA is {expected}")]
    Foreign {
        /// Of the key at hand.
        found: String,
        /// Of the cluster's CA.
        expected: String,
    },
    /// rustls refused a certificate, key or setting.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// rustls refused to make a verifier.
    #[error("cannot set up TLS verification: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The cluster CA with its secret key. Lives only while something is signed; at rest it is sealed in the truth.
#[derive(Debug)]
pub struct Authority {
    cluster: ClusterId,
    identity: Identity,
}

impl Authority {
    /// The CA of `cluster`.
    pub fn new(cluster: ClusterId, identity: Identity) -> Self {
        Self { cluster, identity }
    }

    /// Opens what [`Authority::seal`] made, and checks that it is the CA that the cluster knows.
    pub fn unseal(
        cluster: ClusterId,
        ca: &PublicKey,
        state_secret: &[u8; 32],
        sealed: &[u8],
    ) -> Result<Self, PkiError> {
        let opened = Sealer::new(*state_secret)
            .open(CA_SEAL_CONTEXT, sealed)
            .map_err(|error| PkiError::Sealed(error.to_string()))?;
        let seed: [u8; 32] = opened.as_slice().try_into().map_err(|_| PkiError::Sealed("it is not 32 bytes".into()))?;
        let identity = Identity::from_seed(seed);
        if identity.public_key() != *ca {
            return Err(PkiError::Foreign {
                found: identity.public_key().fingerprint().to_string(),
                expected: ca.fingerprint().to_string(),
            });
        }
        Ok(Self { cluster, identity })
    }

    /// Opens the CA of the truth with whichever of this master's state secrets is in force.
    pub fn open(credentials: &Credentials, ca: &CertificateAuthority) -> Result<Self, PkiError> {
        let missing =
            || PkiError::Sealed("it was sealed with a newer one, which this master has not been given yet".into());
        let secret = credentials.ring.in_force(ca).ok_or_else(missing)?;
        Self::unseal(credentials.cluster, &ca.public_key, &secret, &ca.sealed)
    }

    /// The CA's secret key, sealed with the state secret.
    pub fn seal(&self, state_secret: &[u8; 32], entropy: &dyn Entropy) -> Vec<u8> {
        Sealer::new(*state_secret).seal(CA_SEAL_CONTEXT, self.identity.seed().as_slice(), draw(entropy))
    }

    /// The key, for the safe.
    pub fn into_identity(self) -> Identity {
        self.identity
    }

    /// The public half, which minions and masters pin.
    pub fn public_key(&self) -> PublicKey {
        self.identity.public_key()
    }

    /// The certificate that a master shows in sessions.
    pub fn certify(&self, master: MasterId, name: &str, public_key: PublicKey, generation: u64) -> Signed<Certificate> {
        let certificate = Certificate { cluster: self.cluster, master, name: name.into(), public_key, generation };
        Signed::new(&certificate, &self.identity)
    }

    /// The directory as minions obey it.
    pub fn sign_directory(&self, directory: &Directory) -> Signed<Directory> {
        Signed::new(directory, &self.identity)
    }

    /// The CA's own X.509 certificate, PEM.
    pub fn certificate_pem(&self) -> Result<String, PkiError> {
        let key = key_pair(&self.identity).map_err(refuse("the cluster CA"))?;
        Ok(self.parameters().self_signed(&key).map_err(refuse("the cluster CA"))?.pem())
    }

    /// A master's X.509 certificate for mesh and API, PEM. Good for its [`tls_name`] and the hosts of its endpoints.
    pub fn tls_certificate_pem(
        &self,
        master: MasterId,
        public_key: &PublicKey,
        endpoints: &Endpoints,
    ) -> Result<String, PkiError> {
        let name = tls_name(self.cluster, master);
        let mut names = vec![name.clone()];
        for address in [&endpoints.api, &endpoints.mesh, &endpoints.session, &endpoints.fanout] {
            if !names.iter().any(|known| known == address.host()) {
                names.push(address.host().to_owned());
            }
        }
        let mut parameters = CertificateParams::new(names).map_err(refuse(&name))?;
        parameters.distinguished_name = common_name(&name);
        endless(&mut parameters);
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::new(self.parameters(), key_pair(&self.identity).map_err(refuse(&name))?);
        let subject = SubjectKey(public_key.0);
        Ok(parameters.signed_by(&subject, &issuer).map_err(refuse(&name))?.pem())
    }

    /// What the CA's certificate says. The same for every master, so that each can issue under the one certificate.
    fn parameters(&self) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = common_name(&format!("saltern cluster {}", self.cluster));
        endless(&mut parameters);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters
    }
}

/// The DNS name that stands for a master inside TLS: it names one master of one cluster and is never looked up.
pub fn tls_name(cluster: ClusterId, master: MasterId) -> String {
    format!("master-{master}.{cluster}.saltern")
}

/// Which master of `cluster` a certificate speaks for. Says nothing about who issued it: call it on a peer's certificate
/// after the handshake has verified the chain.
pub fn peer_master_id(cluster: ClusterId, certificate: &CertificateDer<'_>) -> Option<MasterId> {
    let suffix = format!(".{cluster}.saltern");
    dns_names(certificate).into_iter().find_map(|name| {
        let id: u64 = name.strip_prefix("master-")?.strip_suffix(&suffix)?.parse().ok()?;
        (tls_name(cluster, MasterId(id)) == name).then_some(MasterId(id))
    })
}

/// The ed25519 key in a certificate, if it holds one.
pub fn certified_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let spki = parsed.public_key();
    if spki.algorithm.algorithm != x509_parser::oid_registry::OID_SIG_ED25519 {
        return None;
    }
    spki.subject_public_key.data.as_ref().try_into().ok().map(PublicKey)
}

/// Reads the first certificate of a PEM text; `what` names the text in the error.
pub fn certificate_from_pem(what: &str, pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| PkiError::Pem { what: what.into(), cause: error.to_string() })
}

/// DNS names in a certificate's subject alternative name.
fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(extension)) = parsed.subject_alternative_name() else { return Vec::new() };
    let dns =
        |name: &GeneralName<'_>| if let GeneralName::DNSName(text) = name { Some((*text).to_owned()) } else { None };
    extension.value.general_names.iter().filter_map(dns).collect()
}

/// An identity's secret key in PKCS#8, as rustls and rcgen read it.
fn pkcs8(identity: &Identity) -> PrivatePkcs8KeyDer<'static> {
    let mut der = PKCS8_ED25519_PREFIX.to_vec();
    der.extend_from_slice(identity.seed().as_slice());
    PrivatePkcs8KeyDer::from(der)
}

fn key_pair(identity: &Identity) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8(identity), &rcgen::PKCS_ED25519)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// From before any master existed until 9999-12-31, which RFC 5280 section 4.1.2.5 reads as "no end".
fn endless(parameters: &mut CertificateParams) {
    parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(9999, 12, 31);
}

fn refuse(subject: &str) -> impl FnOnce(rcgen::Error) -> PkiError {
    let subject = subject.to_owned();
    move |error| PkiError::Issue { subject, cause: error.to_string() }
}

/// A joiner's public key as rcgen wants it.
struct SubjectKey([u8; 32]);

impl rcgen::PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

#[cfg(test)]
mod tests;
