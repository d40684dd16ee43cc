//! The road of the operators' API: HTTP/1.1 with JSON on a unix socket and on HTTPS, the same router on both.
//!
//! ```text
//!   unix socket ── peer credentials ──┐
//!                                     ├─ connection ── Caller ── authorise ── deadline ── api::router
//!   TCP ── TLS 1.3 ── bearer token ───┘                  │
//!                                                        └─ open to everybody: /livez /readyz /metrics /v1/cluster/join
//! ```
//!
//! **Invariants.** Connections are bounded in number, handshakes and headers in time, bodies in bytes; a request is bounded
//! in time ([`asking`](mod@asking)) unless it is a stream. One client never has more of the connections, streams and reads than it
//! leaves to others. Every unsuccessful answer is a [`saltern_wire::api::FailureBody`]. Nothing is read from
//! the truth before the caller is known, except by the four open paths, which give away no more than health and counts.
//!
//! **It refuses** to take a socket file from a process that still listens on it, and HTTP/2: one connection carries one
//! request at a time, so the bound on connections is the bound on requests.

pub mod asking;
pub mod authorise;
pub mod extract;
pub mod health;
pub mod listen;
pub mod refusal;
pub mod serve;
pub mod stall;

pub use asking::{Client, Patience, asking};
pub use authorise::{Caller, Gatekeeper, Operator};
pub use extract::{Fresh, JsonBody, PathPart, Query, RequestName};
pub use listen::{ListenError, bind_tcp, bind_unix};
pub use refusal::Refusal;
pub use serve::{Door, serve_tls, serve_unix};

#[cfg(test)]
mod tests;
