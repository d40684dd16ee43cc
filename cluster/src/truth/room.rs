//! The room that decides over what a leader takes, looked at as often as it can change and not with every proposal.

use super::Truth;
use crate::mesh::message::ProposeRefusal;
use crate::space::{Level, Room, bears, deciding};
use saltern_store::command::Command;
use std::sync::PoisonError;
use std::time::Duration;

/// How long a level counts: disks are looked at once a second, other masters' a little less often.
const LEVEL_COUNTS: Duration = Duration::from_millis(100);

/// The level that decides, and when it was found.
#[derive(Debug, Default)]
pub(super) struct DecidingLevel(Option<(Level, Duration)>);

impl Truth {
    /// Refuses a command that the room on the disks does not bear.
    pub(super) fn require_room(&self, command: &Command) -> Result<(), ProposeRefusal> {
        let bears = bears(command);
        if self.deciding_level() <= bears {
            return Ok(());
        }
        // Seldom: what is refused is looked at once more, and described.
        let room = self.deciding_room();
        if room.level() <= bears {
            return Ok(());
        }
        self.space().count_refusal();
        Err(ProposeRefusal::NoRoom(Box::new(room)))
    }

    fn deciding_level(&self) -> Level {
        let now = self.0.clock.monotonic();
        let mut known = self.0.room.lock().unwrap_or_else(PoisonError::into_inner);
        // This master's own is at hand; it is the others' that take time.
        match known.0 {
            Some((level, at)) if now.saturating_sub(at) < LEVEL_COUNTS => level.max(self.space().level()),
            _ => {
                let level = self.deciding_room().level();
                known.0 = Some((level, now));
                level
            }
        }
    }

    fn deciding_room(&self) -> Room {
        let leader = self.0.group.leader_state();
        let own = self.space().room();
        let room = |id: &_| if *id == self.0.id { Some(own.clone()) } else { self.room_of(*id) };
        deciding(own.clone(), leader.voters.iter().map(room).collect())
    }
}
