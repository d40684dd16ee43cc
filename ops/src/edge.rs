//! The machine's edges that the operator's program uses, in one place: time for the demo, random bytes for request ids.

pub use saltern_pubsub::clock::{SystemClock, SystemEntropy};
