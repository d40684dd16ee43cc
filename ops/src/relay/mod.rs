//! A relay that makes masters on one machine as far apart as regions are.
//!
//! ```text
//!   master eu ──dials──▶ relayed address of us ─▶ [ half a round trip ] ─▶ master us
//!             ◀───────────────────────────────── [ half a round trip ] ◀─
//!
//!   one listener per site      who dials: the source address      how far: the pair's places in `Distances`
//! ```
//!
//! A master's connection to another one comes from its own interface, and it tells the others the relay's address for it
//! (`mesh_advertise`): so the relay knows both ends of every connection, needs no root and no feature of the kernel, and works
//! wherever a TCP connection does.
//!
//! **Invariants.** Every byte arrives in order and half a round trip after it was sent, never earlier; the machine's timers
//! and its load add to that (about a millisecond each way when it is quiet). A connection's end arrives as late as its
//! bytes. What is on its way is bounded ([`BYTES_ON_THE_WAY_MAX`]); who sends more waits, as before a full TCP window. The
//! relay has a thread of its own, so that a busy caller does not make the world larger.
//!
//! **It refuses** connections from an address that is no site's: without knowing who dials there is no distance. It does not
//! limit bandwidth and loses nothing. A connection to a master that does not listen is accepted and then closed, because
//! the kernel accepts before the relay can know.

mod distances;
mod line;
mod road;

pub use distances::{Distances, DistancesError};
pub use line::Jitter;

use line::Line;
use road::Road;
use saltern_pubsub::clock::SystemClock;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes of one direction of one connection that may be on their way: with 50 ms to go that is 320 MB/s, more than these
/// machines write. It is what a TCP window would bound over a real distance.
pub const BYTES_ON_THE_WAY_MAX: usize = 16 * 1024 * 1024;

/// One end of the relayed connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Where it is: a name that the distances know.
    pub place: String,
    /// The address that its own connections come from.
    pub source: IpAddr,
    /// Where it listens.
    pub listens: SocketAddr,
    /// Where the relay listens for it.
    pub relayed: SocketAddr,
}

/// Why the relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// An address cannot be listened on.
    #[error("the relay cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no thread or no runtime for it.
    #[error("the relay cannot start: {0}")]
    Thread(std::io::Error),
    /// Two sites dial from one address: nobody could tell them apart.
    #[error("two sites dial from {0}: give each an address of its own")]
    SameSource(IpAddr),
}

/// A running relay. It ends, and with it every connection through it, when it is dropped.
#[derive(Debug)]
pub struct Relay {
    distances: watch::Sender<Distances>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What went through it.
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    strangers: AtomicU64,
    bytes: AtomicU64,
}

impl Relay {
    /// Listens for every site and starts to relay.
    pub fn start(sites: Vec<Site>, distances: Distances, jitter: Jitter) -> Result<Self, RelayError> {
        let mut places = BTreeMap::new();
        for site in &sites {
            if places.insert(site.source, site.place.clone()).is_some() {
                return Err(RelayError::SameSource(site.source));
            }
        }
        let mut listeners = Vec::new();
        for site in sites {
            let refuse = |source| RelayError::Listen { address: site.relayed, source };
            let listener = TcpListener::bind(site.relayed).map_err(refuse)?;
            listener.set_nonblocking(true).map_err(refuse)?;
            listeners.push((site, listener));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RelayError::Thread)?;
        let (distances, follow) = watch::channel(distances);
        let (counters, stop) = (Arc::new(Counters::default()), CancellationToken::new());
        let shared = Arc::new(Shared { places, distances: follow, jitter, counters: Arc::clone(&counters) });
        let until = stop.clone();
        let work = move || runtime.block_on(relay_all(listeners, shared, until));
        let thread =
            std::thread::Builder::new().name("saltern-relay".into()).spawn(work).map_err(RelayError::Thread)?;
        Ok(Self { distances, counters, stop, thread: Some(thread) })
    }

    /// Changes how far the places are from each other, for what is sent from now on.
    pub fn change(&self, change: impl FnOnce(&mut Distances)) {
        self.distances.send_modify(change);
    }

    /// Connections that were relayed so far.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// Connections that were refused because they came from no site.
    pub fn strangers(&self) -> u64 {
        self.counters.strangers.load(Ordering::Relaxed)
    }

    /// Bytes that were relayed so far, both directions.
    pub fn bytes(&self) -> u64 {
        self.counters.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A relay that panicked has nothing more to say than its panic did.
            let _ = thread.join();
        }
    }
}

/// What every connection needs.
#[derive(Debug)]
struct Shared {
    places: BTreeMap<IpAddr, String>,
    distances: watch::Receiver<Distances>,
    jitter: Jitter,
    counters: Arc<Counters>,
}

/// Accepts for every site until `stop`; then every connection ends with the runtime.
async fn relay_all(listeners: Vec<(Site, TcpListener)>, shared: Arc<Shared>, stop: CancellationToken) {
    let (tasks, clock) = (TaskTracker::new(), SystemClock::new());
    for (site, listener) in listeners {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let accepting = accept_all(site, listener, Arc::clone(&shared), clock.clone(), tasks.clone());
                tasks.spawn(until(stop.clone(), accepting));
            }
            Err(error) => eprintln!("the relay lost its listener for {}: {error}", site.relayed),
        }
    }
    stop.cancelled().await;
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn accept_all(
    site: Site,
    listener: tokio::net::TcpListener,
    shared: Arc<Shared>,
    clock: SystemClock,
    tasks: TaskTracker,
) {
    let mut number: u64 = 0;
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // No file descriptors, most likely. They come back; spinning would not bring them.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let Some(place) = shared.places.get(&from.ip()) else {
            shared.counters.strangers.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        shared.counters.connections.fetch_add(1, Ordering::Relaxed);
        number += 1;
        let road = Road {
            here: place.clone(),
            there: site.place.clone(),
            distances: shared.distances.clone(),
            clock: clock.clone(),
            counters: Arc::clone(&shared.counters),
        };
        // Seeds differ by direction, by connection and by site: the pieces of two of them do not wait alike.
        let seed = |direction: u64| shared.jitter.seeded(u64::from(site.relayed.port()) ^ (number << 17) ^ direction);
        tasks.spawn(road::relay(stream, site.listens, road, Line::new(seed(0)), Line::new(seed(1))));
    }
}

#[cfg(test)]
mod tests;
