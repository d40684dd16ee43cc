//! How it travels: sessions between minions and masters (port 4506) and each master's fan-out (port 4505).
//!
//! ```text
//!   minion                                          master
//!   call::Session ── Noise, chunks ── Link ──────── serve::ServedSession
//!   subscriber::Subscriber ◀── sealed frames ────── publisher::Publisher
//!            └────────── wire::io::Transport ──────────┘
//!                 zmq (ZeroMQ behind the gate)   ·   memory (tests, simulation)
//! ```
//!
//! [`clock`], [`disk`] and [`terminal`] are the other edges of a process. Only [`clock`] reads the machine's clock and random source; only
//! `zmq` knows that ZeroMQ exists.
//!
//! **Invariants.** A session's identity is what its handshake proved. Whatever comes from a socket is bounded before it is
//! stored, and decrypted before it is decoded. A link or a subscription that failed once is over: nothing here reconnects,
//! because where to go next is the minion's decision.
//!
//! **It refuses** to know what a job is, to keep anything on disk, and to retry.

pub mod call;
pub mod channel;
pub mod clock;
pub mod disk;
pub mod memory;
pub mod publisher;
pub mod refusal;
pub mod serve;
pub mod subscriber;
pub mod terminal;
pub mod zmq;
