//! What may be said: every message, record and name that crosses a process boundary in Saltern.
//!
//! ```text
//!            ids, time, limits            the words
//!   target · job · key · mine · event     the nouns
//!   master · session · fanout · api       the conversations: master⇄minion, master→all minions, master⇄operator
//!   profile                               how far apart masters may be
//!   rolling                               how a job goes to so many minions at a time
//!   codec                                 {version, kind, body}: how all of them become bytes
//!   crypto/{identity, handshake, seal}    who said it, and who may read it
//!   archive                               a whole truth in one file: backups
//!   io                                    the traits of the edges: clock, entropy, transport, disk
//!   fault                                 named places at which tests make a process die; nothing in a release
//!   swarm                                 what many minions in one process say of themselves
//!   level                                 which of all this every master of a cluster understands
//!   fuzz                                  what fuzz targets share; only in tests
//! ```
//!
//! **Invariants.** Nothing here (but `fault` and `fuzz`, in tests) performs I/O, starts a task, reads a clock or draws a random number: callers bring all of
//! that as arguments. Whatever parses bytes from outside bounds them by [`limits`] first and returns an error that names
//! the offending value. A type whose name ends in `Id` is valid once it exists.
//!
//! **It refuses** to know about tokio, sockets, RocksDB or Raft. If a type needs one of those, it lives on a higher floor.

pub mod api;
pub mod archive;
pub mod codec;
pub mod crypto;
pub mod event;
pub mod fanout;
pub mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod id;
pub mod io;
pub mod job;
pub mod key;
pub mod level;
pub mod limits;
pub mod master;
pub mod mine;
pub mod profile;
pub mod rolling;
pub mod session;
pub mod settings;
pub mod slot;
pub mod swarm;
pub mod target;
pub mod time;

pub use codec::{CodecError, decode, encode};
pub use id::{ClusterId, JobId, MasterId, MinionId, Ordinal, RequestId, Revision};
pub use time::LogicalTime;

/// A value as the operator sees it: arguments of a job, a minion's return, a grain. Object order is preserved.
pub use serde_json::Value;

/// An ordered JSON object: grains of one minion, keyword arguments of one call.
pub type Map = serde_json::Map<String, Value>;
