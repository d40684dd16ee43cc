//! openraft's view of [`saltern_store::Log`].

use crate::raft::types::{Entry, LogId, LogRecord, Types, Vote, pack, unpack};
use futures::{Stream, TryStreamExt};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use saltern_store::Log;
use saltern_store::log::Done;
use saltern_wire::fault_point;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

/// Most bytes of entries that are read for one append message, well below the limit of a mesh message.
const READ_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The log of this master.
#[derive(Clone)]
pub struct RaftLog {
    log: Log<LogRecord>,
}

impl RaftLog {
    /// Wraps an open log.
    pub fn new(log: Log<LogRecord>) -> Self {
        Self { log }
    }

    fn read(&self, range: impl RangeBounds<u64>, bytes_max: Option<usize>) -> io::Result<Vec<Entry>> {
        let (start, end) = ends(&range);
        let records = self.log.read(start..end, bytes_max).map_err(fatal)?;
        Ok(records.into_iter().map(|record| record.0).collect())
    }
}

/// Where a range starts, and the first index behind it.
fn ends(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(at) => *at,
        Bound::Excluded(at) => at + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(at) => at + 1,
        Bound::Excluded(at) => *at,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// A storage error on its way to openraft, which stops its core for it.
fn fatal(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

fn read_packed<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: Option<Vec<u8>>) -> io::Result<Option<T>> {
    bytes.map(|bytes| unpack(&bytes).map_err(fatal)).transpose()
}

/// Starts a write and waits until it is durable.
async fn synced(write: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    write(Box::new(move |result| {
        // Nobody waits any more: the core is stopping.
        let _ = sender.send(result);
    }));
    receiver.await.map_err(|_| fatal("the log stopped"))?
}

impl RaftLogReader<Types> for RaftLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(range, None)
    }

    /// Piece by piece: what a master that was away has to apply may be larger than its memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = ends(&range);
        let pieces = futures::stream::try_unfold((self.clone(), start), move |(log, start)| async move {
            if start >= end {
                return Ok(None);
            }
            let piece = log.read(start..end, Some(READ_BYTES_MAX))?;
            // Whoever reads finds less than was asked for, and stops.
            let next = piece.last().map_or(end, |entry| entry.log_id.index() + 1);
            Ok::<_, io::Error>(Some((futures::stream::iter(piece.into_iter().map(Ok)), (log, next))))
        });
        Box::pin(pieces.try_flatten())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, Some(READ_BYTES_MAX))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        read_packed(self.log.vote())
    }
}

impl RaftLogStorage<Types> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let last_purged_log_id: Option<LogId> = read_packed(self.log.purged().map(|purged| purged.position))?;
        let last = self.log.last().map_err(fatal)?.map(|record| record.0.log_id);
        Ok(LogState { last_log_id: last.or_else(|| last_purged_log_id.clone()), last_purged_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        fault_point!("vote.save.before");
        synced(|done| self.log.save_vote(pack(vote), done)).await?;
        fault_point!("vote.save.after");
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(pack(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        read_packed(self.log.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<LogRecord> = entries.into_iter().map(LogRecord).collect();
        let mark = |record: &LogRecord| match &record.0.payload {
            EntryPayload::Normal(logged) => logged.take_mark(),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        let marks: Vec<_> = records.iter().filter_map(mark).collect();
        let done = move |result| {
            callback.io_completed(result);
            for mark in marks {
                // The one who waits for it may have gone; a log that failed stops the core by its own result.
                let _ = mark.send(());
            }
        };
        self.log.append(records, Box::new(done));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        synced(|done| self.log.truncate_after(last.map(|last| last.index()), done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        synced(|done| self.log.purge(upto.index(), pack(&upto), done)).await
    }
}
