//! What is due when: one row per thing that ends by itself, ordered by kind and time, so that a tick finds what is due
//! without looking at anything else.

use crate::error::StoreError;
use crate::kv::{Direction, Span, Table};
use crate::overlay::{Overlay, Read};
use saltern_wire::LogicalTime;

/// What is due. Codes are persisted: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// A pending key, by the time it was submitted. Subject: the minion id.
    PendingKey,
    /// A denied key, by the time it was submitted. Subject: see [`super::key::denied_subject`].
    DeniedKey,
    /// The end of acceptance of an open job. Subject: the jid.
    Acceptance,
    /// A job that is done, by the time it was done. Subject: the jid.
    Retention,
    /// A request id, by the time it was applied.
    Request,
    /// An orphan, by the time it was recorded. Subject: see [`super::returns::piece_subject`].
    Orphan,
    /// The end of a join token. Subject: its hash.
    Token,
    /// The end of acceptance of one minion of a rolling job. Subject: see [`super::job::place_subject`].
    Turn,
    /// The end of the rest behind a turn of a rolling job. Subject: the same.
    Rest,
    /// An open job with which one command did not come to an end. Subject: the jid.
    More,
}

impl Due {
    /// Every kind, in the order in which a tick looks at them.
    pub(crate) const ALL: [Self; 10] = [
        Self::PendingKey,
        Self::DeniedKey,
        Self::Acceptance,
        Self::Turn,
        Self::Rest,
        Self::More,
        Self::Retention,
        Self::Request,
        Self::Orphan,
        Self::Token,
    ];

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::PendingKey => 1,
            Self::DeniedKey => 2,
            Self::Acceptance => 3,
            Self::Retention => 4,
            Self::Request => 5,
            Self::Orphan => 6,
            Self::Token => 7,
            Self::Turn => 8,
            Self::Rest => 9,
            Self::More => 10,
        }
    }
}

fn key(due: Due, time: LogicalTime, subject: &[u8]) -> Vec<u8> {
    super::key(&[&[due.code()], &time.unix_micros().to_be_bytes(), subject])
}

pub(crate) fn put(over: &mut Overlay, due: Due, time: LogicalTime, subject: &[u8]) {
    over.put(Table::Timeline, key(due, time, subject), []);
}

pub(crate) fn delete(over: &mut Overlay, due: Due, time: LogicalTime, subject: &[u8]) {
    over.delete(Table::Timeline, key(due, time, subject));
}

/// Where what is due to be forgotten of jobs stands.
pub(crate) fn span_of_retention() -> Span {
    Span::prefix(super::key(&[&[Due::Retention.code()]]))
}

/// Removes everything of a kind up to this one.
pub(crate) fn delete_upto(over: &mut Overlay, due: Due, time: LogicalTime, subject: &[u8]) {
    let last = key(due, time, subject);
    over.delete_range(Table::Timeline, Span::between(super::key(&[&[due.code()]]), [last.as_slice(), &[0]].concat()));
}

/// Everything of a kind, in order of its time.
pub(crate) fn all(read: &impl Read, due: Due) -> Result<Vec<(LogicalTime, Vec<u8>)>, StoreError> {
    first(read, due, usize::MAX)
}

/// The first `limit` things of a kind, in order of their time: time and subject.
pub(crate) fn first(read: &impl Read, due: Due, limit: usize) -> Result<Vec<(LogicalTime, Vec<u8>)>, StoreError> {
    upto(read, due, LogicalTime::from_unix_micros(u64::MAX), limit)
}

/// The first `limit` things of a kind whose time is at most `end`.
pub(crate) fn upto(
    read: &impl Read,
    due: Due,
    end: LogicalTime,
    limit: usize,
) -> Result<Vec<(LogicalTime, Vec<u8>)>, StoreError> {
    let start = super::key(&[&[due.code()]]);
    let end = super::key(&[&[due.code()], &(end.unix_micros() + 1).to_be_bytes()]);
    let rows = read.scan(Table::Timeline, &Span::between(start, end), Direction::Forward, limit)?;
    let parse = |(key, _): &(Vec<u8>, Vec<u8>)| {
        let rest = super::subject(key).get(1..).and_then(|rest| rest.split_first_chunk::<8>());
        let (time, subject) = rest.ok_or_else(|| super::bad_key(Table::Timeline))?;
        Ok((LogicalTime::from_unix_micros(u64::from_be_bytes(*time)), subject.to_vec()))
    };
    rows.iter().map(parse).collect()
}
