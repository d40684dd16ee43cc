//! Events, in Salt's tags, as operators watch them. Each is a view of one applied entry; its cursor is the log index.

use crate::Value;
use crate::id::Revision;
use crate::time::LogicalTime;
use serde::{Deserialize, Serialize};

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `salt/job/<jid>/new`, `salt/job/<jid>/ret/<id>`, `salt/job/<jid>/done`, `salt/key`, `salt/minion/<id>/start`,
    /// `salt/minion/<id>/refresh`, `salt/presence/change`, `salt/mine/<id>`, `salt/master/<name>`, `salt/config`, and
    /// `salt/lag` where a watcher fell behind and missed some.
    pub tag: String,
    /// The entry that caused it; zero for what never enters the log (presence).
    pub revision: Revision,
    /// When, in the truth's time.
    pub time: LogicalTime,
    /// What happened.
    pub data: Value,
}
