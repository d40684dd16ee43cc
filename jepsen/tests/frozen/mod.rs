//! What the test of masters that stand still is made of.

pub mod listeners;
pub mod namespace;
pub mod stale;
