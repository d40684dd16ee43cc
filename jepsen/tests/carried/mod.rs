//! What the stories of backup and recovery have in common: a load whose acknowledgements are known, and commands of an
//! operator.

#![allow(dead_code, reason = "each story uses its part")]

use anyhow::{Context, ensure};
use saltern_jepsen::real::faults::FAULTS;
use saltern_jepsen::real::{SETTLE, World, said};
use saltern_ops::client::Client;
use saltern_ops::fleet::jobs;
use saltern_wire::api::{MinionList, Presence, Submit, Submitted};
use saltern_wire::target::TargetKind;
use saltern_wire::{JobId, Value};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The first value that is written.
const FIRST: u64 = 60_000;

/// A write that was acknowledged. Its place in the log is behind `after` and not behind `upto`.
#[derive(Debug, Clone, Copy)]
pub struct Placed<T> {
    /// The newest revision that was known before it was asked for.
    pub after: u64,
    /// The revision of its acknowledgement.
    pub upto: u64,
    /// What was written.
    pub what: T,
}

/// What was acknowledged, with its place in the log.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// Values of one setting, rising.
    pub settings: Vec<Placed<u64>>,
    /// Jobs.
    pub jobs: Vec<Placed<JobId>>,
}

/// A load: one after the other, a setting and a job.
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: JoinHandle<anyhow::Result<Acknowledged>>,
}

impl Writer {
    /// Begins, with jobs for minion-1.
    pub fn start(world: &World, masters: &[usize]) -> Self {
        Self::begin(world, masters, true)
    }

    /// Begins, with settings only.
    pub fn settings_only(world: &World, masters: &[usize]) -> Self {
        Self::begin(world, masters, false)
    }

    fn begin(world: &World, masters: &[usize], with_jobs: bool) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = world.cluster.client_of(masters);
        let task = tokio::spawn(write(client, with_jobs, Arc::clone(&stop), Arc::clone(&written)));
        Self { stop, written, task }
    }

    /// Waits for so many more acknowledgements.
    pub async fn wait_for(&self, count: u64) -> anyhow::Result<()> {
        let from = self.written.load(Ordering::Relaxed);
        let more = async {
            while self.written.load(Ordering::Relaxed) < from + count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SETTLE, more).await.context("the load stands still")
    }

    /// Ends, and tells what was acknowledged.
    pub async fn stop(self) -> anyhow::Result<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn write(
    mut client: Client,
    with_jobs: bool,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
) -> anyhow::Result<Acknowledged> {
    let mut all = Acknowledged::default();
    let ping = jobs::job(TargetKind::Glob, "minion-1", "test.ping", &[]);
    let (mut value, mut after) = (FIRST, 0);
    while !stop.load(Ordering::Relaxed) {
        value += 1;
        let upto = client.put::<_, Value>("/v1/config/job_ttl_ms", &serde_json::json!(value)).await?.revision.0;
        all.settings.push(Placed { after, upto, what: value });
        after = upto;
        if with_jobs && value.is_multiple_of(4) {
            let submitted = client.post::<_, Submitted>("/v1/jobs", &ping).await?;
            let upto = submitted.revision.0;
            all.jobs.push(Placed { after, upto, what: submitted.value.jid });
            after = upto;
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(all)
}

/// A shell command for one minion.
pub fn job_of(minion: &str, command: &str, ttl_ms: u64) -> Submit {
    Submit { ttl_ms: Some(ttl_ms), ..jobs::job(TargetKind::Glob, minion, "cmd.run", &[command.into()]) }
}

/// `saltern snapshot save`, `verify` and `inspect`: the point in the log.
pub fn save(world: &World, masters: &[usize], file: &Path) -> anyhow::Result<u64> {
    let file = file.display().to_string();
    let saved = world.saltern(masters, &["snapshot", "save", &file, "-o", "json"])?;
    ensure!(saved.status.success(), "{}", said(&saved));
    let verified = world.saltern(masters, &["snapshot", "verify", &file])?;
    ensure!(verified.status.success(), "{}", said(&verified));
    let inspected = world.saltern(masters, &["snapshot", "inspect", &file, "-o", "json"])?;
    ensure!(inspected.stdout == saved.stdout, "{} {}", said(&saved), said(&inspected));
    let facts: Value = serde_json::from_slice(&saved.stdout)?;
    facts["revision"].as_u64().with_context(|| format!("{facts}"))
}

/// `saltern cluster export-keys`, under [`write_passphrase`]'s passphrase.
pub fn write_secret(world: &World, masters: &[usize], keys: &Path) -> anyhow::Result<()> {
    let passphrase = write_passphrase(keys)?;
    let arguments =
        ["cluster", "export-keys", &keys.display().to_string(), "--passphrase-file", &passphrase.display().to_string()];
    let exported = world.saltern(masters, &arguments)?;
    ensure!(exported.status.success(), "{}", said(&exported));
    Ok(())
}

fn write_passphrase(keys: &Path) -> anyhow::Result<std::path::PathBuf> {
    let path = keys.with_file_name("passphrase");
    std::fs::write(&path, "correct horse battery staple\n")?;
    Ok(path)
}

/// Runs `saltern-master COMMAND…` for a master that does not run.
pub fn master_command(world: &World, master: usize, words: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(&world.cluster.fleet.binaries().master);
    command.args(words).arg("-c").arg(world.cluster.fleet.masters[master].config());
    Ok(command.output()?)
}

/// `saltern-master restore`, whatever comes of it.
pub fn try_restore(world: &World, master: usize, archive: &Path, keys: &Path) -> anyhow::Result<Output> {
    try_restore_with(world, master, archive, keys, None)
}

/// The same, with a fault on its way.
pub fn try_restore_with(
    world: &World,
    master: usize,
    archive: &Path,
    keys: &Path,
    fault: Option<&str>,
) -> anyhow::Result<Output> {
    let mut command = Command::new(&world.cluster.fleet.binaries().master);
    command.arg("restore").arg(archive).arg("--keys").arg(keys).arg("--passphrase-file").arg(write_passphrase(keys)?);
    command.arg("-c").arg(world.cluster.fleet.masters[master].config()).envs(fault.map(|spec| (FAULTS, spec)));
    Ok(command.output()?)
}

/// `saltern-master restore`: what it said.
pub fn restore(world: &World, master: usize, archive: &Path, keys: &Path) -> anyhow::Result<String> {
    let output = try_restore(world, master, archive, keys)?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// The former masters (`former` beside each data folder) come back in place of the running ones, a whole quorum of them: no
/// minion obeys them. Then they go again, and the minions work for the ones that ran before.
pub async fn minions_obey_only(world: &mut World, minions: usize) -> anyhow::Result<()> {
    swap(world, "former", "now")?;
    world.cluster.wait_for_voters(3).await?;
    let refused = "this minion to cluster";
    for number in 0..minions {
        let log = world.cluster.fleet.minions[number].folder.join("log");
        let from = std::fs::read_to_string(&log)?.len();
        let told = async {
            loop {
                let text = std::fs::read_to_string(&log)?;
                if text.get(from..).is_some_and(|new| new.contains(refused)) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SETTLE, told).await.with_context(|| format!("minion {number} refuses nobody"))??;
    }
    let list = world.cluster.client(0).get::<MinionList>("/v1/minions", "").await?.value;
    let connected = list.minions.iter().filter(|minion| minion.presence == Presence::Connected).count();
    ensure!(connected == 0, "{list:?} with masters of the former cluster");
    swap(world, "now", "former")?;
    world.cluster.wait_for_voters(3).await?;
    world.cluster.wait_for_connected(0, minions).await?;
    let view = jobs::run(&mut world.cluster.client(0), &jobs::for_all("test.ping", &[]), SETTLE).await?;
    ensure!(view.returns.len() == minions, "{view:?}");
    Ok(())
}

/// Ends every master, puts the data folders called `name` in the place of those there are, and starts them.
fn swap(world: &mut World, name: &str, aside: &str) -> anyhow::Result<()> {
    for number in 0..world.cluster.fleet.masters.len() {
        world.kill_master(number)?;
        let data = world.cluster.fleet.masters[number].data();
        std::fs::rename(&data, data.with_file_name(aside))?;
        std::fs::rename(data.with_file_name(name), &data)?;
    }
    (0..world.cluster.fleet.masters.len()).try_for_each(|number| world.start_master(number))
}
