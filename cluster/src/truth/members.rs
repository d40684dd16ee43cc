//! What this master knows of its own place among the members, and that it has lost it.

use super::Truth;
use crate::pki::Credentials;
use saltern_wire::MasterId;
use saltern_wire::crypto::Signed;
use saltern_wire::master::{Directory, MasterState, Role};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{OnceLock, PoisonError};

/// A directory that does not name this master: it was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expelled {
    /// The directory's generation.
    pub generation: u64,
    /// Its version.
    pub version: u64,
}

/// What is noted of the members besides what Raft and probes say.
#[derive(Debug, Default)]
pub(super) struct Membership {
    expelled: OnceLock<Expelled>,
    under_way: AtomicUsize,
    /// What the newest directory says of this master; asked too often to open the directory each time.
    draining: AtomicBool,
    /// The number of the state secret in force that this master holds, plus one; 0 for none.
    secret: AtomicU64,
}

/// A proposal that this master has promised an answer for. Ends when dropped.
pub(super) struct UnderWay<'a>(&'a AtomicUsize);

impl Membership {
    pub(super) fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(&self.under_way)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Truth {
    /// Proposals of this master that somebody still waits for.
    pub fn under_way(&self) -> usize {
        self.0.membership.under_way.load(Ordering::Relaxed)
    }

    /// The directory that took this master out, once it has heard of it.
    pub fn expelled(&self) -> Option<Expelled> {
        self.0.membership.expelled.get().copied()
    }

    /// Takes a directory in that `ca` signed and another master showed instead of an answer: that one no longer takes this master
    /// for a member. If the directory is at least as new as the one applied here and does not name this master, it was removed.
    ///
    /// What is applied here does not say so by itself: until the group has let this master go, its vote may be what the change
    /// needs.
    pub(crate) fn handle_shown(&self, signed: &Signed<Directory>, credentials: &Credentials) {
        let (Ok(shown), Ok(given)) = (signed.verify(&credentials.ca), credentials.directory.verify(&credentials.ca))
        else {
            return tracing::warn!("a directory of masters was shown that the cluster's CA did not sign");
        };
        let held = self.state().directory().and_then(|held| held.peek().ok());
        // A follower that has not caught up shows one from before this master joined.
        let is_new = !given.replaces(&shown) && held.is_none_or(|held| !held.replaces(&shown));
        if is_new && shown.master(self.id()).is_none() {
            let expelled = Expelled { generation: shown.generation, version: shown.version };
            // The first one that says so is enough.
            let _ = self.0.membership.expelled.set(expelled);
        }
    }

    /// The newest entry that any master is known to have applied.
    pub(crate) fn newest_probed(&self) -> Option<u64> {
        self.status().members.iter().filter(|member| member.id != self.id()).filter_map(|member| member.last_log).max()
    }

    /// Takes the newest directory in.
    pub(crate) fn handle_directory(&self, newest: &Directory) {
        let draining = newest.master(self.id()).is_some_and(|own| own.state == MasterState::Draining);
        self.0.membership.draining.store(draining, Ordering::Relaxed);
    }

    /// Takes in which state secret this master holds, if it is the one in force.
    pub(crate) fn handle_secret(&self, held: Option<u64>) {
        self.0.membership.secret.store(held.map_or(0, |epoch| epoch + 1), Ordering::Relaxed);
    }

    /// The number of the state secret in force, if this master holds it.
    pub(crate) fn own_secret(&self) -> Option<u64> {
        self.0.membership.secret.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Which part of the group this master is to take.
    pub(crate) fn wanted_role(&self) -> Option<Role> {
        Some(self.state().directory()?.peek().ok()?.master(self.id())?.role)
    }

    /// Whether this master gives its minions away.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.membership.draining.load(Ordering::Relaxed)
    }

    /// The number of the state secret that a master held at its last probe.
    pub(crate) fn secret_of(&self, master: MasterId) -> Option<u64> {
        self.0.probes.lock().unwrap_or_else(PoisonError::into_inner).get(&master)?.secret
    }

    /// Other masters that answered their last probe.
    pub(crate) fn answering(&self) -> BTreeSet<MasterId> {
        let probes = self.0.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.iter().filter(|(_, probed)| probed.reachable).map(|(id, _)| *id).collect()
    }

    /// Members of the group that answered their last probe, and this one.
    pub(crate) fn reachable(&self) -> BTreeSet<MasterId> {
        let members = self.status().members.into_iter().filter(|member| member.reachable);
        members.map(|member| member.id).chain([self.id()]).collect()
    }
}
