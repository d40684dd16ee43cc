//! One job, whole: who answered what, and for everybody else where the job is and why there is no answer.

use crate::presence::{Presence, Whereabouts};
use saltern_store::view::JobSummary as JobSummaryRecord;
use saltern_store::{State, StoreError};
use saltern_wire::api::{JobState, JobSummary, JobView, Missing, Presence as Presentness, ReturnView};
use saltern_wire::job::{Outcome, OutcomeKind, Progress, ReturnRecord};
use saltern_wire::master::Directory;
use saltern_wire::{JobId, LogicalTime, MasterId, MinionId};
use std::collections::BTreeMap;

/// Why a job is not shown whole.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The tables cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its returns are too long for one answer.
    #[error(
        "the returns of {jid} are longer than {bytes_max} bytes together: read them one by one from /v1/jobs/{jid}/events"
    )]
    Large {
        /// Which job.
        jid: JobId,
        /// The limit.
        bytes_max: usize,
    },
}

/// Returns that are read at one time, of up to 16 MiB each.
const RETURNS_STEP: usize = 4;

/// The job `jid` as the truth has it here, with at most `bytes_max` of returns; `None` if it has none.
pub fn job_view(
    state: &State,
    presence: &Presence,
    jid: JobId,
    bytes_max: usize,
) -> Result<Option<JobView>, ViewError> {
    let Some(held) = state.job(&jid)? else { return Ok(None) };
    let directory = directory_of(state);
    let mut returns: BTreeMap<MinionId, ReturnView> = BTreeMap::new();
    let (mut bytes, mut after) = (0, None);
    loop {
        let records = state.returns_after(&jid, after, RETURNS_STEP)?;
        let Some(last) = records.last().map(|record| record.ordinal) else { break };
        after = Some(last);
        for record in records {
            let view = return_view(&record, directory.as_ref());
            bytes += view.value.to_string().len();
            returns.insert(record.minion, view);
        }
        if bytes > bytes_max {
            return Err(ViewError::Large { jid, bytes_max });
        }
    }
    let mut minions = Vec::new();
    let mut absent = Vec::new();
    for (_, minion, progress) in state.progress(&jid)? {
        // Whoever returned between the two reads is not missing, whatever the other one said.
        if !returns.contains_key(&minion) {
            absent.push(missing(state, presence, minion.clone(), progress, held.opened));
        }
        minions.push(minion);
    }
    minions.sort();
    absent.sort_by(|one, other| one.minion.cmp(&other.minion));
    let summary = summary(&JobSummaryRecord {
        jid,
        opened: held.opened,
        targeted: u32::try_from(held.expected.len()).unwrap_or(u32::MAX),
        returned: u32::try_from(returns.len()).unwrap_or(u32::MAX),
        done: held.done,
        batch: held.batch,
        job: held.job,
    });
    let master = master_name(summary.1, directory.as_ref());
    Ok(Some(JobView { summary: summary.0, master, minions, returns, missing: absent }))
}

/// One job of a list, and the master that accepted it.
pub fn summary(record: &JobSummaryRecord) -> (JobSummary, MasterId) {
    let JobSummaryRecord { jid, job, opened, targeted, returned, done, batch } = record;
    let summary = JobSummary {
        jid: *jid,
        function: job.function.clone(),
        arguments: job.arguments.clone(),
        keywords: job.keywords.clone(),
        target: job.target.clone(),
        user: job.user.clone(),
        opened: *opened,
        state: if done.is_some() { JobState::Done } else { JobState::Open },
        targeted: *targeted,
        returned: *returned,
        batch: *batch,
    };
    (summary, job.master)
}

/// The directory in place, opened; `None` before the cluster was founded.
pub fn directory_of(state: &State) -> Option<Directory> {
    state.directory().and_then(|signed| signed.peek().ok())
}

/// Why a minion that stands at `progress` has not answered, in a sentence.
pub fn reason(progress: Progress, whereabouts: &Whereabouts) -> String {
    let away = || match (whereabouts.presence, whereabouts.since) {
        (Presentness::Connected, _) => None,
        (Presentness::Unknown, _) => Some("its master is unreachable".to_owned()),
        (Presentness::Disconnected, Some(since)) => Some(format!("disconnected since {since}")),
        (Presentness::Disconnected, None) => Some("disconnected: not seen since this master started".to_owned()),
    };
    match progress {
        Progress::Waiting => away().unwrap_or_else(|| "not delivered yet".into()),
        Progress::Accepted => match away() {
            None => "delivered, still running".into(),
            Some(away) => format!("delivered, {away}"),
        },
        Progress::Expired => match away() {
            None => "expired".into(),
            Some(away) => format!("expired, {away}"),
        },
        Progress::Unreachable => "key not accepted".into(),
        Progress::Held => "its turn has not come".into(),
        Progress::Skipped => "skipped: failhard".into(),
        Progress::Killed => "killed before it had accepted it".into(),
        Progress::Cancelled => "cancelled: the cluster was restored or recovered meanwhile".into(),
        Progress::Returned | Progress::Failed | Progress::Interrupted => "returned".into(),
    }
}

/// A return as people see it.
pub fn return_view(record: &ReturnRecord, directory: Option<&Directory>) -> ReturnView {
    let Outcome { kind, success, retcode, value, duration_ms } = record.outcome.clone();
    let state = match kind {
        OutcomeKind::Interrupted => Progress::Interrupted,
        OutcomeKind::Finished if success => Progress::Returned,
        OutcomeKind::Finished | OutcomeKind::Refused => Progress::Failed,
    };
    ReturnView { value, retcode, success, state, master: master_name(record.via, directory), duration_ms }
}

/// A minion that has not answered the job opened at `opened`, as people see it.
pub fn missing(
    state: &State,
    presence: &Presence,
    minion: MinionId,
    progress: Progress,
    opened: LogicalTime,
) -> Missing {
    let facts = (progress == Progress::Unreachable).then(|| state.facts(&minion).ok().flatten()).flatten();
    let reinstalled = facts.is_some_and(|facts| facts.enrolled > opened);
    let reason = if reinstalled {
        "reinstalled: nobody knows whether it ran".into()
    } else {
        reason(progress, &presence.where_is(&minion))
    };
    Missing { minion, state: progress, reason }
}

/// A master's name, or its number if the directory no longer has it.
pub fn master_name(id: MasterId, directory: Option<&Directory>) -> String {
    let record = directory.and_then(|directory| directory.master(id));
    record.map_or_else(|| format!("master-{id}"), |master| master.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_missing_has_a_reason() {
        use Presentness::{Connected, Disconnected, Unknown};
        let since = LogicalTime::from_unix_micros(1_795_392_390_290_128);
        for (progress, presence, since, expect) in [
            (Progress::Waiting, Connected, None, "not delivered yet"),
            (Progress::Waiting, Disconnected, Some(since), "disconnected since 2026-11-23T00:06:30.290128Z"),
            (Progress::Waiting, Disconnected, None, "disconnected: not seen since this master started"),
            (Progress::Waiting, Unknown, None, "its master is unreachable"),
            (Progress::Accepted, Connected, None, "delivered, still running"),
            (Progress::Accepted, Unknown, Some(since), "delivered, its master is unreachable"),
            (Progress::Expired, Connected, None, "expired"),
            (Progress::Expired, Disconnected, Some(since), "expired, disconnected since 2026-11-23T00:06:30.290128Z"),
            (Progress::Unreachable, Connected, None, "key not accepted"),
            (Progress::Held, Disconnected, Some(since), "its turn has not come"),
            (Progress::Skipped, Connected, None, "skipped: failhard"),
        ] {
            let whereabouts = Whereabouts { presence, master: None, since, version: None };
            assert_eq!(reason(progress, &whereabouts), expect);
        }
    }
}
