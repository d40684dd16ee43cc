//! How much one minion, one stranger and one source of strangers may ask of a master.
//!
//! **Invariants.** What one of them is refused never depends on what another one does, with one exception: strangers share
//! [`STRANGERS_PER_SECOND`], because each of them is an entry of the log, whatever name and address it comes under.

use crate::bucket::{Bucket, Buckets};
use crate::replica::Replica;
use crate::witness::{Reason, Witness};
use saltern_wire::MinionId;
use saltern_wire::crypto::PublicKey;
use saltern_wire::limits::DENIED_KEYS_PER_ID_MAX;
use saltern_wire::session::{Call, Refusal};
use std::time::Duration;

/// Unknown keys that are submitted a second: a rack that is switched on, not a flood. Each is an entry of the log.
const STRANGERS_PER_SECOND: u32 = 200;

/// Unknown keys that may come at once.
const STRANGERS_BURST: u32 = 500;

/// Unknown keys from one address a second: half of what all of them may, so that one never takes it all.
const SOURCE_PER_SECOND: u32 = 100;

/// Unknown keys from one address that may come at once: a rack behind one router.
const SOURCE_BURST: u32 = 250;

/// Addresses of strangers that are remembered.
const SOURCES_MAX: usize = 8192;

/// Attempts of one key to attach a second, in the long run: a minion's own back-off is slower after two.
const ATTACHES_PER_SECOND: u32 = 1;

/// Attempts that may come at once: masters that restart one after the other.
const ATTACHES_BURST: u32 = 30;

/// Keys whose attempts are remembered: as many as there may be sessions.
const KEYS_MAX: usize = 20_000;

/// What one session may ask for a second, in units of [`super::calls::cost_of`]: a minion that drains its outbox over a fast link asks for
/// some hundreds.
const UNITS_PER_SECOND: u32 = 2_000;

/// What it may ask for at once.
const UNITS_BURST: u32 = 4_000;

/// Mine values of one minion a second, in the long run. Each report is an entry of the log.
const MINE_PER_SECOND: u32 = 20;

/// Mine values that may come at once: all functions that one minion may have, twice.
const MINE_BURST: u32 = 512;

/// When a minion that reports too often may come again, in milliseconds.
const MINE_RETRY_AFTER_MS: u64 = 5_000;

/// Time for which a session has been read more slowly before its minion is named.
const FLOOD_AFTER: Duration = Duration::from_secs(5);

/// What all sessions of a master share.
pub struct Limits {
    strangers: Bucket,
    sources: Buckets<String>,
    attaches: Buckets<PublicKey>,
}

impl Limits {
    /// Nobody has asked yet.
    pub fn new(now: Duration) -> Self {
        Self {
            strangers: Bucket::new(STRANGERS_PER_SECOND, STRANGERS_BURST, now),
            sources: Buckets::new(SOURCE_PER_SECOND, SOURCE_BURST, SOURCES_MAX),
            attaches: Buckets::new(ATTACHES_PER_SECOND, ATTACHES_BURST, KEYS_MAX),
        }
    }

    /// Whether this key may try to attach.
    pub fn attach(&mut self, key: PublicKey, now: Duration) -> bool {
        self.attaches.take(key, now)
    }

    /// Whether an unknown key from `source` may be shown to the truth.
    pub fn submit(&mut self, source: &str, now: Duration) -> bool {
        self.sources.take(source.to_owned(), now) && self.strangers.take(now)
    }
}

/// Why a key that the truth does not hold is not shown to it; `None` if it is. What the truth would refuse anyway is refused
/// here: each refusal of its own is an entry of the log, and strangers draw keys for nothing.
pub fn full(replica: &dyn Replica, minion: &MinionId) -> Option<String> {
    let state = replica.state();
    if state.key(minion).is_some() {
        let denied = state.denied_of(minion).map_or(0, |denied| denied.len());
        return (denied >= DENIED_KEYS_PER_ID_MAX)
            .then(|| format!("the id belongs to another key, and {denied} more were denied for it already"));
    }
    let settings = state.settings();
    let full = !settings.auto_accept && state.counts().pending >= u64::from(settings.pending_keys_max);
    full.then(|| format!("{} keys are pending, which is the limit: an operator may decide", settings.pending_keys_max))
}

/// The address behind a peer's name, without its port.
pub fn source_of(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(host, _)| host)
}

/// What one session has asked for.
pub struct Share {
    units: Bucket,
    mine: Bucket,
    /// For how long it has been read more slowly, since it was last named.
    slowed: Duration,
}

impl Share {
    /// A session that has not asked for anything.
    pub fn new(now: Duration) -> Self {
        Self {
            units: Bucket::new(UNITS_PER_SECOND, UNITS_BURST, now),
            mine: Bucket::new(MINE_PER_SECOND, MINE_BURST, now),
            slowed: Duration::ZERO,
        }
    }

    /// Takes the price of what was asked; answers how long nothing more is read from this session.
    pub fn spend(&mut self, units: u32, minion: &MinionId, witness: &Witness, now: Duration) -> Duration {
        let pause = self.units.spend(units, now);
        if !pause.is_zero() {
            witness.refuse(Reason::SessionRate);
            self.slowed += pause;
            if self.slowed >= FLOOD_AFTER {
                self.slowed = Duration::ZERO;
                witness.tell(Reason::SessionRate.name(), minion.as_str(), serde_json::json!({}));
            }
        }
        pause
    }

    /// Whether this call may be carried out as far as its own rate goes.
    pub fn admit(&mut self, call: &Call, minion: &MinionId, witness: &Witness, now: Duration) -> Result<(), Refusal> {
        let Call::MineReport(reports) = call else { return Ok(()) };
        // More than the burst is never there at once; what a call may carry is bounded by its parser.
        let count = u32::try_from(reports.len()).unwrap_or(u32::MAX).clamp(1, MINE_BURST);
        if self.mine.take_many(count, now) {
            return Ok(());
        }
        witness.refuse_of(Reason::MineRate, minion.as_str());
        Err(Refusal::Busy { retry_after_ms: MINE_RETRY_AFTER_MS })
    }
}
