//! A minion's end of a master's fan-out: opens frames, passes on what is genuine, counts what is not.
//!
//! Session and fan-out are two connections, so the first frames of a new key may come before the key does. They are signed
//! by the master all the same, and wait here, a bounded number of them, until the session brings the key.

use bytes::Bytes;
use saltern_wire::crypto::PublicKey;
use saltern_wire::crypto::seal::{FrameOpener, OpenError};
use saltern_wire::fanout::{Broadcast, FanoutKey};
use saltern_wire::io::{Clock, LinkReceiver, Transport, TransportError};
use saltern_wire::limits::FANOUT_FRAME_BYTES_MAX;
use saltern_wire::session::Grant;
use std::collections::VecDeque;
use std::sync::Arc;

/// Most bytes of frames that wait for their key: a few of the largest, or some hundred ordinary ones. A key is behind its
/// first frame by less than a second; what does not fit is repaired when the master offers its open jobs again.
const PARKED_BYTES_MAX: usize = 4 * FANOUT_FRAME_BYTES_MAX;

/// Frames that were not passed on, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RefusedFrames {
    /// Too short, too long, of another version or without a broadcast in it.
    pub malformed: u64,
    /// Of another master.
    pub wrong_master: u64,
    /// Not signed by the master, or not sealed under its key.
    pub forged: u64,
    /// Under a key that is no longer, or never came.
    pub unknown_epoch: u64,
    /// Seen before.
    pub replayed: u64,
}

impl RefusedFrames {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.malformed + self.wrong_master + self.forged + self.unknown_epoch + self.replayed
    }
}

/// A subscription to one master's fan-out.
pub struct Subscriber {
    link: Box<dyn LinkReceiver>,
    opener: FrameOpener,
    clock: Arc<dyn Clock>,
    parked: VecDeque<Bytes>,
    parked_bytes: usize,
    ready: VecDeque<Broadcast>,
    refused: RefusedFrames,
}

impl Subscriber {
    /// Subscribes with what `grant` gives; `public_key` is the certified key of the master that gave it.
    pub async fn open(
        transport: &dyn Transport,
        grant: &Grant,
        public_key: PublicKey,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TransportError> {
        let link = transport.subscribe(&grant.address, grant.capability).await?;
        let opener = FrameOpener::new(public_key, grant.key.clone());
        Ok(Self {
            link,
            opener,
            clock,
            parked: VecDeque::new(),
            parked_bytes: 0,
            ready: VecDeque::new(),
            refused: RefusedFrames::default(),
        })
    }

    /// The next genuine broadcast. Cancel safe. An error means that the subscription is over.
    pub async fn recv(&mut self) -> Result<Broadcast, TransportError> {
        loop {
            if let Some(broadcast) = self.ready.pop_front() {
                return Ok(broadcast);
            }
            let frame = self.link.recv().await?;
            self.handle_frame(frame);
        }
    }

    /// Takes a new key that came through the session, and opens what waited for it.
    pub fn rekey(&mut self, key: FanoutKey) {
        self.opener.rekey(key, self.clock.monotonic());
        self.parked_bytes = 0;
        for frame in std::mem::take(&mut self.parked) {
            self.handle_frame(frame);
        }
    }

    /// Frames that were refused so far.
    pub fn refused(&self) -> RefusedFrames {
        self.refused
    }

    /// Opens, parks or counts one frame.
    fn handle_frame(&mut self, frame: Bytes) {
        let error = match self.opener.open(&frame, self.clock.monotonic()) {
            Ok(broadcast) => return self.ready.push_back(broadcast),
            Err(error) => error,
        };
        match error {
            OpenError::UnknownEpoch { epoch, newest }
                if epoch > newest && self.parked_bytes + frame.len() <= PARKED_BYTES_MAX =>
            {
                self.parked_bytes += frame.len();
                self.parked.push_back(frame);
                return;
            }
            OpenError::UnknownEpoch { .. } => self.refused.unknown_epoch += 1,
            OpenError::Short { .. } | OpenError::Large { .. } | OpenError::Version { .. } | OpenError::Codec(_) => {
                self.refused.malformed += 1
            }
            OpenError::WrongMaster { .. } => self.refused.wrong_master += 1,
            OpenError::Forged { .. } | OpenError::Sealed { .. } => self.refused.forged += 1,
            OpenError::Replayed { .. } => self.refused.replayed += 1,
        }
        // Every one is counted; somebody on the road who sends many gets few lines for them.
        let total = self.refused.total();
        if total.is_power_of_two() {
            tracing::warn!(master = %self.opener.master(), %error, total, "a fan-out frame was refused");
        }
    }
}
