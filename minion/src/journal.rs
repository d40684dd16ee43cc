//! The journal: the file that remembers which jobs were taken, so that none starts twice.
//!
//! ```text
//!   record = magic "SJ" · length u32 · first 8 bytes of BLAKE3(body) · body          appended, then fdatasync
//! ```
//!
//! **Invariants.** [`Journal::append`] returns after the bytes are on disk; a job starts only after that. A record that
//! was torn by a crash at the end of the file was never reported as written, and is cut off. Damage anywhere else means
//! that jids may be missing: every record that can still be read is kept, [`Entry::Lost`] is written beside them, the damaged
//! bytes are kept as `journal.damaged` for people, and [`Health::Damaged`] tells the agent to take a new incarnation and to
//! refuse whatever was opened before. An end that no torn write leaves, such as a whole record with a wrong checksum, is
//! damage too.
//!
//! After a failed write nobody knows what is on the disk: the whole file is written anew before anything else is.

use crate::ledger::{Entry, Ledger};
use saltern_wire::codec::{Encoded, decode, encode};
use saltern_wire::fault_point;
use saltern_wire::io::Disk;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Largest journal that is read, in bytes: several times [`crate::ledger::JOBS_MAX`] records of ordinary size.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Largest record, in bytes. A function's name and a reason fit many times.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// The file is written anew when it has more than twice the records that it needs, and more than this.
const RECORDS_BEFORE_COMPACTION: usize = 1_000;

const MAGIC: [u8; 2] = *b"SJ";
const HEADER_BYTES: usize = 2 + 4 + 8;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record(Entry);

impl Encoded for Record {
    const KIND: u8 = 203;
}

/// Why the journal cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct JournalError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

/// What was found on opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is no file yet.
    New,
    /// All records are there; a torn end, if any, was never acknowledged.
    Whole,
    /// Records are missing.
    Damaged,
}

/// The journal of one minion.
pub struct Journal {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Records in the file.
    records: usize,
    /// The file may not hold what it should: write it anew first.
    suspect: bool,
}

impl Journal {
    /// Reads the journal, and writes it anew without what was torn or damaged.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<(Self, Ledger, Health), JournalError> {
        let failed = |source| JournalError { path: path.clone(), source };
        let mut ledger = Ledger::default();
        let (health, records) = match disk.read(&path, FILE_BYTES_MAX).map_err(failed)? {
            None => (Health::New, 0),
            Some(bytes) => {
                let read = scan(&bytes);
                read.entries.iter().for_each(|entry| ledger.apply(entry));
                let health = if read.damaged { Health::Damaged } else { Health::Whole };
                if read.damaged {
                    ledger.apply(&Entry::Lost);
                }
                if read.damaged {
                    let aside = path.with_extension("damaged");
                    let kept = disk.replace(&aside, &bytes);
                    kept.map_err(|source| JournalError { path: aside, source })?;
                }
                (health, if read.clean { read.entries.len() } else { usize::MAX })
            }
        };
        let mut journal = Self { disk, path, records, suspect: false };
        if journal.is_long(&ledger) || health == Health::New {
            journal.rewrite(&ledger)?;
        }
        Ok((journal, ledger, health))
    }

    /// Writes `entries`, which `ledger` holds already, and returns when they are on disk.
    pub fn append(&mut self, entries: &[Entry], ledger: &Ledger) -> Result<(), JournalError> {
        fault_point!("journal.append.before", cause => {
            self.suspect = true;
            return Err(JournalError { path: self.path.clone(), source: std::io::Error::other(cause) });
        });
        self.write(entries, ledger)?;
        fault_point!("journal.append.after");
        Ok(())
    }

    fn write(&mut self, entries: &[Entry], ledger: &Ledger) -> Result<(), JournalError> {
        if self.suspect || self.is_long(ledger) {
            return self.rewrite(ledger);
        }
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| put(&mut bytes, entry));
        self.suspect = true;
        self.disk.append(&self.path, &bytes).map_err(|source| JournalError { path: self.path.clone(), source })?;
        self.suspect = false;
        self.records += entries.len();
        Ok(())
    }

    /// Writes the shortest file with the contents of `ledger`.
    pub fn rewrite(&mut self, ledger: &Ledger) -> Result<(), JournalError> {
        let entries = ledger.entries();
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| put(&mut bytes, entry));
        self.suspect = true;
        self.disk.replace(&self.path, &bytes).map_err(|source| JournalError { path: self.path.clone(), source })?;
        self.suspect = false;
        self.records = entries.len();
        Ok(())
    }

    fn is_long(&self, ledger: &Ledger) -> bool {
        self.records > RECORDS_BEFORE_COMPACTION.max(ledger.len().saturating_mul(4))
    }
}

fn put(out: &mut Vec<u8>, entry: &Entry) {
    let body = encode(&Record(entry.clone()));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&blake3::hash(&body).as_bytes()[..8]);
    out.extend_from_slice(&body);
}

/// What a file holds.
struct Scan {
    entries: Vec<Entry>,
    /// Nothing but good records.
    clean: bool,
    /// There are bad bytes that no torn write leaves.
    damaged: bool,
}

/// Reads every good record, looking for the next one behind bad bytes.
fn scan(bytes: &[u8]) -> Scan {
    let mut read = Scan { entries: Vec::new(), clean: true, damaged: false };
    let (mut at, mut good_until) = (0, 0);
    while at < bytes.len() {
        match record_at(&bytes[at..]) {
            Some((entry, len)) => {
                read.damaged |= !read.clean;
                read.entries.push(entry);
                at += len;
                good_until = at;
            }
            None => {
                read.clean = false;
                at += 1;
            }
        }
    }
    read.damaged |= !is_torn(&bytes[good_until..]);
    read
}

/// Whether an append that a crash stopped leaves these bytes behind the last good record: none, the beginning of one record,
/// or room that was allotted and never filled. Anything else was written and acknowledged, and rotted.
fn is_torn(end: &[u8]) -> bool {
    if end.iter().all(|byte| *byte == 0) {
        return true;
    }
    if !end.starts_with(&MAGIC[..end.len().min(MAGIC.len())]) {
        return false;
    }
    let Some(header) = end.get(..HEADER_BYTES) else { return true };
    let body = &end[HEADER_BYTES..];
    let len = header[2..6].iter().rev().fold(0_usize, |len, byte| (len << 8) | usize::from(*byte));
    // A body that fits its checksum is whole, whatever the length says.
    len <= RECORD_BYTES_MAX && body.len() < len && blake3::hash(body).as_bytes()[..8] != header[6..]
}

/// The record at the start of `bytes` and its length.
fn record_at(bytes: &[u8]) -> Option<(Entry, usize)> {
    let header = bytes.get(..HEADER_BYTES)?;
    if header[..2] != MAGIC {
        return None;
    }
    let len = u32::from_le_bytes(header[2..6].try_into().ok()?) as usize;
    if len > RECORD_BYTES_MAX {
        return None;
    }
    let body = bytes.get(HEADER_BYTES..HEADER_BYTES + len)?;
    if blake3::hash(body).as_bytes()[..8] != header[6..] {
        return None;
    }
    decode::<Record>(body).ok().map(|record| (record.0, HEADER_BYTES + len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryDisk;
    use saltern_wire::{JobId, LogicalTime};
    use std::path::Path;

    fn jid(number: u64) -> JobId {
        JobId::mint(LogicalTime::from_unix_micros(1_795_392_390_000_000 + number * 1000), 1)
    }

    fn accepted(number: u64) -> Entry {
        let opened = LogicalTime::from_unix_micros(number);
        Entry::Accepted { jid: jid(number), opened, expires: opened, function: "cmd.run".into() }
    }

    fn write(disk: &Arc<MemoryDisk>, numbers: std::ops::Range<u64>) {
        let (mut journal, mut ledger, _) = Journal::open(disk.clone(), "/j".into()).expect("opens");
        for number in numbers {
            ledger.apply(&accepted(number));
            journal.append(&[accepted(number)], &ledger).expect("written");
        }
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let disk = Arc::new(MemoryDisk::default());
        let (_, _, health) = Journal::open(disk.clone(), "/j".into()).expect("opens");
        assert_eq!(health, Health::New);
        write(&disk, 0..5);
        let (_, ledger, health) = Journal::open(disk, "/j".into()).expect("opens");
        assert_eq!((ledger.len(), health), (5, Health::Whole));
    }

    #[test]
    fn a_crash_at_any_byte_loses_the_torn_record_only() {
        let disk = Arc::new(MemoryDisk::default());
        write(&disk, 0..3);
        let whole = disk.read(Path::new("/j"), 1 << 20).expect("read").expect("there");
        write(&disk, 3..4);
        let longer = disk.read(Path::new("/j"), 1 << 20).expect("read").expect("there");
        for cut in whole.len()..longer.len() {
            disk.replace(Path::new("/j"), &longer[..cut]).expect("written");
            let (_, ledger, health) = Journal::open(disk.clone(), "/j".into()).expect("opens");
            assert_eq!((ledger.len(), health), (3, Health::Whole), "cut at {cut}");
            write(&disk, 7..8);
            let (_, ledger, _) = Journal::open(disk.clone(), "/j".into()).expect("opens");
            assert_eq!(ledger.len(), 4, "appending goes on after a torn end at {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_noticed_and_the_rest_is_kept() {
        let disk = Arc::new(MemoryDisk::default());
        write(&disk, 0..5);
        let bytes = disk.read(Path::new("/j"), 1 << 20).expect("read").expect("there");
        let mut bent = bytes.clone();
        bent[bytes.len() / 2] ^= 0x40;
        disk.replace(Path::new("/j"), &bent).expect("written");
        let (_, ledger, health) = Journal::open(disk.clone(), "/j".into()).expect("opens");
        assert_eq!((ledger.len(), health), (4, Health::Damaged));
        let (_, ledger, health) = Journal::open(disk, "/j".into()).expect("opens");
        assert_eq!((health, ledger.is_lost()), (Health::Whole, true), "mended, and the loss is not forgotten");
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed_and_the_bytes_are_kept_for_people() {
        let disk = Arc::new(MemoryDisk::default());
        write(&disk, 0..2);
        let bytes = disk.read(Path::new("/j"), 1 << 20).expect("read").expect("there");
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            disk.replace(Path::new("/j"), &bent).expect("written");
            let (_, ledger, health) = Journal::open(disk.clone(), "/j".into()).expect("opens");
            assert_eq!((health, ledger.is_lost()), (Health::Damaged, true), "bit {bit} of {}", bytes.len() * 8);
            assert_eq!(disk.read(Path::new("/j.damaged"), 1 << 20).expect("read"), Some(bent), "bit {bit}");
        }
    }

    #[test]
    fn a_failed_write_is_not_built_upon() {
        let disk = Arc::new(MemoryDisk::default());
        let (mut journal, mut ledger, _) = Journal::open(disk.clone(), "/j".into()).expect("opens");
        disk.tear_next_write();
        ledger.apply(&accepted(1));
        assert!(journal.append(&[accepted(1)], &ledger).is_err());
        ledger.retract(jid(1));
        ledger.apply(&accepted(2));
        journal.append(&[accepted(2)], &ledger).expect("written");
        let (_, ledger, health) = Journal::open(disk, "/j".into()).expect("opens");
        assert_eq!((ledger.get(jid(1)), ledger.len(), health), (None, 1, Health::Whole));
    }

    #[test]
    fn a_long_file_is_written_anew() {
        let disk = Arc::new(MemoryDisk::default());
        let (mut journal, mut ledger, _) = Journal::open(disk.clone(), "/j".into()).expect("opens");
        for _ in 0..3_000 {
            ledger.apply(&accepted(1));
            journal.append(&[accepted(1)], &ledger).expect("written");
        }
        let len = disk.read(Path::new("/j"), 1 << 30).expect("read").expect("there").len();
        assert!(len < 200_000, "{len} bytes for one job");
    }
}
