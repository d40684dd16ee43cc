//! Masters and groups for the tests of this folder.

use crate::raft::LeaderState;
use crate::replica::together::certificate;
use saltern_wire::MasterId;
use saltern_wire::io::Address;
use saltern_wire::master::{Directory, Endpoints, MasterRecord, MasterState, Role};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn ids(ids: &[u64]) -> BTreeSet<MasterId> {
    ids.iter().copied().map(MasterId).collect()
}

/// A directory of `voters`, which vote or are to, and `learners`, which are not.
pub(super) fn directory(voters: &[u64], learners: &[u64]) -> Directory {
    let record = |id: u64, role: Role| {
        let at = |port| Address::new(format!("m{id}"), port);
        MasterRecord {
            id: MasterId(id),
            name: format!("m{id}"),
            state: MasterState::Active,
            endpoints: Endpoints { fanout: at(4505), session: at(4506), mesh: at(4510), api: at(4511) },
            region: "eu".into(),
            zone: "a".into(),
            weight: 100,
            certificate: certificate(id),
            public_key: crate::replica::together::master_key(id).public_key(),
            role,
        }
    };
    let voters = voters.iter().map(|id| record(*id, Role::Voter));
    let mut masters: Vec<_> = voters.chain(learners.iter().map(|id| record(*id, Role::Learner))).collect();
    masters.sort_by_key(|master| master.id);
    Directory {
        cluster: crate::replica::together::CLUSTER,
        generation: 1,
        version: 7,
        masters,
        succeeds: vec![],
        retired: vec![],
    }
}

/// A group that master 1 leads and in which everybody has everything.
pub(super) fn group(voters: &[u64], learners: &[u64]) -> LeaderState {
    let matched = voters.iter().chain(learners).map(|id| (MasterId(*id), Some(10_000)));
    LeaderState {
        leader: Some(MasterId(1)),
        is_self: true,
        term: 3,
        quorum_age: None,
        last_log: 10_000,
        applied: 10_000,
        voters: ids(voters),
        learners: ids(learners),
        joint: false,
        matched: matched.collect::<BTreeMap<_, _>>(),
        stopped: None,
    }
}

pub(super) fn set(directory: &mut Directory, id: u64, change: impl Fn(&mut MasterRecord)) {
    directory.masters.iter_mut().filter(|master| master.id == MasterId(id)).for_each(change);
}
