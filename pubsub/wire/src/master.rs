//! The masters of a cluster: their certificates, and the signed directory that minions obey.

use crate::codec::Encoded;
use crate::crypto::identity::Statement;
use crate::crypto::{PublicKey, Signed};
use crate::id::{ClusterId, MasterId};
use crate::io::Address;
use serde::{Deserialize, Serialize};

/// Says that a key belongs to a master of a cluster; signed by the cluster CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Which master.
    pub master: MasterId,
    /// Its name, for people.
    pub name: String,
    /// Its identity.
    pub public_key: PublicKey,
    /// The cluster's generation when it was issued.
    pub generation: u64,
}

impl Encoded for Certificate {
    const KIND: u8 = 20;
}

impl Statement for Certificate {
    const CONTEXT: &'static str = "saltern master certificate";
}

/// Where a master is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The fan-out, by default port 4505.
    pub fanout: Address,
    /// Sessions, by default port 4506.
    pub session: Address,
    /// Other masters, by default port 4510.
    pub mesh: Address,
    /// Operators, by default port 4511.
    pub api: Address,
}

/// Where a master stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MasterState {
    /// Has a certificate and catches up.
    Joining,
    /// Votes (or serves as a learner), publishes and takes sessions.
    Active,
    /// Gives its minions away.
    Draining,
}

/// One master in the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterRecord {
    /// Its number, never reused.
    pub id: MasterId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where it stands.
    pub state: MasterState,
    /// Where it is reached.
    pub endpoints: Endpoints,
    /// A failure domain of the size of a country.
    pub region: String,
    /// A failure domain of the size of a building.
    pub zone: String,
    /// Its share of minions beside others of its tier; 100 is ordinary.
    pub weight: u32,
    /// Its certificate.
    pub certificate: Signed<Certificate>,
    /// The certified key again, so that readers need not open the certificate each time.
    pub public_key: PublicKey,
}

/// All masters; signed by the cluster CA. Minions keep the newest they have seen and obey only masters in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Rises on restore and recovery, and fences every master of an older one.
    pub generation: u64,
    /// Rises with every change within a generation.
    pub version: u64,
    /// The masters, by id.
    pub masters: Vec<MasterRecord>,
}

impl Encoded for Directory {
    const KIND: u8 = 21;
}

impl Statement for Directory {
    const CONTEXT: &'static str = "saltern directory";
}

impl Directory {
    /// The master with this number.
    pub fn master(&self, id: MasterId) -> Option<&MasterRecord> {
        self.masters.iter().find(|master| master.id == id)
    }

    /// Whether this directory replaces `other` on a minion that holds it.
    pub fn replaces(&self, other: &Self) -> bool {
        self.cluster == other.cluster && (self.generation, self.version) > (other.generation, other.version)
    }
}
