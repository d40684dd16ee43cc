//! Masters that are far from each other: what is measured of the ways between them, the timing that fits it, who should lead,
//! and what the loss of some of them would mean.
//!
//! ```text
//!   probes (duties) ─▶ distance: rolling p50, p99 per way ─▶ timing: which profile fits ─▶ setting `timing` (replicated)
//!                                      │                                                        │
//!                                      ├─▶ forecast: quorum, leader, gap, commit                ▼
//!                                      └─▶ preferred: a leader of the region that is to lead   turn: each master starts anew
//! ```
//!
//! **Invariants.** Decisions are pure functions over what was measured; [`duty`] performs them. Probes carry what a master
//! measured, so that every master knows every way, not only its own. The timing is the same on all masters but for the while
//! in which they start anew one after the other ([`turn`]): Raft's timing cannot be changed in a running core.
//!
//! **It refuses** a profile that the measured round trips do not fit, and to hand leadership to a master that has not caught
//! up, does not reach a majority, is short of room, or was well for less than the set time.

pub mod distance;
pub mod duty;
pub mod forecast;
pub mod preferred;
pub mod timing;
pub mod turn;

pub use distance::{Way, Ways};
