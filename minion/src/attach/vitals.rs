//! The signs of life of one attached master, and when their absence means that it is gone. Pure.

use super::STABLE;
use saltern_wire::fanout::Beacon;
use std::time::Duration;

/// How long a master without quorum is kept at least: an election is over long before.
pub const NO_QUORUM_PATIENCE: Duration = Duration::from_secs(5);

/// The minions of one master spread over so long when it has no quorum.
pub const NO_QUORUM_SPREAD: Duration = Duration::from_secs(5);

/// How long a master may take to say what it thinks of our key. It answers from memory, or proposes a new key first.
pub(super) const STANDING_WITHIN: Duration = Duration::from_secs(15);

/// How long it may take from there until the fan-out stands: a grant and a connection, in the middle of a herd.
pub(super) const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(12);

/// Longest obeyed reconnect window.
pub(super) const WINDOW_MAX: Duration = Duration::from_secs(30);

/// A poll that is later than this was late by the minion's own fault.
const OWN_LATENESS_MAX: Duration = Duration::from_millis(1_500);

/// How long a master that others call dead may take to say that it is not: the longest round trip between regions, several
/// times, and a busy machine. Whoever is called dead wrongly loses minions that lose nothing.
const DENY_WITHIN: Duration = Duration::from_millis(1_000);

/// How much sooner an unanswered ping counts with a second session at hand: by a third. A wrong guess costs nothing then.
const HASTE: (u32, u32) = (2, 3);

/// A session that waits is pinged so much less often: what it is worth is looked at when it is needed.
const STANDBY_PING_FACTOR: u32 = 3;

/// But at least so often: a master drops a session that is silent for 20 s.
const STANDBY_PING_MAX: Duration = Duration::from_secs(8);

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

impl Patience {
    /// With a session that waits, which is pinged less often.
    pub fn of_standby(self) -> Self {
        let seldom = (self.ping_interval * STANDBY_PING_FACTOR).min(STANDBY_PING_MAX);
        Self { ping_interval: seldom.max(self.ping_interval), ..self }
    }
}

/// The signs of life of one attached master.
#[derive(Debug, Clone)]
pub struct Vitals {
    patience: Patience,
    attached: Duration,
    sequence: u64,
    /// When the newest ping went.
    pinged: Duration,
    /// Somebody said that the master is gone: it has to answer a ping of at least this number until then.
    doubted: Option<(u64, Duration)>,
    /// Over how long its minions spread when it dies, as it said itself while it lived.
    window: Duration,
    /// A second session is at hand.
    hasty: bool,
    /// When the oldest unanswered ping went.
    waiting_since: Option<Duration>,
    next_ping: Duration,
    beacon_due: Option<(Duration, Duration)>,
    no_quorum_since: Option<Duration>,
    /// What the master owes us, and until when.
    owes: Option<(Duration, &'static str)>,
    stable: bool,
}

impl Vitals {
    /// A session that stands since `now`.
    pub fn new(patience: Patience, now: Duration) -> Self {
        Self {
            patience,
            attached: now,
            sequence: 0,
            pinged: Duration::ZERO,
            doubted: None,
            hasty: false,
            window: Duration::ZERO,
            waiting_since: None,
            next_ping: now + patience.ping_interval,
            beacon_due: None,
            no_quorum_since: None,
            owes: Some((now + STANDING_WITHIN, "it did not say what it thinks of our key")),
            stable: false,
        }
    }

    /// Since when.
    pub fn attached(&self) -> Duration {
        self.attached
    }

    /// The master answered the ping `sequence`. Gives the round trip if it was the newest.
    pub fn handle_pong(&mut self, sequence: u64, quorum: bool, now: Duration) -> Option<Duration> {
        self.handle_quorum(quorum, now);
        // Not the answer to a ping: it tells of its quorum, and lives.
        if sequence == 0 {
            self.waiting_since = self.waiting_since.map(|_| now);
            return None;
        }
        // An older ping's answer shows life just now; the younger ones may still be on a long road.
        self.waiting_since = (sequence < self.sequence).then_some(now);
        self.doubted = self.doubted.filter(|(asked, _)| sequence < *asked);
        (sequence == self.sequence).then(|| now.saturating_sub(self.pinged))
    }

    /// Other masters say that this one does not answer. It is pinged at once, and counts as gone if it has not answered when it
    /// is this minion's turn after `slot`, and not before it had a fair time.
    pub fn handle_doubt(&mut self, slot: Duration, now: Duration) {
        if self.doubted.is_none() {
            self.doubted = Some((self.sequence + 1, now + slot.max(DENY_WITHIN)));
            self.next_ping = now;
        }
    }

    /// Whether a second session is at hand, so that this one is given up sooner.
    pub fn set_hasty(&mut self, hasty: bool) {
        self.hasty = hasty;
    }

    /// The session that waited is the one that the minion works through from now on. It was pinged seldom, so it has to show at
    /// once that it is worth it.
    pub fn handle_promoted(&mut self, patience: Patience, now: Duration) {
        self.patience = patience;
        self.owes = Some((now + SUBSCRIBE_WITHIN, "it did not let us listen to its fan-out"));
        self.handle_doubt(patience.ping_interval, now);
    }

    /// Over how long this master's minions spread their first attempts at others when it is lost; nothing in a small fleet.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Whether the master has a quorum, as far as it said.
    pub fn has_quorum(&self) -> bool {
        self.no_quorum_since.is_none()
    }

    fn ping_timeout(&self) -> Duration {
        let timeout = self.patience.ping_timeout;
        if self.hasty { timeout * HASTE.0 / HASTE.1 } else { timeout }
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
            && now.saturating_sub(since) >= self.ping_timeout()
        {
            return Pulse::Gone(format!("no answer on the session for {} ms", now.saturating_sub(since).as_millis()));
        }
        if let Some((_, due)) = self.doubted
            && now >= due
        {
            return Pulse::Gone("it did not answer when it was asked whether it lives".to_owned());
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
            self.pinged = now;
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
        self.doubted = self.doubted.map(|(asked, due)| (asked, due + late));
    }

    /// When the next sign of life is due, or the next ping. After a poll it lies ahead.
    fn sign_due(&self) -> Duration {
        let mut due = self.next_ping;
        if let Some(since) = self.waiting_since {
            due = due.min(since + self.ping_timeout());
        }
        if let Some((beacon_due, _)) = self.beacon_due {
            due = due.min(beacon_due);
        }
        if let Some((owed, _)) = self.owes {
            due = due.min(owed);
        }
        if let Some((_, doubted)) = self.doubted {
            due = due.min(doubted);
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
