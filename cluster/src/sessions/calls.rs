//! What an accepted minion may ask, and how it is answered.
//!
//! Writes go through the inbox or a proposal of their own and are answered once applied here; reads are local, as old as
//! this master's applied state, and say at which revision.

use crate::inbox::{Asker, late, settle, unreadable};
use crate::sessions::Shared;
use crate::target::{gather_mine, resolve};
use crate::truth::Lane;
use saltern_store::command::{Command, MinionCommand};
use saltern_wire::job::ReturnPart;
use saltern_wire::limits::{
    FACTS_BYTES_MAX, FUNCTION_NAME_BYTES_MAX, MINE_VALUE_BYTES_MAX, RETURN_BYTES_MAX, RETURN_PART_BYTES_MAX,
    SESSION_MESSAGE_BYTES_MAX,
};
use saltern_wire::mine::{MineEntry, MineReport};
use saltern_wire::session::{Answer, Call, Refusal};
use saltern_wire::target::Target;
use saltern_wire::{Map, MinionId, Ordinal, Revision};
use std::time::Duration;

/// Most items of one call: what an entry of acceptances holds, and far more than a minion has open.
const ITEMS_MAX: usize = 4096;

/// Most parts of one return: the largest return in the largest parts, and one for the remainder.
const PARTS_MAX: usize = RETURN_BYTES_MAX / RETURN_PART_BYTES_MAX + 1;

/// Bytes of a reply that mine values may fill; the rest is for its envelope.
const MINE_REPLY_BYTES_MAX: usize = SESSION_MESSAGE_BYTES_MAX / 2;

/// An accepted minion that asks.
pub(crate) struct Caller<'a> {
    /// Its id.
    pub(crate) minion: &'a MinionId,
    /// Its number.
    pub(crate) ordinal: Ordinal,
    /// Its incarnation.
    pub(crate) incarnation: u64,
    /// Its program version.
    pub(crate) version: &'a str,
    /// When it no longer waits, by this master's monotonic clock.
    pub(crate) deadline: Duration,
}

impl Caller<'_> {
    fn asker(&self) -> Asker {
        Asker { ordinal: self.ordinal, deadline: self.deadline }
    }
}

/// What a call costs before it is carried out, in units of about half a millisecond of a session's share: one, and more for
/// bytes.
pub(crate) fn cost_of(call: &Call) -> u32 {
    let bytes: usize = match call {
        Call::Accept(jobs) => jobs.len() * 32,
        Call::Return(parts) => parts.iter().map(|part| part.body.len()).sum(),
        Call::Facts(_) => FACTS_BYTES_MAX,
        Call::MineReport(reports) => reports.len() * 1024,
        Call::MineGet { target, .. } => target.expression.len() * 16,
    };
    1 + u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX - 1)
}

/// Bytes that a unit of [`cost_of`] covers.
const UNIT_BYTES: usize = 32 * 1024;

/// Minions that a unit covers when a target is resolved.
const UNIT_MINIONS: u64 = 50;

/// What resolving a target costs here: every accepted minion is looked at.
pub(crate) fn cost_of_target(shared: &Shared) -> u32 {
    u32::try_from(shared.replica.state().counts().accepted / UNIT_MINIONS).unwrap_or(u32::MAX)
}

/// Carries out one call; the answer goes with a revision at which it holds.
pub(crate) async fn carry_out(shared: &Shared, caller: &Caller<'_>, call: Call) -> Result<(Answer, Revision), Refusal> {
    match call {
        Call::Accept(jobs) => {
            bounded(jobs.len(), "jobs")?;
            shared.inbox.accept(caller.asker(), jobs).await.map(|revision| (Answer::Done, revision))
        }
        Call::Return(parts) => {
            check_parts(&parts)?;
            let recorded = shared.inbox.record(caller.asker(), parts).await?;
            Ok((Answer::Recorded(recorded.0), recorded.1))
        }
        Call::Facts(facts) => report_facts(shared, caller, facts).await.map(|revision| (Answer::Done, revision)),
        Call::MineReport(reports) => {
            check_reports(&reports)?;
            shared.inbox.report(caller.asker(), reports).await.map(|revision| (Answer::Done, revision))
        }
        Call::MineGet { target, function } => {
            // Taken before the read: what is read is at least that new.
            let revision = shared.replica.revision();
            mine_get(shared, &target, &function).map(|entries| (Answer::Mine(entries), revision))
        }
    }
}

fn bounded(len: usize, what: &str) -> Result<(), Refusal> {
    if len <= ITEMS_MAX {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("a call carries {len} {what}, the limit is {ITEMS_MAX}: send fewer at once")))
}

fn check_parts(parts: &[ReturnPart]) -> Result<(), Refusal> {
    bounded(parts.len(), "parts of returns")?;
    for part in parts {
        let ReturnPart { jid, part: number, parts: count, body, .. } = part;
        if body.len() > RETURN_PART_BYTES_MAX {
            let len = body.len();
            return Err(Refusal::Invalid(format!(
                "part {number} of the return for {jid} has {len} bytes, the limit is {RETURN_PART_BYTES_MAX}"
            )));
        }
        if number >= count || usize::from(*count) > PARTS_MAX {
            return Err(Refusal::Invalid(format!(
                "part {number} of {count} of the return for {jid} cannot be; there are at most {PARTS_MAX}, from 0"
            )));
        }
    }
    Ok(())
}

fn check_reports(reports: &[MineReport]) -> Result<(), Refusal> {
    bounded(reports.len(), "mine values")?;
    for MineReport { function, value, .. } in reports {
        if function.is_empty() || function.len() > FUNCTION_NAME_BYTES_MAX {
            let shown: String = function.chars().take(80).collect();
            return Err(Refusal::Invalid(format!(
                "{shown:?} is no mine function: use 1 to {FUNCTION_NAME_BYTES_MAX} bytes"
            )));
        }
        let len = value.as_ref().map_or(0, |value| value.to_string().len());
        if len > MINE_VALUE_BYTES_MAX {
            return Err(Refusal::Invalid(format!(
                "the mine value of {function} has {len} bytes, the limit is {MINE_VALUE_BYTES_MAX}"
            )));
        }
    }
    Ok(())
}

/// Replicates a minion's grains if they, its version or its incarnation differ from what the truth holds.
pub(crate) async fn report_facts(shared: &Shared, caller: &Caller<'_>, facts: Map) -> Result<Revision, Refusal> {
    let len = serde_json::to_vec(&facts).map_or(usize::MAX, |bytes| bytes.len());
    if len > FACTS_BYTES_MAX {
        return Err(Refusal::Invalid(format!("the grains have {len} bytes, the limit is {FACTS_BYTES_MAX}")));
    }
    let revision = shared.replica.revision();
    let held = shared.replica.state().facts(caller.minion).map_err(|error| unreadable(&error))?;
    let same = held.is_some_and(|held| {
        held.incarnation == caller.incarnation && held.version == caller.version && held.facts == facts
    });
    if same {
        return Ok(revision);
    }
    let left = || caller.deadline.saturating_sub(shared.io.clock.monotonic());
    let Ok(turn) = tokio::time::timeout(left(), shared.facts.acquire()).await else {
        return Err(late(&shared.witness));
    };
    let _turn = turn.map_err(|_| Refusal::Unknown)?;
    let command = Command::Minion(MinionCommand::Facts {
        minion: caller.minion.clone(),
        incarnation: caller.incarnation,
        version: caller.version.to_owned(),
        facts,
    });
    settle(shared.replica.propose_within(Lane::Bulk, command, None, left()).await).map(|(_, revision)| revision)
}

fn mine_get(shared: &Shared, target: &Target, function: &str) -> Result<Vec<MineEntry>, Refusal> {
    let state = shared.replica.state();
    let whose = resolve(state, target).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let entries = gather_mine(state, &whose, function, MINE_REPLY_BYTES_MAX).map_err(|error| unreadable(&error))?;
    entries.ok_or_else(|| {
        Refusal::Invalid(format!(
            "the mine values of {function} for {target} exceed {MINE_REPLY_BYTES_MAX} bytes: narrow the target"
        ))
    })
}
