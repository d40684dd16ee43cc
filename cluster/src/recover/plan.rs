//! What survivors hold, and what follows from it. Reading is separate from judging: [`report`] looks at one disk, [`Plan`] is
//! a pure function of reports.

use super::RecoverError;
use crate::config::Config;
use crate::pki::Credentials;
use crate::quarantine::Quarantine;
use crate::raft::StoredEntry;
use crate::raft::refound::{self, Extent};
use saltern_store::kv::Engine;
use saltern_store::{FlushBy, Stores};
use saltern_wire::io::Disk;
use saltern_wire::{ClusterId, LogicalTime, MasterId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What one survivor holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Who.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// The generation of the newest directory that it holds.
    pub generation: u64,
    /// The last entry it holds; 0 for none.
    pub last: u64,
    /// The term of the leader that wrote it.
    pub last_term: u64,
    /// When that entry was made, in the truth's time.
    pub last_time: LogicalTime,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// The last entry in its tables.
    pub applied: u64,
    /// Who votes, by the newest membership it holds, with names as far as it knows them.
    pub voters: Vec<(MasterId, String)>,
    /// Who learns.
    pub learners: Vec<(MasterId, String)>,
}

/// Looks at the disk of a master that does not run.
pub fn report(config: &Config, engine: &Arc<dyn Engine>, disk: &dyn Disk) -> Result<Report, RecoverError> {
    let (credentials, stores) = open(config, engine, disk)?;
    let extent = refound::extent(&stores.log, &stores.state)?;
    let directory = credentials.directory.verify(&credentials.ca).map(saltern_wire::crypto::Verified::into_inner);
    let mut known = directory.ok();
    if let Some(held) = stores.state.directory().and_then(|signed| signed.peek().ok())
        && known.as_ref().is_none_or(|known| held.replaces(known))
    {
        known = Some(held);
    }
    let named = |ids: BTreeSet<MasterId>| {
        let name = |id: MasterId| {
            let record = known.as_ref().and_then(|known| known.master(id));
            (id, record.map_or_else(|| format!("master {id}"), |record| record.name.clone()))
        };
        ids.into_iter().map(name).collect()
    };
    let Extent { last, last_term, last_stamp, committed, applied, voters, learners, .. } = extent;
    Ok(Report {
        cluster: credentials.cluster,
        master: credentials.master,
        name: credentials.name,
        generation: known.as_ref().map_or(0, |known| known.generation),
        last,
        last_term,
        last_time: last_stamp.max(stores.state.time()),
        committed,
        applied,
        voters: named(voters),
        learners: named(learners),
    })
}

/// Opens a survivor's data as a start would: whole, or not at all.
pub(super) fn open(
    config: &Config,
    engine: &Arc<dyn Engine>,
    disk: &dyn Disk,
) -> Result<(Credentials, Stores<StoredEntry>), RecoverError> {
    let folder = &config.data_dir;
    let credentials = Credentials::load(disk, folder)?;
    let file = |source| RecoverError::File { path: folder.join(crate::quarantine::QUARANTINE_FILE), source };
    if let Some(quarantine) = Quarantine::read(disk, folder).map_err(file)? {
        return Err(RecoverError::Quarantined { cause: quarantine.cause });
    }
    let stores = Stores::open(Arc::clone(engine), folder, FlushBy::Thread)?;
    // A snapshot that was received and not installed when the machine died: a start would go on from it.
    if let Some(snapshot) = stores.snapshots.current()
        && snapshot.manifest.applied > stores.state.applied_index()
    {
        stores.snapshots.install(&stores.state, &snapshot)?;
    }
    Ok((credentials, stores))
}

impl Report {
    /// Reads the line that another survivor printed.
    pub fn parse(text: &str) -> Result<Self, RecoverError> {
        let refuse = |error: serde_json::Error| RecoverError::Report {
            text: text.chars().take(80).collect(),
            cause: error.to_string(),
        };
        serde_json::from_str(text.trim().strip_prefix("report").unwrap_or(text).trim()).map_err(refuse)
    }

    /// The line to carry to the others.
    pub fn line(&self) -> String {
        // Every field has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What decides which log is the longer one: Raft's own order.
    fn rank(&self) -> (u64, u64, u64) {
        (self.last_term, self.last, self.committed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |all: &[(MasterId, String)]| {
            let names: Vec<_> = all.iter().map(|(id, name)| format!("{name} ({id})")).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        writeln!(
            f,
            "{} (master {}) of the cluster {}, generation {}",
            self.name, self.master, self.cluster, self.generation
        )?;
        writeln!(f, "  last entry       {}, of term {}, made at {}", self.last, self.last_term, self.last_time)?;
        writeln!(f, "  known committed  {}", self.committed)?;
        writeln!(f, "  in the tables    {}", self.applied)?;
        writeln!(f, "  voters           {}", list(&self.voters))?;
        writeln!(f, "  learners         {}", list(&self.learners))
    }
}

/// What to do about a cluster of which these survivors are left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The survivors, the one to choose first.
    pub survivors: Vec<Report>,
    /// Voters that no report is from.
    pub missing: Vec<(MasterId, String)>,
    /// How many voters make a majority.
    pub majority: usize,
}

impl Plan {
    /// Judges reports of one cluster. Refused: none, or of several clusters.
    pub fn of(mut reports: Vec<Report>) -> Result<Self, RecoverError> {
        reports.sort_by_key(|report| (std::cmp::Reverse(report.rank()), report.master));
        let mut seen = BTreeSet::new();
        reports.retain(|report| seen.insert(report.master));
        let Some(best) = reports.first() else { return Err(RecoverError::Empty) };
        if let Some(other) = reports.iter().find(|report| report.cluster != best.cluster) {
            return Err(RecoverError::OtherCluster { held: best.cluster, given: other.cluster });
        }
        let here = |id: &MasterId| reports.iter().any(|report| report.master == *id);
        let missing = best.voters.iter().filter(|(id, _)| !here(id)).cloned().collect();
        let majority = best.voters.len() / 2 + 1;
        Ok(Self { survivors: reports, missing, majority })
    }

    /// Whether the survivors are a majority: then nothing is lost, and nothing needs to be recovered.
    pub fn is_majority(&self) -> bool {
        self.survivors.first().is_some_and(|best| best.voters.len() - self.missing.len() >= self.majority)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(best) = self.survivors.first() else { return Ok(()) };
        let missing: Vec<_> = self.missing.iter().map(|(id, name)| format!("{name} ({id})")).collect();
        let here = best.voters.len() - self.missing.len();
        writeln!(f, "survivors   {here} of {} voters are here, {} make a majority", best.voters.len(), self.majority)?;
        if self.is_majority() {
            writeln!(f, "not needed  they elect a leader by themselves: start them with `saltern-master run`")?;
            return write!(f, "            whoever is lost for good is taken out later, by an operator of the cluster");
        }
        let (name, last, time) = (&best.name, best.last, best.last_time);
        writeln!(f, "choose      {name}: no other survivor named here holds a newer log")?;
        writeln!(
            f,
            "kept        every entry up to {last} (of {time}): keys, jobs, returns and mine values as of then"
        )?;
        if last > best.committed {
            writeln!(
                f,
                "brought back  entries {} to {last} are on its disk and not known to be committed: they are kept, because \
                 some may have been acknowledged",
                best.committed + 1
            )?;
        }
        for other in &self.survivors[1..] {
            let lacks = if other.last > last { format!("entries behind {last}") } else { "nothing".into() };
            writeln!(
                f,
                "given up    {} holds {lacks} that {name} lacks; it joins again with an empty folder",
                other.name
            )?;
        }
        writeln!(
            f,
            "not known   what {} acknowledged among themselves behind entry {last}, after {time}, is lost; nobody here can \
             say how much it is. If {name} was in contact with its leader until the others died, it is at most what was on \
             its way at that moment; if it was cut off before, it is everything since",
            missing.join(" and ")
        )?;
        writeln!(f, "cancelled   jobs that are open in it: nobody may run what a lost master signed")?;
        writeln!(
            f,
            "fenced      generation {}: minions that have seen it obey no master of an older one, and {} are refused if \
             they come back",
            best.generation + 1,
            missing.join(" and ")
        )?;
        writeln!(
            f,
            "before      make sure that {} are gone for good: if a majority of them runs on somewhere,",
            missing.join(" and ")
        )?;
        writeln!(f, "            minions that have not heard of the new generation still obey them")?;
        write!(f, "next        on {name}: saltern-master recover apply --confirm {}", best.cluster)
    }
}
