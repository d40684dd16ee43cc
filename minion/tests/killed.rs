//! Stories of a real minion process on loopback, and of kill -9 in the middle of its jobs.

mod common;

use common::Cluster;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use saltern_minion::executor::Work;
use saltern_minion::folder::Folder;
use saltern_pubsub::disk::SystemDisk;
use saltern_wire::io::Disk;
use saltern_wire::job::OutcomeKind;
use saltern_wire::{JobId, decode};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A minion process; ended with the test.
struct Process(Child);

impl Process {
    fn start(cluster: &Cluster, root: &Path) -> Self {
        Self::start_with(cluster, root, "")
    }

    /// Starts one whose processes have these faults.
    fn start_with(cluster: &Cluster, root: &Path, faults: &str) -> Self {
        let config = cluster.config(root, &[1]);
        let yaml = format!(
            "id: {}\nmaster: '{}'\nca_fingerprint: {}\ndata_dir: {}\n",
            config.id,
            config.masters[0],
            config.ca_fingerprint.expect("set"),
            root.join("data").display()
        );
        let path = root.join("minion.yaml");
        std::fs::write(&path, yaml).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_saltern-minion"));
        let command = command
            .args(["run", "-c"])
            .arg(&path)
            .env("SALTERN_FAULTS", faults)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("started"))
    }

    fn kill_9(&mut self) {
        self.0.kill().expect("ours");
        self.0.wait().expect("reaped");
    }

    /// Resident memory, in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("has memory");
        line.split_whitespace().next().and_then(|kibibytes| kibibytes.parse::<u64>().ok()).expect("a number") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn supervisor_of(root: &Path, jid: JobId) -> Option<Pid> {
    let folder = Folder::at(Arc::new(SystemDisk), root.join("data"));
    let work: Work = decode(&SystemDisk.read(&folder.job_started(jid), 1 << 20).ok()??).ok()?;
    Pid::from_raw(i32::try_from(work.pid).ok()?)
}

/// Offers a ping until it is answered: the minion is attached, accepted and works.
async fn answers(cluster: &mut Cluster, master: &common::Master) {
    let ping = cluster.job("test.ping", vec![]);
    for _ in 0..600 {
        master.offer(&ping, &master.identity);
        tokio::time::sleep(Duration::from_millis(50)).await;
        if cluster.truth().returns.contains_key(&ping.jid) {
            return;
        }
    }
    panic!("the minion never answered");
}

#[tokio::test]
async fn kill_9_of_the_minion_starts_nothing_twice_and_loses_nothing() {
    let mut cluster = Cluster::on_loopback(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let mut minion = Process::start(&cluster, root.path());
    answers(&mut cluster, &master).await;
    let (marks, gate) = (root.path().join("marks"), root.path().join("gate"));
    let command =
        format!("echo start >> {}; while [ ! -e {} ]; do sleep 0.02; done; echo end", marks.display(), gate.display());
    let survives = cluster.job("cmd.run", vec![json!(command)]);
    let dies = cluster.job("test.sleep", vec![json!(600)]);
    for job in [&survives, &dies] {
        master.publish(job, &master.identity);
        master.offer(job, &master.identity);
    }
    cluster.until("both accepted", |truth| (truth.accepted.len() == 2).then_some(())).await;
    cluster
        .until("both started", |_| (marks.exists() && supervisor_of(root.path(), dies.jid).is_some()).then_some(()))
        .await;
    minion.kill_9();
    kill_process(supervisor_of(root.path(), dies.jid).expect("started"), Signal::KILL).expect("ours");
    std::fs::write(&gate, "").expect("written");
    let mut again = Process::start(&cluster, root.path());
    answers(&mut cluster, &master).await;
    for job in [&survives, &dies] {
        master.offer(job, &master.identity);
    }
    let outcome = cluster.outcome(survives.jid).await;
    assert_eq!((outcome.kind, outcome.value), (OutcomeKind::Finished, json!("end")));
    assert_eq!(cluster.outcome(dies.jid).await.kind, OutcomeKind::Interrupted);
    again.kill_9();
    let _third = Process::start(&cluster, root.path());
    answers(&mut cluster, &master).await;
    assert_eq!(std::fs::read_to_string(&marks).expect("read"), "start\n", "started once");
    let truth = cluster.truth();
    assert!([&survives, &dies].iter().all(|job| truth.returns[&job.jid].len() == 1), "one outcome each");
}

/// What a death at a fault point leaves: whether the outcome has to be `Interrupted`, and how often the job ran.
struct Death {
    point: &'static str,
    kinds: &'static [OutcomeKind],
    runs: &'static [usize],
}

const fn death(point: &'static str, kinds: &'static [OutcomeKind], runs: &'static [usize]) -> Death {
    Death { point, kinds, runs }
}

#[tokio::test]
async fn a_minion_or_supervisor_that_dies_at_any_step_of_a_job_starts_it_once_at_most_and_says_what_became_of_it() {
    use OutcomeKind::{Finished, Interrupted};
    let deaths = [
        // Nobody knows of the job yet: it is offered again and runs.
        death("journal.append.before", &[Finished], &[1]),
        death("journal.append.after", &[Interrupted], &[0]),
        death("job.start.before", &[Interrupted], &[0]),
        // The supervisor may have got its work before its agent died.
        death("job.start.after", &[Finished, Interrupted], &[0, 1]),
        death("job.run.before", &[Interrupted], &[0]),
        death("job.run.after", &[Interrupted], &[1]),
        death("outbox.rename.before", &[Interrupted], &[1]),
        death("outbox.rename.after", &[Finished], &[1]),
        death("job.accept.after", &[Finished], &[1]),
        death("outbox.send.before", &[Finished], &[1]),
        death("outbox.remove.before", &[Finished], &[1]),
        death("outbox.remove.after", &[Finished], &[1]),
    ];
    let mut cluster = Cluster::on_loopback(&[1]);
    let master = cluster.master(1).await;
    for Death { point, kinds, runs } in deaths {
        let root = tempfile::tempdir().expect("a folder");
        let marks = root.path().join("marks");
        let mut minion = Process::start_with(&cluster, root.path(), &format!("{point}=abort"));
        let job = cluster.job("cmd.run", vec![json!(format!("echo run >> {}; echo done", marks.display()))]);
        let mut died = false;
        for _ in 0..600 {
            master.offer(&job, &master.identity);
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Who dies is the agent, or its supervisor: then the agent lives and tells what it left.
            died = minion.0.try_wait().expect("ours").is_some() || cluster.truth().returns.contains_key(&job.jid);
            if died {
                break;
            }
        }
        assert!(died, "{point}: nothing died");
        minion.kill_9();
        let _again = Process::start(&cluster, root.path());
        answers(&mut cluster, &master).await;
        master.offer(&job, &master.identity);
        let outcome = cluster.outcome(job.jid).await;
        answers(&mut cluster, &master).await;
        assert!(kinds.contains(&outcome.kind), "{point}: {outcome:?}");
        let ran = std::fs::read_to_string(&marks).unwrap_or_default().lines().count();
        assert!(runs.contains(&ran), "{point}: ran {ran} times");
        assert_eq!(cluster.truth().returns[&job.jid].len(), 1, "{point}: one outcome");
    }
}

#[tokio::test]
async fn a_minion_without_file_descriptors_refuses_jobs_by_name_and_recovers_by_itself() {
    let mut cluster = Cluster::on_loopback(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let minion = Process::start(&cluster, root.path());
    answers(&mut cluster, &master).await;
    let pid = Pid::from_raw(i32::try_from(minion.0.id()).expect("a pid"));
    let open = std::fs::read_dir(format!("/proc/{}/fd", minion.0.id())).expect("running").count() as u64;
    let before = getrlimit(Resource::Nofile);
    // What is open stays open; nothing else can be opened.
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(open), ..before }).expect("ours");
    let refused = cluster.job("cmd.run", vec![json!(format!("echo run >> {}/marks", root.path().display()))]);
    master.offer(&refused, &master.identity);
    let outcome = cluster.outcome(refused.jid).await;
    let told = outcome.value.to_string();
    assert!(!outcome.success && told.contains("Too many open files"), "{outcome:?}");
    answers(&mut cluster, &master).await;
    prlimit(pid, Resource::Nofile, before).expect("ours");
    let taken = cluster.job("cmd.run", vec![json!("echo done")]);
    for job in [&refused, &taken] {
        master.offer(job, &master.identity);
    }
    assert_eq!(cluster.outcome(taken.jid).await.value, json!("done"));
    assert!(!root.path().join("marks").exists(), "what was refused never runs");
    assert_eq!(cluster.truth().returns[&refused.jid].len(), 1);
}

#[tokio::test]
async fn an_idle_minion_is_small() {
    let mut cluster = Cluster::on_loopback(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let minion = Process::start(&cluster, root.path());
    answers(&mut cluster, &master).await;
    // The target is 12 MiB for a release build; the margin is for a build with debug assertions.
    let memory = minion.memory();
    println!("an idle minion has {} KiB", memory / 1024);
    assert!(memory < 16 * 1024 * 1024, "{memory} bytes");
}
