//! One simulated run: builds the machines, lets time pass, makes and mends faults, and reads everything at the end.
//!
//! ```text
//!   forming ─▶ quiet ─▶ faults under load ─▶ healed under load ─▶ every job done ─▶ final reads on every master
//! ```
//!
//! **Invariants.** The world acts between steps of simulated time, never during one. Phases are bounded in simulated time: a
//! cluster that does not come together is an error, one that does not finish its jobs is read as it stands, and the checker
//! says what is missing.

use super::check::{Violation, check};
use super::desk::{Ask, Told};
use super::history::{Deed, History, Operation};
use super::machine::{Common, Master, Minion};
use super::operator::Operator;
use super::plan::{Act, Host, MASTERS, Plan};
use super::reads::read_all;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use saltern_cluster::founding;
use saltern_cluster::raft::runtime::seed_elections;
use saltern_wire::api::{JoinRequest, JoinSecret};
use saltern_wire::crypto::Identity;
use saltern_wire::master::MasterState;
use saltern_wire::session::Standing;
use saltern_wire::{RequestId, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// How long the cluster may take to come together.
const FORMING_MAX: Duration = Duration::from_secs(60);

/// Load before the first fault and after the last one was mended.
const QUIET: Duration = Duration::from_secs(2);

/// How long the last submissions may take once everything is mended.
const SETTLING_MAX: Duration = Duration::from_secs(60);

/// How long open jobs may take once everything is mended: minions that stay away from a master do so for seconds.
const LIVENESS_MAX: Duration = Duration::from_secs(120);

/// How long masters may take to hold the same entries once nothing happens any more.
const AGREEMENT_MAX: Duration = Duration::from_secs(30);

/// Simulated time of one step. turmoil counts in milliseconds.
const STEP: Duration = Duration::from_millis(1);

/// Longest time that a message takes; most take far less.
const LATENCY_MAX: Duration = Duration::from_millis(15);

/// Operators that submit at the same time.
const OPERATORS: usize = 3;

/// Segments under way in one direction of a connection, and connections that wait to be accepted: turmoil panics above.
const TCP_CAPACITY: usize = 4_096;

/// Keeps the world's random numbers apart from others of the same seed; operators take the following ones.
const STREAM: u64 = 2;

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How many faults are made.
    pub faults: usize,
}

/// A run that came to its end.
#[derive(Debug, Clone)]
pub struct Run {
    /// What happened.
    pub history: Vec<Operation>,
    /// What was broken; empty if nothing was.
    pub violations: Vec<Violation>,
    /// How much simulated time it took.
    pub simulated: Duration,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lines, seconds, broken) = (self.history.len(), self.simulated.as_secs(), self.violations.len());
        write!(f, "{lines} operations in {seconds} simulated seconds, {broken} violations")?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A machine could not be made.
    #[error("seed {seed}: the simulation cannot begin: {cause}")]
    Setup {
        /// The seed.
        seed: u64,
        /// What failed.
        cause: String,
    },
    /// Software on a machine ended by itself.
    #[error("seed {seed}, after {at:?}: {cause}")]
    Software {
        /// The seed.
        seed: u64,
        /// When.
        at: Duration,
        /// What it said.
        cause: String,
    },
    /// The cluster did not come together.
    #[error("seed {seed}: {what} did not happen within {within:?}")]
    Stuck {
        /// The seed.
        seed: u64,
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
    },
    /// A master's tables could not be read at the end.
    #[error("seed {seed}: {master} cannot be read: {cause}")]
    Read {
        /// The seed.
        seed: u64,
        /// Which.
        master: String,
        /// What it said.
        cause: String,
    },
}

/// Runs one seed to its end.
pub fn run(options: Options) -> Result<Run, RunError> {
    seed_elections(options.seed);
    let plan = Plan::new(options.seed, options.faults);
    let mut world = World::new(options.seed, &plan)?;
    world.form()?;
    world.begin("quiet");
    world.pass(QUIET)?;
    world.begin("faults");
    let start = world.now();
    for step in &plan.steps {
        world.pass((start + step.at).saturating_sub(world.now()))?;
        world.act(step.act)?;
    }
    world.begin("healed");
    world.pass(QUIET)?;
    world.begin("settling");
    world.until(SETTLING_MAX, |world| world.operators.iter().all(Operator::is_idle))?;
    world.until(LIVENESS_MAX, World::all_done)?;
    world.until(AGREEMENT_MAX, World::agree)?;
    world.begin("reads");
    world.operators.iter_mut().for_each(Operator::give_up);
    world.read()?;
    let history = world.history.operations();
    Ok(Run { violations: check(&history), history, simulated: world.now() })
}

struct World {
    seed: u64,
    sim: turmoil::Sim<'static>,
    rng: ChaCha8Rng,
    masters: Vec<Rc<Master>>,
    minions: Vec<Rc<Minion>>,
    operators: Vec<Operator>,
    /// Whether operators submit new jobs.
    submitting: bool,
    /// Roads that have a fault now, and which.
    roads: BTreeMap<(Host, Host), Act>,
    newest_term: u64,
    history: History,
}

impl World {
    fn new(seed: u64, plan: &Plan) -> Result<Self, RunError> {
        let setup = |cause: String| RunError::Setup { seed, cause };
        let history = History::default();
        let common = Common { seed, history: history.clone() };
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(std::time::SystemTime::UNIX_EPOCH)
            .tick_duration(STEP)
            .min_message_latency(STEP)
            .max_message_latency(LATENCY_MAX)
            .tcp_capacity(TCP_CAPACITY)
            .enable_random_order()
            .build();
        let skew = |host: &Host| plan.wall_skew_micros.get(host).copied().unwrap_or(0);
        let masters = Host::masters()
            .map(|host| Master::new(host, skew(&host), common.clone()).map(Rc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(setup)?;
        let fingerprint = masters[0].found().map_err(setup)?;
        let minions = Host::minions()
            .map(|host| Minion::new(host, fingerprint, skew(&host), common.clone()).map(Rc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(setup)?;
        for master in &masters {
            let software = Rc::clone(master);
            sim.host(master.host.name(), move || Rc::clone(&software).run());
        }
        for minion in &minions {
            let software = Rc::clone(minion);
            sim.host(minion.host.name(), move || Rc::clone(&software).run());
        }
        let stream = |number: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(STREAM + number);
            rng
        };
        let mut keys: Vec<_> = minions.iter().map(|minion| minion.id.clone()).collect();
        let operators = (1..=OPERATORS)
            .map(|number| Operator::new(number, stream(number as u64), std::mem::take(&mut keys), history.clone()))
            .collect();
        let (submitting, roads, newest_term) = (false, BTreeMap::new(), 0);
        Ok(Self { seed, sim, rng: stream(0), masters, minions, operators, submitting, roads, newest_term, history })
    }

    fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    fn begin(&mut self, phase: &str) {
        self.submitting = matches!(phase, "quiet" | "faults" | "healed");
        self.history.note("simulation", Deed::Phase { phase: phase.into() }, 0, self.now());
    }

    /// One step of simulated time, and what the operators do behind it.
    fn step(&mut self) -> Result<(), RunError> {
        let stepped = self.sim.step();
        let (seed, now) = (self.seed, self.now());
        stepped.map_err(|error| RunError::Software { seed, at: now, cause: error.to_string() })?;
        for operator in &mut self.operators {
            operator.poll(now, &self.masters, self.submitting);
        }
        self.watch_leader();
        Ok(())
    }

    fn pass(&mut self, time: Duration) -> Result<(), RunError> {
        let end = self.now() + time;
        while self.now() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Steps until `done`; false if that does not happen in time.
    fn until(&mut self, within: Duration, done: impl Fn(&Self) -> bool) -> Result<bool, RunError> {
        let end = self.now() + within;
        while !done(self) {
            if self.now() >= end {
                return Ok(false);
            }
            self.step()?;
        }
        Ok(true)
    }

    fn need(&mut self, what: &'static str, done: impl Fn(&Self) -> bool) -> Result<(), RunError> {
        let (seed, within) = (self.seed, FORMING_MAX);
        if self.until(within, done)? { Ok(()) } else { Err(RunError::Stuck { seed, what, within }) }
    }

    /// Founds the cluster, has the other masters join, and waits until every minion is accepted and attached.
    fn form(&mut self) -> Result<(), RunError> {
        self.begin("forming");
        self.need("the first master's start", |world| world.masters[0].open.borrow().is_some())?;
        for at in 1..self.masters.len() {
            self.join(at)?;
        }
        self.need("three active voters", Self::is_complete)?;
        self.need("the acceptance of every minion", |world| world.operators.iter().all(Operator::has_accepted))?;
        self.need("every minion's attachment", |world| world.minions.iter().all(|minion| is_attached(minion)))
    }

    /// Has one master join through the first, as `saltern-master join` does.
    fn join(&mut self, at: usize) -> Result<(), RunError> {
        let seed = self.seed;
        let setup = |cause: String| RunError::Setup { seed, cause };
        let (mut secret, mut request) = ([0; 32], [0; 16]);
        self.rng.fill_bytes(&mut secret);
        self.rng.fill_bytes(&mut request);
        let identity = Identity::from_seed(secret);
        let config = self.masters[at].config.clone();
        let joiner = Box::new(JoinRequest {
            secret: JoinSecret(String::new()),
            name: config.id.clone(),
            public_key: identity.public_key(),
            endpoints: config.endpoints(),
            region: config.region.clone(),
            zone: config.zone.clone(),
            level: saltern_wire::level::LEVEL,
        });
        let first = self.masters[0].open.borrow().as_ref().map(|(desk, truth)| (Rc::clone(desk), truth.clone()));
        let Some((desk, truth)) = first else { return Err(setup("the first master is gone".into())) };
        let ticket = desk.ask(Ask::Join { joiner, request: RequestId::from_bytes(request) });
        let end = self.now() + FORMING_MAX;
        let grant = loop {
            match desk.answer(ticket) {
                Some(Told::Joined(grant)) => break grant,
                Some(other) => return Err(setup(format!("{} may not join: {other:?}", config.id))),
                None if self.now() >= end => {
                    return Err(RunError::Stuck { seed, what: "the answer to a join", within: FORMING_MAX });
                }
                None => self.step()?,
            }
        };
        let pinned = truth.state().ca().map(|ca| ca.public_key.fingerprint());
        let pinned = pinned.ok_or_else(|| setup("the first master knows no CA".into()))?;
        let credentials = founding::accept(&config, identity, *grant, pinned).map_err(setup)?;
        let disk = &self.masters[at].disk;
        credentials.store(disk, &config.data_dir).map_err(|error| setup(error.to_string()))
    }

    fn is_complete(&self) -> bool {
        self.masters.iter().all(|master| {
            let open = master.open.borrow();
            let Some((_, truth)) = open.as_ref() else { return false };
            let status = truth.status();
            let voters = status.members.iter().filter(|member| member.voter).count();
            let directory = truth.state().directory().and_then(|signed| signed.peek().ok());
            let active = directory.map_or(0, |directory| {
                directory.masters.iter().filter(|master| master.state == MasterState::Active).count()
            });
            voters == usize::from(MASTERS) && active == usize::from(MASTERS)
        })
    }

    fn act(&mut self, act: Act) -> Result<(), RunError> {
        self.history.note("nemesis", Deed::Fault { fault: act.to_string() }, 0, self.now());
        match act {
            Act::Kill(host) => self.kill(host)?,
            Act::PowerOff(host) => self.power_off(host),
            Act::Start(host) => self.sim.bounce(host.name()),
            Act::Cut(a, b) | Act::Stall(a, b) | Act::CutOneWay(a, b) => {
                self.roads.insert((a.min(b), a.max(b)), act);
                self.break_road(act);
            }
            Act::Mend(a, b) => match self.roads.remove(&(a.min(b), a.max(b))) {
                Some(Act::Stall(..)) => self.sim.release(a.name(), b.name()),
                _ => self.sim.repair(a.name(), b.name()),
            },
        }
        Ok(())
    }

    fn break_road(&self, act: Act) {
        match act {
            Act::Cut(a, b) => self.sim.partition(a.name(), b.name()),
            Act::Stall(a, b) => self.sim.hold(a.name(), b.name()),
            Act::CutOneWay(from, to) => self.sim.partition_oneway(from.name(), to.name()),
            Act::Kill(_) | Act::PowerOff(_) | Act::Start(_) | Act::Mend(..) => {}
        }
    }

    /// The process dies: its machine closes its connections in one last step.
    fn kill(&mut self, host: Host) -> Result<(), RunError> {
        for master in self.masters.iter().filter(|master| master.host == host) {
            *master.open.borrow_mut() = None;
            master.switch.borrow().turn_off();
        }
        for minion in self.minions.iter().filter(|minion| minion.host == host) {
            minion.switch.borrow().turn_off();
        }
        self.step()?;
        self.crash(host);
        Ok(())
    }

    /// The machine goes dark: no word of it leaves, not even a goodbye.
    fn power_off(&mut self, host: Host) {
        for other in Host::all().filter(|other| *other != host) {
            self.sim.partition(host.name(), other.name());
        }
        self.crash(host);
        for other in Host::all().filter(|other| *other != host) {
            self.sim.repair(host.name(), other.name());
            if let Some(fault) = self.roads.get(&(host.min(other), host.max(other))) {
                self.break_road(*fault);
            }
        }
    }

    fn crash(&mut self, host: Host) {
        // What the world holds of the boot goes first, or it would outlive its machine.
        for master in self.masters.iter().filter(|master| master.host == host) {
            *master.open.borrow_mut() = None;
        }
        self.sim.crash(host.name());
        self.masters.iter().filter(|master| master.host == host).for_each(|master| master.crash());
        self.minions.iter().filter(|minion| minion.host == host).for_each(|minion| minion.crash());
    }

    /// Writes down when a master begins to lead.
    fn watch_leader(&mut self) {
        for master in &self.masters {
            let open = master.open.borrow();
            let Some((_, truth)) = open.as_ref() else { continue };
            let state = truth.group().leader_state();
            // A deposed leader that has not heard of it yet does not count.
            if state.is_self && self.newest_term < state.term {
                self.newest_term = state.term;
                let deed = Deed::Lead { master: master.host.name() };
                self.history.note(master.host.name(), deed, state.term, self.sim.elapsed());
            }
        }
    }

    fn all_done(&self) -> bool {
        self.masters
            .iter()
            .all(|master| master.open.borrow().as_ref().is_some_and(|(_, truth)| truth.state().counts().open_jobs == 0))
    }

    /// Whether every master has applied the same entries.
    fn agree(&self) -> bool {
        let applied = self.masters.iter().map(|master| Some(master.open.borrow().as_ref()?.1.revision()));
        let applied: BTreeSet<Option<Revision>> = applied.collect();
        applied.len() == 1 && !applied.contains(&None)
    }

    fn read(&self) -> Result<(), RunError> {
        for master in &self.masters {
            let name = master.host.name();
            let Some(truth) = master.open.borrow().as_ref().map(|(_, truth)| truth.clone()) else { continue };
            read_all(truth.state(), &name, self.now(), &self.history).map_err(|error| RunError::Read {
                seed: self.seed,
                master: name,
                cause: error.to_string(),
            })?;
        }
        Ok(())
    }
}

fn is_attached(minion: &Minion) -> bool {
    minion.agent.borrow().as_ref().is_some_and(|agent| {
        let status = agent.status();
        status.subscribed && matches!(status.standing, Some(Standing::Accepted { .. }))
    })
}
