//! Makes the chosen survivor carry the truth on alone.
//!
//! ```text
//!   log and tables, opened as a start would ─▶ a scratch copy with every entry applied: CA, newest generation
//!      ─▶ certificates and directory of the next generation ─▶ two entries at the end of the log, in one write
//!      ─▶ credentials ─▶ `run`: elects itself, applies everything, serves
//! ```
//!
//! **Invariants.** Until the two entries are durable nothing has changed but a scratch folder; from then on the folder can only
//! become the recovered master, and the same command finishes what was interrupted. The scratch copy is what decides, so that
//! a directory or a generation that is in the log and not yet in the tables counts.

use super::RecoverError;
use super::plan::open;
use crate::config::Config;
use crate::pki::{Authority, Credentials};
use crate::raft::StoredEntry;
use crate::raft::refound;
use crate::succession::Succession;
use saltern_store::Stores;
use saltern_store::archive::scratch;
use saltern_store::kv::Engine;
use saltern_store::view::CertificateAuthority;
use saltern_wire::io::{Clock, Disk, Entropy};
use saltern_wire::master::Directory;
use saltern_wire::{ClusterId, LogicalTime, MasterId};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the log is tried out, in the data folder. Left over by a crash, it is removed by the next run.
const SCRATCH: &str = "recover-scratch";

/// What was recovered. Its `Display` is what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Its generation from now on.
    pub generation: u64,
    /// This master.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// The last entry that was kept; `None` if an earlier run had done it all but for the last step.
    pub kept: Option<u64>,
    /// The data folder.
    pub data_dir: PathBuf,
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cluster         {} (generation {})", self.cluster, self.generation)?;
        writeln!(f, "master          {} ({}), the only voter", self.name, self.master)?;
        match self.kept {
            Some(kept) => writeln!(f, "kept            every entry up to {kept}")?,
            None => {
                writeln!(f, "kept            what an earlier run of this command kept; it was interrupted at its end")?
            }
        }
        writeln!(f, "data folder     {}", self.data_dir.display())?;
        writeln!(f)?;
        writeln!(f, "Minions come back by themselves. Start it with the same configuration:")?;
        writeln!(f, "    saltern-master run")?;
        writeln!(f, "Then let the others join, with empty data folders; under their old ids they are refused:")?;
        writeln!(f, "    saltern cluster join-token      # here; prints TOKEN")?;
        write!(f, "    saltern-master join TOKEN       # there")
    }
}

/// Carries the truth of this folder on alone. `confirm` is the cluster that the operator means.
pub fn apply(
    config: &Config,
    confirm: ClusterId,
    engine: &Arc<dyn Engine>,
    (disk, entropy, clock): (&dyn Disk, &dyn Entropy, &dyn Clock),
) -> Result<Recovered, RecoverError> {
    let (credentials, stores) = open(config, engine, disk)?;
    if credentials.cluster != confirm {
        return Err(RecoverError::OtherCluster { held: credentials.cluster, given: confirm });
    }
    let (authority, ca, directory) = try_out(config, engine, &credentials, &stores)?;
    let extent = refound::extent(&stores.log, &stores.state)?;
    let alone = extent.voters == BTreeSet::from([credentials.master]);
    let held = credentials.certificate.peek().map_or(0, |certificate| certificate.generation);
    if alone && held >= directory.generation {
        return Err(RecoverError::Alone);
    }
    // Alone under an older certificate: an earlier run wrote the log and was interrupted before the credentials.
    let generation = if alone { directory.generation } else { directory.generation + 1 };
    let state_secret = credentials.ring.in_force(&ca).unwrap_or_else(|| credentials.state_secret.clone());
    let succession = Succession {
        cluster: credentials.cluster,
        succeeds: directory.succeeds,
        generation,
        master: credentials.master,
        name: credentials.name.clone(),
        identity: Arc::clone(&credentials.identity),
        authority,
        ca_certificate_pem: ca.certificate_pem,
        state_secret,
        now: LogicalTime::from_unix_micros(clock.wall_unix_micros()),
    };
    let (next, proposal) = succession.prepare(config, entropy)?;
    if !alone {
        refound::carry_on(&stores.log, &stores.state, next.master, &next.endpoints.mesh, proposal)?;
    }
    drop(stores);
    next.store(disk, &config.data_dir)?;
    let kept = (!alone).then_some(extent.last);
    let Credentials { cluster, master, name, .. } = next;
    Ok(Recovered { cluster, generation, master, name, kept, data_dir: config.data_dir.clone() })
}

/// What the truth will be once every entry of the log is applied: its CA, opened, and its newest directory.
fn try_out(
    config: &Config,
    engine: &Arc<dyn Engine>,
    credentials: &Credentials,
    stores: &Stores<StoredEntry>,
) -> Result<(Authority, CertificateAuthority, Directory), RecoverError> {
    let dir = config.data_dir.join(SCRATCH);
    let copy = scratch(Arc::clone(engine), &stores.state, &dir)?;
    refound::replay(&stores.log, &copy)?;
    let (ca, directory) = (copy.ca(), copy.directory());
    drop(copy);
    engine.remove(&dir)?;
    let (Some(ca), Some(directory)) = (ca, directory) else { return Err(RecoverError::Empty) };
    let authority = Authority::open(credentials, &ca)?;
    let corrupt = |error: saltern_wire::crypto::SignatureError| saltern_store::StoreError::Corrupt {
        what: "the directory of masters".into(),
        cause: error.to_string(),
    };
    let directory = directory.verify(&ca.public_key).map_err(corrupt)?.into_inner();
    Ok((authority, ca, directory))
}
