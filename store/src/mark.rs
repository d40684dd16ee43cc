//! The durable mark: a small file beside the log that says how far the log had come.
//!
//! ```text
//!   <data folder>/mark      slot 0 · 4096 bytes │ slot 1 · 4096 bytes
//!   a slot                  version 1 · CRC32C 4 · length 2 · record · zeros        (the checksum covers all of it)
//! ```
//!
//! Each synced group of the log has a number, its generation, stored with it. The mark holds the generation of a group that
//! was synced before, with the vote and the end of the log at that point. A log that comes back with a lower generation has
//! lost its end or is an older copy; one with the same generation must say the same. Without it, such a log would look
//! whole: the engine takes a cut at the end for a write that was under way, and an old copy is sound in itself.
//!
//! **Invariants.** The file has both slots from the beginning and is overwritten in place: a full disk does not stop it, and
//! no name changes. Slots are written by turns, so that a write that is interrupted leaves the other one. The file is made,
//! durably, before the log takes its first entry: a log with content and no mark has lost it.
//!
//! **It does not see** a log that lost no more than the groups that were synced and not yet marked when the machine died,
//! and a log and a mark that were set back together: a data folder must never be restored from a copy.
//!
//! **Caveat.** A file system that writes every block to a new place (btrfs, ZFS) needs room even to overwrite.

use crate::error::StoreError;
use crate::frame;
use crate::kv::{Engine, FixedFile};
use saltern_wire::codec::Encoded;
use saltern_wire::fault_point;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Its name in the data folder.
pub const FILE: &str = "mark";
/// Bytes of a slot: one page, so that two slots never share one.
pub(crate) const SLOT_BYTES: usize = 4096;
/// Slots of the file.
const SLOTS: usize = 2;
/// Bytes of the file.
pub(crate) const BYTES: usize = SLOT_BYTES * SLOTS;
/// Bytes before the record: what [`frame::seal`] adds, and the record's length.
const HEADER_BYTES: usize = 5 + 2;
/// Longest vote or committed position, in bytes: Raft's have some 50. Both fit a slot with all the rest.
pub(crate) const VALUE_BYTES_MAX: usize = 1024;

/// How far the log had come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MarkRow {
    /// Number of the synced group; 0 before the first.
    pub(crate) generation: u64,
    /// The vote, as the caller encoded it.
    #[serde(with = "serde_bytes")]
    pub(crate) vote: Option<Vec<u8>>,
    /// The last entry: its index and the checksum of its row.
    pub(crate) last: Option<(u64, u32)>,
    /// Index of the last entry that is purged.
    pub(crate) purged: Option<u64>,
    /// The committed position, as the caller encoded it. Not compared: the log's own may be older or newer.
    #[serde(with = "serde_bytes")]
    pub(crate) committed: Option<Vec<u8>>,
}

impl Encoded for MarkRow {
    const KIND: u8 = 77;
}

impl MarkRow {
    /// Nothing but what an empty log has.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that a log which stands at `log` is the one that this was written for.
    pub(crate) fn check(&self, log: &Self) -> Result<(), StoreError> {
        let corrupt = |cause: String| Err(StoreError::corrupt("the log", cause));
        if log.generation < self.generation {
            return corrupt(format!(
                "it stands at its synced group {}, the durable mark says that group {} was on the disk: \
                 it has lost its end or is an older copy",
                log.generation, self.generation
            ));
        }
        if log.generation > self.generation {
            return Ok(());
        }
        for (what, same) in [
            ("vote", log.vote == self.vote),
            ("last entry", log.last == self.last),
            ("beginning", log.purged == self.purged),
        ] {
            if !same {
                return corrupt(format!("its {what} is not the one that the durable mark holds for the same group"));
            }
        }
        Ok(())
    }

    pub(crate) fn seal(&self) -> Result<Vec<u8>, String> {
        let record = saltern_wire::encode(self);
        let len = u16::try_from(record.len()).ok().filter(|len| usize::from(*len) <= SLOT_BYTES - HEADER_BYTES);
        let len = len.ok_or_else(|| format!("its record has {} bytes, more than a slot takes", record.len()))?;
        let mut body = Vec::with_capacity(SLOT_BYTES);
        body.extend_from_slice(&len.to_be_bytes());
        body.extend_from_slice(&record);
        body.resize(SLOT_BYTES - (HEADER_BYTES - 2), 0);
        Ok(frame::seal(&body))
    }

    /// The inverse of [`MarkRow::seal`], or what is wrong with the slot.
    pub(crate) fn open(slot: &[u8]) -> Result<Self, String> {
        if slot.len() != SLOT_BYTES {
            return Err(format!("it has {} bytes, a slot has {SLOT_BYTES}", slot.len()));
        }
        let body = frame::open(slot)?;
        let (len, rest) = body.split_first_chunk::<2>().ok_or("it has no length")?;
        let record = rest.get(..usize::from(u16::from_be_bytes(*len))).ok_or("its length leads out of the slot")?;
        saltern_wire::decode(record).map_err(|error| error.to_string())
    }
}

/// The open file.
pub(crate) struct Mark {
    file: Box<dyn FixedFile>,
    path: PathBuf,
    /// The slot that is overwritten next: never the one with the newest record.
    next: usize,
}

/// What a mark file says.
#[derive(Debug)]
pub(crate) struct Found {
    /// The newest record of the sound slots.
    pub(crate) row: MarkRow,
    /// Which slot cannot be read, and why, if one cannot: an interrupted write leaves that.
    pub(crate) torn: Option<(usize, String)>,
    newest: usize,
}

/// Reads the bytes of a mark file.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Found, StoreError> {
    let corrupt = |cause: String| StoreError::corrupt(format!("the durable mark {}", path.display()), cause);
    if bytes.len() != BYTES {
        return Err(corrupt(format!("it has {} bytes, it must have {BYTES}", bytes.len())));
    }
    let (first, second) = bytes.split_at(SLOT_BYTES);
    match (MarkRow::open(first), MarkRow::open(second)) {
        (Ok(a), Ok(b)) if a.generation >= b.generation => Ok(Found { row: a, torn: None, newest: 0 }),
        (Ok(_), Ok(b)) => Ok(Found { row: b, torn: None, newest: 1 }),
        (Ok(a), Err(cause)) => Ok(Found { row: a, torn: Some((1, cause)), newest: 0 }),
        (Err(cause), Ok(b)) => Ok(Found { row: b, torn: Some((0, cause)), newest: 1 }),
        (Err(a), Err(b)) => Err(corrupt(format!("both slots are unreadable: {a}; {b}"))),
    }
}

impl Mark {
    /// Opens the mark at `path`; `None` if there is none.
    pub(crate) fn open(engine: &dyn Engine, path: &Path) -> Result<Option<(Self, Found)>, StoreError> {
        let Some(file) = engine.open_fixed(path)? else { return Ok(None) };
        let found = read(path, &file.read()?)?;
        if let Some((slot, cause)) = &found.torn {
            tracing::warn!(path = %path.display(), slot, cause, "a slot of the durable mark is unreadable");
        }
        Ok(Some((Self { file, path: path.into(), next: 1 - found.newest }, found)))
    }

    /// Makes the mark of an empty log, durably.
    pub(crate) fn create(engine: &dyn Engine, path: &Path) -> Result<Self, StoreError> {
        let slot = MarkRow::default().seal().map_err(|cause| unwritable(path, cause))?;
        engine.replace_file(path, &[slot.as_slice(), &slot].concat())?;
        match Self::open(engine, path)? {
            Some((mark, _)) => Ok(mark),
            None => Err(unwritable(path, "it is gone right after it was made".into())),
        }
    }

    /// Puts `row` into the older slot and returns when it is on the disk.
    pub(crate) fn write(&mut self, row: &MarkRow) -> Result<(), StoreError> {
        fault_point!("mark.write.before", cause => return Err(unwritable(&self.path, cause)));
        let slot = row.seal().map_err(|cause| unwritable(&self.path, cause))?;
        self.file.write((self.next * SLOT_BYTES) as u64, &slot)?;
        self.file.sync()?;
        self.next = 1 - self.next;
        fault_point!("mark.write.after");
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A log with content whose mark is not there.
pub(crate) fn missing(path: &Path) -> StoreError {
    StoreError::corrupt(format!("the durable mark {}", path.display()), "it is missing, and the log is not empty")
}

fn unwritable(path: &Path, cause: String) -> StoreError {
    StoreError::Engine { doing: "writing the durable mark", path: path.into(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(generation: u64) -> MarkRow {
        MarkRow {
            generation,
            vote: Some(b"vote".to_vec()),
            last: Some((generation * 10, 7)),
            purged: None,
            committed: Some(b"committed".to_vec()),
        }
    }

    #[test]
    fn every_flipped_bit_of_a_slot_is_found() {
        let slot = row(3).seal().expect("it fits");
        assert_eq!(slot.len(), SLOT_BYTES);
        assert_eq!(MarkRow::open(&slot), Ok(row(3)));
        for bit in 0..slot.len() * 8 {
            let mut bent = slot.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(MarkRow::open(&bent).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_longest_record_fits_and_a_longer_one_is_refused() {
        let longest = MarkRow {
            generation: u64::MAX,
            vote: Some(vec![1; VALUE_BYTES_MAX]),
            last: Some((u64::MAX, u32::MAX)),
            purged: Some(u64::MAX),
            committed: Some(vec![1; VALUE_BYTES_MAX]),
        };
        assert_eq!(longest.seal().map(|slot| slot.len()), Ok(SLOT_BYTES));
        let longer = MarkRow { vote: Some(vec![1; SLOT_BYTES]), ..longest };
        assert!(longer.seal().is_err());
    }

    #[test]
    fn a_log_must_have_come_as_far_and_say_the_same() {
        let mark = row(3);
        assert!(mark.check(&row(3)).is_ok());
        assert!(mark.check(&MarkRow { committed: None, ..row(3) }).is_ok());
        assert!(mark.check(&row(4)).is_ok(), "the log may be ahead");
        for (log, says) in [
            (row(2), "lost its end"),
            (MarkRow { vote: None, ..row(3) }, "vote"),
            (MarkRow { last: Some((30, 8)), ..row(3) }, "last entry"),
            (MarkRow { purged: Some(1), ..row(3) }, "beginning"),
        ] {
            let refused = mark.check(&log).expect_err(says).to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn the_newest_sound_slot_counts() {
        let path = Path::new("mark");
        let file = |a: &MarkRow, b: &MarkRow| [a.seal().expect("it fits"), b.seal().expect("it fits")].concat();
        for bytes in [file(&row(3), &row(4)), file(&row(4), &row(3))] {
            let found = read(path, &bytes).expect("sound");
            assert_eq!((found.row, found.torn), (row(4), None));
        }
        let mut bytes = file(&row(3), &row(4));
        bytes[SLOT_BYTES + 100] ^= 1;
        let found = read(path, &bytes).expect("one is sound");
        assert_eq!((found.row, found.newest, found.torn.map(|torn| torn.0)), (row(3), 0, Some(1)));
        bytes[100] ^= 1;
        assert!(matches!(read(path, &bytes), Err(StoreError::Corrupt { .. })));
        assert!(matches!(read(path, &bytes[1..]), Err(StoreError::Corrupt { .. })));
    }
}
