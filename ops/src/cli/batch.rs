//! Jobs that go to so many minions at a time: how far one is, pausing it and letting it go on.

use super::job::state_word;
use super::{CliError, Session};
use crate::output::table::Table;
use crate::output::{Page, document};
use saltern_wire::api::{JobState, JobSummary};
use saltern_wire::rolling::{BatchView, Ending};
use saltern_wire::{JobId, Value};
use serde_json::json;

/// Pauses or resumes, as `verb` says.
pub(super) async fn hold(jid: JobId, verb: &str, session: &mut Session) -> Result<u8, CliError> {
    let answer = session.client.post(&format!("/v1/jobs/{jid}/{verb}"), &json!({})).await?;
    let batch: BatchView = session.fresh(answer)?;
    session.screen.show(&Held { jid, batch })?;
    Ok(0)
}

/// How far a batch is, in one line.
pub(super) fn line(batch: &BatchView) -> String {
    let rest = match (batch.stand.ending, batch.stand.paused) {
        (Some(Ending::Failhard), _) => ", ended: a minion failed",
        (Some(Ending::Killed), _) => ", ended by an operator",
        (None, true) => ", paused",
        (None, false) => "",
    };
    let resting = if batch.resting > 0 { format!(", {} places resting", batch.resting) } else { String::new() };
    let BatchView { rolling, width, running, held, .. } = batch;
    format!("{} ({width} at a time): {running} at work, {held} to come{resting}{rest}", rolling.size)
}

/// A job's state in a list.
pub(super) fn state(job: &JobSummary) -> &'static str {
    let paused = job.batch.is_some_and(|batch| batch.stand.paused);
    if job.state == JobState::Open && paused { "paused" } else { state_word(job.state) }
}

/// How a job stands that was paused or resumed.
struct Held {
    jid: JobId,
    batch: BatchView,
}

impl Page for Held {
    fn document(&self) -> Value {
        json!({ "jid": self.jid, "batch": document(&self.batch) })
    }

    fn nested(&self) -> String {
        format!("{}: {}\n", self.jid, line(&self.batch))
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["JID", "BATCH", "WIDTH", "RUNNING", "HELD", "PAUSED"]);
        let BatchView { rolling, width, running, held, stand, .. } = &self.batch;
        table.row([
            self.jid.to_string(),
            rolling.size.to_string(),
            width.to_string(),
            running.to_string(),
            held.to_string(),
            stand.paused.to_string(),
        ]);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::rolling::{BatchSize, Rolling, Stand};

    #[test]
    fn a_line_says_how_far_a_batch_is_and_what_stops_it() {
        let rolling = Rolling { size: BatchSize::Share(1000), wait_ms: 0, failhard: true, turn_ms: 60_000 };
        let mut batch = BatchView { rolling, width: 30, held: 270, running: 30, resting: 0, stand: Stand::default() };
        assert_eq!(line(&batch), "10% (30 at a time): 30 at work, 270 to come");
        batch.stand.paused = true;
        batch.resting = 2;
        assert_eq!(line(&batch), "10% (30 at a time): 30 at work, 270 to come, 2 places resting, paused");
        batch.stand.ending = Some(Ending::Failhard);
        assert!(line(&batch).ends_with("ended: a minion failed"));
    }
}
