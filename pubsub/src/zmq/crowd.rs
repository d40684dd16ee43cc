//! Who may come in: places of one port, counted overall, per source and before anything is proved.
//!
//! ```text
//!   come ─▶ rate of the source ─▶ all ─▶ of the source ─▶ unproven ─▶ Place
//!                                                           │ full: whoever has had its time, or whose source holds
//!                                                           ▼ more than the newcomer's, gives way
//! ```
//!
//! A source is an IPv4 address, or the /64 network of an IPv6 one, whose owner has all of it.
//!
//! **Invariants.** A connection counts from the accept to its last byte, whatever becomes of it. A refusal costs one accepted
//! socket and no memory. A crowd from few sources does not keep the others out: among those who have proved nothing, a
//! newcomer displaces the oldest of the source that has the most.

use super::limits::GateLimits;
use super::offence::Logbook;
use crate::clock::SystemClock;
use saltern_wire::io::Clock;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time that a connection is left to prove something when others wait for its place: a handshake takes milliseconds, and a
/// few round trips around the earth fit.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sources that are remembered for their rate alone. Beyond it the idle ones are forgotten, and begin anew.
const SOURCES_MAX: usize = 4096;

/// What counts as one source.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// One source's share of the crowd.
#[derive(Default)]
struct Source {
    all: usize,
    /// Those that have proved nothing, in the order in which they came.
    unproven: BTreeMap<u64, Unproven>,
    /// Connections that it may open at once, in thousandths, and when that was so.
    tokens: u64,
    counted: Duration,
}

struct Unproven {
    since: Duration,
    cut: CancellationToken,
}

/// How many are inside.
#[derive(Default)]
struct Crowd {
    all: usize,
    unproven: usize,
    next: u64,
    sources: BTreeMap<IpAddr, Source>,
}

/// The crowd of one port.
pub(super) struct Turnstile {
    limits: GateLimits,
    pub(super) logbook: Logbook,
    port: u16,
    clock: SystemClock,
    crowd: Mutex<Crowd>,
}

impl Turnstile {
    pub(super) fn new(limits: GateLimits, logbook: Logbook, port: u16) -> Arc<Self> {
        Arc::new(Self { limits, logbook, port, clock: SystemClock::new(), crowd: Mutex::default() })
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        // Counts; none is left half changed by a panic.
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`, unless a limit is reached.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        self.enter_at(address, self.clock.monotonic())
    }

    fn enter_at(self: &Arc<Self>, address: IpAddr, now: Duration) -> Option<Place> {
        let counters = &self.logbook.counters;
        let mut crowd = self.crowd();
        let refused = match crowd.admit(source(address), now, &self.limits) {
            Ok((number, cut)) => {
                return Some(Place { turnstile: self.clone(), address, number, cut, proven: false });
            }
            Err(refused) => refused,
        };
        drop(crowd);
        let (counter, reason) = match refused {
            Refused::Rate => (&counters.refused_rate, "refused_rate"),
            Refused::Full => (&counters.refused_full, "refused_full"),
            Refused::Source => (&counters.refused_address, "refused_address"),
            Refused::Unproven => (&counters.refused_unproven, "refused_unproven"),
        };
        self.logbook.refused(address, self.port, counter, reason);
        None
    }
}

enum Refused {
    Rate,
    Full,
    Source,
    Unproven,
}

impl Crowd {
    /// Counts a newcomer, or says what keeps it out.
    fn admit(&mut self, from: IpAddr, now: Duration, limits: &GateLimits) -> Result<(u64, CancellationToken), Refused> {
        if !self.sources.contains_key(&from) && self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, source| source.all > 0);
        }
        let full = u64::from(limits.arrivals_per_address_burst) * 1000;
        let known = self.sources.entry(from);
        let source = known.or_insert_with(|| Source { tokens: full, counted: now, ..Source::default() });
        let elapsed = u64::try_from(now.saturating_sub(source.counted).as_millis()).unwrap_or(u64::MAX);
        if elapsed > 0 {
            let earned = elapsed.saturating_mul(u64::from(limits.arrivals_per_address_per_second));
            source.tokens = source.tokens.saturating_add(earned).min(full);
            source.counted = now;
        }
        if source.tokens < 1000 {
            return Err(Refused::Rate);
        }
        source.tokens -= 1000;
        if self.all >= limits.connections_max {
            return Err(Refused::Full);
        }
        if source.all >= limits.connections_per_address_max {
            return Err(Refused::Source);
        }
        let own = source.unproven.len();
        if self.unproven >= limits.unproven_max && !self.displace(own, now) {
            return Err(Refused::Unproven);
        }
        let Some(source) = self.sources.get_mut(&from) else { return Err(Refused::Unproven) };
        let (number, cut) = (self.next, CancellationToken::new());
        source.all += 1;
        source.unproven.insert(number, Unproven { since: now, cut: cut.clone() });
        self.all += 1;
        self.unproven += 1;
        self.next += 1;
        Ok((number, cut))
    }

    /// Cuts one that has proved nothing, to make room for a newcomer whose source has `own` of them.
    fn displace(&mut self, own: usize, now: Duration) -> bool {
        let Some(most) = self.sources.values_mut().max_by_key(|source| source.unproven.len()) else { return false };
        let more = most.unproven.len() > own;
        let Some(oldest) = most.unproven.first_entry() else { return false };
        if !more && now.saturating_sub(oldest.get().since) < PATIENCE {
            return false;
        }
        oldest.remove().cut.cancel();
        self.unproven -= 1;
        true
    }

    fn prove(&mut self, from: IpAddr, number: u64) {
        let unproven = self.sources.get_mut(&from).and_then(|source| source.unproven.remove(&number));
        self.unproven -= usize::from(unproven.is_some());
    }
}

/// One connection's place in the crowd.
pub(super) struct Place {
    turnstile: Arc<Turnstile>,
    pub(super) address: IpAddr,
    number: u64,
    cut: CancellationToken,
    proven: bool,
}

impl Place {
    /// It has proved something: who it is, or that it was invited.
    pub(super) fn prove(&mut self) {
        if !self.proven {
            self.proven = true;
            self.turnstile.crowd().prove(source(self.address), self.number);
        }
    }

    /// Cancelled when it has to give way to others.
    pub(super) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let from = source(self.address);
        let mut crowd = self.turnstile.crowd();
        crowd.prove(from, self.number);
        crowd.all -= 1;
        if let Some(source) = crowd.sources.get_mut(&from) {
            source.all -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
    const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn turnstile(limits: GateLimits) -> Arc<Turnstile> {
        Turnstile::new(limits, Logbook::default(), 4506)
    }

    fn limits() -> GateLimits {
        GateLimits {
            connections_max: 100,
            connections_per_address_max: 100,
            unproven_max: 100,
            arrivals_per_address_per_second: 10,
            arrivals_per_address_burst: 100,
            ..GateLimits::default()
        }
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let turnstile = turnstile(GateLimits { connections_max: 3, connections_per_address_max: 2, ..limits() });
        let [mut first, second] = [(); 2].map(|()| turnstile.enter(NEAR).expect("room"));
        first.prove();
        assert!(turnstile.enter(NEAR).is_none(), "two from one address, of this machine or not");
        let third = turnstile.enter(FAR).expect("room");
        assert!(turnstile.enter(FAR).is_none(), "full");
        drop(second);
        assert!(turnstile.enter(FAR).is_some());
        let counters = &turnstile.logbook.counters;
        let refused = [&counters.refused_address, &counters.refused_full];
        assert_eq!(refused.map(|counter| counter.load(Relaxed)), [1, 1]);
        let offences = turnstile.logbook.offences.top();
        assert!(offences.iter().any(|offence| (offence.address, offence.reason) == (NEAR, "refused_address")));
        drop((first, third));
        let crowd = turnstile.crowd();
        assert_eq!((crowd.all, crowd.unproven), (0, 0));
        assert!(crowd.sources.values().all(|source| source.all == 0 && source.unproven.is_empty()));
    }

    #[test]
    fn a_crowd_of_one_source_gives_way_to_others() {
        let turnstile = turnstile(GateLimits { unproven_max: 4, ..limits() });
        let now = Duration::from_secs(100);
        let crowd: Vec<_> = (0..4).map(|_| turnstile.enter_at(NEAR, now).expect("room")).collect();
        assert!(turnstile.enter_at(NEAR, now).is_none(), "one's own crowd is in the way");
        let mut far = turnstile.enter_at(FAR, now).expect("another source");
        let cut = |place: &Place| place.cut().is_cancelled();
        assert_eq!(crowd.iter().map(cut).collect::<Vec<_>>(), [true, false, false, false], "the oldest");
        far.prove();
        assert!(!far.cut().is_cancelled());
        let _next = turnstile.enter_at(NEAR, now).expect("a place is free again");
        assert!(turnstile.enter_at(NEAR, now + PATIENCE / 2).is_none());
        let _later = turnstile.enter_at(NEAR, now + PATIENCE).expect("they have had their time");
        assert!(cut(&crowd[1]) && !cut(&crowd[2]));
        drop(crowd);
        assert_eq!(turnstile.crowd().unproven, 2);
    }

    #[test]
    fn a_source_that_knocks_too_often_is_refused_until_it_rests() {
        let turnstile = turnstile(GateLimits { arrivals_per_address_burst: 5, ..limits() });
        let now = Duration::from_secs(100);
        let come = |address, now| (0..20).filter(|_| turnstile.enter_at(address, now).is_some()).count();
        assert_eq!(come(NEAR, now), 5);
        assert_eq!(come(FAR, now), 5, "each source for itself");
        assert_eq!(come(NEAR, now + Duration::from_millis(300)), 3, "ten a second");
        assert_eq!(come(NEAR, now + Duration::from_secs(60)), 5, "and never more than the burst");
        let neighbours: [IpAddr; 2] = ["2001:db8::1", "2001:db8::ffff:2"].map(|text| text.parse().expect("valid"));
        assert_eq!(neighbours.map(|address| come(address, now)), [5, 0], "a /64 is one source");
    }

    #[test]
    fn sources_that_left_do_not_pile_up() {
        let turnstile = turnstile(limits());
        for number in 0..10_000 {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
            assert!(turnstile.enter(address.into()).is_some());
        }
        assert!(turnstile.crowd().sources.len() <= SOURCES_MAX);
    }
}
