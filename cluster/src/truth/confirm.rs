//! ReadIndex for many at once: whoever wants to know that this master's copy is current asks here.
//!
//! **Invariants.** A question is answered by a ReadIndex that began after it was asked. What is asked while one is under way
//! waits for the next, together: a herd costs a few round trips, not one each. Every question has its own deadline.

use super::{LEADER_POLL, ProposeError, Truth};
use crate::mesh::message::{Channel, Request, Response};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use saltern_wire::Revision;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait. More are refused: whoever asks so often is not read any faster.
const WAITING_MAX: usize = 8192;

/// Questions that go together.
const TOGETHER_MAX: usize = 1024;

/// ReadIndexes under way at one time: enough for one to begin every few milliseconds at the longest round trips.
const UNDER_WAY_MAX: usize = 8;

struct Question {
    /// By this master's monotonic clock.
    deadline: Duration,
    answer: oneshot::Sender<Result<Revision, ProposeError>>,
}

/// The way to the duty that asks.
pub(super) struct Confirmations {
    questions: mpsc::Sender<Question>,
    waiting: Mutex<Option<mpsc::Receiver<Question>>>,
}

impl Default for Confirmations {
    fn default() -> Self {
        let (questions, waiting) = mpsc::channel(WAITING_MAX);
        Self { questions, waiting: Mutex::new(Some(waiting)) }
    }
}

impl Truth {
    /// ReadIndex: returns once everything that was acknowledged anywhere before the call is applied here.
    pub async fn confirm(&self, within: Duration) -> Result<Revision, ProposeError> {
        let (answer, answered) = oneshot::channel();
        let deadline = self.clock().monotonic() + within;
        let question = Question { deadline, answer };
        self.0.confirmations.questions.try_send(question).map_err(|_| ProposeError::Busy)?;
        match tokio::time::timeout(within, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::NoQuorum),
        }
    }

    /// Answers whoever asks. A duty; it is started once.
    pub(crate) async fn confirm_all(self) {
        let waiting = self.0.confirmations.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut waiting) = waiting else {
            return tracing::error!("confirmations were started twice: the first ones go on");
        };
        let mut under_way = FuturesUnordered::new();
        let mut asked = Vec::new();
        loop {
            let room = under_way.len() < UNDER_WAY_MAX;
            tokio::select! {
                biased;
                Some(()) = under_way.next() => {}
                count = waiting.recv_many(&mut asked, TOGETHER_MAX), if room => {
                    if count == 0 {
                        return;
                    }
                    under_way.push(self.answer(std::mem::take(&mut asked)));
                }
            }
        }
    }

    /// Asks for all of these together, as long as the most patient of them waits. The others have timers of their own.
    async fn answer(&self, questions: Vec<Question>) {
        let now = self.clock().monotonic();
        let deadline = questions.iter().map(|question| question.deadline).max().unwrap_or(now);
        let outcome = self.ask_until(deadline).await;
        for question in questions {
            // Whoever does not wait any more has told its caller so.
            let _ = question.answer.send(outcome.clone());
        }
    }

    async fn ask_until(&self, deadline: Duration) -> Result<Revision, ProposeError> {
        loop {
            if let Some(revision) = self.read_index().await {
                let left = deadline.saturating_sub(self.clock().monotonic());
                self.reach(revision, left).await.map_err(|_| ProposeError::NoQuorum)?;
                return Ok(revision);
            }
            if self.clock().monotonic() >= deadline {
                return Err(ProposeError::NoQuorum);
            }
            self.0.group.changed(LEADER_POLL).await;
        }
    }

    async fn read_index(&self) -> Option<Revision> {
        let state = self.0.group.leader_state();
        if state.is_self {
            return self.read_index_here().await;
        }
        let reply = self.0.mesh.ask(state.leader?, Channel::Work, &Request::ReadIndex, self.lease()).await;
        match reply {
            Ok(Response::ReadIndex(revision)) => revision,
            _ => None,
        }
    }

    /// Serves [`Request::ReadIndex`].
    pub(crate) async fn read_index_here(&self) -> Option<Revision> {
        tokio::time::timeout(self.lease(), self.0.group.read_index()).await.ok()?.ok()
    }
}
