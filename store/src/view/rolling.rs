//! Rolling jobs: where they stand, and whose turn it is.

use crate::error::StoreError;
use crate::index::{Index, OpenJob};
use crate::kv::Kv;
use crate::state::State;
use crate::table::job::{self, JobRow};
use roaring::RoaringBitmap;
use saltern_wire::rolling::{BatchView, Stand};
use saltern_wire::{JobId, LogicalTime};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The last part of a turn in which it is not offered any more: an acceptance that was begun in time is in the log before
/// the truth gives the place to the next minion.
const TURN_CLOSES: u32 = 6;

/// Who may accept an open job and has not yet. Nobody whose turn has not come is among them.
#[derive(Debug, Clone, PartialEq)]
pub struct Offers {
    /// When the job was opened.
    pub opened: LogicalTime,
    /// When the job ends for everybody who has not accepted it.
    pub expires: LogicalTime,
    /// By the time until which they may be offered it: one group, but for a job that goes to so many at a time.
    pub groups: Vec<(LogicalTime, RoaringBitmap)>,
}

impl State {
    /// Who may be offered an open job, and until when; `None` if it is not open.
    pub fn offers_of(&self, jid: &JobId) -> Option<Offers> {
        let live = self.live();
        live.index.open.get(jid).map(|open| Offers { opened: open.opened, expires: open.expires, groups: groups(open) })
    }

    /// Where a rolling job stands; `None` for every other job, and for one that is not open.
    pub fn batch_of(&self, jid: &JobId) -> Option<BatchView> {
        let live = self.live();
        live.index.open.get(jid).and_then(view)
    }
}

fn groups(open: &OpenJob) -> Vec<(LogicalTime, RoaringBitmap)> {
    let Some(rolls) = &open.rolls else { return vec![(open.expires, open.waiting.clone())] };
    let closes = Duration::from_millis(rolls.rolling.turn_ms) / TURN_CLOSES;
    let closes = u64::try_from(closes.as_micros()).unwrap_or(u64::MAX);
    let mut groups: BTreeMap<LogicalTime, RoaringBitmap> = BTreeMap::new();
    for (number, ends) in &rolls.turns {
        let until = LogicalTime::from_unix_micros(ends.unix_micros().saturating_sub(closes));
        groups.entry(until).or_default().insert(*number);
    }
    groups.into_iter().collect()
}

fn view(open: &OpenJob) -> Option<BatchView> {
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    open.rolls.as_ref().map(|rolls| BatchView {
        rolling: rolls.rolling,
        width: count(rolls.width),
        held: count(open.held.len()),
        running: count(open.running()),
        resting: count(rolls.rests.len() as u64),
        stand: open.stand,
    })
}

/// The same of any rolling job, open or done.
pub(super) fn stands(
    kv: &Arc<dyn Kv>,
    index: &Index,
    jid: JobId,
    row: &JobRow,
) -> Result<Option<BatchView>, StoreError> {
    let Some(rolling) = row.rolling else { return Ok(None) };
    if let Some(open) = index.open.get(&jid) {
        return Ok(view(open));
    }
    let ending = job::end(kv, jid)?.and_then(|end| end.ending);
    let width = u32::try_from(rolling.size.of(row.expected.len())).unwrap_or(u32::MAX);
    let stand = Stand { paused: false, ending };
    Ok(Some(BatchView { rolling, width, held: 0, running: 0, resting: 0, stand }))
}
