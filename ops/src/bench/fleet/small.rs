//! Real minions, as many as a peer bears on this machine: how long one takes to start, what it holds, and what the command line
//! takes, start of the program included.

use super::{Arguments, work};
use crate::demo::report::percentile;
use crate::fleet::Plan;
use crate::fleet::bring_up::Cluster;
use crate::fleet::jobs;
use anyhow::ensure;
use saltern_pubsub::clock::SystemClock;
use saltern_wire::api::{MinionList, Presence};
use saltern_wire::io::Clock;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Minions.
pub const MINIONS: usize = 25;

/// To how many of them a ping goes.
pub const TARGETS: [usize; 3] = [1, 10, 25];

/// Times that the command line is run for each.
const RUNS: usize = 20;

/// Jobs to all of which the rate of returns is made.
const JOBS: usize = 400;

/// How long everything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What we reached, by the names of the figures.
pub type Reached = BTreeMap<String, f64>;

/// The list of the first `count` minions, as a target.
pub fn first(count: usize) -> String {
    (1..=count).map(|number| format!("minion-{number}")).collect::<Vec<_>>().join(",")
}

/// Measures, writes and gives the figures.
pub async fn measure(arguments: &Arguments, folder: &Path) -> anyhow::Result<Reached> {
    std::fs::create_dir_all(folder)?;
    let clock = SystemClock::new();
    let plan = Plan { masters: 3, minions: MINIONS, folder: folder.to_path_buf(), ..Plan::default() };
    let mut cluster = Cluster::bring_up(plan, &mut |what| eprintln!("… {what}")).await?;
    let mut reached = Reached::new();
    let mut put = |name: String, value: f64, unit| {
        arguments.put(name.clone(), value, unit, MINIONS);
        reached.insert(name, value);
    };
    let held = cluster.fleet.minions.iter().filter_map(|minion| resident_kib(minion.process.as_ref()?.id()));
    put("minion_rss_mib".into(), percentile(held.map(|kib| kib as f64 / 1024.0).collect(), 50), "MiB");
    for count in TARGETS {
        eprintln!("… saltern run to {count}");
        let (server, program) = (cluster.fleet.server_list(), cluster.fleet.binaries().cli.clone());
        let mut walls = Vec::new();
        for _ in 0..RUNS {
            let mut command = Command::new(&program);
            command.args(["run", "-L", &first(count), "test.ping"]).env("SALTERN_SERVER", &server);
            walls.push(wall(&clock, command).await? * 1e3);
        }
        put(format!("cli_ping_{count}_ms"), percentile(walls, 50), "ms");
    }
    eprintln!("… returns of {MINIONS} minions");
    let took = work::submit_and_wait(&cluster, &clock, &jobs::for_all("test.ping", &[]), JOBS).await?;
    put("returns_acked_per_s".into(), (JOBS * MINIONS) as f64 / took, "returns/s");
    put("minion_start_s".into(), start(&mut cluster, &clock).await?, "s");
    Ok(reached)
}

/// Resident memory of a process in KiB, pages that it shares with others counted whole: what one minion alone on its host
/// holds.
fn resident_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Runs a command to its end; how many seconds that took.
pub async fn wall(clock: &SystemClock, mut command: Command) -> anyhow::Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let said = format!("{command:?}");
    let began = clock.monotonic();
    let status = tokio::task::spawn_blocking(move || command.status()).await??;
    let took = clock.monotonic().saturating_sub(began).as_secs_f64();
    ensure!(status.success(), "{said}: {status}");
    Ok(took)
}

/// From the start of one minion's process until a master knows it as attached, its key being known; the median of a few.
async fn start(cluster: &mut Cluster, clock: &SystemClock) -> anyhow::Result<f64> {
    eprintln!("… starting a minion");
    let mut walls = Vec::new();
    for _ in 0..5 {
        let gone = |list: &MinionList| connected(list) == MINIONS - 1;
        cluster.fleet.minions[0].process = None;
        cluster.wait(0, "the minion to be gone", "/v1/minions", gone).await?;
        let began = clock.monotonic();
        cluster.fleet.start_minion(0)?;
        let mut client = cluster.client(0);
        let back = async {
            while connected(&client.get::<MinionList>("/v1/minions", "").await?.value) < MINIONS {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, back).await??;
        walls.push(clock.monotonic().saturating_sub(began).as_secs_f64());
    }
    Ok(percentile(walls, 50))
}

fn connected(list: &MinionList) -> usize {
    list.minions.iter().filter(|minion| minion.presence == Presence::Connected).count()
}
