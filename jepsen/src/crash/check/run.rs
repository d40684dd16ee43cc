//! The run itself: whether it showed what it had to, whether everybody came up again, and the order of revisions.

use super::{Facts, Violation};
use crate::crash::history::{Deed, Operation};
use std::collections::{BTreeMap, BTreeSet};

/// Part of the operations of each phase, in percent, that must have been carried out for the run to say anything.
const CARRIED_OUT_PERCENT_MIN: usize = 30;

pub(super) fn check(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    check_phases(facts, found);
    check_order(facts, found);
    let mut points: BTreeMap<&str, bool> = BTreeMap::new();
    let mut strikes = 0;
    for operation in facts.operations {
        if let Deed::Restart { member, cause: Some(cause) } = &operation.deed {
            found.insert(Violation::NotUp { member: member.clone(), cause: cause.clone() });
        } else if let Deed::Strike { point, .. } = &operation.deed {
            strikes += 1;
            if let Some(point) = point {
                *points.entry(point).or_default() |= operation.ok;
            }
        }
    }
    for (point, _) in points.iter().filter(|(_, happened)| !**happened) {
        found.insert(Violation::Empty(format!("the fault point {point} was asked for and never happened")));
    }
    if strikes == 0 {
        found.insert(Violation::Empty("nothing was struck".into()));
    }
    if facts.masters.len() < 2 {
        found.insert(Violation::Empty(format!("{} masters were read at the end", facts.masters.len())));
    }
}

/// Clients' operations by phase: the phase's name, those carried out, all.
pub fn phases(operations: &[Operation]) -> Vec<(String, usize, usize)> {
    let mut phases: Vec<(u64, String, usize, usize)> = Vec::new();
    for operation in operations {
        if let Deed::Phase { phase } = &operation.deed {
            phases.push((operation.begun_ns, phase.clone(), 0, 0));
        }
    }
    for operation in operations.iter().filter(|operation| operation.deed.is_of_a_client()) {
        if let Some((_, _, done, all)) = phases.iter_mut().rev().find(|(begun, ..)| *begun <= operation.begun_ns) {
            *done += usize::from(operation.ok);
            *all += 1;
        }
    }
    phases.into_iter().map(|(_, phase, done, all)| (phase, done, all)).collect()
}

fn check_phases(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let phases = phases(facts.operations);
    if phases.is_empty() {
        found.insert(Violation::Empty("there is no phase".into()));
    }
    for (phase, done, all) in phases {
        if done * 100 < all * CARRIED_OUT_PERCENT_MIN || all == 0 {
            found.insert(Violation::Empty(format!("{done} of {all} operations were carried out in the phase {phase}")));
        }
    }
}

/// Writes and consistent reads: what begins after something was acknowledged stands behind it in the log.
fn check_order(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let counts = |operation: &&Operation| {
        let relaxed = matches!(operation.deed, Deed::ReadMine { consistent: false, .. } | Deed::MineSend { .. });
        operation.deed.is_of_a_client() && operation.ok && operation.revision > 0 && !relaxed
    };
    let told = |operation: &Operation| {
        let what = serde_json::to_string(&operation.deed).unwrap_or_default();
        let what: String = what.chars().take(120).collect();
        format!("{what} at revision {}", operation.revision)
    };
    let mut begun: Vec<&Operation> = facts.operations.iter().filter(counts).collect();
    let mut ended = begun.clone();
    begun.sort_by_key(|operation| operation.begun_ns);
    ended.sort_by_key(|operation| operation.ended_ns);
    let mut ended = ended.into_iter().peekable();
    let mut newest: Option<&Operation> = None;
    for operation in begun {
        while let Some(over) = ended.next_if(|over| over.ended().is_some_and(|end| end < operation.begun_ns)) {
            newest = newest.filter(|newest| newest.revision >= over.revision).or(Some(over));
        }
        if let Some(newest) = newest.filter(|newest| newest.revision > operation.revision) {
            found.insert(Violation::OutOfOrder { earlier: told(newest), later: told(operation) });
        }
    }
}
