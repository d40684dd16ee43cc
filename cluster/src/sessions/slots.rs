//! The queue of those who want to attach: a token bucket whose tokens can be reserved. Pure: time, rate and random bytes come
//! in.
//!
//! ```text
//!   newcomer ─▶ a token that nobody has reserved? ─ yes ─▶ enters
//!                    │ no
//!                    ▼
//!              a place behind everybody who has one: come back in N ms, with this ticket
//!                    │
//!   at its slot ─▶ enters, before every newcomer
//! ```
//!
//! **Invariants.** Between any two moments no more enter than the burst and what the rate gives. Places are given in the order
//! of arrival, and a place that was given keeps its token until it is taken or [`GRACE`] is over, so nobody who comes at its slot is
//! overtaken by somebody who came later. A ticket is good once; one that is not known is none. Memory is bounded by [`PLACES_MAX`].
//!
//! One source may hold no more places than are left free for others. One that wastes what it gets (places run out unused,
//! handshakes come to nothing) has a few places a second, until it uses them: whoever collects slots for nothing does not keep
//! the fleet waiting.

use saltern_wire::slot::{SLOT_WAIT_MS_MAX, Slot, Ticket};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Places at one time: as many as a master may have sessions.
const PLACES_MAX: usize = 20_000;

/// How late somebody may come: a lost packet or two, a busy machine.
const GRACE: Duration = Duration::from_secs(4);

/// Who comes so much too early is let in: clocks tick in milliseconds.
const EARLY: Duration = Duration::from_millis(5);

/// Longest wait that is worth a place. Behind it, whoever comes is asked to come again without one.
const WAIT_MAX: Duration = Duration::from_secs(45);

/// When somebody without a place comes again: once the queue is half as long.
const FULL_WAIT: Duration = Duration::from_secs(20);

/// Places that a source may waste before it is trusted less; and two more for each that it used, because whoever has a fleet
/// behind it loses some in every storm.
const WASTE_MAX: u32 = 64;

/// How far ahead the places of a source that wastes them are at least.
const WASTEFUL_WAIT: Duration = Duration::from_secs(1);

/// Places at one time of a source that wastes them.
const WASTEFUL_PLACES_MAX: usize = 8;

/// Sources that are remembered for what they wasted alone: the fleet's own need none, and who has thousands of addresses is
/// kept out by other limits.
const SOURCES_MAX: usize = 4096;

/// How often what sources wasted counts for half.
const FORGIVE_EVERY: Duration = Duration::from_secs(30);

/// A reserved place.
#[derive(Debug, Clone)]
struct Place {
    secret: [u8; 16],
    at: Duration,
    source: String,
}

/// What is remembered of one source.
#[derive(Debug, Clone, Default)]
struct Source {
    held: usize,
    wasted: u32,
    used: u32,
}

impl Source {
    fn is_wasteful(&self) -> bool {
        self.wasted > WASTE_MAX.saturating_add(self.used.saturating_mul(2))
    }
}

/// What becomes of somebody who wants to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may go on.
    Enter,
    /// It is to come again.
    Wait(Slot),
    /// It is to come again, and is one of a source that takes slots for nothing.
    Refuse(Slot),
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Those who entered without waiting.
    pub entered: u64,
    /// Slots that were given.
    pub given: u64,
    /// Slots at which somebody came and entered.
    pub taken: u64,
    /// Slots at which nobody came.
    pub expired: u64,
    /// Those who were sent away without a slot.
    pub refused: u64,
}

/// The queue.
#[derive(Debug)]
pub struct Slots {
    rate: f64,
    burst: f64,
    tokens: f64,
    counted: Duration,
    forgiven: Duration,
    next: u64,
    /// When the newest place is, of those who are not made to wait longer.
    last: Duration,
    /// Until when those who were asked to wait once more are spread.
    again: Duration,
    places: BTreeMap<u64, Place>,
    order: BTreeSet<(Duration, u64)>,
    sources: BTreeMap<String, Source>,
    counts: SlotCounts,
}

impl Slots {
    /// An empty queue, in which `burst` may enter at once and then `rate` a second.
    pub fn new(rate: f64, burst: f64, now: Duration) -> Self {
        Self {
            rate: rate.max(1.0),
            burst: burst.max(1.0),
            tokens: burst.max(1.0),
            counted: now,
            forgiven: now,
            next: 1,
            last: now,
            again: now,
            places: BTreeMap::new(),
            order: BTreeSet::new(),
            sources: BTreeMap::new(),
            counts: SlotCounts::default(),
        }
    }

    /// From now on `rate` a second may enter, and `burst` at once.
    pub fn set_rate(&mut self, rate: f64, burst: f64, now: Duration) {
        self.fill(now);
        self.rate = rate.max(1.0);
        self.burst = burst.max(1.0);
        self.tokens = self.tokens.min(self.burst);
    }

    /// How many a second may enter.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// How many places are held.
    pub fn waiting(&self) -> usize {
        self.places.len()
    }

    /// What happened so far.
    pub fn counts(&self) -> SlotCounts {
        self.counts
    }

    /// Somebody from `source` wants to attach. `secret` is for the ticket, if it gets one.
    pub fn arrive(&mut self, source: &str, ticket: Option<Ticket>, secret: [u8; 16], now: Duration) -> Verdict {
        self.poll(now);
        match ticket.filter(|ticket| self.knows(ticket)) {
            Some(ticket) => self.come_back(ticket, now),
            None => self.come_new(source, secret, now),
        }
    }

    /// The handshake of one that entered from `source` is over: whether it brought a session.
    pub fn handle_over(&mut self, source: &str, served: bool) {
        let full = self.sources.len() >= SOURCES_MAX;
        match self.sources.get_mut(source) {
            Some(known) if served => known.used = known.used.saturating_add(1),
            Some(known) => known.wasted = known.wasted.saturating_add(1),
            None if served || full => {}
            None => drop(self.sources.insert(source.to_owned(), Source { wasted: 1, ..Source::default() })),
        }
    }

    /// Gives free what nobody came for.
    pub fn poll(&mut self, now: Duration) {
        self.fill(now);
        while let Some((at, number)) = self.order.first().copied()
            && at + GRACE < now
        {
            if let Some(place) = self.take(number)
                && let Some(source) = self.sources.get_mut(&place.source)
            {
                source.wasted = source.wasted.saturating_add(1);
            }
            self.counts.expired += 1;
        }
        if now.saturating_sub(self.forgiven) >= FORGIVE_EVERY {
            self.forgiven = now;
            for source in self.sources.values_mut() {
                (source.wasted, source.used) = (source.wasted / 2, source.used / 2);
            }
            self.sources.retain(|_, source| source.held > 0 || source.wasted > 0);
        }
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.counted).as_secs_f64();
        self.counted = self.counted.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
    }

    fn knows(&self, ticket: &Ticket) -> bool {
        self.places.get(&ticket.number).is_some_and(|place| place.secret == ticket.secret)
    }

    /// Somebody with a place.
    fn come_back(&mut self, ticket: Ticket, now: Duration) -> Verdict {
        let at = self.places.get(&ticket.number).map_or(now, |place| place.at);
        if now + EARLY < at {
            return Verdict::Wait(slot(at.saturating_sub(now), Some(ticket)));
        }
        if self.tokens < 1.0 {
            // Many came late together, or the rate fell: one after the other, each behind the one that was told before.
            let missing = Duration::from_secs_f64((1.0 - self.tokens) / self.rate);
            let at = (now + missing).max(self.again + Duration::from_secs_f64(1.0 / self.rate));
            self.again = at;
            self.postpone(ticket.number, at);
            return Verdict::Wait(slot(at.saturating_sub(now), Some(ticket)));
        }
        self.tokens -= 1.0;
        self.take(ticket.number);
        self.counts.taken += 1;
        Verdict::Enter
    }

    /// Somebody without one.
    fn come_new(&mut self, source: &str, secret: [u8; 16], now: Duration) -> Verdict {
        let known = self.sources.get(source);
        let is_wasteful = known.is_some_and(Source::is_wasteful);
        let held = known.map_or(0, |source| source.held);
        // Every place that was given has its token, whether it is due or not.
        let left = self.tokens - self.places.len() as f64;
        if left >= 1.0 && !is_wasteful {
            self.tokens -= 1.0;
            self.counts.entered += 1;
            return Verdict::Enter;
        }
        let wait = Duration::from_secs_f64((1.0 - left).max(0.0) / self.rate);
        let wait = if is_wasteful { wait.max(WASTEFUL_WAIT) } else { wait };
        let free = PLACES_MAX.saturating_sub(self.places.len());
        let held_max = if is_wasteful { WASTEFUL_PLACES_MAX } else { free };
        // Not before the one who came last; what a wasteful source is made to wait is for itself alone.
        let at = (now + wait).max(if is_wasteful { now } else { self.last.max(now) });
        if held >= held_max || at.saturating_sub(now) > WAIT_MAX {
            self.counts.refused += 1;
            let slot = slot(FULL_WAIT, None);
            return if is_wasteful { Verdict::Refuse(slot) } else { Verdict::Wait(slot) };
        }
        let number = self.next;
        self.next += 1;
        self.sources.entry(source.to_owned()).or_default().held += 1;
        self.places.insert(number, Place { secret, at, source: source.to_owned() });
        self.order.insert((at, number));
        if !is_wasteful {
            self.last = at;
        }
        self.counts.given += 1;
        Verdict::Wait(slot(at.saturating_sub(now), Some(Ticket { number, secret })))
    }

    fn take(&mut self, number: u64) -> Option<Place> {
        let place = self.places.remove(&number)?;
        self.order.remove(&(place.at, number));
        if let Some(source) = self.sources.get_mut(&place.source) {
            source.held -= 1;
        }
        Some(place)
    }

    fn postpone(&mut self, number: u64, at: Duration) {
        let Some(place) = self.places.get_mut(&number) else { return };
        self.order.remove(&(place.at, number));
        place.at = at;
        self.order.insert((at, number));
    }
}

/// Rounded up: whoever comes a moment too early would be sent away once more.
fn slot(wait: Duration, ticket: Option<Ticket>) -> Slot {
    let wait_ms = u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX).min(SLOT_WAIT_MS_MAX);
    Slot { wait_ms, ticket }
}

#[cfg(test)]
mod tests;
