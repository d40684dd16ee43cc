//! What a master answers to other masters: one place that sends each question to whoever knows.

use crate::founding::grant;
use crate::membership::{change, secrets, wiped};
use crate::mesh::message::{Granted, Request, Response};
use crate::mesh::server::{MeshService, Unfit};
use crate::pki::Credentials;
use crate::presence::Presence;
use crate::raft::service::RaftService;
use crate::truth::{Lane, Truth};
use crate::witness::{Queue, Reason};
use saltern_wire::MasterId;
use saltern_wire::io::Link;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

/// Answers for one master. The truth and presence arrive a little later than the mesh: they stand on it.
pub struct MasterService {
    raft: Arc<RaftService>,
    /// Masters of the newest directory. They and the members of the group may speak to this one.
    admitted: RwLock<BTreeSet<MasterId>>,
    above: OnceLock<Above>,
}

/// What stands on the mesh, and answers most of what comes over it.
struct Above {
    truth: Truth,
    presence: Presence,
    credentials: Arc<Credentials>,
}

impl MasterService {
    /// Serves Raft only, until [`MasterService::complete`].
    pub fn new(raft: Arc<RaftService>) -> Self {
        Self { raft, admitted: RwLock::default(), above: OnceLock::new() }
    }

    /// Serves everything from now on.
    pub fn complete(&self, truth: Truth, presence: Presence, credentials: Arc<Credentials>) {
        // A second completion would be the same truth: there is one a process.
        let _ = self.above.set(Above { truth, presence, credentials });
    }

    /// Takes a new directory: whoever is neither in it nor in the group is refused from now on.
    pub fn admit(&self, masters: BTreeSet<MasterId>) {
        *self.admitted.write().unwrap_or_else(PoisonError::into_inner) = masters;
    }
}

#[async_trait::async_trait]
impl MeshService for MasterService {
    fn admits(&self, master: MasterId) -> bool {
        self.raft.is_member(master) || self.admitted.read().unwrap_or_else(PoisonError::into_inner).contains(&master)
    }

    fn hears_out(&self, master: MasterId) -> bool {
        let Some(above) = self.above.get() else { return false };
        let masters = above.truth.state().masters().unwrap_or_default();
        masters.iter().any(|joined| joined.replaces == Some(master))
    }

    async fn answer(&self, from: MasterId, request: Request) -> Response {
        // Asked again for every message: a link may be older than the directory that took its master out.
        if !self.admits(from) && !matches!(request, Request::Rejoin(_)) {
            tracing::warn!(%from, "refused a message of a master that is not in the directory any more");
            return self
                .expelled(from)
                .unwrap_or_else(|| Response::Failed("you are not in the directory of masters".into()));
        }
        if let Request::Raft(call) = request {
            return self.raft.answer(from, call).await;
        }
        let Some(Above { truth, presence, credentials }) = self.above.get() else {
            return Response::Failed("this master is starting".into());
        };
        match request {
            Request::Raft(call) => self.raft.answer(from, call).await,
            Request::Propose { proposal, bulk, deadline_ms } => {
                let lane = if bulk { Lane::Bulk } else { Lane::Control };
                let within = Duration::from_millis(deadline_ms);
                Response::Proposed(truth.propose_here(*proposal, lane, within).await)
            }
            Request::ReadIndex => Response::ReadIndex(truth.read_index_here().await),
            Request::Probe => Response::Probe {
                wall_unix_micros: truth.clock().wall_unix_micros(),
                sessions: presence.sessions_of(truth.id()).unwrap_or(0),
                version: env!("CARGO_PKG_VERSION").into(),
                applied: truth.revision(),
                time: truth.group().leader_state().is_self.then(|| truth.now()),
                room: Some(Box::new(truth.space().room())),
                level: saltern_wire::level::LEVEL,
                checks: truth.own_checks(),
                ways: truth.ways().own(),
                runs: truth.profile(),
                secret: truth.own_secret(),
            },
            Request::Presence(update) => Response::Presence(presence.handle_update(from, update)),
            Request::Quarantined(cause) => {
                truth.quarantines().handle_told(from, cause, truth.clock().monotonic());
                Response::Done
            }
            Request::Rejoin(request) => {
                let granted = grant::issue_rejoin(truth, credentials, from, &request).await;
                Response::Rejoined(granted.map(|grant| Granted(Box::new(grant))).map_err(|refusal| refusal.0))
            }
            Request::Known { master } => Response::Known(wiped::known(truth, master).await),
            Request::HandOver { to } => Response::HandingOver(change::hand_over_here(truth, to).await),
            Request::KeepSecret { epoch, secret } => match secrets::keep(truth, credentials, epoch, &secret.0).await {
                Ok(()) => Response::Done,
                Err(cause) => Response::Failed(cause),
            },
            Request::StateSecret => Response::StateSecret(secrets::give(truth, credentials, from).await),
        }
    }

    fn expelled(&self, from: MasterId) -> Option<Response> {
        let Above { truth, .. } = self.above.get()?;
        let signed = truth.state().directory()?;
        // One that this master has not heard of yet may be new.
        let named = signed.peek().ok()?.master(from).is_some();
        (!named && !self.raft.is_member(from)).then(|| Response::Expelled(Box::new(signed)))
    }

    async fn replicate(&self, from: MasterId, link: Link) {
        self.raft.replicate(from, link).await;
    }

    fn note_expired(&self) {
        if let Some(Above { truth, .. }) = self.above.get() {
            truth.witness().expire(Queue::Mesh);
        }
    }

    fn note_refused(&self, from: MasterId, why: Unfit) {
        let reason = match why {
            Unfit::Stranger => Reason::MeshStranger,
            Unfit::Malformed => Reason::MeshMalformed,
        };
        if let Some(Above { truth, .. }) = self.above.get() {
            truth.witness().refuse_of(reason, &format!("master {from}"));
        }
    }
}
