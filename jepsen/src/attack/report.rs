//! What an attack did, and whether everything held.

use super::fleet::{Jobs, Memory, Sessions};
use super::ground::Strikes;
use std::collections::BTreeMap;
use std::fmt;

/// Most that a master's memory may grow, in KiB.
pub const GROWTH_KIB_MAX: u64 = 64 * 1024;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// How long the attack took, in seconds.
    pub seconds: u64,
    /// Strikes by kind.
    pub strikes: BTreeMap<&'static str, Strikes>,
    /// Kinds that should have struck.
    pub kinds: Vec<&'static str>,
    /// The fleet's jobs.
    pub jobs: Jobs,
    /// Each master's memory.
    pub memory: Vec<Memory>,
    /// The fleet's sessions before and after.
    pub sessions: (Sessions, Sessions),
    /// A process that ended, with the end of its log.
    pub dead: Option<String>,
}

impl Report {
    /// What did not hold; empty if everything did.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        faults.extend(self.dead.iter().map(|dead| format!("a process ended: {dead}")));
        if self.jobs.asked == 0 || self.jobs.completed < self.jobs.asked {
            faults.push(format!("{} of {} jobs completed", self.jobs.completed, self.jobs.asked));
        }
        for (number, memory) in self.memory.iter().enumerate() {
            let growth = memory.most.saturating_sub(memory.before);
            if growth > GROWTH_KIB_MAX {
                faults.push(format!("master {} grew by {growth} KiB, the limit is {GROWTH_KIB_MAX}", number + 1));
            }
        }
        let (before, after) = &self.sessions;
        for (minion, session) in before {
            match after.get(minion) {
                Some(now) if now == session => {}
                now => faults.push(format!("the session of {minion} was {session:?} and is {now:?}")),
            }
        }
        for kind in &self.kinds {
            let strikes = self.strikes.get(kind).copied().unwrap_or_default();
            if strikes.done + strikes.cut == 0 {
                faults.push(format!("{kind}: it never struck, {strikes:?}"));
            }
            if strikes.kept > 0 {
                faults.push(format!("{kind}: {} were not ended in time", strikes.kept));
            }
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} s of attacks", self.seconds)?;
        writeln!(f, "  {:<34} {:>8} {:>8} {:>6} {:>10}", "attack", "done", "cut", "kept", "unreached")?;
        for (kind, strikes) in &self.strikes {
            let Strikes { done, cut, kept, unreached } = strikes;
            writeln!(f, "  {kind:<34} {done:>8} {cut:>8} {kept:>6} {unreached:>10}")?;
        }
        for (number, memory) in self.memory.iter().enumerate() {
            let Memory { before, most, after } = memory;
            let growth = most.saturating_sub(*before);
            writeln!(f, "master {}: {before} KiB before, {most} at most (+{growth}), {after} after", number + 1)?;
        }
        let Jobs { asked, completed, refused, slowest_ms, .. } = &self.jobs;
        writeln!(
            f,
            "fleet: {completed} of {asked} jobs completed, the slowest in {slowest_ms} ms; {refused} times one was refused \
             and asked for again"
        )?;
        for fault in &self.jobs.faults {
            writeln!(f, "  {fault}")?;
        }
        let (before, after) = &self.sessions;
        let kept = before.iter().filter(|(minion, session)| after.get(*minion) == Some(session)).count();
        writeln!(f, "fleet: {kept} of {} sessions stood from beginning to end", before.len())?;
        let faults = self.faults();
        match faults.as_slice() {
            [] => write!(f, "everything held"),
            faults => write!(f, "did not hold:\n  {}", faults.join("\n  ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::LogicalTime;

    fn good() -> Report {
        let sessions: Sessions =
            [("minion-1".to_owned(), ("master-1".to_owned(), LogicalTime::from_unix_micros(5)))].into();
        Report {
            seconds: 1,
            strikes: [("silence", Strikes { cut: 3, ..Strikes::default() })].into(),
            kinds: vec!["silence"],
            jobs: Jobs { asked: 2, completed: 2, ..Jobs::default() },
            memory: vec![Memory { before: 10, most: 20, after: 15 }],
            sessions: (sessions.clone(), sessions),
            dead: None,
        }
    }

    #[test]
    fn whatever_did_not_hold_is_named() {
        assert_eq!(good().faults(), Vec::<String>::new());
        let check = |change: &dyn Fn(&mut Report), says: &str| {
            let mut report = good();
            change(&mut report);
            let faults = report.faults();
            assert!(faults.len() == 1 && faults[0].contains(says), "{says}: {faults:?}");
        };
        check(&|report| report.jobs.completed = 1, "1 of 2 jobs");
        check(&|report| report.memory[0].most = 20 + GROWTH_KIB_MAX, "grew by");
        check(&|report| report.sessions.1.clear(), "the session of minion-1");
        check(&|report| report.strikes.clear(), "never struck");
        check(&|report| report.strikes.entry("silence").or_default().kept = 1, "not ended in time");
        check(&|report| report.dead = Some("master-1".into()), "a process ended");
    }
}
