//! Writers and minions that put load on the core from inside of a master.

use crate::question::{Bench, map};
use crate::stock::{for_job, outcome, parts};
use crate::tally::Tally;
use anyhow::Context;
use saltern_cluster::inbox::Asker;
use saltern_cluster::truth::{Lane, ProposeError};
use saltern_store::command::{Command, KeyCommand, MineCommand};
use saltern_wire::crypto::Identity;
use saltern_wire::io::draw;
use saltern_wire::job::{Recorded, ReturnPart};
use saltern_wire::limits::RETURN_BYTES_MAX;
use saltern_wire::mine::{MineReport, MineStamp};
use saltern_wire::session::Refusal;
use saltern_wire::{JobId, MinionId, Ordinal, Value};
use serde_json::{Map, json};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Bytes of a write's payload.
const PAYLOAD_BYTES: usize = 256;

/// Bytes of one return of [`fill`]: results of `pkg.list`, say.
const FILL_BYTES: usize = 32 * 1024;

/// Minions that fill at one time: their returns stay below the inbox's room.
const FILLERS: u32 = 128;

/// Minions with returns of the largest size at one time; more would be refused for want of room.
const LARGE_SENDERS: u32 = 2;

/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(60);

/// Pause before a call that was refused is made again.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

/// Stamps of mine values: every write is news, also after a restart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A write: the newest value of one mine function of the minion of this number, from 0. There is one: see [`prepare`].
pub fn note(bench: &Bench, writer: u32) -> Command {
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let minion = Ordinal(1 + writer);
    let stamp = MineStamp { incarnation: bench.io.clock.wall_unix_micros(), counter };
    let value = Some(Value::String("x".repeat(PAYLOAD_BYTES)));
    let reports = vec![MineReport { function: "bench".into(), value, stamp }];
    Command::Mine(MineCommand::Report { minion, reports })
}

/// Makes accepted minions, if there are fewer than `wanted`. The cluster accepts every key.
pub async fn prepare(bench: &Bench, wanted: u32) -> anyhow::Result<Map<String, Value>> {
    let entropy = Arc::clone(&bench.io.entropy);
    let held = accepted(bench);
    let mut enrolling = JoinSet::new();
    for number in held..wanted {
        let identity = Identity::from_seed(draw(&*entropy));
        let minion: MinionId = format!("bench-{number}").parse().context("a name")?;
        let command = Command::Key(KeyCommand::Submit { minion, public_key: identity.public_key() });
        let truth = bench.truth.clone();
        enrolling.spawn(async move {
            loop {
                match truth.propose(Lane::Control, command.clone(), None).await {
                    Ok(committed) => return committed.applied.map(drop).map_err(anyhow::Error::from),
                    Err(ProposeError::Busy) => tokio::time::sleep(REFUSED_PAUSE).await,
                    Err(error) => return Err(error.into()),
                }
            }
        });
    }
    while let Some(enrolled) = enrolling.join_next().await {
        enrolled??;
    }
    Ok(map(json!({ "minions": accepted(bench) })))
}

fn accepted(bench: &Bench) -> u32 {
    u32::try_from(bench.truth.state().accepted_ordinals().len()).unwrap_or(u32::MAX)
}

/// Entries of one write each.
pub async fn single(bench: &Bench, writers: u32, within: Duration) -> anyhow::Result<Map<String, Value>> {
    let write = |bench: Bench, writer: u32| async move {
        let written = bench.truth.propose(Lane::Control, note(&bench, writer), None).await;
        match written {
            Ok(committed) => committed.applied.map(|_| true).map_err(anyhow::Error::from),
            Err(ProposeError::Busy | ProposeError::NoQuorum) => Ok(false),
            Err(error) => Err(error.into()),
        }
    };
    crowd(bench, writers, within, write).await
}

/// Returns through the inbox, each by a minion that waits for its verdict.
pub async fn batched(bench: &Bench, writers: u32, within: Duration) -> anyhow::Result<Map<String, Value>> {
    let small = Arc::new(parts(&outcome(PAYLOAD_BYTES, &*bench.io.entropy))?);
    let write = move |bench: Bench, _: u32| {
        let small = Arc::clone(&small);
        async move {
            let (jid, ordinal) = bench.stock.take().await?;
            give_back(&bench, ordinal, for_job(&small, jid)).await.map(|refused| refused == 0)
        }
    };
    crowd(bench, writers, within, write).await
}

/// Every minion returns for one job, all at once.
pub async fn returns_of_one_job(bench: &Bench) -> anyhow::Result<Map<String, Value>> {
    let (jid, minions) = bench.stock.open().await?;
    let small = Arc::new(parts(&outcome(PAYLOAD_BYTES, &*bench.io.entropy))?);
    let started = bench.io.clock.monotonic();
    let mut all = JoinSet::new();
    for ordinal in 1..=minions {
        let (bench, small) = (bench.clone(), Arc::clone(&small));
        all.spawn(async move { give_back(&bench, Ordinal(ordinal), for_job(&small, jid)).await });
    }
    let mut refused = 0;
    while let Some(given) = all.join_next().await {
        refused += given??;
    }
    let took = bench.io.clock.monotonic().saturating_sub(started);
    Ok(map(json!({ "count": minions, "seconds": took.as_secs_f64(), "refused": refused })))
}

/// Puts `mib` of returns into the state.
pub async fn fill(bench: &Bench, mib: u64) -> anyhow::Result<Map<String, Value>> {
    let started = bench.io.clock.monotonic();
    let left = Arc::new(AtomicU64::new(mib * 1024 * 1024 / FILL_BYTES as u64));
    let mut fillers = JoinSet::new();
    for _ in 0..FILLERS {
        let (bench, left) = (bench.clone(), Arc::clone(&left));
        fillers.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let (jid, ordinal) = bench.stock.take().await?;
                let parts = parts(&outcome(FILL_BYTES, &*bench.io.entropy))?;
                give_back(&bench, ordinal, for_job(&parts, jid)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    let took = bench.io.clock.monotonic().saturating_sub(started);
    Ok(map(json!({ "seconds": took.as_secs_f64() })))
}

/// How long the revocation of a key takes, one after the other; `large`: while minions send returns of the largest size.
pub async fn revoke(bench: &Bench, within: Duration, large: bool) -> anyhow::Result<Map<String, Value>> {
    let sending = Arc::new(AtomicU64::new(0));
    let mut senders = JoinSet::new();
    if large {
        let huge = Arc::new(parts(&outcome(RETURN_BYTES_MAX - 1024, &*bench.io.entropy))?);
        for _ in 0..LARGE_SENDERS {
            let (bench, huge, sending) = (bench.clone(), Arc::clone(&huge), Arc::clone(&sending));
            senders.spawn(async move { send_large(&bench, &huge, &sending).await });
        }
    }
    // Not one of the first, who send: what a minion without a key sends is refused.
    let victim = bench.truth.state().keys().into_iter().next_back().context("there is a key: prepare first")?;
    let target = (victim.minion.clone(), victim.fingerprint());
    let mut reject = true;
    let tally = {
        let mut tally = Tally::default();
        let clock = &bench.io.clock;
        let end = clock.monotonic() + within;
        while clock.monotonic() < end {
            let keys = vec![target.clone()];
            let by = String::from("bench");
            let command = if reject { KeyCommand::Reject { keys, by } } else { KeyCommand::Accept { keys, by } };
            let started = clock.monotonic();
            bench.truth.propose(Lane::Control, Command::Key(command), None).await?;
            tally.note(clock.monotonic().saturating_sub(started));
            reject = !reject;
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
        tally
    };
    // A sender that has ended by itself has failed.
    if let Some(ended) = senders.try_join_next() {
        ended?.context("a sender of large returns ended early")?;
    }
    senders.abort_all();
    let mut answer = tally.answer(within);
    answer.insert("large_mib".into(), json!(sending.load(Ordering::Relaxed) as f64 / f64::from(1 << 20)));
    Ok(answer)
}

/// Large returns, one after the other, piece by piece as a session sends them; ends with an error only.
async fn send_large(bench: &Bench, huge: &[ReturnPart], sent: &AtomicU64) -> anyhow::Result<()> {
    loop {
        let (jid, ordinal) = bench.stock.take().await?;
        for part in for_job(huge, jid) {
            let bytes = part.body.len() as u64;
            give_back(bench, ordinal, vec![part]).await?;
            sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// So many writers, each making its next write when the last one is acknowledged. A write answers whether it was taken.
async fn crowd<F, W>(bench: &Bench, writers: u32, within: Duration, write: F) -> anyhow::Result<Map<String, Value>>
where
    F: Fn(Bench, u32) -> W + Clone + Send + 'static,
    W: Future<Output = anyhow::Result<bool>> + Send,
{
    let clock = Arc::clone(&bench.io.clock);
    let started = clock.monotonic();
    let end = started + within;
    let mut crowd = JoinSet::new();
    for writer in 0..writers {
        let (bench, clock, write) = (bench.clone(), Arc::clone(&clock), write.clone());
        crowd.spawn(async move {
            let mut tally = Tally::default();
            loop {
                let begun = clock.monotonic();
                if begun >= end {
                    return anyhow::Ok(tally);
                }
                if write(bench.clone(), writer).await? {
                    tally.note(clock.monotonic().saturating_sub(begun));
                } else {
                    tally.refused += 1;
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = crowd.join_next().await {
        all.add(tally??);
    }
    Ok(all.answer(clock.monotonic().saturating_sub(started)))
}

/// One minion's return, until it is recorded; how often it was refused before.
async fn give_back(bench: &Bench, ordinal: Ordinal, parts: Vec<ReturnPart>) -> anyhow::Result<u64> {
    let mut refused = 0;
    loop {
        let asker = Asker { ordinal, deadline: bench.io.clock.monotonic() + CALL_WITHIN };
        match bench.inbox.record(asker, parts.clone()).await {
            Ok((verdicts, _)) => {
                let good = |verdict: &Recorded| matches!(verdict, Recorded::Committed | Recorded::Part);
                anyhow::ensure!(verdicts.iter().all(good), "returns for {} got {verdicts:?}", jid_of(&parts));
                return Ok(refused);
            }
            Err(Refusal::Busy { .. } | Refusal::NoQuorum) => {
                refused += 1;
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Err(refusal) => anyhow::bail!("a return was refused: {refusal:?}"),
        }
    }
}

fn jid_of(parts: &[ReturnPart]) -> String {
    parts.first().map_or_else(String::new, |part: &ReturnPart| JobId::to_string(&part.jid))
}
