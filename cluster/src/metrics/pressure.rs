//! What presses on a master, and what it does about it: queues, refusals, expired work, the gate.

use super::{count, gauge, seconds};
use crate::api::Api;
use crate::witness::{Queue, Reason};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

/// Where something waited.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waited {
    queue: &'static str,
}

/// A lane of proposals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lane {
    lane: &'static str,
}

/// One of the two databases of a master.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Database {
    database: &'static str,
}

/// What the gate did with a connection, or the queue with somebody who wants to attach.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    event: &'static str,
}

pub(super) fn register(registry: &mut Registry, api: &Api) {
    let witness = api.witness();
    let refused: Family<Refused, Counter> = Family::default();
    for reason in Reason::ALL {
        refused.get_or_create(&Refused { reason: reason.name() }).inc_by(witness.refused(reason));
    }
    registry.register(
        "refusals",
        "What was refused, by reason; a session that is read more slowly counts as well",
        refused,
    );
    let expired: Family<Waited, Counter> = Family::default();
    for queue in Queue::ALL {
        expired.get_or_create(&Waited { queue: queue.name() }).inc_by(witness.expired(queue));
    }
    registry.register("expired", "Work that was dropped because nobody waited for it any more, by queue", expired);
    let (published, failed) = witness.frames();
    counter(registry, "fanout_frames", "Frames that were handed to the fan-out", published);
    counter(registry, "fanout_frames_failed", "Frames that could not be handed to the fan-out", failed);
    let counts = api.sessions.roster().counts();
    count(registry, "sessions_attached", "Sessions on this master, accepted or not", counts.attached);
    let strangers = counts.attached.saturating_sub(counts.accepted);
    count(registry, "sessions_strangers", "Sessions of minions that are not accepted (yet)", strangers);
    queue(registry, api);
    let held = gauge(u64::try_from(api.sessions.inbox().held_bytes()).unwrap_or(u64::MAX));
    registry.register_with_unit("inbox_held", "What minions sent and the log has not taken yet", Unit::Bytes, held);
    let (given, waiting) = api.sessions.credit().figures();
    let help = "What minions were given to send of their outboxes and the log has not taken yet";
    registry.register_with_unit("credit_given", help, Unit::Bytes, gauge(given));
    let help = "Minions that wait for their turn to send what is in their outboxes";
    count(registry, "credit_waiting", help, u64::try_from(waiting).unwrap_or(u64::MAX));
    let (control, bulk) = api.truth.lanes();
    let proposals: Family<Lane, Gauge> = Family::default();
    for (lane, taken) in [("control", control), ("bulk", bulk)] {
        proposals.get_or_create(&Lane { lane }).set(i64::try_from(taken).unwrap_or(i64::MAX));
    }
    registry.register("proposals_under_way", "Proposals under way at this master while it leads, by lane", proposals);
    databases(registry, api);
    if let Some(gate) = &api.gate {
        let events: Family<Event, Counter> = Family::default();
        for (event, value) in gate.counters.snapshot() {
            events.get_or_create(&Event { event }).inc_by(value);
        }
        registry.register("gate_events", "What the gate did with connections of minions, by event", events);
    }
}

/// The queue of those who want to attach.
fn queue(registry: &mut Registry, api: &Api) {
    let queue = api.sessions.queue();
    let help = "Minions that may attach here a second: from what a handshake takes, and the setting attach_per_second";
    count(registry, "attach_rate", help, queue.rate as u64);
    let help = "Time that the cryptography of a handshake takes this master, on average";
    registry.register_with_unit("handshake_cost", help, Unit::Seconds, seconds(queue.cost));
    let help = "Slots for attaching that are given and not yet taken";
    count(registry, "slots_waiting", help, u64::try_from(queue.waiting).unwrap_or(u64::MAX));
    let slots: Family<Event, Counter> = Family::default();
    let counts = queue.counts;
    for (event, value) in [
        ("entered", counts.entered),
        ("given", counts.given),
        ("taken", counts.taken),
        ("expired", counts.expired),
        ("refused", counts.refused),
    ] {
        slots.get_or_create(&Event { event }).inc_by(value);
    }
    let help = "Those who wanted to attach: entered at once, slots given, taken and expired, sent away without a slot";
    registry.register("slots", help, slots);
}

/// How the log and the tables keep up.
fn databases(registry: &mut Registry, api: &Api) {
    let [stopped, slowed, unflushed, owed]: [Family<Database, Gauge>; 4] = Default::default();
    for (database, pressure) in api.truth.group().pressures() {
        let set = |family: &Family<Database, Gauge>, value: u64| {
            family.get_or_create(&Database { database }).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&stopped, u64::from(pressure.stopped));
        set(&slowed, pressure.slowed_to_bytes_per_s);
        set(&unflushed, pressure.unflushed_bytes);
        set(&owed, pressure.owed_bytes);
    }
    let help = "1 while writes to the database wait until it has caught up: returns are refused until then";
    registry.register("write_stopped", help, stopped);
    let help = "Bytes per second that writes to the database are slowed to, 0 while they are not";
    registry.register("write_slowed_rate", help, slowed);
    let help = "Rows of the database that are in memory only";
    registry.register_with_unit("unflushed", help, Unit::Bytes, unflushed);
    let help = "What the database has to rewrite before its files are in order";
    registry.register_with_unit("compaction_owed", help, Unit::Bytes, owed);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}
