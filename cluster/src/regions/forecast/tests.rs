//! Clusters and what their losses mean.

use super::*;
use saltern_wire::profile::Profile;

/// `eu1 eu voter 10, …`: name, region, role, minions; a `!` after the role if it is silent.
fn members(text: &str) -> Vec<Member> {
    let member = |(index, line): (usize, &str)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Member {
            id: MasterId(index as u64 + 1),
            name: words[0].into(),
            region: words[1].into(),
            zone: format!("{}-{}", words[1], index + 1),
            votes: words[2].starts_with("voter"),
            reachable: !words[2].ends_with('!'),
            minions: words[3].parse().expect("a number"),
        }
    };
    text.split(',').enumerate().map(member).collect()
}

/// Every pair by the distance of its regions.
fn ways(members: &[Member]) -> BTreeMap<(MasterId, MasterId), RoundTrip> {
    let far = |one: &str, other: &str| match (one.min(other), one.max(other)) {
        ("eu", "us") => 80,
        ("ap", "eu") => 150,
        ("ap", "us") => 220,
        _ => 1,
    };
    let mut ways = BTreeMap::new();
    for one in members {
        for other in members.iter().filter(|other| other.id > one.id) {
            let us = far(&one.region, &other.region) * 1_000;
            ways.insert(pair(one.id, other.id), RoundTrip { p50_us: us, p99_us: us, count: 100 });
        }
    }
    ways
}

fn told(text: &str, leader: &str, preferred_region: &str, lose: &str) -> Result<Forecast, LossError> {
    let members = members(text);
    let leader = members.iter().find(|member| member.name == leader).map(|member| member.id);
    let ways = ways(&members);
    let timing = Profile::Geo.timing();
    let cluster = Cluster { members: &members, leader, ways: &ways, timing, preferred_region };
    forecast(&cluster, &Loss::parse_all(lose)?)
}

const THREE: &str = "eu1 eu voter 10, us1 us voter 20, ap1 ap voter 30";
const FIVE: &str = "eu1 eu voter 1, eu2 eu voter 1, us1 us voter 1, us2 us voter 1, ap1 ap voter 1, ap2 ap learner 1";

#[test]
fn the_loss_of_the_leaders_region_costs_an_election_and_longer_commits() {
    let forecast = told(THREE, "eu1", "", "region:eu").expect("known");
    assert_eq!((forecast.voters, forecast.majority, forecast.minions_moved), (3, 2, 10));
    assert_eq!(forecast.lost, ["eu1"]);
    assert_eq!((forecast.before.quorum, forecast.before.failure_tolerance), (true, 1));
    assert_eq!(forecast.before.leader.as_deref(), Some("eu1"));
    assert_eq!(forecast.before.candidates[0].commit_us, Some(80_000), "the nearer one of the two is enough");
    assert_eq!((forecast.after.quorum, forecast.after.failure_tolerance), (true, 0));
    assert_eq!(forecast.after.leader, None, "us1 or ap1");
    let commits: Vec<_> = forecast.after.candidates.iter().map(|one| (one.name.as_str(), one.commit_us)).collect();
    assert_eq!(commits, [("us1", Some(220_000)), ("ap1", Some(220_000))]);
    assert_eq!(forecast.write_gap_ms, Some((1900 + 1500 + 440, 1900 + 1900 + 15 * 220 + 250)));
    assert!(forecast.notes.iter().any(|note| note.contains("timer")), "{:?}", forecast.notes);
}

#[test]
fn the_loss_of_a_follower_is_not_noticed_and_the_leader_stays() {
    let forecast = told(THREE, "eu1", "", "us1").expect("known");
    assert_eq!(forecast.write_gap_ms, Some((0, 0)));
    assert_eq!(forecast.after.leader.as_deref(), Some("eu1"));
    assert_eq!(forecast.after.candidates[0].commit_us, Some(150_000), "the farther one is needed now");
    assert_eq!(forecast.notes, Vec::<String>::new());
}

#[test]
fn without_a_majority_nothing_comes_back_by_itself() {
    let forecast = told(THREE, "eu1", "", "region:eu,us1").expect("known");
    assert_eq!((forecast.after.quorum, forecast.write_gap_ms), (false, None));
    assert_eq!((forecast.after.candidates.len(), forecast.after.leader), (0, None));
    assert!(forecast.notes[0].contains("recover"), "{:?}", forecast.notes);
    // One is away already: the loss of another one is too much.
    let forecast = told("eu1 eu voter 1, us1 us voter 1, ap1 ap voter! 1", "eu1", "", "zone:us-2").expect("known");
    assert_eq!((forecast.before.quorum, forecast.after.quorum), (true, false));
    assert_eq!(forecast.unreachable, ["ap1"]);
}

#[test]
fn the_region_that_is_to_lead_leads_in_the_end() {
    let forecast = told(FIVE, "eu1", "us", "region:eu").expect("known");
    assert!(forecast.after.quorum);
    assert_eq!(forecast.after.leader.as_deref(), Some("us1"));
    assert_eq!(forecast.after.candidates.len(), 3, "the learner is none of them");
    assert_eq!(forecast.after.candidates[0].commit_us, Some(220_000), "us2 is near, ap1 is needed as well");
    assert!(forecast.notes[0].contains("The region us takes over"), "{:?}", forecast.notes);
    // The leader was outside of it anyway.
    let forecast = told(FIVE, "eu1", "us", "ap2").expect("known");
    assert_eq!(forecast.after.leader.as_deref(), Some("eu1"), "it leads on; its handover is no loss's doing");
}

#[test]
fn learners_neither_help_nor_hurt() {
    let forecast = told("a eu voter 0, b us learner 0, c ap learner 0", "a", "", "region:us").expect("known");
    assert_eq!((forecast.after.quorum, forecast.write_gap_ms), (true, Some((0, 0))));
    assert_eq!(forecast.after.candidates[0].commit_us, Some(0), "it is its own majority");
    let forecast = told("a eu voter 0, b us learner 0, c ap learner 0", "a", "", "a").expect("known");
    assert!(!forecast.after.quorum);
}

#[test]
fn what_was_not_measured_is_not_made_up() {
    let members = members(THREE);
    let (leader, ways, timing) = (Some(MasterId(1)), BTreeMap::new(), Profile::Geo.timing());
    let cluster = Cluster { members: &members, leader, ways: &ways, timing, preferred_region: "" };
    let forecast = forecast(&cluster, &[Loss::Region("eu".into())]).expect("known");
    assert!(forecast.after.candidates.iter().all(|candidate| candidate.commit_us.is_none()));
    assert!(forecast.notes.iter().any(|note| note.contains("ask again")), "{:?}", forecast.notes);
}

#[test]
fn what_nobody_is_in_is_refused_with_what_there_is() {
    let refused = |lose| told(THREE, "eu1", "", lose).expect_err("nobody").to_string();
    assert_eq!(refused("region:mars"), "no master is in region \"mars\"; there are ap, eu, us");
    assert_eq!(refused("m9"), "no master is in the cluster under the name \"m9\"; there are ap1, eu1, us1");
    assert!(refused("planet:x").contains("write region:NAME"));
    assert!(refused("region:").contains("write region:NAME"));
    assert!(refused(" , ").contains("say what would be lost"));
}
