//! Changing the state secret, without a moment in which it is nowhere, or in the log.
//!
//! ```text
//!   wanted > epoch ─▶ leader draws a secret, keeps it ─▶ every master of the directory keeps it (mesh, mutual TLS, on disk)
//!      ─ a majority of the voters did ─▶ Rotate { epoch + 1, the CA's key sealed with it } is committed: in force
//!      ─ whoever missed it ─▶ asks any other master, which first makes sure that the asker is still one of the cluster
//! ```
//!
//! **Invariants.** A secret is on the disks of a majority of the voters before anything is sealed with it alone, and travels
//! only inside mutual TLS, to masters of the newest directory. Whoever is killed at any step holds what it kept: a rotation
//! that was cut short is begun again by the next sweep, with the same secret if this leader drew one. A master that was removed
//! while a rotation was under way is followed by another rotation (`saltern_store`'s machine raises `wanted` once more).
//!
//! **It does not** take back what a master has read: one that was broken into knew the CA's key. Why: ADR 0012.

use super::majority;
use crate::mesh::message::{Channel, Request, Response};
use crate::pki::ring::Hidden;
use crate::pki::{Authority, Credentials};
use crate::truth::{Lane, Truth};
use saltern_store::command::{Command, SecretCommand};
use saltern_store::view::CertificateAuthority;
use saltern_wire::MasterId;
use saltern_wire::io::draw;
use saltern_wire::master::Directory;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long a master may take to put a secret on its disk.
const KEEP_WITHIN: Duration = Duration::from_secs(3);

/// How long the answer to who is still a member may take.
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);

/// How often a master looks whether it holds the secret in force.
const CURRENT_EVERY: Duration = Duration::from_millis(500);

/// Changes the secret if that is wanted. Call it at the leader.
pub(crate) async fn rotate_if_wanted(truth: &Truth, credentials: &Credentials) -> Result<(), String> {
    let state = Arc::clone(truth.state());
    let held =
        truth.group().machine().disk_work().run(move || state.secrets()).await.map_err(|error| error.to_string())?;
    let held = held.map_err(|error| error.to_string())?;
    if held.wanted <= held.epoch {
        return Ok(());
    }
    truth.confirm(CONFIRM_WITHIN).await.map_err(|error| error.to_string())?;
    let held = truth.state().secrets().map_err(|error| error.to_string())?;
    let (Some(ca), Some(directory)) = (truth.state().ca(), directory(truth)) else { return Ok(()) };
    if held.wanted <= held.epoch {
        return Ok(());
    }
    let authority = Authority::open(credentials, &ca).map_err(|error| error.to_string())?;
    let epoch = held.epoch + 1;
    let secret = credentials.ring.candidate(epoch).unwrap_or_else(|| Zeroizing::new(draw(&**truth.entropy())));
    keep(truth, credentials, epoch, &secret).await?;
    let keepers = hand_out(truth, &directory, epoch, &secret).await;
    let voters = truth.group().leader_state().voters;
    let (held_by, need) = (voters.intersection(&keepers).count(), majority(voters.len()));
    if held_by < need {
        return Err(format!(
            "the new state secret is on the disks of {held_by} of {} voters, {need} are needed",
            voters.len()
        ));
    }
    let ca_sealed = authority.seal(&secret, &**truth.entropy());
    let command = Command::Secret(SecretCommand::Rotate { epoch, ca_sealed });
    let committed = truth.propose(Lane::Control, command, None).await.map_err(|error| error.to_string())?;
    committed.applied.map_err(|refused| refused.to_string())?;
    tracing::info!(epoch, masters = keepers.len(), "a new state secret is in force");
    Ok(())
}

/// Gives the secret to every other master of the directory; answers who keeps it, this master included.
async fn hand_out(
    truth: &Truth,
    directory: &Directory,
    epoch: u64,
    secret: &Zeroizing<[u8; 32]>,
) -> BTreeSet<MasterId> {
    let request = Request::KeepSecret { epoch, secret: Hidden(secret.clone()) };
    let others = directory.masters.iter().map(|master| master.id).filter(|id| *id != truth.id());
    let asked = others.map(async |id| {
        let kept = truth.mesh().ask(id, Channel::Work, &request, KEEP_WITHIN).await;
        matches!(kept, Ok(Response::Done)).then_some(id)
    });
    let kept = futures::future::join_all(asked).await;
    kept.into_iter().flatten().chain([truth.id()]).collect()
}

/// Puts a secret on this master's disk.
pub(crate) async fn keep(
    truth: &Truth,
    credentials: &Credentials,
    epoch: u64,
    secret: &Zeroizing<[u8; 32]>,
) -> Result<(), String> {
    let (ring, secret) = (Arc::clone(&credentials.ring), secret.clone());
    let kept = truth.group().machine().disk_work().run(move || ring.keep(epoch, &secret)).await;
    kept.and_then(|kept| kept).map_err(|error| format!("a state secret cannot be kept on disk: {error}"))
}

/// The secret in force, for `asker`, if the newest directory names it.
pub(crate) async fn give(truth: &Truth, credentials: &Credentials, asker: MasterId) -> Option<(u64, Hidden)> {
    truth.confirm(CONFIRM_WITHIN).await.ok()?;
    directory(truth)?.master(asker)?;
    let epoch = truth.state().secrets().ok()?.epoch;
    let secret = credentials.ring.in_force(&truth.state().ca()?)?;
    Some((epoch, Hidden(secret)))
}

/// Looks for ever whether this master holds the secret in force, and asks for it if not.
pub(crate) async fn keep_current(truth: Truth, credentials: Arc<Credentials>) {
    let mut settled: Option<Vec<u8>> = None;
    loop {
        tokio::time::sleep(CURRENT_EVERY).await;
        let Some((ca, epoch)) = read_off(&truth).await else { continue };
        if settled.as_ref() == Some(&ca.sealed) {
            continue;
        }
        truth.handle_secret(None);
        match credentials.ring.in_force(&ca) {
            Some(secret) => {
                let ring = Arc::clone(&credentials.ring);
                let noted = truth.group().machine().disk_work().run(move || ring.note_in_force(&secret)).await;
                match noted.and_then(|noted| noted) {
                    Ok(()) => {
                        truth.handle_secret(Some(epoch));
                        settled = Some(ca.sealed);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the state secret in force is not noted on disk; trying again")
                    }
                }
            }
            None => ask_all(&truth, &credentials).await,
        }
    }
}

/// The CA and the number of the secret that seals it, read where waiting for the tables keeps nobody else waiting.
async fn read_off(truth: &Truth) -> Option<(CertificateAuthority, u64)> {
    let state = Arc::clone(truth.state());
    let read = move || Some((state.ca()?, state.secrets().ok()?.epoch));
    truth.group().machine().disk_work().run(read).await.ok().flatten()
}

/// Asks the other masters for the secret in force, until one gives one that opens the CA's key.
async fn ask_all(truth: &Truth, credentials: &Credentials) {
    for other in truth.mesh().listed().into_iter().filter(|id| *id != truth.id()) {
        let answer = truth.mesh().ask(other, Channel::Work, &Request::StateSecret, CONFIRM_WITHIN * 2).await;
        let Ok(Response::StateSecret(Some((epoch, secret)))) = answer else { continue };
        if let Err(cause) = keep(truth, credentials, epoch, &secret.0).await {
            return tracing::warn!(cause, "trying again");
        }
        if truth.state().ca().is_some_and(|ca| credentials.ring.in_force(&ca).is_some()) {
            return tracing::info!(from = %other, epoch, "was given the state secret in force");
        }
    }
}

fn directory(truth: &Truth) -> Option<Directory> {
    truth.state().directory()?.peek().ok()
}
