//! The replicated log, by openraft: the only folder that knows its name.
//!
//! ```text
//!   truth ──propose──▶ Group ──▶ openraft core ──▶ log      (store::Log, group commit)
//!                        ▲   gather   │      └───▶ machine  (store::State, one batch an apply)
//!                        │            ▼
//!   other masters ◀── network / service: append streams, heartbeats and votes, snapshots
//! ```
//!
//! **Invariants.** An append is acknowledged only after its fsync. Pre-vote and leader transfer are real messages here;
//! openraft's defaults for both silently do nothing. A stream of appends ends with the end of its responses, never with an
//! error made up from it. A storage error stops the process: a master that cannot trust its disk must not vote.
//!
//! **Caveat.** openraft is an alpha, pinned exactly; `jepsen/` is the gate for every update of it.

pub mod compaction;
mod gather;
pub mod group;
pub mod log;
pub mod machine;
pub mod meters;
pub mod network;
pub mod refound;
pub mod runtime;
pub mod service;
mod shipping;
pub mod types;

/// The target under which the library below writes its own log lines.
pub const LOG_TARGET: &str = "openraft";

/// An entry as it stands in the log, for whoever reads a log without running it.
pub type StoredEntry = types::LogRecord;

pub use group::{Group, GroupConfig, GroupError, LeaderState, Leading};
