//! What a fleet does while nothing breaks: it attaches, answers, and works.
//!
//! Beside bursts stands what they did to the masters' group: elections, and the longest heartbeat of the last minute against
//! three quarters of its interval; and what it cost the masters' processors, which tells more than a time where the machine
//! is busy with other things.

use super::Arguments;
use super::ground::{Ground, MASTERS, PATIENCE};
use crate::client::Client;
use crate::demo::report::percentile;
use crate::fleet::bring_up::Cluster;
use crate::fleet::jobs;
use anyhow::{Context, ensure};
use saltern_pubsub::clock::SystemClock;
use saltern_wire::JobId;
use saltern_wire::api::{JobPage, JobState, Submit};
use saltern_wire::io::Clock;
use saltern_wire::target::TargetKind;
use std::time::Duration;
use tokio::task::JoinSet;

/// Pause between two looks at a job, which is the resolution of its time. A look costs a master some hundred microseconds.
const LOOK: Duration = Duration::from_millis(10);

/// How long the fleet rests before its memory is read.
const REST: Duration = Duration::from_secs(5);

/// Those who submit jobs at one time.
const SUBMITTERS: usize = 16;

/// Jobs to one minion.
const JOBS_TO_ONE: usize = 2_000;

/// Returns that jobs to all are worth.
const RETURNS: usize = 120_000;

/// Jobs to all at one time: so many wait for the same minions.
const JOBS_TO_ALL_MAX: usize = 400;

/// How the group fares while something is measured.
struct Calm {
    leader: usize,
    term: f64,
    entries: f64,
    used_us: f64,
    swarm_us: u64,
}

impl Calm {
    async fn begin(ground: &mut Ground) -> anyhow::Result<Self> {
        let leader = ground.leader().await?;
        let term = ground.metric(leader, "saltern_raft_term")?;
        let entries = ground.metric(leader, "saltern_raft_applied_index")?;
        let swarm_us = ground.swarm.figures().await?.processor_us;
        Ok(Self { leader, term, entries, used_us: ground.processor_us(), swarm_us })
    }

    /// Elections since, the longest heartbeat, and what each of `count` things cost all masters' processors together.
    async fn end(self, arguments: &Arguments, ground: &mut Ground, burst: &str, count: usize) -> anyhow::Result<()> {
        let used_us = ground.processor_us() - self.used_us;
        let swarm_us = ground.swarm.figures().await?.processor_us.saturating_sub(self.swarm_us);
        arguments.put(format!("{burst}_swarm_cpu_us"), swarm_us as f64 / count.max(1) as f64, "µs", ground.minions);
        arguments.put(format!("{burst}_masters_cpu_us"), used_us / count.max(1) as f64, "µs", ground.minions);
        let entries = ground.metric(self.leader, "saltern_raft_applied_index")? - self.entries;
        arguments.put(format!("{burst}_entries"), entries, "entries", ground.minions);
        let elections = ground.metric(self.leader, "saltern_raft_term")? - self.term;
        let longest = ground.metric(self.leader, "saltern_heartbeat_longest_seconds")?;
        let limit = ground.metric(self.leader, "saltern_heartbeat_limit_seconds")?;
        arguments.put(format!("{burst}_elections"), elections, "elections", ground.minions);
        arguments.put(format!("{burst}_heartbeat_ms_max"), longest * 1e3, "ms", ground.minions);
        arguments.put(format!("{burst}_heartbeat_ms_limit"), limit * 1e3, "ms", ground.minions);
        Ok(())
    }
}

/// What masters hold for each minion that is attached and idle, and what the swarm's own processes hold.
pub async fn memory(arguments: &Arguments, ground: &mut Ground) -> anyhow::Result<()> {
    tokio::time::sleep(REST).await;
    let more = ground.masters_kib().saturating_sub(ground.masters_alone_kib);
    arguments.put("kib_per_minion", more as f64 / ground.minions as f64, "KiB", ground.minions);
    let figures = ground.swarm.figures().await?;
    let each = figures.resident_kib as f64 / ground.minions as f64;
    arguments.put("swarm_kib_per_minion", each, "KiB", ground.minions);
    Ok(())
}

/// The whole fleet comes at once to three masters that know it.
pub async fn attach(arguments: &Arguments, ground: &mut Ground) -> anyhow::Result<()> {
    eprintln!("… {} minions attach at once", ground.minions);
    ground.swarm.order("stop all").await?;
    ground.moved();
    let calm = Calm::begin(ground).await?;
    let before = ground.swarm.figures().await?;
    let began_us = ground.wall_us();
    ground.swarm.order("start").await?;
    let figures = ground.wait_for_all("everybody to be attached").await?;
    let took = last_us(ground).context("nobody attached")?.saturating_sub(began_us) as f64 / 1e6;
    arguments.put("attach_per_s", ground.minions as f64 / took, "minions/s", ground.minions);
    arguments.put("attach_all_s", took, "s", ground.minions);
    let failed = figures.dials_failed.saturating_sub(before.dials_failed);
    arguments.put("attach_dials_failed", failed as f64, "dials", ground.minions);
    calm.end(arguments, ground, "attach", ground.minions).await
}

/// When the last minion began to work, among those that moved since the last look.
fn last_us(ground: &mut Ground) -> Option<u64> {
    ground.moved().into_iter().filter(|moved| moved.master.is_some()).map(|moved| moved.at_us).max()
}

/// `test.ping` to all: from the submission until every return is committed.
pub async fn ping(arguments: &Arguments, ground: &mut Ground) -> anyhow::Result<()> {
    eprintln!("… test.ping to {} minions", ground.minions);
    let calm = Calm::begin(ground).await?;
    let (mut client, mut walls) = (ground.client(), Vec::new());
    for _ in 0..arguments.repeats() {
        let began = ground.clock.monotonic();
        let jid = jobs::submit(&mut client, &jobs::for_all("test.ping", &[])).await?.jid;
        let returned = until_done(&mut client, jid).await?;
        walls.push(ground.clock.monotonic().saturating_sub(began).as_secs_f64());
        ensure!(returned == ground.minions, "{jid}: {returned} of {} minions returned", ground.minions);
    }
    arguments.put("ping_fleet_s_p50", percentile(walls.clone(), 50), "s", ground.minions);
    arguments.put("ping_fleet_s_p99", percentile(walls, 99), "s", ground.minions);
    calm.end(arguments, ground, "ping", ground.minions * arguments.repeats() as usize).await
}

/// Waits until nobody owes an answer to `jid`, and gives how many returned.
async fn until_done(client: &mut Client, jid: JobId) -> anyhow::Result<usize> {
    let look = async {
        loop {
            let page = client.get::<JobPage>("/v1/jobs", "limit=1").await?.value;
            let job = page.jobs.into_iter().find(|job| job.jid == jid);
            if let Some(job) = job.filter(|job| job.state == JobState::Done) {
                return anyhow::Ok(job.returned as usize);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.with_context(|| format!("{jid} is not done"))?
}

/// From the submission of a job for all until the last minion runs it.
pub async fn publish(arguments: &Arguments, ground: &mut Ground) -> anyhow::Result<()> {
    eprintln!("… publishing to {} minions", ground.minions);
    let (mut client, mut walls) = (ground.client(), Vec::new());
    for round in 0..arguments.repeats() {
        let name = format!("publish-{round}");
        let job = jobs::for_all("test.echo", &[serde_json::json!(format!("mark:{name}"))]);
        let began_us = ground.wall_us();
        let jid = jobs::submit(&mut client, &job).await?.jid;
        until_done(&mut client, jid).await?;
        let mark = ground.swarm.order(&format!("mark {name}")).await?.mark.unwrap_or_default();
        ensure!(mark.count == ground.minions as u64, "{jid}: it ran {} times on {}", mark.count, ground.minions);
        walls.push(mark.last_us.saturating_sub(began_us) as f64 / 1e6);
    }
    arguments.put("publish_fleet_s_p50", percentile(walls.clone(), 50), "s", ground.minions);
    arguments.put("publish_fleet_s_p99", percentile(walls.clone(), 99), "s", ground.minions);
    arguments.put("publish_fleet_s_max", percentile(walls, 100), "s", ground.minions);
    Ok(())
}

/// Jobs to one minion, one after the other by several submitters, each until its return is committed.
pub async fn jobs_to_one(arguments: &Arguments, ground: &mut Ground) -> anyhow::Result<()> {
    eprintln!("… jobs to one minion");
    let count = if arguments.quick { JOBS_TO_ONE / 10 } else { JOBS_TO_ONE };
    let job = jobs::job(TargetKind::List, "web-1", "test.ping", &[]);
    let calm = Calm::begin(ground).await?;
    let took = submit_and_wait(&ground.cluster, &ground.clock, &job, count).await?;
    arguments.put("jobs_per_s_one", count as f64 / took, "jobs/s", ground.minions);
    calm.end(arguments, ground, "jobs_to_one", count).await
}

/// Jobs to all, many at one time: how many a second, and how many returns are committed a second.
pub async fn jobs_to_all(arguments: &Arguments, ground: &mut Ground) -> anyhow::Result<()> {
    let returns = if arguments.quick { RETURNS / 10 } else { RETURNS };
    let count = (returns / ground.minions).clamp(2, JOBS_TO_ALL_MAX);
    eprintln!("… {count} jobs to all");
    let calm = Calm::begin(ground).await?;
    let took = submit_and_wait(&ground.cluster, &ground.clock, &jobs::for_all("test.ping", &[]), count).await?;
    arguments.put("jobs_per_s_all", count as f64 / took, "jobs/s", ground.minions);
    arguments.put("returns_acked_per_s", (count * ground.minions) as f64 / took, "returns/s", ground.minions);
    calm.end(arguments, ground, "jobs_to_all", count * ground.minions).await
}

/// Submits `count` times and waits until all is committed; how many seconds that took.
pub async fn submit_and_wait(
    cluster: &Cluster,
    clock: &SystemClock,
    job: &Submit,
    count: usize,
) -> anyhow::Result<f64> {
    let began = clock.monotonic();
    let mut submitters = JoinSet::new();
    for number in 0..SUBMITTERS {
        let (mut client, job) = (cluster.client(number % MASTERS), job.clone());
        let own = (count + SUBMITTERS - 1 - number) / SUBMITTERS;
        submitters.spawn(async move {
            for _ in 0..own {
                jobs::submit(&mut client, &job).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(submitted) = submitters.join_next().await {
        submitted??;
    }
    let mut client = cluster.client(0);
    let settled = async {
        while !client.get::<JobPage>("/v1/jobs", "limit=1&active=true").await?.value.jobs.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, settled).await.context("jobs stay open")??;
    let took = clock.monotonic().saturating_sub(began).as_secs_f64();
    let page = client.get::<JobPage>("/v1/jobs", &format!("limit={}", count.min(100))).await?.value;
    for job in page.jobs {
        ensure!(job.returned == job.targeted, "{}: {} of {} returned", job.jid, job.returned, job.targeted);
    }
    Ok(took)
}
