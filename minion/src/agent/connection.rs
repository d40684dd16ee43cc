//! One attached master: both halves of the session and the subscription to its fan-out, as one stream of events.
//!
//! A session's sending half is not cancel safe, so a task of its own owns it, fed through a bounded queue. A master that
//! does not drain the queue is as good as gone. Dropping the connection ends the task and closes everything.

use crate::attach::{Patience, Vitals};
use futures::FutureExt;
use futures::future::BoxFuture;
use saltern_pubsub::call::{Session, SessionReceiver, SessionSender};
use saltern_pubsub::subscriber::{RefusedFrames, Subscriber};
use saltern_wire::crypto::{PublicKey, Verified};
use saltern_wire::fanout::{Broadcast, FanoutKey};
use saltern_wire::io::{Address, Io, TransportError};
use saltern_wire::master::Certificate;
use saltern_wire::session::{Grant, ToMaster, ToMinion};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Messages that wait to be sent: calls in flight are bounded far below it, so a full queue means that nothing drains it.
const OUTGOING_MAX: usize = 256;

/// Messages held back until the master has shown that it is in the directory.
const HELD_MAX: usize = 64;

/// What happens on a connection.
pub(super) enum Event {
    /// The master says something.
    Session(Box<ToMinion>),
    /// The master says something to everyone.
    Broadcast(Box<Broadcast>),
    /// The subscription stands.
    Subscribed,
    /// It is over.
    Lost(String),
}

enum FanoutState {
    None,
    Opening(BoxFuture<'static, Result<Subscriber, TransportError>>),
    Open(Box<Subscriber>),
}

/// An attached master.
pub(super) struct Connection {
    /// Where it was dialled.
    pub(super) address: Address,
    /// Who it is.
    pub(super) certificate: Verified<Certificate>,
    /// The CA that says so.
    pub(super) ca: PublicKey,
    /// Its signs of life.
    pub(super) vitals: Vitals,
    /// Until when it has to have shown that it is in the directory; `None` once it has.
    pub(super) admit_by: Option<Duration>,
    /// What it said before.
    held: Vec<ToMinion>,
    receiver: SessionReceiver,
    outgoing: mpsc::Sender<ToMaster>,
    broken: oneshot::Receiver<String>,
    fanout: FanoutState,
    rekeys: Vec<FanoutKey>,
    _writer: DropGuard,
}

impl Connection {
    /// Takes over an open session.
    pub(super) fn new(
        session: Session,
        address: Address,
        patience: Patience,
        now: Duration,
        tasks: &TaskTracker,
    ) -> Self {
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let (tell, broken) = oneshot::channel();
        let token = CancellationToken::new();
        tasks.spawn(write(session.sender, queue, tell, token.clone()));
        Self {
            address,
            certificate: session.certificate,
            ca: session.ca,
            vitals: Vitals::new(patience, now),
            admit_by: None,
            held: Vec::new(),
            receiver: session.receiver,
            outgoing,
            broken,
            fanout: FanoutState::None,
            rekeys: Vec::new(),
            _writer: token.drop_guard(),
        }
    }

    /// Queues a message; `false` if the master does not drain its queue.
    pub(super) fn send(&mut self, message: ToMaster) -> bool {
        self.outgoing.try_send(message).is_ok()
    }

    /// Holds a message back until the master is admitted; `false` if that is too many.
    pub(super) fn hold(&mut self, message: ToMinion) -> bool {
        self.held.push(message);
        self.held.len() <= HELD_MAX
    }

    /// The master is admitted: gives back what it said before.
    pub(super) fn admit(&mut self) -> Vec<ToMinion> {
        self.admit_by = None;
        std::mem::take(&mut self.held)
    }

    /// Subscribes with a grant, in place of an earlier subscription.
    pub(super) fn subscribe(&mut self, mut grant: Grant, io: &Io) {
        // A master that listens everywhere cannot know under which name it was reached.
        let anywhere = matches!(grant.address.host(), "" | "0.0.0.0" | "::");
        if anywhere {
            grant.address = Address::new(self.address.host(), grant.address.port());
        }
        let (transport, clock, key) = (io.transport.clone(), io.clock.clone(), self.certificate.public_key);
        self.rekeys.clear();
        self.fanout =
            FanoutState::Opening(async move { Subscriber::open(transport.as_ref(), &grant, key, clock).await }.boxed());
    }

    /// Takes a new fan-out key.
    pub(super) fn rekey(&mut self, key: FanoutKey) {
        match &mut self.fanout {
            FanoutState::Open(subscriber) => subscriber.rekey(key),
            FanoutState::Opening(_) => self.rekeys.push(key),
            FanoutState::None => {}
        }
    }

    /// Frames of the standing subscription that were refused.
    pub(super) fn frames_refused(&self) -> RefusedFrames {
        match &self.fanout {
            FanoutState::Open(subscriber) => subscriber.refused(),
            FanoutState::None | FanoutState::Opening(_) => RefusedFrames::default(),
        }
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        let fanout = &mut self.fanout;
        let fanout_event = async {
            match fanout {
                FanoutState::None => std::future::pending().await,
                FanoutState::Opening(opening) => Err(opening.await),
                FanoutState::Open(subscriber) => Ok(subscriber.recv().await),
            }
        };
        tokio::select! {
            biased;
            cause = &mut self.broken => Event::Lost(cause.unwrap_or_else(|_| "the sending task is gone".into())),
            message = self.receiver.recv() => match message {
                Ok(message) => Event::Session(Box::new(message)),
                Err(error) => Event::Lost(error.to_string()),
            },
            event = fanout_event => match event {
                Ok(Ok(broadcast)) => Event::Broadcast(Box::new(broadcast)),
                Ok(Err(error)) => Event::Lost(format!("fan-out: {error}")),
                Err(Ok(mut subscriber)) => {
                    self.rekeys.drain(..).for_each(|key| subscriber.rekey(key));
                    self.fanout = FanoutState::Open(Box::new(subscriber));
                    Event::Subscribed
                }
                Err(Err(error)) => Event::Lost(format!("fan-out: {error}")),
            },
        }
    }
}

/// The task that owns a session's sending half. Ends when the connection is dropped or the session broke.
async fn write(
    mut sender: SessionSender,
    mut queue: mpsc::Receiver<ToMaster>,
    broken: oneshot::Sender<String>,
    token: CancellationToken,
) {
    let work = async {
        while let Some(message) = queue.recv().await {
            match sender.send(&message).await {
                Ok(()) => {}
                Err(error @ saltern_pubsub::channel::SessionError::Large { .. }) => {
                    // Nothing was sent and the session goes on; the call in it runs into its deadline.
                    tracing::error!(%error, "a message was not sent");
                }
                Err(error) => return Some(error.to_string()),
            }
        }
        None
    };
    tokio::select! {
        biased;
        () = token.cancelled() => {}
        cause = work => {
            if let Some(cause) = cause {
                // The connection may have been dropped meanwhile.
                let _ = broken.send(cause);
            }
        }
    }
}
