//! The minion's end of a session: opens it over a link and refuses every master that does not prove itself.

use crate::channel::{MessageReceiver, MessageSender, SessionError};
use saltern_wire::MinionId;
use saltern_wire::crypto::handshake::{Expectation, Initiator};
use saltern_wire::crypto::{Identity, PublicKey, Verified};
use saltern_wire::io::{Entropy, Link, TransportError};
use saltern_wire::master::Certificate;
use saltern_wire::session::{ToMaster, ToMinion};
use saltern_wire::slot::{Slot, Ticket};
use std::time::Duration;

/// Sends to the master.
pub type SessionSender = MessageSender<ToMaster>;

/// Receives from the master.
pub type SessionReceiver = MessageReceiver<ToMinion>;

/// Who a minion is, and whom it trusts.
#[derive(Debug, Clone)]
pub struct MinionCredentials {
    /// Its key.
    pub identity: Identity,
    /// Its id.
    pub minion: MinionId,
    /// What it demands of a master.
    pub expectation: Expectation,
}

/// An open session with a proven master. Dropping both halves closes it.
pub struct Session {
    /// The master's certificate, checked.
    pub certificate: Verified<Certificate>,
    /// The cluster CA; its fingerprint is the pinned one.
    pub ca: PublicKey,
    /// Sends to the master.
    pub sender: SessionSender,
    /// Receives from the master.
    pub receiver: SessionReceiver,
}

impl Session {
    /// Opens a session over `link` within `timeout`.
    pub async fn open(
        link: Link,
        credentials: &MinionCredentials,
        entropy: &dyn Entropy,
        timeout: Duration,
    ) -> Result<Self, SessionError> {
        Self::open_at_slot(link, credentials, None, entropy, timeout).await
    }

    /// As [`Session::open`], with the ticket that this master gave before, if it did. Ends with [`SessionError::Slot`] when
    /// the master has a queue.
    pub async fn open_at_slot(
        link: Link,
        credentials: &MinionCredentials,
        ticket: Option<Ticket>,
        entropy: &dyn Entropy,
        timeout: Duration,
    ) -> Result<Self, SessionError> {
        let peer = link.peer.clone();
        let MinionCredentials { identity, minion, expectation } = credentials.clone();
        let initiator = Initiator::new(identity, minion, expectation, entropy);
        match tokio::time::timeout(timeout, handshake(link, initiator, ticket)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let after_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                Err(TransportError::TimedOut { peer, after_ms }.into())
            }
        }
    }
}

/// The three messages, from the minion's side.
async fn handshake(mut link: Link, mut initiator: Initiator, ticket: Option<Ticket>) -> Result<Session, SessionError> {
    let peer = link.peer;
    let refuse = |source| SessionError::Handshake { peer: peer.clone(), source };
    let hello = match ticket {
        None => initiator.hello(),
        Some(ticket) => initiator.hello_at_slot(ticket),
    };
    let hello = hello.map_err(refuse)?;
    link.sender.send(hello.into()).await?;
    let answer = link.receiver.recv().await?;
    if let Some(slot) = Slot::from_bytes(&answer) {
        return Err(SessionError::Slot { peer, slot });
    }
    let (proof, established) = initiator.handle_answer(&answer).map_err(refuse)?;
    link.sender.send(proof.into()).await?;
    Ok(Session {
        certificate: established.peer.certificate,
        ca: established.peer.ca,
        sender: MessageSender::new(link.sender, established.sender, peer.clone()),
        receiver: MessageReceiver::new(link.receiver, established.receiver, peer),
    })
}
