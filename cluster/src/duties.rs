//! What a master does by itself: it looks after the other masters' clocks and health, and, while it leads, lets time pass and
//! takes joining masters in.
//!
//! Every duty is a sweep: it compares what is with what should be and does one harmless step. A step that fails, or is done
//! by a leader that was deposed meanwhile, is done again by the next sweep.

use crate::mesh::message::{Channel, Request, Response};
use crate::pki::{Authority, Credentials};
use crate::space::{Level, Room};
use crate::truth::{Lane, Probed, Truth};
use saltern_store::Check;
use saltern_store::command::{Command, MasterCommand};
use saltern_wire::MasterId;
use saltern_wire::master::{Directory, MasterState};
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

/// Pause between two looks at the membership.
const MEMBERS_EVERY: Duration = Duration::from_millis(250);

/// Pause between two ticks while jobs are open: acceptance ends within so much of its deadline.
const TICK_OPEN: Duration = Duration::from_secs(1);

/// What is due for so long is not waiting for the next idle tick: one tick did not end all of it.
const OVERDUE: Duration = Duration::from_secs(75);

/// Sweeps between two ticks while nothing is open: retention is not urgent.
const TICK_IDLE_SWEEPS: u32 = 60;

/// How long a leader may take to apply everything that is committed before it takes a member out.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Entries that a learner may lack when it is made a voter.
const PROMOTE_LAG_MAX: u64 = 500;

/// Voters that the group grows to by itself; further masters stay learners.
const VOTERS_MAX: usize = 5;

/// Starts the duties.
pub fn start(truth: &Truth, credentials: &Arc<Credentials>, tasks: &TaskTracker, stop: &CancellationToken) {
    tasks.spawn(until(stop.clone(), probe_all(truth.clone())));
    tasks.spawn(until(stop.clone(), tick_all(truth.clone())));
    tasks.spawn(until(stop.clone(), truth.clone().confirm_all()));
    tasks.spawn(until(stop.clone(), crate::integrity::compare_all(truth.clone())));
    tasks.spawn(until(stop.clone(), crate::upkeep::compact_all(truth.clone())));
    tasks.spawn(until(stop.clone(), crate::upkeep::reclaim_all(truth.clone())));
    tasks.spawn(until(stop.clone(), crate::level::raise_all(truth.clone())));
    tasks.spawn(until(stop.clone(), crate::regions::duty::lead_all(truth.clone())));
    tasks.spawn(until(stop.clone(), take_in_all(truth.clone(), Arc::clone(credentials))));
}

async fn until(stop: CancellationToken, duty: impl Future<Output = ()>) {
    tokio::select! {
        () = duty => {}
        () = stop.cancelled() => {}
    }
}

async fn probe_all(truth: Truth) {
    let mut round: u32 = 0;
    loop {
        let group = truth.group().leader_state();
        let mut others = truth.mesh().listed();
        others.extend(group.voters.iter().chain(&group.learners));
        others.remove(&truth.id());
        truth.retain_probes(&others);
        futures::future::join_all(others.into_iter().map(|id| probe(&truth, id))).await;
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

async fn probe(truth: &Truth, id: MasterId) {
    let before = truth.clock().monotonic();
    // On the connection of heartbeats and votes: it is theirs whose round trip decides, and it stands before an election.
    let reply = truth.mesh().ask(id, Channel::Control, &Request::Probe, PROBE_TIMEOUT).await;
    let after = truth.clock().monotonic();
    let probed = match reply {
        Ok(Response::Probe { wall_unix_micros, sessions, version, applied, time, room, level, checks, ways, runs }) => {
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
            }
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

fn leads(truth: &Truth) -> bool {
    let quorum = truth.quorum();
    quorum.fresh && quorum.leader == Some(truth.id())
}

/// Takes joining masters in (learner, voter, active in the directory) and lets those go that the directory no longer names.
async fn take_in_all(truth: Truth, credentials: Arc<Credentials>) {
    loop {
        tokio::time::sleep(MEMBERS_EVERY).await;
        if leads(&truth) {
            relieve(&truth).await;
            if let Err(cause) = step(&truth, &credentials).await {
                tracing::info!(cause, "a change of the masters has to wait; trying again");
                tokio::time::sleep(MEMBERS_EVERY * 2).await;
            }
        }
    }
}

/// A leader whose disk runs out of room hands its duty to the voter with the most, once per look at the disks.
async fn relieve(truth: &Truth) {
    let own = truth.space().room();
    if own.level() == Level::Roomy {
        return;
    }
    let group = truth.group().leader_state();
    let keeps_up = |id: &MasterId| {
        group.matched.get(id).copied().flatten().is_some_and(|index| index + PROMOTE_LAG_MAX >= group.last_log)
    };
    let rooms = group.voters.iter().filter(|id| keeps_up(id)).filter_map(|id| truth.room_of(*id));
    let Some(heir) = rooms.filter(|room| room.level() < own.level()).min_by_key(Room::level) else { return };
    tracing::warn!(heir = heir.name, reason = %own, "handing leadership over");
    if let Err(error) = truth.group().transfer(heir.master).await {
        tracing::warn!(%error, "leadership was not handed over; trying again");
    }
    tokio::time::sleep(PROBE_EVERY).await;
}

/// One step for the first master that needs one. Whoever leaves goes first: a voter that is gone for ever only makes the
/// majority larger, so that the group never bears less for its removal than before.
async fn step(truth: &Truth, credentials: &Credentials) -> Result<(), String> {
    if let_go(truth).await? { Ok(()) } else { take_in(truth, credentials).await }
}

/// Takes the first member that the directory does not name out of the group; whether there was one.
///
/// This leader's directory must not be older than the membership: a new leader that has not yet applied what it holds would
/// throw out a master that has just come in. So everything that is committed is applied first.
async fn let_go(truth: &Truth) -> Result<bool, String> {
    let Some(gone) = first_unlisted(truth)? else { return Ok(false) };
    truth.confirm(CONFIRM_TIMEOUT).await.map_err(|error| error.to_string())?;
    if first_unlisted(truth)? != Some(gone) {
        return Ok(false);
    }
    let group = truth.group().leader_state();
    if gone == truth.id() {
        let heir = group.voters.iter().find(|id| **id != gone).ok_or("nobody else votes")?;
        tracing::info!(%heir, "this master left the directory: another one is to lead");
        truth.group().transfer(*heir).await.map_err(|error| error.to_string())?;
        return Ok(true);
    }
    tracing::info!(master = %gone, "a master that left the directory leaves the group");
    truth.group().remove(gone).await.map_err(|error| error.to_string())?;
    Ok(true)
}

/// The first member of the group that is not in the directory applied here.
fn first_unlisted(truth: &Truth) -> Result<Option<MasterId>, String> {
    let Some(signed) = truth.state().directory() else { return Ok(None) };
    let directory = signed.peek().map_err(|error| error.to_string())?;
    let group = truth.group().leader_state();
    Ok(group.voters.into_iter().chain(group.learners).find(|id| directory.master(*id).is_none()))
}

/// One step for the first master that comes in.
async fn take_in(truth: &Truth, credentials: &Credentials) -> Result<(), String> {
    let Some(signed) = truth.state().directory() else { return Ok(()) };
    let directory = signed.peek().map_err(|error| error.to_string())?;
    let group = truth.group().leader_state();
    for master in &directory.masters {
        let (votes, learns) = (group.voters.contains(&master.id), group.learners.contains(&master.id));
        if !votes && !learns {
            tracing::info!(master = %master.id, name = master.name, "a master joins as a learner");
            return truth
                .group()
                .add_learner(master.id, &master.endpoints.mesh)
                .await
                .map_err(|error| error.to_string());
        }
        let matched = group.matched.get(&master.id).copied().flatten();
        let caught_up = matched.is_some_and(|index| index + PROMOTE_LAG_MAX >= group.last_log);
        if learns && caught_up && group.voters.len() < VOTERS_MAX && crate::regions::duty::may_vote(truth, master.id) {
            tracing::info!(master = %master.id, name = master.name, "a learner has caught up and votes from now on");
            return truth.group().promote(master.id).await.map_err(|error| error.to_string());
        }
        if master.state == MasterState::Joining && (votes || caught_up) {
            return activate(truth, credentials, directory.clone(), master.id).await;
        }
    }
    Ok(())
}

/// Puts a directory in place in which `master` is active.
async fn activate(
    truth: &Truth,
    credentials: &Credentials,
    mut directory: Directory,
    master: MasterId,
) -> Result<(), String> {
    let ca = truth.state().ca().ok_or("the cluster has no CA yet")?;
    let authority = Authority::unseal(credentials.cluster, &ca.public_key, &credentials.state_secret, &ca.sealed)
        .map_err(|error| error.to_string())?;
    for record in directory.masters.iter_mut().filter(|record| record.id == master) {
        record.state = MasterState::Active;
    }
    directory.version += 1;
    let directory = authority.sign_directory(&directory);
    let command = Command::Master(MasterCommand::Directory { directory });
    let committed = truth.propose(Lane::Control, command, None).await.map_err(|error| error.to_string())?;
    committed.applied.map(drop).map_err(|refused| refused.to_string())
}
