//! What a swarm does to one of its minions from outside: stands it still, and cuts its connections.
//!
//! A minion that stands still is not polled: its sessions stay open, nothing is read, said or noticed, as with a process that
//! was stopped. A cut ends every link of a minion at both ends, as a fault of the network does; the minion decides by itself
//! what then.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use saltern_wire::io::{
    Address, Capability, Fanout, Link, LinkReceiver, LinkSender, Listener, Transport, TransportError,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::watch;

/// What is done to one minion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// It stands still.
    pub frozen: bool,
    /// How often its connections were cut.
    pub cuts: u64,
}

/// Polls `inner` while the minion does not stand still.
pub async fn polled_while_free(inner: BoxFuture<'static, ()>, mut held: watch::Receiver<Held>) {
    let mut inner = inner.fuse();
    loop {
        if held.borrow_and_update().frozen {
            if held.changed().await.is_err() {
                return;
            }
            continue;
        }
        let frozen = async {
            // A swarm that is gone freezes nobody any more.
            if held.wait_for(|held| held.frozen).await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            () = frozen => {}
            () = &mut inner => return,
        }
    }
}

/// Sessions that the minions of one worker dialled.
#[derive(Debug, Default)]
pub struct Dials {
    /// All.
    pub tried: AtomicU64,
    /// Those that did not come about.
    pub failed: AtomicU64,
}

/// The real transport, whose links a swarm can cut.
pub struct CutTransport {
    inner: Arc<dyn Transport>,
    held: watch::Receiver<Held>,
    dials: Arc<Dials>,
}

impl CutTransport {
    /// `inner`, for the minion to which `held` is done.
    pub fn new(inner: Arc<dyn Transport>, held: watch::Receiver<Held>, dials: Arc<Dials>) -> Self {
        Self { inner, held, dials }
    }

    fn cut(&self) -> Cut {
        let cuts = self.held.borrow().cuts;
        Cut { held: self.held.clone(), cuts }
    }
}

/// When one link is to end.
#[derive(Clone)]
struct Cut {
    held: watch::Receiver<Held>,
    cuts: u64,
}

impl Cut {
    /// Waits for a cut. Cancel safe.
    async fn wait(&mut self) -> TransportError {
        let cuts = self.cuts;
        if self.held.wait_for(|held| held.cuts != cuts).await.is_err() {
            std::future::pending::<()>().await;
        }
        TransportError::Closed { peer: "a master".into(), cause: "the swarm was told to cut it".into() }
    }
}

struct CutReceiver {
    inner: Box<dyn LinkReceiver>,
    cut: Cut,
}

#[async_trait::async_trait]
impl LinkReceiver for CutReceiver {
    async fn recv(&mut self) -> Result<Bytes, TransportError> {
        tokio::select! {
            biased;
            error = self.cut.wait() => Err(error),
            message = self.inner.recv() => message,
        }
    }
}

struct CutSender {
    inner: Box<dyn LinkSender>,
    cut: Cut,
}

#[async_trait::async_trait]
impl LinkSender for CutSender {
    async fn send(&mut self, message: Bytes) -> Result<(), TransportError> {
        tokio::select! {
            biased;
            error = self.cut.wait() => Err(error),
            sent = self.inner.send(message) => sent,
        }
    }
}

#[async_trait::async_trait]
impl Transport for CutTransport {
    async fn dial(&self, address: &Address) -> Result<Link, TransportError> {
        self.dials.tried.fetch_add(1, Relaxed);
        let cut = self.cut();
        let link = self.inner.dial(address).await.inspect_err(|_| {
            self.dials.failed.fetch_add(1, Relaxed);
        })?;
        Ok(Link {
            sender: Box::new(CutSender { inner: link.sender, cut: cut.clone() }),
            receiver: Box::new(CutReceiver { inner: link.receiver, cut }),
            peer: link.peer,
        })
    }

    async fn listen(&self, bind: &Address) -> Result<Box<dyn Listener>, TransportError> {
        self.inner.listen(bind).await
    }

    async fn subscribe(
        &self,
        address: &Address,
        capability: Capability,
    ) -> Result<Box<dyn LinkReceiver>, TransportError> {
        let cut = self.cut();
        let inner = self.inner.subscribe(address, capability).await?;
        Ok(Box::new(CutReceiver { inner, cut }))
    }

    async fn fanout(&self, bind: &Address) -> Result<Arc<dyn Fanout>, TransportError> {
        self.inner.fanout(bind).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_does_nothing_until_thawed() {
        let (hold, held) = watch::channel(Held::default());
        let steps = Arc::new(AtomicU64::new(0));
        let counted = steps.clone();
        let work = async move {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                counted.fetch_add(1, Relaxed);
            }
        };
        let task = tokio::spawn(polled_while_free(work.boxed(), held));
        tokio::time::sleep(Duration::from_millis(5_500)).await;
        hold.send_modify(|held| held.frozen = true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(steps.load(Relaxed), 5, "it stood still for a minute");
        hold.send_modify(|held| held.frozen = false);
        task.await.expect("it ends");
        assert_eq!(steps.load(Relaxed), 100);
    }
}
