//! The simulated operators: each wants one thing at a time, asks whichever master lives, and asks again under the same
//! request id for as long as the outcome is open.

use super::desk::{Ask, Desk, Ticket, Told};
use super::history::{Deed, History, NEVER, Operation, nanos};
use super::machine::Master;
use super::plan::Host;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use saltern_wire::api::{FailureCode, Submit};
use saltern_wire::target::{Target, TargetKind};
use saltern_wire::{MinionId, RequestId, Revision};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// An answer that takes longer is not waited for: longer than a proposal and its retries take.
const PATIENCE: Duration = Duration::from_secs(25);

/// How long most jobs may wait for their minions: longer than any simulation, and than a founder's clock may be wrong: once
/// the others' clocks tell, after a downtime, the truth's time jumps by as much.
pub const TTL_MS: u64 = 24 * 3_600_000;

/// How long the others may wait: shorter than some faults take.
const TTL_MS_SHORT: std::ops::Range<u64> = 500..3_000;

/// What an operator wants.
#[derive(Debug, Clone)]
struct Wish {
    request: RequestId,
    ask: Ask,
    /// The line for the history; a job's name is filled in.
    deed: Deed,
    begun: Duration,
    /// Whether some attempt may have been carried out without anybody hearing of it.
    open: bool,
}

enum Phase {
    Idle { until: Duration },
    Asked { wish: Box<Wish>, desk: Rc<Desk>, master: usize, boot: u64, ticket: Ticket, since: Duration },
    Pause { wish: Box<Wish>, until: Duration },
}

/// One operator.
pub struct Operator {
    name: String,
    rng: ChaCha8Rng,
    phase: Phase,
    /// Keys that it accepts before it submits anything.
    keys: Vec<MinionId>,
    history: History,
}

impl Operator {
    /// An operator who first accepts `keys`.
    pub fn new(number: usize, rng: ChaCha8Rng, keys: Vec<MinionId>, history: History) -> Self {
        let phase = Phase::Idle { until: Duration::ZERO };
        Self { name: format!("operator-{number}"), rng, phase, keys, history }
    }

    /// Whether nothing is asked for.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle { .. })
    }

    /// Whether all keys were accepted.
    pub fn has_accepted(&self) -> bool {
        self.keys.is_empty() && self.is_idle()
    }

    /// Does what is due. `submitting` says whether new jobs are wanted.
    pub fn poll(&mut self, now: Duration, masters: &[Rc<Master>], submitting: bool) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Idle { until: now }) {
            Phase::Idle { until } if now < until => Phase::Idle { until },
            Phase::Idle { until } => match self.wish(now, submitting) {
                Some(wish) => self.ask(wish, now, masters),
                None => Phase::Idle { until },
            },
            Phase::Pause { wish, until } if now < until => Phase::Pause { wish, until },
            Phase::Pause { wish, .. } => self.ask(wish, now, masters),
            Phase::Asked { mut wish, desk, master, boot, ticket, since } => match desk.answer(ticket) {
                Some(told) => self.hear(wish, told, now),
                None if masters[master].boots.get() != boot || now.saturating_sub(since) > PATIENCE => {
                    wish.open = true;
                    self.pause(wish, now)
                }
                None => Phase::Asked { wish, desk, master, boot, ticket, since },
            },
        };
    }

    /// Writes down what is still open at the end of the simulation.
    pub fn give_up(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle { until: Duration::MAX });
        if let Phase::Asked { wish, .. } | Phase::Pause { wish, .. } = phase {
            self.write(*wish, false, Revision(0), NEVER);
        }
    }

    fn wish(&mut self, now: Duration, submitting: bool) -> Option<Box<Wish>> {
        let mut bytes = [0; 16];
        let request = |rng: &mut ChaCha8Rng, bytes: &mut [u8; 16]| {
            rng.fill_bytes(bytes);
            RequestId::from_bytes(*bytes)
        };
        if let Some(minion) = self.keys.last().cloned() {
            let request = request(&mut self.rng, &mut bytes);
            let deed = Deed::Accept { minion: minion.to_string() };
            return Some(Box::new(Wish {
                request,
                ask: Ask::AcceptKey { minion, request },
                deed,
                begun: now,
                open: false,
            }));
        }
        if !submitting {
            return None;
        }
        let request = request(&mut self.rng, &mut bytes);
        let all: Vec<String> = Host::minions().map(Host::name).collect();
        let count = self.rng.random_range(1..=all.len());
        let minions: BTreeSet<String> = all.sample(&mut self.rng, count).cloned().collect();
        let expression = minions.iter().cloned().collect::<Vec<_>>().join(",");
        let pure = self.rng.random_bool(0.25);
        let seconds = f64::from(self.rng.random_range(0..1_500_u32)) / 1_000.0;
        let (function, argument) = if pure { ("test.echo", "here".into()) } else { ("test.sleep", seconds.into()) };
        let ttl_ms = if self.rng.random_bool(0.1) { self.rng.random_range(TTL_MS_SHORT) } else { TTL_MS };
        let submit = Submit {
            target: Target { kind: TargetKind::List, expression },
            function: function.into(),
            arguments: vec![argument],
            keywords: saltern_wire::Map::new(),
            ttl_ms: Some(ttl_ms),
            batch: None,
            subset: None,
        };
        let ask = Ask::Submit { submit: Box::new(submit), user: request.to_string(), request };
        let deed = Deed::Submit { request: request.to_string(), minions, jid: None };
        Some(Box::new(Wish { request, ask, deed, begun: now, open: false }))
    }

    /// Asks a master that lives; later, if none does.
    fn ask(&mut self, wish: Box<Wish>, now: Duration, masters: &[Rc<Master>]) -> Phase {
        let living: Vec<usize> = (0..masters.len()).filter(|at| masters[*at].open.borrow().is_some()).collect();
        let Some(master) = living.choose(&mut self.rng).copied() else { return self.pause(wish, now) };
        let Some(desk) = masters[master].open.borrow().as_ref().map(|(desk, _)| Rc::clone(desk)) else {
            return self.pause(wish, now);
        };
        let (ticket, boot) = (desk.ask(wish.ask.clone()), masters[master].boots.get());
        Phase::Asked { wish, desk, master, boot, ticket, since: now }
    }

    fn pause(&mut self, wish: Box<Wish>, now: Duration) -> Phase {
        let until = now + Duration::from_millis(self.rng.random_range(20..500));
        Phase::Pause { wish, until }
    }

    fn hear(&mut self, mut wish: Box<Wish>, told: Told, now: Duration) -> Phase {
        let ended = i64::try_from(nanos(now)).unwrap_or(i64::MAX);
        match told {
            Told::Written(revision, job) => {
                if let Deed::Submit { jid, .. } = &mut wish.deed {
                    *jid = job.map(|job| job.to_string());
                }
                if matches!(wish.deed, Deed::Accept { .. }) {
                    self.keys.pop();
                }
                self.write(*wish, true, revision, ended);
            }
            Told::Joined(_) => {}
            Told::Failed(failure) => match failure.code {
                FailureCode::Unknown => {
                    wish.open = true;
                    return self.pause(wish, now);
                }
                // Nothing was written. One in ten gives up at that.
                FailureCode::NoQuorum | FailureCode::Busy if !wish.open && self.may_give_up(&wish) => {
                    self.write(*wish, false, Revision(0), ended);
                }
                // A master that has just come back may not know the minions, or their keys, yet.
                FailureCode::NoQuorum | FailureCode::Busy | FailureCode::NotFound | FailureCode::NoMatch => {
                    return self.pause(wish, now);
                }
                FailureCode::Invalid | FailureCode::Denied | FailureCode::Conflict | FailureCode::Internal => {
                    tracing::error!(operator = self.name, request = %wish.request, %failure, "refused for good");
                    let ended = if wish.open { NEVER } else { ended };
                    self.write(*wish, false, Revision(0), ended);
                }
            },
        }
        Phase::Idle { until: now + Duration::from_millis(self.rng.random_range(20..600)) }
    }

    /// Keys have to be accepted for anything to happen; of jobs there are many.
    fn may_give_up(&mut self, wish: &Wish) -> bool {
        matches!(wish.deed, Deed::Submit { .. }) && self.rng.random_bool(0.1)
    }

    fn write(&self, wish: Wish, ok: bool, revision: Revision, ended_ns: i64) {
        self.history.push(Operation {
            process: self.name.clone(),
            deed: wish.deed,
            ok,
            revision: revision.0,
            begun_ns: nanos(wish.begun),
            ended_ns,
        });
    }
}
