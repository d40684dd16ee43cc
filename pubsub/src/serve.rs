//! The master's end of a session: proves the master, and learns which minion is there.
//!
//! What comes out is an identity that was proven, not one that is accepted: that is for the truth to say. A [`Caller`] is
//! somebody who has proved nothing yet and may still be sent away with a slot, before any cryptography.

use crate::channel::{MessageReceiver, MessageSender, SessionError};
use crate::clock::SystemClock;
use bytes::Bytes;
use saltern_wire::MinionId;
use saltern_wire::crypto::handshake::Responder;
use saltern_wire::crypto::{Identity, PublicKey, Signed};
use saltern_wire::io::{Clock, Entropy, Link, TransportError};
use saltern_wire::master::Certificate;
use saltern_wire::session::{ToMaster, ToMinion};
use saltern_wire::slot::{Slot, Ticket};
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

/// A minion that has said its first word, and cost nothing but that.
pub struct Caller {
    link: Link,
    hello: Bytes,
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
    /// How long this side's cryptography took.
    pub worked: Duration,
}

impl Caller {
    /// Waits for the first message over `link`, `timeout` at most.
    pub async fn listen(mut link: Link, timeout: Duration) -> Result<Self, SessionError> {
        let peer = link.peer.clone();
        let hello = in_time(&peer, timeout, async { Ok(link.receiver.recv().await?) }).await?;
        Ok(Self { link, hello })
    }

    /// The other end's address, for people.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.link.peer
    }

    /// The ticket that it shows. Nothing of it is proven.
    #[must_use]
    pub fn ticket(&self) -> Option<Ticket> {
        Ticket::in_hello(&self.hello)
    }

    /// Has it come again later. Costs no cryptography.
    pub async fn turn_away(mut self, slot: Slot, timeout: Duration) -> Result<(), SessionError> {
        let peer = self.link.peer.clone();
        let slot = Bytes::copy_from_slice(&slot.to_bytes());
        in_time(&peer, timeout, async { Ok(self.link.sender.send(slot).await?) }).await
    }

    /// Answers the handshake within `timeout`.
    pub async fn serve(
        self,
        credentials: &MasterCredentials,
        entropy: &dyn Entropy,
        clock: &dyn Clock,
        timeout: Duration,
    ) -> Result<ServedSession, SessionError> {
        let peer = self.link.peer.clone();
        in_time(&peer, timeout, self.handshake(credentials, entropy, clock)).await
    }

    /// The three messages, from the master's side.
    async fn handshake(
        self,
        credentials: &MasterCredentials,
        entropy: &dyn Entropy,
        clock: &dyn Clock,
    ) -> Result<ServedSession, SessionError> {
        let Self { mut link, hello } = self;
        let peer = link.peer;
        let refuse = |source| SessionError::Handshake { peer: peer.clone(), source };
        let began = clock.monotonic();
        let MasterCredentials { identity, certificate, ca } = credentials.clone();
        let mut responder = Responder::new(identity, certificate, ca, entropy);
        let answer = responder.handle_hello(&hello).map_err(refuse)?;
        let answering = clock.monotonic().saturating_sub(began);
        link.sender.send(answer.into()).await?;
        let proof = link.receiver.recv().await?;
        let began = clock.monotonic();
        let established = responder.handle_proof(&proof).map_err(refuse)?;
        let worked = answering + clock.monotonic().saturating_sub(began);
        Ok(ServedSession {
            minion: established.peer.minion,
            public_key: established.peer.public_key,
            sender: MessageSender::new(link.sender, established.sender, peer.clone()),
            receiver: MessageReceiver::new(link.receiver, established.receiver, peer),
            worked,
        })
    }
}

impl ServedSession {
    /// Answers a minion's handshake over `link` within `timeout`, whoever else waits.
    pub async fn accept(
        link: Link,
        credentials: &MasterCredentials,
        entropy: &dyn Entropy,
        timeout: Duration,
    ) -> Result<Self, SessionError> {
        let peer = link.peer.clone();
        let serving = async {
            let caller = Caller::listen(link, timeout).await?;
            caller.serve(credentials, entropy, &SystemClock::new(), timeout).await
        };
        in_time(&peer, timeout, serving).await
    }
}

/// Waits for `work` with `peer`, but not longer than `timeout`.
async fn in_time<T>(
    peer: &str,
    timeout: Duration,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    match tokio::time::timeout(timeout, work).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let after_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            Err(TransportError::TimedOut { peer: peer.to_owned(), after_ms }.into())
        }
    }
}
