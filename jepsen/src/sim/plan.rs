//! What goes wrong, and when: drawn from the seed before the simulation begins. Pure.
//!
//! **Invariants.** At most one master is down at a time, except once in the middle of the plan, when all lose power
//! together. A road has at most one fault at a time. Everything is mended by the end of the plan.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Masters of the simulated cluster.
pub const MASTERS: u8 = 3;

/// Minions of the simulated cluster.
pub const MINIONS: u8 = 4;

/// Faults of a plan unless the caller asks for another number.
pub const FAULTS_DEFAULT: usize = 16;

/// Keeps the plan's random numbers apart from others of the same seed.
const STREAM: u64 = 1;

/// One simulated machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A master, from 1.
    Master(u8),
    /// A minion, from 1.
    Minion(u8),
}

impl Host {
    /// All machines, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=MASTERS).map(Self::Master).chain((1..=MINIONS).map(Self::Minion))
    }

    /// The masters, in order.
    pub fn masters() -> impl Iterator<Item = Self> {
        (1..=MASTERS).map(Self::Master)
    }

    /// The minions, in order.
    pub fn minions() -> impl Iterator<Item = Self> {
        (1..=MINIONS).map(Self::Minion)
    }

    /// The name by which others dial it.
    pub fn name(self) -> String {
        self.to_string()
    }

    /// A number that no other machine has.
    pub fn number(self) -> u64 {
        match self {
            Self::Master(number) => u64::from(number),
            Self::Minion(number) => 100 + u64::from(number),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(number) => write!(f, "m{number}"),
            Self::Minion(number) => write!(f, "minion-{number}"),
        }
    }
}

/// One thing that the nemesis does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// The process is killed: what it had not synced is gone, and the kernel closes its connections.
    Kill(Host),
    /// The machine loses power: what was not synced is gone, and nobody hears of it.
    PowerOff(Host),
    /// The software starts again.
    Start(Host),
    /// What is sent between the two is lost, both ways.
    Cut(Host, Host),
    /// What is sent between the two waits, both ways.
    Stall(Host, Host),
    /// What the first sends to the second is lost.
    CutOneWay(Host, Host),
    /// The road between the two is whole again; what waited goes on.
    Mend(Host, Host),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(host) => write!(f, "kill {host}"),
            Self::PowerOff(host) => write!(f, "power off {host}"),
            Self::Start(host) => write!(f, "start {host}"),
            Self::Cut(a, b) => write!(f, "cut {a} {b}"),
            Self::Stall(a, b) => write!(f, "stall {a} {b}"),
            Self::CutOneWay(a, b) => write!(f, "cut {a} > {b}"),
            Self::Mend(a, b) => write!(f, "mend {a} {b}"),
        }
    }
}

/// A fault and when it is made, counted from the beginning of the phase of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// When.
    pub at: Duration,
    /// What.
    pub act: Act,
}

/// Everything that the seed decides about faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is done, by time.
    pub steps: Vec<Step>,
    /// How far each machine's wall clock is ahead, in microseconds.
    pub wall_skew_micros: BTreeMap<Host, i64>,
}

impl Plan {
    /// The plan of a seed with so many faults.
    pub fn new(seed: u64, faults: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM);
        let wall_skew_micros = Host::all().map(|host| (host, skew(&mut rng))).collect();
        let mut draft = Draft { rng, now: Duration::ZERO, busy: BTreeMap::new(), steps: Vec::new() };
        for number in 0..faults {
            draft.now += Duration::from_millis(draft.rng.random_range(100..1_200));
            if number == faults / 2 {
                draft.power_cut();
            } else {
                draft.fault();
            }
        }
        let mut steps = draft.steps;
        steps.sort();
        Self { steps, wall_skew_micros }
    }

    /// When the last step is done.
    pub fn end(&self) -> Duration {
        self.steps.last().map_or(Duration::ZERO, |step| step.at)
    }
}

/// Mostly within half a second; one machine in eight is hours off.
fn skew(rng: &mut ChaCha8Rng) -> i64 {
    let micros = rng.random_range(-500_000..500_000);
    if rng.random_bool(0.125) { micros * 20_000 } else { micros }
}

/// Something that has one fault at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Masters,
    Minion(u8),
    Road(Host, Host),
}

struct Draft {
    rng: ChaCha8Rng,
    now: Duration,
    /// Until when each subject has a fault.
    busy: BTreeMap<Subject, Duration>,
    steps: Vec<Step>,
}

impl Draft {
    fn master(&mut self) -> Host {
        Host::Master(self.rng.random_range(1..=MASTERS))
    }

    fn minion(&mut self) -> u8 {
        self.rng.random_range(1..=MINIONS)
    }

    /// Waits until `subject` has no fault, and gives it one for a while of up to `ms_max`. Says from when until when.
    fn hold(&mut self, subject: Subject, ms_max: u64) -> (Duration, Duration) {
        let begin = self.now.max(self.busy.get(&subject).copied().unwrap_or_default());
        let end = begin + Duration::from_millis(self.rng.random_range(200..ms_max));
        self.busy.insert(subject, end + Duration::from_millis(1));
        (begin, end)
    }

    fn push(&mut self, at: Duration, act: Act) {
        self.steps.push(Step { at, act });
    }

    fn down(&mut self, host: Host) -> Act {
        if self.rng.random_bool(0.6) { Act::Kill(host) } else { Act::PowerOff(host) }
    }

    /// One ordinary fault.
    fn fault(&mut self) {
        match self.rng.random_range(0..10_u8) {
            0..=2 => {
                let host = self.master();
                let (begin, end) = self.hold(Subject::Masters, 4_000);
                let down = self.down(host);
                self.push(begin, down);
                self.push(end, Act::Start(host));
            }
            3..=4 => {
                let number = self.minion();
                let (begin, end) = self.hold(Subject::Minion(number), 3_000);
                let down = self.down(Host::Minion(number));
                self.push(begin, down);
                self.push(end, Act::Start(Host::Minion(number)));
            }
            5..=7 => {
                let a = self.master();
                let b = loop {
                    let b = self.master();
                    if b != a {
                        break b;
                    }
                };
                self.road(a, b);
            }
            _ => {
                let (a, b) = (self.master(), Host::Minion(self.minion()));
                self.road(a, b);
            }
        }
    }

    fn road(&mut self, a: Host, b: Host) {
        let (begin, end) = self.hold(Subject::Road(a.min(b), a.max(b)), 6_000);
        let act = match self.rng.random_range(0..4_u8) {
            0 | 1 => Act::Cut(a, b),
            2 => Act::Stall(a, b),
            _ => Act::CutOneWay(a, b),
        };
        self.push(begin, act);
        self.push(end, Act::Mend(a, b));
    }

    /// All masters lose power at one moment and come back one by one.
    fn power_cut(&mut self) {
        let begin = self.now.max(self.busy.get(&Subject::Masters).copied().unwrap_or_default());
        let mut last = begin;
        for host in Host::masters() {
            let end = begin + Duration::from_millis(self.rng.random_range(200..3_000));
            self.push(begin, Act::PowerOff(host));
            self.push(end, Act::Start(host));
            last = last.max(end);
        }
        self.busy.insert(Subject::Masters, last + Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        assert_eq!(Plan::new(7, 30), Plan::new(7, 30));
        assert_ne!(Plan::new(7, 30), Plan::new(8, 30));
    }

    /// Follows a plan and fails where a subject is broken twice or never mended. Says when masters went down while others
    /// were down already.
    fn follow(plan: &Plan) -> Vec<Duration> {
        let (mut down, mut broken, mut crowded) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for step in &plan.steps {
            match step.act {
                Act::Kill(host) | Act::PowerOff(host) => {
                    if Host::masters().any(|master| master == host)
                        && Host::masters().any(|master| down.contains(&master))
                    {
                        crowded.push(step.at);
                    }
                    assert!(down.insert(host), "{host} is down already");
                }
                Act::Start(host) => assert!(down.remove(&host), "{host} is not down"),
                Act::Cut(a, b) | Act::Stall(a, b) | Act::CutOneWay(a, b) => {
                    assert!(a != b && broken.insert((a.min(b), a.max(b))), "{a} {b} is broken already");
                }
                Act::Mend(a, b) => assert!(broken.remove(&(a.min(b), a.max(b))), "{a} {b} is whole"),
            }
        }
        assert!(down.is_empty() && broken.is_empty(), "everything is mended at the end");
        crowded
    }

    #[test]
    fn one_master_is_down_at_a_time_but_for_one_power_cut() {
        for seed in 0..200 {
            let plan = Plan::new(seed, 20);
            assert!(plan.steps.is_sorted_by_key(|step| step.at));
            let crowded = follow(&plan);
            assert_eq!(crowded.len(), 2, "seed {seed}: the second and third master of the power cut");
            assert_eq!(crowded[0], crowded[1], "seed {seed}: at one moment");
        }
    }

    #[test]
    fn every_kind_of_fault_comes_up() {
        let mut kinds = BTreeSet::new();
        for seed in 0..20 {
            for step in Plan::new(seed, FAULTS_DEFAULT).steps {
                kinds.insert(step.act.to_string().split(' ').take(1).collect::<String>());
                if matches!(step.act, Act::CutOneWay(..)) {
                    kinds.insert("one way".into());
                }
            }
        }
        assert_eq!(kinds.len(), 7, "{kinds:?}");
    }
}
