//! The life of the members: what operators want of them, and how the leader brings the group there.
//!
//! ```text
//!   operator ─▶ plan (pure) ─▶ refused, or: Directory + 1 ─▶ committed       the truth says what is wanted
//!   leader's sweep ─▶ reconcile (pure) ─▶ one step of the group ─▶ the next sweep looks again
//! ```
//!
//! * [`plan`] says what a change does to the quorum; [`change`] carries it into the truth and waits for the group.
//! * [`reconcile`] compares the group with the directory and names the next step; [`sweep`] takes it.
//! * [`absence`] knows how long a voter has been out of reach; [`progress`] tells a joining master how far it is.
//! * [`removed`] ends a master that was removed, once nobody needs its vote any more.
//! * [`wiped`] keeps a master out that comes back under its old id with an empty disk.
//! * [`secrets`] gives every remaining master a new state secret; [`drain`] lets a master leave without anybody noticing.
//!
//! **Invariants.** The directory is what is wanted, Raft's membership is what is; only the leader changes the second, toward
//! the first, one step at a time, and never in a way that leaves fewer voters in reach than a majority needs. A directory
//! is replaced by its successor only (compare and set on its version), so of two operators one wins and the other hears it.
//! Every step is harmless to repeat, and one that was cut short is finished by the next leader.
//!
//! **It refuses** to promote by itself a master that an operator demoted, and to count on a master that nobody reaches.

pub mod absence;
pub(crate) mod change;
pub mod drain;
pub mod plan;
pub mod progress;
pub mod reconcile;
pub(crate) mod removed;
pub(crate) mod secrets;
pub(crate) mod sweep;
pub(crate) mod wiped;

/// Voters that the group grows to; further masters stay learners. More would make every write wait for more disks.
pub const VOTERS_MAX: usize = 5;

/// Entries that a learner may lack when it is made a voter, and a voter when it is made the leader.
pub const LAG_MAX: u64 = 500;

/// How many of `voters` have to answer.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests;
