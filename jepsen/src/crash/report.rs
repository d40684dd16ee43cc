//! What a run did and found, as people read it: a table of the points, figures of the rest, and the verdict.

use super::check::{Verdict, Violation};
use super::plan::{Action, Member};
use saltern_wire::fault::POINTS;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Violations that are printed; the rest are counted.
const SHOWN_MAX: usize = 20;

/// What happened at one point.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    aborts: u32,
    panics: u32,
    stalls: u32,
    errors: u32,
}

/// Counts of a run.
#[derive(Debug, Clone)]
pub struct Tally {
    rows: Vec<Row>,
    /// Masters and minions whose death was seen, whatever the cause.
    pub killed: u32,
    /// Supervisors that died at a fault point.
    pub supervisors: u32,
    /// Kills of a member that was still recovering from the last one.
    pub again: u32,
    /// Disks that lost their power.
    pub power_losses: u32,
    masters_up: Vec<Duration>,
    minions_up: Vec<Duration>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            rows: vec![Row::default(); POINTS.len()],
            killed: 0,
            supervisors: 0,
            again: 0,
            power_losses: 0,
            masters_up: Vec::new(),
            minions_up: Vec::new(),
        }
    }
}

impl Tally {
    /// Everything that was seen to die.
    pub fn kills(&self) -> u32 {
        self.killed + self.supervisors
    }

    /// Something happened at a point.
    pub fn happened(&mut self, place: usize, action: Action) {
        let row = &mut self.rows[place];
        let count = match action {
            Action::Abort => &mut row.aborts,
            Action::Panic => &mut row.panics,
            Action::Sleep(_) => &mut row.stalls,
            Action::Error => &mut row.errors,
        };
        *count += 1;
    }

    /// A member works again, this long after its start.
    pub fn recovered(&mut self, member: Member, took: Duration) {
        match member {
            Member::Master(_) => self.masters_up.push(took),
            Member::Minion(_) => self.minions_up.push(took),
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// What decided the plan.
    pub seed: u64,
    /// Counts.
    pub tally: Tally,
    /// Clients' operations by phase: name, carried out, all.
    pub phases: Vec<(String, usize, usize)>,
    /// Acknowledged submissions, and starts that the minions' disks show.
    pub jobs: (usize, usize),
    /// Everything that is wrong.
    pub violations: Vec<Violation>,
    /// How long it took.
    pub took: Duration,
    /// The command that runs the same plan again.
    pub replay: String,
    /// The folder of the run with logs and data, if it was kept.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// The judgement.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(&self.violations)
    }
}

fn milliseconds(times: &[Duration]) -> String {
    let mut times: Vec<u128> = times.iter().map(Duration::as_millis).collect();
    times.sort_unstable();
    match (times.get(times.len() / 2), times.last()) {
        (Some(middle), Some(most)) => format!("{} times, median {middle} ms, longest {most} ms", times.len()),
        _ => "never".into(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<26}{:>7}{:>7}{:>7}{:>7}", "fault point", "abort", "panic", "stall", "error")?;
        for (point, row) in POINTS.iter().zip(&self.tally.rows) {
            let Row { aborts, panics, stalls, errors } = row;
            writeln!(f, "{:<26}{aborts:>7}{panics:>7}{stalls:>7}{errors:>7}", point.name)?;
        }
        let Tally { killed, supervisors, again, power_losses, masters_up, minions_up, .. } = &self.tally;
        writeln!(
            f,
            "kills seen: {} ({killed} masters and minions, {supervisors} supervisors; {again} while recovering; {power_losses} with power loss)",
            self.tally.kills()
        )?;
        writeln!(f, "masters serving again: {}", milliseconds(masters_up))?;
        writeln!(f, "minions working again: {}", milliseconds(minions_up))?;
        for (phase, done, all) in &self.phases {
            writeln!(f, "phase {phase}: {done} of {all} operations carried out")?;
        }
        writeln!(f, "jobs: {} acknowledged, {} starts on minions' disks", self.jobs.0, self.jobs.1)?;
        for violation in self.violations.iter().take(SHOWN_MAX) {
            writeln!(f, "VIOLATION {violation}")?;
        }
        if self.violations.len() > SHOWN_MAX {
            writeln!(f, "… and {} more", self.violations.len() - SHOWN_MAX)?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "logs and data are kept in {}", kept.display())?;
        }
        let verdict = match self.verdict() {
            Verdict::Pass => "pass".to_owned(),
            Verdict::Fail => format!("FAIL, {} violations; again: {}", self.violations.len(), self.replay),
            Verdict::Unknown => format!("UNKNOWN, {} open questions; again: {}", self.violations.len(), self.replay),
        };
        write!(f, "seed {}: {verdict} ({:.1} s)", self.seed, self.took.as_secs_f64())
    }
}
