//! Calls to the master: what is asked next, what is on its way, and what an answer means.
//!
//! **Invariants.** What a call carries waits again when the call has no answer, was refused for now, or its session ended;
//! every call is harmless to repeat. Between refusals the minion waits, longer each time, with full jitter.

use super::core::Core;
use super::inside::Failed;
use crate::attach::jittered;
use crate::credit::{Charge, Credit};
use crate::delivery::{Flight, Loaded};
use saltern_wire::JobId;
use saltern_wire::fault_point;
use saltern_wire::io::draw;
use saltern_wire::limits::{RETURN_PART_BYTES_MAX, RETURN_PART_OVERHEAD_BYTES};
use saltern_wire::mine::{MineEntry, MineReport, MineStamp};
use saltern_wire::session::{Answer, Call, Refusal, Standing, ToMaster};
use saltern_wire::target::Target;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long an answer is waited for: several elections.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// Return calls on their way at one time: one is being committed while others travel. More would only wait at the master.
const RETURN_CALLS_MAX: usize = 4;

/// Jobs in one call of acceptance.
const ACCEPT_JOBS_MAX: usize = 1_000;

/// Longest wait after a refusal.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// First wait after a refusal; it doubles.
const WAIT_FIRST: Duration = Duration::from_millis(100);

/// Reads of the mine that may wait for a master.
const MINE_GETS_MAX: usize = 256;

/// How long a master may go without taking one call, refusing or ignoring all, before another is tried: several elections.
/// Minions spread over half as long again.
const REFUSED_PATIENCE: Duration = Duration::from_secs(20);

/// Refusals in a row that say something about a master. A call that was not answered at all counts as so many.
const REFUSALS_MIN: u32 = 3;

type MineReply = oneshot::Sender<Result<Vec<MineEntry>, Failed>>;

/// What a call is about.
enum Purpose {
    Accept(Vec<JobId>),
    Return(Flight, Charge),
    Facts([u8; 32]),
    Mine(Vec<(String, MineStamp)>),
    MineGet(MineGet),
}

struct MineGet {
    target: Target,
    function: String,
    reply: MineReply,
    give_up: Duration,
}

struct OnTheWay {
    purpose: Purpose,
    expires: Duration,
}

/// The calls of one agent.
#[derive(Default)]
pub(super) struct Calls {
    sequence: u64,
    on_the_way: BTreeMap<u64, OnTheWay>,
    /// How many bytes of returns may go.
    credit: Credit,
    mine_gets: VecDeque<MineGet>,
    not_before: Duration,
    refusals: u32,
    /// Nothing was taken since, and until when that is borne.
    refused: Option<(Duration, Duration)>,
}

impl Calls {
    /// When something is due: a call runs out, or waiting after a refusal ends.
    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        let calls = self.on_the_way.values().map(|call| call.expires).min();
        let gets = self.mine_gets.iter().map(|get| get.give_up).min();
        let wait = (self.not_before > now).then_some(self.not_before);
        let refused = self.refused.filter(|_| self.refusals >= REFUSALS_MIN).map(|(_, until)| until);
        calls.into_iter().chain(gets).chain(wait).chain(refused).min()
    }

    fn has(&self, of: impl Fn(&Purpose) -> bool) -> usize {
        self.on_the_way.values().filter(|call| of(&call.purpose)).count()
    }
}

impl Core {
    /// Takes in a read of others' mine values.
    pub(super) fn handle_mine_get(&mut self, target: Target, function: String, reply: MineReply) {
        let give_up = self.io.clock.monotonic() + CALL_DEADLINE;
        self.calls.mine_gets.push_back(MineGet { target, function, reply, give_up });
        if self.calls.mine_gets.len() > MINE_GETS_MAX
            && let Some(oldest) = self.calls.mine_gets.pop_front()
        {
            // The asker may be gone.
            let _ = oldest.reply.send(Err("too many reads of the mine wait for a master".into()));
        }
    }

    /// The calls that may go now. Call it only while attached to a master that is obeyed.
    pub(super) fn next_calls(&mut self, now: Duration) -> Vec<ToMaster> {
        let mut messages = Vec::new();
        let Some(Standing::Accepted { ordinal }) = self.standing else { return messages };
        if now < self.calls.not_before {
            return messages;
        }
        if !self.to_accept.is_empty() && self.calls.has(|purpose| matches!(purpose, Purpose::Accept(_))) == 0 {
            let jids: Vec<JobId> = self.to_accept.iter().copied().take(ACCEPT_JOBS_MAX).collect();
            messages.push(self.call(Call::Accept(jids.clone()), Purpose::Accept(jids), now));
        }
        if let Some((grains, digest)) = self.facts.next_call(ordinal) {
            messages.push(self.call(Call::Facts(grains), Purpose::Facts(digest), now));
        }
        self.next_returns(&mut messages, now);
        if self.calls.has(|purpose| matches!(purpose, Purpose::Mine(_))) == 0
            && let Some(reports) = self.mine.next_call()
        {
            let stamp = |report: &MineReport| (report.function.clone(), report.stamp);
            let stamps = reports.iter().map(stamp).collect();
            messages.push(self.call(Call::MineReport(reports), Purpose::Mine(stamps), now));
        }
        while let Some(get) = self.calls.mine_gets.pop_front() {
            let call = Call::MineGet { target: get.target.clone(), function: get.function.clone() };
            messages.push(self.call(call, Purpose::MineGet(get), now));
        }
        messages
    }

    /// Calls with returns, as far as the master lets them; what it does not, it is asked for.
    fn next_returns(&mut self, messages: &mut Vec<ToMaster>, now: Duration) {
        while self.calls.has(|purpose| matches!(purpose, Purpose::Return(..))) < RETURN_CALLS_MAX {
            let (delivery, outbox) = (&mut self.delivery, &mut self.outbox);
            let load = |jid, room| {
                if !outbox.fits(jid, room) {
                    return Loaded::Large;
                }
                outbox.load(jid).map(Loaded::Parts).unwrap_or_else(|error| {
                    tracing::error!(%jid, %error, "an outcome cannot be read");
                    Loaded::Unreadable
                })
            };
            let Some((parts, flight)) = delivery.next_call(self.calls.credit.room(), load) else {
                if self.delivery.is_short() {
                    let bytes = self.waiting_bytes();
                    messages.extend(self.calls.credit.want(bytes).map(|bytes| ToMaster::Want { bytes }));
                }
                return;
            };
            fault_point!("outbox.send.before");
            let charge = self.calls.credit.charge(flight.bytes);
            messages.push(self.call(Call::Return(parts), Purpose::Return(flight, charge), now));
        }
    }

    /// What the outcomes weigh that are in no call, or a little more.
    fn waiting_bytes(&self) -> u64 {
        let bytes = self.outbox.bytes().saturating_add(self.delivery.memory_bytes() as u64);
        let parts = self.delivery.len() as u64 + bytes / RETURN_PART_BYTES_MAX as u64;
        let under_way = self.calls.on_the_way.values().filter_map(|call| match &call.purpose {
            Purpose::Return(flight, _) => Some(flight.bytes as u64),
            Purpose::Accept(_) | Purpose::Facts(_) | Purpose::Mine(_) | Purpose::MineGet(_) => None,
        });
        (bytes + parts * RETURN_PART_OVERHEAD_BYTES as u64).saturating_sub(under_way.sum())
    }

    /// The master has granted its fan-out.
    pub(super) fn handle_grant(&mut self) {
        self.calls.credit.handle_grant();
    }

    /// The master gives credit for returns.
    pub(super) fn handle_credit(&mut self, bytes: u64) {
        self.calls.credit.handle_credit(bytes);
    }

    fn call(&mut self, call: Call, purpose: Purpose, now: Duration) -> ToMaster {
        self.calls.sequence += 1;
        let sequence = self.calls.sequence;
        self.calls.on_the_way.insert(sequence, OnTheWay { purpose, expires: now + CALL_DEADLINE });
        ToMaster::Call { sequence, deadline_ms: u64::try_from(CALL_DEADLINE.as_millis()).unwrap_or(u64::MAX), call }
    }

    /// The session ended: nothing on its way has an answer any more.
    pub(super) fn handle_session_over(&mut self) {
        for call in std::mem::take(&mut self.calls.on_the_way).into_values() {
            self.handle_unanswered(call.purpose);
        }
        (self.calls.not_before, self.calls.refusals, self.calls.refused) = (Duration::ZERO, 0, None);
        self.calls.credit = Credit::default();
    }

    /// For how long the master has taken no call, once that is too long. Asked again after another while.
    pub(super) fn poll_refused(&mut self, now: Duration) -> Option<Duration> {
        let (since, until) = self.calls.refused?;
        if now < until || self.calls.refusals < REFUSALS_MIN {
            return None;
        }
        self.calls.refused = Some((since, now + REFUSED_PATIENCE));
        Some(now.saturating_sub(since))
    }

    /// Gives up calls whose time is over.
    pub(super) fn poll_calls(&mut self, now: Duration) {
        let over: Vec<u64> = self
            .calls
            .on_the_way
            .iter()
            .filter(|(_, call)| now >= call.expires)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in over {
            if let Some(call) = self.calls.on_the_way.remove(&sequence) {
                self.handle_unanswered(call.purpose);
                self.wait(now, None);
                self.calls.refusals = self.calls.refusals.max(REFUSALS_MIN);
                // Its deadline is as long as the patience: no more of it is due.
                self.calls.refused = Some((call.expires.saturating_sub(CALL_DEADLINE), now));
            }
        }
        for get in std::mem::take(&mut self.calls.mine_gets) {
            if now >= get.give_up {
                let _ = get.reply.send(Err("no master answered in time".into()));
            } else {
                self.calls.mine_gets.push_back(get);
            }
        }
    }

    /// What a call carried waits again.
    fn handle_unanswered(&mut self, purpose: Purpose) {
        match purpose {
            // They are still in `to_accept`.
            Purpose::Accept(_) => {}
            Purpose::Return(flight, charge) => {
                self.calls.credit.handle_over(charge);
                self.delivery.handle_failed(&flight);
            }
            Purpose::Facts(_) => self.facts.handle_failed(),
            Purpose::Mine(stamps) => self.mine.handle_failed(&stamps),
            Purpose::MineGet(get) => self.calls.mine_gets.push_front(get),
        }
    }

    /// No calls for a while: what the master asked for, or a jittered time that grows with each refusal in a row.
    fn wait(&mut self, now: Duration, asked: Option<Duration>) {
        self.calls.refusals = self.calls.refusals.saturating_add(1);
        if self.calls.refused.is_none() {
            let random = u64::from_be_bytes(draw(self.io.entropy.as_ref()));
            self.calls.refused = Some((now, now + REFUSED_PATIENCE + jittered(REFUSED_PATIENCE / 2, random)));
        }
        let most = WAIT_FIRST.saturating_mul(1 << self.calls.refusals.min(10)).min(WAIT_MAX);
        let random = u64::from_be_bytes(draw(self.io.entropy.as_ref()));
        // Never at once: an answer that refuses at once would be asked for in a tight loop.
        let own = WAIT_FIRST / 2 + jittered(most, random);
        self.calls.not_before = now + asked.map_or(own, |asked| asked.max(own));
    }

    /// The master answered a call.
    pub(super) fn handle_reply(&mut self, sequence: u64, result: Result<Answer, Refusal>, now: Duration) {
        // An answer that came after its deadline: what it was about was asked again.
        let Some(OnTheWay { purpose, .. }) = self.calls.on_the_way.remove(&sequence) else { return };
        match result {
            Ok(answer) => {
                (self.calls.refusals, self.calls.refused) = (0, None);
                self.handle_answer(purpose, answer);
            }
            Err(Refusal::Invalid(reason)) => {
                self.calls.refused = None;
                self.handle_invalid(purpose, &reason);
            }
            Err(refusal @ (Refusal::NoQuorum | Refusal::Unknown | Refusal::NotAccepted)) => {
                tracing::debug!(%refusal, "a call was refused");
                self.handle_unanswered(purpose);
                self.wait(now, None);
            }
            Err(Refusal::Busy { retry_after_ms }) => {
                self.handle_unanswered(purpose);
                self.wait(now, Some(Duration::from_millis(retry_after_ms.min(60_000))));
            }
        }
    }

    fn handle_answer(&mut self, purpose: Purpose, answer: Answer) {
        match (purpose, answer) {
            (Purpose::Accept(jids), Answer::Done) => {
                self.to_accept.retain(|jid| !jids.contains(jid));
                fault_point!("job.accept.after");
            }
            (Purpose::Return(flight, charge), Answer::Recorded(verdicts)) => {
                self.calls.credit.handle_over(charge);
                let settled = self.delivery.handle_recorded(&flight, &verdicts);
                self.settle(settled);
            }
            (Purpose::Facts(digest), Answer::Done) => {
                if let Some(Standing::Accepted { ordinal }) = self.standing {
                    self.facts.handle_done(ordinal, digest);
                } else {
                    self.facts.handle_failed();
                }
            }
            (Purpose::Mine(stamps), Answer::Done) => self.mine.handle_done(&stamps),
            (Purpose::MineGet(get), Answer::Mine(entries)) => drop(get.reply.send(Ok(entries))),
            (purpose, answer @ (Answer::Done | Answer::Recorded(_) | Answer::Mine(_))) => {
                tracing::error!(?answer, "the master gave an answer to another question");
                self.handle_unanswered(purpose);
            }
        }
    }

    fn handle_invalid(&mut self, purpose: Purpose, reason: &str) {
        match purpose {
            Purpose::Accept(jids) => {
                tracing::warn!(reason, "the master does not want to hear that jobs were accepted");
                self.to_accept.retain(|jid| !jids.contains(jid));
            }
            Purpose::Return(flight, charge) => {
                self.calls.credit.handle_over(charge);
                let settled = self.delivery.handle_invalid(&flight, reason);
                self.settle(settled);
            }
            Purpose::Facts(digest) => self.facts.handle_invalid(digest, reason),
            Purpose::Mine(stamps) => self.mine.handle_invalid(&stamps, reason),
            // The asker may be gone.
            Purpose::MineGet(get) => drop(get.reply.send(Err(reason.to_owned()))),
        }
    }
}
