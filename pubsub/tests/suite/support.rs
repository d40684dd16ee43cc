//! Two transports with one face, and what every test needs.

use bytes::Bytes;
use saltern_pubsub::memory::MemoryNetwork;
use saltern_pubsub::zmq::{GateLimits, ZmqTransport};
use saltern_wire::io::{Address, Link, LinkReceiver, Listener, Transport, TransportError};
use saltern_wire::limits::NOISE_MESSAGE_BYTES_MAX;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Nothing on loopback takes longer, even on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Both transports, by name.
pub fn transports() -> [(&'static str, Arc<dyn Transport>); 2] {
    [("memory", Arc::new(MemoryNetwork::new().host("127.0.0.1"))), ("zmq", Arc::new(zmq(quick())))]
}

/// Limits with time-outs that a test can wait for, and for links that carry anything without a handshake.
pub fn quick() -> GateLimits {
    GateLimits {
        connections_max: 1000,
        unproven_frame_bytes_max: NOISE_MESSAGE_BYTES_MAX,
        handshake_timeout: Duration::from_millis(1500),
        stall_timeout: Duration::from_secs(5),
        ..GateLimits::default()
    }
}

pub fn zmq(limits: GateLimits) -> ZmqTransport {
    ZmqTransport::new(limits).expect("a private folder")
}

/// Any free port.
pub fn anywhere() -> Address {
    Address::new("127.0.0.1", 0)
}

/// Waits for `future`, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing came within {PATIENCE:?}"),
    }
}

/// Waits until `holds`.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Both ends of a new link.
pub async fn connected(transport: &dyn Transport, listener: &mut dyn Listener) -> (Link, Link) {
    let address = listener.address();
    let (ours, theirs) = soon("connect", async { tokio::join!(transport.dial(&address), listener.accept()) }).await;
    (ours.expect("dial"), theirs.expect("accept"))
}

/// The error with which a receiver ends, after whatever it still had.
pub async fn ending(receiver: &mut dyn LinkReceiver) -> TransportError {
    soon("the end of a link", async {
        loop {
            if let Err(error) = receiver.recv().await {
                return error;
            }
        }
    })
    .await
}

/// `len` bytes that differ from one `number` to the next.
pub fn pattern(number: usize, len: usize) -> Bytes {
    (0..len).map(|at| u8::try_from((at * 31 + number * 7) % 251).expect("below 251")).collect()
}
