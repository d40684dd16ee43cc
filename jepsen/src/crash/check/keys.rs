//! P1: decisions on keys. Every key has one client that decides on it, one decision at a time, so what a read may show is the
//! last decision that had ended when it began, or one that was under way.

use super::{Facts, Violation};
use crate::crash::history::{Deed, Operation};
use std::collections::{BTreeMap, BTreeSet};

/// What stands for a key that is not there.
const ABSENT: &str = "absent";

type Decisions<'a> = BTreeMap<&'a str, Vec<(&'a Operation, &'a str, bool)>>;

pub(super) fn check(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let decisions = decisions_of(facts, found);
    for operation in facts.operations.iter().filter(|operation| operation.ok) {
        let (keys, at) = if let Deed::ReadKeys { keys } = &operation.deed {
            (keys, format!("a read of {} at {} ms", operation.process, operation.begun_ns / 1_000_000))
        } else if let Deed::FinalKeys { keys } = &operation.deed {
            (keys, format!("{}, at the end", operation.process))
        } else {
            continue;
        };
        for (minion, decided) in &decisions {
            let allowed = allowed(decided, operation);
            let state = keys.get(*minion).map_or(ABSENT, String::as_str);
            if !allowed.contains(state) {
                let (minion, cause) = ((*minion).to_owned(), format!("{state}, which may be {allowed:?} only"));
                found.insert(Violation::Key { minion, at: at.clone(), cause });
            }
        }
    }
    check_agreement(facts, found);
}

fn decisions_of<'a>(facts: &Facts<'a>, found: &mut BTreeSet<Violation>) -> Decisions<'a> {
    let mut decisions: Decisions<'a> = BTreeMap::new();
    for operation in facts.operations {
        let Deed::Decide { minion, decision, changed } = &operation.deed else { continue };
        if operation.ended().is_none() {
            found.insert(Violation::Unresolved(format!("the decision to {decision} {minion}")));
        }
        decisions.entry(minion).or_default().push((operation, decision, *changed));
    }
    for decided in decisions.values_mut() {
        decided.sort_by_key(|(operation, ..)| operation.begun_ns);
    }
    decisions
}

/// A minion whose key was deleted may enrol again at any time.
fn states_after(decision: &str) -> &'static [&'static str] {
    match decision {
        "accept" => &["accepted"],
        "reject" => &["rejected"],
        _ => &[ABSENT, "pending"],
    }
}

/// The states that `read` may show.
fn allowed(decided: &[(&Operation, &str, bool)], read: &Operation) -> BTreeSet<&'static str> {
    let mut allowed: BTreeSet<&str> = states_after("delete").iter().copied().collect();
    for (operation, decision, changed) in decided {
        let refused = !operation.ok && operation.ended().is_some();
        if refused || (operation.ended().is_some() && !changed) {
            continue;
        }
        let over = operation.ended().is_some_and(|end| end <= read.begun_ns);
        let begun = read.ended().is_none_or(|end| operation.begun_ns < end);
        if over {
            allowed.clear();
        }
        if begun {
            allowed.extend(states_after(decision));
        }
    }
    allowed
}

fn check_agreement(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let mut held: BTreeMap<&str, &BTreeMap<String, String>> = BTreeMap::new();
    for operation in facts.operations {
        if let Deed::FinalKeys { keys } = &operation.deed {
            held.insert(&operation.process, keys);
        }
    }
    let different: BTreeSet<_> = held.values().collect();
    if different.len() > 1 {
        found.insert(Violation::Differs { what: "the keys".into(), masters: format!("{held:?}") });
    }
}
