//! Sealing: encryption of fan-out frames in flight, and of secrets at rest.
//!
//! Both use AES-256-GCM and differ in where a nonce comes from. A fan-out key lives for one boot of one master and counts
//! ([`FrameSealer`]); the state secret lives for years on several machines and takes random nonces ([`Sealer`]), which is
//! sound for the few thousand secrets that a cluster ever seals.
//!
//! **It refuses** to draw a nonce, to read a clock, and to open anything whose authenticity it has not checked first.

mod frame;
mod rest;

pub use frame::{FRAME_HEADER_BYTES, FRAMES_PER_KEY_MAX, FrameHeader, FrameOpener, FrameSealer, OpenError, SealError};
pub use rest::{Sealer, UnsealError};
