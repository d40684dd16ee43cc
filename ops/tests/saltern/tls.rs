//! HTTPS: the cluster's CA is believed by its fingerprint or file, nobody else is, and the token goes to nobody else.

use crate::master::{Play, answer};
use crate::shell::{saltern, saltern_with};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use saltern_wire::crypto::PublicKey;
use serde_json::json;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// A cluster's CA.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Self(CertifiedIssuer::self_signed(parameters, key).expect("a CA"))
    }

    fn fingerprint(&self) -> String {
        let key: [u8; 32] = self.0.key().public_key_raw().try_into().expect("ed25519");
        PublicKey(key).fingerprint().to_string()
    }
}

/// A master that answers `key list` over TLS with a certificate for `name`.
struct Https {
    url: String,
    play: Play,
    _task: AbortOnDropHandle<()>,
}

async fn https(ca: &Ca, name: &str) -> Https {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let leaf = CertificateParams::new(vec![name.to_owned()]).expect("a name").signed_by(&key, &ca.0).expect("signed");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone(), ca.0.der().clone()], private)
        .expect("a certificate");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("--server=https://{}", listener.local_addr().expect("an address"));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let play = Play::new(|_| answer(json!([])));
    let serving = play.clone();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(serving.clone().serve(stream));
            }
        }
    });
    Https { url, play, _task: AbortOnDropHandle::new(task) }
}

const EMPTY: &str = "Accepted Keys:\nDenied Keys:\nUnaccepted Keys:\nRejected Keys:\n";

#[tokio::test]
async fn the_pinned_ca_is_believed_under_any_name_and_gets_the_token() {
    let ca = Ca::new();
    let master = https(&ca, "master-1.cluster.saltern").await;
    let pin = format!("--ca-fingerprint={}", ca.fingerprint());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "s3cret\n").expect("written");
    let token = format!("--token-file={}", file.display());
    saltern(&[&master.url, &pin, &token, "key", "list"]).await.is(0, EMPTY);
    saltern_with(&[("SALTERN_TOKEN", "other")], &[&master.url, &pin, "key", "list"]).await.is(0, EMPTY);
    let bearers: Vec<_> = master.play.asked.lock().expect("fine").iter().map(|asked| asked.bearer.clone()).collect();
    assert_eq!(bearers, [Some("Bearer s3cret".to_owned()), Some("Bearer other".to_owned())]);
}

#[tokio::test]
async fn another_ca_is_refused_before_anything_is_said() {
    let (ca, other) = (Ca::new(), Ca::new());
    let master = https(&other, "master-1.cluster.saltern").await;
    let pin = format!("--ca-fingerprint={}", ca.fingerprint());
    saltern_with(&[("SALTERN_TOKEN", "secret")], &[&master.url, &pin, "key", "list"])
        .await
        .is(69, "")
        .says("UnknownIssuer");
    assert!(master.play.asked.lock().expect("fine").is_empty());
}

#[tokio::test]
async fn a_ca_file_is_believed_for_the_names_in_the_certificate() {
    let ca = Ca::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ca.0.pem()).expect("written");
    let trust = format!("--ca-file={}", file.display());
    let right = https(&ca, "127.0.0.1").await;
    saltern(&[&right.url, &trust, "key", "list"]).await.is(0, EMPTY);
    let wrong = https(&ca, "elsewhere.example.org").await;
    saltern(&[&wrong.url, &trust, "key", "list"]).await.is(69, "").says("not valid for name");
    saltern(&[&right.url, "--ca-file=/nonexistent", "key", "list"]).await.is(64, "").says("/nonexistent");
}
