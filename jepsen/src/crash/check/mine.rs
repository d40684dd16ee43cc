//! P6: the mine. Every minion's value is a number that one client lets rise, so older and newer compare.

use super::{Facts, Violation};
use crate::crash::history::{Deed, Operation};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(facts: &Facts<'_>, found: &mut BTreeSet<Violation>) {
    let sends = sends_of(facts);
    let mut sessions: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut held: BTreeMap<&str, &BTreeMap<String, u64>> = BTreeMap::new();
    for operation in facts.operations.iter().filter(|operation| operation.ok) {
        if let Deed::ReadMine { minion, consistent, counter } = &operation.deed {
            let at = format!("a read of {} at {} ms", operation.process, operation.begun_ns / 1_000_000);
            let (least, most) = bounds(sends.get(minion.as_str()), operation);
            let before = sessions.entry((&operation.process, minion)).or_default();
            let least = if *consistent { least } else { *before };
            check_value(minion, &at, counter.unwrap_or_default(), least, most, found);
            *before = (*before).max(counter.unwrap_or_default());
        } else if let Deed::FinalMine { counters } = &operation.deed {
            held.insert(&operation.process, counters);
            for (minion, sends) in &sends {
                let (least, most) = bounds(Some(sends), operation);
                let counter = counters.get(*minion).copied().unwrap_or_default();
                check_value(minion, &format!("{}, at the end", operation.process), counter, least, most, found);
            }
        }
    }
    let different: BTreeSet<_> = held.values().collect();
    if different.len() > 1 {
        found.insert(Violation::Differs { what: "the mine".into(), masters: format!("{held:?}") });
    }
}

type Sends<'a> = Vec<(&'a Operation, u64)>;

fn sends_of<'a>(facts: &Facts<'a>) -> BTreeMap<&'a str, Sends<'a>> {
    let mut sends: BTreeMap<&str, Sends<'_>> = BTreeMap::new();
    for operation in facts.operations {
        if let Deed::MineSend { minion, counter } = &operation.deed {
            sends.entry(minion).or_default().push((operation, *counter));
        }
    }
    sends
}

/// The smallest and the largest value that `read` may show: the newest that was committed before it began, and the newest
/// that anybody had begun to send when it ended.
fn bounds(sends: Option<&Sends<'_>>, read: &Operation) -> (u64, u64) {
    let sends = || sends.into_iter().flatten();
    let over = |send: &Operation| send.ok && send.ended().is_some_and(|end| end <= read.begun_ns);
    let begun = |send: &Operation| read.ended().is_none_or(|end| send.begun_ns < end);
    let least = sends().filter(|(send, _)| over(send)).map(|(_, counter)| *counter).max();
    let most = sends().filter(|(send, _)| begun(send)).map(|(_, counter)| *counter).max();
    (least.unwrap_or_default(), most.unwrap_or_default())
}

fn check_value(minion: &str, at: &str, value: u64, least: u64, most: u64, found: &mut BTreeSet<Violation>) {
    if value < least || value > most {
        let cause = format!("{value}, which must be from {least} to {most}");
        found.insert(Violation::Mine { minion: minion.to_owned(), at: at.to_owned(), cause });
    }
}
