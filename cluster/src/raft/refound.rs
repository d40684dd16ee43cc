//! A log and a state on which no core runs, for a master that is to carry them on alone.
//!
//! ```text
//!   … entries as they were │ the only voter: this master │ Refound: the new generation
//!                          └──────── written together, under a term that nobody had ────────┘
//! ```
//!
//! The next start of the core finds itself the only voter, wins an election of one, and with its first entry commits
//! everything before it: also what the log held and nobody knows to have been committed.
//!
//! **Invariants.** Nothing of the log is removed or rewritten; the two entries go through [`Log::append`] in one call, so that
//! both are there after a crash or neither, and the durable mark knows of them. The term is above every one that this
//! master has voted in, so that no leader of the former group ever gave these positions to other entries here.

use super::machine::item;
use super::types::{Entry, LogId, LogRecord, Logged, Membership, Types, Vote, pack, unpack};
use openraft::EntryPayload;
use openraft::alias::LeaderIdOf;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use saltern_store::command::Proposal;
use saltern_store::log::Done;
use saltern_store::{Log, State};
use saltern_wire::io::Address;
use saltern_wire::{LogicalTime, MasterId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

/// Bytes of entries that are read at one time.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// Why a log cannot be carried on.
#[derive(Debug, thiserror::Error)]
pub enum RefoundError {
    /// It cannot be read or written.
    #[error(transparent)]
    Store(#[from] saltern_store::StoreError),
    /// A write failed.
    #[error("the log took no write: {0}")]
    Write(#[from] std::io::Error),
    /// It holds something that this build cannot read.
    #[error("{what} cannot be read: {cause}")]
    Unreadable {
        /// What.
        what: String,
        /// Why.
        cause: String,
    },
}

/// How far a log and a state have come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extent {
    /// The newest term that this master has voted in.
    pub term: u64,
    /// The last entry it holds; 0 for none.
    pub last: u64,
    /// The term of the leader that wrote that entry.
    pub last_term: u64,
    /// The stamp of the last proposal in the log: when it was made, in the truth's time. Zero if the log holds none.
    pub last_stamp: LogicalTime,
    /// The last entry that it knows to be committed. It may have been told of more that did not reach its disk.
    pub committed: u64,
    /// The last entry in its tables.
    pub applied: u64,
    /// Who votes, by the newest membership it holds.
    pub voters: BTreeSet<MasterId>,
    /// Who learns.
    pub learners: BTreeSet<MasterId>,
}

/// Reads how far they have come.
pub fn extent(log: &Log<LogRecord>, state: &State) -> Result<Extent, RefoundError> {
    let unreadable = |what: &str| {
        let what = what.to_owned();
        move |cause: String| RefoundError::Unreadable { what, cause }
    };
    let vote: Option<Vote> = log.vote().map(|bytes| unpack(&bytes)).transpose().map_err(unreadable("the vote"))?;
    let committed: Option<LogId> =
        log.committed().map(|bytes| unpack(&bytes)).transpose().map_err(unreadable("the committed position"))?;
    let held: Option<Membership> =
        state.membership().map(|bytes| unpack(&bytes)).transpose().map_err(unreadable("the membership"))?;
    let mut membership = held.map(|held| held.membership().clone()).unwrap_or_default();
    let mut last_stamp = LogicalTime::ZERO;
    each(log, state.applied_index() + 1, |entry| {
        match &entry.payload {
            EntryPayload::Membership(newer) => membership = newer.clone(),
            EntryPayload::Normal(logged) => {
                let unreadable = unreadable(&format!("log entry {}", entry.log_id.index()));
                last_stamp = logged.proposal().map_err(|error| unreadable(error.to_string()))?.stamp;
            }
            EntryPayload::Blank => {}
        }
        Ok(())
    })?;
    let last = end(log, state)?;
    let ids = |ids: Vec<u64>| ids.into_iter().map(MasterId).collect();
    Ok(Extent {
        term: vote.map_or(0, |vote| vote.leader_id().term()),
        last: last.as_ref().map_or(0, LogId::index),
        last_term: last.as_ref().map_or(0, |last| last.committed_leader_id().term()),
        last_stamp,
        committed: committed.map_or(0, |committed| committed.index()).max(state.applied_index()),
        applied: state.applied_index(),
        voters: ids(membership.voter_ids().collect()),
        learners: ids(membership.learner_ids().collect()),
    })
}

/// Position of the last entry that the log or the state holds.
fn end(log: &Log<LogRecord>, state: &State) -> Result<Option<LogId>, RefoundError> {
    let unreadable = |cause| RefoundError::Unreadable { what: "the log's beginning".into(), cause };
    let last = log.last()?.map(|record| record.0.log_id);
    let purged = log.purged().map(|purged| unpack(&purged.position)).transpose().map_err(unreadable)?;
    let applied = state.position().map(|bytes| unpack(&bytes)).transpose().map_err(unreadable)?;
    Ok([last, purged, applied].into_iter().flatten().max())
}

/// Visits every entry of the log from `from` on.
fn each(
    log: &Log<LogRecord>,
    from: u64,
    mut visit: impl FnMut(&Entry) -> Result<(), RefoundError>,
) -> Result<(), RefoundError> {
    let mut next = from;
    loop {
        let read = log.read(next.., Some(READ_BYTES))?;
        let Some(last) = read.last().map(|record| record.0.log_id.index()) else { return Ok(()) };
        for record in &read {
            visit(&record.0)?;
        }
        next = last + 1;
    }
}

/// Applies every entry of the log that `copy` has not applied, committed or not: what the log will have made once it is
/// carried on.
pub fn replay(log: &Log<LogRecord>, copy: &State) -> Result<(), RefoundError> {
    each(log, copy.applied_index() + 1, |entry| {
        copy.apply(&[item(copy, entry)?])?;
        Ok(())
    })
}

/// Begins a log behind what `state` holds, in a folder that has none.
pub fn begin(log: &Log<LogRecord>, state: &State) -> Result<(), RefoundError> {
    let position = state.position().ok_or_else(|| RefoundError::Unreadable {
        what: "the position of the state".into(),
        cause: "it has none".into(),
    })?;
    Ok(synced(|done| log.purge(state.applied_index(), position, done))?)
}

/// Writes that `alone`, reached at `mesh`, is the only voter from here on, and behind it `refound`. The index of the latter.
pub fn carry_on(
    log: &Log<LogRecord>,
    state: &State,
    alone: MasterId,
    mesh: &Address,
    refound: Proposal,
) -> Result<u64, RefoundError> {
    let extent = extent(log, state)?;
    let term = extent.term.max(extent.last_term) + 1;
    synced(|done| log.save_vote(pack(&Vote::new(term, alone.0)), done))?;
    if log.last_index().or(log.purged().map(|purged| purged.index)).unwrap_or(0) < state.applied_index() {
        // What a majority held was applied before this machine's own write of it was done: the log goes on behind it, as it
        // does when a core starts.
        begin(log, state)?;
    }
    let leader = LeaderIdOf::<Types>::new(term, alone.0).to_committed();
    let nodes = BTreeMap::from([(alone.0, openraft::impls::BasicNode::new(mesh.to_string()))]);
    let membership = openraft::Membership::new(vec![BTreeSet::from([alone.0])], nodes)
        .map_err(|error| RefoundError::Unreadable { what: "the new membership".into(), cause: error.to_string() })?;
    let at = |offset| LogId::new(leader.clone(), extent.last + offset);
    let entries = vec![
        LogRecord(Entry::new(at(1), EntryPayload::Membership(membership))),
        LogRecord(Entry::new(at(2), EntryPayload::Normal(Logged::new(refound)))),
    ];
    synced(|done| log.append(entries, done))?;
    Ok(extent.last + 2)
}

/// Starts a write and waits, on this thread, until it is durable.
fn synced(write: impl FnOnce(Done)) -> std::io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    write(Box::new(move |result| {
        // The receiver is right below.
        let _ = sender.send(result);
    }));
    receiver.recv().map_err(|_| std::io::Error::other("the log stopped"))?
}
