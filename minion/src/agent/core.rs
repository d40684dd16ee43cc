//! The agent's state, which one loop owns, and how it carries out what the rules decide.
//!
//! Nothing here waits: what takes time becomes a future in [`Core::work`] or a call on its way, and comes back through the
//! loop. Disk calls block for the time of an fsync; a minion journals a handful of jobs a second.

use super::calls::Calls;
use super::desk::{Ask, Desk};
use super::facts::Facts;
use super::outcomes::Settling;
use super::{StartError, inside};
use crate::attach::{Candidates, Home, NO_QUORUM_PATIENCE, NO_QUORUM_SPREAD, Patience, jittered};
use crate::book::MineBook;
use crate::config::Config;
use crate::delivery::{Delivery, Source};
use crate::executor::{Executor, Work, killed};
use crate::folder::Folder;
use crate::journal::{Health, Journal};
use crate::ledger::Known;
use crate::modules::{self, Context, Invocation};
use crate::outbox::Outbox;
use crate::refusals::{Frames, Refusals, reason_of_job};
use crate::rules::{Action, Room, Rules};
use crate::trust::Trust;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use saltern_wire::JobId;
use saltern_wire::crypto::Identity;
use saltern_wire::fault_point;
use saltern_wire::io::{Io, draw};
use saltern_wire::job::{Job, Outcome, OutcomeKind, ReturnPart};
use saltern_wire::level::LEVEL_FIRST;
use saltern_wire::session::Standing;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often jobs are looked after whose supervisors an earlier agent started: nothing tells of their end.
const ADOPTED_POLL: Duration = Duration::from_millis(250);

/// Bytes of outcomes of pure functions that may wait in memory. Beyond it pure jobs are refused until some are committed.
const MEMORY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a future of [`Core::work`] came to.
pub(super) enum Done {
    /// A pure job has its outcome.
    Pure(JobId, Outcome),
    /// A journalled job that the agent carries out has its outcome.
    Inside(JobId, Outcome),
    /// Something that reports by itself is over.
    Nothing,
}

/// A journalled job that has no outcome on disk yet.
#[derive(Default)]
pub(super) struct Running {
    /// Who runs it, for people.
    pub(super) work: Option<Work>,
    /// Nothing tells when it ends: look.
    pub(super) adopted: bool,
    /// It is over, and the disk did not take its outcome: try again.
    pub(super) outcome: Option<Box<Outcome>>,
    /// Ends it, if the agent carries it out itself.
    pub(super) token: Option<CancellationToken>,
}

/// The state of one agent.
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) io: Io,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) folder: Folder,
    pub(super) identity: Identity,
    pub(super) incarnation: u64,
    pub(super) rules: Rules,
    pub(super) journal: Journal,
    pub(super) outbox: Outbox,
    pub(super) delivery: Delivery,
    pub(super) settling: Settling,
    pub(super) refusals: Refusals,
    pub(super) frames_refused: Frames,
    /// Jobs whose acceptance the truth may not have.
    pub(super) to_accept: BTreeSet<JobId>,
    pub(super) candidates: Candidates,
    pub(super) calls: Calls,
    pub(super) mine: MineBook,
    mine_due: Option<Duration>,
    pub(super) facts: Facts,
    pub(super) running: BTreeMap<JobId, Running>,
    next_look: Duration,
    pub(super) standing: Option<Standing>,
    /// The cluster's feature level, as its beacons say.
    pub(super) level: u32,
    pub(super) work: FuturesUnordered<BoxFuture<'static, Done>>,
    pub(super) desk: Desk,
    pub(super) ended: mpsc::UnboundedSender<JobId>,
}

/// What the loop listens to besides.
pub(super) struct Inlets {
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) ended: mpsc::UnboundedReceiver<JobId>,
}

impl Core {
    /// Opens everything in the data folder, and settles what an earlier life left open.
    pub(super) fn open(config: Config, io: Io, executor: Arc<dyn Executor>) -> Result<(Self, Inlets), StartError> {
        let pinned = config.ca_fingerprint.ok_or(StartError::NoPin)?;
        if config.masters.is_empty() {
            return Err(StartError::NoMaster);
        }
        let folder = Folder::open(io.disk.clone(), &config.data_dir)?;
        let identity = folder.identity(io.entropy.as_ref())?;
        let (mut born, just_born) = folder.born(io.clock.as_ref(), io.entropy.as_ref())?;
        let (mut journal, ledger, health) = Journal::open(io.disk.clone(), folder.journal())?;
        let mut trust = Trust::new(pinned);
        if let Some(kept) = folder.directory()? {
            // One that was kept under another pin is not ours any more: the configuration decides.
            if let Err(error) = trust.handle_directory(kept.ca, &kept.directory) {
                tracing::warn!(%error, "the directory of masters on disk is not used");
            }
        }
        let mut rules = Rules::new(trust, ledger);
        if health == Health::Damaged || (health == Health::New && !just_born) {
            tracing::error!("the journal is damaged or gone; jobs opened before the next beacon are not run");
            born = folder.be_born(Some(born), io.clock.as_ref(), io.entropy.as_ref())?;
            let entries = rules.handle_journal_lost();
            journal.append(&entries, rules.ledger())?;
        }
        let home = Home { region: config.region.clone(), zone: config.zone.clone() };
        let mut candidates = Candidates::new(config.id.clone(), home, &config.masters);
        candidates.handle_directory(rules.trust.active_masters());
        let (asks, asks_inlet) = mpsc::channel(64);
        let (ended, ended_inlet) = mpsc::unbounded_channel();
        let mine_functions = Arc::new(config.mine_functions.clone());
        let now = io.clock.monotonic();
        let mut core = Self {
            outbox: Outbox::open(io.disk.clone(), folder.outbox())?,
            mine: MineBook::open(folder.clone(), born.incarnation)?,
            facts: Facts::open(folder.clone(), config.id.clone(), config.grains.clone(), executor.facts())?,
            desk: Desk { asks, executor: executor.clone(), mine_functions },
            mine_due: (!config.mine_functions.is_empty()).then_some(now),
            incarnation: born.incarnation,
            delivery: Delivery::default(),
            settling: Settling::default(),
            refusals: Refusals::default(),
            frames_refused: Frames::default(),
            to_accept: BTreeSet::new(),
            calls: Calls::default(),
            running: BTreeMap::new(),
            next_look: now,
            standing: None,
            level: LEVEL_FIRST,
            work: FuturesUnordered::new(),
            config,
            io,
            executor,
            folder,
            identity,
            rules,
            journal,
            candidates,
            ended,
        };
        core.recover()?;
        Ok((core, Inlets { asks: asks_inlet, ended: ended_inlet }))
    }

    /// Outcomes that wait go on waiting; jobs without one run on, or are interrupted.
    fn recover(&mut self) -> Result<(), StartError> {
        for jid in self.outbox.jobs().collect::<Vec<_>>() {
            if matches!(self.rules.ledger().get(jid), Some(Known::Settled { .. })) {
                self.outbox.remove(jid)?;
                self.folder.forget_job(jid)?;
            } else {
                self.delivery.add(jid, Source::Disk);
            }
        }
        let open: Vec<JobId> = self.rules.ledger().open_jobs().map(|(jid, _, _)| jid).collect();
        for jid in open {
            self.to_accept.insert(jid);
            if self.delivery.contains(jid) {
                continue;
            }
            let running = Running { work: self.executor.started(jid), adopted: true, ..Running::default() };
            self.running.insert(jid, running);
            self.look_after(jid);
        }
        Ok(())
    }

    /// What a function may look at.
    pub(super) fn context(&self) -> Context {
        Context {
            id: self.config.id.clone(),
            grains: self.facts.current(),
            clock: self.io.clock.clone(),
            output_bytes_max: self.config.output_bytes_max,
        }
    }

    /// How patient to be with a master.
    pub(super) fn patience(&self) -> Patience {
        let random = u64::from_be_bytes(draw(self.io.entropy.as_ref()));
        Patience {
            no_quorum: NO_QUORUM_PATIENCE + jittered(NO_QUORUM_SPREAD, random),
            ping_interval: self.config.ping_interval,
            ping_timeout: self.config.ping_timeout,
            beacon_silence_max: self.config.beacon_silence_max,
        }
    }

    /// Whether a job may be taken now.
    pub(super) fn room(&self) -> Room {
        let config = &self.config;
        let waiting = self.outbox.bytes();
        let oldest = self.rules.ledger().open_jobs().find(|(jid, _, _)| self.outbox.contains(*jid));
        let age = oldest.map_or(Duration::ZERO, |(_, opened, _)| self.rules.time().since(opened));
        let refuse = if waiting >= config.outbox_bytes_max {
            Some(format!(
                "{waiting} bytes of results wait to be committed, outbox_bytes_max is {}",
                config.outbox_bytes_max
            ))
        } else if age >= config.outbox_age_max {
            let days = age.as_secs() / 86_400;
            Some(format!("a result has waited for {days} days to be committed, longer than outbox_age_seconds_max"))
        } else if self.running.len() >= config.jobs_running_max {
            Some(format!(
                "{} jobs run here already, jobs_running_max is {}",
                self.running.len(),
                config.jobs_running_max
            ))
        } else {
            None
        };
        Room { refuse }
    }

    /// Carries out decisions, in order. What stands behind a journal entry that did not reach the disk is not done.
    pub(super) fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Journal(entries) => {
                    if let Err(error) = self.journal.append(&entries, self.rules.ledger()) {
                        self.complain("journal_unwritable", &error);
                        let answers = self.rules.handle_unwritable(&entries, &error.to_string());
                        self.perform(answers);
                        return;
                    }
                }
                Action::Start(job) => {
                    fault_point!("job.start.before");
                    self.start(&job);
                    fault_point!("job.start.after");
                }
                Action::Inside(job) => {
                    fault_point!("job.start.before");
                    self.start_inside(&job);
                    fault_point!("job.start.after");
                }
                Action::RunPure(job) => self.run_pure(&job),
                Action::Accept(jid) => drop(self.to_accept.insert(jid)),
                Action::Answer(jid, outcome) => {
                    tracing::warn!(%jid, reason = %outcome.value, "refused a job");
                    self.answer_from_memory(jid, &outcome);
                }
                Action::Ignore(jid, reason) => self.note_ignored(jid, &reason),
            }
        }
    }

    fn note_ignored(&mut self, jid: Option<JobId>, ignored: &crate::rules::Ignored) {
        let jid = jid.map_or_else(|| "?".to_owned(), |jid| jid.to_string());
        match reason_of_job(ignored) {
            None => tracing::debug!(jid, reason = %ignored, "did not run a job"),
            Some(reason) => {
                if let Some(more) = self.refusals.count(reason, self.io.clock.monotonic()) {
                    tracing::warn!(jid, reason = %ignored, more, "did not run a job");
                }
            }
        }
    }

    /// Counts something that this minion cannot do or does not take, and says so now and then.
    pub(super) fn complain(&mut self, reason: &'static str, cause: &dyn std::fmt::Display) {
        if let Some(more) = self.refusals.count(reason, self.io.clock.monotonic()) {
            tracing::error!(reason, %cause, more, "refused");
        }
    }

    fn start(&mut self, job: &Job) {
        let work = Work::of(job, &self.config.id, self.config.output_bytes_max);
        tracing::info!(jid = %job.jid, function = %job.function, user = %job.user, "starts a job");
        match self.executor.start(work.clone(), self.context(), self.ended.clone()) {
            Ok(()) => {
                self.running.insert(job.jid, Running { work: Some(work), ..Running::default() });
            }
            Err(error) => {
                let text = format!("the minion could not start a process for the job: {error}");
                let result = Err(modules::Failure::Failed(text));
                self.put(job.jid, modules::outcome(&job.function, result, 0));
            }
        }
    }

    fn start_inside(&mut self, job: &Job) {
        let mut work = Work::of(job, &self.config.id, self.config.output_bytes_max);
        work.pid = std::process::id();
        let (token, jid, call) = (CancellationToken::new(), job.jid, work.invocation());
        let function = call.function.clone();
        let future = inside::carry_out(self.desk.clone(), self.context(), call);
        let running = Running { work: Some(work), token: Some(token.clone()), ..Running::default() };
        self.running.insert(jid, running);
        self.work.push(
            async move {
                tokio::select! {
                    biased;
                    () = token.cancelled() => Done::Inside(jid, killed(&function)),
                    outcome = future => Done::Inside(jid, outcome),
                }
            }
            .boxed(),
        );
    }

    fn run_pure(&mut self, job: &Job) {
        let jid = job.jid;
        if self.delivery.memory_bytes() > MEMORY_BYTES_MAX {
            self.rules.handle_pure_done(jid);
            let text = "too many results wait in memory to be committed";
            self.answer_from_memory(jid, &crate::rules::refused(text));
            return;
        }
        let call = Invocation {
            function: job.function.clone(),
            arguments: job.arguments.clone(),
            keywords: job.keywords.clone(),
        };
        let inside = modules::find(&call.function).is_some_and(|function| function.is_agents());
        let outcome = if inside {
            inside::carry_out(self.desk.clone(), self.context(), call).boxed()
        } else {
            self.executor.call(self.context(), call)
        };
        self.work.push(outcome.map(move |outcome| Done::Pure(jid, outcome)).boxed());
    }

    fn answer_from_memory(&mut self, jid: JobId, outcome: &Outcome) {
        let parts = ReturnPart::split(jid, outcome).or_else(|error| {
            let value = saltern_wire::Value::String(error.to_string());
            let small = Outcome { kind: OutcomeKind::Finished, success: false, retcode: 1, value, duration_ms: 0 };
            ReturnPart::split(jid, &small)
        });
        self.delivery.add(jid, Source::Memory(Arc::new(parts.unwrap_or_default())));
    }

    /// A future of [`Core::work`] is done.
    pub(super) fn handle_done(&mut self, done: Done) {
        match done {
            Done::Pure(jid, outcome) => {
                self.rules.handle_pure_done(jid);
                self.answer_from_memory(jid, &outcome);
            }
            Done::Inside(jid, outcome) => self.put(jid, outcome),
            Done::Nothing => {}
        }
    }

    /// Does what is due by the clock.
    pub(super) fn poll(&mut self, now: Duration) {
        if self.running.values().any(|running| running.adopted) && now >= self.next_look {
            self.next_look = now + ADOPTED_POLL;
            let adopted = self.running.iter().filter(|(_, running)| running.adopted);
            for jid in adopted.map(|(jid, _)| *jid).collect::<Vec<_>>() {
                self.look_after(jid);
            }
        }
        if self.settling.is_due(now) {
            self.finish_settled(now);
        }
        if self.is_accepted() && self.mine_due.is_some_and(|due| now >= due) {
            self.mine_due = self.config.mine_interval.map(|interval| now + interval);
            let update = inside::update_by_itself(self.desk.clone(), self.context());
            self.work.push(update.map(|()| Done::Nothing).boxed());
        }
    }

    /// When [`Core::poll`] has something to do again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let look = self.running.values().any(|running| running.adopted).then_some(self.next_look);
        let mine = self.mine_due.filter(|_| self.is_accepted());
        look.into_iter().chain(mine).chain(self.settling.deadline()).min()
    }

    /// Whether the minion's key is accepted, as far as it knows.
    pub(super) fn is_accepted(&self) -> bool {
        matches!(self.standing, Some(Standing::Accepted { .. }))
    }
}
