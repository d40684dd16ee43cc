//! Three masters and a swarm, and who of it works where: what every part of the benchmark stands on.

use super::Arguments;
use crate::bench::raft::group::used_by;
use crate::client::Client;
use crate::fleet::Plan;
use crate::fleet::bring_up::Cluster;
use crate::fleet::swarm::{Swarm, Wanted};
use anyhow::Context;
use saltern_pubsub::clock::SystemClock;
use saltern_wire::api::ClusterStatus;
use saltern_wire::io::Clock;
use saltern_wire::swarm::Figures;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// Masters.
pub const MASTERS: usize = 3;

/// How long a fleet may take to be where it should: ten times what is promised.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How many minions are started a second at first: their keys are new, and each costs a proposal or two.
const FIRST_PER_SECOND: usize = 400;

/// Times that the keys are accepted at most, and the pause between two.
const ACCEPTS_MAX: u32 = 20;
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// A fleet is spread when no master has more than this share of it, in percent.
const SPREAD_PERCENT_MAX: usize = 42;

/// What every part stands on.
pub struct Ground {
    /// The masters.
    pub cluster: Cluster,
    /// The minions.
    pub swarm: Swarm,
    /// How many there are.
    pub minions: usize,
    /// The clocks.
    pub clock: SystemClock,
    /// What the masters held before there was any minion, in KiB.
    pub masters_alone_kib: u64,
    /// The master through which each minion works, as far as events have been read.
    places: BTreeMap<String, Option<String>>,
}

/// One change of place, in microseconds of the wall clock.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Which minion.
    pub minion: String,
    /// Where it works now.
    pub master: Option<String>,
    /// When.
    pub at_us: u64,
}

impl Ground {
    /// Brings masters and swarm up in `folder`, accepts every key, and waits until all work.
    pub async fn lay(arguments: &Arguments, folder: &Path) -> anyhow::Result<Self> {
        let minions = arguments.minions();
        let plan = Plan {
            masters: MASTERS,
            folder: folder.to_path_buf(),
            // All come from one address, and all may come to one master.
            master_extra: format!("connections_per_address_max: {}\n{}", minions * 4, arguments.extra),
            ..Plan::default()
        };
        let mut cluster = Cluster::bring_up_masters(plan, &mut |what| eprintln!("… {what}")).await?;
        cluster.wait_for_voters(MASTERS).await?;
        let masters_alone_kib = memory_kib(&cluster);
        let fleet = &cluster.fleet;
        let port = fleet.ports().session;
        let wanted = Wanted {
            program: fleet.binaries().minion.clone(),
            count: minions,
            workers: arguments.workers,
            folder: folder.join("swarm"),
            masters: fleet.masters.iter().map(|master| format!("{}:{port}", master.address)).collect(),
            ca_fingerprint: cluster.ca_fingerprint.clone(),
            extra: arguments.minion_extra.clone(),
            per_second: FIRST_PER_SECOND,
        };
        eprintln!("… starting a swarm of {minions}");
        let mut swarm = Swarm::start(&wanted)?;
        swarm.wait("every key to be pending", PATIENCE, |figures| figures.pending == minions).await?;
        eprintln!("… accepting {minions} keys");
        let (clock, places) = (SystemClock::new(), BTreeMap::new());
        accept(&cluster).await?;
        arguments.put("key_accept_fleet_s", clock.monotonic().as_secs_f64(), "s", minions);
        swarm.wait("every minion to work", PATIENCE, |figures| figures.ready == minions).await?;
        Ok(Self { cluster, swarm, minions, clock, masters_alone_kib, places })
    }

    /// A client of all masters that run.
    pub fn client(&self) -> Client {
        let running = self.cluster.fleet.masters.iter().enumerate();
        let running = running.filter(|(_, master)| master.process.is_some()).map(|(number, _)| number);
        self.cluster.client_of(&running.collect::<Vec<_>>())
    }

    /// What happened since this was asked last, in the order of time.
    pub fn moved(&mut self) -> Vec<Moved> {
        let mut moved: Vec<Moved> = Vec::new();
        for event in self.swarm.events() {
            self.places.insert(event.minion.clone(), event.master.clone());
            moved.push(Moved { minion: event.minion, master: event.master, at_us: event.at_us });
        }
        moved.sort_by_key(|moved| moved.at_us);
        moved
    }

    /// The minions that work through the master `name`.
    pub fn minions_of(&mut self, name: &str) -> Vec<String> {
        self.moved();
        let here = self.places.iter().filter(|(_, master)| master.as_deref() == Some(name));
        here.map(|(minion, _)| minion.clone()).collect()
    }

    /// Waits until every minion works.
    pub async fn wait_for_all(&mut self, what: &str) -> anyhow::Result<Figures> {
        let minions = self.minions;
        Ok(self.swarm.wait(what, PATIENCE, |figures| figures.ready == minions && figures.waiting == 0).await?)
    }

    /// Lets the whole fleet attach anew if one master has much more of it than the others. Masters are weighed by rendezvous,
    /// so thirds come out.
    pub async fn spread(&mut self) -> anyhow::Result<()> {
        let figures = self.swarm.figures().await?;
        let most = figures.masters.values().max().copied().unwrap_or(0);
        if figures.masters.len() < MASTERS || most * 100 > self.minions * SPREAD_PERCENT_MAX {
            eprintln!("… spreading the fleet over the masters");
            self.swarm.order("stop all").await?;
            self.swarm.order("start").await?;
            self.wait_for_all("the fleet to be spread").await?;
        }
        self.moved();
        Ok(())
    }

    /// The number of the master that leads.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let status = self.client().get::<ClusterStatus>("/v1/cluster/status", "").await?;
        let name = status.value.leader.context("nobody leads")?;
        self.number_of(&name)
    }

    /// The number of the master `name`.
    pub fn number_of(&self, name: &str) -> anyhow::Result<usize> {
        let number = self.cluster.fleet.masters.iter().position(|master| master.name == name);
        number.with_context(|| format!("{name} is one of ours"))
    }

    /// A metric of master `number` without labels.
    pub fn metric(&self, number: usize, name: &str) -> anyhow::Result<f64> {
        let socket = self.cluster.fleet.masters[number].socket();
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: master\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let value = line.and_then(|line| line.split(' ').nth(1)).with_context(|| format!("no metric {name}"))?;
        Ok(value.parse()?)
    }

    /// Microseconds of the wall clock.
    pub fn wall_us(&self) -> u64 {
        self.clock.wall_unix_micros()
    }

    /// Processor time that the masters have used so far, in microseconds.
    pub fn processor_us(&self) -> f64 {
        let processes = self.cluster.fleet.masters.iter().filter_map(|master| master.process.as_ref());
        processes.filter_map(|process| used_by(process.id())).sum()
    }

    /// What the masters hold now, in KiB.
    pub fn masters_kib(&self) -> u64 {
        memory_kib(&self.cluster)
    }
}

/// Accepts every pending key, as an operator does: again if the masters have no quorum at that moment.
async fn accept(cluster: &Cluster) -> anyhow::Result<()> {
    for left in (0..ACCEPTS_MAX).rev() {
        match cluster.accept_all(0).await {
            Ok(_) => return Ok(()),
            Err(error) if left > 0 => eprintln!("… {error}"),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(ACCEPT_AGAIN).await;
    }
    Ok(())
}

fn memory_kib(cluster: &Cluster) -> u64 {
    cluster.fleet.masters.iter().filter_map(|master| master.process.as_ref()?.memory_kib()).sum()
}
