//! The simulation: three masters and four minions in one thread, under one seed.
//!
//! ```text
//!   plan (pure) ──▶ world ── steps turmoil, makes and mends faults ──▶ machine: real masters and minions
//!                     └── operator ── asks at a master's desk              on net and edges
//!                     └── history ── lines ──▶ check (pure) ──▶ violations
//! ```
//!
//! **Invariants.** The same seed gives the same bytes of history: nothing here reads the machine's clock, draws from its
//! random source or starts a thread, and neither does anything below when it is given these edges.
//!
//! **Caveats.** RocksDB, ZeroMQ, TLS, child processes and HTTP stay outside: their place is taken by the in-memory engine,
//! turmoil's TCP, an id that is believed, tasks, and the calls that the API makes. An operation on a disk is never torn,
//! because one thread is not interrupted in it.

pub mod check;
pub mod desk;
pub mod edges;
pub mod history;
pub mod machine;
pub mod net;
pub mod operator;
pub mod plan;
pub mod reads;
pub mod socket;
pub mod world;

pub use world::{Options, Run, RunError, run};

#[cfg(test)]
mod tests;

/// Seeds that found something once.
pub fn seeds() -> Vec<u64> {
    let lines = include_str!("../../seeds.txt").lines();
    lines.filter_map(|line| line.split('#').next()?.trim().parse().ok()).collect()
}
