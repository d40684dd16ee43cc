//! Verifies a data folder that no master has open, and changes nothing in it.
//!
//! Everything is read and decoded that a running master would ever read: the durable mark, every entry of the log, every row
//! of every table past all caches, every file of every snapshot against its digest; then whether they fit each other.
//!
//! **It refuses** a folder that a master has open: what it found would not hold a moment later.

use crate::error::StoreError;
use crate::folder::{Ends, LOG, SNAPSHOTS, STATE};
use crate::index::Index;
use crate::kv::{Engine, Kind};
use crate::log::{LogEntry, Tail};
use crate::mark::{self, MarkRow};
use crate::{snapshot, state};
use std::path::Path;

/// What a check has found, in the order in which it looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// One for each thing that was looked at.
    pub items: Vec<CheckItem>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckItem {
    /// What it is, e.g. `the log`.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// How much of it there is, or what is wrong with it.
    pub detail: String,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was read whole, and is what was written.
    Sound,
    /// It is not there, and need not be.
    Absent,
    /// Left over from something that was interrupted. A start goes on with it or removes it.
    Unfinished,
    /// It cannot be trusted: this master has to join again.
    Corrupt,
    /// It came from a newer build: this one cannot say how it is.
    Newer,
    /// It could not be read for a reason that is not its content.
    Unreadable,
}

impl Verdict {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Absent => "absent",
            Self::Unfinished => "unfinished",
            Self::Corrupt => "corrupt",
            Self::Newer => "newer",
            Self::Unreadable => "unreadable",
        }
    }
}

impl CheckReport {
    /// Whether a newer build has written something of it.
    pub fn is_newer(&self) -> bool {
        self.items.iter().any(|item| item.verdict == Verdict::Newer)
    }

    /// Whether a master may start on this folder.
    pub fn is_sound(&self) -> bool {
        self.items.iter().all(|item| !matches!(item.verdict, Verdict::Corrupt | Verdict::Newer | Verdict::Unreadable))
    }

    /// The first thing that is corrupt, as one line.
    pub fn cause(&self) -> Option<String> {
        let corrupt = self.items.iter().find(|item| item.verdict == Verdict::Corrupt)?;
        Some(format!("{}: {}", corrupt.what, corrupt.detail))
    }

    fn add(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl Into<String>) {
        self.items.push(CheckItem { what: what.into(), verdict, detail: detail.into() });
    }

    /// Adds what `read` gives, or its error; the value if there was none.
    fn take<T>(&mut self, what: &str, read: Result<(T, Verdict, String), StoreError>) -> Option<T> {
        match read {
            Ok((value, verdict, detail)) => {
                self.add(what, verdict, detail);
                Some(value)
            }
            Err(error) => {
                let verdict = match error {
                    StoreError::Corrupt { .. } => Verdict::Corrupt,
                    StoreError::Newer(_) => Verdict::Newer,
                    _ => Verdict::Unreadable,
                };
                self.add(what, verdict, error.finding());
                None
            }
        }
    }
}

/// Verifies the data folder of a master that is not running. An error means that it could not be looked at: it is in use, or
/// it is no folder.
pub fn check<E: LogEntry>(engine: &dyn Engine, data_dir: &Path) -> Result<CheckReport, StoreError> {
    let _held = engine.hold(&data_dir.join(LOG))?;
    let mut report = CheckReport { items: Vec::new() };
    let marked = check_mark(engine, data_dir, &mut report);
    let log = check_log::<E>(engine, data_dir, marked.as_ref(), &mut report);
    let applied = check_state(engine, data_dir, &mut report)?;
    let snapshot = check_snapshots(engine, data_dir, &mut report)?;
    if let (Some(standing), Some(applied)) = (log, applied) {
        let ends = Ends {
            log_is_empty: standing.last.is_none() && standing.purged.is_none() && standing.vote.is_none(),
            purged: standing.purged.unwrap_or(0),
            applied,
            snapshot,
        };
        let fit = ends.check().map(|()| ((), Verdict::Sound, "no entry is missing between them".to_owned()));
        report.take("log, state and snapshots together", fit);
    }
    Ok(report)
}

/// `Some(None)`: there is no mark.
fn check_mark(engine: &dyn Engine, data_dir: &Path, report: &mut CheckReport) -> Option<Option<MarkRow>> {
    let path = data_dir.join(mark::FILE);
    let read = || -> Result<_, StoreError> {
        if engine.file_len(&path)?.is_none() {
            return Ok((None, Verdict::Absent, "no log was ever made here".to_owned()));
        }
        let found = mark::read(&path, &engine.read_file(&path, 0, mark::BYTES + 1)?)?;
        let of = format!("it says that the log had come to synced group {}", found.row.generation);
        let detail = match &found.torn {
            None => of,
            Some((slot, cause)) => format!("{of}; its slot {slot} is unreadable ({cause}), the other one counts"),
        };
        Ok((Some(found.row), Verdict::Sound, detail))
    };
    report.take("the durable mark", read())
}

fn check_log<E: LogEntry>(
    engine: &dyn Engine,
    data_dir: &Path,
    marked: Option<&Option<MarkRow>>,
    report: &mut CheckReport,
) -> Option<MarkRow> {
    let dir = data_dir.join(LOG);
    let read = || -> Result<_, StoreError> {
        let (first, standing) = if !engine.has_instance(&dir)? {
            (None, MarkRow::default())
        } else {
            let kv = engine.open_read_only(&dir, Kind::Log)?;
            let (tail, standing) = Tail::<E>::load(kv.as_ref())?;
            (tail.begin(), standing)
        };
        match marked {
            Some(Some(row)) => row.check(&standing)?,
            Some(None) if !standing.is_empty() => return Err(mark::missing(&data_dir.join(mark::FILE))),
            // A mark that is corrupt has been said to be.
            Some(None) | None => {}
        }
        let detail = match (first, standing.last) {
            (Some(first), Some((last, _))) => {
                format!("entries {first} to {last}, synced group {}", standing.generation)
            }
            _ => format!("no entries, synced group {}", standing.generation),
        };
        let verdict = if standing.is_empty() { Verdict::Absent } else { Verdict::Sound };
        Ok((standing, verdict, detail))
    };
    report.take("the log", read())
}

/// The last entry that the state has applied; `None` if it cannot be read.
fn check_state(engine: &dyn Engine, data_dir: &Path, report: &mut CheckReport) -> Result<Option<u64>, StoreError> {
    let dir = data_dir.join(STATE);
    let number = match state::current(engine, &dir) {
        Ok(number) => number,
        Err(error) => return Ok(report.take::<u64>("the state", Err(error))),
    };
    let folders: Vec<String> = engine.list(&dir)?.into_iter().filter(|name| name.starts_with(state::FOLDER)).collect();
    let live = number.map(state::folder_name);
    let read = || -> Result<_, StoreError> {
        let Some(live) = &live else {
            return match folders.first() {
                Some(folder) => Err(state::headless(&dir, folder)),
                None => Ok((0, Verdict::Absent, "no state was ever made here".to_owned())),
            };
        };
        if !folders.contains(live) {
            return match number {
                Some(state::FIRST) => Ok((0, Verdict::Absent, format!("{live} is not made yet"))),
                _ => Err(state::missing(&dir, live)),
            };
        }
        let kv = engine.open_read_only(&dir.join(live), Kind::State)?;
        // The index first: rows of a newer level are not judged.
        let index = Index::load(&kv)?;
        let rows = state::verify(kv.as_ref())?;
        Ok((index.applied, Verdict::Sound, format!("{rows} rows in {live}, applied up to entry {}", index.applied)))
    };
    let applied = report.take("the state", read());
    for folder in folders.iter().filter(|folder| live.as_ref() != Some(*folder)) {
        report.add(format!("the state's folder {folder}"), Verdict::Unfinished, "an interrupted install has left it");
    }
    Ok(applied)
}

/// The last entry in the newest sound snapshot; 0 without one.
fn check_snapshots(engine: &dyn Engine, data_dir: &Path, report: &mut CheckReport) -> Result<u64, StoreError> {
    let dir = data_dir.join(SNAPSHOTS);
    let mut newest = 0;
    let mut whole = Vec::new();
    let names = engine.list(&dir)?;
    for (id, read) in names.iter().filter_map(|name| Some((snapshot::id_of(name)?, name))) {
        let verified = snapshot::verify(engine, &dir, id, read).map(|manifest| {
            let (files, bytes) = (manifest.files.len(), manifest.bytes());
            let detail = format!("{files} files with {bytes} bytes, applied up to entry {}", manifest.applied);
            (manifest.applied, Verdict::Sound, detail)
        });
        if let Some(applied) = report.take(&format!("the snapshot {id}"), verified) {
            newest = newest.max(applied);
        }
        whole.push(id);
    }
    for name in &names {
        if !whole.iter().any(|id| name.strip_prefix(*id).is_some_and(|rest| rest.is_empty() || rest == ".manifest")) {
            report.add(format!("the snapshots' {name}"), Verdict::Unfinished, "it never became a snapshot");
        }
    }
    Ok(newest)
}
