//! What a quiet cluster does, and what it costs.

use super::MINIONS;
use super::figure::Figure;
use crate::demo::report::percentile;
use crate::fleet::bring_up::Cluster;
use crate::fleet::jobs;
use anyhow::Context;
use saltern_wire::io::Clock;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Times that the command line is run.
const CLI_RUNS: usize = 20;

/// Jobs of the throughput measurement, submitted without waiting for one another.
const JOBS: usize = 250;

/// Submitters of the throughput measurement.
const SUBMITTERS: usize = 8;

/// Proportional set sizes of idle processes: the median minion and the largest master.
pub fn memory(cluster: &Cluster) -> Vec<Figure> {
    let of_minions = cluster.fleet.minions.iter().filter_map(|minion| minion.process.as_ref()?.memory_kib());
    let of_masters = cluster.fleet.masters.iter().filter_map(|master| master.process.as_ref()?.memory_kib());
    let mib = |kib: u64| kib as f64 / 1024.0;
    let minion = percentile(of_minions.map(mib).collect(), 50);
    let master = percentile(of_masters.map(mib).collect(), 100);
    vec![Figure::new("minion_idle_pss_mib", minion, "MiB"), Figure::new("master_idle_pss_mib", master, "MiB")]
}

/// Wall time of `saltern run '*' test.ping`, process start included.
pub async fn ping_by_cli(cluster: &Cluster, clock: &impl Clock) -> anyhow::Result<Vec<Figure>> {
    let mut walls = Vec::new();
    for _ in 0..CLI_RUNS {
        let mut command = Command::new(&cluster.fleet.binaries().cli);
        command.args(["run", "*", "test.ping"]).env("SALTERN_SERVER", cluster.fleet.server_list());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = clock.monotonic();
        let status = tokio::task::spawn_blocking(move || command.status()).await??;
        walls.push((clock.monotonic().saturating_sub(started)).as_secs_f64() * 1e3);
        anyhow::ensure!(status.success(), "saltern run '*' test.ping failed: {status}");
    }
    Ok(vec![
        Figure::new(format!("test_ping_cli_{MINIONS}_ms_p50"), percentile(walls.clone(), 50), "ms"),
        Figure::new(format!("test_ping_cli_{MINIONS}_ms_max"), percentile(walls, 100), "ms"),
    ])
}

/// Returns per second that are committed while many `test.ping` jobs run at once on all minions.
pub async fn returns_per_second(cluster: &Cluster, clock: &(impl Clock + Clone)) -> anyhow::Result<Figure> {
    let started = clock.monotonic();
    let mut submitters = tokio::task::JoinSet::new();
    for number in 0..SUBMITTERS {
        let mut client = cluster.client(number % cluster.fleet.masters.len());
        submitters.spawn(async move {
            let mut jids = Vec::new();
            for _ in 0..JOBS / SUBMITTERS {
                jids.push(jobs::submit(&mut client, &jobs::for_all("test.ping", &[])).await?.jid);
            }
            Ok::<_, crate::client::ClientError>(jids)
        });
    }
    let mut jids = Vec::new();
    while let Some(submitted) = submitters.join_next().await {
        jids.extend(submitted??);
    }
    let mut client = cluster.client(0);
    let mut returned = 0;
    for jid in &jids {
        let view = jobs::wait(&mut client, *jid, Duration::from_secs(60)).await?;
        anyhow::ensure!(view.missing.is_empty(), "{jid}: {:?}", view.missing);
        returned += view.returns.len();
    }
    let took = clock.monotonic().saturating_sub(started).as_secs_f64();
    let rate = (returned as f64 / took).is_finite().then_some(returned as f64 / took).context("it took some time")?;
    Ok(Figure::new(format!("returns_committed_{MINIONS}_minions_per_s"), rate, "returns/s"))
}
