//! The client that lets minions report numbers to the mine. A minion reads its number from a file when the job runs, so the
//! number that it reports never falls, however late a job runs.

use super::{stream, workers};
use crate::crash::history::Deed;
use crate::crash::site::{Outcome, Site, Written};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use saltern_ops::fleet::jobs;
use saltern_wire::api::{JobState, JobView, Submitted};
use saltern_wire::target::TargetKind;
use saltern_wire::{JobId, Value};
use std::path::PathBuf;
use std::time::Duration;

/// The mine function under which the numbers stand.
pub const FUNCTION: &str = "number";

/// How long a send may take until its outcome no longer matters; the next one supersedes it.
const WAIT: Duration = Duration::from_secs(4);

pub(super) async fn run(site: Site) {
    let mut rng = site.rng(stream::MINE);
    let minions = workers();
    let mut counters = vec![0_u64; minions.len()];
    while !site.stop.is_cancelled() {
        let number = rng.random_range(0..minions.len());
        counters[number] += 1;
        let (minion, counter) = (&minions[number], counters[number]);
        let begun = site.now();
        let outcome = send(&site, minion, counter, &mut rng).await;
        site.record("mine", Deed::MineSend { minion: minion.clone(), counter }, outcome, begun);
        site.rest(&mut rng, 100..400).await;
    }
}

async fn send(site: &Site, minion: &str, counter: u64, rng: &mut ChaCha8Rng) -> Outcome {
    let fact = site.folder.join(format!("fact-{minion}"));
    if let Err(error) = write_fact(&fact, counter) {
        tracing::error!(%error, "the fact of {minion} cannot be written");
        return Outcome::Unknown;
    }
    let mut job = jobs::job(TargetKind::List, minion, "mine.send", &[FUNCTION.into()]);
    job.arguments.push(format!("cat {}", fact.display()).into());
    job.keywords.insert("mine_function".into(), "cmd.run".into());
    let written = site.write::<_, Submitted>(rng, "/v1/jobs", &job).await;
    let Written::Done(submitted) = written else { return Outcome::Unknown };
    match tokio::time::timeout(WAIT, committed(site, submitted.value.jid, rng)).await {
        Ok(Some(revision)) => Outcome::Done(revision),
        Ok(None) | Err(_) => Outcome::Unknown,
    }
}

/// A number is written whole or not at all.
fn write_fact(path: &PathBuf, counter: u64) -> std::io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, counter.to_string())?;
    std::fs::rename(next, path)
}

/// Waits for the minion to say that its report is committed.
async fn committed(site: &Site, jid: JobId, rng: &mut ChaCha8Rng) -> Option<u64> {
    loop {
        let mut client = site.client(rng, None);
        let answer = site.read(client.get::<JobView>(&format!("/v1/jobs/{jid}"), "")).await;
        if let Some(answer) = answer.filter(|answer| answer.value.summary.state == JobState::Done) {
            let returned = answer.value.returns.values().next()?;
            return (returned.success && returned.value == Value::Bool(true)).then_some(answer.revision.0);
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}
