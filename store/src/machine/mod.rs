//! The only place where the truth changes.
//!
//! ```text
//!   Proposal ─▶ time = max(stamp, last + 1 µs) ─▶ known request id? ─▶ first answer, no effects
//!                                               └▶ key · minion · job · rolling · record · mine · master · settings · secret · tick
//!                                                    └▶ Applied (the answer)  +  Vec<Effect> (hints)  +  rows in the overlay
//! ```
//!
//! **Invariants.** What comes out depends on the state and the proposal and on nothing else: no clock, no random source, no
//! order of a hash map, no local configuration. A refusal is a value, the same on every replica, and leaves no row behind
//! (every command checks before it writes). How commands are grouped into calls does not show in the result. Work per
//! command is bounded: per tick by the constants of [`tick`], per command by the size of a log entry.
//!
//! **It refuses** to guess: a row that cannot be read is a [`StoreError`] and stops this replica.

mod job;
mod key;
mod level;
mod master;
mod mine;
mod minion;
mod orphan;
mod patrol;
mod record;
mod refound;
mod retention;
mod rolling;
mod secret;
mod settings;
mod tick;

use crate::command::{Applied, Command, Effect, JobCommand, Proposal, Refused, Reply};
use crate::error::StoreError;
use crate::index::Index;
use crate::overlay::Overlay;
use crate::reclaim::Freed;
use crate::table::request::{Answer, RequestRow};
use crate::table::timeline::{self, Due};
use crate::table::{self, meta};
use roaring::RoaringBitmap;
use saltern_wire::{JobId, LogicalTime, MasterId, MinionId, RequestId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use refound::fresh_id;
pub(crate) use tick::next_due;

/// How long a request id finds its first answer. Longer than any client retries.
pub(crate) const REQUEST_KEPT: Duration = Duration::from_secs(24 * 3600);

/// One call of apply: the rows that change, the index that changes with them, and what the current command did.
pub(crate) struct Tx<'a> {
    pub(crate) over: Overlay,
    pub(crate) index: &'a mut Index,
    /// Log index of the current command.
    pub(crate) entry: u64,
    /// The truth's time at the current command.
    pub(crate) time: LogicalTime,
    /// The master that proposed the current command.
    pub(crate) by: MasterId,
    pub(crate) effects: Vec<Effect>,
    /// Jobs that this call has forgotten.
    pub(crate) freed: Freed,
    /// Expected minions of jobs that are no longer open, as far as this call has asked; `None` for jobs that are not held.
    closed: BTreeMap<JobId, Option<Arc<RoaringBitmap>>>,
}

/// Why a command ended early.
enum Stop {
    Refused(Refused),
    Store(StoreError),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<'a> Tx<'a> {
    /// Begins a call.
    pub(crate) fn new(over: Overlay, index: &'a mut Index) -> Self {
        let (time, closed) = (index.time, BTreeMap::new());
        Self { over, index, entry: 0, time, by: MasterId(0), effects: Vec::new(), freed: None, closed }
    }

    /// The name behind an ordinal, if it was ever given.
    fn name(&self, ordinal: saltern_wire::Ordinal) -> Option<MinionId> {
        self.index.names.get(&ordinal).cloned()
    }
}

/// Applies one proposal. The effects are in `tx.effects`.
pub(crate) fn apply(tx: &mut Tx<'_>, entry: u64, proposal: &Proposal) -> Result<Applied, StoreError> {
    let next = LogicalTime::from_unix_micros(tx.index.time.unix_micros() + 1);
    tx.time = proposal.stamp.max(next);
    tx.index.time = tx.time;
    tx.by = proposal.by;
    tx.entry = entry;
    tx.effects.clear();
    if let Some(request) = proposal.request
        && let Some(row) = table::request::get(&tx.over, request)?
    {
        return recall(tx, row);
    }
    let applied = match carry_out(tx, &proposal.command) {
        Ok(reply) => Ok(reply),
        Err(Stop::Refused(refused)) => Err(refused),
        Err(Stop::Store(error)) => return Err(error),
    };
    if let Some(request) = proposal.request {
        remember(tx, request, &applied);
    }
    Ok(applied)
}

/// Writes where apply stands. Once per call, after the last item.
pub(crate) fn finish(tx: &mut Tx<'_>) {
    meta::put_number(&mut tx.over, meta::APPLIED, tx.index.applied);
    meta::put_number(&mut tx.over, meta::TIME, tx.index.time.unix_micros());
    if let Some(position) = &tx.index.position {
        meta::put_bytes(&mut tx.over, meta::POSITION, position);
    }
    tx.index.chain.write(&mut tx.over);
    if let Some(membership) = &tx.index.membership {
        meta::put_bytes(&mut tx.over, meta::MEMBERSHIP, membership);
    }
}

fn carry_out(tx: &mut Tx<'_>, command: &Command) -> Result<Reply, Stop> {
    command.require_level(tx.index.level)?;
    match command {
        Command::Tick => tick::tick(tx),
        Command::Key(command) => key::apply(tx, command),
        Command::Minion(command) => minion::apply(tx, command),
        Command::Job(JobCommand::Open { job }) => job::open(tx, job, None),
        Command::Job(JobCommand::Roll { job, rolling }) => job::open(tx, job, Some(*rolling)),
        Command::Job(JobCommand::Pause { jid, paused, by }) => rolling::pause(tx, *jid, *paused, by),
        Command::Job(JobCommand::End { jid, by }) => rolling::end(tx, *jid, by),
        Command::Job(JobCommand::Accept { accepted }) => job::accept(tx, accepted),
        Command::Job(JobCommand::Record { returns }) => record::record(tx, returns),
        Command::Job(JobCommand::Deliver { accepted, returns }) => {
            job::accept(tx, accepted)?;
            record::record(tx, returns)
        }
        Command::Mine(command) => mine::apply(tx, command),
        Command::Master(command) => master::apply(tx, command),
        Command::Settings(command) => settings::apply(tx, command),
        Command::Level { level } => level::apply(tx, *level),
        Command::Secret(command) => secret::apply(tx, command),
    }
}

/// The first answer to a request that was applied before.
fn recall(tx: &Tx<'_>, row: RequestRow) -> Result<Applied, StoreError> {
    match row.answer {
        Answer::Whole(applied) => Ok(applied),
        Answer::Opened(jid) => {
            let minions = job::expected(tx, jid)?.map(|expected| job::names(tx, &expected)).unwrap_or_default();
            Ok(Ok(Reply::Opened { jid, minions }))
        }
    }
}

fn remember(tx: &mut Tx<'_>, request: RequestId, applied: &Applied) {
    let answer = match applied {
        Ok(Reply::Opened { jid, .. }) => Answer::Opened(*jid),
        Ok(Reply::Done | Reply::Keys(_) | Reply::Recorded(_) | Reply::Joined { .. } | Reply::Token { .. }) | Err(_) => {
            Answer::Whole(applied.clone())
        }
    };
    table::request::put(&mut tx.over, request, &RequestRow { answer, revision: tx.entry });
    timeline::put(&mut tx.over, Due::Request, tx.time, request.as_bytes());
}
