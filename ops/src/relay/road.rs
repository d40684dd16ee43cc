//! One connection on its way: two directions, each a reader that stamps and a writer that waits.

use super::line::Line;
use super::{BYTES_ON_THE_WAY_MAX, Counters, Distances};
use bytes::{Bytes, BytesMut};
use saltern_pubsub::clock::SystemClock;
use saltern_wire::io::Clock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Bytes that are read at a time.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// Pieces of one direction on their way: 16,384 in 50 ms are 300,000 small messages a second.
const PIECES_ON_THE_WAY_MAX: usize = 16 * 1024;

/// Where a connection goes from and to, and how far that is.
#[derive(Debug, Clone)]
pub struct Road {
    pub here: String,
    pub there: String,
    pub distances: watch::Receiver<Distances>,
    pub clock: SystemClock,
    pub counters: Arc<Counters>,
}

impl Road {
    fn one_way(&self) -> Duration {
        self.distances.borrow().round_trip(&self.here, &self.there) / 2
    }

    /// Waits while nothing gets through. Returns at once otherwise.
    async fn open(&mut self) {
        let (here, there) = (self.here.clone(), self.there.clone());
        // The sender goes when the relay does, and this task with it.
        let _ = self.distances.wait_for(|distances| !distances.is_cut(&here, &there)).await;
    }

    async fn sleep_until(&self, due: Duration) {
        let left = due.saturating_sub(self.clock.monotonic());
        if !left.is_zero() {
            tokio::time::sleep(left).await;
        }
    }
}

/// A piece of a stream on its way.
struct Piece {
    due: Duration,
    body: Body,
}

enum Body {
    Bytes(Bytes, OwnedSemaphorePermit),
    /// The sender says no more.
    End,
    /// The sender is gone.
    Gone,
}

/// Relays one accepted connection to `listens`. The kernel has shaken hands already, here and now; over the distance that
/// takes a round trip, so the first byte sets out after one.
pub async fn relay(stream: TcpStream, listens: SocketAddr, mut road: Road, there: Line, back: Line) {
    let accepted = road.clock.monotonic();
    road.open().await;
    road.sleep_until(accepted + road.one_way()).await;
    let dialled = TcpStream::connect(listens).await;
    road.open().await;
    road.sleep_until(accepted + road.one_way() * 2).await;
    let Ok(other) = dialled else { return };
    if stream.set_nodelay(true).and_then(|()| other.set_nodelay(true)).is_err() {
        return;
    }
    let ((near_read, near_write), (far_read, far_write)) = (stream.into_split(), other.into_split());
    let over = CancellationToken::new();
    let both = async {
        tokio::join!(
            carry(near_read, far_write, road.clone(), there, over.clone()),
            carry(far_read, near_write, road.clone(), back, over.clone()),
        );
    };
    tokio::select! {
        () = both => {}
        () = over.cancelled() => {}
    }
}

/// Carries one direction until its end. Cancels `over` if the connection broke rather than ended.
async fn carry(from: OwnedReadHalf, to: OwnedWriteHalf, road: Road, line: Line, over: CancellationToken) {
    let (pieces, queue) = mpsc::channel(PIECES_ON_THE_WAY_MAX);
    tokio::join!(take(from, pieces, road.clone(), line), give(to, queue, road, over));
}

/// Reads pieces and stamps each with the time it arrives.
async fn take(mut from: OwnedReadHalf, pieces: mpsc::Sender<Piece>, mut road: Road, mut line: Line) {
    let room = Arc::new(Semaphore::new(BYTES_ON_THE_WAY_MAX));
    let mut buffer = BytesMut::new();
    loop {
        let most = u32::try_from(PIECE_BYTES_MAX).unwrap_or(u32::MAX);
        let Ok(mut permit) = Arc::clone(&room).acquire_many_owned(most).await else { return };
        buffer.reserve(PIECE_BYTES_MAX);
        let read = (&mut from).take(PIECE_BYTES_MAX as u64).read_buf(&mut buffer).await;
        road.open().await;
        let due = line.due(road.clock.monotonic(), road.one_way());
        let body = match read {
            Ok(0) => Body::End,
            Ok(count) => {
                drop(permit.split(PIECE_BYTES_MAX.saturating_sub(count)));
                road.counters.bytes.fetch_add(count as u64, Ordering::Relaxed);
                Body::Bytes(buffer.split().freeze(), permit)
            }
            Err(_) => Body::Gone,
        };
        let last = matches!(body, Body::End | Body::Gone);
        if pieces.send(Piece { due, body }).await.is_err() || last {
            return;
        }
    }
}

/// Writes each piece when it is due.
async fn give(mut to: OwnedWriteHalf, mut queue: mpsc::Receiver<Piece>, mut road: Road, over: CancellationToken) {
    while let Some(Piece { due, body }) = queue.recv().await {
        road.sleep_until(due).await;
        road.open().await;
        let written = match body {
            Body::Bytes(bytes, _permit) => to.write_all(&bytes).await,
            Body::End => to.shutdown().await,
            Body::Gone => Err(std::io::ErrorKind::ConnectionReset.into()),
        };
        if written.is_err() {
            over.cancel();
            return;
        }
    }
}
