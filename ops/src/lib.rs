//! What an operator holds: the program `saltern`.
//!
//! ```text
//!   main ─▶ cli/*      one noun a file: reads arguments, asks, decides the exit code
//!             │ asks
//!             ▼
//!          client/*    HTTP + JSON + server-sent events over a unix socket or TLS; goes on to the next master by itself
//!             │ answers of saltern_wire::api
//!             ▼
//!          output/*    one format a file: nested (Salt's), json, yaml, ndjson, table
//! ```
//!
//! **Invariants.** Data goes to stdout and everything else to stderr. Every way to end has one exit code
//! ([`cli::CliError::exit_code`]). Every write carries a request id, so that asking another master is harmless.
//!
//! [`fleet`] starts real processes on this machine, [`relay`] puts them as far apart as regions are, and [`demo`] is the story
//! told with them.
//!
//! **It refuses** to know about Raft, RocksDB or ZeroMQ: it speaks [`saltern_wire::api`] and nothing else. Time and random
//! bytes come from [`edge`].

pub mod bench;
pub mod cli;
pub mod client;
pub mod demo;
pub mod edge;
pub mod fleet;
pub mod output;
pub mod relay;
