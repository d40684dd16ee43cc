//! Which master to attach to, and when one counts as gone. Pure: time and random numbers come in.
//!
//! ```text
//!   Candidates   configured addresses + active masters of the directory, in an order of this minion's own
//!   Vitals       one attached master's signs of life: pongs on the session, beacons on the fan-out, quorum
//! ```
//!
//! **Invariants.** The first failure of a master costs no waiting: the next one is tried at once. Only a master that fails
//! repeatedly is left alone for a while, at most [`BACKOFF_MAX`], with full jitter. A master that said how long to stay away
//! is obeyed. One that lives and is of no use (no quorum, no word about our key, no fan-out, every call refused) is left for
//! one that may be better, and kept if there is none.

use saltern_wire::MinionId;
use saltern_wire::fanout::Beacon;
use saltern_wire::io::Address;
use saltern_wire::slot::{Slot, Ticket};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest wait before a failing master is tried again.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Wait after the second failure; it doubles from there.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);

/// A session has to live this long before the failures before it are forgotten.
const STABLE: Duration = Duration::from_secs(10);

/// How long a master without quorum is kept at least: an election is over long before.
pub const NO_QUORUM_PATIENCE: Duration = Duration::from_secs(5);

/// The minions of one master spread over so long when it has no quorum.
pub const NO_QUORUM_SPREAD: Duration = Duration::from_secs(5);

/// How long it is remembered that a master was of no use: had no quorum, or refused every call.
const USELESS_MEMORY: Duration = Duration::from_secs(60);

/// How long a master may take to say what it thinks of our key. It answers from memory, or proposes a new key first.
const STANDING_WITHIN: Duration = Duration::from_secs(15);

/// How long it may take from there until the fan-out stands: a grant and a connection, in the middle of a herd.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(12);

/// A poll that is later than this was late by the minion's own fault.
const OWN_LATENESS_MAX: Duration = Duration::from_millis(1_500);

/// A slot that is no further away is waited for; meanwhile nobody else is asked, who would reserve a second place.
const SLOT_WORTH_WAITING: Duration = Duration::from_secs(3);

/// Those whom a full queue sent away without a slot come again spread over so long.
const FULL_SPREAD: Duration = Duration::from_secs(5);

/// Longest obeyed reconnect window.
const WINDOW_MAX: Duration = Duration::from_secs(30);

/// Longest obeyed `retry_after`.
const STAY_AWAY_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Default)]
struct Mark {
    configured: bool,
    listed: bool,
    failures: u32,
    not_before: Duration,
    useless_until: Duration,
    /// What it gave us for the time `not_before`: it expects us then.
    ticket: Option<Ticket>,
}

/// The masters that may be attached to.
#[derive(Debug, Clone)]
pub struct Candidates {
    minion: MinionId,
    marks: BTreeMap<Address, Mark>,
}

/// What to try next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Where.
    pub address: Address,
    /// Not before this time.
    pub at: Duration,
}

impl Candidates {
    /// Starts from the configured addresses.
    pub fn new(minion: MinionId, configured: &[Address]) -> Self {
        let mark = Mark { configured: true, ..Mark::default() };
        Self { minion, marks: configured.iter().map(|address| (address.clone(), mark.clone())).collect() }
    }

    /// Takes over the addresses of the directory's active masters. The configured ones stay: they are what is left when
    /// the whole cluster moves.
    pub fn handle_directory<'a>(&mut self, addresses: impl Iterator<Item = &'a Address>) {
        self.marks.values_mut().for_each(|mark| mark.listed = false);
        for address in addresses {
            self.marks.entry(address.clone()).or_default().listed = true;
        }
        self.marks.retain(|_, mark| mark.listed || mark.configured);
    }

    /// The best one to try, and when.
    pub fn choose(&self, now: Duration) -> Option<Choice> {
        if let Some(choice) = self.expected(now) {
            return Some(choice);
        }
        let rank = |(address, mark): &(&Address, &Mark)| {
            (
                mark.not_before.max(now),
                mark.useless_until > now,
                mark.failures,
                // An address that only the configuration knows may be an alias of a listed one.
                !mark.listed,
                self.weight(address),
            )
        };
        let (address, mark) = self.marks.iter().min_by_key(rank)?;
        Some(Choice { address: address.clone(), at: mark.not_before.max(now) })
    }

    /// The master that expects us soonest, if that is soon.
    fn expected(&self, now: Duration) -> Option<Choice> {
        let soon = now + SLOT_WORTH_WAITING;
        let expecting = self.marks.iter().filter(|(_, mark)| mark.ticket.is_some() && mark.not_before <= soon);
        let (address, mark) = expecting.min_by_key(|(_, mark)| mark.not_before)?;
        Some(Choice { address: address.clone(), at: mark.not_before.max(now) })
    }

    /// The master has a queue, and gave us a slot or asks us to come again. No failure: nothing is held against it.
    pub fn handle_slot(&mut self, address: &Address, slot: Slot, now: Duration, random: u64) {
        let Some(mark) = self.marks.get_mut(address) else { return };
        mark.ticket = slot.ticket;
        mark.not_before = now + Duration::from_millis(slot.wait_ms.into());
        if slot.ticket.is_none() {
            mark.not_before += jittered(FULL_SPREAD, random);
        }
    }

    /// What to show the master at `address`. It is good once.
    pub fn take_ticket(&mut self, address: &Address) -> Option<Ticket> {
        self.marks.get_mut(address)?.ticket.take()
    }

    /// Rendezvous hashing: each minion has its own order of masters, and all orders together are even.
    fn weight(&self, address: &Address) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.minion.as_str().as_bytes());
        hasher.update(b"\0");
        hasher.update(address.to_string().as_bytes());
        let mut weight = [0; 8];
        weight.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        weight
    }

    /// The master could not be reached, or was lost after `lived` of a session. `random` is the jitter.
    pub fn handle_failure(&mut self, address: &Address, lived: Duration, now: Duration, random: u64) {
        let Some(mark) = self.marks.get_mut(address) else { return };
        if lived >= STABLE {
            mark.failures = 0;
        }
        mark.failures = mark.failures.saturating_add(1);
        if mark.failures > 1 {
            let doubled = BACKOFF_FIRST.saturating_mul(1 << (mark.failures - 2).min(16));
            mark.not_before = now + jittered(doubled.min(BACKOFF_MAX), random);
        }
    }

    /// The master ended the session after `lived` and asked to be left alone for a while. It counts as a failure as well, so
    /// that a master that ends every session at once is not dialled in a tight loop.
    pub fn handle_bye(
        &mut self,
        address: &Address,
        retry_after: Duration,
        lived: Duration,
        now: Duration,
        random: u64,
    ) {
        self.handle_failure(address, lived, now, random);
        if let Some(mark) = self.marks.get_mut(address) {
            mark.not_before = mark.not_before.max(now + retry_after.min(STAY_AWAY_MAX));
        }
    }

    /// The master works: its failures are forgotten.
    pub fn handle_stable(&mut self, address: &Address) {
        if let Some(mark) = self.marks.get_mut(address) {
            mark.failures = 0;
        }
    }

    /// The master lives and has been of no use for too long: no quorum, or every call refused. Whether there is another that
    /// is not known to be the same; if not, the minion stays where it is.
    pub fn handle_useless(&mut self, address: &Address, now: Duration) -> bool {
        if let Some(mark) = self.marks.get_mut(address) {
            mark.useless_until = now + USELESS_MEMORY;
        }
        let better = |(other, mark): (&Address, &Mark)| {
            other != address && mark.useless_until <= now && mark.not_before <= now && mark.failures == 0
        };
        self.marks.iter().any(better)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

/// Somewhere between nothing and `most`.
pub fn jittered(most: Duration, random: u64) -> Duration {
    // The top 32 bits as a fraction: exact enough for a wait, and free of floating point.
    let fraction = random >> 32;
    let nanos = (u128::from(fraction) * most.as_nanos()) >> 32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How patient to be with an attached master.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two pings.
    pub ping_interval: Duration,
    /// A ping unanswered for this long means that the master is gone.
    pub ping_timeout: Duration,
    /// The fan-out silent for this long, or for three of its own intervals, means that the master is gone.
    pub beacon_silence_max: Duration,
    /// A master without quorum is kept for this long: [`NO_QUORUM_PATIENCE`], and this minion's part of the spread.
    pub no_quorum: Duration,
}

/// What the signs of life say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulse {
    /// All is well.
    Fine,
    /// Send a ping with this number.
    Ping(u64),
    /// Leave: the reason.
    Gone(String),
    /// Leave if there is a better one: no quorum for this long.
    NoQuorum(Duration),
}

/// The signs of life of one attached master.
#[derive(Debug, Clone)]
pub struct Vitals {
    patience: Patience,
    attached: Duration,
    sequence: u64,
    /// When the oldest unanswered ping went.
    waiting_since: Option<Duration>,
    next_ping: Duration,
    beacon_due: Option<(Duration, Duration)>,
    no_quorum_since: Option<Duration>,
    /// What the master owes us, and until when.
    owes: Option<(Duration, &'static str)>,
    stable: bool,
    /// Over how long its minions spread when it dies, as it said itself while it lived.
    window: Duration,
}

impl Vitals {
    /// A session that stands since `now`.
    pub fn new(patience: Patience, now: Duration) -> Self {
        Self {
            patience,
            attached: now,
            sequence: 0,
            waiting_since: None,
            next_ping: now + patience.ping_interval,
            beacon_due: None,
            no_quorum_since: None,
            owes: Some((now + STANDING_WITHIN, "it did not say what it thinks of our key")),
            stable: false,
            window: Duration::ZERO,
        }
    }

    /// Since when.
    pub fn attached(&self) -> Duration {
        self.attached
    }

    /// Over how long this master's minions spread their first attempts at others when it is lost; nothing in a small fleet.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The master answered the ping `sequence`.
    pub fn handle_pong(&mut self, sequence: u64, quorum: bool, now: Duration) {
        // An older ping's answer shows life just now; the younger ones may still be on a long road.
        self.waiting_since = (sequence < self.sequence).then_some(now);
        self.handle_quorum(quorum, now);
    }

    /// The master said what it thinks of our key. An accepted minion is owed the fan-out.
    pub fn handle_standing(&mut self, accepted: bool, now: Duration) {
        let is_owed = accepted && self.beacon_due.is_none();
        self.owes = is_owed.then_some((now + SUBSCRIBE_WITHIN, "it did not let us listen to its fan-out"));
    }

    /// The subscription stands: beacons are expected from now on.
    pub fn handle_subscribed(&mut self, now: Duration) {
        self.owes = None;
        self.beacon_due = Some((now + self.patience.beacon_silence_max, self.patience.beacon_silence_max));
    }

    /// A genuine beacon.
    pub fn handle_beacon(&mut self, beacon: &Beacon, now: Duration) {
        // Three intervals, but never below a second: a busy master's timer may be late by that.
        let patience = Duration::from_millis(beacon.next_ms.saturating_mul(3)).max(Duration::from_secs(1));
        let patience = patience.min(self.patience.beacon_silence_max);
        self.beacon_due = Some((now + patience, patience));
        self.window = Duration::from_millis(beacon.reconnect_window_ms).min(WINDOW_MAX);
        self.handle_quorum(beacon.quorum, now);
    }

    fn handle_quorum(&mut self, quorum: bool, now: Duration) {
        self.no_quorum_since = if quorum { None } else { self.no_quorum_since.or(Some(now)) };
    }

    /// Whether the session has just lived long enough; `true` once.
    pub fn poll_stable(&mut self, now: Duration) -> bool {
        let stable = now.saturating_sub(self.attached) >= STABLE;
        stable && !std::mem::replace(&mut self.stable, true)
    }

    /// What there is to do at `now`.
    pub fn poll(&mut self, now: Duration) -> Pulse {
        self.forgive(now);
        if let Some(since) = self.waiting_since
            && now.saturating_sub(since) >= self.patience.ping_timeout
        {
            return Pulse::Gone(format!("no answer on the session for {} ms", now.saturating_sub(since).as_millis()));
        }
        if let Some((due, patience)) = self.beacon_due
            && now >= due
        {
            return Pulse::Gone(format!("no beacon for {} ms", patience.as_millis()));
        }
        if let Some((due, what)) = self.owes
            && now >= due
        {
            return Pulse::Gone(what.to_owned());
        }
        if now >= self.next_ping {
            self.next_ping = now + self.patience.ping_interval;
            self.waiting_since = self.waiting_since.or(Some(now));
            self.sequence += 1;
            return Pulse::Ping(self.sequence);
        }
        match self.no_quorum_since {
            Some(since) if now.saturating_sub(since) >= self.patience.no_quorum => {
                // Asked again after another while of patience.
                self.no_quorum_since = Some(now);
                Pulse::NoQuorum(now.saturating_sub(since))
            }
            Some(_) | None => Pulse::Fine,
        }
    }

    /// A minion that itself stood still (a frozen process, a disk that took its time) polls late, and the signs of life are
    /// in its queues: it does not blame its master for the time it slept.
    fn forgive(&mut self, now: Duration) {
        let late = now.saturating_sub(self.sign_due());
        if late < OWN_LATENESS_MAX {
            return;
        }
        self.waiting_since = self.waiting_since.map(|since| since + late);
        self.beacon_due = self.beacon_due.map(|(due, patience)| (due + late, patience));
        self.owes = self.owes.map(|(due, what)| (due + late, what));
    }

    /// When the next sign of life is due, or the next ping. After a poll it lies ahead.
    fn sign_due(&self) -> Duration {
        let mut due = self.next_ping;
        if let Some(since) = self.waiting_since {
            due = due.min(since + self.patience.ping_timeout);
        }
        if let Some((beacon_due, _)) = self.beacon_due {
            due = due.min(beacon_due);
        }
        if let Some((owed, _)) = self.owes {
            due = due.min(owed);
        }
        due
    }

    /// When to poll next.
    pub fn deadline(&self) -> Duration {
        let mut deadline = self.sign_due();
        if let Some(since) = self.no_quorum_since {
            deadline = deadline.min(since + self.patience.no_quorum);
        }
        if !self.stable {
            deadline = deadline.min(self.attached + STABLE);
        }
        deadline
    }
}

#[cfg(test)]
mod tests;
