//! The edges of one simulated machine: its clocks, its random bytes, its small files.
//!
//! **Invariants.** Time is turmoil's, random bytes come from the seed, and nothing here looks at the machine that runs the
//! simulation. A disk belongs to the machine, not to its software: it outlives every crash.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use saltern_wire::io::{Clock, Disk, Entropy};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the right clocks show when a simulation begins: 2026-11-23 00:00:00 UTC.
const WALL_MICROS_FIRST: u64 = 1_795_392_000_000_000;

/// The clocks of one boot of one machine.
#[derive(Debug)]
pub struct SimClock {
    /// Microseconds by which the wall clock of this machine is ahead of the right ones.
    wall_skew_micros: i64,
    /// Simulated time of the boot.
    booted: Duration,
    /// The newest reading in nanoseconds, for code that runs while its machine is being taken down.
    last: AtomicU64,
}

impl SimClock {
    /// For a machine that boots now. Call it from the machine's software.
    pub fn new(wall_skew_micros: i64) -> Self {
        let booted = turmoil::sim_elapsed().unwrap_or_default();
        Self { wall_skew_micros, booted, last: AtomicU64::new(nanos(booted)) }
    }

    fn now(&self) -> Duration {
        match turmoil::sim_elapsed() {
            Some(now) => {
                self.last.fetch_max(nanos(now), Ordering::Relaxed);
                now
            }
            None => Duration::from_nanos(self.last.load(Ordering::Relaxed)),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Clock for SimClock {
    /// Counts from the boot, as a process's clock does: whoever compares readings of two boots is wrong and shows here.
    fn monotonic(&self) -> Duration {
        self.now().saturating_sub(self.booted)
    }

    fn wall_unix_micros(&self) -> u64 {
        let elapsed = u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX);
        WALL_MICROS_FIRST.saturating_add(elapsed).saturating_add_signed(self.wall_skew_micros)
    }
}

/// Random bytes of one boot of one machine.
#[derive(Debug)]
pub struct SimEntropy {
    source: Mutex<ChaCha8Rng>,
}

impl SimEntropy {
    /// The same bytes for the same three numbers, others for any others.
    pub fn new(seed: u64, machine: u64, boot: u64) -> Self {
        let mut key = [0; 32];
        for (slot, number) in key.chunks_exact_mut(8).zip([seed, machine, boot]) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        Self { source: Mutex::new(ChaCha8Rng::from_seed(key)) }
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, out: &mut [u8]) {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(out);
    }
}

/// One machine's small files. Clones are the same disk.
///
/// Every operation of [`Disk`] is durable when it returns, and in one thread no crash falls into the middle of one: what
/// was written is what survives.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    files: Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>,
}

impl SimDisk {
    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<u8>>> {
        // A panic elsewhere leaves the map whole: every change of it is one call.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        match self.files().get(path) {
            Some(bytes) if bytes.len() as u64 > bytes_max => {
                let cause = format!("{} has {} bytes, the limit is {bytes_max}", path.display(), bytes.len());
                Err(Error::new(ErrorKind::FileTooLarge, cause))
            }
            found => Ok(found.cloned()),
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.files().insert(path.into(), bytes.into());
        Ok(())
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.files().entry(path.into()).or_default().extend_from_slice(bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.files().remove(path);
        Ok(())
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let files = self.files();
        let inside = files.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn make_folder(&self, _folder: &Path) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::io::draw;

    #[test]
    fn random_bytes_repeat_for_the_same_boot_only() {
        let bytes = |seed, machine, boot| draw::<32>(&SimEntropy::new(seed, machine, boot));
        assert_eq!(bytes(1, 2, 3), bytes(1, 2, 3));
        for other in [bytes(2, 2, 3), bytes(1, 3, 3), bytes(1, 2, 4), bytes(1, 3, 2)] {
            assert_ne!(bytes(1, 2, 3), other);
        }
    }

    #[test]
    fn a_clone_sees_the_same_files() {
        let disk = SimDisk::default();
        let software = disk.clone();
        software.replace(Path::new("/m/b"), b"old").expect("written");
        software.replace(Path::new("/m/b"), b"new").expect("written");
        software.append(Path::new("/m/a"), b"1").expect("written");
        software.append(Path::new("/m/a"), b"2").expect("written");
        drop(software);
        assert_eq!(disk.list(Path::new("/m")).expect("listed"), ["a", "b"]);
        assert_eq!(disk.read(Path::new("/m/a"), 10).expect("read").as_deref(), Some(b"12".as_slice()));
        assert!(disk.read(Path::new("/m/b"), 2).is_err(), "longer than asked for");
        disk.remove(Path::new("/m/b")).expect("removed");
        assert_eq!(disk.read(Path::new("/m/b"), 10).expect("read"), None);
    }

    #[test]
    fn clocks_follow_the_simulation_and_count_from_the_boot() {
        let mut sim = turmoil::Builder::new().rng_seed(1).build();
        sim.client("late", async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let clock = SimClock::new(-1_000_000);
            tokio::time::sleep(Duration::from_millis(250)).await;
            assert_eq!(clock.monotonic(), Duration::from_millis(250));
            assert_eq!(clock.wall_unix_micros(), WALL_MICROS_FIRST + 750_000 - 1_000_000);
            Ok(())
        });
        sim.run().expect("runs");
    }
}
