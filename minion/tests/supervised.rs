//! Stories of jobs in processes of their own: what a kill -9 of either side leaves behind.

mod common;

use common::{Cluster, ORDINAL};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use saltern_minion::executor::Work;
use saltern_minion::folder::Folder;
use saltern_minion::supervisor::Supervised;
use saltern_minion::{Agent, AgentHandle, Config, Executor};
use saltern_pubsub::disk::SystemDisk;
use saltern_wire::io::Disk;
use saltern_wire::job::{Job, OutcomeKind};
use saltern_wire::session::Standing;
use saltern_wire::{JobId, MinionId, decode, encode};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_saltern-minion");

/// Waits for a condition of the real world.
async fn until<T>(what: &str, mut wanted: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = wanted() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

fn folder(root: &Path) -> Folder {
    Folder::open(Arc::new(SystemDisk), root).expect("opens")
}

async fn minion(cluster: &Cluster, config: Config) -> AgentHandle {
    let executor: Arc<dyn Executor> = Arc::new(Supervised::new(PROGRAM, folder(&config.data_dir)));
    let minion = Agent::start(config, cluster.io(), executor).expect("starts");
    let accepted = Some(Standing::Accepted { ordinal: ORDINAL });
    minion.wait_for(|status| status.subscribed && status.standing == accepted).await.expect("running");
    minion
}

fn started(root: &Path, jid: JobId) -> Option<Work> {
    let bytes = SystemDisk.read(&folder(root).job_started(jid), 1 << 20).ok()??;
    decode(&bytes).ok()
}

fn pid_of(work: &Work) -> Pid {
    Pid::from_raw(i32::try_from(work.pid).expect("a pid")).expect("a pid")
}

/// A process that does not run any more, or waits to be reaped, is gone.
fn is_gone(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_err() || status.contains("State:\tZ") || status.is_empty()
}

fn work(job: &Job) -> Work {
    Work::of(job, &MinionId::new("web-1").expect("an id"), 1 << 20)
}

#[tokio::test]
async fn kill_9_of_the_supervisor_is_one_interrupted_outcome() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let minion = minion(&cluster, cluster.config(root.path(), &[1])).await;
    let job = cluster.job("test.sleep", vec![json!(600)]);
    master.offer(&job, &master.identity);
    let work = until("the start", || started(root.path(), job.jid)).await;
    kill_process(pid_of(&work), Signal::KILL).expect("ours");
    assert_eq!(cluster.outcome(job.jid).await.kind, OutcomeKind::Interrupted);
    master.offer(&job, &master.identity);
    let ping = cluster.job("test.ping", vec![]);
    master.offer(&ping, &master.identity);
    cluster.outcome(ping.jid).await;
    assert_eq!((minion.status().running, cluster.truth().returns[&job.jid].len()), (0, 1));
    minion.stop().await;
}

#[tokio::test]
async fn a_job_outlives_its_agent_and_the_next_one_brings_the_result_home() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let first = minion(&cluster, cluster.config(root.path(), &[1])).await;
    let marks = root.path().join("marks");
    let gate = root.path().join("gate");
    let command = format!(
        "echo start >> {0}; while [ ! -e {1} ]; do sleep 0.02; done; echo end",
        marks.display(),
        gate.display()
    );
    let job = cluster.job("cmd.run", vec![json!(command)]);
    master.offer(&job, &master.identity);
    until("the start", || marks.exists().then_some(())).await;
    first.stop().await;
    let second = minion(&cluster, cluster.config(root.path(), &[1])).await;
    assert_eq!(second.status().running, 1, "it is looked after");
    master.offer(&job, &master.identity);
    std::fs::write(&gate, "").expect("written");
    let outcome = cluster.outcome(job.jid).await;
    assert_eq!((outcome.kind, outcome.value), (OutcomeKind::Finished, json!("end")));
    second.wait_for(|status| status.waiting == 0 && status.running == 0).await.expect("running");
    assert_eq!(std::fs::read_to_string(&marks).expect("read"), "start\n", "started once");
    assert_eq!(cluster.truth().returns[&job.jid].len(), 1);
    let left = std::fs::read_dir(root.path().join("jobs")).expect("a folder").count();
    assert_eq!(left, 0, "nothing is left of it");
    second.stop().await;
}

#[tokio::test]
async fn kill_9_of_whoever_started_it_does_not_end_a_job() {
    let mut cluster = Cluster::new(&[1]);
    let root = tempfile::tempdir().expect("a folder");
    let folder = folder(root.path());
    let job = cluster.job("cmd.run", vec![json!("sleep 0.5; echo done")]);
    // A shell stands for the agent: the supervisor is its child. A background command of a shell reads a file.
    let input = root.path().join("work");
    std::fs::write(&input, encode(&work(&job))).expect("written");
    let script = format!("{PROGRAM} supervise --folder {} < {} & wait", root.path().display(), input.display());
    let mut parent = Command::new("sh").args(["-c", &script]).spawn().expect("started");
    let work = until("the start", || started(root.path(), job.jid)).await;
    parent.kill().expect("killed with -9");
    parent.wait().expect("reaped");
    until("the outcome", || folder.outbox().join(job.jid.to_string()).exists().then_some(())).await;
    until("the supervisor's end", || is_gone(pid_of(&work)).then_some(())).await;
}

#[tokio::test]
async fn a_supervisor_that_comes_late_or_second_does_nothing() {
    let mut cluster = Cluster::new(&[1]);
    let root = tempfile::tempdir().expect("a folder");
    let executor = Supervised::new(PROGRAM, folder(root.path()));
    let marks = root.path().join("marks");
    let supervise = |job: &Job| {
        let mut child = Command::new(PROGRAM)
            .args(["supervise", "--folder"])
            .arg(root.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        child.stdin.take().expect("piped").write_all(&encode(&work(job))).expect("written");
        let output = child.wait_with_output().expect("ended");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let late = cluster.job("cmd.run", vec![json!(format!("echo x >> {}", marks.display()))]);
    assert!(!executor.is_living(late.jid).expect("looked"));
    let (success, said) = supervise(&late);
    assert!(!success && said.contains("was started before"), "{said}");
    assert!(!marks.exists(), "it was declared interrupted, so it does not run");
    let twice = cluster.job("cmd.run", vec![json!(format!("echo x >> {}", marks.display()))]);
    assert!(supervise(&twice).0);
    assert!(!supervise(&twice).0);
    assert_eq!(std::fs::read_to_string(&marks).expect("read"), "x\n");
}

#[tokio::test]
async fn kill_job_ends_a_command_with_everything_it_started() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    let root = tempfile::tempdir().expect("a folder");
    let minion = minion(&cluster, cluster.config(root.path(), &[1])).await;
    let child = root.path().join("child");
    let job = cluster.job("cmd.run", vec![json!(format!("sleep 600 & echo $! > {}; wait", child.display()))]);
    master.offer(&job, &master.identity);
    let pid = until("the child", || std::fs::read_to_string(&child).ok()?.trim().parse().ok()).await;
    let pid = Pid::from_raw(pid).expect("a pid");
    let kill = cluster.job("saltutil.kill_job", vec![json!(job.jid)]);
    master.offer(&kill, &master.identity);
    let outcome = cluster.outcome(job.jid).await;
    assert!(!outcome.success && outcome.value.to_string().contains("kill_job"), "{outcome:?}");
    until("the child's end", || is_gone(pid).then_some(())).await;
    minion.stop().await;
}

#[tokio::test]
async fn what_a_killed_supervisor_leaves_running_is_ended_before_the_job_is_called_interrupted() {
    let mut cluster = Cluster::new(&[1]);
    let master = cluster.master(1).await;
    // With its agent alive, and with its agent dead; a command that keeps its environment, and one that does not.
    for (agent_lives, clean_env) in [(true, false), (true, true), (false, false)] {
        let root = tempfile::tempdir().expect("a folder");
        let first = minion(&cluster, cluster.config(root.path(), &[1])).await;
        let (children, beats) = (root.path().join("children"), root.path().join("beats"));
        let script = format!(
            "(while :; do echo beat >> {beats}; sleep 0.05; done) & echo $! $$ > {children}.new; mv {children}.new {children}; wait",
            beats = beats.display(),
            children = children.display()
        );
        let mut job = cluster.job("cmd.run", vec![json!(script)]);
        if clean_env {
            job.keywords.insert("clean_env".into(), json!(true));
            job.keywords.insert("env".into(), json!({"PATH": "/usr/bin:/bin"}));
        }
        master.offer(&job, &master.identity);
        let pids = until("the children", || std::fs::read_to_string(&children).ok()).await;
        let pids: Vec<Pid> =
            pids.split_whitespace().map(|pid| Pid::from_raw(pid.parse().expect("a pid")).expect("a pid")).collect();
        let work = until("the mark", || started(root.path(), job.jid)).await;
        let first = if agent_lives {
            Some(first)
        } else {
            first.stop().await;
            None
        };
        kill_process(pid_of(&work), Signal::KILL).expect("ours");
        let minion = if let Some(first) = first {
            first
        } else {
            until("a beat without anybody", || {
                let before = std::fs::metadata(&beats).ok()?.len();
                std::thread::sleep(Duration::from_millis(100));
                (std::fs::metadata(&beats).ok()?.len() > before).then_some(())
            })
            .await;
            minion(&cluster, cluster.config(root.path(), &[1])).await
        };
        assert_eq!(cluster.outcome(job.jid).await.kind, OutcomeKind::Interrupted);
        assert!(pids.iter().all(|pid| is_gone(*pid)), "they were ended before it was told: {pids:?}");
        assert_eq!(cluster.truth().returns[&job.jid].len(), 1);
        minion.stop().await;
    }
}
