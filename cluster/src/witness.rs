//! What a master notices of those who ask too much of it: counted for metrics, and told as events that name the offender.
//!
//! ```text
//!   sessions, inbox, lanes, mesh, API ── refuse(reason), expire(queue) ──▶ counters ──▶ /metrics, by reason, no names
//!                                     ── tell(kind, who, data) ─ limited ─▶ events ───▶ /v1/events, with the name
//! ```
//!
//! **Invariants.** Counting costs one atomic addition and never fails. One offender is told once in [`TELL_AGAIN_AFTER`] for
//! one kind of offence, with how often it was suppressed meanwhile, and all of them together no faster than
//! [`TOLD_PER_SECOND`]: whoever floods a master cannot flood its event stream as well.
//!
//! **It refuses** names as labels of metrics, and to remember more than [`OFFENDERS_MAX`] offenders.

use crate::bucket::Bucket;
use saltern_wire::Value;
use saltern_wire::io::Clock;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// How long the same offence of the same offender is not told again.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Offences told a second, over all offenders.
const TOLD_PER_SECOND: u32 = 5;

/// Offences that may be told at once.
const TOLD_BURST: u32 = 50;

/// Offenders that are remembered. Further ones are told under the overall limit only.
const OFFENDERS_MAX: usize = 4096;

/// Notices that a slow watcher of events may be behind before it is told that it lags.
const NOTICES_WAITING_MAX: usize = 256;

/// Why something was refused. The order is that of the counters; names are labels of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The inbox has no room for what a minion sends.
    InboxRoom,
    /// A session has too many calls under way.
    SessionCalls,
    /// A session says more than its share: it is read more slowly.
    SessionRate,
    /// A minion does not read what it is sent: its session ended.
    SessionUnread,
    /// A minion reports mine values too often.
    MineRate,
    /// A minion attaches too often.
    AttachRate,
    /// Too many sessions of strangers.
    StrangerSessions,
    /// New keys come too fast.
    StrangerRate,
    /// As many keys are pending, or denied for one id, as the truth takes.
    PendingKeys,
    /// A minion whose key is not accepted asked for something.
    NotAccepted,
    /// Too many handshakes at one time.
    Handshakes,
    /// An address whose slots run out unused, or whose handshakes come to nothing.
    SlotsWasted,
    /// Too many proposals of the control lane.
    ControlLane,
    /// Too many proposals of the bulk lane.
    BulkLane,
    /// A bulk proposal while the engine lets writes wait.
    WriteStall,
    /// A proposal without a majority to take it.
    NoQuorum,
    /// A master that is neither in the directory nor in the group.
    MeshStranger,
    /// A message of another master that cannot be read.
    MeshMalformed,
    /// An API client without the right to ask.
    ApiDenied,
    /// An API client with too many requests or connections of its own.
    ApiClient,
    /// The API has too many requests, connections or streams.
    ApiBusy,
    /// An API client that does not read what it asked for.
    ApiSlowReader,
}

impl Reason {
    /// All of them, in order.
    pub const ALL: [Self; 22] = [
        Self::InboxRoom,
        Self::SessionCalls,
        Self::SessionRate,
        Self::SessionUnread,
        Self::MineRate,
        Self::AttachRate,
        Self::StrangerSessions,
        Self::StrangerRate,
        Self::PendingKeys,
        Self::NotAccepted,
        Self::Handshakes,
        Self::SlotsWasted,
        Self::ControlLane,
        Self::BulkLane,
        Self::WriteStall,
        Self::NoQuorum,
        Self::MeshStranger,
        Self::MeshMalformed,
        Self::ApiDenied,
        Self::ApiClient,
        Self::ApiBusy,
        Self::ApiSlowReader,
    ];

    /// Its name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::InboxRoom => "inbox_room",
            Self::SessionCalls => "session_calls",
            Self::SessionRate => "session_rate",
            Self::SessionUnread => "session_unread",
            Self::MineRate => "mine_rate",
            Self::AttachRate => "attach_rate",
            Self::StrangerSessions => "stranger_sessions",
            Self::StrangerRate => "stranger_rate",
            Self::PendingKeys => "pending_keys",
            Self::NotAccepted => "not_accepted",
            Self::Handshakes => "handshakes",
            Self::SlotsWasted => "slots_wasted",
            Self::ControlLane => "control_lane",
            Self::BulkLane => "bulk_lane",
            Self::WriteStall => "write_stall",
            Self::NoQuorum => "no_quorum",
            Self::MeshStranger => "mesh_stranger",
            Self::MeshMalformed => "mesh_malformed",
            Self::ApiDenied => "api_denied",
            Self::ApiClient => "api_client",
            Self::ApiBusy => "api_busy",
            Self::ApiSlowReader => "api_slow_reader",
        }
    }
}

/// Where work waited until nobody wanted it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// What minions sent, in front of the log.
    Inbox,
    /// Proposals, in front of the log.
    Lane,
    /// Questions of other masters.
    Mesh,
    /// Requests of operators.
    Api,
}

impl Queue {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Inbox, Self::Lane, Self::Mesh, Self::Api];

    /// Its name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Lane => "lane",
            Self::Mesh => "mesh",
            Self::Api => "api",
        }
    }
}

/// Something that people may want to act on: an event's tag and data.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// `saltern/notice/KIND`.
    pub tag: String,
    /// What happened, and who did it.
    pub data: Value,
}

/// Counts and tells. Shared by every part of a master.
pub struct Witness {
    clock: Arc<dyn Clock>,
    refused: [AtomicU64; Reason::ALL.len()],
    expired: [AtomicU64; Queue::ALL.len()],
    frames: AtomicU64,
    frames_failed: AtomicU64,
    told: Mutex<Told>,
    notices: broadcast::Sender<Notice>,
}

struct Told {
    bucket: Bucket,
    /// When an offence was last told, and how often it was suppressed since.
    offenders: BTreeMap<(&'static str, String), (Duration, u64)>,
}

impl Witness {
    /// Nothing noticed yet.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let bucket = Bucket::new(TOLD_PER_SECOND, TOLD_BURST, clock.monotonic());
        Arc::new(Self {
            clock,
            refused: [const { AtomicU64::new(0) }; Reason::ALL.len()],
            expired: [const { AtomicU64::new(0) }; Queue::ALL.len()],
            frames: AtomicU64::new(0),
            frames_failed: AtomicU64::new(0),
            told: Mutex::new(Told { bucket, offenders: BTreeMap::new() }),
            notices: broadcast::Sender::new(NOTICES_WAITING_MAX),
        })
    }

    /// Something was refused for this reason.
    pub fn refuse(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often something was refused for this reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// Work was dropped because its deadline had passed before it was begun.
    pub fn expire(&self, queue: Queue) {
        self.expired[queue as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How much work was dropped from this queue.
    pub fn expired(&self, queue: Queue) -> u64 {
        self.expired[queue as usize].load(Ordering::Relaxed)
    }

    /// A frame was handed to the fan-out, or could not be.
    pub fn frame(&self, published: bool) {
        let counter = if published { &self.frames } else { &self.frames_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Frames that were handed to the fan-out, and frames that could not be.
    pub fn frames(&self) -> (u64, u64) {
        (self.frames.load(Ordering::Relaxed), self.frames_failed.load(Ordering::Relaxed))
    }

    /// Refuses for `reason`, and tells who was refused.
    pub fn refuse_of(&self, reason: Reason, who: &str) {
        self.refuse(reason);
        self.tell(reason.name(), who, json!({}));
    }

    /// Tells that `who` did something of this kind, unless it was told lately. `data` is an object; the names `who`, `kind`
    /// and `suppressed` are put into it.
    pub fn tell(&self, kind: &'static str, who: &str, data: Value) {
        let now = self.clock.monotonic();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, suppressed)) = told.offenders.get_mut(&(kind, who.to_owned()))
            && now.saturating_sub(*last) < TELL_AGAIN_AFTER
        {
            *suppressed += 1;
            return;
        }
        if !told.bucket.take(now) {
            return;
        }
        let suppressed = told.remember(kind, who, now);
        drop(told);
        tracing::warn!(kind, who, suppressed, "noticed");
        self.announce(kind, who, suppressed, data);
    }

    /// Tells what is never suppressed: something about this master that changes rarely, like its contact to a majority.
    pub fn proclaim(&self, kind: &'static str, who: &str, data: Value) {
        self.announce(kind, who, 0, data);
    }

    /// What is told from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    fn announce(&self, kind: &'static str, who: &str, suppressed: u64, mut data: Value) {
        if let Value::Object(fields) = &mut data {
            fields.insert("kind".into(), json!(kind));
            fields.insert("who".into(), json!(who));
            if suppressed > 0 {
                fields.insert("suppressed".into(), json!(suppressed));
            }
        }
        // Nobody watching is not an error.
        let _ = self.notices.send(Notice { tag: format!("saltern/notice/{kind}"), data });
    }
}

impl Told {
    /// Remembers that this was told now; answers how often it was not since the last time.
    fn remember(&mut self, kind: &'static str, who: &str, now: Duration) -> u64 {
        if self.offenders.len() >= OFFENDERS_MAX {
            self.offenders.retain(|_, (last, _)| now.saturating_sub(*last) < TELL_AGAIN_AFTER);
        }
        let known = self.offenders.get(&(kind, who.to_owned())).map(|(_, suppressed)| *suppressed);
        if known.is_some() || self.offenders.len() < OFFENDERS_MAX {
            self.offenders.insert((kind, who.to_owned()), (now, 0));
        }
        known.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64 as Millis;

    /// A clock that a test turns.
    #[derive(Default)]
    struct Turned(Millis);

    impl Clock for Turned {
        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }

        fn wall_unix_micros(&self) -> u64 {
            0
        }
    }

    #[test]
    fn every_reason_counts_for_itself() {
        let witness = Witness::new(Arc::new(Turned::default()));
        for (times, reason) in Reason::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| witness.refuse(reason));
        }
        for (times, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(witness.refused(reason), times as u64, "{}", reason.name());
        }
        witness.expire(Queue::Mesh);
        assert_eq!(Queue::ALL.map(|queue| witness.expired(queue)), [0, 0, 1, 0]);
    }

    #[test]
    fn one_offender_is_told_once_a_while_and_another_one_all_the_same() {
        let clock = Arc::new(Turned::default());
        let witness = Witness::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let mut heard = witness.subscribe();
        for _ in 0..100 {
            witness.refuse_of(Reason::SessionRate, "web-1");
        }
        witness.refuse_of(Reason::SessionRate, "web-2");
        assert_eq!(heard.try_recv().expect("told").data["who"], "web-1");
        assert_eq!(heard.try_recv().expect("told").data["who"], "web-2");
        assert!(heard.try_recv().is_err());
        clock.0.store(60_001, Ordering::Relaxed);
        witness.refuse_of(Reason::SessionRate, "web-1");
        let again = heard.try_recv().expect("told again");
        assert_eq!((again.tag.as_str(), &again.data["suppressed"]), ("saltern/notice/session_rate", &json!(99)));
    }

    #[test]
    fn a_flood_of_offenders_is_told_slowly_and_costs_bounded_memory() {
        let clock = Arc::new(Turned::default());
        let witness = Witness::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let mut heard = witness.subscribe();
        for number in 0..3 * OFFENDERS_MAX {
            witness.refuse_of(Reason::Handshakes, &format!("192.0.2.{number}"));
        }
        let mut told = 0;
        while heard.try_recv().is_ok() {
            told += 1;
        }
        assert_eq!(told, TOLD_BURST);
        for second in 1..2000 {
            clock.0.store(second * 1000, Ordering::Relaxed);
            for number in 0..10 {
                witness.refuse_of(Reason::Handshakes, &format!("{second}.{number}"));
            }
        }
        assert!(witness.told.lock().expect("whole").offenders.len() <= OFFENDERS_MAX);
    }
}
