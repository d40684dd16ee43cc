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

/// Which part of the group an operator wants a master to take. The leader brings the group there, as far as there is room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Votes as soon as it has caught up, while there are fewer voters than there may be.
    #[default]
    Voter,
    /// Receives the log, publishes, takes sessions and serves reads; never votes.
    Learner,
}

impl Role {
    /// Whether it is the part that every master takes unless somebody wants otherwise.
    fn is_ordinary(&self) -> bool {
        *self == Self::Voter
    }
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
    /// Which part of the group it is to take.
    #[serde(default, skip_serializing_if = "Role::is_ordinary")]
    pub role: Role,
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
    /// Masters that left: jobs that they took before are run, although nobody takes their word any more. The newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Retired>,
}

/// A master that left, and the key with which it signed the jobs that it had taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its number.
    pub id: MasterId,
    /// Its key.
    pub public_key: PublicKey,
}

/// Retired masters that are remembered. A job waits for a minion for a week at most; who replaces more masters in a week has
/// other worries.
pub const RETIRED_MAX: usize = 16;

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
    /// The key that signed the jobs which the master `id` took, whether or not it is still one. Nothing but a job that the truth
    /// holds may be believed on the word of a retired one.
    pub fn signer(&self, id: MasterId) -> Option<&PublicKey> {
        let retired = || self.retired.iter().find(|retired| retired.id == id).map(|retired| &retired.public_key);
        self.master(id).map(|master| &master.public_key).or_else(retired)
    }

    /// Takes the master `id` out, and remembers its key for the jobs that it had taken.
    pub fn retire(&mut self, id: MasterId) -> Option<MasterRecord> {
        let place = self.masters.iter().position(|master| master.id == id)?;
        let gone = self.masters.remove(place);
        self.retired.push(Retired { id, public_key: gone.public_key });
        let more = self.retired.len().saturating_sub(RETIRED_MAX);
        self.retired.drain(..more);
        Some(gone)
    }

    /// Whether this directory replaces `other` on a minion that holds it.
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
    use crate::crypto::Identity;

    fn directory(cluster: u8, generation: u64, version: u64, succeeds: &[u8]) -> Directory {
        let id = |byte: &u8| ClusterId::from_bytes([*byte; 16]);
        Directory {
            cluster: id(&cluster),
            generation,
            version,
            masters: vec![],
            succeeds: succeeds.iter().map(id).collect(),
            retired: vec![],
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
        assert!(!bytes.windows(7).any(|window| window == b"retired"));
        assert_eq!(crate::decode::<Directory>(&bytes), Ok(directory(1, 3, 9, &[])));
        let bytes = crate::encode(&directory(2, 4, 1, &[1]));
        assert_eq!(crate::decode::<Directory>(&bytes), Ok(directory(2, 4, 1, &[1])));
    }

    fn record(id: u64) -> MasterRecord {
        let identity = Identity::from_seed([u8::try_from(id).unwrap_or(u8::MAX); 32]);
        let (public_key, cluster) = (identity.public_key(), ClusterId::from_bytes([1; 16]));
        let certificate =
            Certificate { cluster, master: MasterId(id), name: format!("m{id}"), public_key, generation: 1 };
        let at = |port| Address::new("127.0.0.1", port);
        MasterRecord {
            id: MasterId(id),
            name: format!("m{id}"),
            state: MasterState::Active,
            endpoints: Endpoints { fanout: at(4505), session: at(4506), mesh: at(4510), api: at(4511) },
            region: "eu".into(),
            zone: "a".into(),
            weight: 100,
            certificate: Signed::new(&certificate, &identity),
            public_key,
            role: Role::Voter,
        }
    }

    #[test]
    fn a_master_that_left_is_known_for_the_jobs_that_it_took_and_for_nothing_else() {
        let masters = vec![record(1), record(2)];
        let mut directory = Directory { masters, ..directory(1, 1, 1, &[]) };
        let key = record(2).public_key;
        assert_eq!(directory.retire(MasterId(2)).map(|gone| gone.name), Some("m2".into()));
        assert_eq!((directory.master(MasterId(2)), directory.signer(MasterId(2))), (None, Some(&key)));
        assert_eq!((directory.retire(MasterId(2)), directory.signer(MasterId(3))), (None, None));
        for id in 3..40 {
            directory.masters.push(record(id));
            directory.retire(MasterId(id));
        }
        assert_eq!(
            (directory.retired.len(), directory.signer(MasterId(2))),
            (RETIRED_MAX, None),
            "bounded, the oldest goes"
        );
    }
}
