//! Three members of the benchmark, as processes, and what is done to them.

use super::member::{Member, SOCKET, Said};
use crate::fleet::binaries::Binaries;
use crate::fleet::bring_up::Cluster;
use crate::fleet::{Environment, FOLDER_PLACEHOLDER, Plan};
use crate::relay::Distances;
use anyhow::Context;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Members of the group.
pub const MEMBERS: usize = 3;

/// Where they are, if they are apart.
pub const REGIONS: [&str; MEMBERS] = ["eu", "us", "ap"];

/// Minions that have keys: as many as return for one job.
pub const MINIONS: u32 = 10_000;

/// The program that the members run, beside this one.
const PROGRAM: &str = "examples/raft-member";

/// How long a short question may take.
pub const ASK_WITHIN: Duration = Duration::from_secs(60);

/// How long a leader may take to be there.
const LEADER_PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// The group.
pub struct Group {
    /// The processes.
    pub cluster: Cluster,
    members: Vec<Member>,
    /// Gone with the group, with everything in it.
    _folder: tempfile::TempDir,
}

impl Group {
    /// Brings the group up in a folder of its own below `above`. `extra` are lines of every member's configuration.
    pub async fn start(above: &Path, extra: &str) -> anyhow::Result<Self> {
        Self::start_apart(above, extra, None).await
    }

    /// The same, with every member in a region of its own, and these distances between the regions.
    pub async fn start_apart(above: &Path, extra: &str, distances: Option<Distances>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("saltern-bench-").tempdir_in(above)?;
        let socket = format!("{FOLDER_PLACEHOLDER}/{SOCKET}");
        let plan = Plan {
            masters: MEMBERS,
            folder: folder.path().to_path_buf(),
            master_extra: format!("auto_accept: true\nlog_level: error\n{extra}"),
            environment: Environment::from([("SALTERN_BENCH_SOCKET".to_owned(), socket)]),
            programs: Some(programs()?),
            regions: REGIONS.map(str::to_owned).to_vec(),
            distances,
            ..Plan::default()
        };
        let cluster = Cluster::bring_up_masters(plan, &mut |what| eprintln!("… {what}")).await?;
        let folders = cluster.fleet.masters.iter().map(|master| master.folder.clone()).enumerate();
        let members = folders.map(|(number, folder)| Member::new(number, &folder)).collect();
        let group = Self { cluster, members, _folder: folder };
        eprintln!("… accepting {MINIONS} keys");
        group.leader().await?.ask(json!({ "do": "prepare", "minions": MINIONS }), ASK_WITHIN * 4).await?;
        Ok(group)
    }

    /// A member.
    pub fn member(&self, number: usize) -> &Member {
        &self.members[number]
    }

    /// Members that run, without `number`.
    pub fn others(&self, number: usize) -> Vec<&Member> {
        self.members.iter().filter(|member| member.number != number && self.runs(member.number)).collect()
    }

    fn runs(&self, number: usize) -> bool {
        self.cluster.fleet.masters[number].process.is_some()
    }

    /// Where a member stands.
    pub async fn standing(&self, number: usize) -> anyhow::Result<Said> {
        self.members[number].ask(json!({ "do": "where" }), ASK_WITHIN).await
    }

    /// The member that leads, once there is one.
    pub async fn leader(&self) -> anyhow::Result<&Member> {
        let look = async {
            loop {
                for member in self.members.iter().filter(|member| self.runs(member.number)) {
                    if self.standing(member.number).await?.number("leads")? > 0.0 {
                        return anyhow::Ok(member);
                    }
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(LEADER_PATIENCE, look).await.context("nobody leads")?
    }

    /// Kills a member (SIGKILL).
    pub fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.cluster.fleet.masters[number].process.take().context("the member runs")?.kill();
        Ok(())
    }

    /// Starts a member again.
    pub fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        Ok(self.cluster.fleet.start_master(number)?)
    }

    /// Waits until a member has applied `index`.
    pub async fn wait_for(&self, number: usize, index: f64, within: Duration) -> anyhow::Result<()> {
        let look = async {
            while self.standing(number).await?.number("applied")? < index {
                tokio::time::sleep(POLL).await;
            }
            anyhow::Ok(())
        };
        let late = || format!("member {} has not applied entry {index} within {within:?}", number + 1);
        tokio::time::timeout(within, look).await.with_context(late)?
    }

    /// Bytes that the members' processes have written to the disk so far.
    pub fn written(&self) -> f64 {
        let processes = self.cluster.fleet.masters.iter().filter_map(|master| master.process.as_ref());
        processes.filter_map(|process| written_by(process.id())).sum()
    }

    /// Processor time that the members' processes have used so far, in microseconds.
    pub fn processor_us(&self) -> f64 {
        let processes = self.cluster.fleet.masters.iter().filter_map(|master| master.process.as_ref());
        processes.filter_map(|process| used_by(process.id())).sum()
    }
}

/// Processor time of a process, in microseconds: user and system, fields 14 and 15 of its `stat`.
pub fn used_by(process: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Its name is in brackets and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
    Some((ticks(14)? + ticks(15)?) * 1e6 / ticks_per_s)
}

/// Bytes that a process has sent to the disk, as the kernel counts them.
fn written_by(process: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/io")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

fn programs() -> anyhow::Result<Binaries> {
    let exe = std::env::current_exe()?;
    let beside = exe.parent().context("a program has a folder")?;
    let member: PathBuf = beside.join(PROGRAM);
    let remedy = "build it with `cargo build --release -p saltern-cluster --features bench --example raft-member`";
    anyhow::ensure!(member.is_file(), "{} is missing: {remedy}", member.display());
    Ok(Binaries { cli: exe, master: member.clone(), minion: member })
}
