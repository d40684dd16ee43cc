//! The masters that may be attached to: whom to dial next, and where the standby session waits.

use super::choice::{Apart, Home, Merit, Place, apart, score};
use super::{STABLE, jittered};
use saltern_wire::io::Address;
use saltern_wire::master::MasterRecord;
use saltern_wire::slot::{Slot, Ticket};
use saltern_wire::{MasterId, MinionId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Longest wait before a failing master is tried again.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Wait after the second failure; it doubles from there.
const BACKOFF_FIRST: Duration = Duration::from_millis(250);

/// How long it is remembered that a master was of no use: had no quorum, or refused every call.
const USELESS_MEMORY: Duration = Duration::from_secs(60);

/// A slot that is no further away is waited for; meanwhile nobody else is asked, who would reserve a second place.
const SLOT_WORTH_WAITING: Duration = Duration::from_secs(3);

/// Those whom a full queue sent away without a slot come again spread over so long.
const FULL_SPREAD: Duration = Duration::from_secs(5);

/// Longest obeyed `retry_after`.
const STAY_AWAY_MAX: Duration = Duration::from_secs(600);

/// How long a master that could not hold a standby session is not asked for one again, at least; half of it more is drawn. Nobody
/// waits for it, so a restarted master is spared its standby sessions while its minions come back.
const STANDBY_AGAIN: Duration = Duration::from_secs(15);

/// Round trips that are remembered of a master: the shortest of them is how far it is away, the others say how busy it was.
const ROUND_TRIPS_MAX: usize = 8;

#[derive(Debug, Clone, Default)]
struct Mark {
    configured: bool,
    /// Where the directory says that it stands; `None` if it does not list this address.
    place: Option<Place>,
    failures: u32,
    not_before: Duration,
    useless_until: Duration,
    /// What it gave us for the time `not_before`: it expects us then.
    ticket: Option<Ticket>,
    standby_not_before: Duration,
    round_trips: VecDeque<Duration>,
}

/// The masters that may be attached to.
#[derive(Debug, Clone)]
pub struct Candidates {
    minion: MinionId,
    home: Home,
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

/// Where the standby session is to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub address: Address,
    /// Which master that is.
    pub master: MasterId,
    /// Whether it is better than the one that this minion works through.
    pub preferred: bool,
}

impl Candidates {
    /// Starts from the configured addresses.
    pub fn new(minion: MinionId, home: Home, configured: &[Address]) -> Self {
        let mark = Mark { configured: true, ..Mark::default() };
        Self { minion, home, marks: configured.iter().map(|address| (address.clone(), mark.clone())).collect() }
    }

    /// Takes over the directory's active masters. The configured addresses stay: they are what is left when the whole cluster
    /// moves.
    pub fn handle_directory<'a>(&mut self, active: impl Iterator<Item = &'a MasterRecord>) {
        self.marks.values_mut().for_each(|mark| mark.place = None);
        for record in active {
            let MasterRecord { id: master, region, zone, weight, .. } = record;
            let place = Place { master: *master, region: region.clone(), zone: zone.clone(), weight: *weight };
            self.marks.entry(record.endpoints.session.clone()).or_default().place = Some(place);
        }
        self.marks.retain(|_, mark| mark.place.is_some() || mark.configured);
    }

    /// The best one to try, and when.
    pub fn choose(&self, now: Duration) -> Option<Choice> {
        if let Some(choice) = self.expected(now) {
            return Some(choice);
        }
        let shortest = self.shortest();
        let rank = |(address, mark): &(&Address, &Mark)| {
            (
                mark.not_before.max(now),
                mark.useless_until > now,
                mark.failures,
                // An address that only the configuration knows may be an alias of a listed one.
                mark.place.is_none(),
                self.merit(address, mark).map(|merit| merit.rank(shortest)),
                Reverse(score(self.minion.as_str(), &address.to_string(), 1).to_bits()),
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

    /// The master has a queue, and gave us a slot or asks us to come again. No failure: nothing is held against it. Gives when
    /// to come.
    pub fn handle_slot(&mut self, address: &Address, slot: Slot, now: Duration, random: u64) -> Duration {
        let mut at = now + Duration::from_millis(slot.wait_ms.into());
        if slot.ticket.is_none() {
            at += jittered(FULL_SPREAD, random);
        }
        if let Some(mark) = self.marks.get_mut(address) {
            (mark.ticket, mark.not_before) = (slot.ticket, at);
        }
        at
    }

    /// What to show the master at `address`. It is good once.
    pub fn take_ticket(&mut self, address: &Address) -> Option<Ticket> {
        self.marks.get_mut(address)?.ticket.take()
    }

    /// Where the standby session of a minion that works through `primary` is to wait: with a better master if there is one
    /// (unless the minion is to `stay` where it is), else in another failure domain. `None` while there is nobody.
    pub fn standby(&self, primary: MasterId, stay: bool, now: Duration) -> Option<Wanted> {
        // One that is not listed any more is on its way out: everybody is better.
        let own = self.listed().find(|(_, place, _)| place.master == primary);
        let free = |address: &Address| {
            let mark = self.marks.get(address)?;
            let wait = mark.standby_not_before.max(mark.not_before).max(mark.useless_until);
            (wait <= now).then_some(())
        };
        let shortest = self.shortest();
        let order = |(address, place, merit): (&Address, &Place, Merit)| {
            let is_better = own.as_ref().is_none_or(|(_, _, own)| merit.is_better_than(own));
            let preferred = !stay && is_better;
            // One that is better is where this minion goes: how far it is from the present one does not matter.
            let distance = own.as_ref().filter(|_| !preferred).map_or(Apart::Zones, |(_, own, _)| apart(own, place));
            let wanted = Wanted { address: address.clone(), master: place.master, preferred };
            ((!preferred, distance, merit.rank(shortest)), wanted)
        };
        let others = self.listed().filter(|(address, place, _)| place.master != primary && free(address).is_some());
        others.map(order).min_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, wanted)| wanted)
    }

    /// The best master but `primary`, whatever is held against it: for a minion that has to leave.
    pub fn elsewhere(&self, primary: MasterId) -> Option<Wanted> {
        let others = self.listed().filter(|(_, place, _)| place.master != primary);
        let (address, place, _) = others.min_by_key(|(_, _, merit)| merit.rank(self.shortest()))?;
        Some(Wanted { address: address.clone(), master: place.master, preferred: true })
    }

    /// When a master may be asked for a standby session that may not be now, if there is one.
    pub fn standby_again(&self, now: Duration) -> Option<Duration> {
        let waits = self.marks.values().filter(|mark| mark.place.is_some()).map(|mark| mark.standby_not_before);
        waits.filter(|wait| *wait > now).min()
    }

    /// Where the directory says that `master` is reached.
    pub fn address_of(&self, master: MasterId) -> Option<&Address> {
        self.listed().find(|(_, place, _)| place.master == master).map(|(address, ..)| address)
    }

    /// Masters that the directory lists.
    fn listed(&self) -> impl Iterator<Item = (&Address, &Place, Merit)> {
        self.marks.iter().filter_map(|(address, mark)| {
            let (place, merit) = (mark.place.as_ref()?, self.merit(address, mark)?);
            Some((address, place, merit))
        })
    }

    fn merit(&self, address: &Address, mark: &Mark) -> Option<Merit> {
        let place = mark.place.as_ref()?;
        let score = score(self.minion.as_str(), &address.to_string(), place.weight);
        Some(Merit { tier: self.home.tier(place), round_trip: mark.round_trips.iter().min().copied(), score })
    }

    /// The shortest round trip to any master that is listed.
    fn shortest(&self) -> Option<Duration> {
        self.listed().filter_map(|(_, _, merit)| merit.round_trip).min()
    }

    /// A ping to the master came back after so long.
    pub fn handle_round_trip(&mut self, master: MasterId, round_trip: Duration) {
        let is_meant = |mark: &&mut Mark| mark.place.as_ref().is_some_and(|place| place.master == master);
        let Some(mark) = self.marks.values_mut().find(is_meant) else { return };
        mark.round_trips.push_back(round_trip);
        if mark.round_trips.len() > ROUND_TRIPS_MAX {
            mark.round_trips.pop_front();
        }
    }

    /// The master does not hold a standby session now, or was lost with it. `asked` is how long it wants to be left alone.
    pub fn handle_standby_failure(&mut self, address: &Address, asked: Duration, now: Duration, random: u64) {
        if let Some(mark) = self.marks.get_mut(address) {
            let own = STANDBY_AGAIN + jittered(STANDBY_AGAIN / 2, random);
            mark.standby_not_before = now + own.max(asked.min(STAY_AWAY_MAX));
        }
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
