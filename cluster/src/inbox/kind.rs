//! What is batched on its way into the log: acceptances with parts of returns, mine values that have not changed.

use super::pile::Bounds;
use super::{EAGER_ENTRIES_MAX, ENTRIES_IN_FLIGHT_MAX, ITEM_OVERHEAD_BYTES};
use saltern_store::command::{Command, JobCommand, MineAffirmation, MineCommand, Reply};
use saltern_wire::fault_point;
use saltern_wire::job::{Recorded, ReturnPart};
use saltern_wire::limits::{RETURN_BATCH_BYTES_MAX, RETURNS_PER_ENTRY_MAX};
use saltern_wire::{JobId, Ordinal};
use std::collections::BTreeSet;

/// Most acceptances of one entry: at about 40 bytes each they stay well below the largest log entry.
const ACCEPTS_PER_ENTRY_MAX: usize = 4096;

/// Most affirmed mine values of one entry: at up to 180 bytes each they stay well below the largest log entry.
const AFFIRMS_PER_ENTRY_MAX: usize = 1024;

/// A sort of item that is batched.
pub(super) trait Kind: Send + 'static {
    /// One item.
    type Item: Clone + Send + 'static;
    /// What its sender learns.
    type Verdict: Send + 'static;
    /// How large a batch may be.
    const BOUNDS: Bounds;
    /// What an item weighs, in bytes.
    fn weight(item: &Self::Item) -> usize;
    /// Whether the truth has a verdict of its own for the item.
    fn is_judged(_: &Self::Item) -> bool {
        false
    }
    /// The command for a batch.
    fn command(items: Vec<Self::Item>) -> Command;
    /// One verdict an item, in order, of which these are judged; `None` if the reply does not fit the question.
    fn verdicts(reply: Reply, judged: &[bool]) -> Option<Vec<Self::Verdict>>;
}

/// Acceptances of jobs and parts of returns, of many minions in one entry.
pub(super) enum Deliveries {}

/// One of them.
#[derive(Debug, Clone)]
pub(super) enum Delivery {
    /// A minion has a job on its disk.
    Accepted(JobId, Ordinal),
    /// A minion returned something.
    Part(Ordinal, ReturnPart),
}

/// What becomes of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    /// The acceptance stands, or the answer that came with it does.
    Accepted,
    /// The verdict on a part.
    Recorded(Recorded),
}

/// What a part weighs at least: so many of them fill an entry in number and in bytes at the same time.
const PART_WEIGHT_MIN: usize = RETURN_BATCH_BYTES_MAX / RETURNS_PER_ENTRY_MAX;

/// What an acceptance weighs: its part of an entry that holds nothing else.
const ACCEPT_WEIGHT: usize = RETURN_BATCH_BYTES_MAX / ACCEPTS_PER_ENTRY_MAX;

impl Kind for Deliveries {
    type Item = Delivery;
    type Verdict = Delivered;
    const BOUNDS: Bounds = Bounds {
        items_max: ACCEPTS_PER_ENTRY_MAX,
        bytes_max: RETURN_BATCH_BYTES_MAX,
        in_flight_max: ENTRIES_IN_FLIGHT_MAX,
        eager_max: EAGER_ENTRIES_MAX,
    };

    fn weight(item: &Delivery) -> usize {
        match item {
            Delivery::Accepted(..) => ACCEPT_WEIGHT,
            Delivery::Part(_, part) => (part.body.len() + ITEM_OVERHEAD_BYTES).max(PART_WEIGHT_MIN),
        }
    }

    fn is_judged(item: &Delivery) -> bool {
        matches!(item, Delivery::Part(..))
    }

    /// Called right before a batch is proposed. An acceptance beside its own whole answer says nothing more.
    fn command(items: Vec<Delivery>) -> Command {
        let (mut accepted, mut returns, mut answered) = (Vec::new(), Vec::new(), BTreeSet::new());
        for item in items {
            match item {
                Delivery::Accepted(jid, ordinal) => accepted.push((jid, ordinal)),
                Delivery::Part(ordinal, part) => {
                    if part.parts == 1 {
                        answered.insert((part.jid, ordinal));
                    }
                    returns.push((ordinal, part));
                }
            }
        }
        accepted.retain(|acceptance| !answered.contains(acceptance));
        if returns.is_empty() {
            return Command::Job(JobCommand::Accept { accepted });
        }
        fault_point!("return.commit.before");
        if accepted.is_empty() {
            return Command::Job(JobCommand::Record { returns });
        }
        Command::Job(JobCommand::Deliver { accepted, returns })
    }

    /// Called once a batch is committed, before anybody hears of it.
    fn verdicts(reply: Reply, judged: &[bool]) -> Option<Vec<Delivered>> {
        let mut recorded = match reply {
            Reply::Recorded(verdicts) => {
                fault_point!("return.commit.after");
                verdicts.into_iter()
            }
            Reply::Done => Vec::new().into_iter(),
            Reply::Keys(_) | Reply::Opened { .. } | Reply::Joined { .. } | Reply::Token { .. } => return None,
        };
        let verdict = |judged: &bool| match judged {
            true => recorded.next().map(Delivered::Recorded),
            false => Some(Delivered::Accepted),
        };
        let verdicts: Option<Vec<_>> = judged.iter().map(verdict).collect();
        verdicts.filter(|_| recorded.next().is_none())
    }
}

/// Acceptances of jobs by themselves, while the cluster stands below the level that takes them with returns.
pub(super) enum Accepts {}

impl Kind for Accepts {
    type Item = (JobId, Ordinal);
    type Verdict = ();
    const BOUNDS: Bounds = Bounds {
        items_max: ACCEPTS_PER_ENTRY_MAX,
        bytes_max: usize::MAX,
        in_flight_max: ENTRIES_IN_FLIGHT_MAX,
        eager_max: ENTRIES_IN_FLIGHT_MAX,
    };

    fn weight(_: &Self::Item) -> usize {
        ITEM_OVERHEAD_BYTES
    }

    fn command(accepted: Vec<Self::Item>) -> Command {
        Command::Job(JobCommand::Accept { accepted })
    }

    fn verdicts(_: Reply, judged: &[bool]) -> Option<Vec<()>> {
        Some(vec![(); judged.len()])
    }
}

/// Mine values that have not changed, with what each weighs: applying one writes its value again.
pub(super) enum Affirms {}

impl Kind for Affirms {
    type Item = (MineAffirmation, usize);
    type Verdict = ();
    const BOUNDS: Bounds =
        Bounds { items_max: AFFIRMS_PER_ENTRY_MAX, bytes_max: RETURN_BATCH_BYTES_MAX, in_flight_max: 1, eager_max: 1 };

    fn weight((_, weight): &Self::Item) -> usize {
        *weight
    }

    fn command(affirmed: Vec<Self::Item>) -> Command {
        let affirmed = affirmed.into_iter().map(|(affirmation, _)| affirmation).collect();
        Command::Mine(MineCommand::Affirm { affirmed })
    }

    fn verdicts(_: Reply, judged: &[bool]) -> Option<Vec<()>> {
        Some(vec![(); judged.len()])
    }
}
