//! One direction of a connection: a bounded queue of whole messages over a road that may be blocked.

use super::Shared;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Counted for each message beside its bytes, so that empty messages are bounded as well.
const OVERHEAD_BYTES: usize = 64;

/// What is under way.
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    /// Set when no more will be sent; what is queued is still received.
    ended: Option<String>,
    /// Set when the connection is gone; what is queued is lost.
    cut: Option<String>,
    /// Set when the receiver is gone. The sender hears of it when the road back is open, as with TCP's reset.
    abandoned: Option<String>,
}

/// One direction of a connection between two hosts.
pub(super) struct Pipe {
    network: Arc<Shared>,
    from: String,
    to: String,
    bytes_max: usize,
    queue: Mutex<Queue>,
    changed: Notify,
}

/// What came of offering a message.
pub(super) enum Offered {
    /// It is queued.
    Taken,
    /// There is no room now.
    Full(Bytes),
    /// The connection is gone, and why.
    Gone(String),
}

impl Pipe {
    pub(super) fn new(network: Arc<Shared>, from: &str, to: &str, bytes_max: usize) -> Arc<Self> {
        let queue = Queue { messages: VecDeque::new(), bytes: 0, ended: None, cut: None, abandoned: None };
        let (from, to) = (from.to_owned(), to.to_owned());
        let pipe = Self { network, from, to, bytes_max, queue: Mutex::new(queue), changed: Notify::new() };
        let pipe = Arc::new(pipe);
        pipe.network.state().register(&pipe);
        pipe
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it connects these two hosts.
    pub(super) fn joins(&self, a: &str, b: &str) -> bool {
        (self.from == a && self.to == b) || (self.from == b && self.to == a)
    }

    /// Wakes both ends to look again.
    pub(super) fn ring(&self) {
        self.changed.notify_waiters();
    }

    /// Queues a message if there is room. An empty queue takes any message.
    pub(super) fn offer(&self, message: Bytes) -> Offered {
        let hears = self.network.flows(&self.to, &self.from);
        let mut queue = self.queue();
        let abandoned = queue.abandoned.as_ref().filter(|_| hears);
        if let Some(cause) = queue.cut.as_ref().or(queue.ended.as_ref()).or(abandoned) {
            return Offered::Gone(cause.clone());
        }
        let cost = message.len() + OVERHEAD_BYTES;
        if queue.bytes > 0 && queue.bytes + cost > self.bytes_max {
            return Offered::Full(message);
        }
        queue.bytes += cost;
        queue.messages.push_back(message);
        drop(queue);
        self.ring();
        Offered::Taken
    }

    /// Queues a message, waiting for room.
    pub(super) async fn send(&self, mut message: Bytes) -> Result<(), String> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.offer(message) {
                Offered::Taken => return Ok(()),
                Offered::Gone(cause) => return Err(cause),
                Offered::Full(back) => message = back,
            }
            changed.await;
        }
    }

    /// The next message, once the road is open. Cancel safe.
    pub(super) async fn recv(&self) -> Result<Bytes, String> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(outcome) = self.take() {
                return outcome;
            }
            changed.await;
        }
    }

    fn take(&self) -> Option<Result<Bytes, String>> {
        let flows = self.network.flows(&self.from, &self.to);
        let mut queue = self.queue();
        if let Some(cause) = &queue.cut {
            return Some(Err(cause.clone()));
        }
        if !flows {
            return None;
        }
        let Some(message) = queue.messages.pop_front() else {
            return queue.ended.clone().map(Err);
        };
        queue.bytes -= message.len() + OVERHEAD_BYTES;
        drop(queue);
        self.ring();
        Some(Ok(message))
    }

    /// Ends it after what is queued.
    pub(super) fn end(&self, cause: &str) {
        self.queue().ended.get_or_insert_with(|| cause.to_owned());
        self.ring();
    }

    /// Ends it now; what is queued is lost.
    pub(super) fn cut(&self, cause: &str) {
        {
            let mut queue = self.queue();
            queue.cut.get_or_insert_with(|| cause.to_owned());
            queue.messages.clear();
            queue.bytes = 0;
        }
        self.ring();
    }

    /// The receiver is gone.
    pub(super) fn abandon(&self, cause: &str) {
        self.queue().abandoned.get_or_insert_with(|| cause.to_owned());
        self.ring();
    }

    /// Whether its sender knows that it carries nothing any more.
    pub(super) fn is_gone(&self) -> bool {
        let hears = self.network.flows(&self.to, &self.from);
        let queue = self.queue();
        queue.cut.is_some() || queue.ended.is_some() || (queue.abandoned.is_some() && hears)
    }
}
