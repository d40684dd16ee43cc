//! The state of one running job as an operator waits for it: who returned, who will not, who is still owed.
//!
//! Pure: events and views go in, what is new comes out. A stream that broke and was taken up at another master tells the same
//! returns again; each minion counts once, and the first return stays.

use super::EXIT_MISSING;
use saltern_wire::api::{JobEvent, JobView, Missing, ReturnView, Submitted};
use saltern_wire::job::Progress;
use saltern_wire::rolling::BatchView;
use saltern_wire::{JobId, MinionId, Value};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// One job's returns so far.
#[derive(Debug, Clone)]
pub struct Tally {
    /// The job.
    pub jid: JobId,
    /// `module.function`.
    pub function: String,
    targeted: BTreeSet<MinionId>,
    returns: BTreeMap<MinionId, ReturnView>,
    missing: BTreeMap<MinionId, Missing>,
    batch: Option<BatchView>,
}

/// What an event meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A batch went on, or was paused, resumed or ended.
    Batch(BatchView),
    /// A minion returned for the first time.
    Returned(MinionId),
    /// A minion will not return.
    GivenUp(MinionId),
    /// Known already, or about a minion that was not targeted.
    Nothing,
    /// Everybody is settled.
    Done,
}

impl Tally {
    /// A job of which nothing is known but for whom it is.
    pub fn new(function: String, submitted: Submitted) -> Self {
        let targeted = submitted.targeted.into_iter().collect();
        Self { jid: submitted.jid, function, targeted, returns: BTreeMap::new(), missing: BTreeMap::new(), batch: None }
    }

    /// Takes in one event.
    pub fn handle_event(&mut self, event: JobEvent) -> Step {
        match event {
            JobEvent::Return { minion, view } => self.returned(minion, view),
            JobEvent::Missing(missing) if self.owes(&missing.minion) => {
                let minion = missing.minion.clone();
                self.missing.insert(minion.clone(), missing);
                Step::GivenUp(minion)
            }
            JobEvent::Missing(_) => Step::Nothing,
            JobEvent::Batch(batch) => {
                self.batch = Some(batch);
                Step::Batch(batch)
            }
            JobEvent::Done { .. } => Step::Done,
        }
    }

    /// Whether the turn of some minions is still to come, as far as is known.
    pub fn has_turns_to_come(&self) -> bool {
        self.batch.is_some_and(|batch| batch.held > 0 && !batch.stand.paused)
    }

    /// Takes in the whole job; gives the minions whose returns are new, sorted.
    pub fn handle_view(&mut self, view: JobView) -> Vec<MinionId> {
        let mut new = Vec::new();
        for (minion, view) in view.returns {
            if let Step::Returned(minion) = self.returned(minion, view) {
                new.push(minion);
            }
        }
        for missing in view.missing {
            if self.owes(&missing.minion) {
                self.missing.insert(missing.minion.clone(), missing);
            }
        }
        new
    }

    /// Writes down why nothing can be said of those who are still owed.
    pub fn handle_silence(&mut self, reason: &str) {
        for minion in self.owed() {
            let missing = Missing { minion: minion.clone(), state: Progress::Waiting, reason: reason.to_owned() };
            self.missing.entry(minion).or_insert(missing);
        }
    }

    fn returned(&mut self, minion: MinionId, view: ReturnView) -> Step {
        if !self.owes(&minion) {
            return Step::Nothing;
        }
        self.missing.remove(&minion);
        self.returns.insert(minion.clone(), view);
        Step::Returned(minion)
    }

    fn owes(&self, minion: &MinionId) -> bool {
        self.targeted.contains(minion) && !self.returns.contains_key(minion)
    }

    /// Minions that have not returned, sorted.
    pub fn owed(&self) -> Vec<MinionId> {
        self.targeted.iter().filter(|minion| self.owes(minion)).cloned().collect()
    }

    /// Whether something is known of everybody.
    pub fn is_settled(&self) -> bool {
        self.targeted.iter().all(|minion| self.returns.contains_key(minion) || self.missing.contains_key(minion))
    }

    /// The returns, by minion.
    pub fn returns(&self) -> &BTreeMap<MinionId, ReturnView> {
        &self.returns
    }

    /// Who has not returned, with the reason where one is known.
    pub fn missing(&self) -> Vec<Missing> {
        let unknown = |minion: MinionId| {
            let reason = "the master gave no reason".to_owned();
            self.missing.get(&minion).cloned().unwrap_or(Missing { minion, state: Progress::Waiting, reason })
        };
        self.owed().into_iter().map(unknown).collect()
    }

    /// How many returned a failure.
    pub fn failures(&self) -> usize {
        self.returns.values().filter(|view| !view.success).count()
    }

    /// 0 if everybody returned success, 1 if somebody failed, 3 if somebody did not return.
    pub fn exit_code(&self) -> u8 {
        match (self.failures(), self.owed().is_empty()) {
            (0, true) => 0,
            (0, false) => EXIT_MISSING,
            _ => 1,
        }
    }

    /// The one document of `run -o json`.
    pub fn document(&self) -> Value {
        let returns: serde_json::Map<String, Value> =
            self.returns.iter().map(|(minion, view)| (minion.to_string(), return_document(view))).collect();
        let missing: Vec<Value> = self
            .missing()
            .into_iter()
            .map(|missing| json!({"minion": missing.minion, "reason": missing.reason}))
            .collect();
        json!({
            "jid": self.jid, "fun": self.function, "targeted": self.targeted,
            "returns": returns, "missing": missing,
        })
    }

    /// One line of `run -o ndjson`; `None` if the minion has not returned.
    pub fn line(&self, minion: &MinionId) -> Option<Value> {
        let mut line = json!({ "minion": minion });
        let (Value::Object(line_map), Value::Object(view)) = (&mut line, return_document(self.returns.get(minion)?))
        else {
            return None;
        };
        line_map.extend(view);
        Some(line)
    }

    /// Salt's `--summary`.
    pub fn summary(&self) -> String {
        let rule = "-".repeat(43);
        let (targeted, returned) = (self.targeted.len(), self.returns.len());
        format!(
            "\n\n{rule}\nSummary\n{rule}\n# of minions targeted: {targeted}\n# of minions returned: {returned}\n\
             # of minions that did not return: {}\n# of minions with errors: {}\n{rule}\n",
            targeted - returned,
            self.failures()
        )
    }
}

fn return_document(view: &ReturnView) -> Value {
    json!({"return": view.value, "retcode": view.retcode, "success": view.success, "master": view.master})
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::Revision;

    fn id(text: &str) -> MinionId {
        MinionId::new(text).expect("an id")
    }

    fn view(value: Value, retcode: i32) -> ReturnView {
        let (success, state) = (retcode == 0, if retcode == 0 { Progress::Returned } else { Progress::Failed });
        ReturnView { value, retcode, success, state, master: "m1".into(), duration_ms: 3 }
    }

    fn tally() -> Tally {
        let jid = "20261123000630290107".parse().expect("a jid");
        Tally::new("test.ping".into(), Submitted { jid, targeted: vec![id("web-a"), id("web-b")] })
    }

    fn gone(minion: &str, reason: &str) -> JobEvent {
        JobEvent::Missing(Missing { minion: id(minion), state: Progress::Expired, reason: reason.into() })
    }

    fn returned(minion: &str, value: Value, retcode: i32) -> JobEvent {
        JobEvent::Return { minion: id(minion), view: view(value, retcode) }
    }

    #[test]
    fn each_minion_counts_once_and_the_first_return_stays() {
        let mut tally = tally();
        assert_eq!(tally.handle_event(returned("web-a", json!(1), 0)), Step::Returned(id("web-a")));
        assert_eq!(tally.handle_event(returned("web-a", json!(2), 0)), Step::Nothing);
        assert_eq!(tally.handle_event(returned("stranger", json!(1), 0)), Step::Nothing);
        assert_eq!(tally.returns()[&id("web-a")].value, json!(1));
        assert_eq!(tally.owed(), [id("web-b")]);
        assert_eq!(tally.exit_code(), 3);
    }

    #[test]
    fn a_late_return_replaces_expired() {
        let mut tally = tally();
        assert_eq!(tally.handle_event(gone("web-b", "expired")), Step::GivenUp(id("web-b")));
        assert_eq!(tally.missing().len(), 2);
        assert!(!tally.is_settled());
        assert_eq!(tally.handle_event(returned("web-b", json!(true), 0)), Step::Returned(id("web-b")));
        assert_eq!(tally.handle_event(gone("web-b", "expired")), Step::Nothing);
        assert_eq!(tally.handle_event(returned("web-a", json!(true), 1)), Step::Returned(id("web-a")));
        assert!(tally.is_settled() && tally.missing().is_empty());
        assert_eq!(tally.handle_event(JobEvent::Done { revision: Revision(9) }), Step::Done);
        assert_eq!(tally.exit_code(), 1);
    }

    #[test]
    fn the_document_holds_everybody() {
        let mut tally = tally();
        tally.handle_event(returned("web-a", json!(true), 0));
        tally.handle_event(gone("web-b", "expired"));
        let expect = json!({
            "jid": "20261123000630290107", "fun": "test.ping", "targeted": ["web-a", "web-b"],
            "returns": {"web-a": {"return": true, "retcode": 0, "success": true, "master": "m1"}},
            "missing": [{"minion": "web-b", "reason": "expired"}],
        });
        assert_eq!(tally.document(), expect);
        let line = json!({"minion": "web-a", "return": true, "retcode": 0, "success": true, "master": "m1"});
        assert_eq!(tally.line(&id("web-a")), Some(line));
        assert_eq!(tally.line(&id("web-b")), None);
    }

    #[test]
    fn nobody_is_silently_missing() {
        let mut tally = tally();
        tally.handle_silence("no master is reachable");
        let reasons: Vec<String> = tally.missing().into_iter().map(|missing| missing.reason).collect();
        assert_eq!(reasons, ["no master is reachable", "no master is reachable"]);
    }

    #[test]
    fn the_summary_is_salts() {
        let mut tally = tally();
        tally.handle_event(returned("web-a", json!(true), 0));
        let expect = "

-------------------------------------------
Summary
-------------------------------------------
# of minions targeted: 2
# of minions returned: 1
# of minions that did not return: 1
# of minions with errors: 0
-------------------------------------------
";
        assert_eq!(tally.summary(), expect);
    }
}
