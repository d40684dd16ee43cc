//! Rejoining for real: a quarantined folder, a master that answers on the mesh with mutual TLS, a truth that decides.

use super::config;
use super::grant::{Founder, join_as, serve as serve_api};
use crate::config::Config;
use crate::founding::{RejoinError, Rejoined, grant, rejoin};
use crate::mesh::message::{Granted, Request, Response};
use crate::mesh::server::{MeshService, Unfit, serve};
use crate::pki::{Credentials, tls};
use crate::quarantine::{QUARANTINE_FILE, Quarantine};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_wire::io::{Address, Clock, Disk, Link};
use saltern_wire::{LogicalTime, MasterId};
use std::io::{Error, ErrorKind, Result as IoResult};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Stages that this process has set up.
static STAGES: AtomicUsize = AtomicUsize::new(0);

/// Answers wishes to rejoin as a master does; the first `lost` answers do not arrive.
struct Peer {
    founder: Arc<Founder>,
    lost: AtomicUsize,
}

#[async_trait::async_trait]
impl MeshService for Peer {
    fn admits(&self, master: MasterId) -> bool {
        self.founder.directory().master(master).is_some()
    }
    fn hears_out(&self, master: MasterId) -> bool {
        self.founder.state.masters().expect("readable").iter().any(|joined| joined.replaces == Some(master))
    }
    fn expelled(&self, _: MasterId) -> Option<Response> {
        None
    }
    async fn answer(&self, from: MasterId, request: Request) -> Response {
        let Request::Rejoin(request) = request else { return Response::Failed("not here".into()) };
        let granted = grant::issue_rejoin(&*self.founder, &self.founder.credentials, from, &request).await;
        let lost = |left: usize| left.checked_sub(1);
        if self.lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lost).is_ok() {
            return Response::Failed("the answer was lost".into());
        }
        Response::Rejoined(granted.map(|grant| Granted(Box::new(grant))).map_err(|refusal| refusal.0))
    }
    async fn replicate(&self, _: MasterId, _: Link) {}

    fn note_expired(&self) {}

    fn note_refused(&self, _: MasterId, _: Unfit) {}
}

/// A cluster of a founder that answers on its mesh port and a second master that does not run.
struct Stage {
    home: tempfile::TempDir,
    peer: Arc<Peer>,
    stop: CancellationToken,
}

impl Stage {
    async fn new(lost: usize) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        // An address of its own for every stage of this process and of others.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let stage = u8::try_from(STAGES.fetch_add(1, Ordering::SeqCst)).expect("few");
        let interface = std::net::IpAddr::from([127, 0x40 | high, low, 100 + stage]);
        let config = config(&home.path().join("m1"));
        let mesh_advertise = Address::new(interface.to_string(), config.mesh_port);
        let founder = Config { interface, advertise: interface.to_string(), mesh_advertise, ..config };
        let founder = Founder::of(&founder);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let api = serve_api(&founder, &tasks, &stop).await;
        let token = founder.token(1, vec![api]).await;
        join_as("m2", home.path(), &token).await.expect("joined");
        Self { home, peer: Arc::new(Peer { founder, lost: AtomicUsize::new(lost) }), stop }
    }

    /// From now on the founder answers.
    async fn listen(&self) {
        let credentials = &self.peer.founder.credentials;
        let transport = tls::mesh(credentials).expect("TLS");
        let bind: &Address = &credentials.endpoints.mesh;
        let service: Arc<dyn MeshService> = Arc::clone(&self.peer) as Arc<dyn MeshService>;
        serve(&transport, bind, service, &TaskTracker::new(), self.stop.clone()).await.expect("a free port");
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("m2")
    }

    /// Notes a doubt, in a folder with something in it.
    fn quarantine(&self, micros: u64) {
        for name in ["log", "state", "snapshots"] {
            std::fs::create_dir_all(self.folder().join(name)).expect("made");
            std::fs::write(self.folder().join(name).join("rows"), "doubtful").expect("written");
        }
        std::fs::write(self.folder().join("mark"), "doubtful").expect("written");
        let since = LogicalTime::from_unix_micros(SystemClock::new().wall_unix_micros() + micros);
        let (master, name, cause) = (MasterId(2), "m2".into(), "log entry 7 is corrupt".into());
        Quarantine { master, name, cause, since }.write(&SystemDisk, &self.folder()).expect("written");
    }

    async fn rejoin_on(&self, disk: &dyn Disk) -> Result<Rejoined, RejoinError> {
        let config = Config { id: "m2".into(), advertise: "127.0.0.2".into(), ..config(&self.folder()) };
        rejoin(&config, false, disk, &SystemEntropy, &SystemClock::new()).await
    }

    fn ids(&self) -> Vec<(u64, String)> {
        let directory = self.peer.founder.directory();
        directory.masters.iter().map(|master| (master.id.0, master.name.clone())).collect()
    }

    /// The folder is whole, belongs to `master`, and holds nothing of what was doubted.
    fn require_fresh(&self, rejoined: &Rejoined, master: u64) {
        assert_eq!(rejoined.master, MasterId(master));
        let credentials = Credentials::load(&SystemDisk, &self.folder()).expect("a whole folder");
        assert_eq!((credentials.master, credentials.name.as_str()), (MasterId(master), "m2"));
        for name in ["log", "state", "snapshots", "mark", QUARANTINE_FILE] {
            assert!(!self.folder().join(name).exists(), "{name} stays in the way");
            assert!(rejoined.aside.join(name).exists(), "{name} is gone");
        }
        assert!(!rejoined.aside.join("next").exists());
        assert_eq!(self.ids(), [(1, "m1".into()), (master, "m2".into())]);
    }
}

#[tokio::test]
async fn a_quarantined_master_comes_back_under_a_fresh_id_and_keeps_what_was_doubted() {
    let stage = Stage::new(1).await;
    let refused = stage.rejoin_on(&SystemDisk).await.expect_err("nobody doubts it");
    assert!(refused.exit_code() == 64 && refused.to_string().contains("--force"), "{refused}");
    stage.quarantine(0);

    let unreached = stage.rejoin_on(&SystemDisk).await.expect_err("nobody listens");
    assert!(unreached.exit_code() == 69 && unreached.to_string().contains("m1"), "{unreached}");
    assert!(stage.folder().join("log").exists() && stage.folder().join(QUARANTINE_FILE).exists(), "nothing is moved");

    // The first answer is lost after the truth has given the id and the directory names it: the old certificate is heard
    // out once more, and the same key finds the same id.
    stage.listen().await;
    let lost = stage.rejoin_on(&SystemDisk).await.expect_err("the answer was lost");
    assert_eq!(lost.exit_code(), 69, "{lost}");
    assert_eq!(stage.ids(), [(1, "m1".into()), (3, "m2".into())]);
    let rejoined = stage.rejoin_on(&SystemDisk).await.expect("rejoined");
    stage.require_fresh(&rejoined, 3);
    assert!(rejoined.to_string().contains("log entry 7 is corrupt"), "{rejoined}");
    stage.stop.cancel();
}

#[tokio::test]
async fn a_master_that_is_alone_is_told_to_restore_a_backup() {
    let home = tempfile::tempdir().expect("a folder");
    let founder = Founder::new(&home.path().join("m1"));
    let config = config(&home.path().join("m1"));
    let alone = rejoin(&config, true, &SystemDisk, &SystemEntropy, &SystemClock::new()).await.expect_err("alone");
    assert!(alone.exit_code() == 69 && alone.to_string().contains("Restore a backup"), "{alone}");
    assert_eq!(founder.directory().masters.len(), 1);
}

/// A disk that takes so many writes and no more, as a process that is killed there would have made.
struct Ending(AtomicUsize);

impl Ending {
    fn take(&self, path: &Path) -> IoResult<()> {
        let take = |left: usize| left.checked_sub(1);
        let taken = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        taken.map(drop).map_err(|_| Error::new(ErrorKind::StorageFull, format!("{}: no room", path.display())))
    }
}

impl Disk for Ending {
    fn read(&self, path: &Path, bytes_max: u64) -> IoResult<Option<Vec<u8>>> {
        SystemDisk.read(path, bytes_max)
    }
    fn replace(&self, path: &Path, bytes: &[u8]) -> IoResult<()> {
        self.take(path)?;
        SystemDisk.replace(path, bytes)
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> IoResult<()> {
        SystemDisk.append(path, bytes)
    }
    fn remove(&self, path: &Path) -> IoResult<()> {
        // Nobody tidies up after a process that was killed.
        self.take(path)?;
        SystemDisk.remove(path)
    }
    fn list(&self, folder: &Path) -> IoResult<Vec<String>> {
        SystemDisk.list(folder)
    }
    fn make_folder(&self, folder: &Path) -> IoResult<()> {
        self.take(folder)?;
        SystemDisk.make_folder(folder)
    }
}

#[tokio::test]
async fn a_rejoin_that_ends_anywhere_goes_on_when_it_is_asked_again_and_takes_one_id() {
    let stage = Stage::new(0).await;
    stage.listen().await;
    let mut master = 2;
    for writes in 0.. {
        // A time of its own, a second apart: the folder aside is named after it.
        stage.quarantine(writes * 1_000_000);
        let ended = stage.rejoin_on(&Ending(AtomicUsize::new(usize::try_from(writes).expect("few")))).await;
        master += 1;
        match ended {
            Ok(rejoined) => {
                stage.require_fresh(&rejoined, master);
                assert!(writes > 10, "{writes} writes are too few for all of it");
                break;
            }
            Err(_) => {
                let rejoined = stage.rejoin_on(&SystemDisk).await.expect("the second time there is room");
                stage.require_fresh(&rejoined, master);
            }
        }
        assert!(writes < 40, "it never gets to its end");
    }
    stage.stop.cancel();
}
