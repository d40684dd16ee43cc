//! What the gate did to whom: counters by reason, and a small table that names the offenders.
//!
//! **Invariants.** Whatever strangers do, this costs a fixed amount of memory and a few log lines a second: the table has
//! [`OFFENDERS_MAX`] rows, and a new offender takes the place of the one with the fewest offences, so that those who matter
//! stay. What has no row is still counted among the others.

use super::frame::FrameError;
use super::stream::StreamError;
use crate::clock::SystemClock;
use saltern_wire::io::Clock;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows of the table: more than an operator reads, few enough to be looked through for every offence.
pub const OFFENDERS_MAX: usize = 64;

/// Log lines about offences in one second.
const LINES_PER_SECOND: u32 = 3;

/// Declares counters with their names.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the gate did, by reason. Read by the owner at any time.
        #[derive(Debug, Default)]
        pub struct GateCounters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl GateCounters {
            /// All counters with their names, for metrics.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Connections accepted, refused ones included.
    accepted,
    /// Times that the system had no descriptor or memory for a connection.
    accept_failed,
    /// Refused: too many connections.
    refused_full,
    /// Refused: too many connections from its address.
    refused_address,
    /// Refused: too many new connections from its address in a short time.
    refused_rate,
    /// Refused or cut: too many connections that have proved nothing.
    refused_unproven,
    /// Cut: not ready in time.
    timed_out,
    /// Cut: no greeting, or one of another protocol.
    bad_greeting,
    /// Cut: a frame above its limit.
    oversized,
    /// Cut: asked for a peer identity.
    bad_identity,
    /// Cut: frames or commands that do not belong here.
    bad_frame,
    /// Cut: no capability, an unknown or a used one.
    bad_capability,
    /// Heartbeats that were answered.
    heartbeats,
    /// Cut: its capability was revoked.
    revoked,
    /// Cut: did not drain its queue.
    evicted,
    /// Cut: missed a frame inside this process, and is better off attaching anew.
    gapped,
    /// Cut: this process could not serve it.
    failed,
    /// Closed by the other side, or lost.
    closed,
    /// Frames that were not published because too many were waiting.
    unpublished,
}

/// Counts one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum CutReason {
    #[error("{0}")]
    Stream(StreamError),
    #[error("it did not finish its handshake within {0} ms")]
    TimedOut(u128),
    #[error("too many connections prove nothing, and it is one of the oldest")]
    Crowded,
    #[error("its capability is unknown or used")]
    Capability,
    #[error("its capability was revoked")]
    Revoked,
    #[error("it did not drain its queue")]
    Evicted,
    #[error("it missed a frame")]
    Gapped,
    #[error("this side failed: {0}")]
    Failed(StreamError),
    #[error("this side closed it")]
    Dropped,
}

impl From<StreamError> for CutReason {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl CutReason {
    /// Its counter, and the counter's name if the other side is to blame.
    fn entry<'a>(&self, counters: &'a GateCounters) -> Option<(&'a AtomicU64, Option<&'static str>)> {
        let (counter, blame) = match self {
            Self::Stream(StreamError::Closed | StreamError::Io(_)) => (&counters.closed, None),
            Self::Stream(StreamError::Frame(error)) => match error {
                FrameError::Greeting(_) => (&counters.bad_greeting, Some("bad_greeting")),
                FrameError::Large { .. } => (&counters.oversized, Some("oversized")),
                FrameError::Identity => (&counters.bad_identity, Some("bad_identity")),
                FrameError::Subscription => (&counters.bad_capability, Some("bad_capability")),
                FrameError::Flags(_)
                | FrameError::Ready(_)
                | FrameError::SocketType { .. }
                | FrameError::Command
                | FrameError::Multipart => (&counters.bad_frame, Some("bad_frame")),
            },
            Self::TimedOut(_) => (&counters.timed_out, Some("timed_out")),
            Self::Crowded => (&counters.refused_unproven, Some("refused_unproven")),
            Self::Capability => (&counters.bad_capability, Some("bad_capability")),
            Self::Revoked => (&counters.revoked, None),
            Self::Evicted => (&counters.evicted, Some("evicted")),
            Self::Gapped => (&counters.gapped, None),
            Self::Failed(_) => (&counters.failed, None),
            Self::Dropped => return None,
        };
        Some((counter, blame))
    }
}

/// Counters and offenders of one transport.
#[derive(Debug, Clone, Default)]
pub(super) struct Logbook {
    pub(super) counters: Arc<GateCounters>,
    pub(super) offences: Arc<Offences>,
}

impl Logbook {
    /// Counts why the connection with `peer` ended; `port` is the master's.
    pub(super) fn ended(&self, peer: IpAddr, port: u16, reason: &CutReason) {
        let Some((counter, blame)) = reason.entry(&self.counters) else { return };
        count(counter);
        if let Some(blame) = blame {
            self.offences.note(peer, port, blame);
        }
    }

    /// Counts a connection that was refused at the door.
    pub(super) fn refused(&self, peer: IpAddr, port: u16, counter: &AtomicU64, reason: &'static str) {
        count(counter);
        self.offences.note(peer, port, reason);
    }
}

/// Somebody who was refused or cut, and how often for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// Where it came from; on a minion, the master's address.
    pub address: IpAddr,
    /// The port of the master at which it happened.
    pub port: u16,
    /// The name of the counter in [`GateCounters`], or what a caller of [`Offences::note`] says.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
}

/// Those who offended since somebody last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// By address, port and reason; the most frequent first, [`OFFENDERS_MAX`] at most.
    pub offences: Vec<Offence>,
    /// Offences of those who have no row.
    pub others: u64,
}

#[derive(Debug)]
struct Row {
    offence: Offence,
    /// How many of them were reported as news.
    told: u64,
}

#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
    others: u64,
    others_told: u64,
    /// The second of the newest log line, and how many it had.
    second: u64,
    lines: u32,
    /// Offences without a line since the last line.
    unsaid: u64,
}

/// The table of offenders.
#[derive(Debug, Default)]
pub struct Offences {
    clock: SystemClock,
    table: Mutex<Table>,
}

impl Offences {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one offence of `address` at `port`. `reason` is one of a fixed few words: it becomes a label of metrics.
    pub fn note(&self, address: IpAddr, port: u16, reason: &'static str) {
        let second = self.clock.monotonic().as_secs();
        let mut table = self.table();
        let total = table.add(address, port, reason);
        if table.second != second {
            (table.second, table.lines) = (second, 0);
        }
        if table.lines == LINES_PER_SECOND {
            table.unsaid += 1;
            return;
        }
        table.lines += 1;
        let more = std::mem::take(&mut table.unsaid);
        drop(table);
        tracing::warn!(%address, port, reason, total, more, "the gate refused or cut a connection");
    }

    /// The worst offenders since the start, the most frequent first.
    pub fn top(&self) -> Vec<Offence> {
        let mut offences: Vec<_> = self.table().rows.iter().map(|row| row.offence.clone()).collect();
        offences.sort_by_key(|offence| std::cmp::Reverse(offence.count));
        offences
    }

    /// What happened since the last call. For one reader, who makes events of it.
    pub fn take(&self) -> News {
        let mut table = self.table();
        let mut news = News { offences: Vec::new(), others: table.others - table.others_told };
        table.others_told = table.others;
        for row in table.rows.iter_mut().filter(|row| row.offence.count > row.told) {
            news.offences.push(Offence { count: row.offence.count - row.told, ..row.offence.clone() });
            row.told = row.offence.count;
        }
        news.offences.sort_by_key(|offence| std::cmp::Reverse(offence.count));
        news
    }
}

impl Table {
    /// Adds one and says how many it makes.
    fn add(&mut self, address: IpAddr, port: u16, reason: &'static str) -> u64 {
        let same =
            |row: &&mut Row| (row.offence.address, row.offence.port, row.offence.reason) == (address, port, reason);
        if let Some(row) = self.rows.iter_mut().find(same) {
            row.offence.count += 1;
            return row.offence.count;
        }
        if self.rows.len() == OFFENDERS_MAX
            && let Some(least) = (0..self.rows.len()).min_by_key(|at| self.rows[*at].offence.count)
        {
            let row = self.rows.swap_remove(least);
            self.others += row.offence.count - row.told;
        }
        self.rows.push(Row { offence: Offence { address, port, reason, count: 1 }, told: 0 });
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    #[test]
    fn the_worst_stay_however_many_come() {
        let offences = Offences::default();
        for number in 0..10_000 {
            offences.note(address(number), 4506, "bad_greeting");
            offences.note(address(7), 4505, "oversized");
        }
        let top = offences.top();
        assert_eq!(top.len(), OFFENDERS_MAX);
        let worst = Offence { address: address(7), port: 4505, reason: "oversized", count: 10_000 };
        assert_eq!(top[0], worst);
        let news = offences.take();
        let named: u64 = news.offences.iter().map(|offence| offence.count).sum();
        assert_eq!(named + news.others, 20_000, "none is forgotten");
    }

    #[test]
    fn news_are_told_once() {
        let offences = Offences::default();
        offences.note(address(1), 4506, "oversized");
        offences.note(address(1), 4506, "oversized");
        assert_eq!(offences.take().offences[0].count, 2);
        assert_eq!(offences.take(), News::default());
        offences.note(address(1), 4506, "oversized");
        assert_eq!((offences.take().offences[0].count, offences.top()[0].count), (1, 3));
    }

    #[test]
    fn a_flood_makes_a_few_lines_a_second() {
        let offences = Offences::default();
        for _ in 0..1000 {
            offences.note(address(1), 4506, "bad_frame");
        }
        let table = offences.table();
        assert!(table.unsaid >= 1000 - 2 * u64::from(LINES_PER_SECOND), "{} were not said", table.unsaid);
    }
}
