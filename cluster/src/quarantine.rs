//! A master whose data cannot be trusted takes no part: no vote, no serving, no replication, until it rejoins.
//!
//! ```text
//!   bytes that are not what was written ─▶ every task ends ─▶ <data_dir>/quarantine, durable ─▶ the peers are told ─▶ exit 65
//!   `saltern-master run` with that file ─▶ nothing is opened, the same message, the same exit code
//!   `saltern-master rejoin`             ─▶ everything that was doubted is moved aside, a fresh id, the file goes last
//! ```
//!
//! **Invariants.** The file is the master's own word against itself: one that cannot be read counts as one. Nothing that is
//! corrupt is deleted. A master that cannot even write the file ends all the same. What the peers are told is for people; no
//! decision of the cluster rests on it, and they forget it when they hear that master again.

use crate::mesh::Mesh;
use crate::mesh::message::{Channel, Request};
use saltern_wire::io::Disk;
use saltern_wire::master::Directory;
use saltern_wire::{LogicalTime, MasterId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// The file whose presence keeps a master from running.
pub const QUARANTINE_FILE: &str = "quarantine";

/// The exit code of a master whose data cannot be trusted: EX_DATAERR of sysexits.h.
pub const EXIT_CORRUPT: u8 = 65;

/// Longest quarantine file that is read, in bytes: a cause names one row and fits many times.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Longest cause that is kept and told, in bytes.
const CAUSE_BYTES_MAX: usize = 2_000;

/// How long telling the peers may take: the master has stopped by then, and its end must not wait for a dead peer.
const TELL_WITHIN: Duration = Duration::from_millis(1_500);

/// An answer that came so soon after a master's last words was on its way before them.
const LAST_WORDS_STAND: Duration = Duration::from_secs(2);

/// Told quarantines that a slow watcher of events may be behind.
const TOLD_WAITING_MAX: usize = 16;

/// Why, since when, and who.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The master's number.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// What was found.
    pub cause: String,
    /// When, by this machine's clock.
    pub since: LogicalTime,
}

impl Quarantine {
    /// The quarantine of a data folder, if there is one. An error means that the folder cannot be read at all.
    pub fn read(disk: &dyn Disk, folder: &Path) -> std::io::Result<Option<Self>> {
        let Some(bytes) = disk.read(&folder.join(QUARANTINE_FILE), FILE_BYTES_MAX)? else { return Ok(None) };
        let unreadable = |error: serde_json::Error| Self {
            master: MasterId(0),
            name: String::new(),
            cause: format!("its file {QUARANTINE_FILE} cannot be read: {error}"),
            since: LogicalTime::ZERO,
        };
        Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(unreadable)))
    }

    /// Writes the quarantine durably. The first one stays: what came after it is a consequence.
    pub fn write(&self, disk: &dyn Disk, folder: &Path) -> std::io::Result<()> {
        if Self::read(disk, folder)?.is_some() { Ok(()) } else { self.replace(disk, folder) }
    }

    /// Writes the quarantine durably, in place of any other.
    pub fn replace(&self, disk: &dyn Disk, folder: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        disk.replace(&folder.join(QUARANTINE_FILE), format!("{text}\n").as_bytes())
    }
}

/// The cause in a length that fits everywhere.
pub fn cause_of(text: &str) -> String {
    let mut cause = text.replace(['\n', '\r'], " ");
    if cause.len() > CAUSE_BYTES_MAX {
        let end = (0..=CAUSE_BYTES_MAX).rev().find(|end| cause.is_char_boundary(*end)).unwrap_or(0);
        cause.truncate(end);
    }
    cause
}

/// Tells every other master of the directory, each once, and waits a moment for them; gives how many have heard it.
pub async fn tell_peers(mesh: &Arc<Mesh>, directory: &Directory, own: MasterId, cause: &str) -> usize {
    let request = Request::Quarantined(cause_of(cause));
    let others = directory.masters.iter().map(|master| master.id).filter(|id| *id != own);
    let told = others.map(|id| mesh.ask(id, Channel::Work, &request, TELL_WITHIN));
    futures::future::join_all(told).await.into_iter().filter(Result::is_ok).count()
}

/// What other masters told of themselves. In memory: a restart forgets it, and that master shows as unreachable then.
#[derive(Debug)]
pub struct Quarantines {
    told: Mutex<BTreeMap<MasterId, Told>>,
    news: broadcast::Sender<(MasterId, String)>,
}

#[derive(Debug, Clone)]
struct Told {
    cause: String,
    /// Monotonic time.
    at: Duration,
}

impl Default for Quarantines {
    fn default() -> Self {
        Self { told: Mutex::default(), news: broadcast::Sender::new(TOLD_WAITING_MAX) }
    }
}

impl Quarantines {
    /// `master` said that it takes part no more. `now` is monotonic.
    pub fn handle_told(&self, master: MasterId, cause: String, now: Duration) {
        let cause = cause_of(&cause);
        tracing::error!(%master, cause, "a master has quarantined itself: bring it back with `saltern-master rejoin` there");
        let told = Told { cause: cause.clone(), at: now };
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(master, told);
        // Nobody may be watching.
        let _ = self.news.send((master, cause));
    }

    /// `master` answered a question at `now`: it is back.
    pub fn handle_heard(&self, master: MasterId, now: Duration) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&master).is_some_and(|told| now.saturating_sub(told.at) > LAST_WORDS_STAND) {
            told.remove(&master);
        }
    }

    /// Why `master` takes no part, if it said so.
    pub fn cause(&self, master: MasterId) -> Option<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).get(&master).map(|told| told.cause.clone())
    }

    /// Hears of every master that says so from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<(MasterId, String)> {
        self.news.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_pubsub::disk::SystemDisk;

    fn quarantine(cause: &str) -> Quarantine {
        let since = LogicalTime::from_unix_micros(1_795_392_390_000_000);
        Quarantine { master: MasterId(3), name: "m3".into(), cause: cause.into(), since }
    }

    #[test]
    fn the_first_cause_stays_and_a_torn_file_still_counts() {
        let home = tempfile::tempdir().expect("a folder");
        assert_eq!(Quarantine::read(&SystemDisk, home.path()).expect("readable"), None);
        quarantine("log entry 7 is corrupt").write(&SystemDisk, home.path()).expect("written");
        quarantine("a consequence").write(&SystemDisk, home.path()).expect("written");
        let read = Quarantine::read(&SystemDisk, home.path()).expect("readable").expect("there");
        assert_eq!(read, quarantine("log entry 7 is corrupt"));
        std::fs::write(home.path().join(QUARANTINE_FILE), "{\"master\": 3, \"na").expect("torn");
        let torn = Quarantine::read(&SystemDisk, home.path()).expect("readable").expect("still a quarantine");
        assert!(torn.cause.contains("cannot be read"), "{}", torn.cause);
    }

    #[test]
    fn what_a_master_told_stands_until_it_is_heard_again() {
        let (quarantines, second) = (Quarantines::default(), Duration::from_secs(1));
        let mut news = quarantines.subscribe();
        quarantines.handle_told(MasterId(2), "the vote\nis corrupt".into(), 10 * second);
        assert_eq!(quarantines.cause(MasterId(2)).as_deref(), Some("the vote is corrupt"));
        assert_eq!(news.try_recv().expect("news"), (MasterId(2), "the vote is corrupt".into()));
        // An answer that was on its way when it said so.
        quarantines.handle_heard(MasterId(2), 11 * second);
        assert!(quarantines.cause(MasterId(2)).is_some());
        quarantines.handle_heard(MasterId(2), 13 * second);
        assert_eq!(quarantines.cause(MasterId(2)), None);
    }

    #[test]
    fn a_long_cause_is_cut_between_letters() {
        let cause = cause_of(&"é".repeat(5_000));
        assert!(cause.len() <= CAUSE_BYTES_MAX && cause.chars().all(|letter| letter == 'é'));
    }
}
