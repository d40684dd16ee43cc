//! Reads everything that one master holds, at the end of a run.

use super::history::{Deed, History, JobSeen};
use super::operator::TTL_MS;
use saltern_store::view::JobSummary;
use saltern_store::{State, StoreError};
use saltern_wire::Ordinal;
use std::collections::BTreeMap;
use std::time::Duration;

/// Jobs that are read: far more than a run submits.
const JOBS_MAX: usize = 100_000;

/// Writes down every job, every key and a digest of every row of `state`, which the master `name` holds.
pub fn read_all(state: &State, name: &str, at: Duration, history: &History) -> Result<(), StoreError> {
    let revision = state.revision().0;
    for summary in state.jobs(None, JOBS_MAX, false)?.into_iter().rev() {
        let jid = summary.jid.to_string();
        if let Some(job) = job_seen(state, &summary)? {
            history.note(name, Deed::ReadJob { jid, job }, revision, at);
        }
    }
    let keys = state.keys().into_iter().map(|key| (key.minion.to_string(), word(&key.state))).collect();
    history.note(name, Deed::ReadKeys { keys }, revision, at);
    let digest = hex::encode(state.digest()?);
    history.note(name, Deed::ReadDigest { digest }, revision, at);
    Ok(())
}

/// An enum's name as it stands on the wire.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

/// A job as this master holds it.
fn job_seen(state: &State, summary: &JobSummary) -> Result<Option<JobSeen>, StoreError> {
    let Some(record) = state.job(&summary.jid)? else { return Ok(None) };
    let name = |ordinal: u32| state.name_of(Ordinal(ordinal)).map_or(ordinal.to_string(), |id| id.to_string());
    let progress =
        state.progress(&summary.jid)?.into_iter().map(|(_, minion, progress)| (minion.to_string(), word(&progress)));
    let mut returns = BTreeMap::new();
    let mut conflicts = 0;
    for held in state.returns(&summary.jid)? {
        let outcome = &held.outcome;
        let text = format!("{} {} {} {}", word(&outcome.kind), outcome.success, outcome.retcode, outcome.value);
        conflicts += state.conflicts_of(&summary.jid, held.ordinal)?;
        returns.insert(held.minion.to_string(), text);
    }
    Ok(Some(JobSeen {
        request: record.job.user.clone(),
        pure: saltern_minion::modules::find(&record.job.function).is_none_or(|function| function.pure),
        may_expire: record.job.ttl_ms < TTL_MS,
        expected: record.expected.iter().map(name).collect(),
        progress: progress.collect(),
        returns,
        conflicts,
        done: record.done.is_some(),
    }))
}
