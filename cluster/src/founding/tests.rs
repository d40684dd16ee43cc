//! A cluster is founded once in a folder, joined by whoever holds a token, and neither leaves anything behind when it fails.

use super::*;
use crate::config::Config;
use crate::config::Layer;
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_store::command::{Command, MasterCommand};
use saltern_wire::api::{JoinSecret, JoinToken};
use saltern_wire::crypto::PublicKey;
use saltern_wire::io::Address;
use saltern_wire::master::MasterState;
use saltern_wire::{MasterId, RequestId};
use std::os::unix::fs::PermissionsExt;

mod grant;
mod rejoin;

fn config(data_dir: &Path) -> Config {
    let layer = Layer { data_dir: Some(data_dir.into()), auto_accept: Some(true), ..Layer::default() };
    Config::finish(layer, "m1").expect("a configuration")
}

fn found(data_dir: &Path) -> Result<Founded, FoundingError> {
    init(&config(data_dir), &SystemDisk, &SystemEntropy, &SystemClock::new())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn init_makes_a_folder_that_run_can_start_from() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("master");
    let founded = found(&folder).expect("founded");
    let credentials = Credentials::load(&SystemDisk, &folder).expect("loaded");
    assert_eq!((credentials.cluster, credentials.master), (founded.cluster, MasterId(1)));
    assert_eq!(credentials.ca_fingerprint(), founded.ca_fingerprint);
    assert!(founded.to_string().contains(&founded.ca_fingerprint.to_string()));
    for name in names(&folder) {
        let mode = std::fs::metadata(folder.join(&name)).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(&folder).expect("metadata").permissions().mode() & 0o777, 0o700);
    let token = api_token(&SystemDisk, &folder.join("api.token")).expect("read").expect("there");
    assert_eq!(token.len(), 64);

    let proposal = pending(&SystemDisk, &folder).expect("read").expect("pending");
    let Command::Master(MasterCommand::Found { cluster, ca, ca_sealed, directory, settings, .. }) = proposal.command
    else {
        panic!("the first command founds the cluster")
    };
    assert!(settings.auto_accept, "the configuration seeds the settings");
    crate::pki::Authority::unseal(cluster, &ca, &credentials.state_secret, &ca_sealed).expect("the CA opens");
    let directory = directory.verify(&ca).expect("signed");
    let states: Vec<_> = directory.masters.iter().map(|master| (master.id, master.state)).collect();
    assert_eq!(states, [(MasterId(1), MasterState::Active)]);

    settle(&SystemDisk, &folder).expect("settled");
    assert_eq!(pending(&SystemDisk, &folder).expect("read"), None);
}

#[test]
fn init_refuses_a_folder_with_anything_in_it() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("master");
    found(&folder).expect("founded");
    let before = names(&folder);
    let again = found(&folder).expect_err("founded twice").to_string();
    assert!(again.contains("master.json") && again.contains("data_dir"), "{again}");
    assert_eq!(names(&folder), before);

    let other = home.path().join("other");
    std::fs::create_dir_all(other.join("log")).expect("made");
    let error = found(&other).expect_err("something is there");
    assert!(matches!(&error, FoundingError::Occupied { found, .. } if found == "log"), "{error}");
    assert_eq!(names(&other), ["log"]);
}

#[test]
fn what_an_interrupted_init_left_does_not_stand_in_the_way() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("master");
    found(&folder).expect("founded");
    std::fs::remove_file(folder.join("master.json")).expect("the last file was not written");
    std::fs::write(folder.join("tls.pem.tmp~"), "torn").expect("a torn write");
    let founded = found(&folder).expect("founded again");
    let credentials = Credentials::load(&SystemDisk, &folder).expect("whole");
    assert_eq!(credentials.cluster, founded.cluster);
    assert!(pending(&SystemDisk, &folder).expect("read").is_some());
}

#[test]
fn a_folder_that_cannot_be_made_leaves_no_trace() {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::write(home.path().join("file"), "").expect("written");
    let error = found(&home.path().join("file/master")).expect_err("a file is no folder").to_string();
    assert!(error.lines().count() == 1 && error.contains("file"), "{error}");
    assert_eq!(names(home.path()), ["file"]);

    // A token file that cannot be written: the folder that init made goes with it.
    let folder = home.path().join("master");
    let mut config = config(&folder);
    config.api_token_file = home.path().join("file/token");
    let error = init(&config, &SystemDisk, &SystemEntropy, &SystemClock::new()).expect_err("no token file").to_string();
    assert!(error.contains("file/token"), "{error}");
    assert_eq!(names(home.path()), ["file"]);
}

fn token() -> JoinToken {
    JoinToken {
        addresses: vec![Address::new("m1.example.org", 4511), Address::new("::1", 4511)],
        ca_fingerprint: PublicKey([7; 32]).fingerprint(),
        secret: JoinSecret("5".repeat(32)),
    }
}

#[test]
fn a_token_survives_the_clipboard() {
    let text = token::write(&token());
    assert!(text.len() < token::TOKEN_CHARS_MAX, "{}", text.len());
    assert_eq!(token::read(&format!("  {text}\n")), Ok(token()));
}

#[test]
fn a_damaged_token_is_named_before_anybody_is_asked() {
    use token::TokenError;
    let text = token::write(&token());
    assert_eq!(token::read(" \n"), Err(TokenError::Empty));
    assert_eq!(
        token::read(&"a".repeat(token::TOKEN_CHARS_MAX + 1)),
        Err(TokenError::Long { chars: token::TOKEN_CHARS_MAX + 1 })
    );
    assert_eq!(token::read(&format!("{text}=")), Err(TokenError::Character('=')));
    assert_eq!(token::read(&format!("token {text}")), Err(TokenError::Character(' ')));
    for cut in 1..text.len() {
        assert!(token::read(&text[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..text.len() {
        let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        let bent = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        assert!(token::read(&bent).is_err(), "letter {at}");
    }
}

#[test]
fn a_retry_prints_the_same_token_and_another_request_another() {
    let one = RequestId::from_bytes([1; 16]);
    let two = RequestId::from_bytes([2; 16]);
    assert_eq!(token::secret(&[9; 32], one), token::secret(&[9; 32], one));
    assert_ne!(token::secret(&[9; 32], one), token::secret(&[9; 32], two));
    assert_ne!(token::secret(&[9; 32], one), token::secret(&[8; 32], one));
}

#[tokio::test]
async fn a_join_that_reaches_nobody_leaves_no_trace() {
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path().join("master");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let text = token::write(&JoinToken { addresses: vec![Address::new("127.0.0.1", port)], ..token() });
    let error = join(&config(&folder), &text, &SystemDisk, &SystemEntropy).await.expect_err("nobody listens");
    assert_eq!(error.exit_code(), 69, "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    assert_eq!(names(home.path()), [""; 0]);

    let error = join(&config(&folder), "garbled", &SystemDisk, &SystemEntropy).await.expect_err("no token");
    assert_eq!(error.exit_code(), 64, "{error}");
    assert_eq!(names(home.path()), [""; 0]);
}

#[tokio::test]
async fn a_join_believes_no_master_under_another_ca() {
    let home = tempfile::tempdir().expect("a folder");
    found(&home.path().join("stranger")).expect("founded");
    let stranger = Credentials::load(&SystemDisk, &home.path().join("stranger")).expect("loaded");
    let acceptor =
        tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(crate::pki::tls::api_server(&stranger).expect("a server")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let serve = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        acceptor.accept(stream).await.map(drop)
    };
    let text = token::write(&JoinToken { addresses: vec![Address::new("127.0.0.1", port)], ..token() });
    let folder = home.path().join("joiner");
    let config = config(&folder);
    let (served, joined) = tokio::join!(serve, join(&config, &text, &SystemDisk, &SystemEntropy));
    let error = joined.expect_err("another CA").to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(served.is_err(), "the stranger heard nothing of the token");
    assert!(!folder.exists());
}
