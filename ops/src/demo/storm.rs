//! A burst of jobs, and the leader killed with -9 in the middle of it.
//!
//! Each job makes one file per start on this machine, so that starts are counted on the disk and not believed; each write and
//! each minion's whereabouts are watched through the masters that survive.

use super::Voice;
use super::report::{Report, load, percentile};
use crate::client::Client;
use crate::fleet::bring_up::Cluster;
use crate::fleet::burst::Burst;
use anyhow::Context;
use saltern_wire::api::{Answer, ClusterStatus, MinionList, Presence};
use saltern_wire::io::Clock;
use saltern_wire::{MinionId, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Returns that the burst is worth at least.
const RETURNS_MIN: usize = 120;

/// Pause between two looks of a watcher; also the resolution of the gaps.
const LOOK: Duration = Duration::from_millis(10);

/// How long everything may take to be recorded after the leader's death.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long a follower may take to apply what another master has.
const CATCH_UP: Duration = Duration::from_secs(2);

/// How long each job of the burst runs, in seconds.
const JOB_SECONDS: f64 = 0.2;

/// Pause between two jobs of the burst.
const JOB_PAUSE: Duration = Duration::from_millis(60);

/// A writer that goes from survivor to survivor, and on each survivor a watcher of who is attached to it.
pub struct Watch {
    over: Arc<AtomicBool>,
    writes: JoinSet<Vec<Duration>>,
    moves: JoinSet<BTreeMap<MinionId, Duration>>,
}

/// What a [`Watch`] saw.
pub struct Seen {
    /// Longest time between two acknowledged writes.
    pub longest_gap: Duration,
    /// When each watched minion was first seen attached to a survivor, monotonic.
    pub moves: BTreeMap<MinionId, Duration>,
}

/// Runs the burst and says what came of it.
pub async fn rage(cluster: &mut Cluster, clock: &(impl Clock + Clone), voice: &mut Voice) -> anyhow::Result<Report> {
    let minions = cluster.fleet.minions.len();
    let count = RETURNS_MIN.div_ceil(minions).max(4);
    let leader = leader_of(cluster).await?;
    let survivors: Vec<usize> = (0..cluster.fleet.masters.len()).filter(|number| *number != leader).collect();
    anyhow::ensure!(!survivors.is_empty(), "with one master there is nobody to survive it; start at least three");
    let orphaned = attached_to(cluster, survivors[0], leader).await?;
    let mut burst = Burst::new(&cluster.fleet.masters[leader].folder.with_file_name("starts"), JOB_SECONDS)?;

    voice.say("");
    voice.say(&format!(
        "Now {count} jobs of {minions} returns each; {} leads and dies in the middle.",
        name(cluster, leader)
    ));
    let watch = Watch::start(cluster, &survivors, &orphaned, clock);
    let mut client = cluster.client_of(&survivors);
    let mut died = None;
    for number in 0..count {
        if number == count / 2 {
            let process = cluster.fleet.masters[leader].process.take().context("the leader was running")?;
            voice.say(&format!("kill -9 {} ({})", process.id(), name(cluster, leader)));
            died = Some(clock.monotonic());
            process.kill();
        }
        burst.submit(&mut client).await?;
        tokio::time::sleep(JOB_PAUSE).await;
    }
    let died = died.context("the leader was killed")?;

    voice.wait("waiting for every return");
    burst.settle(&mut client, PATIENCE).await?;
    let Seen { longest_gap: gap, moves } = watch.end().await;
    let gaps = orphaned.iter().map(|minion| {
        let back = moves.get(minion).copied().unwrap_or(died + PATIENCE);
        back.saturating_sub(died).as_secs_f64() * 1e3
    });
    let gaps: Vec<f64> = gaps.collect();
    let mut tallies = Vec::new();
    for number in &survivors {
        let mut client = cluster.client(*number);
        burst.settle(&mut client, CATCH_UP).await?;
        tallies.push(burst.tally(&mut client).await?);
    }
    Ok(Report {
        masters: cluster.fleet.masters.len(),
        minions,
        jobs: count,
        targeted: tallies[0].targeted,
        returned: tallies[0].returned,
        duplicates: tallies[0].doubled.len(),
        lost: tallies[0].lost.len(),
        identical: tallies.iter().all(|tally| tally.agrees_with(&tallies[0])),
        write_gap_ms: gap.as_secs_f64() * 1e3,
        minion_gap_ms_p99: percentile(gaps, 99),
        minions_moved: orphaned.len(),
        load: load(),
    })
}

fn name(cluster: &Cluster, number: usize) -> &str {
    &cluster.fleet.masters[number].name
}

/// The number of the master that leads.
pub async fn leader_of(cluster: &Cluster) -> anyhow::Result<usize> {
    let status: Answer<ClusterStatus> = cluster.client(0).get("/v1/cluster/status", "").await?;
    let leader = status.value.leader.context("the cluster has no leader")?;
    cluster.fleet.masters.iter().position(|master| master.name == leader).context("the leader is one of ours")
}

/// The minions that are attached to one master, as another sees it.
pub async fn attached_to(cluster: &Cluster, asked: usize, master: usize) -> anyhow::Result<BTreeSet<MinionId>> {
    let list: Answer<MinionList> = cluster.client(asked).get("/v1/minions", "").await?;
    let wanted = name(cluster, master);
    let there = list.value.minions.into_iter().filter(|minion| minion.master.as_deref() == Some(wanted));
    Ok(there.map(|minion| minion.id).collect())
}

impl Watch {
    /// Starts to watch through `survivors` for the minions in `orphaned`.
    pub fn start(
        cluster: &Cluster,
        survivors: &[usize],
        orphaned: &BTreeSet<MinionId>,
        clock: &(impl Clock + Clone),
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (mut writes, mut moves) = (JoinSet::new(), JoinSet::new());
        writes.spawn(write_on(cluster.client_of(survivors), clock.clone(), Arc::clone(&over)));
        for number in survivors {
            let here = name(cluster, *number).to_owned();
            let struck = (0..cluster.fleet.masters.len()).find(|other| !survivors.contains(other));
            let struck = struck.map(|other| name(cluster, other).to_owned()).unwrap_or_default();
            let client = cluster.client(*number);
            moves.spawn(see_moves(client, here, struck, orphaned.clone(), clock.clone(), Arc::clone(&over)));
        }
        Self { over, writes, moves }
    }

    /// Goes on until one survivor has seen every watched minion, or the survivors together have, at most `within`.
    pub async fn until_all_seen(mut self, within: Duration) -> Seen {
        let mut moves = BTreeMap::new();
        let all = async {
            while let Some(Ok(seen)) = self.moves.join_next().await {
                merge(&mut moves, seen);
            }
        };
        // The watchers end by themselves once every minion was seen somewhere; the shared flag ends the rest.
        let _ = tokio::time::timeout(within, all).await;
        let mut seen = self.end().await;
        merge(&mut seen.moves, moves);
        seen
    }

    /// Stops watching.
    pub async fn end(mut self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        let longest_gap = longest_gap(&mut self.writes).await;
        let mut moves = BTreeMap::new();
        while let Some(Ok(seen)) = self.moves.join_next().await {
            merge(&mut moves, seen);
        }
        Seen { longest_gap, moves }
    }
}

fn merge(into: &mut BTreeMap<MinionId, Duration>, seen: BTreeMap<MinionId, Duration>) {
    for (minion, at) in seen {
        let earliest = into.entry(minion).or_insert(at);
        *earliest = (*earliest).min(at);
    }
}

/// Writes a setting to its own value, over and over; gives the times of the acknowledgements.
async fn write_on(mut client: Client, clock: impl Clock, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut acknowledged = Vec::new();
    let value = saltern_wire::settings::Settings::default().job_ttl_ms;
    while !over.load(Ordering::Relaxed) {
        let written = client.put::<_, Value>("/v1/config/job_ttl_ms", &serde_json::json!(value)).await;
        if written.is_ok() {
            acknowledged.push(clock.monotonic());
        }
        tokio::time::sleep(LOOK).await;
    }
    acknowledged
}

/// Looks who is attached to the master that is asked; gives when each orphaned minion was first seen there.
async fn see_moves(
    mut client: Client,
    here: String,
    struck: String,
    orphaned: BTreeSet<MinionId>,
    clock: impl Clock,
    over: Arc<AtomicBool>,
) -> BTreeMap<MinionId, Duration> {
    let mut seen = BTreeMap::new();
    // Minions that are connected anywhere but on the master that was struck.
    let mut elsewhere: BTreeSet<MinionId> = BTreeSet::new();
    while !over.load(Ordering::Relaxed) && elsewhere.len() < orphaned.len() {
        if let Ok(list) = client.get::<MinionList>("/v1/minions", "").await {
            let now = clock.monotonic();
            for minion in list.value.minions {
                if minion.presence != Presence::Connected || !orphaned.contains(&minion.id) {
                    continue;
                }
                if minion.master.as_deref() == Some(here.as_str()) {
                    seen.entry(minion.id.clone()).or_insert(now);
                }
                if minion.master.as_deref() != Some(struck.as_str()) {
                    elsewhere.insert(minion.id);
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    seen
}

async fn longest_gap(writes: &mut JoinSet<Vec<Duration>>) -> Duration {
    let mut longest = Duration::ZERO;
    while let Some(Ok(times)) = writes.join_next().await {
        let gaps = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        longest = longest.max(gaps.max().unwrap_or(PATIENCE));
    }
    longest
}
