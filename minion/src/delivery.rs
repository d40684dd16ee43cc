//! Which outcomes go to the master next, and what its verdicts mean. Pure.
//!
//! **Invariants.** An outcome is in at most one call at a time; its parts go in order; it is done when every part has a
//! verdict. Whatever a call's fate, an outcome is either done, set aside or waiting: none is lost here.

use saltern_wire::JobId;
use saltern_wire::job::{Recorded, ReturnPart};
use saltern_wire::limits::{RETURN_PART_OVERHEAD_BYTES, SESSION_MESSAGE_BYTES_MAX};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most bytes of parts in one call: leaves room for the envelope in a session's message.
const CALL_BYTES_MAX: usize = SESSION_MESSAGE_BYTES_MAX - 64 * 1024;

/// Most parts in one call: what a master puts into one log entry.
const CALL_PARTS_MAX: usize = saltern_wire::limits::RETURNS_PER_ENTRY_MAX;

/// Where an outcome's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the outbox.
    Disk,
    /// Here: of a pure function or a refusal.
    Memory(Arc<Vec<ReturnPart>>),
}

/// What reading an outcome from the outbox came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// Its parts.
    Parts(Vec<ReturnPart>),
    /// It was not read: not even its first part fits.
    Large,
    /// It cannot be read now.
    Unreadable,
}

#[derive(Debug, Clone)]
struct Item {
    source: Source,
    next_part: u16,
    in_flight: bool,
    /// The master called it invalid in company: it goes alone next time.
    suspect: bool,
}

/// One call on its way: what it carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flight {
    /// How many parts of each job, in the order of the call, and how many parts the whole has.
    pub jobs: Vec<(JobId, u16, u16)>,
    /// What its parts weigh, in bytes.
    pub bytes: usize,
}

/// What the loop has to do after a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The truth has it: forget it.
    Done(JobId, Source, Recorded),
    /// The masters will never take it: put it aside for people.
    Invalid(JobId, Source, String),
}

/// The outcomes that wait to be committed.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    items: BTreeMap<JobId, Item>,
    /// An outcome was left out of the last call for want of room.
    is_short: bool,
}

impl Delivery {
    /// Adds an outcome; one that is there already stays as it is.
    pub fn add(&mut self, jid: JobId, source: Source) {
        self.items.entry(jid).or_insert(Item { source, next_part: 0, in_flight: false, suspect: false });
    }

    /// Whether an outcome of `jid` waits.
    pub fn contains(&self, jid: JobId) -> bool {
        self.items.contains_key(&jid)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of outcomes kept in memory.
    pub fn memory_bytes(&self) -> usize {
        let of = |item: &Item| match &item.source {
            Source::Disk => 0,
            Source::Memory(parts) => parts.iter().map(|part| part.body.len() + RETURN_PART_OVERHEAD_BYTES).sum(),
        };
        self.items.values().map(of).sum()
    }

    /// Whether an outcome was left out of the last call for want of room.
    pub fn is_short(&self) -> bool {
        self.is_short
    }

    /// The next call, of at most `room` bytes: oldest outcomes first, as many as fit; one that does not fit holds up nobody.
    /// `load` reads an outcome's parts from the outbox, unless the first has more bytes than it is told. `None` if nothing
    /// waits that fits.
    pub fn next_call(
        &mut self,
        room: usize,
        mut load: impl FnMut(JobId, usize) -> Loaded,
    ) -> Option<(Vec<ReturnPart>, Flight)> {
        let room = room.min(CALL_BYTES_MAX);
        self.is_short = false;
        let mut parts: Vec<ReturnPart> = Vec::new();
        let mut flight = Flight::default();
        for (jid, item) in self.items.iter_mut().filter(|(_, item)| !item.in_flight) {
            let left = room.saturating_sub(flight.bytes);
            if left <= RETURN_PART_OVERHEAD_BYTES || parts.len() >= CALL_PARTS_MAX {
                self.is_short = true;
                break;
            }
            if item.suspect && !parts.is_empty() {
                continue;
            }
            let own = match &item.source {
                Source::Memory(own) if own.is_empty() => continue,
                Source::Memory(own) => own.as_ref().clone(),
                Source::Disk => match load(*jid, left - RETURN_PART_OVERHEAD_BYTES) {
                    Loaded::Parts(own) if !own.is_empty() => own,
                    Loaded::Parts(_) | Loaded::Unreadable => continue,
                    Loaded::Large => {
                        self.is_short = true;
                        continue;
                    }
                },
            };
            let whole = own[0].parts;
            let mut taken = 0;
            for part in own.into_iter().skip(usize::from(item.next_part)) {
                let bytes = part.body.len() + RETURN_PART_OVERHEAD_BYTES;
                if flight.bytes + bytes > room || parts.len() >= CALL_PARTS_MAX {
                    self.is_short = true;
                    break;
                }
                flight.bytes += bytes;
                taken += 1;
                parts.push(part);
            }
            if taken > 0 {
                item.in_flight = true;
                flight.jobs.push((*jid, taken, whole));
                if item.suspect {
                    break;
                }
            }
        }
        (!parts.is_empty()).then_some((parts, flight))
    }

    /// The master's verdicts, one a part.
    pub fn handle_recorded(&mut self, flight: &Flight, verdicts: &[Recorded]) -> Vec<Settled> {
        let mut verdicts = verdicts.iter().copied();
        let mut settled = Vec::new();
        for (jid, taken, whole) in &flight.jobs {
            let own: Vec<Recorded> = verdicts.by_ref().take(usize::from(*taken)).collect();
            let Some(item) = self.items.get_mut(jid) else { continue };
            item.in_flight = false;
            item.suspect = false;
            // A master that answers with too few verdicts has not said anything about the rest.
            item.next_part += u16::try_from(own.len()).unwrap_or(0);
            if item.next_part < *whole {
                continue;
            }
            match own.iter().rev().find(|verdict| **verdict != Recorded::Part) {
                Some(verdict) => {
                    let source = item.source.clone();
                    self.items.remove(jid);
                    settled.push(Settled::Done(*jid, source, *verdict));
                }
                // Every part was kept and the whole never came together: the record went in between. Send it again.
                None => item.next_part = 0,
            }
        }
        settled
    }

    /// The call had no answer or was refused for now: everything in it waits again.
    pub fn handle_failed(&mut self, flight: &Flight) {
        for (jid, _, _) in &flight.jobs {
            if let Some(item) = self.items.get_mut(jid) {
                item.in_flight = false;
            }
        }
    }

    /// The call was refused for good. Alone, an outcome is put aside; in company, each goes alone next time.
    pub fn handle_invalid(&mut self, flight: &Flight, reason: &str) -> Vec<Settled> {
        if let [(jid, _, _)] = flight.jobs[..] {
            let Some(item) = self.items.remove(&jid) else { return Vec::new() };
            return vec![Settled::Invalid(jid, item.source, reason.to_owned())];
        }
        for (jid, _, _) in &flight.jobs {
            if let Some(item) = self.items.get_mut(jid) {
                item.in_flight = false;
                item.suspect = true;
            }
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::job::{Outcome, OutcomeKind};
    use saltern_wire::{LogicalTime, Value};

    fn jid(number: u64) -> JobId {
        JobId::mint(LogicalTime::from_unix_micros(1_795_392_390_000_000 + number * 1000), 1)
    }

    fn parts(number: u64, len: usize) -> Vec<ReturnPart> {
        let value = Value::String("x".repeat(len));
        let outcome = Outcome { kind: OutcomeKind::Finished, success: true, retcode: 0, value, duration_ms: 0 };
        ReturnPart::split(jid(number), &outcome).expect("below the limit")
    }

    fn filled(lens: &[usize]) -> Delivery {
        let mut delivery = Delivery::default();
        for (number, len) in (0..).zip(lens) {
            delivery.add(jid(number), Source::Memory(Arc::new(parts(number, *len))));
        }
        delivery
    }

    fn none(_: JobId, _: usize) -> Loaded {
        Loaded::Unreadable
    }

    #[test]
    fn small_returns_share_a_call_and_large_ones_take_several() {
        let mut delivery = filled(&[10, 3 << 20, 10]);
        let mut done = Vec::new();
        let mut calls = 0;
        while let Some((parts, flight)) = delivery.next_call(usize::MAX, none) {
            calls += 1;
            assert!(parts.iter().map(|part| part.body.len()).sum::<usize>() <= CALL_BYTES_MAX);
            let verdict =
                |part: &ReturnPart| if part.part + 1 == part.parts { Recorded::Committed } else { Recorded::Part };
            let verdicts: Vec<Recorded> = parts.iter().map(verdict).collect();
            done.extend(delivery.handle_recorded(&flight, &verdicts));
            assert!(calls < 20);
        }
        assert_eq!(done.len(), 3);
        assert!(calls >= 4, "3 MiB do not fit {calls} calls of 1 MiB");
        assert!(delivery.is_empty());
    }

    #[test]
    fn what_does_not_fit_the_room_waits_and_holds_up_nobody() {
        let mut delivery = filled(&[10, 100_000, 10]);
        delivery.add(jid(7), Source::Disk);
        let mut asked = Vec::new();
        let (_, flight) = delivery
            .next_call(10_000, |jid, room| {
                asked.push((jid, room));
                Loaded::Large
            })
            .expect("two are small");
        assert_eq!(flight.jobs.iter().map(|(jid, ..)| *jid).collect::<Vec<_>>(), [jid(0), jid(2)]);
        assert_eq!(
            asked,
            [(jid(7), 10_000 - flight.bytes - RETURN_PART_OVERHEAD_BYTES)],
            "the outbox knows what is left"
        );
        assert!(delivery.is_short());
        assert_eq!(delivery.next_call(10_000, none), None);
        assert!(delivery.is_short(), "the large one has not gone");
        let (parts, flight) = delivery.next_call(200_000, none).expect("now it fits");
        assert_eq!(flight.bytes, parts.iter().map(|part| part.body.len() + RETURN_PART_OVERHEAD_BYTES).sum::<usize>());
        assert!(!delivery.is_short(), "what cannot be read asks for no room");
    }

    #[test]
    fn an_outcome_without_parts_holds_up_nobody() {
        let mut delivery = filled(&[10]);
        delivery.add(jid(7), Source::Memory(Arc::default()));
        let (_, flight) = delivery.next_call(usize::MAX, none).expect("one waits");
        assert_eq!(flight.jobs, [(jid(0), 1, 1)]);
        assert_eq!(delivery.next_call(usize::MAX, none), None);
    }

    #[test]
    fn what_failed_is_sent_again_and_nothing_is_in_two_calls() {
        let mut delivery = filled(&[10, 10]);
        let (first, flight) = delivery.next_call(usize::MAX, none).expect("two wait");
        assert_eq!(delivery.next_call(usize::MAX, none), None);
        delivery.handle_failed(&flight);
        assert_eq!(delivery.next_call(usize::MAX, none).map(|(parts, _)| parts), Some(first));
    }

    #[test]
    fn too_few_verdicts_settle_only_what_they_name() {
        let mut delivery = filled(&[10, 10]);
        let (_, flight) = delivery.next_call(usize::MAX, none).expect("two wait");
        assert_eq!(delivery.handle_recorded(&flight, &[Recorded::Duplicate]).len(), 1);
        assert_eq!(delivery.next_call(usize::MAX, none).expect("one waits").1.jobs, [(jid(1), 1, 1)]);
    }

    #[test]
    fn one_invalid_return_does_not_hold_up_the_others() {
        let mut delivery = filled(&[10, 10, 10]);
        let (_, flight) = delivery.next_call(usize::MAX, none).expect("three wait");
        assert!(delivery.handle_invalid(&flight, "too large").is_empty());
        let (mut aside, mut done) = (0, 0);
        while let Some((parts, flight)) = delivery.next_call(usize::MAX, none) {
            assert_eq!(parts.len(), 1, "alone");
            if parts[0].jid == jid(1) {
                aside += delivery.handle_invalid(&flight, "too large").len();
            } else {
                done += delivery.handle_recorded(&flight, &[Recorded::Committed]).len();
            }
        }
        assert_eq!((aside, done), (1, 2));
    }
}
