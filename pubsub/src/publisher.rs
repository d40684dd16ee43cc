//! A master's fan-out: seals every broadcast once and hands it to the transport for all subscribers.
//!
//! **Invariants.** The key is random, lives in memory only, and is new on every boot. A frame is sealed under the newest
//! key at once; whoever still holds the old one hears of the new one in its session.

use saltern_wire::MasterId;
use saltern_wire::crypto::Identity;
use saltern_wire::crypto::seal::{FrameSealer, SealError};
use saltern_wire::fanout::{Broadcast, FanoutKey};
use saltern_wire::io::{Address, Capability, Entropy, Fanout, draw};
use std::sync::Arc;

/// The fan-out of one master. Owned by one task, because frames are numbered.
pub struct Publisher {
    fanout: Arc<dyn Fanout>,
    sealer: FrameSealer,
    identity: Identity,
    entropy: Arc<dyn Entropy>,
}

impl Publisher {
    /// Publishes on `fanout` as `master`, whose key is `identity`, under a first key drawn from `entropy`.
    pub fn new(fanout: Arc<dyn Fanout>, master: MasterId, identity: Identity, entropy: Arc<dyn Entropy>) -> Self {
        let stream = u32::from_be_bytes(draw(&*entropy));
        let key = FanoutKey { master, epoch: 1, stream, key: draw(&*entropy) };
        let sealer = FrameSealer::new(key, identity.clone());
        Self { fanout, sealer, identity, entropy }
    }

    /// The current key, for the grant of a new session.
    pub fn key(&self) -> FanoutKey {
        self.sealer.key().clone()
    }

    /// Frames sealed under the current key.
    pub fn sealed(&self) -> u64 {
        self.sealer.sealed()
    }

    /// Sends `broadcast` to every subscriber. Returns at once. [`SealError::Exhausted`] asks for [`Publisher::rekey`].
    pub fn publish(&mut self, broadcast: &Broadcast) -> Result<(), SealError> {
        self.fanout.publish(self.sealer.seal(broadcast)?);
        Ok(())
    }

    /// Draws a new key of the next epoch and seals under it from now on. The caller hands the returned key to every
    /// session that may keep listening: after a key was revoked, and at the latest every hour.
    pub fn rekey(&mut self) -> FanoutKey {
        let old = self.sealer.key();
        let key = FanoutKey {
            master: old.master,
            epoch: old.epoch.wrapping_add(1),
            stream: old.stream,
            key: draw(&*self.entropy),
        };
        self.sealer = FrameSealer::new(key.clone(), self.identity.clone());
        key
    }

    /// Draws a capability that lets one connection subscribe. The session that hands it out revokes it when it ends.
    pub fn admit(&self) -> Capability {
        let capability = Capability(draw(&*self.entropy));
        self.fanout.admit(capability);
        capability
    }

    /// Withdraws a capability, and cuts the connection that used it.
    pub fn revoke(&self, capability: Capability) {
        self.fanout.revoke(capability);
    }

    /// Connections that are subscribed now.
    pub fn subscribers(&self) -> usize {
        self.fanout.subscribers()
    }

    /// The address it publishes on.
    pub fn address(&self) -> Address {
        self.fanout.address()
    }
}
