//! What is measured of the ways between masters. Pure: round trips come in, figures go out.

use crate::truth::Probed;
use saltern_wire::MasterId;
use saltern_wire::api::RoundTrip;
use saltern_wire::profile::Profile;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Probes that figures are made of: four minutes of them, long enough for a rank of one in a hundred to mean something and
/// short enough that a road which has changed is seen.
const SAMPLES_MAX: usize = 256;

/// Probes without which nothing is concluded: a fresh process or a busy start says little about a distance.
pub const SAMPLES_MIN: u32 = 20;

/// Probes below which a way is new.
const SAMPLES_NEW: usize = 5;

/// What one master measured of the way to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// To whom.
    pub to: MasterId,
    /// How long a round trip takes.
    pub round_trip: RoundTrip,
    /// Whether it answered the last probe.
    pub reachable: bool,
}

/// Every way that one master knows: its own, measured, and what the others say of theirs.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    own: BTreeMap<MasterId, Samples>,
    told: BTreeMap<MasterId, Told>,
}

/// What another master said of itself.
#[derive(Debug, Clone, Default)]
struct Told {
    ways: Vec<Way>,
    runs: Option<Profile>,
}

#[derive(Debug, Clone, Default)]
struct Samples {
    round_trips_us: VecDeque<u64>,
    reachable: bool,
}

impl Samples {
    fn figures(&self) -> Option<RoundTrip> {
        let mut sorted: Vec<u64> = self.round_trips_us.iter().copied().collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let count = u32::try_from(sorted.len()).unwrap_or(u32::MAX);
        // Of fewer than a hundred the slowest one alone says nothing: a start, a pause, a lost packet.
        let beyond = (sorted.len() / 100).max(usize::from(count >= SAMPLES_MIN));
        Some(RoundTrip { p50_us: sorted[last / 2], p99_us: sorted[last - beyond], count })
    }
}

impl Ways {
    /// What a probe of `to` brought.
    pub(crate) fn handle_probe(&mut self, to: MasterId, probed: &Probed) {
        self.handle_round_trip(to, probed.round_trip_us.filter(|_| probed.reachable));
        if probed.reachable {
            self.told.insert(to, Told { ways: probed.ways.clone(), runs: probed.runs });
        }
    }

    /// A probe of `to` came back after so many microseconds, or not at all. The first one after a silence had to dial, and
    /// says nothing of the distance.
    fn handle_round_trip(&mut self, to: MasterId, round_trip_us: Option<u64>) {
        let samples = self.own.entry(to).or_default();
        let dialled = !samples.reachable;
        samples.reachable = round_trip_us.is_some();
        if let Some(round_trip_us) = round_trip_us.filter(|_| !dialled) {
            samples.round_trips_us.push_back(round_trip_us);
            if samples.round_trips_us.len() > SAMPLES_MAX {
                samples.round_trips_us.pop_front();
            }
        }
    }

    /// Forgets masters that are gone.
    pub fn retain(&mut self, masters: &BTreeSet<MasterId>) {
        self.own.retain(|id, _| masters.contains(id));
        self.told.retain(|id, _| masters.contains(id));
    }

    /// This master's own ways, for the others.
    pub fn own(&self) -> Vec<Way> {
        let way = |(to, samples): (&MasterId, &Samples)| {
            Some(Way { to: *to, round_trip: samples.figures()?, reachable: samples.reachable })
        };
        self.own.iter().filter_map(way).collect()
    }

    /// Whether the way to `to` was never looked at, or is open and hardly measured.
    pub fn is_new(&self, to: MasterId) -> bool {
        let few = |samples: &Samples| samples.reachable && samples.round_trips_us.len() < SAMPLES_NEW;
        self.own.get(&to).is_none_or(few)
    }

    /// What this master measured of the way to `to`.
    pub fn to(&self, to: MasterId) -> Option<RoundTrip> {
        self.own.get(&to)?.figures()
    }

    /// What `from` says of its ways.
    pub fn of(&self, from: MasterId) -> &[Way] {
        self.told.get(&from).map_or(&[], |told| told.ways.as_slice())
    }

    /// The profile that `from` runs with; `None` if it has a timing of its own, or never said.
    pub fn runs(&self, from: MasterId) -> Option<Profile> {
        self.told.get(&from)?.runs
    }

    /// Every known way as `self_id` sees the world, by pair; of two that measured the same one, the slower says.
    pub fn pairs(&self, self_id: MasterId) -> BTreeMap<(MasterId, MasterId), RoundTrip> {
        let own = self.own().into_iter().map(|way| (self_id, way));
        let told = self.told.iter().flat_map(|(from, told)| told.ways.iter().map(|way| (*from, *way)));
        let mut pairs: BTreeMap<(MasterId, MasterId), RoundTrip> = BTreeMap::new();
        for (from, way) in own.chain(told) {
            let pair = pair(from, way.to);
            let slower = pairs.get(&pair).is_none_or(|held| held.p50_us < way.round_trip.p50_us);
            if slower {
                pairs.insert(pair, way.round_trip);
            }
        }
        pairs
    }
}

/// A pair is the same whoever is named first.
pub fn pair(one: MasterId, other: MasterId) -> (MasterId, MasterId) {
    if one <= other { (one, other) } else { (other, one) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: MasterId = MasterId(1);
    const FAR: MasterId = MasterId(2);
    const THIRD: MasterId = MasterId(3);

    #[test]
    fn one_hiccup_is_no_distance_and_two_are() {
        let mut ways = Ways::default();
        let mut p99_after = |round_trips_us: &[u64]| {
            round_trips_us.iter().for_each(|us| ways.handle_round_trip(FAR, Some(*us)));
            ways.to(FAR).expect("measured").p99_us
        };
        assert_eq!(p99_after(&[0, 668_000, 100, 100]), 668_000, "of three, nobody knows which one is the hiccup");
        assert_eq!(p99_after(&[100; 20]), 100);
        assert_eq!(p99_after(&[700_000]), 668_000);
    }

    #[test]
    fn figures_are_ranks_over_what_was_seen_lately() {
        let mut ways = Ways::default();
        assert_eq!(ways.to(FAR), None);
        ways.handle_round_trip(FAR, Some(300));
        (1..=100).for_each(|us| ways.handle_round_trip(FAR, Some(us)));
        assert_eq!(ways.to(FAR), Some(RoundTrip { p50_us: 50, p99_us: 99, count: 100 }));
        (0..SAMPLES_MAX).for_each(|_| ways.handle_round_trip(FAR, Some(7)));
        assert_eq!(ways.to(FAR).map(|way| (way.p50_us, way.p99_us)), Some((7, 7)), "the road has changed");
        ways.handle_round_trip(FAR, None);
        assert!(!ways.own()[0].reachable && ways.own()[0].round_trip.p50_us == 7, "silent now, as far as before");
    }

    #[test]
    fn a_pair_has_one_figure_whoever_measured_it() {
        let told =
            |to, p50_us| Way { to, round_trip: RoundTrip { p50_us, p99_us: p50_us, count: 20 }, reachable: true };
        let mut ways = Ways::default();
        ways.handle_round_trip(FAR, Some(300));
        ways.handle_round_trip(FAR, Some(80));
        ways.told.insert(FAR, Told { ways: vec![told(US, 90), told(THIRD, 220)], runs: None });
        let pairs = ways.pairs(US);
        assert_eq!(pairs[&(US, FAR)].p50_us, 90);
        assert_eq!(pairs[&(FAR, THIRD)].p50_us, 220);
        ways.retain(&[THIRD].into());
        assert!(ways.pairs(US).is_empty());
    }
}
