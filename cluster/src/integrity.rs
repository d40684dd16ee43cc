//! Compares this master's state with those of the others, by the hash that it has at entries which all of them have applied.
//!
//! ```text
//!   probe ─▶ the other's checks (entry, hash) ─▶ same entry, same hash?  yes ─▶ nothing
//!                                                no, and a majority of the voters agrees on another one ─▶ this master stops
//!                                                no, and there is no majority ─▶ nobody stops, everybody says so, loudly
//! ```
//!
//! **Invariants.** A master judges itself only. It stops only if more than half of the voters hold one and the same other hash
//! at the same entry: the odd one out, never two of a pair. What stops is quarantined like any other data that is not what was
//! written, and rejoins under a fresh id.
//!
//! **It refuses** to guess which of two is right, and to count a master that does not vote or does not answer.

use crate::truth::Truth;
use saltern_store::Check;
use saltern_wire::MasterId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Pause between two comparisons: probes bring something new about as often.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// What the hashes say about this master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Nothing was found that differs.
    Agrees,
    /// A majority holds another hash.
    Odd {
        /// At which entry.
        index: u64,
        /// Who agrees on it.
        majority: Vec<MasterId>,
    },
    /// Somebody holds another hash, and no majority tells who is right.
    Split {
        /// At which entry.
        index: u64,
        /// Who differs from this master.
        others: Vec<MasterId>,
    },
}

/// Compares, while the master runs.
pub async fn compare_all(truth: Truth) {
    let mut told = None;
    loop {
        tokio::time::sleep(COMPARE_EVERY).await;
        let voters = truth.group().leader_state().voters;
        let own = truth.state().checks();
        match find(truth.id(), &own, &truth.checks_of_others(), &voters) {
            Finding::Agrees => {}
            Finding::Odd { index, majority } => {
                let names: Vec<String> = majority.iter().map(|master| master.to_string()).collect();
                let cause = format!(
                    "its hash at entry {index} differs from the one on which a majority agrees (masters {})",
                    names.join(", ")
                );
                return truth.state().differs(&cause);
            }
            Finding::Split { index, others } if told != Some(index) => {
                told = Some(index);
                let others: Vec<String> = others.iter().map(|master| master.to_string()).collect();
                tracing::error!(
                    entry = index,
                    others = others.join(", "),
                    "the states of masters differ and no majority tells which one is right: nobody stops. Save a snapshot, \
                     and have one of them rejoin (`saltern-master rejoin --force`) once you know which"
                );
                truth.note_split(index);
            }
            Finding::Split { .. } => {}
        }
    }
}

/// What `own` checks say beside those of the others. The newest entry that decides anything counts.
pub fn find(
    this: MasterId,
    own: &[Check],
    others: &BTreeMap<MasterId, Vec<Check>>,
    voters: &BTreeSet<MasterId>,
) -> Finding {
    let mut split = None;
    for Check { index, hash } in own.iter().rev() {
        let at = |checks: &Vec<Check>| checks.iter().find(|check| check.index == *index).map(|check| check.hash);
        let mut holders: BTreeMap<u64, Vec<MasterId>> = BTreeMap::new();
        for (master, checks) in others.iter().filter(|(master, _)| voters.contains(master) && **master != this) {
            if let Some(theirs) = at(checks).filter(|theirs| theirs != hash) {
                holders.entry(theirs).or_default().push(*master);
            }
        }
        if let Some(majority) = holders.values().find(|masters| masters.len() > voters.len() / 2) {
            return Finding::Odd { index: *index, majority: majority.clone() };
        }
        let differing: Vec<MasterId> = holders.into_values().flatten().collect();
        // A majority on this master's side: it is the other one that stops.
        let agreeing = others.iter().filter(|(master, checks)| voters.contains(master) && at(checks) == Some(*hash));
        let with = agreeing.count() + usize::from(voters.contains(&this));
        if !differing.is_empty() && with <= voters.len() / 2 && split.is_none() {
            split = Some(Finding::Split { index: *index, others: differing });
        }
    }
    split.unwrap_or(Finding::Agrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(all: &[(u64, u64)]) -> Vec<Check> {
        all.iter().map(|(index, hash)| Check { index: *index, hash: *hash }).collect()
    }

    /// What master 1 finds, if it and the others (from 2 on) hold these; the first `voters` of them vote.
    fn finds(own: &[(u64, u64)], others: &[&[(u64, u64)]], voters: u64) -> Finding {
        let others = (2..).zip(others).map(|(id, all)| (MasterId(id), checks(all))).collect();
        find(MasterId(1), &checks(own), &others, &(1..=voters).map(MasterId).collect())
    }

    #[test]
    fn the_odd_one_out_finds_itself_and_nobody_else() {
        let odd = Finding::Odd { index: 9, majority: vec![MasterId(2), MasterId(3)] };
        assert_eq!(finds(&[(9, 5)], &[&[(9, 5)], &[(9, 5)]], 3), Finding::Agrees);
        assert_eq!(finds(&[(9, 6)], &[&[(9, 5)], &[(9, 5)]], 3), odd);
        assert_eq!(finds(&[(9, 5)], &[&[(9, 5)], &[(9, 6)]], 3), Finding::Agrees, "it is the third that stops");
        assert_eq!(finds(&[(8, 1), (9, 6)], &[&[(7, 1), (9, 5)], &[(9, 5), (10, 2)]], 3), odd, "one entry in common");
        assert_eq!(finds(&[(9, 6), (10, 6)], &[&[(9, 5)], &[(9, 5)]], 3), odd, "the newest is not everywhere yet");
    }

    #[test]
    fn without_a_majority_nobody_stops_and_it_is_told() {
        let split =
            |index, others: &[u64]| Finding::Split { index, others: others.iter().map(|id| MasterId(*id)).collect() };
        assert_eq!(finds(&[(9, 6)], &[&[(9, 5)]], 2), split(9, &[2]), "two masters");
        assert_eq!(finds(&[(9, 6)], &[&[(9, 5)], &[(9, 4)]], 3), split(9, &[3, 2]), "three different ones");
        assert_eq!(finds(&[(9, 6)], &[&[(9, 5)], &[]], 3), split(9, &[2]), "the third does not answer");
        assert_eq!(finds(&[(9, 6)], &[&[(9, 5)], &[(9, 5)], &[], &[]], 5), split(9, &[2, 3]), "two of five");
    }

    #[test]
    fn whoever_does_not_vote_does_not_count_but_finds_itself() {
        assert_eq!(finds(&[(9, 6)], &[&[(9, 6)], &[(9, 6)], &[(9, 5)]], 3), Finding::Agrees, "a learner differs");
        let others = [(MasterId(2), checks(&[(9, 5)])), (MasterId(3), checks(&[(9, 5)]))].into_iter().collect();
        let found = find(MasterId(1), &checks(&[(9, 6)]), &others, &[MasterId(2), MasterId(3)].into_iter().collect());
        assert_eq!(found, Finding::Odd { index: 9, majority: vec![MasterId(2), MasterId(3)] });
        let nothing = find(MasterId(1), &[], &others, &[MasterId(2)].into_iter().collect());
        assert_eq!(nothing, Finding::Agrees, "nothing to compare yet");
    }
}
