//! What makes one master better than another for this minion. Pure.
//!
//! ```text
//!   same zone  ▶  same region  ▶  elsewhere, the lowest round trip first      and inside of each: weighted rendezvous hashing
//! ```
//!
//! Rendezvous hashing gives each minion an order of masters of its own. All orders together share minions out by weight, and a
//! master that comes or goes moves only the minions that it takes or had.
//!
//! **Invariants.** Of two masters at most one is better than the other, so that nobody is sent back and forth. A round trip
//! counts only where labels say nothing, and only if it is better by [`MARGIN`] and by a third: what lies between is noise.

use saltern_wire::MasterId;
use std::cmp::Reverse;
use std::time::Duration;

/// A master elsewhere is nearer than another one only if its round trip is shorter by this.
const MARGIN: Duration = Duration::from_millis(10);

/// Where this minion stands, as its configuration says. Empty labels are like nobody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    /// A failure domain of the size of a country.
    pub region: String,
    /// A failure domain of the size of a building.
    pub zone: String,
}

/// Where a master stands, as the directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which master.
    pub master: MasterId,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Its share of minions beside others of its tier; 100 is ordinary.
    pub weight: u32,
}

/// How near a master is; nearer ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// In this minion's zone.
    Zone,
    /// In its region.
    Region,
    /// Anywhere else, or nobody said where.
    Elsewhere,
}

/// What two masters do not share; what serves a standby session best comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Apart {
    /// They stand in two zones of one region.
    Zones,
    /// They stand in two regions.
    Regions,
    /// They are two masters, as far as anybody knows in one place.
    Masters,
}

impl Home {
    /// How near `place` is.
    pub fn tier(&self, place: &Place) -> Tier {
        let is_region = !self.region.is_empty() && self.region == place.region;
        // Zones are named within their region; where nobody names regions, a zone's name is enough.
        let is_zone = !self.zone.is_empty() && self.zone == place.zone && self.region == place.region;
        match (is_zone, is_region) {
            (true, _) => Tier::Zone,
            (false, true) => Tier::Region,
            (false, false) => Tier::Elsewhere,
        }
    }
}

/// What the failure of one of them need not take from the other.
pub fn apart(one: &Place, other: &Place) -> Apart {
    if one.region != other.region {
        Apart::Regions
    } else if one.zone != other.zone {
        Apart::Zones
    } else {
        Apart::Masters
    }
}

/// What is compared of a master.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Merit {
    pub(super) tier: Tier,
    /// The shortest round trip seen lately, if there was one.
    pub(super) round_trip: Option<Duration>,
    /// From [`score`].
    pub(super) score: f64,
}

/// Whether a round trip of `one` is so much shorter than one of `other` that it is worth a move.
fn is_nearer(one: Duration, other: Duration) -> bool {
    one + MARGIN <= other && one * 3 < other * 2
}

impl Merit {
    /// Whether this one is worth leaving `other` for.
    pub(super) fn is_better_than(&self, other: &Self) -> bool {
        if self.tier != other.tier {
            return self.tier < other.tier;
        }
        if let (Tier::Elsewhere, Some(one), Some(two)) = (self.tier, self.round_trip, other.round_trip) {
            if is_nearer(one, two) {
                return true;
            }
            if is_nearer(two, one) {
                return false;
            }
        }
        self.score > other.score
    }

    /// For sorting many of them, the best first; `shortest` is the shortest round trip among them. One that was never measured
    /// counts as near: it is tried, and measured.
    pub(super) fn rank(&self, shortest: Option<Duration>) -> (Tier, bool, Reverse<u64>) {
        let is_far = match (self.tier, self.round_trip, shortest) {
            (Tier::Elsewhere, Some(own), Some(shortest)) => is_nearer(shortest, own),
            (Tier::Zone | Tier::Region | Tier::Elsewhere, ..) => false,
        };
        // Positive floating point numbers sort as their bits do.
        (self.tier, is_far, Reverse(self.score.to_bits()))
    }
}

/// Weighted rendezvous hashing: the master with the highest score is this minion's own. `weight / -ln(u)` with `u` drawn
/// evenly from the two names shares minions out in proportion to the weights (Schindelhauer and Schomaker, SPAA 2005).
pub(super) fn score(minion: &str, master: &str, weight: u32) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(minion.as_bytes());
    hasher.update(b"\0");
    hasher.update(master.as_bytes());
    let mut drawn = [0; 8];
    drawn.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    // 53 bits are what the fraction of a double holds; the half keeps it off 0 and 1.
    let even = ((u64::from_be_bytes(drawn) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    f64::from(weight.max(1)) / -even.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(master: u64, region: &str, zone: &str) -> Place {
        Place { master: MasterId(master), region: region.into(), zone: zone.into(), weight: 100 }
    }

    fn home(region: &str, zone: &str) -> Home {
        Home { region: region.into(), zone: zone.into() }
    }

    #[test]
    fn labels_say_how_near_a_master_is() {
        for (home, place, tier) in [
            (home("eu", "a"), place(1, "eu", "a"), Tier::Zone),
            (home("eu", "a"), place(1, "eu", "b"), Tier::Region),
            (home("eu", "a"), place(1, "us", "a"), Tier::Elsewhere),
            (home("eu", ""), place(1, "eu", ""), Tier::Region),
            (home("", "a"), place(1, "", "a"), Tier::Zone),
            (home("", ""), place(1, "", ""), Tier::Elsewhere),
        ] {
            assert_eq!(home.tier(&place), tier, "{home:?} {place:?}");
        }
        assert_eq!(apart(&place(1, "eu", "a"), &place(2, "eu", "b")), Apart::Zones);
        assert_eq!(apart(&place(1, "eu", "a"), &place(2, "us", "a")), Apart::Regions);
        assert_eq!(apart(&place(1, "", ""), &place(2, "", "")), Apart::Masters);
    }

    #[test]
    fn minions_are_shared_out_by_weight_and_only_those_of_a_new_master_move() {
        let own = |minion: usize, masters: &[(&str, u32)]| {
            let score = |(name, weight): &(&str, u32)| score(&format!("web-{minion}"), name, *weight);
            let best = masters.iter().max_by(|one, other| score(one).total_cmp(&score(other)));
            best.expect("some").0.to_owned()
        };
        let (before, after) = ([("a", 100), ("b", 50)], [("a", 100), ("b", 50), ("c", 150)]);
        let (mut of_a, mut moved) = (0, 0);
        for minion in 0..3000 {
            let (was, is) = (own(minion, &before), own(minion, &after));
            of_a += u32::from(was == "a");
            moved += u32::from(was != is);
            assert!(was == is || is == "c", "only the new master takes minions");
        }
        assert!((1900..2100).contains(&of_a), "two thirds, not {of_a}");
        assert!((1400..1600).contains(&moved), "half, not {moved}");
    }

    #[test]
    fn the_order_of_a_minion_is_the_same_in_every_version() {
        // A build that drew another order would move a whole fleet when it is installed.
        let order = |minion: &str| {
            let mut masters = ["m1:4506", "m2:4506", "m3:4506", "m4:4506"];
            masters.sort_by(|one, other| score(minion, other, 100).total_cmp(&score(minion, one, 100)));
            masters.map(|name| name.as_bytes()[1] - b'0')
        };
        let orders: Vec<[u8; 4]> = ["web-1", "web-2", "db.example", "x"].into_iter().map(order).collect();
        assert_eq!(orders, GOLDEN_ORDERS);
    }

    const GOLDEN_ORDERS: [[u8; 4]; 4] = [[1, 2, 3, 4], [3, 1, 4, 2], [1, 2, 3, 4], [4, 3, 2, 1]];

    #[test]
    fn of_two_masters_at_most_one_is_better() {
        let round_trips = [None, Some(1), Some(9), Some(11), Some(20), Some(29), Some(31), Some(200)];
        let mut all = Vec::new();
        for tier in [Tier::Zone, Tier::Region, Tier::Elsewhere] {
            for round_trip in round_trips {
                for score in [1.0, 2.0, 3.0] {
                    all.push(Merit { tier, round_trip: round_trip.map(Duration::from_millis), score });
                }
            }
        }
        for one in &all {
            for other in &all {
                assert!(!(one.is_better_than(other) && other.is_better_than(one)), "{one:?} {other:?}");
                assert!(one.tier <= other.tier || !one.is_better_than(other), "further away: {one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_round_trip_is_worth_a_move_only_beyond_noise() {
        let merit = |ms, score| Merit { tier: Tier::Elsewhere, round_trip: Some(Duration::from_millis(ms)), score };
        // The one with the shorter round trip has the lower score throughout.
        for (fast, slow, better) in
            [(1, 10, false), (1, 11, true), (20, 30, false), (19, 30, true), (100, 140, false), (90, 140, true)]
        {
            assert_eq!(merit(fast, 1.0).is_better_than(&merit(slow, 2.0)), better, "{fast} ms for {slow} ms");
        }
    }
}
