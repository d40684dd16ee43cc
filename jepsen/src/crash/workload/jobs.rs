//! A client that submits jobs.
//!
//! A job that is not pure appends one line to `marks/TOKEN.MINION` when it starts and returns its token with a drawn amount of
//! filling: how often it started is known from the disk, whatever anybody says, and what it has to return is known beforehand.

use super::{Recent, stream, workers};
use crate::crash::history::{Deed, JobAsked, JobSeen, digest};
use crate::crash::site::{Outcome, Site, Written};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use saltern_ops::fleet::process::MEMBER_VARIABLE;
use saltern_wire::api::{JobView, Submit, Submitted};
use saltern_wire::job::Progress;
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{JobId, Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// How long minions may accept a job. A minion that dies is back in a fraction of it, so nothing should expire.
const TTL_MS: u64 = 60_000;

/// How long a client waits for a job before it goes on to the next one.
const WAIT: Duration = Duration::from_secs(3);

/// Sizes of what a job returns, in bytes. The largest travels in several parts.
const SIZES: [usize; 8] = [0, 0, 40, 200, 1_000, 4_000, 60_000, 300_000];

pub(super) async fn run(site: Site, number: u64, recent: Recent) {
    let mut rng = site.rng(stream::JOBS + number);
    let process = format!("jobs-{}", number + 1);
    let mut count = 0;
    while !site.stop.is_cancelled() {
        count += 1;
        let token = format!("{process}-{count}");
        if let Some(jid) = submit(&site, &process, &token, &mut rng).await {
            recent.add(jid);
            if rng.random_bool(0.5) {
                wait(&site, &process, jid, &mut rng).await;
            }
        }
        site.rest(&mut rng, 20..160).await;
    }
}

/// Submits one job and writes down what became of that.
async fn submit(site: &Site, process: &str, token: &str, rng: &mut ChaCha8Rng) -> Option<JobId> {
    let pure = rng.random_bool(0.4);
    let all = workers();
    let count = if pure { rng.random_range(1..=all.len()) } else { rng.random_range(1..=2) };
    let minions: BTreeSet<String> = all.sample(rng, count).cloned().collect();
    let size = SIZES.choose(rng).copied().unwrap_or_default();
    let job = if pure { echo(token, &minions) } else { script(&site.folder, token, size, &minions) };
    let returns = if pure { token.to_owned() } else { format!("{token} {}", "x".repeat(size)) };
    let asked = JobAsked { pure, minions, expect: digest(&Value::String(returns)) };
    let begun = site.now();
    let written = site.write::<_, Submitted>(rng, "/v1/jobs", &job).await;
    let (outcome, jid) = match written {
        Written::Done(answer) => (Outcome::Done(answer.revision.0), Some(answer.value.jid)),
        Written::Refused | Written::Denied => (Outcome::Refused, None),
        Written::Unknown => (Outcome::Unknown, None),
    };
    let deed = Deed::Submit { token: token.into(), job: asked, jid: jid.map(|jid| jid.to_string()) };
    site.record(process, deed, outcome, begun);
    jid
}

fn of(function: &str, argument: String, minions: &BTreeSet<String>) -> Submit {
    let expression = minions.iter().cloned().collect::<Vec<_>>().join(",");
    Submit {
        target: Target { kind: TargetKind::List, expression },
        function: function.into(),
        arguments: vec![Value::String(argument)],
        keywords: Map::new(),
        ttl_ms: Some(TTL_MS),
        batch: None,
        subset: None,
    }
}

fn echo(token: &str, minions: &BTreeSet<String>) -> Submit {
    of("test.echo", token.into(), minions)
}

fn script(folder: &Path, token: &str, size: usize, minions: &BTreeSet<String>) -> Submit {
    let mark = format!("'{}'/{token}.${MEMBER_VARIABLE}", folder.join("marks").display());
    let text = format!(": {token}; echo $$ >>{mark}; printf '{token} '; head -c {size} /dev/zero | tr '\\0' x");
    of("cmd.run", text, minions)
}

/// The submission that a job's arguments name, if it is one of ours.
pub fn token_of(function: &str, arguments: &[Value]) -> Option<String> {
    let text = arguments.first()?.as_str()?;
    match function {
        "test.echo" => Some(text.to_owned()),
        "cmd.run" => Some(text.strip_prefix(": ")?.split_once(';')?.0.to_owned()),
        _ => None,
    }
}

/// A job as a master shows it, for the history.
pub fn seen(view: &JobView) -> Option<JobSeen> {
    let token = token_of(&view.summary.function, &view.summary.arguments)?;
    let returned = |returned: &saltern_wire::api::ReturnView| (word(returned.state), digest(&returned.value));
    Some(JobSeen {
        token,
        minions: view.minions.iter().map(ToString::to_string).collect(),
        done: view.summary.state == saltern_wire::api::JobState::Done,
        returns: view.returns.iter().map(|(minion, view)| (minion.to_string(), returned(view))).collect(),
        missing: view.missing.iter().map(|missing| (missing.minion.to_string(), word(missing.state))).collect(),
    })
}

fn word(state: Progress) -> String {
    serde_json::to_value(state).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Waits until a job is done, or for a while.
async fn wait(site: &Site, process: &str, jid: JobId, rng: &mut ChaCha8Rng) {
    let end = site.now() + WAIT;
    while site.now() < end && !site.stop.is_cancelled() {
        if read(site, process, jid, rng).await {
            return;
        }
        site.rest(rng, 40..120).await;
    }
}

/// Reads a job, consistently, and writes down what was there. Gives whether it is done.
pub(super) async fn read(site: &Site, process: &str, jid: JobId, rng: &mut ChaCha8Rng) -> bool {
    let begun = site.now();
    let mut client = site.client_of(rng.random_range(0..site.masters()));
    let path = format!("/v1/jobs/{jid}");
    let asked = tokio::time::timeout(WAIT, client.get::<JobView>(&path, "consistent=true")).await;
    let deed = |job| Deed::ReadJob { jid: jid.to_string(), job };
    match asked {
        Ok(Ok(answer)) => {
            let job = seen(&answer.value);
            let done = job.as_ref().is_some_and(|job| job.done);
            site.record(process, deed(job), Outcome::Done(answer.revision.0), begun);
            done
        }
        // A master that answers that there is no such job has answered.
        Ok(Err(saltern_ops::client::ClientError::Refused { failure }))
            if failure.code == saltern_wire::api::FailureCode::NotFound =>
        {
            site.record(process, deed(None), Outcome::Done(0), begun);
            false
        }
        Ok(Err(_)) | Err(_) => {
            site.record(process, deed(None), Outcome::Refused, begun);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_arguments_name_its_submission() {
        let minions = BTreeSet::from(["minion-1".to_owned()]);
        for job in [echo("jobs-1-7", &minions), script(Path::new("/tmp/a"), "jobs-1-7", 10, &minions)] {
            assert_eq!(token_of(&job.function, &job.arguments).as_deref(), Some("jobs-1-7"), "{job:?}");
        }
        assert_eq!(token_of("test.ping", &[]), None);
    }
}
