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
    /// Clusters that this one was restored from, the latest one first. Minions of one of them follow this directory if its
    /// generation is higher than theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub succeeds: Vec<ClusterId>,
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

    /// Whether this directory replaces `other` on a minion that holds it: it is a newer one of the same cluster, or the one
    /// of a cluster that was restored from it. A cluster is left for its successor only, and only for a higher generation, so
    /// that nobody is ever led back.
    pub fn replaces(&self, other: &Self) -> bool {
        if self.cluster == other.cluster {
            return (self.generation, self.version) > (other.generation, other.version);
        }
        self.succeeds.contains(&other.cluster) && self.generation > other.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(cluster: u8, generation: u64, version: u64, succeeds: &[u8]) -> Directory {
        let id = |byte: &u8| ClusterId::from_bytes([*byte; 16]);
        Directory {
            cluster: id(&cluster),
            generation,
            version,
            masters: vec![],
            succeeds: succeeds.iter().map(id).collect(),
        }
    }

    #[test]
    fn a_minion_follows_a_successor_and_is_never_led_back() {
        let old = directory(1, 3, 9, &[]);
        for (new, follows) in [
            (directory(1, 3, 10, &[]), true),
            (directory(1, 4, 1, &[]), true),
            (directory(1, 3, 9, &[]), false),
            (directory(1, 2, 99, &[]), false),
            (directory(2, 4, 1, &[1]), true),
            (directory(3, 5, 1, &[2, 1]), true),
            (directory(2, 3, 99, &[1]), false),
            (directory(2, 4, 1, &[]), false),
            (directory(2, 4, 1, &[3]), false),
        ] {
            assert_eq!(new.replaces(&old), follows, "{new:?}");
            assert!(!follows || !old.replaces(&new), "led back from {new:?}");
        }
    }

    #[test]
    fn a_directory_without_a_past_reads_and_writes_as_it_always_did() {
        let bytes = crate::encode(&directory(1, 3, 9, &[]));
        assert!(!bytes.windows(8).any(|window| window == b"succeeds"));
        assert_eq!(crate::decode::<Directory>(&bytes), Ok(directory(1, 3, 9, &[])));
        let bytes = crate::encode(&directory(2, 4, 1, &[1]));
        assert_eq!(crate::decode::<Directory>(&bytes), Ok(directory(2, 4, 1, &[1])));
    }
}
