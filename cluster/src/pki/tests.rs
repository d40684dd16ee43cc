//! Whom a master believes: handshakes over a pipe, and certificates that do not belong.

use super::*;
use crate::mesh::MeshTransport;
use crate::mesh::tls::TlsMesh;
use rustls::{ClientConfig, ServerConfig};
use saltern_wire::io::{Address, Disk};
use saltern_wire::master::{MasterRecord, MasterState};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

fn authority(seed: u8) -> Authority {
    Authority::new(CLUSTER, Identity::from_seed([seed; 32]))
}

fn credentials(authority: &Authority, master: u64) -> Credentials {
    let at = |port| Address::new("127.0.0.1", port);
    let endpoints = Endpoints { fanout: at(4505), session: at(4506), mesh: at(4510), api: at(4511) };
    let identity = Identity::from_seed([100 + u8::try_from(master).expect("small"); 32]);
    let master = MasterId(master);
    let public_key = identity.public_key();
    let name = format!("m{master}");
    let certificate = authority.certify(master, &name, public_key, 1);
    let record = MasterRecord {
        id: master,
        name: name.clone(),
        state: MasterState::Active,
        endpoints: endpoints.clone(),
        region: "r".into(),
        zone: "z".into(),
        weight: 100,
        certificate: certificate.clone(),
        public_key,
        role: saltern_wire::master::Role::Voter,
    };
    let masters = vec![record];
    let directory =
        Directory { cluster: CLUSTER, generation: 1, version: 1, masters, succeeds: vec![], retired: vec![] };
    let ca_certificate_pem = authority.certificate_pem().expect("issued");
    let tls_certificate_pem = authority.tls_certificate_pem(master, &public_key, &endpoints).expect("issued");
    Credentials {
        cluster: CLUSTER,
        master,
        name,
        endpoints,
        region: "r".into(),
        zone: "z".into(),
        identity: Arc::new(identity),
        certificate,
        ca: authority.public_key(),
        ca_certificate: certificate_from_pem("ca", &ca_certificate_pem).expect("PEM"),
        ca_certificate_pem,
        tls_certificate: certificate_from_pem("tls", &tls_certificate_pem).expect("PEM"),
        tls_certificate_pem,
        state_secret: Zeroizing::new([9; 32]),
        ring: ring::Keyring::new(&Zeroizing::new([9; 32])),
        directory: authority.sign_directory(&directory),
    }
}

/// Shakes hands over a pipe and echoes one byte. Returns whom the server saw, or the first error of either side.
async fn meet(
    server: ServerConfig,
    client: ClientConfig,
    name: rustls::pki_types::ServerName<'static>,
) -> Result<Option<MasterId>, String> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let serve = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await.map_err(|error| error.to_string())?;
        let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
        stream.write_u8(byte + 1).await.map_err(|error| error.to_string())?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
        Ok::<_, String>(shown.and_then(|certificate| peer_master_id(CLUSTER, &certificate)))
    };
    let dial = async {
        let mut stream =
            TlsConnector::from(Arc::new(client)).connect(name, near).await.map_err(|error| error.to_string())?;
        stream.write_u8(41).await.map_err(|error| error.to_string())?;
        let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
        assert_eq!(byte, 42);
        Ok::<_, String>(())
    };
    let (served, dialled) = tokio::join!(serve, dial);
    dialled?;
    served
}

#[tokio::test]
async fn masters_of_one_cluster_know_each_other() {
    let ca = authority(1);
    let (one, two) = (credentials(&ca, 1), credentials(&ca, 2));
    let server = tls::mesh_server(&one).expect("server");
    let client = tls::mesh_client(&two).expect("client");
    let name = tls::mesh_name(&two, MasterId(1)).expect("name");
    assert_eq!(meet(server, client, name).await, Ok(Some(MasterId(2))));
}

#[tokio::test]
async fn another_master_of_the_cluster_is_not_the_wanted_one() {
    let ca = authority(1);
    let (one, two) = (credentials(&ca, 1), credentials(&ca, 2));
    let server = tls::mesh_server(&one).expect("server");
    let client = tls::mesh_client(&two).expect("client");
    let refused = meet(server, client, tls::mesh_name(&two, MasterId(3)).expect("name")).await;
    assert!(refused.as_ref().is_err_and(|cause| cause.contains("not valid for name")), "{refused:?}");
}

#[tokio::test]
async fn masters_under_another_ca_are_refused_by_both_sides() {
    let ours = credentials(&authority(1), 1);
    let theirs = credentials(&authority(2), 2);
    let server = tls::mesh_server(&ours).expect("server");
    let name = tls::mesh_name(&theirs, MasterId(1)).expect("name");
    let refused = meet(server, tls::mesh_client(&theirs).expect("client"), name.clone()).await;
    assert!(refused.is_err(), "the client believed a server of another cluster: {refused:?}");

    // A client that believes our CA but shows a certificate of its own is refused by the server.
    let mut impostor = credentials(&authority(2), 2);
    impostor.ca_certificate = ours.ca_certificate.clone();
    let server = tls::mesh_server(&ours).expect("server");
    let refused = meet(server, tls::mesh_client(&impostor).expect("client"), name).await;
    assert!(refused.is_err(), "the server believed a client of another cluster: {refused:?}");
}

#[tokio::test]
async fn nobody_enters_the_mesh_without_a_certificate() {
    let ours = credentials(&authority(1), 1);
    let mut client = tls::pinned_client(ours.ca_fingerprint()).expect("client");
    client.alpn_protocols = vec![tls::ALPN_MESH.to_vec()];
    let name = tls::mesh_name(&ours, MasterId(1)).expect("name");
    let refused = meet(tls::mesh_server(&ours).expect("server"), client, name).await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn a_joiner_believes_the_pinned_ca_only() {
    let ours = credentials(&authority(1), 1);
    let pinned = tls::pinned_client(ours.ca_fingerprint()).expect("client");
    let name = rustls::pki_types::ServerName::try_from("balancer.example.org").expect("name");
    assert_eq!(meet(tls::api_server(&ours).expect("server"), pinned, name.clone()).await, Ok(None));

    let other = tls::pinned_client(authority(2).public_key().fingerprint()).expect("client");
    let refused = meet(tls::api_server(&ours).expect("server"), other, name.clone()).await;
    assert!(refused.as_ref().is_err_and(|cause| cause.contains("UnknownIssuer")), "{refused:?}");

    // Showing the pinned CA beside a leaf that it never signed does not help.
    let mut impostor = credentials(&authority(2), 1);
    impostor.ca_certificate = ours.ca_certificate.clone();
    let pinned = tls::pinned_client(ours.ca_fingerprint()).expect("client");
    let refused = meet(tls::api_server(&impostor).expect("server"), pinned, name).await;
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn a_certificate_names_one_master_of_one_cluster() {
    let one = credentials(&authority(1), 1);
    assert_eq!(peer_master_id(CLUSTER, &one.tls_certificate), Some(MasterId(1)));
    assert_eq!(peer_master_id(ClusterId::from_bytes([8; 16]), &one.tls_certificate), None);
    assert_eq!(peer_master_id(CLUSTER, &one.ca_certificate), None);
    assert_eq!(certified_key(&one.tls_certificate), Some(one.identity.public_key()));
    assert_eq!(dns_names(&one.tls_certificate), [tls_name(CLUSTER, MasterId(1))]);
}

#[test]
fn the_sealed_ca_opens_for_its_own_cluster_only() {
    struct Fixed;
    impl Entropy for Fixed {
        fn fill(&self, out: &mut [u8]) {
            out.fill(5);
        }
    }
    let ca = authority(1);
    let sealed = ca.seal(&[9; 32], &Fixed);
    let opened = Authority::unseal(CLUSTER, &ca.public_key(), &[9; 32], &sealed).expect("ours");
    assert_eq!(opened.certificate_pem().expect("issued"), ca.certificate_pem().expect("issued"));
    assert!(matches!(Authority::unseal(CLUSTER, &ca.public_key(), &[8; 32], &sealed), Err(PkiError::Sealed(_))));
    let other = authority(2).public_key();
    assert!(matches!(Authority::unseal(CLUSTER, &other, &[9; 32], &sealed), Err(PkiError::Foreign { .. })));
}

/// A folder in memory whose writes can be made to fail.
#[derive(Default)]
struct Folder {
    files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    full_at: Option<&'static str>,
}

impl Disk for Folder {
    fn read(&self, path: &Path, _bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.lock().expect("lock").get(path).cloned())
    }
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.full_at.is_some_and(|name| path.ends_with(name)) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{}: no space left", path.display())));
        }
        self.files.lock().expect("lock").insert(path.into(), bytes.into());
        Ok(())
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.files.lock().expect("lock").entry(path.into()).or_default().extend_from_slice(bytes);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.lock().expect("lock").remove(path);
        Ok(())
    }
    fn list(&self, _folder: &Path) -> io::Result<Vec<String>> {
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(self.files.lock().expect("lock").keys().filter_map(name).collect())
    }
    fn make_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_stored_is_loaded_and_nothing_else() {
    let disk = Folder::default();
    let folder = Path::new("data");
    assert!(matches!(Credentials::load(&disk, folder), Err(credentials::CredentialsError::Absent { .. })));
    let one = credentials(&authority(1), 1);
    one.store(&disk, folder).expect("stored");
    let loaded = Credentials::load(&disk, folder).expect("loaded");
    assert_eq!((loaded.master, loaded.cluster, &loaded.name), (one.master, one.cluster, &one.name));
    assert_eq!(loaded.identity.public_key(), one.identity.public_key());
    assert_eq!((&loaded.directory, &loaded.certificate), (&one.directory, &one.certificate));
    assert_eq!(*loaded.state_secret, *one.state_secret);

    // A file of another master, a missing one and a damaged one are each named.
    let two = credentials(&authority(1), 2);
    for (name, content) in [
        ("identity.key", Some(hex::encode(two.identity.seed().as_slice()))),
        ("tls.pem", Some(two.tls_certificate_pem.clone())),
        ("ca.pem", Some(credentials(&authority(2), 1).ca_certificate_pem)),
        ("state.secret", Some("abc".into())),
        ("state.secret", None),
    ] {
        one.store(&disk, folder).expect("stored");
        match content {
            Some(content) => disk.replace(&folder.join(name), content.as_bytes()).expect("replaced"),
            None => disk.remove(&folder.join(name)).expect("removed"),
        }
        let error = Credentials::load(&disk, folder).expect_err(name).to_string();
        assert!(error.starts_with(&format!("data/{name}: ")) && error.lines().count() == 1, "{error}");
        assert!(!error.contains("6666"), "a secret is in {error}");
    }
}

#[test]
fn a_full_disk_leaves_no_trace() {
    for full_at in credentials::FILES {
        let disk = Folder { full_at: Some(full_at), ..Folder::default() };
        let error = credentials(&authority(1), 1).store(&disk, Path::new("data")).expect_err("full");
        assert!(error.to_string().contains(full_at), "{error}");
        assert_eq!(disk.list(Path::new("data")).expect("listed"), [""; 0]);
    }
}

#[tokio::test]
async fn strangers_who_say_nothing_keep_no_master_out() {
    let authority = authority(1);
    let mesh_of = |master| {
        let credentials = Arc::new(credentials(&authority, master));
        let (client, server) = (tls::mesh_client(&credentials), tls::mesh_server(&credentials));
        TlsMesh::new(
            Arc::new(client.expect("client")),
            Arc::new(server.expect("server")),
            Arc::new(|certificate| peer_master_id(CLUSTER, certificate)),
            Arc::new(|master| tls_name(CLUSTER, master)),
        )
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its port").port();
    let address = Address::new("127.0.0.1", port);
    let mut listener = mesh_of(1).listen(&address).await.expect("listens");
    let mut silent = Vec::new();
    for stranger in 0..200_u32 {
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        let source = std::net::Ipv4Addr::from(0x7f00_0200 + stranger);
        socket.bind((source, 0).into()).expect("an address of this machine");
        silent.push(socket.connect(([127, 0, 0, 1], port).into()).await.expect("accepted by the kernel"));
    }
    let dialled = mesh_of(2);
    // Whoever had to wait for a stranger would wait until that one's time is over.
    let strangers_time = std::time::Duration::from_millis(saltern_wire::limits::HANDSHAKE_TIMEOUT_MS);
    let both = async { tokio::join!(dialled.dial(MasterId(1), &address), listener.accept()) };
    let (dialled, accepted) = tokio::time::timeout(strangers_time, both).await.expect("in before a stranger left");
    let (from, _link) = accepted.expect("a master");
    assert!(dialled.is_ok(), "{:?}", dialled.err());
    assert_eq!(from, MasterId(2));
}
