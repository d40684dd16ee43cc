//! Which profile fits what is measured. Pure.
//!
//! An operator's choice is held against the round trip that one in a hundred exceeds, because a heartbeat that comes too late
//! is as good as none. What `auto` chooses follows the median: a distance is in every round trip, a busy moment only in some,
//! and a cluster must not change its timing because a machine was busy.

use super::distance::{SAMPLES_MIN, pair};
use saltern_wire::MasterId;
use saltern_wire::api::RoundTrip;
use saltern_wire::profile::{Profile, Timing};
use std::collections::{BTreeMap, BTreeSet};

/// The way that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Longest {
    /// Between whom.
    pub pair: (MasterId, MasterId),
    /// What is measured of it.
    pub round_trip: RoundTrip,
}

/// Why a profile does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A way is longer than the profile bears.
    #[error(
        "the profile {profile} bears round trips of {} ms, and one in a hundred between {one} and {other} takes more than \
         {}: set the profile {fitting}",
        profile.round_trip_us_max() / 1_000, milliseconds(*p99_us)
    )]
    Profile {
        /// What was to be.
        profile: Profile,
        /// One end of the way, by name.
        one: String,
        /// The other.
        other: String,
        /// What is measured, in microseconds.
        p99_us: u64,
        /// What would do.
        fitting: Profile,
    },
    /// Nobody knows yet whether a faster profile would fit.
    #[error(
        "whether the profile {profile} fits is not known: the way between {one} and {other} was not measured often enough. Both \
         have to answer for half a minute; try again then"
    )]
    Unmeasured {
        /// What was to be.
        profile: Profile,
        /// One end of the way, by name.
        one: String,
        /// The other.
        other: String,
    },
    /// A way is longer than any profile bears.
    #[error(
        "one in a hundred round trips between {one} and {other} takes more than {}, and no profile bears more than {} ms: \
         bring the masters nearer to each other, or repair the road",
        milliseconds(*p99_us), Profile::Geo.round_trip_us_max() / 1_000
    )]
    Every {
        /// One end of the way, by name.
        one: String,
        /// The other.
        other: String,
        /// What is measured, in microseconds.
        p99_us: u64,
    },
}

/// Microseconds, for people.
pub fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1_000, us % 1_000 / 100)
}

/// The longest way between `members` by the given figure; only ways that were measured often enough count.
fn longest(
    pairs: &BTreeMap<(MasterId, MasterId), RoundTrip>,
    members: &BTreeSet<MasterId>,
    figure: fn(&RoundTrip) -> u64,
) -> Option<Longest> {
    let ours = |(one, other): &(MasterId, MasterId)| members.contains(one) && members.contains(other);
    let measured = pairs.iter().filter(|(pair, way)| ours(pair) && way.count >= SAMPLES_MIN);
    let longest = measured.max_by_key(|(_, way)| figure(way))?;
    Some(Longest { pair: *longest.0, round_trip: *longest.1 })
}

/// Whether `profile` bears every measured way between `members`.
pub fn fits(
    profile: Profile,
    pairs: &BTreeMap<(MasterId, MasterId), RoundTrip>,
    members: &BTreeSet<MasterId>,
    name: impl Fn(MasterId) -> String,
) -> Result<(), Unfit> {
    let Some(Longest { pair: (one, other), round_trip }) = longest(pairs, members, |way| way.p99_us) else {
        return Ok(());
    };
    let p99_us = round_trip.p99_us;
    let (one, other) = (name(one), name(other));
    match Profile::fastest_for(p99_us) {
        Some(fitting) if fitting <= profile => Ok(()),
        Some(fitting) => Err(Unfit::Profile { profile, one, other, p99_us, fitting }),
        None => Err(Unfit::Every { one, other, p99_us }),
    }
}

/// Whether `profile` may take the place of `current`: it fits, and if it is the faster one, every way between `members` was
/// measured. Too slow a timing costs a longer pause; too fast a one costs elections without end.
pub fn may_follow(
    profile: Profile,
    current: Profile,
    pairs: &BTreeMap<(MasterId, MasterId), RoundTrip>,
    members: &BTreeSet<MasterId>,
    name: impl Fn(MasterId) -> String,
) -> Result<(), Unfit> {
    fits(profile, pairs, members, &name)?;
    if profile >= current {
        return Ok(());
    }
    let measured = |ends: (MasterId, MasterId)| pairs.get(&ends).is_some_and(|way| way.count >= SAMPLES_MIN);
    let ways = members.iter().flat_map(|one| members.range(one..).skip(1).map(move |other| (*one, *other)));
    match ways.into_iter().find(|ends| !measured(*ends)) {
        Some((one, other)) => Err(Unfit::Unmeasured { profile, one: name(one), other: name(other) }),
        None => Ok(()),
    }
}

/// The fastest profile that bears the median of every measured way between `members`; the slowest there is, if even that
/// does not. `None` while nothing is measured.
pub fn measured(pairs: &BTreeMap<(MasterId, MasterId), RoundTrip>, members: &BTreeSet<MasterId>) -> Option<Profile> {
    let Longest { round_trip, .. } = longest(pairs, members, |way| way.p50_us)?;
    Some(Profile::fastest_for(round_trip.p50_us).unwrap_or(Profile::Geo))
}

/// Probes without which nobody is made a voter: enough to tell a distance from a busy moment, and a third of a second.
const SAMPLES_TO_VOTE: u32 = 3;

/// Whether `id` is near enough to the master that leads, and to every other voter that it has measured, for heartbeats of
/// `timing`. One that is not must not vote: its votes and acknowledgements would come too late.
pub fn near_enough(
    timing: Timing,
    pairs: &BTreeMap<(MasterId, MasterId), RoundTrip>,
    leader: MasterId,
    id: MasterId,
    voters: &BTreeSet<MasterId>,
) -> bool {
    let way = |other: &MasterId| pairs.get(&pair(id, *other)).filter(|way| way.count >= SAMPLES_TO_VOTE);
    let near = |way: &RoundTrip| way.p50_us <= timing.heartbeat_ms * 1_000 / 2;
    way(&leader).is_some() && voters.iter().filter_map(way).all(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(ms: u64, p99_ms: u64) -> RoundTrip {
        RoundTrip { p50_us: ms * 1_000, p99_us: p99_ms * 1_000, count: 100 }
    }

    fn world(ways: &[(u64, u64, RoundTrip)]) -> BTreeMap<(MasterId, MasterId), RoundTrip> {
        ways.iter().map(|(one, other, way)| (pair(MasterId(*one), MasterId(*other)), *way)).collect()
    }

    fn members(ids: &[u64]) -> BTreeSet<MasterId> {
        ids.iter().copied().map(MasterId).collect()
    }

    fn name(id: MasterId) -> String {
        format!("m{id}")
    }

    #[test]
    fn a_profile_that_does_not_bear_the_longest_way_is_refused_with_the_one_that_does() {
        let pairs = world(&[(1, 2, way(80, 83)), (1, 3, way(100, 101)), (2, 3, way(1, 2))]);
        let refused = fits(Profile::Lan, &pairs, &members(&[1, 2, 3]), name).expect_err("too far").to_string();
        assert_eq!(
            refused,
            "the profile lan bears round trips of 25 ms, and one in a hundred between m1 and m3 takes more than 101.0 ms: \
             set the profile geo"
        );
        assert_eq!(fits(Profile::Geo, &pairs, &members(&[1, 2, 3]), name), Ok(()));
        assert_eq!(fits(Profile::Lan, &pairs, &members(&[2, 3]), name), Ok(()), "the far one is not among them");
    }

    #[test]
    fn beyond_every_profile_says_so() {
        let pairs = world(&[(1, 2, way(260, 300))]);
        let refused = fits(Profile::Geo, &pairs, &members(&[1, 2]), name).expect_err("too far").to_string();
        assert!(
            refused.contains("m1 and m2 takes more than 300.0 ms, and no profile bears more than 250 ms"),
            "{refused}"
        );
        assert_eq!(measured(&pairs, &members(&[1, 2])), Some(Profile::Geo), "the best there is");
    }

    #[test]
    fn a_busy_moment_does_not_change_what_is_chosen_but_is_told_to_an_operator() {
        let pairs = world(&[(1, 2, way(1, 120))]);
        assert_eq!(measured(&pairs, &members(&[1, 2])), Some(Profile::Lan));
        assert!(fits(Profile::Lan, &pairs, &members(&[1, 2]), name).is_err());
    }

    #[test]
    fn a_faster_profile_has_to_be_known_to_fit_and_a_slower_one_need_not() {
        let known = world(&[(1, 2, way(1, 2)), (1, 3, way(1, 2)), (2, 3, way(1, 2))]);
        let unknown = world(&[(1, 2, way(1, 2)), (1, 3, way(1, 2))]);
        let may = |pairs, profile, current| may_follow(profile, current, pairs, &members(&[1, 2, 3]), name);
        assert_eq!(may(&known, Profile::Lan, Profile::Geo), Ok(()));
        let refused = may(&unknown, Profile::Lan, Profile::Geo).expect_err("nobody knows").to_string();
        assert!(refused.contains("between m2 and m3 was not measured often enough"), "{refused}");
        assert_eq!(may(&unknown, Profile::Geo, Profile::Lan), Ok(()));
        assert_eq!(may(&unknown, Profile::Lan, Profile::Lan), Ok(()));
    }

    #[test]
    fn who_is_too_far_does_not_vote_and_who_was_not_measured_does_not_yet() {
        let near = |ways: &[(u64, u64, RoundTrip)], profile: Profile| {
            near_enough(profile.timing(), &world(ways), MasterId(1), MasterId(3), &members(&[1, 2]))
        };
        assert!(near(&[(1, 3, way(1, 90)), (2, 3, way(1, 2))], Profile::Lan), "a busy moment is no distance");
        assert!(!near(&[(1, 3, way(100, 101))], Profile::Lan));
        assert!(near(&[(1, 3, way(100, 101))], Profile::Geo));
        assert!(!near(&[(1, 3, way(1, 1)), (2, 3, way(100, 101))], Profile::Lan), "far from another voter");
        assert!(!near(&[(1, 3, RoundTrip { count: 2, ..way(1, 1) })], Profile::Lan));
        assert!(!near(&[], Profile::Geo));
    }

    #[test]
    fn little_is_concluded_from_little() {
        let few = RoundTrip { count: SAMPLES_MIN - 1, ..way(300, 300) };
        let pairs = world(&[(1, 2, few)]);
        assert_eq!(measured(&pairs, &members(&[1, 2])), None);
        assert_eq!(fits(Profile::Lan, &pairs, &members(&[1, 2]), name), Ok(()));
    }
}
