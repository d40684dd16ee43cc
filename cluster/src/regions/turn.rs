//! When a master whose timing is not the cluster's starts anew. Pure.
//!
//! Raft's timing cannot be changed in a running core, so the process starts again with the new one, one master after the
//! other: those that do not vote at any time, then the voters in the order of their ids, each while every other one answers,
//! and the leader last, once it has handed over. A leader of a slow timing among followers of a fast one would be deposed, so
//! on the way to a slower profile the order matters; on the way to a faster one the cluster may pay an election.

use saltern_wire::MasterId;
use saltern_wire::profile::Profile;

/// One member, as the master that decides sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Who.
    pub id: MasterId,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it answers.
    pub reachable: bool,
    /// What it runs with; `None` for a timing of its own, or if it does not say.
    pub runs: Option<Profile>,
}

/// What a master is to do about its timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: its timing is right, or it is not its turn.
    Wait,
    /// Hand leadership to this master first.
    HandOver(MasterId),
    /// Start anew now.
    Start,
}

/// What `own` is to do, whose timing is `runs`, if the cluster's is `wanted` and `leader` leads a group of `members`.
pub fn turn(own: MasterId, runs: Profile, wanted: Profile, leader: Option<MasterId>, members: &[Seen]) -> Turn {
    if runs == wanted {
        return Turn::Wait;
    }
    let voters = || members.iter().filter(|member| member.votes);
    if !voters().any(|voter| voter.id == own) {
        // Nobody waits for it; but it has to be somebody's, or it knows too little.
        return if members.iter().any(|member| member.id == own) { Turn::Start } else { Turn::Wait };
    }
    let others = || voters().filter(|voter| voter.id != own);
    if leader.is_none() || others().any(|voter| !voter.reachable) {
        return Turn::Wait;
    }
    let behind = |voter: &&Seen| voter.runs.is_some_and(|runs| runs != wanted);
    if leader == Some(own) {
        if others().any(|voter| behind(&voter)) {
            return Turn::Wait;
        }
        // Whoever runs with the new timing leads on; a master alone has nobody to hand over to.
        let heir = others().find(|voter| voter.runs == Some(wanted)).or_else(|| others().next());
        return heir.map_or(Turn::Start, |heir| Turn::HandOver(heir.id));
    }
    let first = others().filter(behind).filter(|voter| Some(voter.id) != leader).map(|voter| voter.id).min();
    if first.is_none_or(|first| own < first) { Turn::Start } else { Turn::Wait }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `v3 lan` votes and runs lan; `l4 geo` learns; `-` in the place of the profile for one of its own; `!` if it is silent.
    fn members(text: &str) -> Vec<Seen> {
        let member = |word: &str| {
            let (name, runs) = word.trim().split_once(' ').expect("a name and a profile");
            let profile = |name: &str| Profile::ALL.into_iter().find(|profile| profile.to_string() == name);
            Seen {
                id: MasterId(name[1..].parse().expect("a number")),
                votes: name.starts_with('v'),
                reachable: !runs.ends_with('!'),
                runs: profile(runs.trim_end_matches('!')),
            }
        };
        text.split(',').map(member).collect()
    }

    fn check(own: u64, leader: u64, group: &str, expect: Turn) {
        let members = members(group);
        let own = MasterId(own);
        let runs = members.iter().find(|member| member.id == own).and_then(|member| member.runs).expect("it runs");
        let leader = Some(MasterId(leader)).filter(|leader| leader.0 > 0);
        assert_eq!(turn(own, runs, Profile::Geo, leader, &members), expect, "{own} in {group}, led by {leader:?}");
    }

    #[test]
    fn followers_start_anew_one_after_the_other_and_the_leader_last() {
        for (own, expect) in [(1, Turn::Wait), (2, Turn::Start), (3, Turn::Wait)] {
            check(own, 1, "v1 lan, v2 lan, v3 lan", expect);
        }
        check(3, 1, "v1 lan, v2 geo!, v3 lan", Turn::Wait);
        check(3, 1, "v1 lan, v2 geo, v3 lan", Turn::Start);
        check(1, 1, "v1 lan, v2 geo, v3 geo!", Turn::Wait);
        check(1, 1, "v1 lan, v2 geo, v3 geo", Turn::HandOver(MasterId(2)));
        check(1, 2, "v1 lan, v2 geo, v3 geo", Turn::Start);
        check(1, 2, "v1 geo, v2 geo, v3 geo", Turn::Wait);
    }

    #[test]
    fn learners_wait_for_nobody_and_nobody_for_them() {
        check(4, 1, "v1 lan, v2 lan, v3 lan!, l4 lan", Turn::Start);
        check(2, 1, "v1 lan, v2 lan, v3 lan, l4 lan!", Turn::Start);
    }

    #[test]
    fn a_master_alone_starts_and_one_without_a_leader_waits() {
        check(1, 1, "v1 lan", Turn::Start);
        check(1, 0, "v1 lan, v2 lan", Turn::Wait);
        assert_eq!(turn(MasterId(9), Profile::Lan, Profile::Geo, Some(MasterId(1)), &members("v1 lan")), Turn::Wait);
    }

    #[test]
    fn a_master_with_a_timing_of_its_own_is_waited_for_by_nobody() {
        check(1, 1, "v1 lan, v2 geo, v3 -", Turn::HandOver(MasterId(2)));
        check(3, 1, "v1 lan, v2 -, v3 lan", Turn::Start);
    }
}
