//! A master that was away for so long that the log has gone on without it comes back by a snapshot, and nobody else notices;
//! one whose state is not that of the others notices by itself.

use anyhow::{Context, ensure};
use saltern_jepsen::real::{Wish, World, said};
use saltern_ops::fleet::jobs;
use saltern_store::kv::rocks::RocksEngine;
use saltern_store::kv::{Batch, Direction, Engine, Kv, Span, Table};
use saltern_wire::api::{ClusterStatus, JobView};
use saltern_wire::target::TargetKind;
use saltern_wire::{JobId, Value};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Returns that make the state large, and how large each one is: nothing packs random bytes.
const LARGE_RETURNS: usize = 3;
const LARGE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that have to be there before the receiver is killed, and to count afterwards.
const ARRIVED_BYTES: u64 = 3 * 1024 * 1024;

/// How long the slowest step may take on a machine that does something else.
const PATIENCE: Duration = Duration::from_secs(90);

/// Timing that a busy machine keeps: what is shown is that snapshots do not disturb it.
const CALM: &str = "heartbeat_ms: 200\nelection_ms_min: 1000\nelection_ms_max: 1500\n";

/// A figure of a master's metrics.
fn figure(world: &World, master: usize, name: &str) -> anyhow::Result<f64> {
    let mut stream = std::os::unix::net::UnixStream::connect(world.cluster.fleet.masters[master].socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: master\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let value = line.and_then(|line| line.split(' ').nth(1)).with_context(|| format!("no {name} in {text}"))?;
    Ok(value.parse()?)
}

async fn set(world: &World, masters: &[usize], name: &str, value: u64) -> anyhow::Result<()> {
    let mut client = world.cluster.client_of(masters);
    client.put::<_, Value>(&format!("/v1/config/{name}"), &serde_json::json!(value)).await?;
    Ok(())
}

/// Waits until `met`, looking often.
async fn until(what: &str, mut met: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let look = async {
        loop {
            if met()? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.with_context(|| format!("waited for {what} in vain"))?
}

/// Bytes of the snapshot that is on its way into `data`.
fn arrived(data: &Path) -> u64 {
    let below = |folder: &Path| -> Vec<std::fs::DirEntry> {
        std::fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_default()
    };
    let receptions = below(&data.join("snapshots")).into_iter().map(|entry| entry.path());
    let receptions = receptions.filter(|path| path.is_dir() && path.to_string_lossy().contains("recv-"));
    let sizes = receptions.flat_map(|folder| below(&folder)).filter_map(|file| Some(file.metadata().ok()?.len()));
    sizes.sum()
}

/// What a master has said since it was started.
fn log_of(world: &World, master: usize) -> String {
    world.cluster.fleet.masters[master].process.as_ref().map(|process| process.said()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_was_away_comes_back_by_a_snapshot_that_is_interrupted_while_writes_go_on() -> anyhow::Result<()>
{
    let master_extra = format!("{CALM}snapshot_entries: 200\nlog_keep_entries: 20\nlog_level: info\n");
    let mut world = World::of(Wish { masters: 3, minions: 1, master_extra, ..Wish::default() }).await?;
    for _ in 0..LARGE_RETURNS {
        let words = format!("head -c {} /dev/urandom | base64 -w 0", LARGE_BYTES / 4 * 3);
        let job = jobs::job(TargetKind::Glob, "*", "cmd.run", &[words.into()]);
        let view = jobs::run(&mut world.cluster.client(0), &job, PATIENCE).await?;
        ensure!(view.returns.len() == 1, "{:?}", view.missing);
    }
    let leader = world.leader(0).await?;
    let away = (leader + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|number| *number != away).collect();
    set(&world, &others, "snapshot_mib_per_second", 2).await?;
    world.kill_master(away)?;
    // The log goes on without it, and is purged.
    let applied = figure(&world, leader, "saltern_raft_applied_index")?;
    for value in 1..=500 {
        set(&world, &others, "job_ttl_ms", 60_000 + value).await?;
    }
    until("a snapshot behind which the log is gone", || {
        Ok(figure(&world, leader, "saltern_snapshot_index")? > applied + 100.0)
    })
    .await?;
    let status = world.cluster.client(leader).get::<ClusterStatus>("/v1/cluster/status", "").await?.value;

    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (stop, written, mut client) = (Arc::clone(&stop), Arc::clone(&written), world.cluster.client_of(&others));
        tokio::spawn(async move {
            let mut value = 100_000_u64;
            while !stop.load(Ordering::Relaxed) {
                let next = serde_json::json!(value + 1);
                client.put::<_, Value>("/v1/config/job_ttl_ms", &next).await?;
                value += 1;
                written.store(value, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(value)
        })
    };
    world.start_master(away)?;
    let data = world.cluster.fleet.masters[away].data();
    until("a part of the snapshot", || Ok(arrived(&data) >= ARRIVED_BYTES)).await?;
    world.kill_master(away)?;
    let here = arrived(&data);
    world.start_master(away)?;
    // Those to a master that is away are not answered; from here on all three are there.
    let unanswered = figure(&world, leader, "saltern_heartbeats_unanswered_total")?;
    until("the rest to be announced", || Ok(log_of(&world, away).contains("receiving a snapshot"))).await?;
    until("the snapshot to be installed", || Ok(log_of(&world, away).contains("installed a snapshot"))).await?;
    let kept = figure(&world, away, "saltern_snapshot_kept_bytes_total")?;
    let came = figure(&world, away, "saltern_snapshot_received_bytes_total")?;
    println!("{here} bytes had come, {kept} of them did not travel again, {came} came then");
    ensure!(
        kept >= (here / 2) as f64,
        "{kept} of the {here} bytes that had come count; it says {}",
        log_of(&world, away)
    );

    stop.store(true, Ordering::Relaxed);
    let last = writer.await??;
    ensure!(last == written.load(Ordering::Relaxed) && last > 100_000, "the writer wrote up to {last}");
    let newest = move |settings: &Value| settings["job_ttl_ms"] == serde_json::json!(last);
    world.cluster.wait(away, "the newest value", "/v1/config", newest).await?;
    let after = world.cluster.client(leader).get::<ClusterStatus>("/v1/cluster/status", "").await?.value;
    ensure!((after.term, &after.leader) == (status.term, &status.leader), "there was an election: {after:?}");
    let longest = figure(&world, leader, "saltern_heartbeat_longest_seconds")?;
    let limit = figure(&world, leader, "saltern_heartbeat_limit_seconds")?;
    let late = figure(&world, leader, "saltern_heartbeats_unanswered_total")? - unanswered;
    println!("the longest heartbeat took {:.1} ms, {:.0} ms are allowed; {late} came late", longest * 1e3, limit * 1e3);
    ensure!(longest > 0.0 && longest < limit, "a heartbeat took {longest} s, {limit} s are allowed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_large_entries_do_not_fill_the_disk_before_a_snapshot_is_due() -> anyhow::Result<()> {
    let master_extra = format!("{CALM}log_compact_mib: 2\nlog_keep_mib: 1\n");
    let world = World::of(Wish { masters: 1, minions: 1, master_extra, ..Wish::default() }).await?;
    let words = format!("head -c {} /dev/urandom | base64 -w 0", LARGE_BYTES / 4 * 3);
    let job = jobs::job(TargetKind::Glob, "*", "cmd.run", &[words.into()]);
    let view = jobs::run(&mut world.cluster.client(0), &job, PATIENCE).await?;
    ensure!(view.returns.len() == 1, "{:?}", view.missing);
    let entries = figure(&world, 0, "saltern_raft_applied_index")?;
    ensure!(entries < 1000.0, "{entries} entries would be enough for a snapshot by themselves");
    until("a snapshot, and the log to be short", || {
        let (index, log) = (figure(&world, 0, "saltern_snapshot_index")?, figure(&world, 0, "saltern_raft_log_bytes")?);
        Ok(index > 0.0 && log < 3.0 * 1024.0 * 1024.0)
    })
    .await?;
    let view = jobs::look_up(&mut world.cluster.client(0), view.summary.jid).await?;
    ensure!(view.returns.len() == 1, "what the log no longer holds is in the truth: {:?}", view.missing);
    Ok(())
}

/// Puts another byte into the recorded return of `jid`, past the machine: every checksum fits.
fn bend(data: &Path, jid: JobId) -> anyhow::Result<()> {
    let current = std::fs::read_to_string(data.join("state/CURRENT"))?;
    let live = data.join("state").join(current.split(' ').next().context("a name")?);
    let kv: Arc<dyn Kv> = RocksEngine.open_state(&live)?;
    let rows = kv.scan(Table::Returns, &Span::all(), Direction::Forward, 1000)?;
    let (key, mut row) = rows.into_iter().find(|(key, _)| key[2..18] == jid.to_bytes()).context("it is on the disk")?;
    let place = row.windows(5).position(|word| word == b"right").context("the word that was returned")?;
    row[place..place + 5].copy_from_slice(b"wrong");
    let mut batch = Batch::default();
    batch.put(Table::Returns, key, row);
    kv.write(batch)?;
    Ok(kv.flush()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_whose_state_is_not_that_of_the_others_stops_and_comes_back() -> anyhow::Result<()> {
    let master_extra = format!("{CALM}snapshot_entries: 40\nlog_keep_entries: 20\n");
    let mut world = World::of(Wish { masters: 3, minions: 1, master_extra, ..Wish::default() }).await?;
    let job = jobs::job(TargetKind::Glob, "*", "cmd.run", &["echo right".into()]);
    let jid = jobs::run(&mut world.cluster.client(0), &job, PATIENCE).await?.summary.jid;
    let odd = (world.leader(0).await? + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|number| *number != odd).collect();
    // Its tables are on the disk once a snapshot was made.
    let before = figure(&world, odd, "saltern_raft_applied_index")?;
    for value in 1..=100 {
        set(&world, &[0, 1, 2], "job_ttl_ms", 60_000 + value).await?;
    }
    until("a snapshot at the one that is to be odd", || Ok(figure(&world, odd, "saltern_snapshot_index")? > before))
        .await?;
    world.kill_master(odd)?;
    bend(&world.cluster.fleet.masters[odd].data(), jid)?;
    let checked = command(&world, odd, &["check"])?;
    ensure!(checked.status.code() == Some(0), "nothing by itself tells: {}", said(&checked));

    // Somebody who owes an answer lets time pass: every tick compares.
    world.cluster.fleet.minions[0].process.take().context("it runs")?.kill();
    jobs::submit(&mut world.cluster.client_of(&others), &job).await?;
    world.start_master(odd)?;
    let process = world.cluster.fleet.masters[odd].process.as_mut().context("it was started")?;
    let ending = process.wait(PATIENCE).await.context("a master with another state goes on running")?;
    let words = ending.said.join("\n");
    world.cluster.fleet.masters[odd].process = None;
    ensure!(ending.status.code() == Some(65), "it ended with {:?}: {words}", ending.status);
    for part in ["differs from the one on which a majority agrees", "is quarantined", "saltern-master rejoin"] {
        ensure!(words.contains(part), "{part:?} is not said: {words}");
    }
    for master in &others {
        let mut client = world.cluster.client(*master);
        let view: JobView = client.get(&format!("/v1/jobs/{jid}"), "").await?.value;
        let value = view.returns.values().next().context("its return")?.value.clone();
        ensure!(value.to_string().contains("right"), "master {} serves {value}", master + 1);
    }
    set(&world, &others, "job_ttl_ms", 70_000).await?;

    let rejoined = command(&world, odd, &["rejoin"])?;
    ensure!(rejoined.status.code() == Some(0), "{}", said(&rejoined));
    world.start_master(odd)?;
    world.cluster.wait_for_voters(3).await?;
    let newest = |settings: &Value| settings["job_ttl_ms"] == serde_json::json!(70_000);
    world.cluster.wait(odd, "the newest value", "/v1/config", newest).await?;
    let view: JobView = world.cluster.client(odd).get(&format!("/v1/jobs/{jid}"), "").await?.value;
    ensure!(view.returns.values().all(|found| found.value.to_string().contains("right")), "{view:?}");
    Ok(())
}

/// Runs `saltern-master COMMAND…` for a master that does not run.
fn command(world: &World, master: usize, words: &[&str]) -> anyhow::Result<std::process::Output> {
    let mut command = Command::new(&world.cluster.fleet.binaries().master);
    command.args(words).arg("-c").arg(world.cluster.fleet.masters[master].config());
    Ok(command.output()?)
}
