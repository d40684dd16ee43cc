//! Keeps the log short by its bytes.
//!
//! openraft makes a snapshot every so many entries and purges behind it, leaving so many: an entry may have half a megabyte, so
//! that neither bounds the disk. This does: a snapshot is due when the entries since the last one have so many bytes, and what
//! stays below a snapshot has no more than so many.

use super::group::{Group, GroupError};
use saltern_store::StoreError;

/// What one look found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// A snapshot is due.
    pub snapshot: bool,
    /// The log may go up to this entry.
    pub purge: Option<u64>,
}

/// Where a log stands, in entries and bytes.
#[derive(Debug, Clone, Copy)]
struct LogSize {
    /// The last entry in the newest snapshot; 0 without one.
    snapshot: u64,
    /// The last entry that is gone; 0 for none.
    purged: u64,
    /// Bytes behind the snapshot.
    behind: u64,
    /// Up to which entry it has to go so that as much stays as may; 0 for nowhere.
    leaving: u64,
}

impl LogSize {
    fn due(&self, compact_bytes: u64) -> Compaction {
        let purge = self.leaving.min(self.snapshot);
        Compaction { snapshot: self.behind > compact_bytes, purge: (purge > self.purged).then_some(purge) }
    }
}

impl Group {
    /// Does what is due. Returns at once: snapshots are made, and entries go, by themselves.
    pub async fn compact(&self) -> Result<Compaction, GroupError> {
        let snapshot = self.machine.snapshots().current().map_or(0, |snapshot| snapshot.manifest.applied);
        let size = LogSize {
            snapshot,
            purged: self.log.purged().map_or(0, |purged| purged.index),
            behind: self.log.bytes_after(snapshot),
            leaving: self.log.index_leaving(self.config.log_keep_bytes),
        };
        let due = size.due(self.config.log_compact_bytes);
        if due.snapshot {
            self.snapshot().await?;
        }
        if let Some(upto) = due.purge {
            self.raft.trigger().purge_log(upto).await.map_err(|error| GroupError::Stopped(error.to_string()))?;
        }
        Ok(due)
    }

    /// About how many bytes the log has.
    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Gives the disk back what purged entries took, if that is worth it. Takes a while, on a thread for such work.
    pub async fn reclaim_log(&self) -> Result<bool, StoreError> {
        let log = self.log.clone();
        self.machine.disk_work().run(move || log.reclaim()).await.unwrap_or(Ok(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_covers_goes_and_nothing_else() {
        let size = |snapshot, purged, behind, leaving| LogSize { snapshot, purged, behind, leaving }.due(100);
        let nothing = Compaction { snapshot: false, purge: None };
        assert_eq!(size(50, 10, 100, 0), nothing);
        assert_eq!(size(50, 10, 101, 0), Compaction { snapshot: true, purge: None });
        assert_eq!(size(50, 10, 0, 30), Compaction { snapshot: false, purge: Some(30) });
        assert_eq!(
            size(50, 10, 0, 70),
            Compaction { snapshot: false, purge: Some(50) },
            "no further than the snapshot"
        );
        assert_eq!(size(50, 50, 0, 70), nothing, "all that may go is gone");
        assert_eq!(size(0, 0, 0, 70), nothing, "nothing goes without a snapshot");
    }
}
