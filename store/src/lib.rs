//! What is written: the replicated log of this master, and the truth that applying it makes.
//!
//! ```text
//!                    cluster (Raft glue)    
//!          append, read │          │ apply                    create, stream, install
//!                       ▼          ▼                                    ▼
//!                   log::Log   state::State ── view (reads)      snapshot::Snapshots
//!                       │          │
//!                       │          └─ machine: the only place where truth changes
//!                       │               └─ table: rows · overlay: changes of one call · index: what is hot, in memory
//!                       └────┬─────┘
//!                            kv: rocks (the real one) | memory (the simulation)
//!
//!   archive: a state as rows, out and in · folder: the three opened together · mark: how far the log had come · sound: what is doubted · check: offline
//! ```
//!
//! **Invariants.** [`machine`] is deterministic: equal logs make equal rows, on either engine. Effects of a call and the
//! position behind them are one batch. The log acknowledges only what is synced. Everything stored is versioned and has a
//! checksum, of ours or of the engine's blocks; what cannot be read is noted in [`Soundness`] and stops this master instead of
//! being served, voted on or sent. What this crate cannot see is a data folder that was put back as a whole.
//!
//! **It refuses** to know about tokio, sockets, Raft or the wall clock. Calls block; whoever must not block calls from a
//! thread of its own.
//!
//! **Caveats.** Names behind ordinals are kept for ever (some 60 bytes each). A list of returns is read in pages, so that a
//! job which changes meanwhile is seen at two points in time.

pub mod archive;
mod chain;
pub mod check;
pub mod command;
pub mod error;
pub mod folder;
mod frame;
#[cfg(test)]
mod fuzz;
mod index;
pub mod kv;
pub mod level;
pub mod log;
mod machine;
mod mark;
mod overlay;
mod reclaim;
pub mod snapshot;
mod sound;
pub mod state;
mod table;
pub mod view;

pub use chain::Check;
pub use check::{CheckItem, CheckReport, Verdict, check};
pub use error::StoreError;
pub use folder::Stores;
pub use log::{FlushBy, Log, LogEntry};
pub use snapshot::{Manifest, Receiving, Snapshot, Snapshots};
pub use sound::Soundness;
pub use state::{AppliedEntry, Item, Payload, State};
