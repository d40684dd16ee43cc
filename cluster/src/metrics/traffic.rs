//! What the group's traffic and its disk are like: heartbeats, snapshots on their way, how large everything is.

use super::{count, gauge, seconds};
use crate::api::Api;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

pub(super) fn register(registry: &mut Registry, api: &Api) {
    let group = api.truth.group();
    let metered = group.meters().read(api.truth.clock().monotonic());
    let help = "Longest heartbeat of the last minute that was answered, there and back, while this master leads";
    registry.register_with_unit("heartbeat_longest", help, Unit::Seconds, seconds(metered.heartbeat_longest));
    let limit = std::time::Duration::from_millis(group.config().heartbeat_ms) * 3 / 4;
    let help = "Within how long a heartbeat has to be answered: three quarters of its interval";
    registry.register_with_unit("heartbeat_limit", help, Unit::Seconds, seconds(limit));
    let help = "Heartbeats that a master which was reached did not answer in time";
    counter(registry, "heartbeats_unanswered", help, metered.heartbeats_unanswered);
    let help = "Bytes of snapshots that were sent to other masters";
    counter(registry, "snapshot_sent_bytes", help, metered.snapshot_sent_bytes);
    let help = "Bytes of snapshots that came from other masters";
    counter(registry, "snapshot_received_bytes", help, metered.snapshot_received_bytes);
    let help = "Bytes of announced snapshots that were here already and did not travel again";
    counter(registry, "snapshot_kept_bytes", help, metered.snapshot_kept_bytes);
    let bytes = || Unit::Bytes;
    registry.register_with_unit("raft_log", "Entries in this master's log", bytes(), gauge(group.log_bytes()));
    let machine = group.machine();
    registry.register_with_unit(
        "snapshots",
        "Snapshots that are kept, files that they share with the state counted each time",
        bytes(),
        gauge(machine.snapshots().bytes()),
    );
    // One that cannot be asked is on its way to its end.
    if let Ok(state) = machine.state().disk_bytes() {
        registry.register_with_unit("state", "Tables of the truth on the disk", bytes(), gauge(state));
    }
    let index = machine.snapshots().current().map_or(0, |snapshot| snapshot.manifest.applied);
    count(registry, "snapshot_index", "Newest entry in the newest snapshot", index);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}
