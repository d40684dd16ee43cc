//! Forgets jobs that were done long enough ago, with all that was recorded for them: whole buckets of time, in few removals of
//! ranges.
//!
//! ```text
//!   jids rise with time:   … [ done  done  done  done ] open [ done  done ] │ not due yet …
//!                              └── one removal a table ─┘       └─ another ─┘
//! ```
//!
//! Everything recorded for a job stands under its jid, so that neighbours go together: a run of due jobs is one removal of a
//! range in each table, whether it has one job or thousands with a million returns. A job is due when the bucket of time in
//! which it was done is over for as long as results are kept; a bucket is a twenty-fourth of that, so that removals stay few
//! for ever. What is left of a removed range on the disk is the business of [`crate::state::State::reclaim`].
//!
//! **Invariants.** No job goes before its time, and none that is held stands inside of a run. One tick forgets a bounded number
//! of jobs; what is left over is still due at the next one.

use super::Tx;
use super::tick::before;
use crate::error::StoreError;
use crate::kv::{Direction, Table};
use crate::overlay::Read;
use crate::reclaim;
use crate::table::job;
use crate::table::timeline::{self, Due};
use saltern_wire::{JobId, LogicalTime};
use std::ops::{Bound, ControlFlow};
use std::time::Duration;

/// Jobs that one tick forgets at most: two rows are read for each, some ten milliseconds in all.
const JOBS_PER_TICK_MAX: usize = 2048;

/// Jobs between the due ones that one tick looks at, at most. Beyond it, due jobs go one by one.
const LOOKED_PER_TICK_MAX: usize = 4 * JOBS_PER_TICK_MAX;

/// Buckets that the time for which results are kept is divided into.
const BUCKETS: u64 = 24;

/// Shortest bucket: removals of ranges are not made more often.
const BUCKET_MIN: Duration = Duration::from_secs(1);

/// Longest bucket: nobody wonders for longer where the room is that a job was to give back.
const BUCKET_MAX: Duration = Duration::from_secs(3600);

/// Length of a bucket, in microseconds.
fn bucket(kept: Duration) -> u64 {
    let length = Duration::from_secs(kept.as_secs() / BUCKETS).clamp(BUCKET_MIN, BUCKET_MAX);
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

/// When what was done at `done` is forgotten: its bucket is over, and has been for as long as results are kept.
pub(super) fn due(done: LogicalTime, kept: Duration) -> LogicalTime {
    let bucket = bucket(kept);
    LogicalTime::from_unix_micros((done.unix_micros() / bucket + 1).saturating_mul(bucket)).plus(kept)
}

/// Forgets what is due.
pub(super) fn forget(tx: &mut Tx<'_>, kept: Duration) -> Result<(), StoreError> {
    let bucket = bucket(kept);
    let Some(over) = before(tx.time, kept).map(|end| end.unix_micros() / bucket * bucket) else { return Ok(()) };
    let Some(newest) = over.checked_sub(1).map(LogicalTime::from_unix_micros) else { return Ok(()) };
    let due = timeline::upto(&tx.over, Due::Retention, newest, JOBS_PER_TICK_MAX)?;
    let Some((time, subject)) = due.last() else { return Ok(()) };
    timeline::delete_upto(&mut tx.over, Due::Retention, *time, subject);
    let jids = due.iter().map(|(_, subject)| super::tick::jid(subject)).collect::<Result<Vec<_>, _>>()?;
    for jid in &jids {
        tx.closed.insert(*jid, None);
    }
    for (first, last) in runs(tx, jids)? {
        job::purge_run(&mut tx.over, first, last);
        reclaim::widen(&mut tx.freed, (first, last));
    }
    Ok(())
}

/// Puts `due` jobs together with whom no held job stands between: first and last of each run.
fn runs(tx: &Tx<'_>, mut due: Vec<JobId>) -> Result<Vec<(JobId, JobId)>, StoreError> {
    due.sort_unstable();
    due.dedup();
    let (Some(first), Some(last)) = (due.first(), due.last()) else { return Ok(Vec::new()) };
    // Jobs that are done and not due yet, between the first due one and the last.
    let (mut kept, mut looked, mut wrong) = (Vec::new(), 0, None);
    let mut waiting = due.iter().peekable();
    let mut seen_upto = *last;
    tx.over.visit(Table::JobEnds, &job::span(*first, *last), Direction::Forward, &mut |key, _| {
        let jid = match job::jid_of(Table::JobEnds, key) {
            Ok(jid) => jid,
            Err(error) => {
                wrong = Some(error);
                return ControlFlow::Break(());
            }
        };
        looked += 1;
        if looked > LOOKED_PER_TICK_MAX {
            seen_upto = jid;
            return ControlFlow::Break(());
        }
        while waiting.next_if(|due| **due < jid).is_some() {}
        if waiting.peek() != Some(&&jid) {
            kept.push(jid);
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = wrong {
        return Err(error);
    }
    let held_between = |low: JobId, high: JobId| {
        let next = kept.partition_point(|jid| *jid <= low);
        let done = kept.get(next).is_some_and(|jid| *jid < high);
        done || tx.index.open.range((Bound::Excluded(low), Bound::Excluded(high))).next().is_some()
    };
    let mut runs: Vec<(JobId, JobId)> = Vec::new();
    for jid in due {
        match runs.last_mut() {
            Some((_, end)) if jid <= seen_upto && !held_between(*end, jid) => *end = jid,
            Some(_) | None => runs.push((jid, jid)),
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_kept_for_its_time_and_at_most_one_bucket_longer() {
        let second = 1_000_000;
        for (kept, bucket_seconds) in [(0, 1), (23, 1), (240, 10), (86_400, 3600), (30 * 86_400, 3600)] {
            let kept = Duration::from_secs(kept);
            assert_eq!(bucket(kept), bucket_seconds * second, "{kept:?}");
            for done in [0, 1, 17 * second + 5, 86_400 * second - 1, 86_400 * second] {
                let done = LogicalTime::from_unix_micros(done);
                let late = due(done, kept).since(done.plus(kept));
                assert!(
                    late > Duration::ZERO && late <= Duration::from_secs(bucket_seconds),
                    "{kept:?} {done} {late:?}"
                );
            }
        }
    }
}
