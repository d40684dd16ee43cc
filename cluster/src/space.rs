//! Room on the disk: a master that runs out of it says so early, gives its duties to others, and never meets the end.
//!
//! ```text
//!   free ≥ reserve        roomy    everything
//!        < reserve        short    no returns, no mine values (minions keep theirs); another master is to lead
//!        < reserve / 2    scarce   no jobs either, no snapshots
//!        < reserve / 4    full     nothing but the end of trust in a key, and what mends the cluster
//!        < reserve / 8    spent    nothing; this master takes no more entries from its leader until there is room
//! ```
//!
//! **Invariants.** What is refused was handed to no log. The level of a proposal is that of the leader and of the roomiest
//! majority of the voters, whichever is worse: one full disk of three stops nobody once another master leads. A master that
//! is spent still answers heartbeats and votes, so that a full disk is never an election; it goes on where it stopped when
//! there is room, without a restart. Refusals name the master, the folder, what is free and what to do.
//!
//! **It refuses** to guess what others need the disk for, and to delete anything: the reserve is what lets the last entries,
//! the tables' own work and an orderly restart through.

use saltern_store::command::{Command, JobCommand, KeyCommand, MasterCommand};
use saltern_wire::MasterId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the disk is looked at. At the log's measured peak some 30 MiB are written meanwhile, an eighth of the reserve.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The reserve is this share of the file system …
const RESERVE_SHARE: u64 = 20;

/// … but not more: beyond it, room is only room.
const RESERVE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// … and not less: the tables' memory is written out in pieces of this size.
const RESERVE_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// The exit code of a master whose disk failed it: EX_IOERR of sysexits.h.
pub const EXIT_DISK: u8 = 74;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As much as anybody wants.
    Roomy,
    /// The reserve is touched.
    Short,
    /// Half of the reserve is gone.
    Scarce,
    /// A quarter is left.
    Full,
    /// An eighth is left.
    Spent,
}

impl Level {
    /// The level of `free` bytes where `reserve` are to be kept.
    pub fn of(free: u64, reserve: u64) -> Self {
        match free {
            _ if free >= reserve => Self::Roomy,
            _ if free >= reserve / 2 => Self::Short,
            _ if free >= reserve / 4 => Self::Scarce,
            _ if free >= reserve / 8 => Self::Full,
            _ => Self::Spent,
        }
    }

    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Roomy => "roomy",
            Self::Short => "short",
            Self::Scarce => "scarce",
            Self::Full => "full",
            Self::Spent => "spent",
        }
    }
}

/// The last level at which `command` is still taken.
pub fn bears(command: &Command) -> Level {
    match command {
        // Minions keep what they have and come back with it.
        Command::Job(JobCommand::Accept { .. } | JobCommand::Record { .. } | JobCommand::Deliver { .. })
        | Command::Mine(_)
        | Command::Minion(_)
        | Command::Key(KeyCommand::Submit { .. }) => Level::Roomy,
        Command::Job(JobCommand::Open { .. } | JobCommand::Roll { .. }) => Level::Short,
        Command::Key(KeyCommand::Accept { .. })
        | Command::Settings(_)
        | Command::Level { .. }
        | Command::Master(MasterCommand::Found { .. } | MasterCommand::Token { .. } | MasterCommand::Join { .. }) => {
            Level::Scarce
        }
        // Time makes room, what is to stop must not wait for room, and a master may be what has to go.
        Command::Tick
        | Command::Job(JobCommand::Pause { .. } | JobCommand::End { .. })
        | Command::Key(KeyCommand::Reject { .. } | KeyCommand::Delete { .. })
        | Command::Master(
            MasterCommand::Directory { .. } | MasterCommand::Rejoin { .. } | MasterCommand::Refound { .. },
        )
        | Command::Secret(_) => Level::Full,
    }
}

/// What one master knows of its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Which master.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// Its data folder, for people.
    pub folder: String,
    /// Free for this user, in bytes.
    pub free_bytes: u64,
    /// To be kept free, in bytes.
    pub reserve_bytes: u64,
}

impl Room {
    /// How much that is.
    pub fn level(&self) -> Level {
        Level::of(self.free_bytes, self.reserve_bytes)
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes / (1024 * 1024);
        write!(
            f,
            "the disk of {} is {}: {} MiB are free in {}, {} MiB are kept in reserve; make room there",
            self.name,
            self.level().name(),
            mib(self.free_bytes),
            self.folder,
            mib(self.reserve_bytes)
        )
    }
}

/// The room that decides over a proposal: the worse of the leader's own and the worst of the roomiest majority of the
/// voters, `None` for one that does not answer. Without an answering majority the disk is not what is wrong.
pub fn deciding(own: Room, voters: Vec<Option<Room>>) -> Room {
    let majority = voters.len() / 2;
    let mut answering: Vec<Room> = voters.into_iter().flatten().collect();
    answering.sort_by_key(Room::level);
    match answering.into_iter().nth(majority) {
        Some(room) if room.level() > own.level() => room,
        Some(_) | None => own,
    }
}

/// Follows the room of this master. Cheap to clone.
#[derive(Clone)]
pub struct Space {
    room: watch::Receiver<Room>,
    refusals: Arc<AtomicU64>,
}

/// What is followed.
#[derive(Debug, Clone)]
pub struct Watched {
    /// This master.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// Its data folder.
    pub folder: PathBuf,
    /// What is to be kept free, in bytes; a share of the file system if not set.
    pub reserve_bytes: Option<u64>,
}

impl Space {
    /// A disk that never ends: for simulations, whose disks have no size.
    pub fn endless(master: MasterId) -> Self {
        let (free_bytes, reserve_bytes) = (u64::MAX, 0);
        let room = Room { master, name: String::new(), folder: String::new(), free_bytes, reserve_bytes };
        Self { room: watch::Sender::new(room).subscribe(), refusals: Arc::default() }
    }

    /// Looks at the disk now; the future follows it until `stop`.
    pub fn watch(
        watched: Watched,
        stop: CancellationToken,
    ) -> std::io::Result<(Self, impl Future<Output = ()> + Send)> {
        let sender = watch::Sender::new(look(&watched)?);
        let space = Self { room: sender.subscribe(), refusals: Arc::default() };
        tell_change(None, &sender.borrow());
        Ok((space, follow(watched, sender, stop)))
    }

    /// What is known now.
    pub fn room(&self) -> Room {
        self.room.borrow().clone()
    }

    /// How much room there is.
    pub fn level(&self) -> Level {
        self.room.borrow().level()
    }

    /// Counts a proposal that was refused for want of room.
    pub fn count_refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Proposals that were refused for want of room.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Waits until the level is at most `level`.
    pub async fn wait_for(&self, level: Level) {
        let mut room = self.room.clone();
        // An error means that nobody looks any more: the master is stopping, and what waits ends with it.
        if room.wait_for(|room| room.level() <= level).await.is_err() && self.level() > level {
            std::future::pending::<()>().await;
        }
    }
}

async fn follow(watched: Watched, sender: watch::Sender<Room>, stop: CancellationToken) {
    let watched = Arc::new(watched);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
        let looked = Arc::clone(&watched);
        // A file system over a network may hang: that is its thread's matter.
        let room = match tokio::task::spawn_blocking(move || look(&looked)).await {
            Ok(Ok(room)) => room,
            Ok(Err(error)) => {
                tracing::warn!(folder = %watched.folder.display(), %error, "the disk does not say how much room it has");
                continue;
            }
            Err(_) => return,
        };
        let before = sender.send_replace(room);
        tell_change(Some(before.level()), &sender.borrow());
    }
}

fn tell_change(before: Option<Level>, room: &Room) {
    let level = room.level();
    if level == before.unwrap_or(Level::Roomy) {
        return;
    }
    if level == Level::Roomy {
        tracing::info!(free_bytes = room.free_bytes, "there is room on the disk again: everything is taken");
    } else {
        tracing::warn!(level = level.name(), reason = %room, "room on the disk runs out");
    }
}

fn look(watched: &Watched) -> std::io::Result<Room> {
    let volume = rustix::fs::statvfs(&watched.folder)?;
    let (free_bytes, all) = (volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize);
    let share = (all / RESERVE_SHARE).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
    let (name, folder) = (watched.name.clone(), watched.folder.display().to_string());
    let reserve_bytes = watched.reserve_bytes.unwrap_or(share);
    Ok(Room { master: watched.master, name, folder, free_bytes, reserve_bytes })
}

/// A disk that takes nothing.
#[derive(Debug, thiserror::Error)]
#[error("the disk of {} cannot be written: {source}; {}", folder.display(), remedy(source))]
pub struct DiskFault {
    folder: PathBuf,
    source: std::io::Error,
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "make room there, then start this master"
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            "mount it for writing (and find out why the kernel made it read-only), then start this master"
        }
        std::io::ErrorKind::PermissionDenied => "give the folder to the user that runs this master",
        _ => "mend or replace the disk; a master whose disk was lost comes back with `saltern-master rejoin --force`",
    }
}

/// Writes and syncs a small file and removes it: whether the folder takes anything at all.
pub fn require_writable(folder: &Path) -> Result<(), DiskFault> {
    let path = folder.join(PROBE_FILE);
    let probe = || {
        let file = std::fs::File::create(&path)?;
        std::io::Write::write_all(&mut &file, &[0; PROBE_BYTES])?;
        file.sync_all()?;
        std::fs::remove_file(&path)
    };
    probe().map_err(|source| {
        // Half of it may be there.
        let _ = std::fs::remove_file(&path);
        DiskFault { folder: folder.into(), source }
    })
}

/// The name ends as every temporary file of a data folder does, so that a leftover counts as nothing.
const PROBE_FILE: &str = "probe.tmp~";

/// More than a file system keeps inside of its own records, and what opening the stores writes at the least.
const PROBE_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn room(master: u64, free_bytes: u64) -> Room {
        let (name, folder) = (format!("m{master}"), "/data".to_owned());
        Room { master: MasterId(master), name, folder, free_bytes, reserve_bytes: 800 }
    }

    #[test]
    fn levels_follow_the_reserve() {
        for (free, level) in [
            (900, Level::Roomy),
            (800, Level::Roomy),
            (799, Level::Short),
            (400, Level::Short),
            (399, Level::Scarce),
            (199, Level::Full),
            (100, Level::Full),
            (99, Level::Spent),
            (0, Level::Spent),
        ] {
            assert_eq!(room(1, free).level(), level, "{free}");
        }
    }

    #[test]
    fn the_leader_and_a_majority_need_room() {
        let decides = |own: u64, others: &[Option<u64>]| {
            let all = [&[Some(own)], others].concat();
            let voters = all.into_iter().zip(1..).map(|(free, id)| Some(room(id, free?)));
            let room = deciding(room(1, own), voters.collect());
            (room.master.0, room.level())
        };
        assert_eq!(decides(900, &[Some(900), Some(0)]), (1, Level::Roomy), "one full disk of three stops nobody");
        assert_eq!(decides(0, &[Some(900), Some(900)]), (1, Level::Spent), "but the leader's own does");
        assert_eq!(
            decides(900, &[Some(150), Some(0)]),
            (2, Level::Full),
            "the better one of two that are full decides"
        );
        assert_eq!(
            decides(900, &[Some(0), None]),
            (2, Level::Spent),
            "one is full and one is gone: nothing would commit"
        );
        assert_eq!(decides(900, &[None, None]), (1, Level::Roomy), "without a majority the disk is not what is wrong");
        assert_eq!(decides(700, &[]), (1, Level::Short), "alone");
    }

    #[test]
    fn revocations_are_taken_longest_and_returns_shortest() {
        let revoke = Command::Key(KeyCommand::Reject { keys: Vec::new(), by: "op".into() });
        let accept = Command::Key(KeyCommand::Accept { keys: Vec::new(), by: "op".into() });
        let record = Command::Job(JobCommand::Record { returns: Vec::new() });
        assert_eq!((bears(&record), bears(&accept), bears(&revoke)), (Level::Roomy, Level::Scarce, Level::Full));
    }

    #[tokio::test]
    async fn the_folder_is_looked_at_and_a_refusal_names_everything() {
        let home = tempfile::tempdir().expect("a folder");
        let watched = |reserve_bytes| Watched {
            master: MasterId(2),
            name: "m2".into(),
            folder: home.path().into(),
            reserve_bytes: Some(reserve_bytes),
        };
        let (space, _) = Space::watch(watched(1), CancellationToken::new()).expect("looked at");
        assert_eq!(space.level(), Level::Roomy);
        space.wait_for(Level::Roomy).await;
        let (space, _) = Space::watch(watched(u64::MAX), CancellationToken::new()).expect("looked at");
        assert_eq!(space.level(), Level::Spent);
        let says = space.room().to_string();
        assert!(says.contains("m2") && says.contains(&home.path().display().to_string()), "{says}");
        assert!(says.contains("MiB are free") && says.contains("make room"), "{says}");
    }

    #[test]
    fn a_folder_that_takes_nothing_is_named() {
        let home = tempfile::tempdir().expect("a folder");
        require_writable(home.path()).expect("writable");
        assert_eq!(std::fs::read_dir(home.path()).expect("listed").count(), 0, "nothing stays behind");
        let absent = home.path().join("absent");
        let fault = require_writable(&absent).expect_err("it is not there").to_string();
        assert!(fault.contains(&absent.display().to_string()), "{fault}");
    }
}
