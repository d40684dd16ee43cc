//! Who said it, and who may read it.
//!
//! [`identity`] signs, [`handshake`] opens a session between two identities, [`seal`] encrypts the fan-out and secrets at
//! rest; [`memo`] spares a swarm the same check again. Keys are arguments, nonces are counters or come from the caller's entropy; nothing here draws a random number.

pub mod handshake;
pub mod identity;
pub mod memo;
pub mod seal;

pub use identity::{Fingerprint, Identity, PublicKey, SignatureError, Signed, Verified};
