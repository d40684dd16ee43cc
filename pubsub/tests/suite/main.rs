//! The transports and the sessions over them, as their users see them. Loopback only.

mod attacks;
mod forgeries;
mod neighbours;
mod offenders;
mod sessions;
mod stuck;
mod support;
mod transports;
