//! `saltern-master restore`: a cluster out of an archive and the keys in the safe, on this machine's disk only.
//!
//! ```text
//!   every byte of the archive, and the keys ─▶ checked ─▶ `restoring` ─▶ state/ ─▶ log/ (the only voter, the new generation)
//!       ─▶ credentials, `master.json` last ─▶ `restoring` removed
//! ```
//!
//! **Invariants.** Nothing is written before the archive is known to be whole and to belong to the keys. A folder with the file
//! `restoring` and without `master.json` holds what an interrupted restore left: the next one begins anew. The new cluster has
//! an id that was drawn just now, the former one's CA, and a generation far above its own: two restores of one archive make
//! two clusters, and minions follow the first that they meet.
//!
//! **It refuses** another master's folder, an archive that is not whole, and keys of another CA.

use super::keys::{ClusterKeys, FILE_BYTES_MAX, KeysError};
use crate::config::Config;
use crate::founding::{self, FoundingError};
use crate::pki::credentials::{CredentialsError, MASTER_FILE};
use crate::pki::{Authority, PkiError};
use crate::raft::StoredEntry;
use crate::raft::refound::{self, RefoundError};
use crate::succession::Succession;
use saltern_store::archive::{Import, check_row};
use saltern_store::folder::{LOG, SNAPSHOTS, STATE};
use saltern_store::kv::Engine;
use saltern_store::{FlushBy, Log, Soundness, State, StoreError};
use saltern_wire::archive::{ArchiveError, Part, Reader, Verified};
use saltern_wire::crypto::Identity;
use saltern_wire::io::{Clock, Disk, Entropy, draw};
use saltern_wire::{ClusterId, LogicalTime, MasterId};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// There while a restore writes.
const RESTORING_FILE: &str = "restoring";

/// What an interrupted restore may have left, besides the credentials.
const REMAINS: [&str; 4] = [STATE, LOG, SNAPSHOTS, "mark"];

/// Generations that are passed over: each recovery since the archive was written has raised it by one, and minions follow
/// higher ones only.
const GENERATIONS_SKIPPED: u64 = 1000;

/// Piece in which an archive is read, in bytes.
const READ_BYTES: usize = 1024 * 1024;

/// What is to be restored.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The archive.
    pub archive: PathBuf,
    /// The keys, as `saltern cluster export-keys` wrote them.
    pub keys: PathBuf,
    /// What they open with.
    pub passphrase: Zeroizing<String>,
    /// Further clusters whose minions are to follow, beside the one in the archive and those it succeeds.
    pub succeeds: Vec<ClusterId>,
    /// The generation, if not the one that follows from the archive.
    pub generation: Option<u64>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The archive is not whole.
    #[error("{path}: {source}; nothing was written")]
    Archive {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: ArchiveError,
    },
    /// It is whole, and holds something that this build cannot read.
    #[error("{path} cannot be restored by this version: {cause}; nothing was written")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What.
        cause: String,
    },
    /// The keys do not open.
    #[error("{path}: {source}; nothing was written")]
    Keys {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: KeysError,
    },
    /// They belong to another cluster.
    #[error(
        "the keys are of the CA {keys}, the archive is of the CA {archive}: bring the keys of that cluster; nothing was written"
    )]
    OtherKeys {
        /// The keys' CA.
        keys: String,
        /// The archive's CA.
        archive: String,
    },
    /// A generation that fences nobody.
    #[error("generation {wanted} is not above {held}, the one in the archive: minions would not follow")]
    Generation {
        /// What was asked for.
        wanted: u64,
        /// What it has to be above.
        held: u64,
    },
    /// The folder is another master's, or cannot be written.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// The tables cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be written.
    #[error(transparent)]
    Refound(#[from] RefoundError),
    /// A certificate was not made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl RestoreError {
    /// sysexits.h: 65 for a file that cannot be trusted, 66 for one that cannot be read, 64 for a generation that cannot be, 74
    /// for the disk, 77 for keys, 78 for the folder.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } => 66,
            Self::Archive { .. } | Self::Unreadable { .. } => 65,
            Self::Keys { .. } | Self::OtherKeys { .. } => 77,
            Self::Generation { .. } => 64,
            Self::Founding(_) => 78,
            Self::Store(_) | Self::Refound(_) => 74,
            Self::Pki(_) => 70,
        }
    }
}

/// What was restored. Its `Display` is what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster.
    pub cluster: ClusterId,
    /// The one that it was restored from.
    pub former: ClusterId,
    /// Its generation.
    pub generation: u64,
    /// This master.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// What the archive is.
    pub archive: Verified,
    /// The data folder.
    pub data_dir: PathBuf,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |name: &str| self.archive.end.counts.get(name).copied().unwrap_or(0);
        writeln!(f, "restored        revision {} of {}", self.archive.head.revision, self.archive.head.time)?;
        writeln!(f, "from cluster    {} (generation {})", self.former, self.archive.head.generation)?;
        writeln!(f, "cluster         {} (generation {})", self.cluster, self.generation)?;
        writeln!(f, "master          {} ({})", self.name, self.master)?;
        writeln!(
            f,
            "holds           {} accepted keys, {} jobs, {} returns, {} mine values",
            count("keys_accepted"),
            count("jobs"),
            count("returns"),
            count("mine_values")
        )?;
        writeln!(f, "cancelled       {} jobs that were open", count("jobs_open"))?;
        writeln!(f, "data folder     {}", self.data_dir.display())?;
        writeln!(f)?;
        writeln!(f, "Minions follow once they reach it, and obey no master of the former cluster any more.")?;
        writeln!(f, "Start it with the same configuration:")?;
        writeln!(f, "    saltern-master run")?;
        writeln!(f, "Then let other masters join, with empty data folders:")?;
        writeln!(f, "    saltern cluster join-token      # here; prints TOKEN")?;
        write!(f, "    saltern-master join TOKEN       # there")
    }
}

/// Makes a data folder of a new cluster with one master out of an archive.
pub fn restore(
    config: &Config,
    request: &RestoreRequest,
    engine: &Arc<dyn Engine>,
    (disk, entropy, clock): (&dyn Disk, &dyn Entropy, &dyn Clock),
) -> Result<Restored, RestoreError> {
    let folder = &config.data_dir;
    let began = require_vacant(disk, folder)?;
    let keys = read_keys(disk, request)?;
    let archive = verify(&request.archive)?;
    if keys.ca.public_key() != archive.head.ca {
        return Err(RestoreError::OtherKeys {
            keys: keys.ca.public_key().fingerprint().to_string(),
            archive: archive.head.ca.fingerprint().to_string(),
        });
    }
    let generation = request.generation.unwrap_or(archive.head.generation.saturating_add(GENERATIONS_SKIPPED));
    if generation <= archive.head.generation {
        return Err(RestoreError::Generation { wanted: generation, held: archive.head.generation });
    }
    begin(disk, folder, began)?;
    let state = import(&request.archive, Arc::clone(engine), &folder.join(STATE))?;
    let succession = succession(config, request, keys, &state, &archive, generation, (entropy, clock))?;
    let (cluster, master) = (succession.cluster, succession.master);
    let (credentials, refound) = succession.prepare(config, entropy)?;
    let log: Log<StoredEntry> = Log::open(engine.as_ref(), &folder.join(LOG), FlushBy::Thread, Soundness::new())?;
    refound::begin(&log, &state)?;
    refound::carry_on(&log, &state, master, &credentials.endpoints.mesh, refound)?;
    state.flush()?;
    drop((log, state));
    founding::prepare(disk, entropy, folder, &config.api_token_file, &credentials, None)?;
    let marker = folder.join(RESTORING_FILE);
    disk.remove(&marker).map_err(|source| RestoreError::File { path: marker, source })?;
    Ok(Restored {
        cluster,
        former: archive.head.cluster,
        generation,
        master,
        name: credentials.name,
        archive,
        data_dir: folder.clone(),
    })
}

/// What the new cluster is.
fn succession(
    config: &Config,
    request: &RestoreRequest,
    keys: ClusterKeys,
    state: &State,
    archive: &Verified,
    generation: u64,
    (entropy, clock): (&dyn Entropy, &dyn Clock),
) -> Result<Succession, RestoreError> {
    let cluster = ClusterId::from_bytes(draw(entropy));
    let unreadable = |cause: String| RestoreError::Unreadable { path: request.archive.clone(), cause };
    let held = state.directory().ok_or_else(|| unreadable("it holds no directory of masters".into()))?;
    let held = held.verify(&archive.head.ca).map_err(|error| unreadable(error.to_string()))?.into_inner();
    let mut succeeds = vec![archive.head.cluster];
    for further in request.succeeds.iter().chain(&held.succeeds) {
        if !succeeds.contains(further) {
            succeeds.push(*further);
        }
    }
    let authority = Authority::new(cluster, keys.ca);
    Ok(Succession {
        cluster,
        succeeds,
        generation,
        master: state.fresh_master_id(),
        name: config.id.clone(),
        identity: Arc::new(Identity::from_seed(*Zeroizing::new(draw(entropy)))),
        ca_certificate_pem: authority.certificate_pem()?,
        authority,
        state_secret: keys.state_secret,
        now: LogicalTime::from_unix_micros(clock.wall_unix_micros()),
    })
}

/// Refuses another master's folder; whether an interrupted restore began here.
fn require_vacant(disk: &dyn Disk, folder: &Path) -> Result<bool, RestoreError> {
    let marker = folder.join(RESTORING_FILE);
    let began = disk.read(&marker, READ_BYTES as u64).map_err(|source| RestoreError::File { path: marker, source })?;
    let names = disk.list(folder).map_err(|source| FoundingError::Folder { folder: folder.into(), source })?;
    if began.is_none() || names.iter().any(|name| name == MASTER_FILE) {
        founding::require_vacant(disk, folder)?;
    }
    Ok(began.is_some())
}

/// Leaves nothing of an interrupted restore, and says that one is under way.
fn begin(disk: &dyn Disk, folder: &Path, began: bool) -> Result<(), RestoreError> {
    let at = |path: PathBuf| move |source| RestoreError::File { path, source };
    disk.make_folder(folder).map_err(at(folder.into()))?;
    if began {
        for name in REMAINS {
            let path = folder.join(name);
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { disk.remove(&path) };
            removed.map_err(at(path))?;
        }
    }
    let marker = folder.join(RESTORING_FILE);
    disk.replace(&marker, b"a restore is under way, or was interrupted: run it again\n").map_err(at(marker))
}

fn read_keys(disk: &dyn Disk, request: &RestoreRequest) -> Result<ClusterKeys, RestoreError> {
    let path = || request.keys.clone();
    let refuse = |source| RestoreError::Keys { path: path(), source };
    let bytes =
        disk.read(&request.keys, FILE_BYTES_MAX).map_err(|source| RestoreError::File { path: path(), source })?;
    let missing = || RestoreError::File { path: path(), source: std::io::ErrorKind::NotFound.into() };
    let text = String::from_utf8(bytes.ok_or_else(missing)?)
        .map_err(|_| refuse(KeysError::Malformed("it is not text".into())))?;
    Ok(ClusterKeys::open(&text, &request.passphrase).map_err(refuse)?.1)
}

/// Reads every byte of an archive, and every row in it.
fn verify(path: &Path) -> Result<Verified, RestoreError> {
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    read(path, &mut |table, key, value| {
        *rows.entry(table.to_owned()).or_default() += 1;
        check_row(table, key, value)
    })
}

fn import(path: &Path, engine: Arc<dyn Engine>, dir: &Path) -> Result<Arc<State>, RestoreError> {
    let mut import = Import::begin(engine, dir)?;
    // Once more with its sums: it may be another file by now.
    read(path, &mut |table, key, value| import.row(table, key, value))?;
    Ok(import.finish()?)
}

fn read(
    path: &Path,
    row: &mut dyn FnMut(&str, &[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<Verified, RestoreError> {
    let wrong = |source| RestoreError::Archive { path: path.into(), source };
    let failed = |source| RestoreError::File { path: path.into(), source };
    let unreadable = |error: StoreError| match error {
        StoreError::Corrupt { .. } => RestoreError::Unreadable { path: path.into(), cause: error.to_string() },
        other => RestoreError::Store(other),
    };
    let mut file = File::open(path).map_err(failed)?;
    let (mut reader, mut piece) = (Reader::new(), vec![0; READ_BYTES]);
    loop {
        let len = file.read(&mut piece).map_err(failed)?;
        if len == 0 {
            return reader.finish().map_err(wrong);
        }
        for part in reader.push(&piece[..len]).map_err(wrong)? {
            let Part::Rows { table, rows } = part else { continue };
            rows.iter().try_for_each(|(key, value)| row(&table, key, value)).map_err(unreadable)?;
        }
    }
}

impl From<CredentialsError> for RestoreError {
    fn from(error: CredentialsError) -> Self {
        Self::Founding(error.into())
    }
}
