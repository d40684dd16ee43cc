//! Who of a worker's minions works: kept up to date by what their agents say, read for figures.

use crate::agent::Status;
use saltern_wire::io::Clock;
use saltern_wire::session::Standing;
use saltern_wire::swarm::{Event, Figures, Line};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

/// What is known of one minion.
#[derive(Debug, Clone, Default)]
struct Row {
    id: String,
    attached: Option<String>,
    /// It works through its master.
    ready: bool,
    standing: Option<Standing>,
    waiting: usize,
    /// It was told to stay away, or to leave for a moment.
    away: bool,
    frozen: bool,
}

#[derive(Debug, Default)]
struct Rows {
    rows: Vec<Row>,
    lost: u64,
    ready_since_us: u64,
}

/// The minions of a worker, by their number in it.
pub struct Board {
    rows: Mutex<Rows>,
    clock: Arc<dyn Clock>,
    /// Where changes are told, if anybody wants them. What waits there is bounded by what changes.
    events: Option<UnboundedSender<Line>>,
}

impl Board {
    /// Minions with these ids, all of them away.
    pub fn new(
        ids: impl Iterator<Item = String>,
        clock: Arc<dyn Clock>,
        events: Option<UnboundedSender<Line>>,
    ) -> Self {
        let rows = ids.map(|id| Row { id, away: true, ..Row::default() }).collect();
        let ready_since_us = clock.wall_unix_micros();
        Self { rows: Mutex::new(Rows { rows, lost: 0, ready_since_us }), clock, events }
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was told to be away, or not to be any more.
    pub fn tell_away(&self, number: usize, away: bool) {
        if let Some(row) = self.lock().rows.get_mut(number) {
            row.away = away;
        }
    }

    /// It was told to stand still, or to go on.
    pub fn tell_frozen(&self, number: usize, frozen: bool) {
        if let Some(row) = self.lock().rows.get_mut(number) {
            row.frozen = frozen;
        }
    }

    /// Notes what an agent says of itself; `None` when it has ended.
    fn note(&self, number: usize, status: Option<&Status>) {
        let at_us = self.clock.wall_unix_micros();
        let mut rows = self.lock();
        let Some(row) = rows.rows.get_mut(number) else { return };
        let before = row.ready.then(|| row.attached.clone()).flatten();
        let name = |status: &Status| status.attached.as_ref().map(|attached| attached.name.clone());
        row.attached = status.and_then(name);
        row.standing = status.and_then(|status| status.standing).or(row.standing);
        row.waiting = status.map_or(row.waiting, |status| status.waiting);
        let accepted = matches!(row.standing, Some(Standing::Accepted { .. }));
        row.ready = accepted && row.attached.is_some() && status.is_some_and(|status| status.subscribed);
        let now = row.ready.then(|| row.attached.clone()).flatten();
        if before == now {
            return;
        }
        let (minion, was_told) = (row.id.clone(), row.away);
        rows.lost += u64::from(now.is_none() && !was_told);
        if before.is_none() || now.is_none() {
            rows.ready_since_us = at_us;
        }
        if let Some(events) = &self.events {
            // The writer ends with the worker.
            let _ = events.send(Line::Event(Event { minion, master: now, at_us }));
        }
    }

    /// The part of the figures that is known here.
    pub fn figures(&self) -> Figures {
        let rows = self.lock();
        let mut figures = Figures {
            at_us: self.clock.wall_unix_micros(),
            minions: rows.rows.len(),
            lost: rows.lost,
            ready_since_us: rows.ready_since_us,
            ..Figures::default()
        };
        for row in &rows.rows {
            figures.away += usize::from(row.away);
            figures.frozen += usize::from(row.frozen);
            figures.attached += usize::from(row.attached.is_some());
            figures.ready += usize::from(row.ready);
            figures.waiting += row.waiting;
            if let Some(master) = &row.attached {
                match figures.masters.get_mut(master) {
                    Some(count) => *count += 1,
                    None => drop(figures.masters.insert(master.clone(), 1)),
                }
            }
            match row.standing {
                Some(Standing::Pending) => figures.pending += 1,
                Some(Standing::Rejected | Standing::Denied | Standing::Deleted) => figures.refused += 1,
                Some(Standing::Accepted { .. }) | None => {}
            }
        }
        figures
    }
}

/// Keeps the row of one agent up to date until the agent has ended.
pub async fn follow(board: Arc<Board>, number: usize, mut status: watch::Receiver<Status>) {
    loop {
        let now = status.borrow_and_update().clone();
        board.note(number, Some(&now));
        if status.changed().await.is_err() {
            board.note(number, None);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Attached;
    use saltern_pubsub::clock::SystemClock;
    use saltern_wire::MasterId;
    use saltern_wire::crypto::Identity;
    use saltern_wire::id::Ordinal;
    use saltern_wire::io::Address;
    use tokio::sync::mpsc;

    fn status(master: Option<&str>, subscribed: bool) -> Status {
        let attached =
            |name: &str| Attached { master: MasterId(1), name: name.into(), address: Address::new("m", 4506) };
        Status {
            fingerprint: Identity::from_seed([1; 32]).public_key().fingerprint(),
            attached: master.map(attached),
            standing: Some(Standing::Accepted { ordinal: Ordinal(1) }),
            standby: None,
            subscribed,
            running: 0,
            waiting: 0,
        }
    }

    #[test]
    fn a_minion_works_once_it_listens_and_is_lost_unless_it_was_told_to_go() {
        let (events, mut told) = mpsc::unbounded_channel();
        let ids = ["web-1".to_owned(), "web-2".to_owned()].into_iter();
        let board = Board::new(ids, Arc::new(SystemClock::new()), Some(events));
        for number in 0..2 {
            board.tell_away(number, false);
            board.note(number, Some(&status(Some("a"), false)));
            board.note(number, Some(&status(Some("a"), true)));
        }
        let figures = board.figures();
        assert_eq!((figures.attached, figures.ready, figures.away, figures.lost), (2, 2, 0, 0));
        // A promotion: another master, and no moment without one.
        board.note(0, Some(&status(Some("b"), true)));
        board.note(0, Some(&status(None, false)));
        board.tell_away(1, true);
        board.note(1, None);
        let figures = board.figures();
        assert_eq!((figures.attached, figures.ready, figures.away, figures.lost), (0, 0, 1, 1));
        let mut masters = Vec::new();
        while let Ok(Line::Event(event)) = told.try_recv() {
            masters.push((event.minion, event.master));
        }
        let expect =
            [("web-1", Some("a")), ("web-2", Some("a")), ("web-1", Some("b")), ("web-1", None), ("web-2", None)];
        assert_eq!(masters, expect.map(|(minion, master)| (minion.to_owned(), master.map(str::to_owned))));
    }
}
