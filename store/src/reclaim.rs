//! Gives the disk back what forgotten jobs have taken.
//!
//! Removing a range ([`crate::machine`]'s retention) only says that its rows are gone: their bytes stay in table files until
//! those are written anew. That is left to a call of its own, because it is nothing of the truth: it happens when a replica
//! has the time, and no reader sees it.

use crate::error::StoreError;
use crate::kv::{Direction, Kv, Span, Table};
use crate::state::State;
use crate::table::job::{self, UNDER_JID};
use crate::table::{self, timeline};
use saltern_wire::JobId;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

/// Jobs that were forgotten: the first and the last of them.
pub(crate) type Freed = Option<(JobId, JobId)>;

/// What of an instance waits to be given back.
#[derive(Debug, Default)]
pub(crate) struct Freeing {
    /// Jobs that were forgotten since the last time.
    freed: Freed,
    /// Whether it was looked at since the instance was opened.
    looked: bool,
}

impl Freeing {
    /// Adds what one call of apply has forgotten.
    pub(crate) fn add(&mut self, freed: Freed) {
        freed.into_iter().for_each(|run| widen(&mut self.freed, run));
    }

    /// Where something waits, or may wait. The first time that is whatever the process before has left.
    fn take(&mut self, kv: &Arc<dyn Kv>) -> Result<Option<Span>, StoreError> {
        if !self.looked {
            self.looked = true;
            return before_all(kv).map(Some);
        }
        let freed = self.freed.take();
        Ok(freed.map(|(first, last)| job::span(first, last)))
    }
}

/// `freed` with a further run of jobs.
pub(crate) fn widen(freed: &mut Freed, run: (JobId, JobId)) {
    let (first, last) = freed.unwrap_or(run);
    *freed = Some((first.min(run.0), last.max(run.1)));
}

impl State {
    /// Gives back what jobs took that were forgotten since the last call. The first call after a start looks at what the process
    /// before has left. Takes seconds if that was much: not for a thread that must not wait.
    /// Whether there was anything to give back.
    pub fn reclaim(&self) -> Result<bool, StoreError> {
        let (kv, span) = {
            let live = self.live();
            let span = live.freeing.lock().unwrap_or_else(PoisonError::into_inner).take(&live.kv)?;
            (live.kv.clone(), span)
        };
        let Some(span) = span else { return Ok(false) };
        for table in UNDER_JID {
            kv.compact(table, &span)?;
        }
        kv.compact(Table::Timeline, &timeline::span_of_retention())?;
        Ok(true)
    }

    /// What the state takes on the disk, in bytes, without what is in memory only.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.live().kv.disk_bytes()
    }
}

/// Everything below the oldest job that is held; everything if there is none.
fn before_all(kv: &Arc<dyn Kv>) -> Result<Span, StoreError> {
    let mut first = None;
    kv.visit(Table::Jobs, &Span::all(), Direction::Forward, &mut |key, _| {
        first = Some(key.to_vec());
        ControlFlow::Break(())
    })?;
    let all = Span::prefix(table::key(&[]));
    Ok(match first {
        Some(first) => Span::between(all.start, first),
        None => all,
    })
}
