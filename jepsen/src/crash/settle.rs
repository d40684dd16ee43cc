//! The end of a run: waits until no job is open, and reads what every master and every minion's disk hold.

use super::history::{Deed, nanos};
use super::plan::MASTERS;
use super::site::{Outcome, Site};
use super::workload::{guests, jobs, mine};
use anyhow::{Context, ensure};
use futures::{StreamExt, stream};
use saltern_ops::client::{Client, ClientError};
use saltern_wire::JobId;
use saltern_wire::api::{FailureCode, JobPage, JobView, KeyView};
use saltern_wire::mine::MineEntry;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long open jobs may take to be settled: their time to live, and a sweep after it.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(80);

/// Jobs that are read at one time.
const READERS: usize = 4;

/// Jobs of one page.
const PAGE: usize = 200;

/// Waits until every master says that no job is open. What is open after that is read as open, and the checker complains.
pub async fn wait_until_settled(site: &Site) {
    let settled = async {
        for number in 0..MASTERS {
            loop {
                let mut client = site.client_of(number);
                let page = client.get::<JobPage>("/v1/jobs?active=true&limit=1", "consistent=true").await;
                if page.is_ok_and(|page| page.value.jobs.is_empty()) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    if tokio::time::timeout(SETTLE_TIMEOUT, settled).await.is_err() {
        tracing::error!("jobs are open after {} s", SETTLE_TIMEOUT.as_secs());
    }
}

/// Reads everything, at every master, and the marks on the disk.
pub async fn read_all(site: &Site, masters: &[String]) -> anyhow::Result<()> {
    let mut jids: BTreeSet<JobId> = acknowledged(site)?;
    for number in 0..MASTERS {
        jids.extend(listed(&mut site.client_of(number)).await.with_context(|| masters[number].clone())?);
    }
    for (number, master) in masters.iter().enumerate() {
        read_master(site, number, master, &jids).await.with_context(|| master.clone())?;
    }
    read_marks(site)
}

fn acknowledged(site: &Site) -> anyhow::Result<BTreeSet<JobId>> {
    let mut jids = BTreeSet::new();
    for operation in site.history.operations() {
        if let Deed::Submit { jid: Some(jid), .. } = operation.deed {
            jids.insert(jid.parse::<JobId>()?);
        }
    }
    Ok(jids)
}

/// Every job of ours that a master lists: also those whose submission nobody acknowledged.
async fn listed(client: &mut Client) -> anyhow::Result<BTreeSet<JobId>> {
    let mut jids = BTreeSet::new();
    let mut before = String::new();
    loop {
        let page = client.get::<JobPage>(&format!("/v1/jobs?limit={PAGE}{before}"), "consistent=true").await?.value;
        let ours = |job: &&saltern_wire::api::JobSummary| jobs::token_of(&job.function, &job.arguments).is_some();
        jids.extend(page.jobs.iter().filter(ours).map(|job| job.jid));
        match page.next {
            Some(next) => before = format!("&before={next}"),
            None => return Ok(jids),
        }
    }
}

async fn read_master(site: &Site, number: usize, master: &str, jids: &BTreeSet<JobId>) -> anyhow::Result<()> {
    let at = site.now();
    let mut client = site.client_of(number);
    let keys = client.get::<Vec<KeyView>>("/v1/keys", "consistent=true").await?.value;
    let keys = super::workload::states(&keys);
    site.history.note(master, Deed::FinalKeys { keys }, true, at);
    let path = format!("/v1/mine?kind=glob&target=*&function={}", mine::FUNCTION);
    let entries = client.get::<Vec<MineEntry>>(&path, "consistent=true").await?.value;
    let mut counters = super::workload::numbers(&entries);
    counters.retain(|minion, _| !guests().contains(minion));
    site.history.note(master, Deed::FinalMine { counters }, true, at);
    let reads = stream::iter(jids.iter().copied().map(|jid| read_job(site, number, jid)));
    let mut reads = reads.buffer_unordered(READERS);
    while let Some(read) = reads.next().await {
        let (jid, view) = read?;
        let job = match &view {
            Some(view) => {
                let seen = jobs::seen(view);
                ensure!(seen.is_some(), "{master} shows another job as {jid}: {:?}", view.summary);
                seen
            }
            None => None,
        };
        site.history.note(master, Deed::FinalJob { jid: jid.to_string(), job }, true, at);
    }
    Ok(())
}

async fn read_job(site: &Site, number: usize, jid: JobId) -> anyhow::Result<(JobId, Option<JobView>)> {
    let mut client = site.client_of(number);
    match client.get::<JobView>(&format!("/v1/jobs/{jid}"), "").await {
        Ok(answer) => Ok((jid, Some(answer.value))),
        Err(ClientError::Refused { failure }) if failure.code == FailureCode::NotFound => Ok((jid, None)),
        Err(error) => Err(error).context(jid.to_string()),
    }
}

/// How often each job was started on each minion: one line of its mark each.
fn read_marks(site: &Site) -> anyhow::Result<()> {
    let at = site.now();
    for entry in std::fs::read_dir(site.folder.join("marks"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (token, minion) = name.split_once('.').with_context(|| format!("{name} is no mark"))?;
        let times = std::fs::read_to_string(entry.path())?.lines().count();
        let times = u64::try_from(times).unwrap_or(u64::MAX);
        let (token, minion) = (token.to_owned(), minion.to_owned());
        site.history.note("disk", Deed::Started { token, minion, times }, true, at);
    }
    Ok(())
}

/// Writes down that a phase begins.
pub fn phase(site: &Site, phase: &str) {
    tracing::info!(at_ms = nanos(site.now()) / 1_000_000, "phase {phase}");
    site.record("nemesis", Deed::Phase { phase: phase.to_owned() }, Outcome::Done(0), site.now());
}
