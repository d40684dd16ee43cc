//! Jobs: open and accept, and the bookkeeping of who still owes an answer.
//!
//! ```text
//!   held ─▶ waiting ── Accept ──▶ accepted ── Record ──▶ returned | failed | interrupted
//!             │  └──────────────── Record ─────────────▶       ▲
//!             ├── Tick after the TTL ──▶ expired ──── Record ──┤
//!             ├── key gone (also from accepted) ─▶ unreachable ┤
//!             └── End ─▶ killed ──────────────────── Record ───┘
//! ```
//!
//! Held is where the minions of a rolling job begin ([`super::rolling`]).
//!
//! **Invariant (P5).** A targeted minion is in exactly one of these: its row in the table of progress, or waiting if it has
//! none (held, in a rolling job); `Index::open` mirrors the states in which it owes an answer.

use super::{Stop, Tx, rolling};
use crate::command::{Effect, Refused, Reply};
use crate::error::StoreError;
use crate::index::{OpenJob, Rolls};
use crate::table::job::{self, EndRow, JobRow, ProgressRow};
use crate::table::timeline::{self, Due};
use crate::table::{master, meta};
use roaring::RoaringBitmap;
use saltern_wire::crypto::Signed;
use saltern_wire::job::{Job, Progress};
use saltern_wire::level::LEVEL_MEMBERSHIP;
use saltern_wire::limits::{FUNCTION_NAME_BYTES_MAX, JOB_BYTES_MAX};
use saltern_wire::rolling::{Rolling, Stand};
use saltern_wire::{JobId, MinionId, Ordinal};
use std::sync::Arc;

/// Opens a job for all of its minions, or for so many of them at a time.
pub(super) fn open(tx: &mut Tx<'_>, job: &Signed<Job>, rolling: Option<Rolling>) -> Result<Reply, Stop> {
    let intent = check(tx, job)?;
    if let Some(rolling) = &rolling {
        rolling::check(rolling)?;
    }
    let jid = intent.jid;
    let expected = &intent.targets & &tx.index.accepted;
    if expected.is_empty() {
        return Err(Refused::NoTargets.into());
    }
    let max = tx.index.settings.open_jobs_max;
    if tx.index.open.len() >= usize::try_from(max).unwrap_or(usize::MAX) {
        return Err(Refused::Limit(format!(
            "{max} jobs are open, which is the setting open_jobs_max; wait for some of them to end"
        ))
        .into());
    }
    let row = JobRow { job: job.clone(), opened: tx.time, revision: tx.entry, expected, rolling };
    job::put(&mut tx.over, jid, &row);
    let expires = intent.expires();
    timeline::put(&mut tx.over, Due::Acceptance, expires, &jid.to_bytes());
    if tx.index.newest_job.is_none_or(|newest| newest < jid) {
        tx.index.newest_job = Some(jid);
        meta::put_bytes(&mut tx.over, meta::NEWEST_JOB, &jid.to_bytes());
    }
    let minions = names(tx, &row.expected);
    let none = RoaringBitmap::new;
    let rolls = rolling.map(|rolling| Box::new(Rolls::new(rolling, row.expected.len())));
    let (waiting, held) = if rolls.is_some() { (none(), row.expected.clone()) } else { (row.expected.clone(), none()) };
    let open = OpenJob {
        opened: tx.time,
        expires,
        waiting,
        held,
        expected: row.expected,
        accepted: none(),
        partial: none(),
        returned: 0,
        stand: Stand::default(),
        more: None,
        rolls,
    };
    tx.index.open.insert(jid, open);
    tx.closed.remove(&jid);
    tx.effects.push(Effect::JobOpened { job: job.clone(), jid });
    rolling::go_on(tx, jid)?;
    Ok(Reply::Opened { jid, minions })
}

/// Everything about a job that can be refused without looking at its targets.
fn check(tx: &Tx<'_>, job: &Signed<Job>) -> Result<Job, Stop> {
    if job.len() > JOB_BYTES_MAX {
        return Err(Refused::Limit(format!("the job has {} bytes, the limit is {JOB_BYTES_MAX}", job.len())).into());
    }
    let intent = job.peek().map_err(|error| Refused::Invalid(format!("the job cannot be read: {error}")))?;
    if let Some(ca) = &tx.index.ca
        && ca.cluster != intent.cluster
    {
        return Err(Refused::Invalid(format!(
            "the job {} belongs to the cluster {}, this is {}",
            intent.jid, intent.cluster, ca.cluster
        ))
        .into());
    }
    // A master that was removed takes nothing any more: minions would not believe it.
    let is_founded = tx.index.ca.is_some() && tx.index.level >= LEVEL_MEMBERSHIP;
    if is_founded && !master::is_known(&tx.over, intent.master)? {
        return Err(Refused::Limit(format!(
            "the master {}, which took the job {}, is not one of the cluster (any more): ask another one",
            intent.master, intent.jid
        ))
        .into());
    }
    if intent.function.is_empty() || intent.function.len() > FUNCTION_NAME_BYTES_MAX {
        return Err(Refused::Invalid(format!(
            "the function's name has {} bytes, it must have 1 to {FUNCTION_NAME_BYTES_MAX}",
            intent.function.len()
        ))
        .into());
    }
    if tx.index.open.contains_key(&intent.jid) || job::get(&tx.over, intent.jid)?.is_some() {
        return Err(Refused::Conflict(format!("there is a job {} already; submit it again", intent.jid)).into());
    }
    Ok(intent)
}

pub(super) fn accept(tx: &mut Tx<'_>, accepted: &[(JobId, Ordinal)]) -> Result<Reply, Stop> {
    let mut changed = Vec::new();
    for (jid, ordinal) in accepted {
        let Some(open) = tx.index.open.get_mut(jid) else { continue };
        if !open.waiting.remove(ordinal.0) {
            continue;
        }
        open.accepted.insert(ordinal.0);
        rolling::end_turn(&mut tx.over, open, *jid, *ordinal);
        let row = ProgressRow { progress: Progress::Accepted, since: tx.time };
        job::put_progress(&mut tx.over, *jid, *ordinal, row);
        changed.push((*jid, *ordinal));
    }
    if !changed.is_empty() {
        tx.effects.push(Effect::JobAccepted { accepted: changed });
    }
    Ok(Reply::Done)
}

/// The minion will not answer what it owes: its key or its journal is gone.
pub(super) fn lose(tx: &mut Tx<'_>, ordinal: Ordinal) -> Result<(), StoreError> {
    let owed: Vec<JobId> =
        tx.index.open.iter().filter(|(_, open)| open.is_owed_by(ordinal)).map(|(jid, _)| *jid).collect();
    for jid in owed {
        settle(tx, jid, ordinal, Progress::Unreachable)?;
        close_if_done(tx, jid)?;
    }
    Ok(())
}

/// Settles a minion that owes an answer without one.
pub(super) fn settle(tx: &mut Tx<'_>, jid: JobId, ordinal: Ordinal, progress: Progress) -> Result<(), StoreError> {
    let Some(open) = tx.index.open.get_mut(&jid) else { return Ok(()) };
    rolling::leave(&mut tx.over, open, jid, ordinal, tx.time);
    job::put_progress(&mut tx.over, jid, ordinal, ProgressRow { progress, since: tx.time });
    tx.effects.push(Effect::Settled { jid, ordinal, progress });
    Ok(())
}

/// Puts a result in place of whatever stood there.
pub(super) fn put_result(tx: &mut Tx<'_>, jid: JobId, ordinal: Ordinal, progress: Progress) -> Result<(), StoreError> {
    job::put_progress(&mut tx.over, jid, ordinal, ProgressRow { progress, since: tx.time });
    if let Some(open) = tx.index.open.get_mut(&jid) {
        rolling::leave(&mut tx.over, open, jid, ordinal, tx.time);
        open.returned += 1;
        if progress != Progress::Returned {
            rolling::note_failure(tx, jid);
        }
        return Ok(());
    }
    if let Some(end) = job::end(&tx.over, jid)? {
        job::put_end(&mut tx.over, jid, EndRow { returned: end.returned + 1, ..end });
    }
    Ok(())
}

/// Somebody was settled: lets the next turns come, and closes the job if everybody is settled.
pub(super) fn close_if_done(tx: &mut Tx<'_>, jid: JobId) -> Result<(), StoreError> {
    rolling::go_on(tx, jid)?;
    if !tx.index.open.get(&jid).is_some_and(OpenJob::is_done) {
        return Ok(());
    }
    let Some(open) = tx.index.open.remove(&jid) else { return Ok(()) };
    job::put_end(&mut tx.over, jid, EndRow { done: tx.time, returned: open.returned, ending: open.stand.ending });
    timeline::delete(&mut tx.over, Due::Acceptance, open.expires, &jid.to_bytes());
    rolling::forget(&mut tx.over, &open, jid);
    timeline::put(&mut tx.over, Due::Retention, tx.time, &jid.to_bytes());
    tx.closed.insert(jid, Some(Arc::new(open.expected)));
    tx.effects.push(Effect::JobDone { jid });
    Ok(())
}

/// Forgets a job that was done long enough ago. Used by ticks.
pub(super) fn purge(tx: &mut Tx<'_>, jid: JobId) {
    job::purge(&mut tx.over, jid);
    tx.closed.insert(jid, None);
}

/// Who has to answer the job; `None` if the truth does not hold it.
pub(super) fn expected(tx: &Tx<'_>, jid: JobId) -> Result<Option<Arc<RoaringBitmap>>, StoreError> {
    if let Some(open) = tx.index.open.get(&jid) {
        return Ok(Some(Arc::new(open.expected.clone())));
    }
    if let Some(known) = tx.closed.get(&jid) {
        return Ok(known.clone());
    }
    Ok(job::get(&tx.over, jid)?.map(|row| Arc::new(row.expected)))
}

/// Whether pieces of a long answer of `ordinal` may be held, without the rest; what is known of an open job is exact.
pub(super) fn may_be_partial(tx: &Tx<'_>, jid: JobId, ordinal: Ordinal) -> bool {
    tx.index.open.get(&jid).is_none_or(|open| open.partial.contains(ordinal.0))
}

/// Notes that pieces of a long answer of `ordinal` are held without the rest, or that they are no longer.
pub(super) fn note_partial(tx: &mut Tx<'_>, jid: JobId, ordinal: Ordinal, is_partial: bool) {
    let Some(open) = tx.index.open.get_mut(&jid) else { return };
    if is_partial {
        open.partial.insert(ordinal.0);
    } else {
        open.partial.remove(ordinal.0);
    }
}

/// How a minion stands to a job that somebody returns for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The truth does not hold the job.
    NoJob,
    /// It is not among those who have to answer.
    Untargeted,
    /// It owes an answer, so none is recorded.
    Owing,
    /// It was settled, with an answer or without.
    Settled,
}

pub(super) fn standing(tx: &mut Tx<'_>, jid: JobId, ordinal: Ordinal) -> Result<Standing, StoreError> {
    if let Some(open) = tx.index.open.get(&jid) {
        return Ok(match (open.is_owed_by(ordinal), open.expected.contains(ordinal.0)) {
            (true, _) => Standing::Owing,
            (false, true) => Standing::Settled,
            (false, false) => Standing::Untargeted,
        });
    }
    let expected = expected(tx, jid)?;
    let standing = match &expected {
        None => Standing::NoJob,
        Some(expected) if expected.contains(ordinal.0) => Standing::Settled,
        Some(_) => Standing::Untargeted,
    };
    // A batch of late returns is often about one job: its record is read once.
    tx.closed.insert(jid, expected);
    Ok(standing)
}

/// The names behind `ordinals`, sorted.
pub(super) fn names(tx: &Tx<'_>, ordinals: &RoaringBitmap) -> Vec<MinionId> {
    let mut names: Vec<_> = ordinals.iter().filter_map(|number| tx.name(Ordinal(number))).collect();
    names.sort_unstable();
    names
}
