//! The fan-out (4505), the master's side: one PUB behind the gate, on a thread and a runtime of its own, so that a burst to
//! thousands of subscribers delays nothing else.
//!
//! ```text
//!   publish() ─ queue ─▶ conductor ─▶ PUB ─ unix ─▶ usher ─ bounded queue ─▶ TCP     (one usher a connection)
//! ```
//!
//! Behind the gate every frame goes out as two: a header of our own (`D` and the frame's number, or `P` for a probe), and
//! the frame. A connection's usher strips the header. The number tells it that nothing was missed; a probe tells a new
//! connection that its subscription has come into force, because PUB itself never says so.
//!
//! **Invariants.** Whoever was welcomed gets every frame from then on, in order, or is cut. The conductor lets only a bounded
//! number of copies be under way between PUB and the ushers, who always read: so PUB's own queues stay short, and a peer that
//! does not drain fills its usher's queue, whose bound ends it, and nothing else.

use super::crowd::Turnstile;
use super::frame::message;
use super::gate;
use super::inner::PrivateFolder;
use super::limits::GateLimits;
use super::offence::{Logbook, count};
use super::usher;
use bytes::Bytes;
use saltern_wire::io::{Address, Capability, Fanout, TransportError};
use saltern_wire::limits::FANOUT_FRAME_BYTES_MAX;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use zeromq::{PubSocket, Socket, SocketSend, ZmqMessage};

/// First byte of the header of a frame.
pub(super) const DATA: u8 = b'D';

/// First byte of a probe.
pub(super) const PROBE: u8 = b'P';

/// Most bytes of frames that wait to be published: a minute of the largest bursts. What does not fit is not published, and
/// every subscriber is cut, so that each asks its session what it missed.
const QUEUE_BYTES_MAX: usize = 128 * FANOUT_FRAME_BYTES_MAX;

/// Most bytes that wait for all subscribers together. Above it, whoever holds more than an equal part is cut: a thousand
/// stuck subscribers must not take the memory of a master.
const WAITING_BYTES_MAX: usize = 512 * FANOUT_FRAME_BYTES_MAX;

/// Copies under way between PUB and the ushers; PUB pays about 150 bytes for each.
const COPIES_MAX: i64 = 64 * 1024;

/// Time between two probes while somebody waits for one.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);

/// How long the conductor waits for copies to be taken before it looks again.
const TAKEN_INTERVAL: Duration = Duration::from_millis(5);

/// What a capability is good for.
enum Right {
    /// One subscription.
    Unused,
    /// Nothing more; the token cuts the connection that used it.
    Used(CancellationToken),
}

/// What the owner, the conductor and the ushers share.
pub(super) struct Hub {
    pub(super) limits: GateLimits,
    pub(super) logbook: Logbook,
    pub(super) port: u16,
    pub(super) publisher: PathBuf,
    rights: Mutex<HashMap<Capability, Right>>,
    /// Connections that were welcomed.
    pub(super) subscribers: AtomicUsize,
    /// Connections that wait for a probe.
    pub(super) waiting: AtomicUsize,
    /// Rung when one begins to wait.
    pub(super) wanted: Notify,
    /// Number of the newest frame given to PUB.
    pub(super) newest: AtomicU64,
    /// How many frames were given to PUB.
    pub(super) given: AtomicU64,
    /// Copies under way between PUB and the ushers.
    pub(super) copies: AtomicI64,
    /// Rung when some were taken.
    pub(super) taken: Notify,
    /// Bytes that wait for all subscribers together.
    pub(super) waiting_bytes: AtomicUsize,
    queued_bytes: AtomicUsize,
    /// Frames that were left out; each makes a hole in the numbers.
    left_out: AtomicU64,
}

impl Hub {
    fn rights(&self) -> MutexGuard<'_, HashMap<Capability, Right>> {
        self.rights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses up a capability. The token is cancelled when it is revoked.
    pub(super) fn redeem(&self, capability: Capability) -> Option<CancellationToken> {
        let mut rights = self.rights();
        let right = rights.get_mut(&capability)?;
        match right {
            Right::Unused => {
                let revoked = CancellationToken::new();
                *right = Right::Used(revoked.clone());
                Some(revoked)
            }
            Right::Used(_) => None,
        }
    }

    /// Whether a subscriber for whom `bytes` wait has to be cut.
    pub(super) fn is_too_much(&self, bytes: usize) -> bool {
        let share = WAITING_BYTES_MAX / self.subscribers.load(Relaxed).max(1);
        let crowded = self.waiting_bytes.load(Relaxed) > WAITING_BYTES_MAX && bytes > share;
        crowded || bytes > self.limits.subscriber_queue_bytes_max
    }

    /// Forgets a capability whose connection has ended.
    pub(super) fn forget(&self, capability: Capability) {
        self.rights().remove(&capability);
    }
}

/// The master's fan-out.
struct ZmqFanout {
    hub: Arc<Hub>,
    address: Address,
    queue: mpsc::UnboundedSender<Bytes>,
    port: std::net::TcpListener,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Fanout for ZmqFanout {
    fn publish(&self, frame: Bytes) {
        let len = frame.len();
        if len > FANOUT_FRAME_BYTES_MAX || frame.is_empty() {
            count(&self.hub.logbook.counters.unpublished);
            tracing::error!(bytes = len, "a frame was not published: its length is no frame's");
            return;
        }
        let queued = self.hub.queued_bytes.fetch_add(len, Relaxed) + len;
        if queued > QUEUE_BYTES_MAX || self.queue.send(frame).is_err() {
            self.hub.queued_bytes.fetch_sub(len, Relaxed);
            self.hub.left_out.fetch_add(1, Relaxed);
            count(&self.hub.logbook.counters.unpublished);
            tracing::error!(bytes = len, "a frame was not published: too many are waiting");
        }
    }

    fn admit(&self, capability: Capability) {
        // Bounded by the owner: one capability a session, revoked with it.
        self.hub.rights().insert(capability, Right::Unused);
    }

    fn revoke(&self, capability: Capability) {
        let right = self.hub.rights().remove(&capability);
        if let Some(Right::Used(revoked)) = right {
            revoked.cancel();
        }
    }

    fn subscribers(&self) -> usize {
        self.hub.subscribers.load(Relaxed)
    }

    fn address(&self) -> Address {
        self.address.clone()
    }
}

impl Drop for ZmqFanout {
    /// Frees the port at once and ends the thread with everything on it.
    fn drop(&mut self) {
        gate::close_port(&self.port);
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the fan-out's thread panicked");
        }
    }
}

/// Opens the port and starts the thread.
pub(super) async fn fanout(
    bind: &Address,
    limits: GateLimits,
    logbook: Logbook,
    folder: Arc<PrivateFolder>,
) -> Result<Arc<dyn Fanout>, TransportError> {
    let refuse = |source| TransportError::Address { address: bind.clone(), source };
    let (port, address) = gate::bind(bind).await?;
    let listener = port.try_clone().map_err(refuse)?;
    let (private, publisher) = folder.listen().map_err(refuse)?;
    let hub = Arc::new(Hub {
        limits,
        logbook,
        port: address.port(),
        publisher,
        rights: Mutex::default(),
        subscribers: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
        wanted: Notify::new(),
        newest: AtomicU64::new(0),
        given: AtomicU64::new(0),
        copies: AtomicI64::new(0),
        taken: Notify::new(),
        waiting_bytes: AtomicUsize::new(0),
        queued_bytes: AtomicUsize::new(0),
        left_out: AtomicU64::new(0),
    });
    let (queue, frames) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refuse)?;
    let (started, starting) = oneshot::channel();
    let stage = Stage { hub: hub.clone(), listener, private, frames, stop: stop.clone() };
    let thread = std::thread::Builder::new().name("saltern-fanout".into()).spawn(move || {
        let _folder = folder;
        runtime.block_on(stage.run(started));
    });
    let thread = Some(thread.map_err(refuse)?);
    let fanout = Arc::new(ZmqFanout { hub, address, queue, port, stop, thread });
    match starting.await {
        Ok(Ok(())) => Ok(fanout),
        Ok(Err(error)) => Err(refuse(std::io::Error::other(error))),
        Err(_) => Err(refuse(std::io::Error::other("the fan-out's thread did not start"))),
    }
}

/// What lives on the fan-out's thread.
struct Stage {
    hub: Arc<Hub>,
    listener: std::net::TcpListener,
    private: std::os::unix::net::UnixListener,
    frames: mpsc::UnboundedReceiver<Bytes>,
    stop: CancellationToken,
}

impl Stage {
    /// Sets up, says so, and works until it is stopped.
    async fn run(self, started: oneshot::Sender<Result<(), String>>) {
        let Self { hub, listener, private, frames, stop } = self;
        let mut socket = PubSocket::new();
        let bound = socket.bind_listener(private).await.map_err(|error| error.to_string());
        let listener = bound.and_then(|_| TcpListener::from_std(listener).map_err(|error| error.to_string()));
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => {
                // Nobody waits if the opening was given up.
                let _ = started.send(Err(error));
                return;
            }
        };
        let _ = started.send(Ok(()));
        let turnstile = Turnstile::new(hub.limits.clone(), hub.logbook.clone(), hub.port);
        let entrance = hub.clone();
        let accepting = gate::accept(listener, turnstile, stop.clone(), move |outer, peer, place| {
            // Ends with its connection, or with the runtime.
            tokio::spawn(usher::serve(entrance.clone(), outer, peer, place));
        });
        tokio::select! {
            () = accepting => {}
            () = conduct(&hub, socket, frames) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Numbers frames and gives them to PUB, no faster than the ushers take them; probes while somebody waits.
async fn conduct(hub: &Hub, mut socket: PubSocket, mut frames: mpsc::UnboundedReceiver<Bytes>) {
    let mut probing = tokio::time::interval(PROBE_INTERVAL);
    probing.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let newest = hub.newest.load(Relaxed);
        let waiting = hub.waiting.load(Relaxed) > 0;
        let sent = tokio::select! {
            frame = frames.recv() => {
                let Some(frame) = frame else { return };
                hub.queued_bytes.fetch_sub(frame.len(), Relaxed);
                let number = newest + 1 + hub.left_out.swap(0, Relaxed);
                hub.newest.store(number, Relaxed);
                hub.given.fetch_add(1, Relaxed);
                hub.copies.fetch_add(i64::try_from(hub.subscribers.load(Relaxed)).unwrap_or(i64::MAX), Relaxed);
                let mut numbered = ZmqMessage::from(header(DATA, number));
                numbered.push_back(frame);
                socket.send(numbered).await
            }
            _ = probing.tick(), if waiting => socket.send(header(PROBE, newest).into()).await,
            () = hub.wanted.notified(), if !waiting => continue,
        };
        if let Err(error) = sent {
            tracing::error!(%error, "the fan-out socket failed");
            return;
        }
        while hub.copies.load(Relaxed) > COPIES_MAX {
            // The bell may ring between the look and the wait, so the wait is short.
            let _ = tokio::time::timeout(TAKEN_INTERVAL, hub.taken.notified()).await;
        }
    }
}

/// The header of a frame behind the gate.
fn header(kind: u8, number: u64) -> Bytes {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.into()
}

/// Reads a header.
pub(super) fn read_header(bytes: &[u8]) -> Option<(u8, u64)> {
    let (kind, number) = bytes.split_first()?;
    Some((*kind, u64::from_be_bytes(number.try_into().ok()?)))
}

/// A subscription, or its end, as PUB reads it.
pub(super) fn subscription(verb: u8, topic: u8) -> Bytes {
    message(&[verb, topic])
}
