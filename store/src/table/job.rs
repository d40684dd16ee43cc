//! Jobs as they were opened, which of them are open, how the others ended, and where each minion stands.

use crate::error::StoreError;
use crate::kv::{Direction, Span, Table};
use crate::overlay::{Overlay, Read};
use roaring::RoaringBitmap;
use saltern_wire::codec::Encoded;
use saltern_wire::crypto::Signed;
use saltern_wire::job::{Job, Progress};
use saltern_wire::rolling::{Ending, Rolling, Stand};
use saltern_wire::{JobId, LogicalTime, Ordinal};
use serde::{Deserialize, Serialize};

/// Tables whose rows a job that is done has under its jid.
pub(crate) const UNDER_JID: [Table; 6] =
    [Table::Jobs, Table::JobEnds, Table::Progress, Table::Returns, Table::Parts, Table::Conflicts];

/// A job as it was opened. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobRow {
    pub(crate) job: Signed<Job>,
    /// When apply took it.
    pub(crate) opened: LogicalTime,
    /// Log index of its command.
    pub(crate) revision: u64,
    /// Who has to answer.
    #[serde(with = "saltern_wire::job::bitmap")]
    pub(crate) expected: RoaringBitmap,
    /// How it goes round, if not to all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rolling: Option<Rolling>,
}

impl Encoded for JobRow {
    const KIND: u8 = 63;
}

/// What was decided about an open job since it was opened. No row of its own: it stands beside the jid in the table of open
/// jobs, and nothing stands there while nothing was decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StandRow {
    pub(crate) stand: Stand,
}

impl Encoded for StandRow {
    const KIND: u8 = 67;
}

/// A job that nobody owes an answer for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndRow {
    pub(crate) done: LogicalTime,
    /// Minions with a result; late ones are added.
    pub(crate) returned: u32,
    /// What ended it for those who had not accepted it, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ending: Option<Ending>,
}

impl Encoded for EndRow {
    const KIND: u8 = 64;
}

/// Where a minion stands, since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProgressRow {
    pub(crate) progress: Progress,
    pub(crate) since: LogicalTime,
}

fn key(jid: JobId) -> Vec<u8> {
    super::key(&[&jid.to_bytes()])
}

/// The jid at the beginning of a key.
pub(crate) fn jid_of(table: Table, key: &[u8]) -> Result<JobId, StoreError> {
    let (digits, _) = super::subject(key).split_first_chunk::<16>().ok_or_else(|| super::bad_key(table))?;
    JobId::from_bytes(*digits).map_err(|_| super::bad_key(table))
}

/// The ordinal behind the jid of a key.
pub(crate) fn ordinal_of(table: Table, key: &[u8]) -> Result<Ordinal, StoreError> {
    let number = super::subject(key).get(16..20).and_then(|bytes| bytes.try_into().ok());
    number.map(|bytes| Ordinal(u32::from_be_bytes(bytes))).ok_or_else(|| super::bad_key(table))
}

pub(crate) fn get(read: &impl Read, jid: JobId) -> Result<Option<JobRow>, StoreError> {
    super::get(read, Table::Jobs, &key(jid))
}

pub(crate) fn put(over: &mut Overlay, jid: JobId, row: &JobRow) {
    over.put(Table::Jobs, key(jid), saltern_wire::encode(row));
    over.put(Table::OpenJobs, key(jid), []);
}

/// Notes what was decided about an open job.
pub(crate) fn put_stand(over: &mut Overlay, jid: JobId, stand: Stand) {
    let row = if stand == Stand::default() { Vec::new() } else { saltern_wire::encode(&StandRow { stand }) };
    over.put(Table::OpenJobs, key(jid), row);
}

/// What was decided about an open job, from its row.
pub(crate) fn parse_stand(row: &[u8]) -> Result<Stand, StoreError> {
    if row.is_empty() { Ok(Stand::default()) } else { Ok(super::decode::<StandRow>(Table::OpenJobs, row)?.stand) }
}

/// Jobs below `before`, newest first.
pub(crate) fn newest(
    read: &impl Read,
    before: Option<JobId>,
    limit: usize,
) -> Result<Vec<(JobId, JobRow)>, StoreError> {
    let span = match before {
        Some(before) => Span::between(super::key(&[]), key(before)),
        None => Span::prefix(super::key(&[])),
    };
    let rows = read.scan(Table::Jobs, &span, Direction::Backward, limit)?;
    rows.iter().map(|(key, row)| Ok((jid_of(Table::Jobs, key)?, super::decode(Table::Jobs, row)?))).collect()
}

/// Open jobs in order, with what was decided about them.
pub(crate) fn open(read: &impl Read) -> Result<Vec<(JobId, Stand)>, StoreError> {
    let rows = read.scan(Table::OpenJobs, &Span::all(), Direction::Forward, usize::MAX)?;
    rows.iter().map(|(key, row)| Ok((jid_of(Table::OpenJobs, key)?, parse_stand(row)?))).collect()
}

pub(crate) fn end(read: &impl Read, jid: JobId) -> Result<Option<EndRow>, StoreError> {
    super::get(read, Table::JobEnds, &key(jid))
}

pub(crate) fn put_end(over: &mut Overlay, jid: JobId, row: EndRow) {
    over.delete(Table::OpenJobs, key(jid));
    over.put(Table::JobEnds, key(jid), saltern_wire::encode(&row));
}

/// Everything that stands under the jids from `first` to `last`, in any table whose keys begin with one.
pub(crate) fn span(first: JobId, last: JobId) -> Span {
    Span { start: key(first), end: Span::prefix(key(last)).end }
}

/// Removes every job from `first` to `last`, all of which are done, with all that was recorded for them.
pub(crate) fn purge_run(over: &mut Overlay, first: JobId, last: JobId) {
    for table in UNDER_JID {
        over.delete_range(table, span(first, last));
    }
}

/// Removes a job with all that was recorded for it.
pub(crate) fn purge(over: &mut Overlay, jid: JobId) {
    for table in [Table::Jobs, Table::OpenJobs, Table::JobEnds] {
        over.delete(table, key(jid));
    }
    for table in [Table::Progress, Table::Returns, Table::Parts, Table::Conflicts] {
        over.delete_range(table, Span::prefix(key(jid)));
    }
}

/// A minion's place in a job, in the timeline.
pub(crate) fn place_subject(jid: JobId, ordinal: Ordinal) -> Vec<u8> {
    [jid.to_bytes().as_slice(), &ordinal.0.to_be_bytes()].concat()
}

/// The jid that is the whole subject of a row of the timeline.
pub(crate) fn parse_jid(subject: &[u8]) -> Result<JobId, StoreError> {
    let digits = subject.try_into().map_err(|_| super::bad_key(Table::Timeline))?;
    JobId::from_bytes(digits).map_err(|error| StoreError::corrupt("the timeline", error))
}

/// The inverse of [`place_subject`].
pub(crate) fn parse_place(subject: &[u8]) -> Result<(JobId, Ordinal), StoreError> {
    let wrong = || super::bad_key(Table::Timeline);
    let (digits, number) = subject.split_first_chunk::<16>().ok_or_else(wrong)?;
    Ok((parse_jid(digits)?, Ordinal(u32::from_be_bytes(number.try_into().map_err(|_| wrong())?))))
}

pub(crate) fn put_progress(over: &mut Overlay, jid: JobId, ordinal: Ordinal, row: ProgressRow) {
    let mut value = vec![1, code(row.progress)];
    value.extend_from_slice(&row.since.unix_micros().to_be_bytes());
    over.put(Table::Progress, super::key(&[&jid.to_bytes(), &ordinal.0.to_be_bytes()]), value);
}

pub(crate) fn progress(read: &impl Read, jid: JobId, ordinal: Ordinal) -> Result<Option<ProgressRow>, StoreError> {
    let row = read.get(Table::Progress, &super::key(&[&jid.to_bytes(), &ordinal.0.to_be_bytes()]))?;
    row.map(|row| parse_progress(&row)).transpose()
}

/// Every minion of the job that has a row, by ordinal. The others wait, or are held if the job is a rolling one.
pub(crate) fn progress_of(read: &impl Read, jid: JobId) -> Result<Vec<(Ordinal, ProgressRow)>, StoreError> {
    let rows = read.scan(Table::Progress, &Span::prefix(key(jid)), Direction::Forward, usize::MAX)?;
    rows.iter().map(|(key, row)| Ok((ordinal_of(Table::Progress, key)?, parse_progress(row)?))).collect()
}

pub(crate) fn parse_progress(row: &[u8]) -> Result<ProgressRow, StoreError> {
    let wrong = || StoreError::corrupt("a row of the table progress", format!("it reads {row:?}"));
    let Some((&[1, code], since)) = row.split_first_chunk::<2>() else { return Err(wrong()) };
    let since = u64::from_be_bytes(since.try_into().map_err(|_| wrong())?);
    let progress = decode_progress(code).ok_or_else(wrong)?;
    Ok(ProgressRow { progress, since: LogicalTime::from_unix_micros(since) })
}

/// Persisted: append only. The absence of a row is waiting, and held in a rolling job; there, waiting is written.
fn code(progress: Progress) -> u8 {
    match progress {
        Progress::Waiting => 0,
        Progress::Accepted => 1,
        Progress::Returned => 2,
        Progress::Failed => 3,
        Progress::Interrupted => 4,
        Progress::Expired => 5,
        Progress::Unreachable => 6,
        Progress::Cancelled => 7,
        Progress::Held => 8,
        Progress::Skipped => 9,
        Progress::Killed => 10,
    }
}

fn decode_progress(code: u8) -> Option<Progress> {
    Some(match code {
        0 => Progress::Waiting,
        1 => Progress::Accepted,
        2 => Progress::Returned,
        3 => Progress::Failed,
        4 => Progress::Interrupted,
        5 => Progress::Expired,
        6 => Progress::Unreachable,
        7 => Progress::Cancelled,
        8 => Progress::Held,
        9 => Progress::Skipped,
        10 => Progress::Killed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_codes_are_frozen() {
        use Progress::{
            Accepted, Cancelled, Expired, Failed, Held, Interrupted, Killed, Returned, Skipped, Unreachable, Waiting,
        };
        let frozen =
            [Waiting, Accepted, Returned, Failed, Interrupted, Expired, Unreachable, Cancelled, Held, Skipped, Killed];
        for (number, progress) in (0u8..).zip(frozen) {
            assert_eq!((code(progress), decode_progress(number)), (number, Some(progress)));
        }
        assert_eq!(decode_progress(11), None);
    }
}
