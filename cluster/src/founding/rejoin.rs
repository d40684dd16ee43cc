//! `saltern-master rejoin`: a master whose data cannot be trusted comes back under a fresh id, without a token.
//!
//! ```text
//!   quarantine ─▶ quarantined-T/next/fresh.key ─▶ any peer, over the mesh, under the old certificate ─▶ grant
//!       ─▶ quarantined-T/next/* ─▶ log state snapshots mark … moved into quarantined-T/ ─▶ the new credentials in place
//!       ─▶ the file `quarantine` moved there ─▶ next/ removed
//! ```
//!
//! **Invariants.** Each step is durable before the next one, and each is harmless to repeat: whoever is killed anywhere runs
//! the same command again. The fresh key is kept before anybody is asked, so that an answer that was lost is found again
//! and no second id is given. The file `quarantine` goes last, so that `run` refuses until everything is in place. Nothing
//! that was doubted is deleted: it stands in `quarantined-T/`, T being the time of the quarantine.
//!
//! **It refuses** to ask while a master runs on the folder, when there is no other master, and when no doubt was noted.

use super::{FOUNDING_FILE, FoundingError, accept};
use crate::config::Config;
use crate::mesh::Mesh;
use crate::mesh::message::{Channel, Granted, RejoinRequest, Request, Response};
use crate::pki::credentials::{self, CredentialsError, DIRECTORY_FILE, MASTER_FILE};
use crate::pki::{Credentials, PkiError, tls};
use crate::quarantine::{QUARANTINE_FILE, Quarantine};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use saltern_wire::api::{Failure, FailureCode, JoinGrant};
use saltern_wire::crypto::Identity;
use saltern_wire::io::{Clock, Disk, Entropy, draw};
use saltern_wire::master::MasterRecord;
use saltern_wire::{LogicalTime, MasterId};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long the peers may take: two proposals with their own timeout, and the way there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);

/// What is moved aside, if it is there. The file `quarantine` follows last.
const DOUBTED: [&str; 6] = ["log", "state", "snapshots", "mark", FOUNDING_FILE, DIRECTORY_FILE];

/// The fresh key, before there is a certificate for it.
const FRESH_KEY_FILE: &str = "fresh.key";

/// What is about to come into place.
const NEXT_FOLDER: &str = "next";

/// Longest public file that is copied, in bytes.
const PUBLIC_BYTES_MAX: u64 = 1024 * 1024;

/// Why a master did not rejoin. What was moved so far stays moved; the same command goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// Nobody doubts this folder.
    #[error(
        "{folder} is not quarantined: `saltern-master check` verifies it, and `--force` gives this master a fresh id all \
         the same; what it holds now would be moved aside"
    )]
    NotQuarantined {
        /// The data folder.
        folder: PathBuf,
    },
    /// The files that prove who this master was are not there or damaged.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The credentials of the grant could not be used.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The directory of masters at hand is not valid.
    #[error("the directory of masters in {folder} is not valid: {cause}")]
    Directory {
        /// The data folder.
        folder: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// There is nobody to rejoin from.
    #[error(
        "{name} is the only master that its directory names: there is no other copy to come back from. Restore a backup, or \
         found a new cluster in another folder; {folder} stays as it is"
    )]
    Alone {
        /// This master.
        name: String,
        /// The data folder.
        folder: PathBuf,
    },
    /// No other master answered. One line a master.
    #[error("no other master could be asked: {}; see that one of them runs and is reachable, then try again \
         (a master that was removed from its cluster joins again with a token)", .0.join("; "))]
    Unreached(Vec<String>),
    /// A master said no.
    #[error("{master} refused: {failure}")]
    Refused {
        /// Which master.
        master: String,
        /// What it said.
        failure: Failure,
    },
    /// A grant contradicts what this master knows.
    #[error("{master} sent a grant that cannot be used: {cause}")]
    Grant {
        /// Which master.
        master: String,
        /// What is wrong with it.
        cause: String,
    },
    /// A file cannot be written or moved.
    #[error("{path}: {source}; make room or mend the permissions, then run the same command again")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RejoinError {
    /// sysexits.h: 64 if there is nothing to do, 69 if nobody answered or there is nobody, 74 for the disk, 75 if it may work
    /// later, 78 for a folder that cannot be used.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotQuarantined { .. } => 64,
            Self::Alone { .. } | Self::Unreached(_) => 69,
            Self::Refused { failure, .. } => failure.code.exit_code(),
            Self::Grant { .. } | Self::Pki(_) => 70,
            Self::File { .. } => 74,
            Self::Credentials(_) | Self::Founding(_) | Self::Directory { .. } => 78,
        }
    }
}

/// What was done. Its `Display` is what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejoined {
    /// Its fresh id.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// Who gave it; `None` if an earlier run of the command had been given it.
    pub granted_by: Option<String>,
    /// Where everything that was doubted is now.
    pub aside: PathBuf,
    /// What was found.
    pub cause: String,
}

impl fmt::Display for Rejoined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "quarantined for {}", self.cause)?;
        writeln!(f, "moved aside     {}", self.aside.display())?;
        let by = self.granted_by.as_deref().unwrap_or("an earlier run of this command");
        writeln!(f, "granted by      {by}")?;
        writeln!(f, "master          {} is {} from now on", self.name, self.master)?;
        writeln!(f)?;
        writeln!(f, "Start it with the same configuration; it catches up and then votes:")?;
        write!(f, "    saltern-master run")
    }
}

/// Brings the master of this folder back under a fresh id. `force`: although nobody doubts its data.
pub async fn rejoin(
    config: &Config,
    force: bool,
    disk: &dyn Disk,
    entropy: &dyn Entropy,
    clock: &dyn Clock,
) -> Result<Rejoined, RejoinError> {
    let folder = &config.data_dir;
    let quarantine = doubt(folder, force, disk, clock)?;
    let aside = folder.join(format!("quarantined-{}", file_name_of(quarantine.since)));
    let next = aside.join(NEXT_FOLDER);
    disk.make_folder(&next).map_err(at(&next))?;
    let (fresh, granted_by) = match Credentials::load(disk, &next) {
        Ok(fresh) => (fresh, None),
        Err(CredentialsError::Absent { .. }) => {
            let (fresh, by) = obtain(config, &next, disk, entropy).await?;
            (fresh, Some(by))
        }
        Err(error) => return Err(error.into()),
    };
    settle(folder, &aside, &fresh, disk)?;
    Ok(Rejoined { master: fresh.master, name: fresh.name, granted_by, aside, cause: quarantine.cause })
}

/// Why the folder is doubted. With `force` an operator's word is enough; it is noted before anything else.
fn doubt(folder: &Path, force: bool, disk: &dyn Disk, clock: &dyn Clock) -> Result<Quarantine, RejoinError> {
    let path = folder.join(QUARANTINE_FILE);
    let cause = match Quarantine::read(disk, folder).map_err(at(&path))? {
        Some(quarantine) if quarantine.since != LogicalTime::ZERO => return Ok(quarantine),
        // The file itself is damaged. Written anew it has a time, after which the folder aside is named.
        Some(damaged) => damaged.cause,
        None if force => "an operator's wish (--force)".into(),
        None => return Err(RejoinError::NotQuarantined { folder: folder.into() }),
    };
    let credentials = Credentials::load(disk, folder)?;
    let since = LogicalTime::from_unix_micros(clock.wall_unix_micros());
    let quarantine = Quarantine { master: credentials.master, name: credentials.name, cause, since };
    quarantine.replace(disk, folder).map_err(at(&path))?;
    Ok(quarantine)
}

/// A time as part of a folder's name.
fn file_name_of(time: LogicalTime) -> String {
    time.to_string().chars().filter(|letter| letter.is_ascii_alphanumeric() || *letter == '.').collect()
}

/// Asks every peer for a grant, and keeps what the first one gives in `next`.
async fn obtain(
    config: &Config,
    next: &Path,
    disk: &dyn Disk,
    entropy: &dyn Entropy,
) -> Result<(Credentials, String), RejoinError> {
    let folder = &config.data_dir;
    let old = Credentials::load(disk, folder)?;
    let invalid = |cause: String| RejoinError::Directory { folder: folder.clone(), cause };
    let directory = old.directory.verify(&old.ca).map_err(|error| invalid(error.to_string()))?.into_inner();
    let peers: Vec<&MasterRecord> = directory.masters.iter().filter(|master| master.id != old.master).collect();
    if peers.is_empty() {
        return Err(RejoinError::Alone { name: old.name, folder: folder.clone() });
    }
    let identity = match credentials::kept_identity(disk, next, FRESH_KEY_FILE)? {
        Some(identity) => identity,
        None => {
            let identity = Identity::from_seed(*Zeroizing::new(draw(entropy)));
            let path = next.join(FRESH_KEY_FILE);
            credentials::keep_identity(disk, &path, &identity).map_err(at(&path))?;
            identity
        }
    };
    let request = RejoinRequest {
        name: config.id.clone(),
        public_key: identity.public_key(),
        endpoints: config.endpoints(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        level: saltern_wire::level::LEVEL,
    };
    let mesh = Mesh::new(Arc::new(tls::mesh(&old)?.from_interface(config.interface)));
    mesh.learn(&directory);
    let (grant, by) = ask_all(&mesh, &peers, request).await?;
    let unusable = |cause: String| RejoinError::Grant { master: by.clone(), cause };
    let fresh = accept(config, identity, grant, old.ca.fingerprint()).map_err(unusable)?;
    if fresh.cluster != old.cluster || directory.master(fresh.master).is_some() {
        return Err(unusable(format!("master {} of cluster {}", fresh.master, fresh.cluster)));
    }
    fresh.store(disk, next)?;
    Ok((fresh, by))
}

/// Asks all peers at once and takes the first grant: the truth gives one key one id, whoever is asked. Without a grant, what
/// a master said counts more than that another one was silent.
async fn ask_all(
    mesh: &Arc<Mesh>,
    peers: &[&MasterRecord],
    request: RejoinRequest,
) -> Result<(JoinGrant, String), RejoinError> {
    let request = Request::Rejoin(Box::new(request));
    let ask = async |peer: &MasterRecord| {
        let asked = mesh.ask(peer.id, Channel::Work, &request, ANSWER_TIMEOUT).await;
        (format!("{} ({})", peer.name, peer.endpoints.mesh), asked)
    };
    let mut answers: FuturesUnordered<_> = peers.iter().map(|peer| ask(peer)).collect();
    let (mut unreached, mut refused) = (Vec::new(), None);
    while let Some((master, answer)) = answers.next().await {
        match answer {
            Ok(Response::Rejoined(Ok(Granted(grant)))) => return Ok((*grant, master)),
            Ok(Response::Rejoined(Err(failure))) => {
                let later = |failure: &Failure| failure.code.exit_code() == FailureCode::NoQuorum.exit_code();
                // A master that decides speaks for the cluster; one without a quorum only for itself.
                if refused.as_ref().is_none_or(|(_, held)| later(held)) {
                    refused = Some((master, failure));
                }
            }
            Ok(Response::Failed(cause)) => unreached.push(format!("{master}: {cause}")),
            Ok(_) => {
                unreached.push(format!("{master}: it answered with something else; do all masters run one version?"))
            }
            Err(error) => unreached.push(format!("{master}: {error}")),
        }
    }
    match refused {
        Some((master, failure)) => Err(RejoinError::Refused { master, failure }),
        None => Err(RejoinError::Unreached(unreached)),
    }
}

/// Moves what was doubted aside and puts the fresh credentials in place.
fn settle(folder: &Path, aside: &Path, fresh: &Credentials, disk: &dyn Disk) -> Result<(), RejoinError> {
    for name in DOUBTED {
        shift(&folder.join(name), &aside.join(name))?;
    }
    // Who it was, for whoever looks into the old data. The old key is not kept: no master listens to it any more.
    let (held, copy) = (folder.join(MASTER_FILE), aside.join(MASTER_FILE));
    if !copy.exists()
        && let Some(public) = disk.read(&held, PUBLIC_BYTES_MAX).map_err(at(&held))?
    {
        disk.replace(&copy, &public).map_err(at(&copy))?;
    }
    fresh.store(disk, folder)?;
    shift(&folder.join(QUARANTINE_FILE), &aside.join(QUARANTINE_FILE))?;
    let next = aside.join(NEXT_FOLDER);
    // What is left of it after a crash holds nothing that the folder does not hold.
    std::fs::remove_dir_all(&next).map_err(at(&next))
}

/// Renames durably; harmless if it was done before.
fn shift(from: &Path, to: &Path) -> Result<(), RejoinError> {
    match std::fs::rename(from, to) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(from)(error)),
    }
    for path in [to, from] {
        let parent = path.parent().unwrap_or(path);
        std::fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(at(parent))?;
    }
    Ok(())
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> RejoinError {
    let path = path.to_path_buf();
    move |source| RejoinError::File { path: path.clone(), source }
}
