//! The master's end of a session: proves the master, and learns which minion is there.
//!
//! What comes out is an identity that was proven, not one that is accepted: that is for the truth to say.

use crate::channel::{MessageReceiver, MessageSender, SessionError};
use saltern_wire::MinionId;
use saltern_wire::crypto::handshake::Responder;
use saltern_wire::crypto::{Identity, PublicKey, Signed};
use saltern_wire::io::{Entropy, Link, TransportError};
use saltern_wire::master::Certificate;
use saltern_wire::session::{ToMaster, ToMinion};
use std::time::Duration;

/// Sends to the minion.
pub type ServedSender = MessageSender<ToMinion>;

/// Receives from the minion.
pub type ServedReceiver = MessageReceiver<ToMaster>;

/// Who a master is, and why it may be believed.
#[derive(Debug, Clone)]
pub struct MasterCredentials {
    /// Its key.
    pub identity: Identity,
    /// Says that the key belongs to a master of the cluster.
    pub certificate: Signed<Certificate>,
    /// Whose word that is.
    pub ca: PublicKey,
}

/// An open session with a proven minion. Dropping both halves closes it.
pub struct ServedSession {
    /// The id that the minion claims.
    pub minion: MinionId,
    /// The key that it proved.
    pub public_key: PublicKey,
    /// Sends to the minion.
    pub sender: ServedSender,
    /// Receives from the minion.
    pub receiver: ServedReceiver,
}

impl ServedSession {
    /// Answers a minion's handshake over `link` within `timeout`.
    pub async fn accept(
        link: Link,
        credentials: &MasterCredentials,
        entropy: &dyn Entropy,
        timeout: Duration,
    ) -> Result<Self, SessionError> {
        let peer = link.peer.clone();
        let MasterCredentials { identity, certificate, ca } = credentials.clone();
        let responder = Responder::new(identity, certificate, ca, entropy);
        match tokio::time::timeout(timeout, handshake(link, responder)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let after_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                Err(TransportError::TimedOut { peer, after_ms }.into())
            }
        }
    }
}

/// The three messages, from the master's side.
async fn handshake(mut link: Link, mut responder: Responder) -> Result<ServedSession, SessionError> {
    let peer = link.peer;
    let refuse = |source| SessionError::Handshake { peer: peer.clone(), source };
    let hello = link.receiver.recv().await?;
    let answer = responder.handle_hello(&hello).map_err(refuse)?;
    link.sender.send(answer.into()).await?;
    let proof = link.receiver.recv().await?;
    let established = responder.handle_proof(&proof).map_err(refuse)?;
    Ok(ServedSession {
        minion: established.peer.minion,
        public_key: established.peer.public_key,
        sender: MessageSender::new(link.sender, established.sender, peer.clone()),
        receiver: MessageReceiver::new(link.receiver, established.receiver, peer),
    })
}
