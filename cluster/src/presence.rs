//! Who is attached where: in memory, shared between the masters in batched deltas, never in Raft.
//!
//! ```text
//!   sessions ── attach, detach ──▶ Table ── PresenceUpdate ──▶ PeerChannel ──▶ every other master
//!   every other master ── PresenceUpdate ──▶ handle_update ──▶ Table ── Change ──▶ subscribers
//! ```
//!
//! [`table`] decides, this file locks it for the length of one decision and carries its messages. What it says is as good
//! as the last message of each master, so every answer goes with its [`Coverage`].
//!
//! **It refuses** to be a fact: nothing that must be right is derived from presence, only what people are told.

pub mod table;

pub use table::{AttachRoom, Change, Coverage, Departure, Heard, PresenceUpdate, Seat, Whereabouts};

use crate::replica::Replica;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use saltern_wire::io::{Io, draw};
use saltern_wire::master::MasterState;
use saltern_wire::{LogicalTime, MasterId, MinionId};
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use table::Table;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long changes are gathered before the others are told: people cannot see it, and a herd costs ten messages a second.
const GATHER: Duration = Duration::from_millis(100);

/// How often a master that has nothing to say says so. A third of [`table::SILENT_AFTER`].
pub const UPDATE_IDLE: Duration = Duration::from_secs(2);

/// Idle intervals between two whole lists, which repair what deltas cannot: about a minute.
const WHOLE_EVERY: u32 = 30;

/// How long a message to another master may take, an answer included.
pub const SEND_WITHIN: Duration = Duration::from_secs(2);

/// Changes that a slow watcher of events may be behind before it is told that it lags.
const CHANGES_WAITING_MAX: usize = 256;

/// The way to the other masters.
#[async_trait::async_trait]
pub trait PeerChannel: Send + Sync + 'static {
    /// Tells `to`, waiting at most [`SEND_WITHIN`]; `None` if it is not known to have arrived.
    async fn send_presence(&self, to: MasterId, update: PresenceUpdate) -> Option<Heard>;
}

/// Who is attached where, as this master knows it. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    shared: Arc<Shared>,
}

struct Shared {
    table: Mutex<Table>,
    io: Io,
    replica: Arc<dyn Replica>,
    wake: Notify,
    /// What watchers have yet to be told: a herd is one change, and who was away for a moment is none.
    untold: Mutex<Change>,
    changes: broadcast::Sender<Change>,
}

impl Presence {
    /// An empty table for the master of `replica`.
    pub fn new(replica: Arc<dyn Replica>, io: Io) -> Self {
        let boot = u64::from_be_bytes(draw(io.entropy.as_ref()));
        let table = Mutex::new(Table::new(replica.id(), boot));
        let changes = broadcast::Sender::new(CHANGES_WAITING_MAX);
        let untold = Mutex::default();
        let presence = Self { shared: Arc::new(Shared { table, io, replica, wake: Notify::new(), untold, changes }) };
        presence.learn_peers();
        presence
    }

    /// Starts telling the other masters, until `cancel`. One task, tracked by `tasks`.
    pub fn start(&self, channel: Arc<dyn PeerChannel>, tasks: &TaskTracker, cancel: CancellationToken) {
        let presence = self.clone();
        tasks.spawn(async move { presence.run(channel, cancel).await });
    }

    /// Where `minion` is.
    pub fn where_is(&self, minion: &MinionId) -> Whereabouts {
        let now = self.now();
        self.lock().where_is(minion, now)
    }

    /// Every minion attached to a master that answers.
    pub fn all(&self) -> BTreeSet<MinionId> {
        let now = self.now();
        self.lock().connected(now)
    }

    /// How much of the cluster is known.
    pub fn coverage(&self) -> Coverage {
        let now = self.now();
        self.lock().coverage(now)
    }

    /// How many sessions `master` has told of; `None` if it is no master.
    pub fn sessions_of(&self, master: MasterId) -> Option<u64> {
        self.lock().sessions_of(master)
    }

    /// Whether `master` has told of its sessions lately.
    pub fn hears(&self, master: MasterId) -> bool {
        let now = self.now();
        self.lock().hears(master, now)
    }

    /// This master could take on so many minions.
    pub fn set_room(&self, room: AttachRoom) {
        self.lock().set_room(room);
    }

    /// What the other masters that answer could take on together.
    pub fn room_of_others(&self) -> AttachRoom {
        let now = self.now();
        self.lock().room_of_others(now)
    }

    /// What changes for the cluster as a whole, from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// Takes what `from` tells of its sessions. The mesh calls this.
    pub fn handle_update(&self, from: MasterId, update: PresenceUpdate) -> Heard {
        let now = self.now();
        let (heard, change) = self.lock().handle_update(from, update, now);
        self.announce(change);
        heard
    }

    /// A minion is attached here.
    pub fn attach(&self, seat: Seat) {
        let change = self.lock().attach(seat);
        self.announce(change);
        self.shared.wake.notify_one();
    }

    /// A minion is no longer attached here.
    pub fn detach(&self, minion: &MinionId, at: LogicalTime) {
        let change = self.lock().detach(minion, at);
        self.announce(change);
        self.shared.wake.notify_one();
    }

    async fn run(self, channel: Arc<dyn PeerChannel>, cancel: CancellationToken) {
        let mut idle = tokio::time::interval(UPDATE_IDLE);
        idle.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut gathering: Option<Pin<Box<tokio::time::Sleep>>> = None;
        let mut sending: BTreeSet<MasterId> = BTreeSet::new();
        let mut outcomes = FuturesUnordered::new();
        let mut rounds: u32 = 0;
        loop {
            let gathered = async {
                match gathering.as_mut() {
                    Some(sleep) => sleep.await,
                    None => std::future::pending().await,
                }
            };
            let due = tokio::select! {
                () = cancel.cancelled() => return,
                _ = idle.tick() => {
                    rounds = rounds.wrapping_add(1);
                    self.tidy(rounds.is_multiple_of(WHOLE_EVERY));
                    self.tell_changes();
                    self.lock().peers()
                }
                () = gathered => {
                    gathering = None;
                    self.tell_changes();
                    // A master that has just joined hears of this at once, not after an idle interval.
                    self.learn_peers();
                    self.lock().owing()
                }
                () = self.shared.wake.notified() => {
                    gathering.get_or_insert_with(|| Box::pin(tokio::time::sleep(GATHER)));
                    continue;
                }
                Some((to, heard)) = outcomes.next() => {
                    sending.remove(&to);
                    let mut table = self.lock();
                    table.handle_heard(to, heard);
                    // What came up meanwhile goes next; a master that does not answer waits for the idle round.
                    if heard.is_some() && table.owing().contains(&to) {
                        self.shared.wake.notify_one();
                    }
                    continue;
                }
            };
            for to in due {
                if sending.contains(&to) {
                    continue;
                }
                let Some(update) = self.lock().poll_update(to) else { continue };
                sending.insert(to);
                let channel = Arc::clone(&channel);
                outcomes.push(async move { (to, channel.send_presence(to, update).await) });
            }
        }
    }

    fn tidy(&self, whole: bool) {
        self.learn_peers();
        let now = self.now();
        let at = self.shared.replica.now();
        let change = {
            let mut table = self.lock();
            if whole {
                table.resync();
            }
            table.poll_lost(now, at)
        };
        self.announce(change);
        let state = self.shared.replica.state();
        self.lock().forget(|minion| state.ordinal_of(minion).is_some());
    }

    fn learn_peers(&self) {
        let signed = self.shared.replica.state().directory();
        let Some(directory) = signed.and_then(|signed| signed.peek().ok()) else { return };
        let serving = directory.masters.iter().filter(|master| master.state != MasterState::Joining);
        let masters = serving.map(|master| master.id).collect();
        let now = self.now();
        self.lock().set_peers(&masters, now);
    }

    fn announce(&self, change: Change) {
        if !change.is_empty() {
            self.shared.untold.lock().unwrap_or_else(PoisonError::into_inner).amend(change);
            self.shared.wake.notify_one();
        }
    }

    /// Tells watchers what was gathered.
    fn tell_changes(&self) {
        let change = std::mem::take(&mut *self.shared.untold.lock().unwrap_or_else(PoisonError::into_inner));
        if !change.is_empty() {
            // Nobody watching is not an error.
            let _ = self.shared.changes.send(change);
        }
    }

    fn now(&self) -> Duration {
        self.shared.io.clock.monotonic()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
