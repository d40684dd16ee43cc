//! Pausing, resuming and ending jobs.

use crate::id::{JobId, MinionId};
use serde::{Deserialize, Serialize};

/// What ending a job came to: nobody else is offered it, and those who may be running it were asked to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// The job that was ended.
    pub killed: JobId,
    /// How many minions had not accepted it and are not offered it any more.
    pub spared: u32,
    /// The job that asks the others to stop; its returns say whether they did. `None` if nobody has to be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jid: Option<JobId>,
    /// Whom it asks, sorted. Each of them may be running the job until it has answered one of the two.
    pub targeted: Vec<MinionId>,
}
