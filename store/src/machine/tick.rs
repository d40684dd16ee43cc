//! What ends by itself: acceptance of jobs, retention of results, pending and denied keys, request ids, orphans, tokens.
//!
//! Only a tick ends anything, and each tick does a bounded piece of it: what is left over is still due at the next one.

use super::{REQUEST_KEPT, Stop, Tx, job, key, master, orphan, patrol, retention, rolling};
use crate::command::Reply;
use crate::error::StoreError;
use crate::index::Index;
use crate::overlay::Read;
use crate::table;
use crate::table::timeline::{self, Due};
use saltern_wire::job::Progress;
use saltern_wire::{JobId, LogicalTime, Ordinal};
use std::time::Duration;

/// Things of one kind that one tick ends: a few milliseconds of work at most.
const DUE_PER_TICK_MAX: usize = 512;
/// Request ids that one tick forgets: as many as the jobs that one tick forgets, and as cheap.
const REQUESTS_PER_TICK_MAX: usize = 4096;
/// Turns and rests of rolling jobs that one tick ends: each costs a row or two, and an effect.
const PLACES_PER_TICK_MAX: usize = 4096;
/// Jobs that one tick goes on with where another command stopped: each step is bounded by itself, and long.
const STEPS_PER_TICK_MAX: usize = 2;
/// The level from which on jobs go by buckets of time. Before it, one by one.
const LEVEL_BUCKETS: u32 = 2;
/// Minions that one tick settles as expired, over all jobs: each costs a row and an effect.
const EXPIRED_PER_TICK_MAX: usize = 4096;

pub(super) fn tick(tx: &mut Tx<'_>) -> Result<Reply, Stop> {
    let mut expired = 0;
    for kind in Due::ALL {
        if kind == Due::Retention && tx.index.level >= LEVEL_BUCKETS {
            retention::forget(tx, kept(tx.index, kind))?;
            continue;
        }
        let Some(end) = before(tx.time, kept(tx.index, kind)) else { continue };
        for (time, subject) in timeline::upto(&tx.over, kind, end, due_max(tx.index, kind))? {
            if kind == Due::Acceptance {
                expired += expire(tx, time, &subject, EXPIRED_PER_TICK_MAX.saturating_sub(expired))?;
                continue;
            }
            timeline::delete(&mut tx.over, kind, time, &subject);
            finish(tx, kind, time, &subject)?;
        }
    }
    patrol::walk(tx)?;
    Ok(Reply::Done)
}

/// How many things of this kind one tick ends.
fn due_max(index: &Index, kind: Due) -> usize {
    match kind {
        Due::Request if index.level >= LEVEL_BUCKETS => REQUESTS_PER_TICK_MAX,
        Due::Turn | Due::Rest => PLACES_PER_TICK_MAX,
        Due::More => STEPS_PER_TICK_MAX,
        Due::PendingKey
        | Due::DeniedKey
        | Due::Acceptance
        | Due::Retention
        | Due::Request
        | Due::Orphan
        | Due::Token => DUE_PER_TICK_MAX,
    }
}

/// How long after its time in the timeline something of this kind is due.
fn kept(index: &Index, kind: Due) -> Duration {
    let seconds = |seconds: u64| Duration::from_secs(seconds);
    match kind {
        Due::PendingKey | Due::DeniedKey => seconds(index.settings.pending_keys_seconds),
        Due::Acceptance | Due::Token | Due::Turn | Due::Rest | Due::More => Duration::ZERO,
        Due::Retention | Due::Orphan => seconds(index.settings.keep_jobs_seconds),
        Due::Request => REQUEST_KEPT,
    }
}

/// `now` less `kept`; `None` if that is before all time.
pub(super) fn before(now: LogicalTime, kept: Duration) -> Option<LogicalTime> {
    let kept = u64::try_from(kept.as_micros()).ok()?;
    now.unix_micros().checked_sub(kept).map(LogicalTime::from_unix_micros)
}

fn finish(tx: &mut Tx<'_>, kind: Due, time: LogicalTime, subject: &[u8]) -> Result<(), StoreError> {
    match kind {
        Due::PendingKey => key::expire_pending(tx, subject),
        Due::DeniedKey => key::expire_denied(tx, subject)?,
        Due::Acceptance => {}
        Due::Retention => job::purge(tx, jid(subject)?),
        Due::Request => table::request::delete(&mut tx.over, subject),
        Due::Orphan => orphan::forget(tx, time, subject),
        Due::Token => master::forget_token(tx, time, subject),
        Due::Turn => rolling::pass(tx, time, subject)?,
        Due::Rest => rolling::rested(tx, time, subject)?,
        Due::More => rolling::more(tx, subject)?,
    }
    Ok(())
}

/// Settles up to `budget` minions of a job that have not accepted it in time; returns how many.
fn expire(tx: &mut Tx<'_>, expires: LogicalTime, subject: &[u8], budget: usize) -> Result<usize, StoreError> {
    let jid = jid(subject)?;
    let Some(open) = tx.index.open.get(&jid) else {
        timeline::delete(&mut tx.over, Due::Acceptance, expires, subject);
        return Ok(0);
    };
    let owing = &open.waiting | &open.held;
    let late: Vec<u32> = owing.iter().take(budget).collect();
    let all = late.len() as u64 == owing.len();
    for ordinal in &late {
        job::settle(tx, jid, Ordinal(*ordinal), Progress::Expired)?;
    }
    if all {
        timeline::delete(&mut tx.over, Due::Acceptance, expires, subject);
    }
    job::close_if_done(tx, jid)?;
    Ok(late.len())
}

pub(super) fn jid(subject: &[u8]) -> Result<JobId, StoreError> {
    table::job::parse_jid(subject)
}

/// When the next tick would end something; `None` if nothing ends by itself.
pub(crate) fn next_due(read: &impl Read, index: &Index) -> Result<Option<LogicalTime>, StoreError> {
    let mut next: Option<LogicalTime> = None;
    for kind in Due::ALL {
        for (time, _) in timeline::first(read, kind, 1)? {
            let due = match kind {
                Due::Retention if index.level >= LEVEL_BUCKETS => retention::due(time, kept(index, kind)),
                _ => time.plus(kept(index, kind)),
            };
            next = Some(next.map_or(due, |next| next.min(due)));
        }
    }
    Ok(next)
}
