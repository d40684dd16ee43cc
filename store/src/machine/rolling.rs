//! Jobs that go to so many minions at a time: whose turn it is, when a place is free again, and what pauses and ends a job.
//!
//! ```text
//!   Roll ─▶ fill ─▶ Released: up to `width` minions may be offered it
//!              ▲
//!   a minion with a place is settled ─▶ (rest of wait_ms) ─┤      whoever leads lets time pass; nothing else drives a round
//!   Tick: a turn was not taken, a rest is over ────────────┤
//!   Pause { paused: false } ───────────────────────────────┘
//!   a failure with failhard · End ─▶ whoever is held is skipped · killed
//! ```
//!
//! **Invariants.** Never more than `width` minions are waiting, accepted or resting. A place is free again when its minion is
//! settled: by an answer, by the end of its turn if it has not accepted, by the loss of its key; a minion that has accepted
//! keeps its place until it answers, however long it is away, because it may be running. The lowest numbers come first. Work
//! per command is bounded: what is left goes on with the next tick.
//!
//! **It refuses** to pause a job that went to everybody at once: there is nothing to hold back.

use super::job::{self, Standing};
use super::{Stop, Tx};
use crate::command::{Effect, Refused, Reply};
use crate::error::StoreError;
use crate::index::OpenJob;
use crate::overlay::Overlay;
use crate::table::job::{self as table, ProgressRow};
use crate::table::timeline::{self, Due};
use roaring::RoaringBitmap;
use saltern_wire::job::Progress;
use saltern_wire::rolling::{Ending, Rolling, Stand, WAIT_MS_MAX, WHOLE_MS};
use saltern_wire::{JobId, LogicalTime, Ordinal};
use std::time::Duration;

/// Minions whose turn comes, or that are settled without one, by one command: each costs two rows and a part of an effect.
const STEP_MAX: usize = 4096;

/// Refuses what is out of bounds.
pub(super) fn check(rolling: &Rolling) -> Result<(), Refused> {
    if !rolling.size.is_valid() {
        return Err(Refused::Invalid(format!("{:?} is no size of a batch", rolling.size)));
    }
    if rolling.wait_ms > WAIT_MS_MAX {
        let wait = rolling.wait_ms;
        return Err(Refused::Invalid(format!("a rest of {wait} ms is too long, the limit is {WAIT_MS_MAX} (a day)")));
    }
    if rolling.turn_ms == 0 || rolling.turn_ms > WHOLE_MS {
        let turn = rolling.turn_ms;
        return Err(Refused::Invalid(format!("a turn of {turn} ms: it must have 1 to {WHOLE_MS} (7 days)")));
    }
    Ok(())
}

/// Takes the next steps of an open job: lets turns come where places are free, or settles those whose turn never comes.
pub(super) fn go_on(tx: &mut Tx<'_>, jid: JobId) -> Result<(), StoreError> {
    let Some(open) = tx.index.open.get(&jid) else { return Ok(()) };
    match open.stand.ending {
        _ if open.more.is_some() => Ok(()),
        Some(ending) => wind_up(tx, jid, ending),
        None => {
            fill(tx, jid);
            Ok(())
        }
    }
}

fn fill(tx: &mut Tx<'_>, jid: JobId) {
    let time = tx.time;
    let Some(open) = tx.index.open.get_mut(&jid) else { return };
    let (expires, running) = (open.expires, open.running());
    let Some(rolls) = open.rolls.as_mut().filter(|_| !open.stand.paused && time < expires) else { return };
    let free = rolls.width.saturating_sub(running + rolls.rests.len() as u64);
    let free = usize::try_from(free).unwrap_or(usize::MAX);
    let whom: RoaringBitmap = open.held.iter().take(free.min(STEP_MAX)).collect();
    if whom.is_empty() {
        return;
    }
    let ends = rolls.turn_ends(time, expires);
    for number in &whom {
        rolls.turns.insert(number, ends);
        timeline::put(&mut tx.over, Due::Turn, ends, &table::place_subject(jid, Ordinal(number)));
        let row = ProgressRow { progress: Progress::Waiting, since: time };
        table::put_progress(&mut tx.over, jid, Ordinal(number), row);
    }
    open.held -= &whom;
    open.waiting |= &whom;
    if free > STEP_MAX && !open.held.is_empty() {
        tell_tick(&mut tx.over, open, jid, time);
    }
    tx.effects.push(Effect::Released { jid, ordinals: whom });
}

/// Settles those whose turn never comes; those who have it on offer too, if an operator ended it.
fn wind_up(tx: &mut Tx<'_>, jid: JobId, ending: Ending) -> Result<(), StoreError> {
    let time = tx.time;
    let Some(open) = tx.index.open.get_mut(&jid) else { return Ok(()) };
    let (whom, progress) = match ending {
        Ending::Failhard => (open.held.clone(), Progress::Skipped),
        Ending::Killed => (&open.held | &open.waiting, Progress::Killed),
    };
    if whom.len() > STEP_MAX as u64 {
        tell_tick(&mut tx.over, open, jid, time);
    }
    for number in whom.iter().take(STEP_MAX) {
        job::settle(tx, jid, Ordinal(number), progress)?;
    }
    Ok(())
}

/// The next tick goes on with the job.
fn tell_tick(over: &mut Overlay, open: &mut OpenJob, jid: JobId, time: LogicalTime) {
    open.more = Some(time);
    timeline::put(over, Due::More, time, &jid.to_bytes());
}

/// The minion has accepted: its turn can no longer pass unused.
pub(super) fn end_turn(over: &mut Overlay, open: &mut OpenJob, jid: JobId, ordinal: Ordinal) {
    if let Some(ends) = open.rolls.as_mut().and_then(|rolls| rolls.turns.remove(&ordinal.0)) {
        timeline::delete(over, Due::Turn, ends, &table::place_subject(jid, ordinal));
    }
}

/// Takes a minion that is being settled out of whatever it stands in. The place that it had rests before it is free.
pub(super) fn leave(over: &mut Overlay, open: &mut OpenJob, jid: JobId, ordinal: Ordinal, time: LogicalTime) {
    let had_place = open.waiting.remove(ordinal.0) | open.accepted.remove(ordinal.0);
    open.held.remove(ordinal.0);
    end_turn(over, open, jid, ordinal);
    let Some(rolls) = open.rolls.as_mut().filter(|_| had_place && !open.held.is_empty()) else { return };
    if rolls.rolling.wait_ms > 0 && open.stand.ending.is_none() {
        let until = time.plus(Duration::from_millis(rolls.rolling.wait_ms));
        rolls.rests.insert(ordinal.0, until);
        timeline::put(over, Due::Rest, until, &table::place_subject(jid, ordinal));
    }
}

/// Forgets what a job that is done has in the timeline.
pub(super) fn forget(over: &mut Overlay, open: &OpenJob, jid: JobId) {
    if let Some(more) = open.more {
        timeline::delete(over, Due::More, more, &jid.to_bytes());
    }
    let Some(rolls) = &open.rolls else { return };
    for (due, places) in [(Due::Turn, &rolls.turns), (Due::Rest, &rolls.rests)] {
        for (number, time) in places {
            timeline::delete(over, due, *time, &table::place_subject(jid, Ordinal(*number)));
        }
    }
}

/// A minion failed. The job ends there, if it was to.
pub(super) fn note_failure(tx: &mut Tx<'_>, jid: JobId) {
    let Some(open) = tx.index.open.get(&jid) else { return };
    let failhard = open.rolls.as_ref().is_some_and(|rolls| rolls.rolling.failhard);
    if failhard && open.stand.ending.is_none() && !open.held.is_empty() {
        let stand = Stand { ending: Some(Ending::Failhard), ..open.stand };
        put_stand(tx, jid, stand, None);
    }
}

fn put_stand(tx: &mut Tx<'_>, jid: JobId, stand: Stand, by: Option<&str>) {
    let Some(open) = tx.index.open.get_mut(&jid) else { return };
    open.stand = stand;
    table::put_stand(&mut tx.over, jid, stand);
    tx.effects.push(Effect::JobStands { jid, stand, by: by.map(str::to_owned) });
}

pub(super) fn pause(tx: &mut Tx<'_>, jid: JobId, paused: bool, by: &str) -> Result<Reply, Stop> {
    let open = held(tx, jid)?;
    if open.rolls.is_none() {
        return Err(Refused::Conflict(format!(
            "the job {jid} went to all of its minions at once, so there is nothing to hold back; `saltern job kill {jid}` ends it"
        ))
        .into());
    }
    if open.stand.ending.is_some() {
        return Err(Refused::Conflict(format!("the job {jid} goes to nobody else any more: it was ended")).into());
    }
    let stand = Stand { paused, ..open.stand };
    if stand != open.stand {
        put_stand(tx, jid, stand, Some(by));
        go_on(tx, jid)?;
    }
    Ok(Reply::Done)
}

pub(super) fn end(tx: &mut Tx<'_>, jid: JobId, by: &str) -> Result<Reply, Stop> {
    let open = held(tx, jid)?;
    let stand = Stand { ending: Some(Ending::Killed), ..open.stand };
    if stand != open.stand {
        put_stand(tx, jid, stand, Some(by));
        job::close_if_done(tx, jid)?;
    }
    Ok(Reply::Done)
}

/// An open job that an operator wants to change.
fn held<'a>(tx: &'a mut Tx<'_>, jid: JobId) -> Result<&'a OpenJob, Stop> {
    if !tx.index.open.contains_key(&jid) {
        return Err(match job::standing(tx, jid, Ordinal(0))? {
            Standing::NoJob => {
                Refused::NotFound(format!("there is no job {jid}: it was never opened, or its record has been purged"))
            }
            Standing::Untargeted | Standing::Owing | Standing::Settled => {
                Refused::Conflict(format!("the job {jid} has ended on every minion"))
            }
        }
        .into());
    }
    tx.index.open.get(&jid).ok_or_else(|| Refused::NotFound(format!("there is no job {jid}")).into())
}

/// A minion has not accepted the job within its turn.
pub(super) fn pass(tx: &mut Tx<'_>, ends: LogicalTime, subject: &[u8]) -> Result<(), StoreError> {
    let (jid, ordinal) = table::parse_place(subject)?;
    let turn =
        tx.index.open.get(&jid).and_then(|open| open.rolls.as_ref()).and_then(|rolls| rolls.turns.get(&ordinal.0));
    if turn == Some(&ends) {
        job::settle(tx, jid, ordinal, Progress::Expired)?;
        job::close_if_done(tx, jid)?;
    }
    Ok(())
}

/// A place has rested.
pub(super) fn rested(tx: &mut Tx<'_>, until: LogicalTime, subject: &[u8]) -> Result<(), StoreError> {
    let (jid, ordinal) = table::parse_place(subject)?;
    let Some(rolls) = tx.index.open.get_mut(&jid).and_then(|open| open.rolls.as_mut()) else { return Ok(()) };
    if rolls.rests.get(&ordinal.0) == Some(&until) {
        rolls.rests.remove(&ordinal.0);
        go_on(tx, jid)?;
    }
    Ok(())
}

/// One command did not come to an end with the job.
pub(super) fn more(tx: &mut Tx<'_>, subject: &[u8]) -> Result<(), StoreError> {
    let jid = table::parse_jid(subject)?;
    let Some(open) = tx.index.open.get_mut(&jid) else { return Ok(()) };
    open.more = None;
    job::close_if_done(tx, jid)
}
