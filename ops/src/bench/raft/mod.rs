//! `ops/bench raft`: what the replicated core does on this machine: three members as processes, real files, real syncs.
//!
//! ```text
//!   limit ── what the disk allows        group, member ── the processes, and questions to them
//!   gaps, snapshot ── measurements       etcd, nats (crowd) ── the same writes on a peer, with --peers
//! ```
//!
//! Beside rates stands what a write cost all members' processors together (`…_cpu_us_N`): that tells more than a rate where
//! the machine is busy with other things.
//!
//! The members are masters in everything (`cluster/examples/raft-member`); the load comes from inside of the leader's process,
//! so that no client is what is measured. Figures go to stdout, one JSON object a line; what is going on goes to stderr.
//!
//! **Invariants.** A figure is what was measured in this run. A peer's figure has its name in `peer`, and in `ratio` how many
//! times as much ours is. Whatever was started ends with the run, and its folder goes.

mod crowd;
pub mod etcd;
pub mod gaps;
pub mod group;
pub mod limit;
pub mod member;
pub mod nats;
pub mod snapshot;

use super::Output;
use super::figure::Figure;
use crate::relay::Distances;
use etcd::Etcd;
use gaps::Change;
use group::{ASK_WITHIN, Group, MEMBERS};
use member::Said;
use nats::Nats;
use saltern_pubsub::clock::SystemClock;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a write's payload.
const PAYLOAD_BYTES: f64 = 256.0;

/// Writers for whom etcd's own load generator is asked as well.
const CHECKED_WRITERS: u32 = 256;

/// Writers whose bytes on the disk are counted.
const AMPLIFIED_WRITERS: u32 = 256;

/// Returns that are owed before a measurement of them begins, for each of its milliseconds: more than there will be.
const RETURNS_PER_MS: u64 = 60;

/// How far apart members in different regions are.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// How long writers are watched around a change of leader: several elections.
const WATCHED: Duration = Duration::from_secs(3);

/// The same where elections take seconds.
const WATCHED_APART: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Writes of one entry each, with the disk's limit beside
    Writes,
    /// Returns in batches
    Batched,
    /// 10,000 returns of one job
    Returns,
    /// Revocations while large returns come in
    Revoke,
    /// The leader is killed
    Kill,
    /// The leader hands over
    Transfer,
    /// A round trip of 100 ms between the members
    Geo,
    /// A large state: snapshot and restart
    Snapshot,
}

/// Every part.
const ALL: [Part; 8] =
    [Part::Writes, Part::Batched, Part::Returns, Part::Revoke, Part::Kill, Part::Transfer, Part::Geo, Part::Snapshot];

/// What the benchmark may be told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// How figures are written
    #[arg(short, long, value_enum, default_value_t = Output::Json)]
    pub output: Output,
    /// Only these parts, with commas between them
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// A short form: fewer rounds, shorter measurements, a smaller state
    #[arg(long)]
    pub quick: bool,
    /// Rounds of each gap measurement
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// Writers at one time, with commas between the numbers
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub writers: Vec<u32>,
    /// Milliseconds of each measurement of writes
    #[arg(long, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub millis: Option<u64>,
    /// MiB of the large state
    #[arg(long, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    pub mib: Option<u64>,
    /// The same writes on etcd and NATS, where they are installed
    #[arg(long)]
    pub peers: bool,
    /// Where the members' folders are made: the disk that is measured
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// Lines for every member's configuration
    #[arg(long, default_value = "")]
    pub extra: String,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        if self.only.is_empty() { ALL.contains(&part) } else { self.only.contains(&part) }
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 20 })
    }

    fn writers(&self) -> Vec<u32> {
        match (self.writers.is_empty(), self.quick) {
            (false, _) => self.writers.clone(),
            (true, true) => vec![1, 256],
            (true, false) => vec![1, 16, 64, 256, 1024],
        }
    }

    fn within(&self) -> Duration {
        Duration::from_millis(self.millis.unwrap_or(if self.quick { 2_000 } else { 5_000 }))
    }

    fn mib(&self) -> u64 {
        self.mib.unwrap_or(if self.quick { 128 } else { 1024 })
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// A run: what was asked for, and the peer.
struct Run<'a> {
    arguments: &'a Arguments,
    clock: SystemClock,
    etcd: Option<Etcd>,
    nats: Option<Nats>,
}

/// Measures what was asked for, writing each figure as it is known.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("saltern-bench-").tempdir_in(arguments.folder())?;
    let mut run = Run { arguments, clock: SystemClock::new(), etcd: None, nats: None };
    if arguments.peers && arguments.wants(Part::Writes) {
        if Etcd::is_installed() {
            run.etcd = Some(Etcd::start(folder.path()).await?);
        } else {
            eprintln!("… no etcd here: `apt-get install etcd-server etcd-client` brings it");
        }
        if Nats::is_installed() {
            run.nats = Some(Nats::start(folder.path()).await?);
        } else {
            eprintln!("… no NATS here: `apt-get install nats-server` brings it");
        }
    }
    let near = [Part::Writes, Part::Batched, Part::Returns, Part::Revoke, Part::Kill, Part::Transfer];
    if near.iter().any(|part| arguments.wants(*part)) {
        let mut group = Group::start(folder.path(), &arguments.extra).await?;
        run.near(&mut group).await?;
    }
    (run.etcd, run.nats) = (None, None);
    if arguments.wants(Part::Geo) {
        let extra = format!("profile: geo\n{}", arguments.extra);
        let apart = Some(Distances::equal(ROUND_TRIP));
        let mut group = Group::start_apart(folder.path(), &extra, apart).await?;
        run.geo(&mut group).await?;
    }
    if arguments.wants(Part::Snapshot) {
        let mut group = Group::start(folder.path(), &arguments.extra).await?;
        run.snapshot(&mut group).await?;
    }
    Ok(())
}

impl Run<'_> {
    fn put(&self, name: impl Into<String>, value: f64, unit: &'static str) {
        Figure::new(name, value, unit).print(self.arguments.output);
    }

    /// What a peer did, beside what we did: `ours`.
    fn put_peer(&self, peer: &'static str, name: impl Into<String>, value: f64, ours: f64, unit: &'static str) {
        Figure::new(name, value, unit).of_peer(peer, ours).print(self.arguments.output);
    }

    /// Everything with the members close to each other.
    async fn near(&self, group: &mut Group) -> anyhow::Result<()> {
        let arguments = self.arguments;
        if arguments.wants(Part::Writes) {
            self.writes(group).await?;
        }
        if arguments.wants(Part::Batched) {
            for writers in arguments.writers() {
                self.batched(group, writers).await?;
            }
        }
        if arguments.wants(Part::Returns) {
            let leader = group.leader().await?;
            let said = leader.ask(json!({ "do": "returns" }), ASK_WITHIN).await?;
            self.put(format!("returns_{}_s", said.number("count")?), said.number("seconds")?, "s");
        }
        if arguments.wants(Part::Revoke) {
            self.revoke(group).await?;
        }
        if arguments.wants(Part::Kill) {
            self.gaps(group, "gap_kill", Change::Kill, arguments.rounds(), WATCHED).await?;
        }
        if arguments.wants(Part::Transfer) {
            self.gaps(group, "gap_transfer", Change::Transfer, arguments.rounds(), WATCHED).await?;
        }
        Ok(())
    }

    async fn writes(&self, group: &Group) -> anyhow::Result<()> {
        eprintln!("… what the disk allows");
        let folder = self.arguments.folder();
        let limit = limit::fdatasync_per_s(&folder, MEMBERS, self.arguments.within(), &self.clock).await?;
        self.put("fdatasync_per_s", limit, "syncs/s");
        for writers in self.arguments.writers() {
            eprintln!("… single writes by {writers}");
            let before = group.processor_us();
            let said = self.load(group, "single", writers).await?;
            let used = (group.processor_us() - before) / said.number("count")?;
            let rate = rate(&said)?;
            let name = format!("writes_single_{writers}");
            self.put(&name, rate, "writes/s");
            self.put(format!("write_p50_ms_{writers}"), said.number("p50_ms")?, "ms");
            self.put(format!("write_p99_ms_{writers}"), said.number("p99_ms")?, "ms");
            self.put(format!("write_cpu_us_{writers}"), used, "µs");
            if writers == 1 {
                self.put_peer("fdatasync", &name, limit, rate, "syncs/s");
            }
            if let Some(nats) = &self.nats {
                eprintln!("… the same on NATS");
                let theirs = nats.publish(writers, self.arguments.within(), &self.clock).await?;
                self.put_peer(nats.name(), &name, theirs, rate, "writes/s");
            }
            let Some(etcd) = &self.etcd else { continue };
            eprintln!("… the same on etcd");
            let theirs = etcd.through_gateway(writers, self.arguments.within(), &self.clock).await?;
            self.put_peer(etcd::NAME, &name, theirs, rate, "writes/s");
            if writers == CHECKED_WRITERS && !self.arguments.quick {
                self.put_peer(etcd::CHECKED_NAME, &name, etcd.check_perf().await?, rate, "writes/s");
            }
        }
        Ok(())
    }

    async fn batched(&self, group: &Group, writers: u32) -> anyhow::Result<()> {
        eprintln!("… returns by {writers}");
        let owed = self.arguments.within().as_millis() as u64 * RETURNS_PER_MS;
        group.leader().await?.ask(json!({ "do": "lay_in", "returns": owed }), ASK_WITHIN).await?;
        let (before, used_before) = (group.written(), group.processor_us());
        let said = self.load(group, "batched", writers).await?;
        let used = (group.processor_us() - used_before) / said.number("count")?;
        self.put(format!("writes_batched_{writers}"), rate(&said)?, "returns/s");
        self.put(format!("return_cpu_us_{writers}"), used, "µs");
        if writers == AMPLIFIED_WRITERS {
            let payload = said.number("count")? * PAYLOAD_BYTES * MEMBERS as f64;
            self.put("write_amplification", (group.written() - before) / payload, "bytes/byte");
        }
        Ok(())
    }

    async fn load(&self, group: &Group, how: &str, writers: u32) -> anyhow::Result<Said> {
        let within = self.arguments.within();
        let leader = group.leader().await?;
        let question = json!({ "do": how, "writers": writers, "millis": within.as_millis() as u64 });
        leader.ask(question, within + ASK_WITHIN).await
    }

    async fn revoke(&self, group: &Group) -> anyhow::Result<()> {
        eprintln!("… revocations, alone and beside returns of 16 MiB");
        let within = self.arguments.within();
        for (large, name) in [(false, "revoke_ms"), (true, "revoke_under_16mib_returns_ms")] {
            let question = json!({ "do": "revoke", "large": large, "millis": within.as_millis() as u64 });
            let said = group.leader().await?.ask(question, within + ASK_WITHIN).await?;
            self.put(format!("{name}_p50"), said.number("p50_ms")?, "ms");
            self.put(format!("{name}_p99"), said.number("p99_ms")?, "ms");
            if large {
                self.put("returns_16mib_mib_per_s", said.number("large_mib")? / within.as_secs_f64(), "MiB/s");
            }
        }
        Ok(())
    }

    async fn gaps(
        &self,
        group: &mut Group,
        name: &str,
        change: Change,
        rounds: u32,
        watched: Duration,
    ) -> anyhow::Result<()> {
        let (p50, max) = gaps::rounds(group, change, rounds, watched).await?;
        self.put(format!("{name}_ms_p50"), p50, "ms");
        self.put(format!("{name}_ms_max"), max, "ms");
        Ok(())
    }

    async fn geo(&self, group: &mut Group) -> anyhow::Result<()> {
        eprintln!("… commits over a round trip of {ROUND_TRIP:?}");
        let said = self.load(group, "single", 1).await?;
        self.put("commit_rtt100_ms_p50", said.number("p50_ms")?, "ms");
        self.gaps(group, "gap_kill_geo", Change::Kill, self.arguments.rounds(), WATCHED_APART).await
    }

    async fn snapshot(&self, group: &mut Group) -> anyhow::Result<()> {
        let mib = self.arguments.mib();
        let size = if mib == 1024 { "1gb".to_owned() } else { format!("{mib}mib") };
        let took = snapshot::measure(group, mib, &self.clock).await?;
        self.put(format!("snapshot_{size}_s"), took.made + took.shipped, "s");
        self.put(format!("snapshot_{size}_made_s"), took.made, "s");
        self.put(format!("snapshot_{size}_shipped_s"), took.shipped, "s");
        self.put(format!("snapshot_{size}_elections"), f64::from(u8::from(!took.led_on)), "elections");
        self.put(format!("restart_{size}_s"), took.restarted, "s");
        Ok(())
    }
}

fn rate(said: &Said) -> anyhow::Result<f64> {
    Ok(said.number("count")? / said.number("seconds")?)
}
