//! Whole clusters of real processes, as tests want them: brought up in a folder of their own, with the words of a test.
//!
//! The processes are `ops`' [`Fleet`](saltern_ops::fleet::Fleet); this module adds what a test asks of them. Every wait is for a
//! condition and has a deadline; every process dies with its [`World`]. Every process listens for faults
//! ([`faults`]).

pub mod faults;

use anyhow::Context;
use faults::Control;
use saltern_ops::fleet::Plan;
use saltern_ops::fleet::bring_up::Cluster;
use saltern_ops::fleet::burst::{Burst, Tally};
use saltern_ops::relay::Distances;
use saltern_wire::api::{ClusterStatus, MinionList, Presence};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// How long a burst may take to be settled after the last fault. A leader's election, a minion's move and a busy machine fit
/// in many times.
pub const SETTLE: Duration = Duration::from_secs(60);

/// A cluster and the folder it lives in.
pub struct World {
    /// The cluster. Declared first, so that its processes end before the folder goes.
    pub cluster: Cluster,
    /// Its folder.
    pub folder: tempfile::TempDir,
}

/// What a test wants.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Masters.
    pub masters: usize,
    /// Minions; accepted and connected when the world is up.
    pub minions: usize,
    /// Region labels, given to the masters in turn.
    pub regions: Vec<String>,
    /// How far the regions are from each other.
    pub distances: Option<Distances>,
    /// Lines for every master's configuration.
    pub master_extra: String,
    /// Lines for every minion's configuration.
    pub minion_extra: String,
}

impl World {
    /// Brings up masters and minions.
    pub async fn up(masters: usize, minions: usize) -> anyhow::Result<Self> {
        Self::of(Wish { masters, minions, ..Wish::default() }).await
    }

    /// Brings up what is wished for.
    pub async fn of(wish: Wish) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("saltern-test-").tempdir()?;
        let plan = plan(&wish, folder.path());
        let cluster = Cluster::bring_up(plan, &mut |_| {}).await?;
        Ok(Self { cluster, folder })
    }

    /// Brings up the masters only; the test starts the minions.
    pub async fn masters_of(wish: Wish) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("saltern-test-").tempdir()?;
        let plan = plan(&wish, folder.path());
        let cluster = Cluster::bring_up_masters(plan, &mut |_| {}).await?;
        Ok(Self { cluster, folder })
    }

    /// The number of the master that leads, as master `asked` sees it.
    pub async fn leader(&self, asked: usize) -> anyhow::Result<usize> {
        let status = self.cluster.client(asked).get::<ClusterStatus>("/v1/cluster/status", "").await?;
        let leader = status.value.leader.context("nobody leads")?;
        let number = self.cluster.fleet.masters.iter().position(|master| master.name == leader);
        number.context("the leader is one of ours")
    }

    /// The number of the master that `minion` is attached to, as master `asked` sees it.
    pub async fn master_of(&self, asked: usize, minion: &str) -> anyhow::Result<usize> {
        let list = self.cluster.client(asked).get::<MinionList>("/v1/minions", "").await?;
        let view = list.value.minions.into_iter().find(|view| view.id.as_str() == minion);
        let view = view.with_context(|| format!("{minion} is not in the list"))?;
        anyhow::ensure!(view.presence == Presence::Connected, "{minion} is {:?}", view.presence);
        let name = view.master.context("it is attached somewhere")?;
        let number = self.cluster.fleet.masters.iter().position(|master| master.name == name);
        number.context("its master is one of ours")
    }

    /// Kills a master with -9.
    pub fn kill_master(&mut self, number: usize) -> anyhow::Result<()> {
        let process = self.cluster.fleet.masters[number].process.take();
        process.with_context(|| format!("master {} is not running", number + 1))?.kill();
        Ok(())
    }

    /// Starts a master that was killed.
    pub fn start_master(&mut self, number: usize) -> anyhow::Result<()> {
        Ok(self.cluster.fleet.start_master(number)?)
    }

    /// The faults of a running master.
    pub fn faults_of_master(&self, number: usize) -> Control {
        Control::of(&self.cluster.fleet.masters[number].folder)
    }

    /// The faults of a running minion, and of the supervisors that it starts.
    pub fn faults_of_minion(&self, number: usize) -> Control {
        Control::of(&self.cluster.fleet.minions[number].folder)
    }

    /// A burst whose marks stand in a folder of this world.
    pub fn burst(&self, name: &str, seconds: f64) -> anyhow::Result<Burst> {
        Ok(Burst::new(&self.folder.path().join(name), seconds)?)
    }

    /// Waits until the burst is settled at each of these masters, and checks that all of them hold the same.
    pub async fn settle(&self, burst: &Burst, masters: &[usize]) -> anyhow::Result<Tally> {
        let mut first: Option<Tally> = None;
        for number in masters {
            let mut client = self.cluster.client(*number);
            burst.settle(&mut client, SETTLE).await?;
            let tally = burst.tally(&mut client).await?;
            match &first {
                None => first = Some(tally),
                Some(first) => anyhow::ensure!(
                    first.agrees_with(&tally),
                    "masters {} and {} hold different returns",
                    masters[0] + 1,
                    number + 1
                ),
            }
        }
        first.context("at least one master is asked")
    }

    /// Runs `saltern` with its API at these masters.
    pub fn saltern(&self, masters: &[usize], arguments: &[&str]) -> anyhow::Result<Output> {
        let sockets = masters.iter().map(|number| self.cluster.fleet.masters[*number].socket());
        let servers: Vec<String> = sockets.map(|socket| format!("unix://{}", socket.display())).collect();
        let mut command = Command::new(&self.cluster.fleet.binaries().cli);
        command.args(arguments).env("SALTERN_SERVER", servers.join(",")).env("NO_COLOR", "1");
        Ok(command.output()?)
    }
}

fn plan(wish: &Wish, folder: &Path) -> Plan {
    Plan {
        masters: wish.masters,
        minions: wish.minions,
        regions: wish.regions.clone(),
        distances: wish.distances.clone(),
        folder: folder.to_path_buf(),
        master_extra: wish.master_extra.clone(),
        minion_extra: wish.minion_extra.clone(),
        environment: faults::environment(),
        ..Plan::default()
    }
}

/// What a command printed, both streams, for messages.
pub fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("exit {:?}\nstdout: {out}\nstderr: {err}", output.status.code())
}

/// Asserts that a tally is exact, and says what is not.
pub fn assert_exact(tally: &Tally, targeted: usize, context: &str) {
    assert_eq!(tally.targeted, targeted, "{context}: targeted");
    assert!(tally.lost.is_empty(), "{context}: lost {:?}", tally.lost);
    assert!(tally.doubled.is_empty(), "{context}: started twice {:?}", tally.doubled);
    assert_eq!((tally.returned, tally.open), (targeted, 0), "{context}: returned and open");
}
