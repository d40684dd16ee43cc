//! `saltern-master`: one of a few processes that keep one truth and publish it, each to its own minions.
//!
//! ```text
//!   operators ── http ── api ─┬─ submit ─┐                       ┌─ sessions ── minions (4506)
//!                             │          ├─▶ truth ─▶ raft ─▶ …  │
//!   other masters ── mesh ────┘  inbox ──┘     │                 ├─ publish ─── minions (4505)
//!                                              └─ effects ───────┴─ watch ───── operators
//! ```
//!
//! [`node`] starts these parts in order and stops them in reverse. [`truth`] is the only way to change anything; whoever
//! follows changes listens to effects and repairs what it missed from the tables. [`raft`] is the only folder that knows
//! the Raft library, and nothing in this crate knows RocksDB or ZeroMQ.
//!
//! **Invariants.** Nothing but a proposal is ever forwarded to another master: each publishes what it applies itself to the
//! minions attached to it, and answers reads from its own copy, saying how fresh that is. Presence stays in memory.
//!
//! **It refuses** to run without credentials of a cluster, to serve a master or minion that the CA or the truth does not
//! vouch for, and to acknowledge what no majority holds.

pub mod api;
pub mod backup;
pub mod bucket;
pub mod config;
pub mod delivery;
pub mod door;
pub mod duties;
pub mod founding;
#[cfg(test)]
mod fuzz;
pub mod http;
pub mod inbox;
pub mod integrity;
pub mod isolation;
pub mod level;
pub mod membership;
pub mod mesh;
pub mod metrics;
pub mod node;
pub mod pki;
pub mod presence;
pub mod program;
pub mod publish;
pub mod quarantine;
pub mod raft;
pub mod recover;
pub mod regions;
pub mod replica;
pub mod room;
pub mod service;
pub mod sessions;
pub mod space;
pub mod stamper;
pub mod submit;
pub mod succession;
pub mod target;
pub mod truth;
pub mod turns;
pub mod upkeep;
pub mod watch;
pub mod witness;
