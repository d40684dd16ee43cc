//! Stories of a disk that takes nothing for a while, or gives back something else than it was given.
//!
//! What the agent itself writes goes to a disk that fails as it is told; what a supervisor writes goes to the real one, with
//! a folder standing where its file should.

mod common;

use common::{Cluster, ORDINAL};
use saltern_minion::folder::Folder;
use saltern_minion::supervisor::Supervised;
use saltern_minion::{Agent, AgentHandle, Executor};
use saltern_pubsub::disk::SystemDisk;
use saltern_wire::io::Disk;
use saltern_wire::job::OutcomeKind;
use saltern_wire::session::Standing;
use serde_json::json;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_saltern-minion");

/// A real disk that refuses to write files whose path holds a word, for a reason.
#[derive(Clone, Default)]
struct Moody(Arc<Mutex<Option<(&'static str, ErrorKind)>>>);

impl Moody {
    fn refuse(&self, word: &'static str, kind: ErrorKind) {
        *self.0.lock().expect("sound") = Some((word, kind));
    }

    fn heal(&self) {
        *self.0.lock().expect("sound") = None;
    }

    fn check(&self, path: &Path) -> Result<()> {
        match *self.0.lock().expect("sound") {
            Some((word, kind)) if path.display().to_string().contains(word) => {
                Err(Error::new(kind, format!("{}: {kind}", path.display())))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Disk for Moody {
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        SystemDisk.read(path, bytes_max)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.check(path)?;
        SystemDisk.replace(path, bytes)
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.check(path)?;
        SystemDisk.append(path, bytes)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.check(path)?;
        SystemDisk.remove(path)
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        SystemDisk.list(folder)
    }

    fn make_folder(&self, folder: &Path) -> Result<()> {
        SystemDisk.make_folder(folder)
    }
}

async fn ready(minion: &AgentHandle) {
    let accepted = Some(Standing::Accepted { ordinal: ORDINAL });
    let wait = minion.wait_for(|status| status.subscribed && status.standing == accepted);
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time").expect("running");
}

/// Waits until nothing runs and nothing waits.
async fn at_rest(minion: &AgentHandle) {
    let wait = minion.wait_for(|status| status.waiting == 0 && status.running == 0);
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time").expect("running");
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_written_refuses_jobs_with_the_reason_and_recovers_by_itself() {
    for kind in [
        ErrorKind::StorageFull,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::PermissionDenied,
        ErrorKind::IsADirectory,
        ErrorKind::Other,
    ] {
        let mut cluster = Cluster::new(&[1]);
        let master = cluster.master(1).await;
        let (root, disk) = (tempfile::tempdir().expect("a folder"), Moody::default());
        let config = cluster.config(root.path(), &[1]);
        let minion = cluster.minion_on(config.clone(), Arc::new(disk.clone()));
        ready(&minion).await;
        disk.refuse("journal", kind);
        let (refused, ping) = (cluster.job("test.sleep", vec![json!(0)]), cluster.job("test.ping", vec![]));
        for job in [&refused, &ping, &refused] {
            master.offer(job, &master.identity);
        }
        let outcome = cluster.outcome(refused.jid).await;
        assert_eq!(outcome.kind, OutcomeKind::Refused, "{kind}");
        let told = outcome.value.to_string();
        assert!(told.contains("journal cannot be written") && told.contains(&kind.to_string()), "{told}");
        assert!(cluster.outcome(ping.jid).await.success, "pure functions need no journal");
        disk.heal();
        let taken = cluster.job("test.sleep", vec![json!(0)]);
        [&refused, &taken].iter().for_each(|job| master.offer(job, &master.identity));
        assert!(cluster.outcome(taken.jid).await.success, "{kind}: it works again");
        at_rest(&minion).await;
        minion.stop().await;
        // The refusal is in the journal by now: the next life does not run the job either.
        let minion = cluster.minion(config);
        ready(&minion).await;
        master.offer(&refused, &master.identity);
        let ping = cluster.job("test.ping", vec![]);
        master.offer(&ping, &master.identity);
        cluster.outcome(ping.jid).await;
        assert_eq!(cluster.truth().returns[&refused.jid].len(), 1, "{kind}: one outcome");
        minion.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outbox_that_cannot_be_written_loses_nothing_and_settles_without_a_restart() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let (root, disk) = (tempfile::tempdir().expect("a folder"), Moody::default());
    let minion = cluster.minion_on(cluster.config(root.path(), &[1]), Arc::new(disk.clone()));
    ready(&minion).await;
    disk.refuse("outbox", ErrorKind::StorageFull);
    // The agent carries this one out itself, and writes its outcome.
    let inside = cluster.job("grains.setval", vec![json!("role"), json!("web")]);
    // The executor writes this one's; the agent has to remove it once it is committed.
    let outside = cluster.job("test.sleep", vec![json!(0)]);
    [&inside, &outside].iter().for_each(|job| master.offer(job, &master.identity));
    assert!(cluster.outcome(outside.jid).await.success);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!cluster.truth().returns.contains_key(&inside.jid), "it is not on disk, so nobody hears of it");
    assert_eq!(minion.status().running, 1, "it is kept");
    disk.heal();
    assert_eq!(cluster.outcome(inside.jid).await.value, json!({"role": "web"}));
    at_rest(&minion).await;
    let emptied = async {
        while std::fs::read_dir(root.path().join("outbox")).expect("a folder").count() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), emptied).await.expect("committed outcomes go without a restart");
    assert!(cluster.truth().returns.values().all(|outcomes| outcomes.len() == 1));
    minion.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_while_the_journal_cannot_be_written_goes_once_it_can() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let (root, disk) = (tempfile::tempdir().expect("a folder"), Moody::default());
    let minion = cluster.minion_on(cluster.config(root.path(), &[1]), Arc::new(disk.clone()));
    ready(&minion).await;
    let job = cluster.job("test.sleep", vec![json!(5)]);
    master.offer(&job, &master.identity);
    minion.wait_for(|status| status.running == 1).await.expect("running");
    disk.refuse("journal", ErrorKind::ReadOnlyFilesystem);
    assert!(cluster.outcome(job.jid).await.success, "its outcome needs no journal to travel");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let kept = || root.path().join("outbox").join(job.jid.to_string()).exists();
    assert!(kept(), "what the journal does not call settled stays on disk");
    disk.heal();
    let gone = async {
        while kept() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("and goes then");
    assert_eq!(cluster.truth().returns[&job.jid].len(), 1);
    minion.stop().await;
}

/// A minion whose jobs run under real supervisors.
async fn supervised(cluster: &Cluster, root: &Path) -> AgentHandle {
    let folder = Folder::open(Arc::new(SystemDisk), root).expect("opens");
    let executor: Arc<dyn Executor> = Arc::new(Supervised::new(PROGRAM, folder));
    let minion = Agent::start(cluster.config(root, &[1]), cluster.io(), executor).expect("starts");
    ready(&minion).await;
    minion
}

#[tokio::test]
async fn a_supervisor_keeps_the_result_until_the_outbox_takes_it() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let minion = supervised(&cluster, root.path()).await;
    let marks = root.path().join("marks");
    let job = cluster.job("cmd.run", vec![json!(format!("echo start >> {}; echo done", marks.display()))]);
    // Where the result is written before it gets its name stands a folder.
    let way = root.path().join("outbox").join(format!("{}.tmp~", job.jid));
    std::fs::create_dir(&way).expect("made");
    master.offer(&job, &master.identity);
    let ran = async {
        while !marks.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ran).await.expect("it ran");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!cluster.truth().returns.contains_key(&job.jid));
    assert_eq!(minion.status().running, 1);
    // Not even the agent's death loses it.
    minion.stop().await;
    let minion = supervised(&cluster, root.path()).await;
    assert_eq!(minion.status().running, 1, "its supervisor lives");
    std::fs::remove_dir(&way).expect("removed");
    let outcome = cluster.outcome(job.jid).await;
    assert_eq!((outcome.kind, outcome.value), (OutcomeKind::Finished, json!("done")));
    assert_eq!(std::fs::read_to_string(&marks).expect("read"), "start\n");
    at_rest(&minion).await;
    minion.stop().await;
}

#[tokio::test]
async fn a_job_whose_mark_cannot_be_written_is_not_started_and_says_why() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let minion = supervised(&cluster, root.path()).await;
    let job = cluster.job("cmd.run", vec![json!(format!("touch {}/ran", root.path().display()))]);
    std::fs::create_dir(root.path().join("jobs").join(format!("{}.started.tmp~", job.jid))).expect("made");
    master.offer(&job, &master.identity);
    let outcome = cluster.outcome(job.jid).await;
    let told = outcome.value.to_string();
    assert!(!outcome.success && told.contains("was not started") && told.contains("directory"), "{outcome:?}");
    assert!(!root.path().join("ran").exists());
    minion.stop().await;
}

#[tokio::test]
async fn whatever_bit_rots_nothing_starts_twice_and_every_job_has_one_outcome() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let marks = root.path().join("marks");
    let mut minion = supervised(&cluster, root.path()).await;
    let mut jobs = Vec::new();
    // Each round leaves a result in the outbox, stops, bends one file, and starts again.
    for (round, name) in ["outbox", "started", "lock", "journal"].into_iter().enumerate() {
        cluster.truth().refuse = Some(saltern_wire::session::Refusal::NoQuorum);
        let job = cluster.job("cmd.run", vec![json!(format!("echo {round} >> {}", marks.display()))]);
        master.offer(&job, &master.identity);
        let waits = minion.wait_for(|status| status.waiting == 1 && status.running == 0);
        tokio::time::timeout(Duration::from_secs(30), waits).await.expect("in time").expect("running");
        minion.stop().await;
        let path = match name {
            "journal" => root.path().join("journal"),
            "outbox" => root.path().join("outbox").join(job.jid.to_string()),
            other => root.path().join("jobs").join(format!("{}.{other}", job.jid)),
        };
        let mut bytes = std::fs::read(&path).expect("there");
        let middle = bytes.len() * 3 / 4;
        match bytes.get_mut(middle) {
            Some(byte) => *byte ^= 0x10,
            // A lock is empty.
            None => bytes.push(b'?'),
        }
        std::fs::write(&path, &bytes).expect("bent");
        cluster.truth().refuse = None;
        minion = supervised(&cluster, root.path()).await;
        master.offer(&job, &master.identity);
        let outcome = cluster.outcome(job.jid).await;
        let expect = if name == "outbox" { OutcomeKind::Interrupted } else { OutcomeKind::Finished };
        assert_eq!(outcome.kind, expect, "{name}: {outcome:?}");
        master.offer(&job, &master.identity);
        at_rest(&minion).await;
        jobs.push(job.jid);
        let kept = match name {
            "journal" => Some(root.path().join("journal.damaged")),
            "outbox" => Some(root.path().join("outbox").join(format!("{}.aside", job.jid))),
            _ => None,
        };
        assert!(kept.is_none_or(|kept| std::fs::read(kept).expect("kept for people") == bytes), "{name}");
    }
    let ping = cluster.job("test.ping", vec![]);
    master.offer(&ping, &master.identity);
    cluster.outcome(ping.jid).await;
    assert_eq!(std::fs::read_to_string(&marks).expect("read"), "0\n1\n2\n3\n", "each started once");
    let truth = cluster.truth();
    // A damaged journal may have lost that an older job was settled: then the truth, which keeps the first outcome, hears
    // of an interruption as well.
    for outcomes in jobs.iter().map(|jid| &truth.returns[jid]) {
        assert!(outcomes[1..].iter().all(|(later, _)| later.kind == OutcomeKind::Interrupted), "{outcomes:?}");
    }
    drop(truth);
    minion.stop().await;
}
