//! The agent's grains: their layers, and which of them the truth has.

use super::inside::Failed;
use crate::book::facts_len;
use crate::folder::{Folder, FolderError, ReportedFacts};
use crate::grains;
use saltern_wire::id::Ordinal;
use saltern_wire::limits::FACTS_BYTES_MAX;
use saltern_wire::{Map, MinionId, Value};
use std::sync::Arc;
use tokio::sync::oneshot;

type Waiter = oneshot::Sender<Result<(), Failed>>;

/// The grains of this minion.
pub(super) struct Facts {
    folder: Folder,
    id: MinionId,
    configured: Map,
    host: Map,
    set: Map,
    current: Arc<Map>,
    digest: [u8; 32],
    reported: ReportedFacts,
    /// Whether the truth said so in this life of the agent, and in this generation of the cluster. A truth that was
    /// restored from a backup may have older grains than it once said it had; telling it again costs it a comparison.
    confirmed: bool,
    in_flight: bool,
    /// Grains that the master will never take: not sent again.
    refused: Option<[u8; 32]>,
    waiters: Vec<Waiter>,
}

impl Facts {
    pub(super) fn open(folder: Folder, id: MinionId, configured: Map, host: Map) -> Result<Self, FolderError> {
        let set = folder.grains()?;
        let reported = folder.reported_facts()?;
        let current = Arc::new(grains::merged(&id, &host, &configured, &set));
        let digest = grains::digest(&current);
        let (confirmed, in_flight, refused, waiters) = (false, false, None, Vec::new());
        Ok(Self {
            folder,
            id,
            configured,
            host,
            set,
            current,
            digest,
            reported,
            confirmed,
            in_flight,
            refused,
            waiters,
        })
    }

    /// All grains.
    pub(super) fn current(&self) -> Arc<Map> {
        Arc::clone(&self.current)
    }

    /// Digest of the grains that were reported last.
    pub(super) fn reported_digest(&self) -> [u8; 32] {
        self.reported.digest
    }

    /// The cluster has another generation: what it was told before may be gone.
    pub(super) fn handle_generation(&mut self) {
        self.confirmed = false;
    }

    /// Takes new facts of the host.
    pub(super) fn handle_host(&mut self, host: Map, waiter: Waiter) {
        self.host = host;
        self.merge();
        self.waiters.push(waiter);
    }

    /// Sets or removes a grain and keeps it.
    pub(super) fn handle_set(&mut self, key: &str, value: Option<Value>, waiter: Waiter) {
        let mut set = self.set.clone();
        match value {
            Some(value) => drop(set.insert(key.to_owned(), value)),
            None => drop(set.shift_remove(key)),
        }
        let merged = grains::merged(&self.id, &self.host, &self.configured, &set);
        let len = facts_len(&merged);
        let kept = if len > FACTS_BYTES_MAX {
            Err(format!("the grains would have {len} bytes, the limit is {FACTS_BYTES_MAX}"))
        } else {
            self.folder.keep_grains(&set).map_err(|error| error.to_string())
        };
        if let Err(error) = kept {
            // The asker may be gone.
            let _ = waiter.send(Err(error));
            return;
        }
        self.set = set;
        self.merge();
        self.waiters.push(waiter);
    }

    fn merge(&mut self) {
        self.current = Arc::new(grains::merged(&self.id, &self.host, &self.configured, &self.set));
        self.digest = grains::digest(&self.current);
    }

    /// The grains to report as `ordinal`, with their digest, if the truth does not have them.
    pub(super) fn next_call(&mut self, ordinal: Ordinal) -> Option<(Map, [u8; 32])> {
        if self.confirmed && self.reported == (ReportedFacts { ordinal, digest: self.digest }) {
            self.answer(&Ok(()));
            return None;
        }
        if self.in_flight || self.refused == Some(self.digest) {
            return None;
        }
        let len = facts_len(&self.current);
        if len > FACTS_BYTES_MAX {
            self.handle_invalid(self.digest, &format!("they have {len} bytes, the limit is {FACTS_BYTES_MAX}"));
            return None;
        }
        self.in_flight = true;
        Some(((*self.current).clone(), self.digest))
    }

    /// The grains with this digest are committed.
    pub(super) fn handle_done(&mut self, ordinal: Ordinal, digest: [u8; 32]) {
        self.in_flight = false;
        self.confirmed = true;
        let before = std::mem::replace(&mut self.reported, ReportedFacts { ordinal, digest });
        if before != self.reported
            && let Err(error) = self.folder.keep_reported_facts(&self.reported)
        {
            tracing::warn!(%error, "the grains will be reported again after a restart");
        }
        if digest == self.digest {
            self.answer(&Ok(()));
        }
    }

    /// The report failed for now.
    pub(super) fn handle_failed(&mut self) {
        self.in_flight = false;
    }

    /// The report was refused for good.
    pub(super) fn handle_invalid(&mut self, digest: [u8; 32], reason: &str) {
        tracing::error!(reason, "the grains were refused");
        self.in_flight = false;
        self.refused = Some(digest);
        self.answer(&Err(format!("the grains were refused: {reason}")));
    }

    fn answer(&mut self, result: &Result<(), Failed>) {
        for waiter in self.waiters.drain(..) {
            // The asker may be gone.
            let _ = waiter.send(result.clone());
        }
    }
}
