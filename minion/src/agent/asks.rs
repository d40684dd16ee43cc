//! What functions of the agent ask of its state, and the answers.

use super::core::Core;
use super::desk::Ask;
use crate::executor::Work;
use saltern_wire::JobId;

impl Core {
    /// Answers what a function of the agent asks.
    pub(super) fn handle_ask(&mut self, ask: Ask) {
        // An asker that was ended meanwhile does not wait for its answer: failing to send one is no error.
        match ask {
            Ask::Report(values, waiter) => self.mine.report(values, Some(waiter)),
            Ask::ReportChanged(mut values) => {
                values.retain(|(function, value)| {
                    value.as_ref().is_none_or(|value| !self.mine.is_current(function, value))
                });
                if !values.is_empty() {
                    self.mine.report(values, None);
                }
            }
            Ask::MineNames(reply) => drop(reply.send(self.mine.names())),
            Ask::MineGet(target, function, reply) => self.handle_mine_get(target, function, reply),
            Ask::Refusals(reply) => {
                let counts = self.refusals.counts().chain(self.frames_refused.rows());
                drop(reply.send(counts.map(|(reason, count)| (reason.to_owned(), count.into())).collect()));
            }
            Ask::Running(reply) => drop(reply.send(self.running_works())),
            Ask::Kill(jid, reply) => drop(reply.send(self.kill(jid))),
            Ask::SetGrain(key, value, reply) => self.facts.handle_set(&key, value, reply),
            Ask::NewFacts(facts, reply) => self.facts.handle_host(facts, reply),
        }
    }

    fn running_works(&self) -> Vec<Work> {
        let known = self.running.iter();
        known.filter_map(|(jid, running)| self.executor.started(*jid).or_else(|| running.work.clone())).collect()
    }

    fn kill(&mut self, jid: JobId) -> Result<Option<u32>, String> {
        let Some(running) = self.running.get(&jid) else { return Ok(None) };
        let pid = self.executor.started(jid).or_else(|| running.work.clone()).map_or(0, |work| work.pid);
        if let Some(token) = &running.token {
            token.cancel();
            return Ok(Some(pid));
        }
        match self.executor.end(jid) {
            Ok(true) => Ok(Some(pid)),
            Ok(false) => Ok(None),
            Err(error) => Err(format!("job {jid} cannot be ended: {error}")),
        }
    }
}
