//! What the loss of some masters would mean. Pure: members, distances and timing come in.
//!
//! **What it knows.** Whether the voters that are left are a majority of all; who of them may lead; what the nearest majority
//! is away from each, which is how long a commit takes beside the disks' syncs; and how long Raft's timing takes to notice
//! and to elect. **What it cannot know:** which of several masters wins an election (whoever's timer runs out first, and
//! timers are drawn), and whether the leader dies at once or goes silent; it says so.

use super::distance::pair;
use saltern_wire::MasterId;
use saltern_wire::api::{Candidate, Forecast, Outlook, RoundTrip};
use saltern_wire::profile::Timing;
use std::collections::{BTreeMap, BTreeSet};

/// One master of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub id: MasterId,
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it answers.
    pub reachable: bool,
    /// Minions attached to it.
    pub minions: u64,
}

/// The cluster as it is.
#[derive(Debug, Clone)]
pub struct Cluster<'a> {
    /// Its masters.
    pub members: &'a [Member],
    /// Who leads.
    pub leader: Option<MasterId>,
    /// How far they are from each other.
    pub ways: &'a BTreeMap<(MasterId, MasterId), RoundTrip>,
    /// Raft's timing.
    pub timing: Timing,
    /// The region that is to lead; empty for none.
    pub preferred_region: &'a str,
}

/// Which masters are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Every master of a region.
    Region(String),
    /// Every master of a zone.
    Zone(String),
    /// A master, by name.
    Master(String),
}

/// Why there is no forecast.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LossError {
    /// Nothing was named.
    #[error("say what would be lost: region:NAME, zone:NAME or a master's name; several with commas")]
    Nothing,
    /// It is none of the three.
    #[error("{0:?} is no loss: write region:NAME, zone:NAME or a master's name")]
    Malformed(String),
    /// No master is meant by it.
    #[error("no master is in {kind} {name:?}; there are {known}")]
    Nobody {
        /// `region`, `zone` or `the cluster under the name`.
        kind: &'static str,
        /// What was written.
        name: String,
        /// What there is, comma separated.
        known: String,
    },
}

impl Loss {
    /// Reads `region:eu,zone:eu-1,m4`.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, LossError> {
        let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Err(LossError::Nothing);
        }
        words.into_iter().map(Self::parse).collect()
    }

    fn parse(word: &str) -> Result<Self, LossError> {
        match word.split_once(':') {
            Some((_, "")) => Err(LossError::Malformed(word.into())),
            Some(("region", name)) => Ok(Self::Region(name.into())),
            Some(("zone", name)) => Ok(Self::Zone(name.into())),
            Some(_) => Err(LossError::Malformed(word.into())),
            None => Ok(Self::Master(word.into())),
        }
    }

    fn means(&self, member: &Member) -> bool {
        match self {
            Self::Region(name) => member.region == *name,
            Self::Zone(name) => member.zone == *name,
            Self::Master(name) => member.name == *name,
        }
    }

    fn nobody(&self, members: &[Member]) -> LossError {
        let (kind, name, label): (_, _, fn(&Member) -> &String) = match self {
            Self::Region(name) => ("region", name, |member| &member.region),
            Self::Zone(name) => ("zone", name, |member| &member.zone),
            Self::Master(name) => ("the cluster under the name", name, |member| &member.name),
        };
        let known: BTreeSet<&str> = members.iter().map(|member| label(member).as_str()).collect();
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        LossError::Nobody { kind, name: name.clone(), known }
    }
}

/// What would happen if all of `losses` came true at once.
pub fn forecast(cluster: &Cluster<'_>, losses: &[Loss]) -> Result<Forecast, LossError> {
    if losses.is_empty() {
        return Err(LossError::Nothing);
    }
    let members = cluster.members;
    for loss in losses {
        if !members.iter().any(|member| loss.means(member)) {
            return Err(loss.nobody(members));
        }
    }
    let is_lost = |member: &Member| losses.iter().any(|loss| loss.means(member));
    let answers = |member: &&Member| member.reachable;
    let before = cluster.outlook(&members.iter().filter(answers).collect::<Vec<_>>());
    let left: Vec<&Member> = members.iter().filter(answers).filter(|member| !is_lost(member)).collect();
    let after = cluster.outlook(&left);
    let leader_lost = cluster.leader.is_none_or(|leader| !left.iter().any(|member| member.id == leader));
    let names = |wanted: &dyn Fn(&Member) -> bool| {
        members.iter().filter(|member| wanted(member)).map(|member| member.name.clone()).collect::<Vec<_>>()
    };
    let voters = members.iter().filter(|member| member.votes).count();
    Ok(Forecast {
        lost: names(&is_lost),
        unreachable: names(&|member| !member.reachable && !is_lost(member)),
        voters: figure(voters),
        majority: figure(voters / 2 + 1),
        write_gap_ms: after.quorum.then(|| if leader_lost { cluster.election_ms(&after) } else { (0, 0) }),
        notes: notes(&before, &after, leader_lost, cluster.preferred_region),
        minions_moved: members.iter().filter(|member| is_lost(member)).map(|member| member.minions).sum(),
        before,
        after,
    })
}

fn figure(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn notes(before: &Outlook, after: &Outlook, leader_lost: bool, preferred_region: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if before.quorum && !after.quorum {
        notes.push(
            "Nothing could be written until enough of the lost masters are back; if they never are, `saltern-master recover` \
             brings back what a survivor holds."
                .to_owned(),
        );
    }
    if after.quorum && leader_lost && after.candidates.len() > 1 {
        let first = "Who is elected first cannot be known: the one whose timer runs out first.";
        let settled = after.leader.is_some();
        notes.push(match settled {
            true => format!("{first} The region {preferred_region} takes over once it was well for the set time."),
            false => first.to_owned(),
        });
    }
    if after.candidates.iter().any(|candidate| candidate.commit_us.is_none()) {
        notes.push("Some ways were not measured often enough yet: ask again in half a minute.".to_owned());
    }
    notes
}

impl Cluster<'_> {
    /// How it is with the masters in `left`.
    fn outlook(&self, left: &[&Member]) -> Outlook {
        let voters = self.members.iter().filter(|member| member.votes).count();
        let majority = voters / 2 + 1;
        let alive: Vec<&Member> = left.iter().copied().filter(|member| member.votes).collect();
        let quorum = voters > 0 && alive.len() >= majority;
        let candidate = |member: &Member| Candidate {
            name: member.name.clone(),
            region: member.region.clone(),
            commit_us: self.commit_us(member.id, &alive, majority),
        };
        let mut candidates: Vec<(MasterId, Candidate)> =
            alive.iter().filter(|_| quorum).map(|member| (member.id, candidate(member))).collect();
        // Whoever leads goes on leading.
        if let Some(leads) = candidates.iter().position(|(id, _)| self.leader == Some(*id)) {
            candidates = vec![candidates.swap_remove(leads)];
        }
        let candidates: Vec<Candidate> = candidates.into_iter().map(|(_, candidate)| candidate).collect();
        Outlook {
            quorum,
            failure_tolerance: figure(alive.len().saturating_sub(majority)),
            leader: self.leader_of(&candidates),
            candidates,
        }
    }

    /// Who leads in the end: the only one who can, or the fastest of the region that is to.
    fn leader_of(&self, candidates: &[Candidate]) -> Option<String> {
        if let [only] = candidates {
            return Some(only.name.clone());
        }
        let preferred = candidates.iter().filter(|candidate| candidate.region == self.preferred_region);
        let fastest = preferred.min_by_key(|candidate| (candidate.commit_us.unwrap_or(u64::MAX), &candidate.name));
        fastest.map(|candidate| candidate.name.clone())
    }

    /// Round trips of a commit by `leader`: to the farthest of the nearest voters that make a majority with it.
    fn commit_us(&self, leader: MasterId, alive: &[&Member], majority: usize) -> Option<u64> {
        let others = alive.iter().filter(|member| member.id != leader);
        let way = |member: &&Member| self.ways.get(&pair(leader, member.id)).map(|way| way.p50_us);
        let mut ways: Vec<u64> = others.filter_map(way).collect();
        ways.sort_unstable();
        match majority.saturating_sub(1) {
            0 => Some(0),
            needed => ways.get(needed - 1).copied(),
        }
    }

    /// How long it takes to notice that the leader is gone and to have another one, in milliseconds: followers wait for the
    /// leader's lease (the longest silence) and for a timer that is drawn; then come a round for the vote that is asked for
    /// first, one for the vote, [`SEARCH_ROUNDS`] at most to find where the logs agree, one for the leader's first entry and
    /// one for the first write, and one more if that came through another master. A split vote adds a draw.
    fn election_ms(&self, after: &Outlook) -> (u64, u64) {
        let Timing { election_ms_min, election_ms_max, .. } = self.timing;
        let commits = || after.candidates.iter().filter_map(|candidate| candidate.commit_us);
        let (near, far) = (commits().min().unwrap_or(0), commits().max().unwrap_or(0));
        let from = election_ms_max + election_ms_min + 2 * near / 1_000;
        (from, election_ms_max + election_ms_max + (5 + SEARCH_ROUNDS) * far / 1_000 + ELECTION_WORK_MS)
    }
}

/// Round trips in which a new leader finds the end of a follower's log: the Raft core halves the entries that are kept, some ten
/// thousand, until sixteen are left.
const SEARCH_ROUNDS: u64 = 10;

/// What the disks and processors of an election take at most on a machine that is not overloaded, in milliseconds.
const ELECTION_WORK_MS: u64 = 250;

#[cfg(test)]
mod tests;
