//! What apply and the views need at every step, in memory: counters, keys, names, open jobs. Everything here is also on the
//! disk and is rebuilt from it when the state is opened; the disk is the truth.

use crate::chain::Chain;
use crate::error::StoreError;
use crate::kv::Kv;
use crate::level;
use crate::table::meta::{self, CaRow};
use crate::table::timeline::{self, Due};
use crate::table::{job, key, minion, returns};
use roaring::RoaringBitmap;
use saltern_wire::crypto::Signed;
use saltern_wire::job::Progress;
use saltern_wire::key::{KeyRecord, KeyState};
use saltern_wire::master::Directory;
use saltern_wire::rolling::{Rolling, Stand};
use saltern_wire::settings::Settings;
use saltern_wire::{JobId, LogicalTime, MinionId, Ordinal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A job that somebody owes an answer for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OpenJob {
    pub(crate) opened: LogicalTime,
    pub(crate) expires: LogicalTime,
    pub(crate) expected: RoaringBitmap,
    /// May accept it, and have not.
    pub(crate) waiting: RoaringBitmap,
    /// Have accepted it and not answered.
    pub(crate) accepted: RoaringBitmap,
    /// Those of a long answer of which pieces are missing: for all others there is nothing to look for.
    pub(crate) partial: RoaringBitmap,
    /// Minions with a result.
    pub(crate) returned: u32,
    /// Their turn has not come. Nobody, unless the job is a rolling one.
    pub(crate) held: RoaringBitmap,
    pub(crate) stand: Stand,
    /// Where the next tick is told to go on with it.
    pub(crate) more: Option<LogicalTime>,
    pub(crate) rolls: Option<Box<Rolls>>,
}

/// What a rolling job has besides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rolls {
    pub(crate) rolling: Rolling,
    /// How many may have it at one time.
    pub(crate) width: u64,
    /// Those who are waiting: until when they may accept it.
    pub(crate) turns: BTreeMap<u32, LogicalTime>,
    /// Those whose place stays empty behind them: until when.
    pub(crate) rests: BTreeMap<u32, LogicalTime>,
}

impl Rolls {
    pub(crate) fn new(rolling: Rolling, expected: u64) -> Self {
        Self { rolling, width: rolling.size.of(expected), turns: BTreeMap::new(), rests: BTreeMap::new() }
    }

    /// Until when a minion whose turn comes at `time` may accept a job that ends at `expires`.
    pub(crate) fn turn_ends(&self, time: LogicalTime, expires: LogicalTime) -> LogicalTime {
        time.plus(Duration::from_millis(self.rolling.turn_ms)).min(expires)
    }
}

impl OpenJob {
    /// Whether `ordinal` owes an answer, or will when its turn comes.
    pub(crate) fn is_owed_by(&self, ordinal: Ordinal) -> bool {
        [&self.waiting, &self.accepted, &self.held].iter().any(|whom| whom.contains(ordinal.0))
    }

    /// Whether everybody is settled.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.accepted.is_empty() && self.held.is_empty()
    }

    /// How many have it, or may have it, at this moment.
    pub(crate) fn running(&self) -> u64 {
        self.waiting.len() + self.accepted.len()
    }
}

/// The state in memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Index {
    pub(crate) applied: u64,
    /// The cluster's feature level.
    pub(crate) level: u32,
    /// What the entries so far have changed, as a hash.
    pub(crate) chain: Chain,
    pub(crate) position: Option<Vec<u8>>,
    pub(crate) membership: Option<Vec<u8>>,
    pub(crate) time: LogicalTime,
    pub(crate) settings: Settings,
    pub(crate) ca: Option<CaRow>,
    pub(crate) directory: Option<Signed<Directory>>,
    pub(crate) next_ordinal: u32,
    pub(crate) next_master: u64,
    pub(crate) orphans: u64,
    pub(crate) newest_job: Option<JobId>,
    /// Keys that are not denied.
    pub(crate) keys: BTreeMap<MinionId, KeyRecord>,
    /// How many of them are pending.
    pub(crate) pending: u32,
    /// Every ordinal ever given.
    pub(crate) names: BTreeMap<Ordinal, MinionId>,
    /// Ordinals of accepted keys.
    pub(crate) accepted: RoaringBitmap,
    pub(crate) open: BTreeMap<JobId, OpenJob>,
}

impl Index {
    /// Reads everything from `kv`. Refuses a state of a level that this build does not know before it looks at any row.
    pub(crate) fn load(kv: &Arc<dyn Kv>) -> Result<Self, StoreError> {
        let number = |name: &str| meta::number(kv, name);
        let count = |name: &str, first: u64| Ok::<_, StoreError>(number(name)?.unwrap_or(first));
        let level = level::read(kv)?;
        let next_ordinal = u32::try_from(count(meta::NEXT_ORDINAL, 1)?)
            .map_err(|error| StoreError::corrupt("the counter next_ordinal", error))?;
        let mut index = Self {
            applied: count(meta::APPLIED, 0)?,
            level,
            chain: Chain::load(kv)?,
            position: meta::bytes(kv, meta::POSITION)?,
            membership: meta::bytes(kv, meta::MEMBERSHIP)?,
            time: LogicalTime::from_unix_micros(count(meta::TIME, 0)?),
            settings: meta::settings(kv)?,
            ca: meta::ca(kv)?,
            directory: meta::directory(kv)?,
            next_ordinal,
            next_master: count(meta::NEXT_MASTER, 1)?,
            orphans: count(meta::ORPHANS, 0)?,
            newest_job: meta::newest_job(kv)?,
            keys: BTreeMap::new(),
            pending: 0,
            names: minion::all(kv)?.into_iter().collect(),
            accepted: RoaringBitmap::new(),
            open: BTreeMap::new(),
        };
        for record in key::all(kv)? {
            index.put_key(record);
        }
        for (jid, stand) in job::open(kv)? {
            index.open.insert(jid, load_open(kv, jid, stand)?);
        }
        index.load_places(kv)?;
        Ok(index)
    }

    /// What the timeline says about open jobs and nothing else does.
    fn load_places(&mut self, kv: &Arc<dyn Kv>) -> Result<(), StoreError> {
        for (time, subject) in timeline::all(kv, Due::Rest)? {
            let (jid, ordinal) = job::parse_place(&subject)?;
            if let Some(rolls) = self.open.get_mut(&jid).and_then(|open| open.rolls.as_mut()) {
                rolls.rests.insert(ordinal.0, time);
            }
        }
        for (time, subject) in timeline::all(kv, Due::More)? {
            if let Some(open) = self.open.get_mut(&job::parse_jid(&subject)?) {
                open.more = Some(time);
            }
        }
        Ok(())
    }

    /// Puts a key that is not denied, keeping the counts.
    pub(crate) fn put_key(&mut self, record: KeyRecord) {
        self.remove_key(&record.minion.clone());
        if record.state == KeyState::Pending {
            self.pending += 1;
        }
        if let (KeyState::Accepted, Some(ordinal)) = (record.state, record.ordinal) {
            self.accepted.insert(ordinal.0);
        }
        self.keys.insert(record.minion.clone(), record);
    }

    /// Removes a key that is not denied, keeping the counts.
    pub(crate) fn remove_key(&mut self, minion: &MinionId) -> Option<KeyRecord> {
        let record = self.keys.remove(minion)?;
        if record.state == KeyState::Pending {
            self.pending -= 1;
        }
        if let Some(ordinal) = record.ordinal {
            self.accepted.remove(ordinal.0);
        }
        Some(record)
    }
}

fn load_open(kv: &Arc<dyn Kv>, jid: JobId, stand: Stand) -> Result<OpenJob, StoreError> {
    let absent = || StoreError::corrupt(format!("the open job {jid}"), "it has no record");
    let row = job::get(kv, jid)?.ok_or_else(absent)?;
    let intent = row.job.peek().map_err(|error| StoreError::corrupt(format!("the job {jid}"), error))?;
    let mut open = OpenJob {
        opened: row.opened,
        expires: intent.expires(),
        accepted: RoaringBitmap::new(),
        partial: returns::incomplete(kv, jid)?,
        returned: 0,
        waiting: RoaringBitmap::new(),
        held: RoaringBitmap::new(),
        stand,
        more: None,
        rolls: row.rolling.map(|rolling| Box::new(Rolls::new(rolling, row.expected.len()))),
        expected: row.expected,
    };
    let mut untouched = open.expected.clone();
    for (ordinal, row) in job::progress_of(kv, jid)? {
        untouched.remove(ordinal.0);
        match row.progress {
            Progress::Waiting => {
                open.waiting.insert(ordinal.0);
                if let Some(rolls) = &mut open.rolls {
                    rolls.turns.insert(ordinal.0, rolls.turn_ends(row.since, open.expires));
                }
            }
            Progress::Accepted => {
                open.accepted.insert(ordinal.0);
            }
            Progress::Returned | Progress::Failed | Progress::Interrupted => open.returned += 1,
            Progress::Held => return Err(StoreError::corrupt(format!("the open job {jid}"), "a row says held")),
            Progress::Expired | Progress::Unreachable | Progress::Cancelled | Progress::Skipped | Progress::Killed => {}
        }
    }
    *(if open.rolls.is_some() { &mut open.held } else { &mut open.waiting }) |= untouched;
    Ok(open)
}
