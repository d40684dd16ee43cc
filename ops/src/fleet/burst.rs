//! A burst of jobs whose starts are counted on the disk, and whose returns are compared with what was due.
//!
//! Each start of a job on a minion makes one file whose name holds the job's number and the minion's id. How often something
//! ran is therefore known from the disk, whatever anybody says.

use crate::client::{Client, ClientError};
use crate::fleet::jobs;
use crate::fleet::process::MEMBER_VARIABLE;
use saltern_wire::api::{JobState, JobView, Submitted};
use saltern_wire::target::TargetKind;
use saltern_wire::{MinionId, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Jobs that count their starts.
pub struct Burst {
    folder: PathBuf,
    seconds: f64,
    /// The jobs that were acknowledged, in order; a job's number is its place.
    pub submitted: Vec<Submitted>,
}

/// What became of a burst, as one master holds it and as the disk shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// Returns that were due: one per job and targeted minion.
    pub targeted: usize,
    /// Returns that are recorded.
    pub returned: usize,
    /// Returns that say that the job was interrupted.
    pub interrupted: usize,
    /// Returns that are due and not recorded: job number, minion and reason.
    pub lost: Vec<(usize, MinionId, String)>,
    /// Starts beyond the first of a job on a minion: job number and minion.
    pub doubled: Vec<(usize, String)>,
    /// Jobs that still wait for somebody.
    pub open: usize,
    /// The recorded returns of each job.
    pub views: Vec<JobView>,
}

impl Tally {
    /// Whether everything that was due is there, once.
    pub fn is_exact(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.open == 0 && self.returned == self.targeted
    }

    /// Whether two masters hold the same returns.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let returns = |tally: &Self| tally.views.iter().map(|view| view.returns.clone()).collect::<Vec<_>>();
        returns(self) == returns(other)
    }
}

impl Burst {
    /// Jobs that run for `seconds` each and leave their marks in `folder`, which is made.
    pub fn new(folder: &Path, seconds: f64) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.into(), seconds, submitted: Vec::new() })
    }

    /// Submits the next job for everybody.
    pub async fn submit(&mut self, client: &mut Client) -> Result<(), ClientError> {
        self.submit_for(client, "*").await
    }

    /// Submits the next job for the minions that match the glob `target`.
    pub async fn submit_for(&mut self, client: &mut Client, target: &str) -> Result<(), ClientError> {
        let number = self.submitted.len();
        let script = format!(
            "mktemp -p '{}' job-{number}.${MEMBER_VARIABLE}.XXXXXX >/dev/null && sleep {} && echo done {number}",
            self.folder.display(),
            self.seconds
        );
        let job = jobs::job(TargetKind::Glob, target, "cmd.run", &[Value::String(script)]);
        let submitted = jobs::submit(client, &job).await?;
        self.submitted.push(submitted);
        Ok(())
    }

    /// Waits until everybody is settled, as the client's master sees it, at most `within` for all jobs together.
    pub async fn settle(&self, client: &mut Client, within: Duration) -> Result<(), ClientError> {
        let all = async {
            for submitted in &self.submitted {
                jobs::wait(client, submitted.jid, within).await?;
            }
            Ok(())
        };
        tokio::time::timeout(within, all).await.unwrap_or(Ok(()))
    }

    /// Counts what one master holds and what the disk shows.
    pub async fn tally(&self, client: &mut Client) -> Result<Tally, ClientError> {
        let starts = self.starts();
        let mut tally = Tally {
            targeted: 0,
            returned: 0,
            interrupted: 0,
            lost: Vec::new(),
            doubled: starts.into_iter().filter(|(_, count)| *count > 1).map(|(start, _)| start).collect(),
            open: 0,
            views: Vec::new(),
        };
        for (number, submitted) in self.submitted.iter().enumerate() {
            let view = jobs::look_up(client, submitted.jid).await?;
            tally.targeted += submitted.targeted.len();
            tally.returned += view.returns.len();
            tally.open += usize::from(view.summary.state == JobState::Open);
            let interrupted =
                |returned: &&saltern_wire::api::ReturnView| returned.state == saltern_wire::job::Progress::Interrupted;
            tally.interrupted += view.returns.values().filter(interrupted).count();
            for minion in submitted.targeted.iter().filter(|minion| !view.returns.contains_key(*minion)) {
                let reason = view.missing.iter().find(|missing| missing.minion == *minion);
                let reason = reason.map_or_else(|| "no reason is given".into(), |missing| missing.reason.clone());
                tally.lost.push((number, minion.clone(), reason));
            }
            tally.views.push(view);
        }
        Ok(tally)
    }

    /// How often each job was started on each minion.
    pub fn starts(&self) -> BTreeMap<(usize, String), usize> {
        let mut starts = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut parts = name.strip_prefix("job-").unwrap_or_default().split('.');
            let (Some(Ok(number)), Some(minion)) = (parts.next().map(str::parse::<usize>), parts.next()) else {
                continue;
            };
            *starts.entry((number, minion.to_owned())).or_insert(0) += 1;
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_from_the_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let burst = Burst::new(folder.path(), 0.1).expect("it can be made");
        for name in
            ["job-0.minion-1.aaaaaa", "job-0.minion-2.bbbbbb", "job-7.minion-1.cccccc", "job-7.minion-1.dddddd", "x"]
        {
            std::fs::write(folder.path().join(name), "").expect("a mark");
        }
        let starts = burst.starts();
        assert_eq!(starts.get(&(0, "minion-1".into())), Some(&1));
        assert_eq!(starts.get(&(7, "minion-1".into())), Some(&2));
        assert_eq!(starts.len(), 3);
    }
}
