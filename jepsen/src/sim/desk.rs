//! The desk of one simulated master: where the operators, who stand outside the simulated network, hand in what they want.
//!
//! ```text
//!   operator ── Ask ──▶ Desk ──▶ a task on the master's machine ──▶ the same calls that its API makes
//!            ◀─ Told ──            gone with the machine when it crashes: then nobody is told
//! ```

use saltern_cluster::founding::grant::{create_token, issue_join};
use saltern_cluster::founding::token;
use saltern_cluster::http::Refusal;
use saltern_cluster::node::Node;
use saltern_cluster::truth::{Lane, ProposeError, Truth};
use saltern_store::command::{Command, KeyCommand};
use saltern_wire::api::{Failure, FailureCode, JoinGrant, JoinRequest, JoinTokenRequest, Submit};
use saltern_wire::{JobId, MinionId, RequestId, Revision};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use tokio::sync::Notify;

/// How long a join token lives: longer than the beginning of any simulation.
const TOKEN_TTL_MS: u64 = 600_000;

/// Something that an operator wants.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A join token, and at once a join with it.
    Join {
        /// Who joins; its secret is filled in from the token.
        joiner: Box<JoinRequest>,
        /// Names the token.
        request: RequestId,
    },
    /// Accept the key of a minion.
    AcceptKey {
        /// Which.
        minion: MinionId,
        /// Names the write.
        request: RequestId,
    },
    /// Open a job.
    Submit {
        /// The job.
        submit: Box<Submit>,
        /// Who asks.
        user: String,
        /// Names the write.
        request: RequestId,
    },
}

/// What an operator is told.
#[derive(Debug, Clone)]
pub enum Told {
    /// The joiner's papers.
    Joined(Box<JoinGrant>),
    /// It is written; a job has a name.
    Written(Revision, Option<JobId>),
    /// It is not, or nobody knows.
    Failed(Failure),
}

/// One answer that is waited for.
pub type Ticket = u64;

/// Asks and answers of one boot of one master.
#[derive(Default)]
pub struct Desk {
    inner: RefCell<Inner>,
    rung: Notify,
}

#[derive(Default)]
struct Inner {
    next: Ticket,
    asks: VecDeque<(Ticket, Ask)>,
    answers: BTreeMap<Ticket, Told>,
}

impl Desk {
    /// Hands something in.
    pub fn ask(&self, ask: Ask) -> Ticket {
        let mut inner = self.inner.borrow_mut();
        inner.next += 1;
        let ticket = inner.next;
        inner.asks.push_back((ticket, ask));
        self.rung.notify_one();
        ticket
    }

    /// The answer, if there is one by now.
    pub fn answer(&self, ticket: Ticket) -> Option<Told> {
        self.inner.borrow_mut().answers.remove(&ticket)
    }

    async fn next(&self) -> (Ticket, Ask) {
        loop {
            if let Some(asked) = self.inner.borrow_mut().asks.pop_front() {
                return asked;
            }
            self.rung.notified().await;
        }
    }
}

/// Serves a desk for as long as its machine runs.
pub async fn serve(desk: Rc<Desk>, node: Rc<Node>) {
    loop {
        let (ticket, ask) = desk.next().await;
        let (desk, node) = (Rc::clone(&desk), Rc::clone(&node));
        tokio::task::spawn_local(async move {
            let told = answer(&node, ask).await.unwrap_or_else(Told::Failed);
            desk.inner.borrow_mut().answers.insert(ticket, told);
        });
    }
}

async fn answer(node: &Node, ask: Ask) -> Result<Told, Failure> {
    match ask {
        Ask::Join { mut joiner, request } => {
            let wanted = JoinTokenRequest { ttl_ms: TOKEN_TTL_MS, uses: 1 };
            let (view, _) = create_token(&node.truth, &node.credentials, &wanted, request).await.map_err(failure)?;
            let token = token::read(&view.token)
                .map_err(|error| Failure::new(FailureCode::Internal, format!("its own token: {error}")))?;
            joiner.secret = token.secret;
            let mut name = *request.as_bytes();
            name[0] ^= 0xff;
            let (grant, _) = issue_join(&node.truth, &node.credentials, &joiner, RequestId::from_bytes(name))
                .await
                .map_err(failure)?;
            Ok(Told::Joined(Box::new(grant)))
        }
        Ask::AcceptKey { minion, request } => accept_key(&node.truth, minion, request).await,
        Ask::Submit { submit, user, request } => {
            let (submitted, revision) = node.jobs.submit(*submit, &user, request).await?;
            Ok(Told::Written(revision, Some(submitted.jid)))
        }
    }
}

fn failure(refusal: Refusal) -> Failure {
    refusal.0
}

async fn accept_key(truth: &Truth, minion: MinionId, request: RequestId) -> Result<Told, Failure> {
    let Some(key) = truth.state().key(&minion) else {
        return Err(Failure::new(FailureCode::NotFound, format!("{minion} has shown no key")));
    };
    let command = KeyCommand::Accept { keys: vec![(minion, key.fingerprint())], by: "operator".into() };
    let committed = truth.propose(Lane::Control, Command::Key(command), Some(request)).await.map_err(proposed)?;
    match committed.applied {
        Ok(_) => Ok(Told::Written(committed.revision, None)),
        Err(refused) => Err(Failure::new(FailureCode::Conflict, refused.to_string())),
    }
}

fn proposed(error: ProposeError) -> Failure {
    let code = match &error {
        ProposeError::NoQuorum => FailureCode::NoQuorum,
        ProposeError::Unknown | ProposeError::Stopped => FailureCode::Unknown,
        ProposeError::Busy | ProposeError::NoRoom(_) => FailureCode::Busy,
    };
    Failure::new(code, error.to_string())
}
