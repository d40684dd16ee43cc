//! The cluster itself: its id and CA, masters, settings, counts, first answers by request id.

use crate::command::Applied;
use crate::command::Reply;
use crate::error::StoreError;
use crate::machine;
use crate::state::State;
use crate::table::request::Answer;
use crate::table::{job, master, meta, request};
use saltern_wire::crypto::{PublicKey, Signed};
use saltern_wire::master::Directory;
use saltern_wire::settings::Settings;
use saltern_wire::{ClusterId, LogicalTime, MasterId, Ordinal, RequestId, Revision};

/// The cluster's certificate authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateAuthority {
    /// Its public key.
    pub public_key: PublicKey,
    /// Its secret key, sealed with the state secret.
    pub sealed: Vec<u8>,
    /// Its X.509 certificate.
    pub certificate_pem: String,
}

/// A master with an id, in the directory or on its way into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMaster {
    /// Its id.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// When it was given its id.
    pub joined: LogicalTime,
    /// The master whose place it takes, if that one lost its data.
    pub replaces: Option<MasterId>,
}

/// The state secret's number. The secret itself is never in the truth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The one in force: how often it was changed.
    pub epoch: u64,
    /// The one that is to be in force; above `epoch` while a rotation is due.
    pub wanted: u64,
}

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted minions.
    pub accepted: u64,
    /// Pending keys.
    pub pending: u64,
    /// Open jobs.
    pub open_jobs: u64,
}

impl State {
    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.live().index.settings.clone()
    }

    /// Which cluster; `None` before it was founded.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.live().index.ca.as_ref().map(|ca| ca.cluster)
    }

    /// The cluster's CA; `None` before the cluster was founded.
    pub fn ca(&self) -> Option<CertificateAuthority> {
        let row = self.live().index.ca.clone()?;
        Some(CertificateAuthority {
            public_key: row.public_key,
            sealed: row.sealed,
            certificate_pem: row.certificate_pem,
        })
    }

    /// Which state secret is in force, and which one is wanted.
    pub fn secrets(&self) -> Result<Secrets, StoreError> {
        self.reading(|live| {
            let row = meta::secrets(&live.kv)?;
            Ok(Secrets { epoch: row.epoch, wanted: row.wanted })
        })
    }

    /// The directory in place, signed by the CA.
    pub fn directory(&self) -> Option<Signed<Directory>> {
        self.live().index.directory.clone()
    }

    /// Masters that were given an id and are still known, by id.
    pub fn masters(&self) -> Result<Vec<JoinedMaster>, StoreError> {
        self.reading(|live| {
            let rows = master::all(&live.kv)?;
            let joined = |(master, row): (MasterId, master::MasterRow)| JoinedMaster {
                master,
                name: row.name,
                public_key: row.public_key,
                joined: row.joined,
                replaces: row.replaces,
            };
            Ok(rows.into_iter().map(joined).collect())
        })
    }

    /// An id that no master has or had, here or in a copy of this truth that went on without this one.
    pub fn fresh_master_id(&self) -> MasterId {
        machine::fresh_id(self.live().index.next_master)
    }

    /// When the join token with this hash ends; `None` if there is no such token, or its uses are spent.
    pub fn token_ends(&self, secret_hash: &[u8; 32]) -> Result<Option<LogicalTime>, StoreError> {
        self.reading(|live| Ok(master::token(&live.kv, secret_hash)?.map(|row| row.expires)))
    }

    /// How many minions, pending keys and open jobs there are.
    pub fn counts(&self) -> Counts {
        let live = self.live();
        Counts {
            accepted: live.index.accepted.len(),
            pending: u64::from(live.index.pending),
            open_jobs: live.index.open.len() as u64,
        }
    }

    /// What the request was answered first, and at which revision; `None` if it was never applied or 24 h have passed.
    pub fn answer_to(&self, request: RequestId) -> Result<Option<(Revision, Applied)>, StoreError> {
        self.reading(|live| {
            let Some(row) = request::get(&live.kv, request)? else { return Ok(None) };
            let applied = match row.answer {
                Answer::Whole(applied) => applied,
                Answer::Opened(jid) => {
                    let expected = job::get(&live.kv, jid)?.map(|row| row.expected).unwrap_or_default();
                    let names = expected.iter().filter_map(|number| live.index.names.get(&Ordinal(number)).cloned());
                    let mut minions: Vec<_> = names.collect();
                    minions.sort_unstable();
                    Ok(Reply::Opened { jid, minions })
                }
            };
            Ok(Some((Revision(row.revision), applied)))
        })
    }

    /// When a tick would next end something (acceptance, retention, keys, tokens, request ids); `None` if nothing ends by
    /// itself. A leader without other work commits a tick once this has passed.
    pub fn next_due(&self) -> Result<Option<LogicalTime>, StoreError> {
        self.reading(|live| machine::next_due(&live.kv, &live.index))
    }
}
