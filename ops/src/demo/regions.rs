//! `saltern demo --regions eu,us,ap --rtt 80,150,220`: one cluster over several regions, on one machine.
//!
//! ```text
//!   fleet behind a relay ▶ who leads, how far, how long a write takes from each region ▶ forecast of losing the leader's region
//!                        ▶ that region is killed ▶ what came: write gap, new leader, writes from each region ▶ report
//! ```
//!
//! **It refuses** to call a forecast true that was not: the gap that was measured stands beside the one that was foretold.

use super::Voice;
use super::report::{load, percentile};
use crate::client::{Client, query};
use crate::fleet::bring_up::Cluster;
use crate::relay::Distances;
use anyhow::Context;
use saltern_wire::Value;
use saltern_wire::api::{Answer, ClusterStatus, Forecast};
use saltern_wire::io::Clock;
use saltern_wire::profile::Profile;
use saltern_wire::settings::Settings;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Writes of a measurement: the middle of nine is not moved by two that met a busy moment.
const WRITES: usize = 9;

/// Pause between two writes of the watcher.
const PAUSE: Duration = Duration::from_millis(10);

/// How long writes may be away after a region was lost. An election over regions takes five seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long the masters may take to have measured every way.
const MEASURED_WITHIN: Duration = Duration::from_secs(60);

/// A machine that has other work may be so much later than what was foretold, in milliseconds.
const LATE_MS: u64 = 1_500;

/// Regions with the distances between them, as the arguments say.
pub fn distances(regions: &[String], round_trips_ms: &[u64], masters: usize) -> anyhow::Result<(Distances, Profile)> {
    let round_trips: Vec<Duration> = round_trips_ms.iter().copied().map(Duration::from_millis).collect();
    let distances = Distances::between(regions, &round_trips).map_err(|error| anyhow::anyhow!("--rtt: {error}"))?;
    anyhow::ensure!(
        masters >= regions.len(),
        "{masters} masters cannot be in {} regions: start more with --masters, or name fewer with --regions",
        regions.len()
    );
    let longest_us = round_trips_ms.iter().max().copied().unwrap_or(0) * 1_000;
    let profile = Profile::fastest_for(longest_us).with_context(|| {
        let most = Profile::Geo.round_trip_us_max() / 1_000;
        format!("--rtt: a round trip of {} ms is more than the {most} ms that any profile bears", longest_us / 1_000)
    })?;
    Ok((distances, profile))
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionsReport {
    /// Regions, in the order of their masters.
    pub regions: Vec<String>,
    /// Raft's timing.
    pub profile: Profile,
    /// The leader's region before the loss.
    pub leader_region: String,
    /// Median time of a write through a master of each region, in milliseconds.
    pub write_ms: BTreeMap<String, f64>,
    /// What was foretold of losing the leader's region.
    pub forecast: Forecast,
    /// Longest time between two acknowledged writes around the loss, in milliseconds.
    pub write_gap_ms: f64,
    /// The leader's region after it.
    pub leader_region_after: String,
    /// Median time of a write through a master of each surviving region, in milliseconds.
    pub write_ms_after: BTreeMap<String, f64>,
    /// Load average of the machine over the last minute, when the report was made.
    pub load: f64,
}

impl RegionsReport {
    /// Whether what came is what was foretold: writes went on, after a pause that is no longer (but for what a busy machine
    /// adds), under a leader that was among those named.
    pub fn kept(&self) -> bool {
        let Some((_, most)) = self.forecast.write_gap_ms else { return false };
        let foretold = self.forecast.after.candidates.iter().any(|one| one.region == self.leader_region_after);
        self.write_gap_ms <= (most + LATE_MS) as f64 && foretold && self.leader_region_after != self.leader_region
    }

    /// Tells it to people.
    pub fn tell(&self, voice: &mut Voice) {
        let (from, to) = self.forecast.write_gap_ms.unwrap_or_default();
        voice.say("");
        voice.say(&format!(
            "Foretold: no writes for {:.1} to {:.1} s. Measured: {:.1} s. {} leads now. Load {:.1}.",
            from as f64 / 1e3,
            to as f64 / 1e3,
            self.write_gap_ms / 1e3,
            self.leader_region_after,
            self.load
        ));
        voice.say(if self.kept() {
            "The forecast was true."
        } else {
            "THE FORECAST WAS WRONG: see the figures above."
        });
    }
}

/// Tells the story of a cluster over regions.
pub async fn tell(
    cluster: &mut Cluster,
    clock: &(impl Clock + Clone),
    voice: &mut Voice,
) -> anyhow::Result<RegionsReport> {
    voice.wait("waiting until every way is measured");
    let status = measured(cluster).await?;
    let profile = status.timing.as_ref().map(|timing| timing.timing).context("the masters tell their timing")?;
    let leader = region_of_leader(cluster, &status)?;
    voice.say("");
    voice
        .say(&format!("{} leads; the profile is {profile}. As {} measures it:", leader, cluster.fleet.masters[0].name));
    for member in &status.members {
        let far = member.round_trip.map_or_else(|| "-".into(), |way| format!("{} ms", way.p50_us / 1_000));
        voice.say(&format!("  {:<10} {:<6} {:<9} {far}", member.name, member.region, member.role));
    }
    let all: Vec<usize> = (0..cluster.fleet.masters.len()).collect();
    let write_ms = writes(cluster, &all, clock, voice).await?;

    let forecast = foretold(cluster, &leader).await?;
    voice.say("");
    voice.say(&format!("$ saltern cluster forecast --lose region:{leader}"));
    let (from, to) = forecast.write_gap_ms.with_context(|| {
        format!("without {leader} there is no majority: name more regions, or fewer masters in that one")
    })?;
    voice.say(&format!("  no writes for {:.1} to {:.1} s, then:", from as f64 / 1e3, to as f64 / 1e3));
    for candidate in &forecast.after.candidates {
        let commit = candidate.commit_us.map_or_else(|| "not known".into(), |us| format!("{} ms", us / 1_000));
        voice.say(&format!("  {} may lead, with commits in {commit}", candidate.name));
    }

    let lost: Vec<usize> =
        all.iter().copied().filter(|number| cluster.fleet.masters[*number].region == leader).collect();
    let left: Vec<usize> = all.iter().copied().filter(|number| !lost.contains(number)).collect();
    let watch = Watch::start(cluster.client_of(&left), clock.clone());
    watch.has_written(1).await?;
    voice.say("");
    voice.say(&format!("The region {leader} is lost: kill -9 of {} masters", lost.len()));
    for number in &lost {
        if let Some(process) = cluster.fleet.masters[*number].process.take() {
            process.kill();
        }
    }
    let before = watch.written();
    watch.has_written(before + 20).await?;
    let write_gap_ms = watch.end().await.as_secs_f64() * 1e3;
    let status: Answer<ClusterStatus> = cluster.client(left[0]).get("/v1/cluster/status", "consistent=true").await?;
    let leader_region_after = region_of_leader(cluster, &status.value)?;
    let write_ms_after = writes(cluster, &left, clock, voice).await?;
    Ok(RegionsReport {
        regions: cluster.fleet.masters.iter().map(|master| master.region.clone()).collect(),
        profile,
        leader_region: leader,
        write_ms,
        forecast,
        write_gap_ms,
        leader_region_after,
        write_ms_after,
        load: load(),
    })
}

/// Waits until the first master knows every way well enough for a forecast.
async fn measured(cluster: &Cluster) -> anyhow::Result<ClusterStatus> {
    let look = async {
        loop {
            let leader = match cluster.client(0).get::<ClusterStatus>("/v1/cluster/status", "").await {
                Ok(status) => region_of_leader(cluster, &status.value).ok().map(|leader| (status.value, leader)),
                Err(_) => None,
            };
            if let Some((status, leader)) = leader
                && let Ok(forecast) = foretold(cluster, &leader).await
                && forecast.after.candidates.iter().all(|candidate| candidate.commit_us.is_some())
                && status.members.iter().filter(|member| member.round_trip.is_some_and(|way| way.count >= 5)).count()
                    + 1
                    >= status.members.len()
            {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(MEASURED_WITHIN, look).await.context("the masters did not measure their distances in time")
}

fn region_of_leader(cluster: &Cluster, status: &ClusterStatus) -> anyhow::Result<String> {
    let leader = status.leader.as_ref().context("the cluster has no leader")?;
    let master = cluster.fleet.masters.iter().find(|master| master.name == *leader);
    master.map(|master| master.region.clone()).context("the leader is one of ours")
}

/// What the first master says of losing a region.
pub async fn foretold(cluster: &Cluster, region: &str) -> anyhow::Result<Forecast> {
    let parameters = query(&[("lose", &format!("region:{region}"))]);
    let answer = cluster.client(0).get("/v1/cluster/forecast", &parameters).await?;
    Ok(answer.value)
}

/// Median time of a write through the first of these masters of each region.
async fn writes(
    cluster: &Cluster,
    masters: &[usize],
    clock: &impl Clock,
    voice: &mut Voice,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut by_region = BTreeMap::new();
    voice.say("");
    for number in masters {
        let master = &cluster.fleet.masters[*number];
        if by_region.contains_key(&master.region) {
            continue;
        }
        voice.wait(&format!("writing through {}", master.name));
        let mut client = cluster.client(*number);
        write(&mut client).await?;
        let mut times = Vec::new();
        for _ in 0..WRITES {
            let began = clock.monotonic();
            write(&mut client).await?;
            times.push(clock.monotonic().saturating_sub(began).as_secs_f64() * 1e3);
        }
        let middle = percentile(times, 50);
        voice.say(&format!("  a write through {:<10} ({}): {middle:.0} ms", master.name, master.region));
        by_region.insert(master.region.clone(), middle);
    }
    Ok(by_region)
}

/// Commits an entry that changes nothing.
pub async fn write(client: &mut Client) -> anyhow::Result<()> {
    let value = Settings::default().job_ttl_ms;
    client.put::<_, Value>("/v1/config/job_ttl_ms", &serde_json::json!(value)).await?;
    Ok(())
}

/// A writer that goes from master to master and notes when it was answered.
pub struct Watch {
    over: Arc<AtomicBool>,
    acknowledged: tokio::sync::watch::Receiver<Vec<Duration>>,
    writer: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Starts to write through `client`.
    pub fn start(mut client: Client, clock: impl Clock) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (sender, acknowledged) = tokio::sync::watch::channel(Vec::new());
        let until = Arc::clone(&over);
        let writer = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                if write(&mut client).await.is_ok() {
                    sender.send_modify(|times: &mut Vec<Duration>| times.push(clock.monotonic()));
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { over, acknowledged, writer }
    }

    /// How many writes were acknowledged.
    pub fn written(&self) -> usize {
        self.acknowledged.borrow().len()
    }

    /// Waits until so many writes were acknowledged.
    pub async fn has_written(&self, count: usize) -> anyhow::Result<()> {
        let mut acknowledged = self.acknowledged.clone();
        let wait = acknowledged.wait_for(|times| times.len() >= count);
        let seen = tokio::time::timeout(PATIENCE, wait).await;
        let seen = seen.with_context(|| format!("nothing could be written for {PATIENCE:?}"))?;
        seen.map(drop).context("the writer ended")
    }

    /// Stops, and gives the longest time between two acknowledged writes.
    pub async fn end(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        // It ends with the write that it is at.
        let _ = self.writer.await;
        let times = self.acknowledged.borrow();
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn the_profile_follows_the_longest_way() {
        let chosen = |rtt: &[u64]| distances(&regions("eu,us,ap"), rtt, 3).map(|(_, profile)| profile);
        assert_eq!(chosen(&[80, 150, 220]).expect("fits"), Profile::Geo);
        assert_eq!(chosen(&[2, 3, 40]).expect("fits"), Profile::Metro);
        assert_eq!(chosen(&[0, 1, 2]).expect("fits"), Profile::Lan);
        let refused = chosen(&[80, 150, 300]).expect_err("too far").to_string();
        assert!(refused.contains("300 ms is more than the 250 ms"), "{refused}");
    }

    #[test]
    fn wrong_numbers_are_said_plainly() {
        let refused = distances(&regions("eu,us,ap"), &[80, 150], 3).expect_err("one lacks").to_string();
        assert!(refused.contains("write one each for eu-us, eu-ap, us-ap"), "{refused}");
        let refused = distances(&regions("eu,us,ap"), &[80, 150, 220], 2).expect_err("too few").to_string();
        assert!(refused.contains("2 masters cannot be in 3 regions"), "{refused}");
    }
}
