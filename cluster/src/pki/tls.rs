//! rustls configurations: masters among themselves, operators' API, and the one call of a machine that joins.
//!
//! | who | server shows | client shows | client believes |
//! |---|---|---|---|
//! | mesh | master certificate | master certificate | the cluster CA, for one expected [`super::tls_name`] |
//! | API | master certificate + CA certificate | nothing (bearer token inside) | whatever it pins |
//! | join | as API | nothing (join token inside) | a chain to the CA with the fingerprint in the token |
//!
//! TLS 1.3 only, *ring* only, no session resumption: a resumed session would outlive the certificate check that it skips.
//! Certificates are checked at a fixed instant, because no promise may stand on a wall clock.

use super::{Credentials, PkiError, certified_key, dns_names};
use crate::mesh::tls::TlsMesh;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use saltern_wire::MasterId;
use saltern_wire::crypto::Fingerprint;
use std::sync::Arc;
use std::time::Duration;

/// Keeps a mesh connection from ever being taken for one of another protocol.
pub const ALPN_MESH: &[u8] = b"saltern-mesh/1";

/// The API speaks HTTP/1.1 only: one connection carries one request, so the connection limit bounds the requests.
pub const ALPN_API: &[u8] = b"http/1.1";

/// The links between this master and the others.
pub fn mesh(credentials: &Credentials) -> Result<TlsMesh, PkiError> {
    let cluster = credentials.cluster;
    Ok(TlsMesh::new(
        Arc::new(mesh_client(credentials)?),
        Arc::new(mesh_server(credentials)?),
        Arc::new(move |certificate| super::peer_master_id(cluster, certificate)),
        Arc::new(move |master| super::tls_name(cluster, master)),
    ))
}

/// Accepts other masters of the cluster, and nobody else. Which one it is: [`super::peer_master_id`].
pub fn mesh_server(credentials: &Credentials) -> Result<ServerConfig, PkiError> {
    let provider = provider();
    let roots = roots(&credentials.ca_certificate)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(Timeless))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![credentials.tls_certificate.clone()], private_key(credentials))?;
    no_resumption(&mut config);
    config.alpn_protocols = vec![ALPN_MESH.to_vec()];
    Ok(config)
}

/// Dials other masters of the cluster. Connect with [`mesh_name`], so that only the wanted master is believed.
pub fn mesh_client(credentials: &Credentials) -> Result<ClientConfig, PkiError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(Timeless))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(&credentials.ca_certificate)?)
        .with_client_auth_cert(vec![credentials.tls_certificate.clone()], private_key(credentials))?;
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![ALPN_MESH.to_vec()];
    Ok(config)
}

/// The server name under which `master` is verified.
pub fn mesh_name(credentials: &Credentials, master: MasterId) -> Result<ServerName<'static>, PkiError> {
    let name = super::tls_name(credentials.cluster, master);
    ServerName::try_from(name.clone()).map_err(|error| PkiError::Issue { subject: name, cause: error.to_string() })
}

/// Serves operators. The chain includes the CA's certificate, so that clients can pin its fingerprint.
pub fn api_server(credentials: &Credentials) -> Result<ServerConfig, PkiError> {
    let chain = vec![credentials.tls_certificate.clone(), credentials.ca_certificate.clone()];
    let mut config = ServerConfig::builder_with_details(provider(), Arc::new(Timeless))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, private_key(credentials))?;
    no_resumption(&mut config);
    config.alpn_protocols = vec![ALPN_API.to_vec()];
    Ok(config)
}

/// Believes masters of the cluster whose CA has this fingerprint, whatever host name they are reached under.
pub fn pinned_client(ca_fingerprint: Fingerprint) -> Result<ClientConfig, PkiError> {
    let provider = provider();
    let verifier = Arc::new(Pinned { ca_fingerprint, provider: provider.clone() });
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Timeless))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![ALPN_API.to_vec()];
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    Ok(Arc::new(roots))
}

fn private_key(credentials: &Credentials) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(super::pkcs8(&credentials.identity))
}

fn no_resumption(config: &mut ServerConfig) {
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// The instant at which certificates are checked: 2030-01-01, inside the validity of every certificate of ours.
#[derive(Debug)]
struct Timeless;

const TIMELESS_UNIX_SECONDS: u64 = 1_893_456_000;

impl TimeProvider for Timeless {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(TIMELESS_UNIX_SECONDS)))
    }
}

/// Verifies a chain whose root is known by its fingerprint only: the server sends the CA's certificate along.
#[derive(Debug)]
struct Pinned {
    ca_fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned =
            |der: &&CertificateDer<'_>| certified_key(der).is_some_and(|key| key.fingerprint() == self.ca_fingerprint);
        let Some(ca) = intermediates.iter().find(pinned) else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        // Every certificate under this CA belongs to a master, so the name to check is the one that it bears for the mesh:
        // the host name through which a joiner came (an address, a balancer) proves nothing more.
        let Some(name) = dns_names(end_entity).into_iter().find(|name| name.ends_with(".saltern")) else {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
        };
        let name =
            ServerName::try_from(name).map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
