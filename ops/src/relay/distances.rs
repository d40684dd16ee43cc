//! How far places are from each other: round trips, by pair.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Round trips between places. A pair that is not named is as far as the rest; a place is no way from itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distances {
    pairs: BTreeMap<(String, String), Duration>,
    rest: Duration,
    cut: BTreeSet<(String, String)>,
}

/// Why there are no distances.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DistancesError {
    /// There is not one round trip per pair.
    #[error("{places} places make {wanted} pairs, and {given} round trips were given; write one each for {}", pairs.join(", "))]
    Count {
        /// How many places.
        places: usize,
        /// How many pairs they make.
        wanted: usize,
        /// How many round trips there are.
        given: usize,
        /// The pairs, in the order of their round trips.
        pairs: Vec<String>,
    },
    /// A place is named twice.
    #[error("{0:?} is named twice: every place has one name")]
    Twice(String),
}

impl Distances {
    /// Every place is as far from every other one.
    pub fn equal(round_trip: Duration) -> Self {
        Self { rest: round_trip, ..Self::default() }
    }

    /// One round trip per pair of `places`: the first with each of those after it, then the second, and so on. Three places
    /// a, b, c have them in the order a-b, a-c, b-c.
    pub fn between(places: &[String], round_trips: &[Duration]) -> Result<Self, DistancesError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = places.iter().find(|place| !seen.insert(*place)) {
            return Err(DistancesError::Twice(twice.clone()));
        }
        let pairs: Vec<(&String, &String)> = pairs_of(places);
        if pairs.len() != round_trips.len() {
            let pairs: Vec<String> = pairs.into_iter().map(|(one, other)| format!("{one}-{other}")).collect();
            let (places, given) = (places.len(), round_trips.len());
            return Err(DistancesError::Count { places, wanted: pairs.len(), given, pairs });
        }
        let mut distances = Self::default();
        for ((one, other), round_trip) in pairs.into_iter().zip(round_trips) {
            distances.set(one, other, *round_trip);
        }
        Ok(distances)
    }

    /// The round trip between two places.
    pub fn round_trip(&self, one: &str, other: &str) -> Duration {
        if one == other {
            return Duration::ZERO;
        }
        self.pairs.get(&pair(one, other)).copied().unwrap_or(self.rest)
    }

    /// Changes the round trip between two places.
    pub fn set(&mut self, one: &str, other: &str, round_trip: Duration) {
        self.pairs.insert(pair(one, other), round_trip);
    }

    /// Lets nothing through between two places, in silence, until they are [joined](Self::join) again. What was on its way
    /// arrives then.
    pub fn cut(&mut self, one: &str, other: &str) {
        self.cut.insert(pair(one, other));
    }

    /// Lets everything through again.
    pub fn join(&mut self, one: &str, other: &str) {
        self.cut.remove(&pair(one, other));
    }

    /// Whether nothing gets through.
    pub fn is_cut(&self, one: &str, other: &str) -> bool {
        self.cut.contains(&pair(one, other))
    }
}

/// Every pair of `places`, in the order of their round trips.
fn pairs_of(places: &[String]) -> Vec<(&String, &String)> {
    let rest = |index: usize| places.iter().skip(index + 1);
    places.iter().enumerate().flat_map(|(index, one)| rest(index).map(move |other| (one, other))).collect()
}

/// A pair is the same whoever is named first.
fn pair(one: &str, other: &str) -> (String, String) {
    let (low, high) = if one <= other { (one, other) } else { (other, one) };
    (low.to_owned(), high.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(counts: &[u64]) -> Vec<Duration> {
        counts.iter().copied().map(Duration::from_millis).collect()
    }

    fn places(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn pairs_come_in_the_order_of_the_places() {
        let distances = Distances::between(&places(&["eu", "us", "ap"]), &ms(&[80, 150, 220])).expect("three pairs");
        assert_eq!(distances.round_trip("eu", "us"), Duration::from_millis(80));
        assert_eq!(distances.round_trip("ap", "eu"), Duration::from_millis(150));
        assert_eq!(distances.round_trip("us", "ap"), Duration::from_millis(220));
        assert_eq!(distances.round_trip("us", "us"), Duration::ZERO);
    }

    #[test]
    fn a_wrong_number_of_round_trips_names_the_pairs() {
        let refused = Distances::between(&places(&["eu", "us", "ap"]), &ms(&[80, 150])).expect_err("a pair lacks one");
        assert_eq!(
            refused.to_string(),
            "3 places make 3 pairs, and 2 round trips were given; write one each for eu-us, eu-ap, us-ap"
        );
        let refused = Distances::between(&places(&["eu", "eu"]), &ms(&[80])).expect_err("one place");
        assert_eq!(refused.to_string(), "\"eu\" is named twice: every place has one name");
    }

    #[test]
    fn what_is_not_named_is_as_far_as_the_rest() {
        let mut distances = Distances::equal(Duration::from_millis(100));
        assert_eq!(distances.round_trip("a", "b"), Duration::from_millis(100));
        distances.set("b", "a", Duration::from_millis(5));
        assert_eq!(distances.round_trip("a", "b"), Duration::from_millis(5));
        distances.cut("a", "b");
        assert!(distances.is_cut("b", "a"));
        distances.join("b", "a");
        assert!(!distances.is_cut("a", "b"));
    }
}
