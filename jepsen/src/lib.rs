//! The attacker: breaks everything below on purpose, and judges what came of it.
//!
//! ```text
//!   sim     masters and minions in one thread under one seed: every fault repeats
//!   real    whole clusters of real processes on this machine
//!   attack  the attack list: strangers and rogues at every port while a fleet works
//!   crash   the crash loop over them: every fault point, random kills, power loss, under load, and a checker of promises
//! ```
//!
//! **It refuses** to call a run good that showed nothing, and an outcome known that nobody heard of.

pub mod attack;
pub mod crash;
pub mod real;
pub mod sim;
