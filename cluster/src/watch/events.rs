//! Applied entries and presence as events, in Salt's tags and with Salt's field names.
//!
//! An event's revision is the index of the entry that caused it, the same at every master. Presence never enters the log:
//! its events have revision zero and are what this master noticed. So have its notices of those who ask too much of it.

use crate::presence::{Change, Presence};
use crate::replica::Replica;
use crate::witness::{Notice, Witness};
use futures::Stream;
use roaring::RoaringBitmap;
use saltern_store::command::Effect;
use saltern_store::{AppliedEntry, State};
use saltern_wire::crypto::Signed;
use saltern_wire::event::Event;
use saltern_wire::job::{Job, OutcomeKind, ReturnRecord};
use saltern_wire::key::{KeyRecord, KeyState};
use saltern_wire::master::{Directory, MasterRecord};
use saltern_wire::rolling::Ending;
use saltern_wire::{JobId, LogicalTime, MasterId, MinionId, Ordinal, Revision, Value};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

struct Source {
    replica: Arc<dyn Replica>,
    entries: broadcast::Receiver<Arc<AppliedEntry>>,
    changes: broadcast::Receiver<Change>,
    notices: broadcast::Receiver<Notice>,
    quarantined: Option<broadcast::Receiver<(MasterId, String)>>,
    queue: VecDeque<Event>,
}

/// Everything that happens from now on. A watcher that falls behind is told so by an event `salt/lag` with how many entries
/// it missed, and goes on with the newest.
pub fn events(
    replica: Arc<dyn Replica>,
    presence: &Presence,
    witness: &Witness,
) -> impl Stream<Item = Event> + Send + 'static {
    let (entries, changes, notices) = (replica.subscribe(), presence.subscribe(), witness.subscribe());
    let quarantined = replica.quarantined();
    let source = Source { replica, entries, changes, notices, quarantined, queue: VecDeque::new() };
    futures::stream::unfold(source, |mut source| async move { source.next().await.map(|event| (event, source)) })
}

impl Source {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            let now = self.replica.now();
            tokio::select! {
                entry = self.entries.recv() => match entry {
                    Ok(entry) => self.queue.extend(of_entry(&entry, self.replica.state())),
                    Err(RecvError::Lagged(missed)) => self.queue.push_back(lag(missed, now)),
                    Err(RecvError::Closed) => return None,
                },
                notice = self.notices.recv() => match notice {
                    Ok(notice) => self.queue.push_back(of_notice(notice, now)),
                    Err(RecvError::Lagged(missed)) => self.queue.push_back(lag(missed, now)),
                    Err(RecvError::Closed) => return None,
                },
                change = self.changes.recv() => match change {
                    Ok(change) => self.queue.extend(of_change(&change, self.replica.now())),
                    Err(RecvError::Lagged(missed)) => self.queue.push_back(lag(missed, now)),
                    Err(RecvError::Closed) => return None,
                },
                (master, cause) = next_quarantined(&mut self.quarantined) => {
                    self.queue.extend(of_quarantined(master, &cause, self.replica.state(), self.replica.now()));
                }
            }
        }
    }
}

/// The next master that says that it takes part no more. One that was missed stands in the cluster's status.
async fn next_quarantined(told: &mut Option<broadcast::Receiver<(MasterId, String)>>) -> (MasterId, String) {
    loop {
        match told {
            None => return std::future::pending().await,
            Some(receiver) => match receiver.recv().await {
                Ok(news) => return news,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => *told = None,
            },
        }
    }
}

/// The event of a master that quarantined itself, as this master was told.
fn of_quarantined(master: MasterId, cause: &str, state: &State, time: LogicalTime) -> Option<Event> {
    let directory = state.directory()?.peek().ok()?;
    let name = &directory.master(master)?.name;
    let data = json!({ "id": master, "name": name, "quarantined": cause, "_stamp": time });
    Some(Event { tag: format!("salt/master/{name}"), revision: Revision(0), time, data })
}

fn lag(missed: u64, time: LogicalTime) -> Event {
    Event { tag: "salt/lag".into(), revision: Revision(0), time, data: json!({ "missed": missed }) }
}

/// The event of something that this master noticed about somebody who asks too much, or about itself.
fn of_notice(notice: Notice, time: LogicalTime) -> Event {
    Event { tag: notice.tag, revision: Revision(0), time, data: notice.data }
}

/// The events of one applied entry. `state` gives what an effect only names: functions, operators, ids.
pub fn of_entry(entry: &AppliedEntry, state: &State) -> Vec<Event> {
    let mut events = Vec::new();
    let mut event = |tag: String, mut data: Value| {
        if let Value::Object(fields) = &mut data {
            fields.insert("_stamp".into(), json!(entry.time));
        }
        events.push(Event { tag, revision: entry.revision, time: entry.time, data });
    };
    let mut jobs = BTreeMap::new();
    for effect in &entry.effects {
        match effect {
            Effect::Key { record, deleted } => event("salt/key".into(), key_data(record, *deleted)),
            Effect::JobOpened { job, jid } => {
                if let Ok(job) = job.peek() {
                    event(format!("salt/job/{jid}/new"), new_data(&job, state));
                }
            }
            Effect::Returned { record } => {
                let tag = format!("salt/job/{}/ret/{}", record.jid, record.minion);
                // An entry carries hundreds of returns, often of one job: it is read once.
                let job = jobs.entry(record.jid).or_insert_with(|| job_of(record.jid, state));
                event(tag, return_data(record, job.as_ref()));
            }
            Effect::Facts { minion } => event(format!("salt/minion/{minion}/refresh"), json!({ "id": minion })),
            Effect::Mine { minion, functions } => {
                event(format!("salt/mine/{minion}"), json!({ "id": minion, "functions": functions }));
            }
            Effect::Directory { directory } => {
                for (tag, data) in directory_data(directory) {
                    event(tag, data);
                }
            }
            Effect::Settings { settings } => event("salt/config".into(), json!({ "settings": settings })),
            Effect::Released { jid, ordinals } => {
                event(format!("salt/job/{jid}/batch"), batch_data(*jid, ordinals, state));
            }
            Effect::JobStands { jid, stand, by } => {
                let word = match (stand.ending, stand.paused) {
                    (Some(Ending::Killed), _) => "killed",
                    (Some(Ending::Failhard), _) => "failhard",
                    (None, true) => "paused",
                    (None, false) => "resumed",
                };
                event(format!("salt/job/{jid}/{word}"), json!({ "jid": jid, "user": by }));
            }
            Effect::JobDone { jid } => event(format!("salt/job/{jid}/done"), json!({ "jid": jid })),
            // This master was brought up to date by a snapshot; nobody knows how many events it saw nothing of.
            Effect::Replaced => event("salt/lag".into(), json!({ "missed": null })),
            // Steps between these: their ends are told.
            Effect::JobAccepted { .. } | Effect::Settled { .. } => {}
        }
    }
    events
}

/// The events of a change of presence, as this master noticed it.
pub fn of_change(change: &Change, time: LogicalTime) -> Vec<Event> {
    let event = |tag: String, data: Value| Event { tag, revision: Revision(0), time, data };
    let data = json!({ "new": change.new, "lost": change.lost, "_stamp": time });
    let mut events = vec![event("salt/presence/change".into(), data)];
    for minion in &change.new {
        let text = format!("Minion {minion} started at {time}");
        let data = json!({ "id": minion, "cmd": "_minion_event", "pretag": null, "data": text, "_stamp": time });
        events.push(event(format!("salt/minion/{minion}/start"), data));
    }
    events
}

fn key_data(record: &KeyRecord, deleted: bool) -> Value {
    let act = match record.state {
        _ if deleted => "delete",
        KeyState::Accepted => "accept",
        KeyState::Pending => "pend",
        KeyState::Rejected => "reject",
        KeyState::Denied => "denied",
    };
    json!({
        "id": record.minion,
        "act": act,
        "result": !matches!(record.state, KeyState::Denied),
        "finger": record.fingerprint(),
        "user": record.decided_by,
    })
}

fn new_data(job: &Job, state: &State) -> Value {
    let mut minions: Vec<MinionId> = job.targets.iter().filter_map(|ordinal| state.name_of(Ordinal(ordinal))).collect();
    minions.sort();
    json!({
        "jid": job.jid,
        "tgt_type": job.target.kind,
        "tgt": job.target.expression,
        "user": job.user,
        "fun": job.function,
        "arg": job.arguments,
        "kwarg": job.keywords,
        "minions": minions,
        "missing": [],
    })
}

fn job_of(jid: JobId, state: &State) -> Option<Job> {
    state.signed_job(&jid).ok().flatten().and_then(|signed| signed.peek().ok())
}

/// A return whose job was purged is told without what only the job knew.
fn return_data(record: &ReturnRecord, job: Option<&Job>) -> Value {
    let outcome = &record.outcome;
    json!({
        "cmd": "_return",
        "id": record.minion,
        "success": outcome.success,
        "return": outcome.value,
        "retcode": outcome.retcode,
        "jid": record.jid,
        "fun": job.map(|job| job.function.as_str()),
        "fun_args": job.map(|job| &job.arguments),
        "user": job.map(|job| job.user.as_str()),
        "interrupted": matches!(outcome.kind, OutcomeKind::Interrupted),
        "master": record.via,
    })
}

/// Whose turn has come, and how far the job is now.
fn batch_data(jid: JobId, ordinals: &RoaringBitmap, state: &State) -> Value {
    let mut minions: Vec<MinionId> = ordinals.iter().filter_map(|ordinal| state.name_of(Ordinal(ordinal))).collect();
    minions.sort();
    let stands = state.batch_of(&jid);
    json!({
        "jid": jid,
        "minions": minions,
        "held": stands.map(|batch| batch.held),
        "running": stands.map(|batch| batch.running),
    })
}

fn directory_data(directory: &Signed<Directory>) -> Vec<(String, Value)> {
    let Ok(directory) = directory.peek() else { return Vec::new() };
    let version = (directory.generation, directory.version);
    let data = |master: &MasterRecord| {
        let data = json!({ "id": master.id, "name": master.name, "state": master.state, "region": master.region,
            "zone": master.zone, "directory": version });
        (format!("salt/master/{}", master.name), data)
    };
    directory.masters.iter().map(data).collect()
}
