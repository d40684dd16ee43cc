//! Sends a snapshot to one other master: what it has already does not travel again, and what travels does so at a pace.
//!
//! ```text
//!   SnapshotBegin (its description) ─▶ what is missing ─▶ up to four files at a time, piece after piece ─▶ SnapshotFinish
//! ```
//!
//! A shipment that is interrupted by anything begins anew with the same first question: pieces that arrived are on the
//! receiver's disk. The snapshot that travels is held meanwhile, however many newer ones are made.
//!
//! **Invariants.** Pieces of one file go in order, one at a time. Over the whole shipment no more goes out than the setting
//! `snapshot_mib_per_second` allows, which may change on the way.

use super::machine::Machine;
use super::meters::Meters;
use crate::mesh::message::{Channel, RaftCall, Request, Response};
use crate::mesh::{Mesh, MeshError};
use futures::{StreamExt, TryStreamExt};
use saltern_store::{Snapshot as Files, StoreError};
use saltern_wire::MasterId;
use saltern_wire::io::Clock;
use saltern_wire::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long one piece of a snapshot may take: a slow disk, not a slow network, decides.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the receiver may take to look at what it has: it may put files of an earlier snapshot into place.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long installing a received snapshot may take.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);

/// Files that travel at one time. Each has one piece on its way: together they fill a road of 100 ms with 40 MiB/s, and hold
/// 8 MiB in memory at both ends.
const FILES_AT_ONCE: usize = 4;

/// Bytes of a MiB.
const MIB: u64 = 1024 * 1024;

/// Longest pause for the sake of the pace: a setting that is raised meanwhile is seen after it.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a snapshot did not arrive. It is sent again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShipError {
    /// The road to the other master.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// The other master says no.
    #[error("{0}")]
    Refused(String),
    /// A file of ours cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The thread that reads it is gone.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// One snapshot on its way to one master.
pub(super) struct Shipment<'a> {
    pub(super) to: MasterId,
    pub(super) mesh: &'a Arc<Mesh>,
    pub(super) machine: &'a Machine,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) meters: &'a Meters,
    pub(super) files: &'a Files,
    pub(super) pace: Mutex<Pace>,
}

impl Shipment<'_> {
    /// Sends what is missing and then `finish`; what the other one answers to that.
    pub(super) async fn ship(&self, finish: RaftCall) -> Result<Vec<u8>, ShipError> {
        let manifest = &self.files.manifest;
        let _held = self.machine.snapshots().hold(&manifest.id);
        let missing = match self.ask(RaftCall::SnapshotBegin(manifest.encode()), BEGIN_TIMEOUT).await? {
            Response::SnapshotMissing(missing) => missing,
            other => return Err(ShipError::Refused(format!("unexpected reply {other:?}"))),
        };
        tracing::info!(to = %self.to, id = manifest.id, bytes = manifest.bytes(), files_missing = missing.len(), "sending a snapshot");
        let sending = futures::stream::iter(missing).map(|(file, offset)| self.send_file(file, offset));
        sending.buffer_unordered(FILES_AT_ONCE).try_collect::<()>().await?;
        match self.ask(finish, INSTALL_TIMEOUT).await? {
            Response::Raft(bytes) => Ok(bytes),
            other => Err(ShipError::Refused(format!("unexpected reply {other:?}"))),
        }
    }

    /// Sends everything of a file from `offset` on.
    async fn send_file(&self, file: String, mut offset: u64) -> Result<(), ShipError> {
        loop {
            let snapshots = Arc::clone(self.machine.snapshots());
            let (id, name) = (self.files.manifest.id.clone(), file.clone());
            let read = move || snapshots.read_chunk(&id, &name, offset, SNAPSHOT_CHUNK_BYTES_MAX);
            let data = self.machine.disk_work().run(read).await??;
            let len = data.len();
            self.keep_pace(len as u64).await;
            self.ask(RaftCall::SnapshotChunk { file: file.clone(), offset, data }, PIECE_TIMEOUT).await?;
            self.meters.sent(len as u64);
            offset += len as u64;
            if len < SNAPSHOT_CHUNK_BYTES_MAX {
                return Ok(());
            }
        }
    }

    /// Waits until `bytes` more may go.
    async fn keep_pace(&self, bytes: u64) {
        loop {
            let rate = self.machine.state().settings().snapshot_mib_per_second.saturating_mul(MIB);
            let now = self.clock.monotonic();
            let pause = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(now, rate, bytes);
            let Some(pause) = pause else { return };
            tokio::time::sleep(pause.min(PAUSE_MAX)).await;
        }
    }

    async fn ask(&self, call: RaftCall, within: Duration) -> Result<Response, ShipError> {
        match self.mesh.ask(self.to, Channel::Snapshot, &Request::Raft(call), within).await? {
            Response::Failed(cause) => Err(ShipError::Refused(cause)),
            response => Ok(response),
        }
    }
}

/// How much may go when: a bucket that holds what one second brings.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Up to when what went is paid for.
    paid: Duration,
}

impl Pace {
    /// Takes `bytes` at `rate` bytes per second (0 for any), or says how long to wait before asking again.
    fn take(&mut self, now: Duration, rate: u64, bytes: u64) -> Option<Duration> {
        if rate == 0 {
            return None;
        }
        if self.paid > now {
            return Some(self.paid - now);
        }
        // What was not used in the last second is lost: a burst is one second long at most.
        let from = self.paid.max(now.saturating_sub(Duration::from_secs(1)));
        self.paid = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_goes_than_the_rate_allows() {
        let (mut pace, mut now, mut sent) = (Pace::default(), Duration::from_secs(100), 0);
        while now < Duration::from_secs(110) {
            match pace.take(now, 4 * MIB, MIB) {
                None => sent += 1,
                Some(pause) => now += pause.min(PAUSE_MAX),
            }
        }
        assert!((40..=45).contains(&sent), "{sent} MiB in ten seconds at 4 MiB/s, and one second's burst");
        assert_eq!(pace.take(now, 0, 99 * MIB), None, "without a limit nothing waits");
    }
}
