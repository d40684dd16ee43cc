//! Who dies next, where and how: drawn from the seed and from what was seen so far. Pure.
//!
//! ```text
//!   Planner::next(seen so far) ─▶ Strike { what, down for, struck again while it recovers }
//! ```
//!
//! **Invariants.** A point that has been seen less often than others goes first, so kills spread over all of them; one that
//! was asked for and did not happen is asked for again, [`TRIES_MAX`] times in a row, and then left alone and reported.
//! The same seed and the same observations give the same plan.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use saltern_wire::fault::{POINTS, Point, Program};
use std::fmt;
use std::time::Duration;

/// Masters of the cluster.
pub const MASTERS: usize = 3;

/// Minions that work.
pub const MINIONS: usize = 6;

/// Minions whose keys are accepted, rejected and deleted all the time. No job is for them.
pub const GUESTS: usize = 2;

/// How often in a row a point is asked for in vain before it is left alone.
pub const TRIES_MAX: u32 = 5;

/// Kinds of power loss: one master alone, a majority, all of them, a minion.
const POWER_FIRST: usize = 4;

/// Keeps the plan's random numbers apart from those of the clients of the same seed.
const STREAM: u64 = 1;

/// A process that can be struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    /// A master, from 0.
    Master(usize),
    /// A minion, from 0.
    Minion(usize),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(number) => write!(f, "master-{}", number + 1),
            Self::Minion(number) => write!(f, "minion-{}", number + 1),
        }
    }
}

/// What happens at a fault point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process dies at once.
    Abort,
    /// A thread panics, which has to end the process.
    Panic,
    /// A thread waits.
    Sleep(Duration),
    /// The code is told that what it does has failed.
    Error,
}

impl Action {
    /// As a fault point reads it.
    pub fn word(self) -> String {
        match self {
            Self::Abort => "abort".into(),
            Self::Panic => "panic".into(),
            Self::Sleep(pause) => format!("sleep:{}", pause.as_millis()),
            Self::Error => "error".into(),
        }
    }

    /// Whether the process must end of it.
    pub fn is_deadly(self) -> bool {
        matches!(self, Self::Abort | Self::Panic)
    }
}

/// How a point is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Armed in a running process.
    Running,
    /// The process is killed, and started with the fault in its environment: paths of the start are hit as well.
    AtStart,
    /// Armed in a running follower; then the leader is killed, so that it votes.
    AtElection,
    /// A master is kept away until the others have purged what it lacks, and started with the fault in its environment.
    Behind,
}

/// What is struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A fault point.
    Point {
        /// Its place in [`POINTS`].
        place: usize,
        /// What happens there.
        action: Action,
        /// At which hit after arming.
        hit: u64,
        /// How it is brought about.
        way: Way,
        /// Draws the victim among those that pass the point.
        pick: usize,
    },
    /// These processes are killed with -9, together.
    Kill(Vec<Member>),
    /// A minion and everything that it started are killed with -9: its machine dies.
    Machine(usize),
    /// The disks of these members lose what was not synced, as when their power fails; they are killed and mounted again.
    Power(Vec<Member>),
}

/// One strike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strike {
    /// What is struck.
    pub what: What,
    /// Quiet before it.
    pub after: Duration,
    /// How long the dead stay down.
    pub down: Duration,
    /// If set, the first of the dead is killed once more this long after its restart.
    pub again: Option<Duration>,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |members: &[Member]| members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        match &self.what {
            What::Point { place, action, hit, way, .. } => {
                write!(f, "{}={}@{hit} {way:?}", POINTS[*place].name, action.word())?;
            }
            What::Kill(members) => write!(f, "kill {}", names(members))?,
            What::Machine(minion) => write!(f, "machine of {}", Member::Minion(*minion))?,
            What::Power(members) => write!(f, "power of {}", names(members))?,
        }
        if let Some(again) = self.again {
            write!(f, ", again after {} ms", again.as_millis())?;
        }
        Ok(())
    }
}

/// What was seen of each point so far, by its place in [`POINTS`].
#[derive(Debug, Clone)]
pub struct Seen {
    /// Times that it happened.
    pub happened: Vec<u32>,
    /// Times in a row that it was asked for in vain.
    pub missed: Vec<u32>,
}

impl Default for Seen {
    fn default() -> Self {
        Self { happened: vec![0; POINTS.len()], missed: vec![0; POINTS.len()] }
    }
}

/// Draws strikes.
pub struct Planner {
    rng: ChaCha8Rng,
    power: bool,
    /// Strikes drawn so far.
    drawn: usize,
}

impl Planner {
    /// A planner. With `power` the disks of the masters and of the first minion can lose their power.
    pub fn new(seed: u64, power: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(STREAM);
        Self { rng, power, drawn: 0 }
    }

    /// The next strike.
    pub fn next(&mut self, seen: &Seen) -> Strike {
        self.drawn += 1;
        let what = match self.rng.random_range(0..100_u32) {
            _ if self.power && self.drawn <= POWER_FIRST => self.power(),
            0..55 if self.power => self.power(),
            0..78 => match self.point(seen) {
                Some(place) => self.at_point(place),
                None => What::Kill(vec![self.member()]),
            },
            78..88 => What::Kill(vec![self.member()]),
            88..92 => What::Machine(self.rng.random_range(0..MINIONS)),
            92..97 => What::Kill(self.masters(2)),
            _ => What::Kill(self.masters(MASTERS)),
        };
        Strike {
            what,
            after: self.millis(50..350),
            down: self.millis(0..500),
            again: (!self.power && self.rng.random_bool(0.12)).then(|| self.millis(5..400)),
        }
    }

    /// Whether a point was asked for, did not happen, and has tries left.
    pub fn owes(&self, seen: &Seen) -> bool {
        (0..POINTS.len()).any(|place| is_owed(seen, place))
    }

    /// A strike at such a point.
    pub fn owed(&mut self, seen: &Seen) -> Option<Strike> {
        let place = (0..POINTS.len()).find(|place| is_owed(seen, *place))?;
        let what = self.at_point(place);
        Some(Strike { what, after: self.millis(50..350), down: Duration::ZERO, again: None })
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }

    fn member(&mut self) -> Member {
        match self.rng.random_range(0..MASTERS + 2) {
            number if number < MASTERS => Member::Master(number),
            _ => Member::Minion(self.rng.random_range(0..MINIONS)),
        }
    }

    fn masters(&mut self, count: usize) -> Vec<Member> {
        let first = self.rng.random_range(0..MASTERS);
        (0..count).map(|step| Member::Master((first + step) % MASTERS)).collect()
    }

    fn power(&mut self) -> What {
        // One of each kind first, however short the run is.
        let kind = if self.drawn <= POWER_FIRST { self.drawn - 1 } else { self.rng.random_range(0..POWER_FIRST) };
        What::Power(match kind {
            0 => self.masters(1),
            1 => self.masters(2),
            2 => self.masters(MASTERS),
            _ => vec![Member::Minion(0)],
        })
    }

    /// One of the points that happened least often.
    fn point(&mut self, seen: &Seen) -> Option<usize> {
        let open = |place: &usize| seen.missed[*place] < TRIES_MAX;
        let least = (0..POINTS.len()).filter(open).map(|place| seen.happened[place]).min()?;
        let candidates: Vec<usize> =
            (0..POINTS.len()).filter(open).filter(|place| seen.happened[*place] == least).collect();
        Some(candidates[self.rng.random_range(0..candidates.len())])
    }

    fn at_point(&mut self, place: usize) -> What {
        let point = &POINTS[place];
        let action = match self.rng.random_range(0..20_u32) {
            0..14 => Action::Abort,
            14..16 => Action::Panic,
            16..18 if point.fallible => Action::Error,
            16..18 => Action::Abort,
            _ => Action::Sleep(self.millis(100..1_200)),
        };
        let way = self.way(point);
        let hit = match way {
            Way::Running => self.rng.random_range(1..=hits_max(point)),
            Way::AtStart | Way::AtElection | Way::Behind => 1,
        };
        What::Point { place, action, hit, way, pick: self.rng.random_range(0..1_000) }
    }

    fn way(&mut self, point: &Point) -> Way {
        let thing = point.name.split('.').next().unwrap_or_default();
        match (point.program, thing) {
            (Program::Master, "vote") => Way::AtElection,
            (Program::Master, _) if point.name.starts_with("snapshot.install") => Way::Behind,
            (Program::Master, "log" | "mark" | "apply") | (Program::Minion, "journal" | "outbox" | "job")
                if self.rng.random_bool(0.25) =>
            {
                Way::AtStart
            }
            (Program::Master | Program::Minion | Program::Supervisor, _) => Way::Running,
        }
    }
}

fn is_owed(seen: &Seen, place: usize) -> bool {
    seen.happened[place] == 0 && (1..TRIES_MAX).contains(&seen.missed[place])
}

/// The hit is drawn up to this one: what a busy process passes within about a second.
fn hits_max(point: &Point) -> u64 {
    let thing = point.name.split('.').next().unwrap_or_default();
    match (point.program, thing) {
        (Program::Master, "log" | "apply") => 40,
        (Program::Master, "mark" | "publish" | "return") => 6,
        (Program::Master, _) => 1,
        (Program::Minion, _) => 3,
        (Program::Supervisor, _) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_seed_another() {
        let plan = |seed| {
            let mut planner = Planner::new(seed, true);
            (0..200).map(|_| planner.next(&Seen::default())).collect::<Vec<_>>()
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    /// With every strike seen, three hundred of them reach every point several times, and no point much more than others.
    #[test]
    fn strikes_spread_over_all_points() {
        let (mut planner, mut seen) = (Planner::new(1, false), Seen::default());
        let (mut whole, mut kinds) = (0, std::collections::BTreeSet::new());
        for _ in 0..300 {
            let strike = planner.next(&seen);
            match &strike.what {
                What::Point { place, action, way, .. } => {
                    seen.happened[*place] += 1;
                    kinds.insert(format!("{way:?}"));
                    kinds.insert(action.word().split(':').next().unwrap_or_default().to_owned());
                    assert!(*action != Action::Error || POINTS[*place].fallible);
                }
                What::Kill(members) if members.len() == MASTERS => whole += 1,
                What::Kill(_) | What::Machine(_) => {}
                What::Power(_) => panic!("nobody asked for power to fail"),
            }
        }
        let (least, most) = (seen.happened.iter().min(), seen.happened.iter().max());
        assert!(least >= Some(&6) && most <= Some(&9), "{:?}", seen.happened);
        assert!(whole > 0, "all masters died together");
        for kind in ["Running", "AtStart", "AtElection", "Behind", "abort", "panic", "sleep", "error"] {
            assert!(kinds.contains(kind), "{kind} is in {kinds:?}");
        }
    }

    #[test]
    fn a_point_that_never_happens_is_left_alone_after_some_tries() {
        let (mut planner, mut seen) = (Planner::new(3, false), Seen::default());
        let never = 4;
        let mut asked = 0;
        for _ in 0..400 {
            if let What::Point { place, .. } = planner.next(&seen).what {
                if place == never {
                    asked += 1;
                    seen.missed[place] += 1;
                } else {
                    seen.happened[place] += 1;
                }
            }
        }
        assert_eq!(asked, TRIES_MAX);
    }
}
