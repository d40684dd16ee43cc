//! What a swarm says of itself: one JSON object a line.
//!
//! ```text
//!   {"figures":{…}}   how many minions are where, every so often and when asked
//!   {"event":{…}}     one minion began or ceased to work, if events were asked for
//!   {"done":{…}}      what became of an order
//!   {"error":"…"}     what was wrong with a line of orders
//! ```
//!
//! Times are microseconds of the machine's wall clock, so that they can be held against those of others on the same machine.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// How many minions are where.
    Figures(Box<Figures>),
    /// One minion.
    Event(Event),
    /// What became of an order.
    Done(Done),
    /// What was wrong with a line of orders.
    Error(String),
}

/// How many minions are where, and what they did since the swarm began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// When these were taken.
    pub at_us: u64,
    /// All minions.
    pub minions: usize,
    /// Those that were told to stay away.
    pub away: usize,
    /// Those that were told to stand still.
    pub frozen: usize,
    /// Those with a session with a master that they obey.
    pub attached: usize,
    /// Those that are accepted and listen to their master's fan-out as well: they work.
    pub ready: usize,
    /// Those with a second session that waits.
    pub standby: usize,
    /// Those whose key waits for an operator.
    pub pending: usize,
    /// Those whose key is rejected, denied or deleted.
    pub refused: usize,
    /// How many are attached to each master.
    pub masters: BTreeMap<String, usize>,
    /// When the number of those that work changed last.
    pub ready_since_us: u64,
    /// Functions that ran.
    pub executed: u64,
    /// Those that failed.
    pub failed: u64,
    /// Journalled jobs that ran.
    pub jobs: u64,
    /// Journalled jobs that began a second time on the same minion. It stays 0.
    pub doubled: u64,
    /// Outcomes that wait to be committed.
    pub waiting: usize,
    /// Times that a minion ceased to work without having been told to.
    pub lost: u64,
    /// Sessions that were dialled.
    pub dials: u64,
    /// Those that did not come about.
    pub dials_failed: u64,
    /// Syncs of the journals.
    pub syncs: u64,
    /// Resident memory of the workers, in KiB.
    pub resident_kib: u64,
    /// Processor time of the workers, in microseconds.
    pub processor_us: u64,
}

impl Figures {
    /// Adds those of another worker.
    pub fn add(&mut self, other: &Self) {
        self.at_us = self.at_us.max(other.at_us);
        self.minions += other.minions;
        self.away += other.away;
        self.frozen += other.frozen;
        self.attached += other.attached;
        self.ready += other.ready;
        self.standby += other.standby;
        self.pending += other.pending;
        self.refused += other.refused;
        for (master, count) in &other.masters {
            *self.masters.entry(master.clone()).or_default() += count;
        }
        self.ready_since_us = self.ready_since_us.max(other.ready_since_us);
        self.executed += other.executed;
        self.failed += other.failed;
        self.jobs += other.jobs;
        self.doubled += other.doubled;
        self.waiting += other.waiting;
        self.lost += other.lost;
        self.dials += other.dials;
        self.dials_failed += other.dials_failed;
        self.syncs += other.syncs;
        self.resident_kib += other.resident_kib;
        self.processor_us += other.processor_us;
    }
}

/// One minion began or ceased to work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Which.
    pub minion: String,
    /// The name of the master through which it works now; `None` if it does not.
    pub master: Option<String>,
    /// When.
    pub at_us: u64,
}

/// What became of an order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The order.
    pub order: String,
    /// How many minions it was about.
    pub minions: usize,
    /// When it was given.
    pub at_us: u64,
    /// Who ran a marked call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// The figures of now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Box<Figures>>,
}

impl Done {
    /// Adds what another worker did.
    pub fn add(&mut self, other: Self) {
        self.minions += other.minions;
        if let Some(theirs) = other.mark {
            self.mark.get_or_insert_default().add(&theirs);
        }
        if let Some(theirs) = other.figures {
            self.figures.get_or_insert_default().add(&theirs);
        }
    }
}

/// Who ran a marked call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// How often it ran.
    pub count: u64,
    /// When it ran first; 0 if it did not.
    pub first_us: u64,
    /// When it ran last.
    pub last_us: u64,
}

impl Mark {
    /// It ran at `at_us`.
    pub fn note(&mut self, at_us: u64) {
        self.add(&Self { count: 1, first_us: at_us, last_us: at_us });
    }

    fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.first_us = if self.count == 0 { other.first_us } else { self.first_us.min(other.first_us) };
        self.last_us = self.last_us.max(other.last_us);
        self.count += other.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up() {
        let done = |minions, marks: &[u64]| {
            let mut mark = Mark::default();
            marks.iter().for_each(|at| mark.note(*at));
            Done { order: "mark a".into(), minions, at_us: 0, mark: Some(mark), figures: None }
        };
        let mut sum = Done { order: "mark a".into(), ..Done::default() };
        for part in [done(0, &[]), done(2, &[7, 5]), done(1, &[9])] {
            sum.add(part);
        }
        assert_eq!((sum.minions, sum.mark), (3, Some(Mark { count: 3, first_us: 5, last_us: 9 })));
    }

    #[test]
    fn lines_are_json_objects_with_one_name() {
        let line = Line::Event(Event { minion: "web-1".into(), master: None, at_us: 3 });
        let text = serde_json::to_string(&line).expect("JSON");
        assert_eq!(text, r#"{"event":{"minion":"web-1","master":null,"at_us":3}}"#);
        assert_eq!(serde_json::from_str::<Line>(&text).expect("a line"), line);
    }
}
