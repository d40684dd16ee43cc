//! A master that comes back under its old id with an empty disk must not vote: it promised, and forgot.
//!
//! ```text
//!   no data in the data folder ─▶ its credentials say it was active, or it has kept a directory ─▶ wiped
//!                             └▶ a joiner, as far as it knows ─▶ asks the leader: was I ever sent anything? ─▶ yes: wiped
//! ```
//!
//! A wiped master is quarantined before it opens a store: it comes back under a fresh id, with `saltern-master rejoin`.
//!
//! **It refuses** to start as a joiner while no leader can be asked: a vote given twice, or a follower that forgot what it
//! acknowledged, costs more than a wait.

use crate::mesh::Mesh;
use crate::mesh::message::{Channel, Request, Response};
use crate::pki::Credentials;
use crate::pki::credentials::DIRECTORY_FILE;
use crate::truth::Truth;
use saltern_store::folder::{LOG, SNAPSHOTS, STATE};
use saltern_wire::MasterId;
use saltern_wire::master::{Directory, MasterState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long one peer may take to ask the leader.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// How long the answer of the leader to a follower that passes the question on may take.
const PASS_WITHIN: Duration = Duration::from_secs(2);

/// Pause before everybody is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What a wiped master is quarantined for.
const CAUSE: &str = "the data folder holds this master's credentials and nothing else, and the cluster counts on what it had \
                     acknowledged";

/// Whether the folder of `credentials` lost what it held; the cause, if so. Asks the cluster only if the folder itself cannot
/// say, and then waits until a leader answers. `founding`: whether the first command of a new cluster waits here.
pub(crate) async fn look(folder: &Path, credentials: &Credentials, mesh: &Arc<Mesh>, founding: bool) -> Option<String> {
    if founding || holds_data(folder) {
        return None;
    }
    let directory = credentials.directory.verify(&credentials.ca).ok()?.into_inner();
    let joins = directory.master(credentials.master).is_some_and(|own| own.state == MasterState::Joining);
    if !joins || folder.join(DIRECTORY_FILE).exists() {
        return Some(CAUSE.into());
    }
    mesh.learn(&directory);
    ask_until_known(&directory, credentials.master, mesh).await.then(|| CAUSE.into())
}

/// Whether there is anything of a log, a state or a snapshot; whether they fit each other is the store's affair.
fn holds_data(folder: &Path) -> bool {
    let holds = |name: &str| std::fs::read_dir(folder.join(name)).is_ok_and(|mut entries| entries.next().is_some());
    [LOG, STATE, SNAPSHOTS].into_iter().any(holds)
}

async fn ask_until_known(directory: &Directory, own: MasterId, mesh: &Arc<Mesh>) -> bool {
    let mut told = false;
    loop {
        for peer in directory.masters.iter().filter(|peer| peer.id != own) {
            let asked = mesh.ask(peer.id, Channel::Work, &Request::Known { master: own }, ASK_WITHIN).await;
            match asked {
                Ok(Response::Known(Some(known))) => return known,
                // It was removed meanwhile, and will hear that as soon as it runs.
                Ok(Response::Expelled(_)) => return false,
                Ok(_) | Err(_) => {}
            }
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("waiting for a leader of the cluster, before this master takes part for the first time");
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Whether the cluster counts on what `master` holds, as the leader knows it.
pub(crate) async fn known(truth: &Truth, master: MasterId) -> Option<bool> {
    let quorum = truth.quorum();
    let leader = quorum.leader.filter(|_| quorum.contact)?;
    if leader != truth.id() {
        return match truth.mesh().ask(leader, Channel::Work, &Request::Known { master }, PASS_WITHIN).await {
            Ok(Response::Known(known)) => known,
            Ok(_) | Err(_) => None,
        };
    }
    truth.confirm(PASS_WITHIN).await.ok()?;
    let directory = truth.state().directory()?.peek().ok()?;
    let group = truth.group().leader_state();
    let was_sent = group.matched.get(&master).copied().flatten().is_some_and(|index| index > 0);
    let serves = directory.master(master).is_some_and(|record| record.state != MasterState::Joining);
    Some(serves || was_sent || group.voters.contains(&master))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_and_an_emptied_one_hold_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!holds_data(folder.path()));
        std::fs::create_dir(folder.path().join("log")).expect("made");
        assert!(!holds_data(folder.path()), "it was emptied");
        std::fs::write(folder.path().join("log").join("CURRENT"), "x").expect("written");
        assert!(holds_data(folder.path()));
    }
}
