//! What every attack needs: whom to strike, from where, by chance, and where it is written down.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use saltern_ops::fleet::Fleet;
use saltern_wire::crypto::Fingerprint;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

/// How long the master has to cut a connection that does nothing it may: its handshake, and the first message after it, have
/// five seconds each; what a busy machine takes comes on top.
const CUT_WITHIN: Duration = Duration::from_secs(20);

/// One master's ports.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The fan-out.
    pub fanout: SocketAddr,
    /// Sessions.
    pub session: SocketAddr,
    /// Other masters.
    pub mesh: SocketAddr,
    /// Operators.
    pub api: SocketAddr,
}

/// What came of one strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it does, and ended by itself.
    Done,
    /// The master ended it.
    Cut,
    /// The master did not end it in time.
    Kept,
    /// It did not get through to the master.
    Unreached,
    /// The run was over before it was.
    Over,
}

/// Strikes of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Strikes {
    /// Those that ended by themselves.
    pub done: u64,
    /// Those that the master ended.
    pub cut: u64,
    /// Those that the master should have ended and did not.
    pub kept: u64,
    /// Those that did not get through.
    pub unreached: u64,
}

/// The ground of one run.
pub struct Ground {
    /// The masters.
    pub targets: Vec<Target>,
    /// What minions pin.
    pub ca: Fingerprint,
    /// Cancelled when the run is over.
    pub over: CancellationToken,
    strikes: Mutex<BTreeMap<&'static str, Strikes>>,
}

impl Ground {
    /// The masters of `fleet`.
    pub fn new(fleet: &Fleet, ca: Fingerprint) -> Self {
        let ports = fleet.ports();
        let targets = fleet.masters.iter().map(|master| {
            let at = |port| SocketAddr::from((master.address, port));
            let (fanout, session, mesh, api) = (at(ports.publish), at(ports.session), at(ports.mesh), at(ports.api));
            Target { fanout, session, mesh, api }
        });
        Self { targets: targets.collect(), ca, over: CancellationToken::new(), strikes: Mutex::default() }
    }

    /// Writes down what came of a strike.
    pub fn note(&self, name: &'static str, outcome: Outcome) {
        let mut strikes = self.strikes.lock().unwrap_or_else(PoisonError::into_inner);
        let strikes = strikes.entry(name).or_default();
        match outcome {
            Outcome::Done => strikes.done += 1,
            Outcome::Cut => strikes.cut += 1,
            Outcome::Kept => strikes.kept += 1,
            Outcome::Unreached => strikes.unreached += 1,
            Outcome::Over => {}
        }
    }

    /// Everything that was written down.
    pub fn strikes(&self) -> BTreeMap<&'static str, Strikes> {
        self.strikes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits, or less if the run ends.
    pub async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.over.cancelled() => false,
        }
    }
}

/// An attacker's chance. The same seed gives the same strikes, not the same order among attackers.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// For one attacker.
    pub fn new(seed: u64, attacker: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(attacker);
        Self(rng)
    }

    /// One of `things`, of which there is at least one.
    pub fn one<T: Copy>(&mut self, things: &[T]) -> T {
        things[self.0.random_range(0..things.len())]
    }

    /// A number from `range`.
    pub fn number(&mut self, range: std::ops::Range<usize>) -> usize {
        self.0.random_range(range)
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.0.random()
    }

    /// Random bytes.
    pub fn rubbish(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.0.random()).collect()
    }

    /// Connects from one of some ten thousand addresses of this machine.
    pub async fn connect(&mut self, to: SocketAddr) -> Option<TcpStream> {
        let from = Ipv4Addr::new(127, 200, self.0.random_range(0..40), self.0.random_range(1..255));
        connect_from(from, to, None).await
    }

    /// Connects with a receive buffer as small as the system allows.
    pub async fn connect_deaf(&mut self, to: SocketAddr) -> Option<TcpStream> {
        connect_from(Ipv4Addr::new(127, 201, 0, 1), to, Some(1)).await
    }
}

async fn connect_from(from: Ipv4Addr, to: SocketAddr, receive_bytes: Option<u32>) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((from, 0).into()).ok()?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes).ok()?;
    }
    tokio::time::timeout(Duration::from_secs(5), socket.connect(to)).await.ok()?.ok()
}

/// Writes `bytes` and waits until the master has had enough.
pub async fn strike(ground: &Ground, stream: Option<TcpStream>, bytes: &[u8]) -> Outcome {
    let Some(mut stream) = stream else { return Outcome::Unreached };
    // The master may have ended it before the last byte.
    let _ = tokio::time::timeout(CUT_WITHIN, stream.write_all(bytes)).await;
    until_cut(ground, stream).await
}

/// Reads until the master has had enough.
pub async fn until_cut(ground: &Ground, mut stream: TcpStream) -> Outcome {
    let mut heard = [0; 4096];
    let listening = async { while let Ok(1..) = stream.read(&mut heard).await {} };
    tokio::select! {
        () = listening => Outcome::Cut,
        () = tokio::time::sleep(CUT_WITHIN) => Outcome::Kept,
        () = ground.over.cancelled() => Outcome::Over,
    }
}

/// Writes one byte after the other until the master has had enough.
pub async fn trickle(ground: &Ground, stream: Option<TcpStream>, bytes: &[u8], pause: Duration) -> Outcome {
    let Some(mut stream) = stream else { return Outcome::Unreached };
    let drops = async {
        for byte in bytes {
            let mut heard = [0; 512];
            if stream.write_all(&[*byte]).await.is_err() || matches!(stream.try_read(&mut heard), Ok(0)) {
                return Outcome::Cut;
            }
            tokio::time::sleep(pause).await;
        }
        Outcome::Kept
    };
    tokio::select! {
        outcome = drops => outcome,
        () = ground.over.cancelled() => Outcome::Over,
    }
}
