//! Answers that are still owed: jobs opened in advance, and who is next to return for them.

use anyhow::Context;
use saltern_cluster::submit::Jobs;
use saltern_wire::api::Submit;
use saltern_wire::io::{Entropy, draw};
use saltern_wire::job::{Outcome, OutcomeKind, ReturnPart};
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{JobId, Map, Ordinal, RequestId, Value};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How long a job of the benchmark may be accepted: longer than any of its runs.
const TTL_MS: u64 = 3_600_000;

/// Opens jobs for all minions and hands out who returns for which.
pub struct Stock {
    jobs: Arc<Jobs>,
    entropy: Arc<dyn Entropy>,
    owed: Mutex<VecDeque<Owed>>,
}

struct Owed {
    jid: JobId,
    next: u32,
    last: u32,
}

impl Stock {
    /// Empty.
    pub fn new(jobs: Arc<Jobs>, entropy: Arc<dyn Entropy>) -> Self {
        Self { jobs, entropy, owed: Mutex::default() }
    }

    /// Opens one job for all minions: its name, and how many owe an answer.
    pub async fn open(&self) -> anyhow::Result<(JobId, u32)> {
        let submit = Submit {
            target: Target { kind: TargetKind::Glob, expression: "*".into() },
            function: "test.ping".into(),
            arguments: Vec::new(),
            keywords: Map::new(),
            ttl_ms: Some(TTL_MS),
            batch: None,
            subset: None,
        };
        let request = RequestId::from_bytes(draw(&*self.entropy));
        let submitted = self.jobs.submit(submit, "bench", request).await;
        let (submitted, _) = submitted.map_err(|failure| anyhow::anyhow!("no job can be opened: {failure:?}"))?;
        let minions = u32::try_from(submitted.targeted.len()).context("ordinals are 32 bits")?;
        Ok((submitted.jid, minions))
    }

    /// Opens jobs until `returns` are owed.
    pub async fn lay_in(&self, returns: u64) -> anyhow::Result<()> {
        while self.left() < returns {
            let (jid, minions) = self.open().await?;
            self.lock().push_back(Owed { jid, next: 1, last: minions });
        }
        Ok(())
    }

    /// Who returns next, and for which job; opens another job if none is left.
    pub async fn take(&self) -> anyhow::Result<(JobId, Ordinal)> {
        loop {
            if let Some(next) = self.take_one() {
                return Ok(next);
            }
            self.lay_in(1).await?;
        }
    }

    fn take_one(&self) -> Option<(JobId, Ordinal)> {
        let mut owed = self.lock();
        let first = owed.front_mut()?;
        let taken = (first.jid, Ordinal(first.next));
        first.next += 1;
        if first.next > first.last {
            owed.pop_front();
        }
        Some(taken)
    }

    fn left(&self) -> u64 {
        self.lock().iter().map(|owed| u64::from(owed.last + 1 - owed.next)).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Owed>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome whose encoding has about `bytes` bytes, of letters that do not compress.
pub fn outcome(bytes: usize, entropy: &dyn Entropy) -> Outcome {
    let make = |text: String| Outcome {
        kind: OutcomeKind::Finished,
        success: true,
        retcode: 0,
        value: Value::String(text),
        duration_ms: 7,
    };
    let frame = saltern_wire::encode(&make(String::new())).len();
    let mut noise = vec![0; bytes.saturating_sub(frame + 2)];
    entropy.fill(&mut noise);
    // 64 letters: six random bits a byte.
    let letter = |byte: &u8| char::from(b'0' + (byte & 63));
    make(noise.iter().map(letter).collect())
}

/// The parts of `outcome`, for any job.
pub fn parts(outcome: &Outcome) -> anyhow::Result<Vec<ReturnPart>> {
    Ok(ReturnPart::split(JobId::mint(saltern_wire::LogicalTime::ZERO, 0), outcome)?)
}

/// The same parts for one job.
pub fn for_job(parts: &[ReturnPart], jid: JobId) -> Vec<ReturnPart> {
    parts.iter().map(|part| ReturnPart { jid, ..part.clone() }).collect()
}
