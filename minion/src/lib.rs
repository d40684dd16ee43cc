//! The minion: attaches to any master of a cluster, runs jobs at most once, and brings their outcomes home.
//!
//! ```text
//!   main · cli · config          what an operator types and writes
//!   agent                        the loop; everything below is what it decides with and acts through
//!     trust · rules · ledger     whom to obey, what to run            pure
//!     attach · delivery          where to attach, what to send        pure
//!     folder · journal · outbox  what is on disk
//!     book · grains              what it publishes of itself
//!     executor · supervisor      where jobs run
//!     remains · refusals         what a killed supervisor left; what was not taken, counted
//!     modules                    what they can do
//!     swarm                      thousands of them in a few processes, to size masters by
//! ```
//!
//! **Invariants.** A job starts at most once in the life of a data folder. An outcome leaves the disk only after the truth
//! has it. Only masters of the newest verified directory are obeyed. The end of the agent is not the end of its jobs.
//!
//! **It refuses** Raft and RocksDB, a first use that trusts whoever answers, and to guess: what a crash took is reported
//! as interrupted, what does not fit is refused with the reason.

pub mod agent;
pub mod attach;
pub mod book;
pub mod cli;
pub mod config;
pub mod credit;
pub mod delivery;
pub mod executor;
pub mod folder;
pub mod grains;
pub mod journal;
pub mod ledger;
pub mod modules;
pub mod outbox;
pub mod refusals;
pub mod remains;
pub mod rules;
pub mod supervisor;
pub mod swarm;
pub mod trust;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;

pub use agent::{Agent, AgentHandle, StartError, Status};
pub use config::Config;
pub use executor::{Executor, InProcess};
