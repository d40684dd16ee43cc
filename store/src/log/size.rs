//! How large the log is: where snapshots are due by bytes, and how far back it may reach.
//!
//! Exact to a step ([`STEP_BYTES`]): one number is kept for each, not one for each entry.

use super::{Log, LogEntry};
use crate::error::StoreError;
use crate::kv::{Span, Table};
use crate::table;
use std::collections::VecDeque;

/// Bytes between two marks.
const STEP_BYTES: u64 = 1024 * 1024;

/// Bytes that were purged before the disk is asked to give them back: table files are a little larger, and the write-ahead
/// log twice that.
const RECLAIM_BYTES: u64 = 64 * 1024 * 1024;

/// Lengths of the entries, by steps.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// Index and the bytes of all entries up to it that ever were: at least a step apart.
    marks: VecDeque<(u64, u64)>,
    /// Bytes of all entries that ever were.
    total: u64,
    /// Of these, what is purged.
    purged: u64,
    /// Of these, what the disk was asked to give back.
    reclaimed: u64,
}

impl Sizes {
    pub(super) fn push(&mut self, index: u64, len: usize) {
        self.total += len as u64;
        let last = self.marks.back().map_or(self.purged, |(_, sum)| *sum);
        if self.total - last >= STEP_BYTES {
            self.marks.push_back((index, self.total));
        }
    }

    pub(super) fn truncate(&mut self, from: u64) {
        let mut cut = false;
        while self.marks.pop_back_if(|(index, _)| *index >= from).is_some() {
            cut = true;
        }
        if cut {
            self.total = self.marks.back().map_or(self.purged, |(_, sum)| *sum);
        }
    }

    pub(super) fn purge(&mut self, upto: u64, is_empty: bool) {
        while let Some((_, sum)) = self.marks.pop_front_if(|(index, _)| *index <= upto) {
            self.purged = sum;
        }
        if is_empty {
            self.marks.clear();
            self.purged = self.total;
        }
    }

    fn bytes(&self) -> u64 {
        self.total - self.purged
    }

    fn bytes_after(&self, index: u64) -> u64 {
        let before = self.marks.partition_point(|(mark, _)| *mark <= index);
        let sum = before.checked_sub(1).and_then(|last| self.marks.get(last)).map_or(self.purged, |(_, sum)| *sum);
        self.total - sum
    }

    fn index_leaving(&self, bytes: u64) -> u64 {
        if self.bytes() <= bytes {
            return 0;
        }
        let enough = self.marks.iter().find(|(_, sum)| self.total - sum <= bytes);
        enough.or(self.marks.back()).map_or(0, |(index, _)| *index)
    }

    /// Whether enough was purged for the disk to be asked; it counts as asked from here on.
    fn take_reclaim(&mut self) -> bool {
        let is_due = self.purged - self.reclaimed >= RECLAIM_BYTES;
        if is_due {
            self.reclaimed = self.purged;
        }
        is_due
    }
}

impl<E: LogEntry> Log<E> {
    /// About how many bytes its entries have.
    pub fn bytes(&self) -> u64 {
        self.writer.lock().tail.sizes.bytes()
    }

    /// About how many bytes the entries behind `index` have.
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.writer.lock().tail.sizes.bytes_after(index)
    }

    /// Up to which entry it may be purged so that about `bytes` stay; 0 if it has no more than that.
    pub fn index_leaving(&self, bytes: u64) -> u64 {
        self.writer.lock().tail.sizes.index_leaving(bytes)
    }

    /// Gives the disk back what purged entries took, once that is worth it. Takes a while: not for a thread that must not wait.
    /// Whether there was anything to give back.
    pub fn reclaim(&self) -> Result<bool, StoreError> {
        let span = {
            let mut queue = self.writer.lock();
            let Some(purged) = queue.tail.purged.as_ref().map(|purged| purged.index) else { return Ok(false) };
            if !queue.tail.sizes.take_reclaim() {
                return Ok(false);
            }
            Span::between(table::log_key(0), table::log_key(purged.saturating_add(1)))
        };
        self.writer.kv().compact(Table::Log, &span)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries 1 to `last` of a quarter of a step each.
    fn sizes(last: u64) -> Sizes {
        let mut sizes = Sizes::default();
        (1..=last).for_each(|index| sizes.push(index, 256 * 1024));
        sizes
    }

    #[test]
    fn bytes_are_known_to_a_step() {
        let mut sizes = sizes(40);
        assert_eq!(sizes.bytes(), 10 * STEP_BYTES);
        assert_eq!(sizes.bytes_after(0), 10 * STEP_BYTES);
        assert_eq!(sizes.bytes_after(20), 5 * STEP_BYTES);
        assert_eq!(sizes.bytes_after(22), 5 * STEP_BYTES, "the step that it stands in counts whole");
        assert_eq!(sizes.bytes_after(40), 0);
        assert_eq!(sizes.index_leaving(2 * STEP_BYTES), 32);
        assert_eq!(sizes.index_leaving(10 * STEP_BYTES), 0, "there is no more than that");
        sizes.purge(30, false);
        assert_eq!(sizes.bytes(), 3 * STEP_BYTES, "entries 29 to 40");
        sizes.truncate(37);
        assert_eq!((sizes.bytes(), sizes.bytes_after(28)), (2 * STEP_BYTES, 2 * STEP_BYTES));
        sizes.purge(99, true);
        assert_eq!((sizes.bytes(), sizes.index_leaving(0)), (0, 0));
    }

    #[test]
    fn the_disk_is_asked_when_it_is_worth_it() {
        let mut sizes = sizes(4 * 100);
        assert!(!sizes.take_reclaim());
        sizes.purge(4 * 64, false);
        assert!(sizes.take_reclaim() && !sizes.take_reclaim());
        sizes.purge(4 * 99, false);
        assert!(!sizes.take_reclaim(), "35 MiB since");
    }
}
