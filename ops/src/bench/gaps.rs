//! How long writes and minions are away when a master dies or freezes.

use super::figure::Figure;
use crate::demo::report::percentile;
use crate::demo::storm::{Watch, attached_to, leader_of};
use crate::fleet::bring_up::Cluster;
use anyhow::Context;
use saltern_wire::io::Clock;
use std::time::Duration;

/// How long a round is watched after its fault at most.
const PATIENCE: Duration = Duration::from_secs(40);

/// What happens to a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9
    Kill,
    /// SIGSTOP
    Freeze,
}

/// Longest gap between two acknowledged writes around kill -9 of the leader, over `rounds`.
pub async fn leader_killed(
    cluster: &mut Cluster,
    clock: &(impl Clock + Clone),
    rounds: u32,
) -> anyhow::Result<Vec<Figure>> {
    let mut gaps = Vec::new();
    for _ in 0..rounds {
        let leader = leader_of(cluster).await?;
        let survivors = others(cluster, leader);
        let watch = Watch::start(cluster, &survivors, &Default::default(), clock);
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.fleet.masters[leader].process.take().context("the leader runs")?.kill();
        // Watched until well after the new leader must have been elected; the gap itself is measured, not this pause.
        tokio::time::sleep(Duration::from_secs(4)).await;
        gaps.push(watch.end().await.longest_gap.as_secs_f64() * 1e3);
        restart(cluster, leader).await?;
    }
    Ok(vec![
        Figure::new("gap_kill_ms_p50", percentile(gaps.clone(), 50), "ms"),
        Figure::new("gap_kill_ms_max", percentile(gaps, 100), "ms"),
    ])
}

/// Time from a fault of the master with the most minions until each of its minions is attached to another master, over `rounds`.
pub async fn minion_moved(
    cluster: &mut Cluster,
    clock: &(impl Clock + Clone),
    fault: Fault,
    rounds: u32,
) -> anyhow::Result<Vec<Figure>> {
    let mut gaps = Vec::new();
    for _ in 0..rounds {
        let number = busiest(cluster).await?;
        let survivors = others(cluster, number);
        let orphaned = attached_to(cluster, survivors[0], number).await?;
        let watch = Watch::start(cluster, &survivors, &orphaned, clock);
        let struck = clock.monotonic();
        let process = cluster.fleet.masters[number].process.take().context("the master runs")?;
        match fault {
            Fault::Kill => process.kill(),
            Fault::Freeze => {
                process.freeze();
                cluster.fleet.masters[number].process = Some(process);
            }
        }
        let seen = watch.until_all_seen(PATIENCE).await;
        for minion in &orphaned {
            let back = seen.moves.get(minion).copied().unwrap_or(struck + PATIENCE);
            gaps.push(back.saturating_sub(struck).as_secs_f64() * 1e3);
        }
        match fault {
            Fault::Kill => restart(cluster, number).await?,
            Fault::Freeze => {
                cluster.fleet.masters[number].process.as_ref().context("it was frozen")?.thaw();
                cluster.wait_for_voters(cluster.fleet.masters.len()).await?;
            }
        }
        for asked in 0..cluster.fleet.masters.len() {
            cluster.wait_for_connected(asked, cluster.fleet.minions.len()).await?;
        }
    }
    let name = match fault {
        Fault::Kill => "minion_gap_kill_ms",
        Fault::Freeze => "minion_gap_freeze_ms",
    };
    Ok(vec![
        Figure::new(format!("{name}_p50"), percentile(gaps.clone(), 50), "ms"),
        Figure::new(format!("{name}_p99"), percentile(gaps, 99), "ms"),
    ])
}

fn others(cluster: &Cluster, number: usize) -> Vec<usize> {
    (0..cluster.fleet.masters.len()).filter(|other| *other != number).collect()
}

/// The master with the most minions.
async fn busiest(cluster: &Cluster) -> anyhow::Result<usize> {
    let mut busiest = (0, 0);
    for number in 0..cluster.fleet.masters.len() {
        let count = attached_to(cluster, 0, number).await?.len();
        if count > busiest.1 {
            busiest = (number, count);
        }
    }
    anyhow::ensure!(busiest.1 > 0, "no minion is attached anywhere");
    Ok(busiest.0)
}

async fn restart(cluster: &mut Cluster, number: usize) -> anyhow::Result<()> {
    cluster.fleet.start_master(number)?;
    cluster.wait_for_voters(cluster.fleet.masters.len()).await?;
    Ok(())
}
