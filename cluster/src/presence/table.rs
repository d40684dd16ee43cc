//! The pure half of presence: what one master knows of who is attached where, and what it still owes its peers.
//!
//! **Invariants.** A seat belongs to the master that reported it; news of a master replaces or amends that master's seats
//! only. A delta is taken only on top of exactly the news before it, otherwise a whole list is asked for: a lost message
//! leaves a gap that is noticed, never a seat that stays for ever. Time comes in as an argument (`now`, monotonic).
//!
//! **It refuses** to remember departures of more minions than are accepted: [`Table::forget`] drops those that are gone.

use saltern_wire::api::Presence as Presentness;
use saltern_wire::{LogicalTime, MasterId, MinionId, Ordinal};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a master may be silent before its sessions are called unknown: three of the intervals in which a master with
/// nothing to say says so ([`super::UPDATE_IDLE`]).
pub const SILENT_AFTER: Duration = Duration::from_secs(6);

/// How long a silent master's sessions stay unknown. By then its minions have moved if they could (a frozen master is
/// noticed by them within 20 s), so whoever is attached nowhere else is disconnected.
pub const LOST_AFTER: Duration = Duration::from_secs(30);

/// One attached minion, as its master tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Who.
    pub minion: MinionId,
    /// Its number: only accepted minions have a seat.
    pub ordinal: Ordinal,
    /// Since when, in the truth's time.
    pub since: LogicalTime,
    /// Its program version.
    pub version: String,
}

/// A minion that is no longer attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Who.
    pub minion: MinionId,
    /// Since when, in the truth's time.
    pub at: LogicalTime,
}

/// What one master tells another about its sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceUpdate {
    /// Drawn at the sender's start: sequences of two boots are never compared.
    pub boot: u64,
    /// Rises by one with each message of a boot to one receiver.
    pub sequence: u64,
    /// Whether `attached` is everything there is; otherwise it amends what was told before.
    pub whole: bool,
    /// Who is attached.
    pub attached: Vec<Seat>,
    /// Who left.
    pub departed: Vec<Departure>,
    /// How many minions the sender could take on.
    #[serde(default)]
    pub room: AttachRoom,
}

/// How many minions a master could take on, as it measures it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRoom {
    /// A second.
    pub rate: u32,
    /// At once.
    pub burst: u32,
}

/// The receiver's answer to [`PresenceUpdate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Heard {
    /// Taken.
    Taken,
    /// Something in between was missed: send everything.
    Gap,
}

/// Where one minion is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Whether it has a session.
    pub presence: Presentness,
    /// The master it is, or was last, attached to.
    pub master: Option<MasterId>,
    /// Since when it is attached there, or has been gone.
    pub since: Option<LogicalTime>,
    /// Its program version, if known.
    pub version: Option<String>,
}

/// How much of the cluster an answer covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage {
    /// Masters whose sessions are known now.
    pub heard: u32,
    /// Masters there are.
    pub all: u32,
}

/// What changed for the cluster as a whole: a minion came, or left and is attached nowhere else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Attached now, and not before.
    pub new: BTreeSet<MinionId>,
    /// Attached before, and not now.
    pub lost: BTreeSet<MinionId>,
}

impl Change {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.lost.is_empty()
    }

    /// Takes in what changed after this. Who came and left again, or left and came back, is in neither list.
    pub fn amend(&mut self, later: Self) {
        for minion in later.new {
            if !self.lost.remove(&minion) {
                self.new.insert(minion);
            }
        }
        for minion in later.lost {
            if !self.new.remove(&minion) {
                self.lost.insert(minion);
            }
        }
    }
}

/// What is known of one other master.
#[derive(Debug, Default)]
struct Peer {
    /// What it could take on.
    room: AttachRoom,
    /// When it was last heard; from the start of the table until then.
    heard: Duration,
    /// Whether it was heard at all.
    known: bool,
    /// The last news taken from it.
    last: Option<(u64, u64)>,
    /// Its seats.
    seats: BTreeMap<MinionId, Seat>,
    /// What it has yet to be told.
    owed: Owed,
}

/// What a peer has yet to be told by us.
#[derive(Debug, Default)]
struct Owed {
    /// Sequence of the next message.
    sequence: u64,
    /// Whether it took everything up to the changes below.
    synced: bool,
    /// Minions that came or went since.
    changed: BTreeSet<MinionId>,
}

/// Who is attached where, as one master knows it.
#[derive(Debug)]
pub struct Table {
    own: MasterId,
    boot: u64,
    seats: BTreeMap<MinionId, Seat>,
    peers: BTreeMap<MasterId, Peer>,
    gone: BTreeMap<MinionId, (MasterId, LogicalTime)>,
    /// What this master could take on.
    room: AttachRoom,
}

impl Table {
    /// An empty table of the master `own`; `boot` is drawn by the caller.
    pub fn new(own: MasterId, boot: u64) -> Self {
        Self {
            own,
            boot,
            seats: BTreeMap::new(),
            peers: BTreeMap::new(),
            gone: BTreeMap::new(),
            room: AttachRoom::default(),
        }
    }

    /// The other masters are now exactly these. Seats of a master that left the directory go with it.
    pub fn set_peers(&mut self, masters: &BTreeSet<MasterId>, now: Duration) {
        self.peers.retain(|id, _| masters.contains(id));
        for id in masters.iter().filter(|id| **id != self.own) {
            self.peers.entry(*id).or_insert_with(|| Peer { heard: now, ..Peer::default() });
        }
    }

    /// What this master could take on now; the others hear of it with the next message.
    pub fn set_room(&mut self, room: AttachRoom) {
        self.room = room;
    }

    /// What the other masters that answer could take on together.
    pub fn room_of_others(&self, now: Duration) -> AttachRoom {
        let heard = self.peers.iter().filter(|(id, _)| self.hears(**id, now)).map(|(_, peer)| peer.room);
        heard.fold(AttachRoom::default(), |sum, room| AttachRoom {
            rate: sum.rate.saturating_add(room.rate),
            burst: sum.burst.saturating_add(room.burst),
        })
    }

    /// A minion is attached here. Answers what changed for the cluster.
    pub fn attach(&mut self, seat: Seat) -> Change {
        let minion = seat.minion.clone();
        let before = self.is_seated(&minion);
        self.gone.remove(&minion);
        self.seats.insert(minion.clone(), seat);
        self.owe(&minion);
        let mut change = Change::default();
        if !before {
            change.new.insert(minion);
        }
        change
    }

    /// A minion is no longer attached here.
    pub fn detach(&mut self, minion: &MinionId, at: LogicalTime) -> Change {
        let mut change = Change::default();
        if self.seats.remove(minion).is_some() {
            self.owe(minion);
            self.leave(self.own, minion, at, &mut change);
        }
        change
    }

    /// Takes `update` from `from`.
    pub fn handle_update(&mut self, from: MasterId, update: PresenceUpdate, now: Duration) -> (Heard, Change) {
        let mut change = Change::default();
        let Some(peer) = self.peers.get_mut(&from) else { return (Heard::Gap, change) };
        peer.heard = now;
        peer.known = true;
        peer.room = update.room;
        let follows = peer.last.is_some_and(|(boot, last)| boot == update.boot && update.sequence == last + 1);
        if !update.whole && !follows {
            // Its seats stay as they were; the whole list that now follows corrects them.
            return (Heard::Gap, change);
        }
        peer.last = Some((update.boot, update.sequence));
        let mut left = update.departed;
        if update.whole {
            let listed: BTreeSet<&MinionId> = update.attached.iter().map(|seat| &seat.minion).collect();
            let latest = update.attached.iter().map(|seat| seat.since).max().unwrap_or_default();
            let unlisted = peer.seats.values().filter(|seat| !listed.contains(&seat.minion));
            left.extend(unlisted.map(|seat| Departure { minion: seat.minion.clone(), at: seat.since.max(latest) }));
        }
        for seat in update.attached {
            let minion = seat.minion.clone();
            let before = self.is_seated(&minion);
            self.gone.remove(&minion);
            if let Some(peer) = self.peers.get_mut(&from) {
                peer.seats.insert(minion.clone(), seat);
            }
            if !before {
                change.new.insert(minion);
            }
        }
        for Departure { minion, at } in left {
            if self.peers.get_mut(&from).is_some_and(|peer| peer.seats.remove(&minion).is_some()) {
                self.leave(from, &minion, at, &mut change);
            }
        }
        (Heard::Taken, change)
    }

    /// The next message to `to`: only what it lacks, `None` if there is no such peer. Empty if it lacks nothing, which still
    /// says that this master lives. The caller reports the outcome with [`Table::handle_heard`].
    pub fn poll_update(&mut self, to: MasterId) -> Option<PresenceUpdate> {
        let (boot, gone, seats) = (self.boot, &self.gone, &self.seats);
        let owed = &mut self.peers.get_mut(&to)?.owed;
        owed.sequence += 1;
        let whole = !owed.synced;
        let changed = std::mem::take(&mut owed.changed);
        let attached = if whole {
            seats.values().cloned().collect()
        } else {
            changed.iter().filter_map(|minion| seats.get(minion).cloned()).collect()
        };
        let departed = changed.iter().filter(|minion| !seats.contains_key(minion)).map(|minion| {
            let at = gone.get(minion).map(|(_, at)| *at).unwrap_or_default();
            Departure { minion: minion.clone(), at }
        });
        let (departed, room) = (departed.collect(), self.room);
        Some(PresenceUpdate { boot, sequence: owed.sequence, whole, attached, departed, room })
    }

    /// What became of the last message to `to`; `None` if it is not known to have arrived.
    pub fn handle_heard(&mut self, to: MasterId, heard: Option<Heard>) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.owed.synced = heard == Some(Heard::Taken);
        }
    }

    /// The other masters.
    pub fn peers(&self) -> Vec<MasterId> {
        self.peers.keys().copied().collect()
    }

    /// The other masters that have yet to be told of a change.
    pub fn owing(&self) -> Vec<MasterId> {
        self.peers.iter().filter(|(_, peer)| !peer.owed.changed.is_empty()).map(|(id, _)| *id).collect()
    }

    /// The next message to every peer is whole: repairs whatever else went wrong.
    pub fn resync(&mut self) {
        for peer in self.peers.values_mut() {
            peer.owed.synced = false;
        }
    }

    /// Gives up on the sessions of masters that have been silent for [`LOST_AFTER`]: whoever is attached nowhere else has
    /// left, as of `at`. A master that comes back is asked for its whole list.
    pub fn poll_lost(&mut self, now: Duration, at: LogicalTime) -> Change {
        let mut change = Change::default();
        let lost =
            |(_, peer): &(&MasterId, &mut Peer)| !peer.seats.is_empty() && now.saturating_sub(peer.heard) >= LOST_AFTER;
        let mut left = Vec::new();
        for (id, peer) in self.peers.iter_mut().filter(lost) {
            peer.last = None;
            left.extend(std::mem::take(&mut peer.seats).into_keys().map(|minion| (*id, minion)));
        }
        for (master, minion) in left {
            self.leave(master, &minion, at, &mut change);
        }
        change
    }

    /// Forgets departures of minions that are no longer accepted.
    pub fn forget(&mut self, accepted: impl Fn(&MinionId) -> bool) {
        self.gone.retain(|minion, _| accepted(minion));
    }

    /// Where `minion` is.
    pub fn where_is(&self, minion: &MinionId, now: Duration) -> Whereabouts {
        let at = |presence, master, seat: &Seat| Whereabouts {
            presence,
            master: Some(master),
            since: Some(seat.since),
            version: Some(seat.version.clone()),
        };
        if let Some(seat) = self.seats.get(minion) {
            return at(Presentness::Connected, self.own, seat);
        }
        let seated = self.peers.iter().filter_map(|(id, peer)| peer.seats.get(minion).map(|seat| (*id, peer, seat)));
        let newest = |(_, _, seat): &(MasterId, &Peer, &Seat)| seat.since;
        let heard = seated.clone().filter(|(_, peer, _)| is_heard(peer, now)).max_by_key(newest);
        if let Some((id, _, seat)) = heard {
            return at(Presentness::Connected, id, seat);
        }
        if let Some((id, _, seat)) = seated.max_by_key(newest) {
            return at(Presentness::Unknown, id, seat);
        }
        // Attached to no master that was heard: it may be at one that was not, for as long as that one counts.
        let hidden = |peer: &Peer| !is_heard(peer, now) && now.saturating_sub(peer.heard) < LOST_AFTER;
        let unknown = self.peers.values().any(hidden);
        let last = self.gone.get(minion);
        Whereabouts {
            presence: if unknown { Presentness::Unknown } else { Presentness::Disconnected },
            master: last.map(|(master, _)| *master),
            since: last.map(|(_, at)| *at),
            version: None,
        }
    }

    /// Whether `master` answers: this one does.
    pub fn hears(&self, master: MasterId, now: Duration) -> bool {
        master == self.own || self.peers.get(&master).is_some_and(|peer| is_heard(peer, now))
    }

    /// How many sessions `master` has told of.
    pub fn sessions_of(&self, master: MasterId) -> Option<u64> {
        let seats = if master == self.own { &self.seats } else { &self.peers.get(&master)?.seats };
        u64::try_from(seats.len()).ok()
    }

    /// How much of the cluster is known.
    pub fn coverage(&self, now: Duration) -> Coverage {
        let heard = self.peers.values().filter(|peer| is_heard(peer, now)).count();
        let count = |peers: usize| u32::try_from(peers + 1).unwrap_or(u32::MAX);
        Coverage { heard: count(heard), all: count(self.peers.len()) }
    }

    /// Every minion with a seat on a master that answers.
    pub fn connected(&self, now: Duration) -> BTreeSet<MinionId> {
        let peers = self.peers.values().filter(|peer| is_heard(peer, now)).flat_map(|peer| peer.seats.keys());
        self.seats.keys().chain(peers).cloned().collect()
    }

    fn is_seated(&self, minion: &MinionId) -> bool {
        self.seats.contains_key(minion) || self.peers.values().any(|peer| peer.seats.contains_key(minion))
    }

    fn leave(&mut self, master: MasterId, minion: &MinionId, at: LogicalTime, change: &mut Change) {
        if !self.is_seated(minion) {
            self.gone.insert(minion.clone(), (master, at));
            change.new.remove(minion);
            change.lost.insert(minion.clone());
        }
    }

    fn owe(&mut self, minion: &MinionId) {
        for peer in self.peers.values_mut() {
            peer.owed.changed.insert(minion.clone());
        }
    }
}

fn is_heard(peer: &Peer, now: Duration) -> bool {
    peer.known && now.saturating_sub(peer.heard) < SILENT_AFTER
}

#[cfg(test)]
mod tests;
