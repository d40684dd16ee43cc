//! What a master does by itself: it looks after the other masters' clocks and health, and, while it leads, lets time pass and
//! brings the group to what the directory wants ([`crate::membership`]).
//!
//! Every duty is a sweep: it compares what is with what should be and does one harmless step. A step that fails, or is done
//! by a leader that was deposed meanwhile, is done again by the next sweep.

use crate::membership::{progress, secrets, sweep};
use crate::mesh::message::{Channel, Request, Response};
use crate::pki::Credentials;
use crate::truth::{Lane, Probed, Truth};
use saltern_store::Check;
use saltern_store::command::Command;
use saltern_wire::MasterId;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause between two probes of every other master.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Pause between probes of a fresh process, whose leader waits for clocks.
const PROBE_EVERY_FRESH: Duration = Duration::from_millis(100);

/// Fresh probes after a start.
const PROBES_FRESH: u32 = 20;

/// A probe that takes longer says that the master is not reachable.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two ticks while jobs are open: acceptance ends within so much of its deadline.
const TICK_OPEN: Duration = Duration::from_secs(1);

/// What is due for so long is not waiting for the next idle tick: one tick did not end all of it.
const OVERDUE: Duration = Duration::from_secs(75);

/// Sweeps between two ticks while nothing is open: retention is not urgent.
const TICK_IDLE_SWEEPS: u32 = 60;

/// Starts the duties.
pub fn start(truth: &Truth, credentials: &Arc<Credentials>, tasks: &TaskTracker, stop: &CancellationToken) {
    tasks.spawn(until(stop.clone(), probe_all(truth.clone(), Arc::clone(credentials))));
    tasks.spawn(until(stop.clone(), tick_all(truth.clone())));
    tasks.spawn(until(stop.clone(), truth.clone().confirm_all()));
    tasks.spawn(until(stop.clone(), crate::integrity::compare_all(truth.clone())));
    tasks.spawn(until(stop.clone(), crate::upkeep::compact_all(truth.clone())));
    tasks.spawn(until(stop.clone(), crate::upkeep::reclaim_all(truth.clone())));
    tasks.spawn(until(stop.clone(), crate::level::raise_all(truth.clone())));
    tasks.spawn(until(stop.clone(), crate::regions::duty::lead_all(truth.clone())));
    tasks.spawn(until(stop.clone(), sweep::run(truth.clone(), Arc::clone(credentials))));
    tasks.spawn(until(stop.clone(), secrets::keep_current(truth.clone(), Arc::clone(credentials))));
    tasks.spawn(until(stop.clone(), progress::tell(truth.clone())));
}

async fn until(stop: CancellationToken, duty: impl Future<Output = ()>) {
    tokio::select! {
        () = duty => {}
        () = stop.cancelled() => {}
    }
}

async fn probe_all(truth: Truth, credentials: Arc<Credentials>) {
    let mut round: u32 = 0;
    loop {
        let group = truth.group().leader_state();
        let mut others = truth.mesh().listed();
        others.extend(group.voters.iter().chain(&group.learners));
        others.remove(&truth.id());
        truth.retain_probes(&others);
        futures::future::join_all(others.into_iter().map(|id| probe(&truth, &credentials, id))).await;
        truth.handle_clocks();
        round = round.saturating_add(1);
        if round < PROBES_FRESH { tokio::time::sleep(PROBE_EVERY_FRESH).await } else { rest(&truth).await }
    }
}

/// The pause between two rounds of probes; short while there is a master that is hardly known: it may be waiting for a vote.
async fn rest(truth: &Truth) {
    let slices = PROBE_EVERY.as_millis() / PROBE_EVERY_FRESH.as_millis();
    for _ in 0..slices {
        tokio::time::sleep(PROBE_EVERY_FRESH).await;
        let others = truth.mesh().listed();
        if others.into_iter().any(|id| id != truth.id() && truth.ways().is_new(id)) {
            return;
        }
    }
}

async fn probe(truth: &Truth, credentials: &Credentials, id: MasterId) {
    let before = truth.clock().monotonic();
    // On the connection of heartbeats and votes: it is theirs whose round trip decides, and it stands before an election.
    let reply = truth.mesh().ask(id, Channel::Control, &Request::Probe, PROBE_TIMEOUT).await;
    let after = truth.clock().monotonic();
    let probed = match reply {
        Ok(Response::Probe {
            wall_unix_micros,
            sessions,
            version,
            applied,
            time,
            room,
            level,
            checks,
            ways,
            runs,
            secret,
        }) => {
            let round_trip = after.saturating_sub(before);
            // The answer was given about half a round trip ago.
            let middle = i128::try_from((before + round_trip / 2).as_micros()).unwrap_or(i128::MAX);
            Probed {
                reachable: true,
                round_trip_us: u64::try_from(round_trip.as_micros()).ok(),
                sessions: Some(sessions),
                version: Some(version),
                applied: Some(applied.0),
                wall_less_monotonic: Some(i128::from(wall_unix_micros) - middle),
                time,
                room: room.map(|room| *room),
                level: Some(level),
                checks: checks.into_iter().map(|(index, hash)| Check { index, hash }).collect(),
                ways,
                runs,
                secret,
            }
        }
        Ok(Response::Expelled(directory)) => {
            truth.handle_shown(&directory, credentials);
            Probed::default()
        }
        _ => Probed::default(),
    };
    truth.handle_probe(id, probed);
}

/// Lets time pass: expiry and retention happen when a tick is applied.
async fn tick_all(truth: Truth) {
    let mut sweep: u32 = 0;
    loop {
        tokio::time::sleep(TICK_OPEN).await;
        sweep = sweep.wrapping_add(1);
        let due = truth.state().counts().open_jobs > 0 || sweep.is_multiple_of(TICK_IDLE_SWEEPS);
        if leads(&truth) && (due || is_overdue(&truth)) {
            if let Err(error) = truth.propose(Lane::Control, Command::Tick, None).await {
                tracing::debug!(%error, "a tick was not committed; the next one will do");
            }
        }
    }
}

/// Whether something should have ended by now: more was due than one tick ends.
fn is_overdue(truth: &Truth) -> bool {
    // Corrupt rows end this master elsewhere.
    let due = truth.state().next_due().ok().flatten();
    due.is_some_and(|due| due.plus(OVERDUE) <= truth.now())
}

/// Whether this master leads, with the contact of a majority.
pub(crate) fn leads(truth: &Truth) -> bool {
    let quorum = truth.quorum();
    quorum.fresh && quorum.leader == Some(truth.id())
}
