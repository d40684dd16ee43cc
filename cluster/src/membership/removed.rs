//! A master that starts although its own directory does not name it.
//!
//! It was removed. Perhaps the group has not let it go yet, and needs its vote to do so: with two voters, the one that leaves is
//! half of the majority that decides it. So it asks the others first. Whoever still takes it for a member lets it start; whoever
//! does not shows the directory that says so, and it ends. A running master hears the same by its probes
//! ([`crate::truth::Truth::handle_shown`]).

use crate::mesh::Mesh;
use crate::mesh::message::{Channel, Request, Response};
use crate::pki::Credentials;
use saltern_wire::master::Directory;
use std::sync::Arc;
use std::time::Duration;

/// How long one peer may take.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// Pause before everybody is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The directory by which this master was removed, if it was and the group has let it go. Asks the others only if the newest
/// directory at hand does not name this master, and then waits until one answers.
pub(crate) async fn look(credentials: &Credentials, mesh: &Arc<Mesh>) -> Option<Directory> {
    let held = credentials.directory.verify(&credentials.ca).ok()?.into_inner();
    if held.master(credentials.master).is_some() {
        return None;
    }
    tracing::warn!(
        "the directory of masters does not name this master: asking the others whether they still count on it"
    );
    mesh.learn(&held);
    loop {
        for peer in &held.masters {
            match mesh.ask(peer.id, Channel::Work, &Request::Probe, ASK_WITHIN).await {
                Ok(Response::Expelled(shown)) => {
                    let shown = shown.verify(&credentials.ca).map(|shown| shown.into_inner());
                    let is_new =
                        |shown: &Directory| !held.replaces(shown) && shown.master(credentials.master).is_none();
                    let newest = shown.ok().filter(is_new);
                    if newest.is_some() {
                        return newest;
                    }
                }
                Ok(_) => return None,
                Err(_) => {}
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
