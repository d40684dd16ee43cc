//! Backups that a master makes by itself, into a folder of its own, of which the newest few stay.
//!
//! ```text
//!   <backup_folder>/saltern-<cluster>-<revision, 20 digits>.archive      whole ones, by age
//!   <backup_folder>/.saltern-….part                                      one under way, or left by a crash
//! ```
//!
//! **Invariants.** A file has its name only once it is whole and on the disk. An older one is removed only after a newer one has
//! its name, and only files that are named like ours. A master that cannot confirm that it is current writes nothing: a
//! backup never holds less than what was acknowledged when it began.
//!
//! Every master that has a `backup_folder` writes its own: nothing here depends on who leads, so that one which is named in
//! one configuration goes on through every election.

use super::archive::{Written, write};
use crate::config::BackupPlan;
use crate::node::Node;
use crate::pki::Credentials;
use crate::truth::Truth;
use saltern_wire::api::BackupStatus;
use saltern_wire::io::Clock;
use saltern_wire::{ClusterId, Revision};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long it may take to make sure that this master is current.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before a backup that failed is tried again, if the plan does not say sooner.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// What names of whole ones end with.
const SUFFIX: &str = ".archive";

/// Why a scheduled backup was not made.
#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Archive(#[from] super::archive::ArchiveWriteError),
    #[error("this master cannot confirm that it is current: {0}")]
    Stale(crate::truth::ProposeError),
    #[error("{0}")]
    Ended(std::io::Error),
}

/// The backups of this master. Clones share what they came to.
#[derive(Clone)]
pub struct Schedule {
    plan: BackupPlan,
    clock: Arc<dyn Clock>,
    came_to: Arc<Mutex<CameTo>>,
}

/// What the backups of this process came to.
#[derive(Debug, Default)]
struct CameTo {
    newest: Option<Written>,
    finished: Option<Duration>,
    failure: Option<String>,
    made: u64,
    failed: u64,
}

impl Schedule {
    /// Makes backups as `plan` says until the node stops.
    pub fn start(plan: BackupPlan, node: &Node) -> Self {
        let schedule = Self { plan, clock: Arc::clone(&node.io.clock), came_to: Arc::default() };
        let (working, stop) = (schedule.clone(), node.stopping().clone());
        let (truth, credentials) = (node.truth.clone(), Arc::clone(&node.credentials));
        node.tasks().spawn(async move {
            tokio::select! {
                () = working.make_all(truth, credentials) => {}
                () = stop.cancelled() => {}
            }
        });
        schedule
    }

    async fn make_all(&self, truth: Truth, credentials: Arc<Credentials>) {
        // One that an earlier process wrote counts: a master that restarts often does not write more often.
        let age = newest(&self.plan.folder, credentials.cluster).ok().flatten().map(|found| self.age(found.modified));
        tokio::time::sleep(self.plan.every.saturating_sub(age.unwrap_or(Duration::MAX))).await;
        loop {
            let pause = match self.make(&truth, &credentials).await {
                Ok(written) => {
                    tracing::info!(revision = %written.revision, bytes = written.bytes, "made a backup");
                    let mut came_to = self.lock();
                    came_to.newest = Some(written);
                    came_to.finished = Some(self.clock.monotonic());
                    came_to.failure = None;
                    came_to.made += 1;
                    self.plan.every
                }
                Err(error) => {
                    tracing::error!(%error, folder = %self.plan.folder.display(), "a backup was not made; trying again");
                    let mut came_to = self.lock();
                    came_to.failure = Some(error.to_string());
                    came_to.failed += 1;
                    self.plan.every.min(RETRY_AFTER)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn make(&self, truth: &Truth, credentials: &Arc<Credentials>) -> Result<Written, BackupError> {
        truth.confirm(CONFIRM_TIMEOUT).await.map_err(BackupError::Stale)?;
        let (truth, credentials, plan) = (truth.clone(), Arc::clone(credentials), self.plan.clone());
        let disk_work = truth.group().machine().disk_work();
        disk_work.run(move || make_one(&plan, &truth, &credentials)).await.map_err(BackupError::Ended)?
    }

    /// What the backups came to, for operators.
    pub fn status(&self, cluster: ClusterId) -> BackupStatus {
        let (found, kept) = match kept(&self.plan.folder, cluster) {
            Ok(names) => (newest(&self.plan.folder, cluster).ok().flatten(), names.len() as u64),
            Err(_) => (None, 0),
        };
        let came_to = self.lock();
        let age = came_to.finished.map(|at| self.clock.monotonic().saturating_sub(at));
        let age = age.or_else(|| found.as_ref().map(|found| self.age(found.modified)));
        BackupStatus {
            folder: self.plan.folder.display().to_string(),
            newest: found.as_ref().map(|found| found.name.clone()),
            revision: came_to.newest.map(|written| written.revision),
            time: came_to.newest.map(|written| written.time),
            bytes: found.map_or(0, |found| found.bytes),
            age_seconds: age.map(|age| age.as_secs()),
            kept,
            failure: came_to.failure.clone(),
        }
    }

    /// How many were made and how many failed, since this process started.
    pub fn outcomes(&self) -> (u64, u64) {
        let came_to = self.lock();
        (came_to.made, came_to.failed)
    }

    /// How old a file is by this machine's clock.
    fn age(&self, modified_unix_seconds: i64) -> Duration {
        let now = Duration::from_micros(self.clock.wall_unix_micros());
        now.saturating_sub(Duration::from_secs(u64::try_from(modified_unix_seconds).unwrap_or(0)))
    }

    fn lock(&self) -> MutexGuard<'_, CameTo> {
        self.came_to.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one backup, gives it its name, and removes the oldest ones that are too many.
fn make_one(plan: &BackupPlan, truth: &Truth, credentials: &Credentials) -> Result<Written, BackupError> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |source| BackupError::File { path, source }
    };
    std::fs::create_dir_all(&plan.folder).map_err(at(&plan.folder))?;
    let part = plan.folder.join(format!(".saltern-{}.part", credentials.name));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&part).map_err(at(&part))?;
    let mut failed = None;
    let machine = truth.group().machine();
    let written = write(machine.state(), machine.snapshots(), credentials, &mut |piece| match file.write_all(&piece) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    });
    if let Some(error) = failed {
        // What is there of it is of no use; the next one overwrites it if it stays.
        let _ = std::fs::remove_file(&part);
        return Err(at(&part)(error));
    }
    let written = written?;
    file.sync_all().map_err(at(&part))?;
    let path = plan.folder.join(name(credentials.cluster, written.revision));
    std::fs::rename(&part, &path).map_err(at(&path))?;
    File::open(&plan.folder).and_then(|folder| folder.sync_all()).map_err(at(&plan.folder))?;
    let names = kept(&plan.folder, credentials.cluster).map_err(at(&plan.folder))?;
    for name in names.iter().take(names.len().saturating_sub(plan.keep)) {
        let old = plan.folder.join(name);
        std::fs::remove_file(&old).map_err(at(&old))?;
    }
    Ok(written)
}

fn name(cluster: ClusterId, revision: Revision) -> String {
    format!("saltern-{cluster}-{:020}{SUFFIX}", revision.0)
}

/// Names of the backups of `cluster` in `folder`, oldest first.
fn kept(folder: &Path, cluster: ClusterId) -> std::io::Result<Vec<String>> {
    let prefix = format!("saltern-{cluster}-");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let digits = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(SUFFIX));
        if digits.is_some_and(|digits| digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A backup in the folder.
struct Found {
    name: String,
    bytes: u64,
    /// Unix time.
    modified: i64,
}

fn newest(folder: &Path, cluster: ClusterId) -> std::io::Result<Option<Found>> {
    let Some(name) = kept(folder, cluster)?.pop() else { return Ok(None) };
    let metadata = std::fs::metadata(folder.join(&name))?;
    Ok(Some(Found { name, bytes: metadata.len(), modified: metadata.mtime() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_backups_of_this_cluster_count_and_age_by_their_revision() {
        let home = tempfile::tempdir().expect("a folder");
        let (ours, other) = (ClusterId::from_bytes([1; 16]), ClusterId::from_bytes([2; 16]));
        assert!(newest(home.path(), ours).expect("read").is_none());
        for name in [
            name(ours, Revision(9)),
            name(ours, Revision(100)),
            name(other, Revision(200)),
            format!("saltern-{ours}-300.archive"),
            format!("saltern-{ours}-x.archive"),
            ".saltern-m1.part".into(),
            "notes.txt".into(),
        ] {
            std::fs::write(home.path().join(name), "x").expect("written");
        }
        assert_eq!(kept(home.path(), ours).expect("read"), [name(ours, Revision(9)), name(ours, Revision(100))]);
        assert_eq!(newest(home.path(), ours).expect("read").map(|found| found.name), Some(name(ours, Revision(100))));
    }
}
