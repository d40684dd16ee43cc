//! What is batched on its way into the log: parts of returns, acceptances, mine values that have not changed.

use super::pile::Bounds;
use super::{ENTRIES_IN_FLIGHT_MAX, ITEM_OVERHEAD_BYTES};
use saltern_store::command::{Command, JobCommand, MineAffirmation, MineCommand, Reply};
use saltern_wire::fault_point;
use saltern_wire::job::{Recorded, ReturnPart};
use saltern_wire::limits::{RETURN_BATCH_BYTES_MAX, RETURNS_PER_ENTRY_MAX};
use saltern_wire::{JobId, Ordinal};

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
    /// The command for a batch.
    fn command(items: Vec<Self::Item>) -> Command;
    /// One verdict an item, in order; `None` if the reply does not fit the question.
    fn verdicts(reply: Reply, items: usize) -> Option<Vec<Self::Verdict>>;
}

/// Parts of returns.
pub(super) enum Returns {}

impl Kind for Returns {
    type Item = (Ordinal, ReturnPart);
    type Verdict = Recorded;
    const BOUNDS: Bounds = Bounds {
        items_max: RETURNS_PER_ENTRY_MAX,
        bytes_max: RETURN_BATCH_BYTES_MAX,
        in_flight_max: ENTRIES_IN_FLIGHT_MAX,
    };

    fn weight((_, part): &Self::Item) -> usize {
        part.body.len() + ITEM_OVERHEAD_BYTES
    }

    /// Called right before a batch is proposed.
    fn command(returns: Vec<Self::Item>) -> Command {
        fault_point!("return.commit.before");
        Command::Job(JobCommand::Record { returns })
    }

    /// Called once a batch is committed, before anybody hears of it.
    fn verdicts(reply: Reply, items: usize) -> Option<Vec<Recorded>> {
        fault_point!("return.commit.after");
        match reply {
            Reply::Recorded(verdicts) if verdicts.len() == items => Some(verdicts),
            Reply::Recorded(_)
            | Reply::Done
            | Reply::Keys(_)
            | Reply::Opened { .. }
            | Reply::Joined { .. }
            | Reply::Token { .. } => None,
        }
    }
}

/// Acceptances of jobs.
pub(super) enum Accepts {}

impl Kind for Accepts {
    type Item = (JobId, Ordinal);
    type Verdict = ();
    const BOUNDS: Bounds =
        Bounds { items_max: ACCEPTS_PER_ENTRY_MAX, bytes_max: usize::MAX, in_flight_max: ENTRIES_IN_FLIGHT_MAX };

    fn weight(_: &Self::Item) -> usize {
        ITEM_OVERHEAD_BYTES
    }

    fn command(accepted: Vec<Self::Item>) -> Command {
        Command::Job(JobCommand::Accept { accepted })
    }

    fn verdicts(_: Reply, items: usize) -> Option<Vec<()>> {
        Some(vec![(); items])
    }
}

/// Mine values that have not changed, with what each weighs: applying one writes its value again.
pub(super) enum Affirms {}

impl Kind for Affirms {
    type Item = (MineAffirmation, usize);
    type Verdict = ();
    const BOUNDS: Bounds =
        Bounds { items_max: AFFIRMS_PER_ENTRY_MAX, bytes_max: RETURN_BATCH_BYTES_MAX, in_flight_max: 1 };

    fn weight((_, weight): &Self::Item) -> usize {
        *weight
    }

    fn command(affirmed: Vec<Self::Item>) -> Command {
        let affirmed = affirmed.into_iter().map(|(affirmation, _)| affirmation).collect();
        Command::Mine(MineCommand::Affirm { affirmed })
    }

    fn verdicts(_: Reply, items: usize) -> Option<Vec<()>> {
        Some(vec![(); items])
    }
}
