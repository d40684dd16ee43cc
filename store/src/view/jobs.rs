//! Jobs and returns.

use crate::error::StoreError;
use crate::index::Index;
use crate::kv::{Kv, Table};
use crate::state::State;
use crate::table::{job, returns};
use crate::view::rolling;
use roaring::RoaringBitmap;
use saltern_wire::crypto::Signed;
use saltern_wire::job::{Job, Progress, ReturnRecord};
use saltern_wire::rolling::BatchView;
use saltern_wire::{JobId, LogicalTime, MasterId, MinionId, Ordinal, Revision};
use std::sync::Arc;

/// Returns that are read before entries may be applied again.
const RETURNS_PER_PAGE: usize = 256;

/// One job, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Its name.
    pub jid: JobId,
    /// As it was signed.
    pub signed: Signed<Job>,
    /// The same, opened. The log vouches for it.
    pub job: Job,
    /// When apply took it.
    pub opened: LogicalTime,
    /// Its place in the log.
    pub revision: Revision,
    /// Who has to answer: the targets that were accepted when it was opened.
    pub expected: RoaringBitmap,
    /// Who has it on disk and has not answered.
    pub accepted: RoaringBitmap,
    /// Who has answered with a result, good or bad.
    pub answered: RoaringBitmap,
    /// When the last of them was settled; `None` while somebody owes an answer.
    pub done: Option<LogicalTime>,
    /// Where it stands, if it goes to so many of them at a time.
    pub batch: Option<BatchView>,
}

/// One job in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSummary {
    /// Its name.
    pub jid: JobId,
    /// As it was signed and opened.
    pub job: Job,
    /// When apply took it.
    pub opened: LogicalTime,
    /// How many have to answer.
    pub targeted: u32,
    /// How many have answered with a result.
    pub returned: u32,
    /// When the last of them was settled; `None` while somebody owes an answer.
    pub done: Option<LogicalTime>,
    /// Where it stands, if it goes to so many of them at a time.
    pub batch: Option<BatchView>,
}

/// A job that one minion owes an answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    /// Which job.
    pub jid: JobId,
    /// Whether the minion has it on disk already: then it is not offered again.
    pub accepted: bool,
    /// When it was opened: an incarnation is offered only what was opened since it enrolled.
    pub opened: LogicalTime,
    /// When acceptance ends.
    pub expires: LogicalTime,
}

/// A piece of a return for a job that the truth does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrphanPart {
    /// Who returned it.
    pub minion: MinionId,
    /// Its number.
    pub ordinal: Ordinal,
    /// The piece's number, and how many there are.
    pub part: (u16, u16),
    /// BLAKE3 of the whole encoded outcome.
    pub digest: [u8; 32],
    /// The piece's bytes.
    pub body: Vec<u8>,
    /// The master that carried it into the log.
    pub via: MasterId,
    /// When it was recorded.
    pub recorded: LogicalTime,
}

impl State {
    /// One job, with where everybody stands.
    pub fn job(&self, jid: &JobId) -> Result<Option<JobRecord>, StoreError> {
        self.reading(|live| {
            let Some(row) = job::get(&live.kv, *jid)? else { return Ok(None) };
            let (mut accepted, mut answered) = (RoaringBitmap::new(), RoaringBitmap::new());
            for (ordinal, row) in job::progress_of(&live.kv, *jid)? {
                match row.progress {
                    Progress::Accepted => accepted.insert(ordinal.0),
                    Progress::Returned | Progress::Failed | Progress::Interrupted => answered.insert(ordinal.0),
                    Progress::Waiting
                    | Progress::Expired
                    | Progress::Unreachable
                    | Progress::Cancelled
                    | Progress::Held
                    | Progress::Skipped
                    | Progress::Killed => false,
                };
            }
            let batch = rolling::stands(&live.kv, &live.index, *jid, &row)?;
            Ok(Some(JobRecord {
                jid: *jid,
                job: peek(*jid, &row.job)?,
                signed: row.job,
                opened: row.opened,
                revision: Revision(row.revision),
                expected: row.expected,
                accepted,
                answered,
                done: job::end(&live.kv, *jid)?.map(|end| end.done),
                batch,
            }))
        })
    }

    /// A job as it was signed, to be offered.
    pub fn signed_job(&self, jid: &JobId) -> Result<Option<Signed<Job>>, StoreError> {
        self.reading(|live| Ok(job::get(&live.kv, *jid)?.map(|row| row.job)))
    }

    /// Where each targeted minion stands, by number. Empty if the truth does not hold the job.
    pub fn progress(&self, jid: &JobId) -> Result<Vec<(Ordinal, MinionId, Progress)>, StoreError> {
        self.reading(|live| {
            let Some(row) = job::get(&live.kv, *jid)? else { return Ok(Vec::new()) };
            let mut settled = job::progress_of(&live.kv, *jid)?.into_iter().peekable();
            let stand = |number| {
                let found = settled.next_if(|(ordinal, _)| ordinal.0 == number);
                let progress = found.map_or(untouched(&row), |(_, row)| row.progress);
                Some((Ordinal(number), live.index.names.get(&Ordinal(number))?.clone(), progress))
            };
            Ok(row.expected.iter().filter_map(stand).collect())
        })
    }

    /// Where one minion stands, since when; `None` if the job is not held or not for it.
    pub fn progress_of(&self, jid: &JobId, ordinal: Ordinal) -> Result<Option<(Progress, LogicalTime)>, StoreError> {
        self.reading(|live| {
            if let Some(row) = job::progress(&live.kv, *jid, ordinal)? {
                return Ok(Some((row.progress, row.since)));
            }
            let row = job::get(&live.kv, *jid)?.filter(|row| row.expected.contains(ordinal.0));
            Ok(row.map(|row| (untouched(&row), row.opened)))
        })
    }

    /// All returns of a job, by number. Read in pages: entries are applied in between.
    pub fn returns(&self, jid: &JobId) -> Result<Vec<ReturnRecord>, StoreError> {
        let mut all: Vec<ReturnRecord> = Vec::new();
        loop {
            let page = self.returns_after(jid, all.last().map(|record| record.ordinal), RETURNS_PER_PAGE)?;
            let last = page.len() < RETURNS_PER_PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    /// Up to `limit` returns of a job with numbers above `after`.
    pub fn returns_after(
        &self,
        jid: &JobId,
        after: Option<Ordinal>,
        limit: usize,
    ) -> Result<Vec<ReturnRecord>, StoreError> {
        self.reading(|live| {
            let rows = returns::page(&live.kv, *jid, after, limit)?;
            rows.iter().map(|(ordinal, row)| record(&live.kv, &live.index, *jid, *ordinal, row)).collect()
        })
    }

    /// One minion's return.
    pub fn return_of(&self, jid: &JobId, ordinal: Ordinal) -> Result<Option<ReturnRecord>, StoreError> {
        self.reading(|live| {
            let row = returns::get(&live.kv, *jid, ordinal)?;
            row.map(|row| record(&live.kv, &live.index, *jid, ordinal, &row)).transpose()
        })
    }

    /// How many pieces of answers that contradict the recorded one are kept for this minion and job.
    pub fn conflicts_of(&self, jid: &JobId, ordinal: Ordinal) -> Result<usize, StoreError> {
        self.reading(|live| returns::conflicts(&live.kv, *jid, ordinal, usize::MAX))
    }

    /// Up to `limit` pieces of returns that came for a job which the truth does not hold.
    pub fn orphans(&self, jid: &JobId, limit: usize) -> Result<Vec<OrphanPart>, StoreError> {
        self.reading(|live| {
            let pieces = returns::pieces(&live.kv, Table::Orphans, *jid, limit)?;
            let named = |(ordinal, part, row): (Ordinal, u16, returns::ReturnRow)| {
                let minion = live.index.names.get(&ordinal)?.clone();
                let returns::ReturnRow { digest, parts, body, via, recorded } = row;
                Some(OrphanPart { minion, ordinal, part: (part, parts), digest, body, via, recorded })
            };
            Ok(pieces.into_iter().filter_map(named).collect())
        })
    }

    /// Up to `limit` jobs with jids below `before`, newest first; open ones only, if asked for.
    pub fn jobs(&self, before: Option<JobId>, limit: usize, only_open: bool) -> Result<Vec<JobSummary>, StoreError> {
        self.reading(|live| {
            let rows = if only_open {
                let open = live.index.open.keys().rev().filter(|jid| before.is_none_or(|before| **jid < before));
                let rows = open.take(limit).map(|jid| Ok(job::get(&live.kv, *jid)?.map(|row| (*jid, row))));
                rows.collect::<Result<Vec<_>, StoreError>>()?.into_iter().flatten().collect()
            } else {
                job::newest(&live.kv, before, limit)?
            };
            rows.into_iter().map(|(jid, row)| summary(&live.kv, &live.index, jid, row)).collect()
        })
    }

    /// Jids of jobs that somebody owes an answer for, oldest first.
    pub fn open_jobs(&self) -> Vec<JobId> {
        self.live().index.open.keys().copied().collect()
    }

    /// What one minion owes an answer for, oldest first, but for jobs in which its turn has not come. Looks at every open job, in memory: one bit each.
    pub fn open_jobs_for(&self, ordinal: Ordinal) -> Vec<Owed> {
        let live = self.live();
        let owed = live.index.open.iter();
        let owed = owed.filter(|(_, open)| open.is_owed_by(ordinal) && !open.held.contains(ordinal.0));
        let owed = owed.map(|(jid, open)| Owed {
            jid: *jid,
            accepted: open.accepted.contains(ordinal.0),
            opened: open.opened,
            expires: open.expires,
        });
        owed.collect()
    }

    /// Who may accept an open job and has not yet, for the sweep that offers it again; `None` if the job is not open.
    pub fn waiting_for(&self, jid: &JobId) -> Option<RoaringBitmap> {
        self.live().index.open.get(jid).map(|open| open.waiting.clone())
    }

    /// The largest jid that was ever opened, held or not.
    pub fn newest_job(&self) -> Option<JobId> {
        self.live().index.newest_job
    }
}

fn peek(jid: JobId, job: &Signed<Job>) -> Result<Job, StoreError> {
    job.peek().map_err(|error| StoreError::corrupt(format!("the job {jid}"), error))
}

fn record(
    kv: &Arc<dyn Kv>,
    index: &Index,
    jid: JobId,
    ordinal: Ordinal,
    row: &returns::ReturnRow,
) -> Result<ReturnRecord, StoreError> {
    let unnamed = || StoreError::corrupt(format!("the return of number {ordinal} for {jid}"), "its number has no name");
    let minion = index.names.get(&ordinal).ok_or_else(unnamed)?;
    returns::record(kv, jid, ordinal, minion, row)
}

/// Where a minion without a row stands.
fn untouched(row: &job::JobRow) -> Progress {
    if row.rolling.is_some() { Progress::Held } else { Progress::Waiting }
}

fn summary(kv: &Arc<dyn Kv>, index: &Index, jid: JobId, row: job::JobRow) -> Result<JobSummary, StoreError> {
    let (returned, done) = match index.open.get(&jid) {
        Some(open) => (open.returned, None),
        None => match job::end(kv, jid)? {
            Some(end) => (end.returned, Some(end.done)),
            None => return Err(StoreError::corrupt(format!("the job {jid}"), "it is neither open nor done")),
        },
    };
    let targeted = u32::try_from(row.expected.len()).unwrap_or(u32::MAX);
    let batch = rolling::stands(kv, index, jid, &row)?;
    Ok(JobSummary { jid, job: peek(jid, &row.job)?, opened: row.opened, targeted, returned, done, batch })
}
