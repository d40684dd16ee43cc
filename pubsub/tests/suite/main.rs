//! The transports and the sessions over them, as their users see them. Loopback only.

mod attacks;
mod sessions;
mod support;
mod transports;
