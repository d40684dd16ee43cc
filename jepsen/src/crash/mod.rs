//! The crash loop: masters and minions of a real cluster die at every fault point and at random, under load, and a checker looks
//! at everything that was acknowledged.
//!
//! ```text
//!   plan (pure) ─▶ nemesis ─▶ processes ◀─ workload ─▶ history ─▶ check (pure) ─▶ report
//! ```
//!
//! Phases: quiet, faults under load, healed under load; then the clients stop, open jobs are settled, and every master and every
//! minion's disk are read. Snapshots are made every [`SNAPSHOT_ENTRIES`] entries and the log is purged behind them, so that
//! purging and installing go on all the time.
//!
//! **It refuses** to call a run good in which a fault that was asked for was not seen, fewer than 30 % of a phase's operations
//! were carried out, or the outcome of a write stayed unknown. What the seed decides is the plan; processes and disks take their
//! own time, so a second run of one seed is another run of the same plan.

pub mod check;
pub mod history;
pub mod nemesis;
pub mod plan;
pub mod power;
pub mod report;
mod settle;
pub mod site;
pub mod workload;

use crate::real::faults;
use history::{Deed, Operation};
use nemesis::Nemesis;
use plan::{GUESTS, MASTERS, MINIONS, Member, Planner, Seen, TRIES_MAX};
use power::Disks;
use report::{Report, Tally};
use saltern_ops::fleet::Plan;
use saltern_ops::fleet::bring_up::Cluster;
use saltern_wire::fault::POINTS;
use site::Site;
use std::path::Path;
use std::time::Duration;

/// Log entries between two snapshots: a few seconds of the load.
const SNAPSHOT_ENTRIES: u64 = 40;

/// Log entries that stay below a snapshot.
const LOG_KEEP_ENTRIES: u64 = 10;

/// Load without faults, before and after them.
const QUIET: Duration = Duration::from_millis(1_500);

/// A run with this many kills for each point must have reached every one of them.
const KILLS_PER_POINT: u32 = 4;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides the plan.
    pub seed: u64,
    /// How many deaths have to be seen.
    pub kills: u32,
    /// When the faults end at the latest, however many there were.
    pub within: Duration,
    /// Whether disks lose their power. Takes a mount namespace of its own: see [`power::in_own_namespace`].
    pub power: bool,
    /// Only strikes whose description contains this are made: for looking into a finding.
    pub only: Option<String>,
}

/// A finished run.
pub struct Done {
    /// What happened.
    pub history: Vec<Operation>,
    /// What it shows.
    pub report: Report,
}

/// Runs the crash loop in a folder of its own, which stays when something is wrong.
pub async fn run(options: Options) -> anyhow::Result<Done> {
    let folder = tempfile::Builder::new().prefix("saltern-crash-").tempdir()?;
    match run_in(&options, folder.path()).await {
        Ok(mut done) => {
            if done.report.verdict() != check::Verdict::Pass {
                done.report.kept = Some(folder.keep());
            }
            Ok(done)
        }
        Err(error) if error.downcast_ref::<power::PowerError>().is_some() => Err(error),
        Err(error) => {
            let seed = options.seed;
            Err(error.context(format!("seed {seed}: logs and data are kept in {}", folder.keep().display())))
        }
    }
}

async fn run_in(options: &Options, folder: &Path) -> anyhow::Result<Done> {
    let disks = if options.power { Some(Disks::make(folder, members_with_disks())?) } else { None };
    let mut cluster = bring_up(folder).await?;
    std::fs::create_dir_all(folder.join("marks"))?;
    let sockets = cluster.fleet.masters.iter().map(saltern_ops::fleet::Master::socket).collect();
    let site = Site::new(sockets, folder, options.seed);
    for number in 1..=MINIONS + GUESTS {
        // Bringing the cluster up has accepted all of them.
        let deed = Deed::Decide { minion: format!("minion-{number}"), decision: "accept".into(), changed: true };
        site.history.note("setup", deed, true, site.now());
    }
    let (seen, tally) = under_load(options, &mut cluster, &site, disks.as_ref()).await?;
    // The guests enrol anew whenever their keys are gone, which is no decision; they end before the last look.
    for guest in &mut cluster.fleet.minions[MINIONS..] {
        guest.process = None;
    }
    settle::wait_until_settled(&site).await;
    let masters: Vec<String> = cluster.fleet.masters.iter().map(|master| master.name.clone()).collect();
    settle::read_all(&site, &masters).await?;
    let history = site.history.operations();
    let report = judge(options, &history, &seen, tally, site.now());
    drop(cluster);
    Ok(Done { history, report })
}

/// The masters, and one minion.
fn members_with_disks() -> impl Iterator<Item = Member> {
    (0..MASTERS).map(Member::Master).chain([Member::Minion(0)])
}

async fn bring_up(folder: &Path) -> anyhow::Result<Cluster> {
    let plan = Plan {
        masters: MASTERS,
        minions: MINIONS + GUESTS,
        folder: folder.to_path_buf(),
        master_extra: format!(
            "log_level: info\nsnapshot_entries: {SNAPSHOT_ENTRIES}\nlog_keep_entries: {LOG_KEEP_ENTRIES}\n"
        ),
        minion_extra: "log_level: warn\n".into(),
        environment: faults::environment(),
        ..Plan::default()
    };
    Ok(Cluster::bring_up(plan, &mut |what| tracing::info!("{what}")).await?)
}

/// The three phases.
async fn under_load(
    options: &Options,
    cluster: &mut Cluster,
    site: &Site,
    disks: Option<&Disks>,
) -> anyhow::Result<(Seen, Tally)> {
    let mut clients = workload::start(site);
    settle::phase(site, "quiet");
    tokio::time::sleep(QUIET).await;
    settle::phase(site, "faults");
    let (seen, tally) = (Seen::default(), Tally::default());
    // A peer is sent a snapshot when it lags by two of them, and the log is gone one later.
    let purged_after = 3 * SNAPSHOT_ENTRIES + 2 * LOG_KEEP_ENTRIES;
    let mut nemesis = Nemesis { cluster, site, disks, seen, tally, purged_after };
    let mut planner = Planner::new(options.seed, options.power);
    let end = site.now() + options.within;
    while site.now() < end && (nemesis.tally.kills() < options.kills || planner.owes(&nemesis.seen)) {
        let enough = nemesis.tally.kills() >= options.kills;
        let strike = if enough { planner.owed(&nemesis.seen) } else { Some(planner.next(&nemesis.seen)) };
        let Some(strike) = strike else { break };
        if options.only.as_ref().is_some_and(|only| !enough && !strike.to_string().contains(only)) {
            tokio::task::yield_now().await;
            continue;
        }
        tracing::info!(kills = nemesis.tally.kills(), "{strike}");
        nemesis.strike(&strike).await?;
    }
    settle::phase(site, "healed");
    nemesis.heal().await?;
    tokio::time::sleep(QUIET).await;
    site.stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    nemesis.notice_the_dead().await?;
    Ok((nemesis.seen, nemesis.tally))
}

fn judge(options: &Options, history: &[Operation], seen: &Seen, tally: Tally, took: Duration) -> Report {
    let mut violations = check::check(history);
    let empty = |cause: String| check::Violation::Empty(cause);
    if tally.kills() < options.kills {
        violations.push(empty(format!("{} of {} kills were seen in time", tally.kills(), options.kills)));
    }
    if options.power && tally.power_losses == 0 {
        violations.push(empty("no disk lost its power".into()));
    }
    let all_points = usize::try_from(options.kills / KILLS_PER_POINT).unwrap_or(usize::MAX) >= POINTS.len();
    for (point, happened) in POINTS.iter().zip(&seen.happened) {
        if all_points && *happened == 0 && !options.power && options.only.is_none() {
            violations.push(empty(format!("the fault point {} was never reached", point.name)));
        }
    }
    let mut jobs = (0, 0);
    for operation in history {
        if let Deed::Submit { jid: Some(_), .. } = &operation.deed {
            jobs.0 += 1;
        } else if let Deed::Started { times, .. } = &operation.deed {
            jobs.1 += usize::try_from(*times).unwrap_or(usize::MAX);
        }
    }
    let Options { seed, kills, power, only, .. } = options;
    let power = if *power { " --power" } else { "" };
    let only = only.as_ref().map(|only| format!(" --only '{only}'")).unwrap_or_default();
    let replay = format!("saltern-jepsen crash --seed {seed} --kills {kills}{power}{only}");
    Report { seed: *seed, tally, phases: check::phases(history), jobs, violations, took, replay, kept: None }
}

/// How long `kills` may take at the most: several seconds each, on a busy machine.
pub fn time_for(kills: u32) -> Duration {
    Duration::from_secs(60) + Duration::from_secs(6) * kills + Duration::from_secs(8) * TRIES_MAX
}
