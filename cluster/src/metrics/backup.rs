//! Scheduled backups: how old the newest one is, and whether they work.

use super::{count, seconds};
use crate::api::Api;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// Nothing is registered on a master that makes none: an alert on a missing figure would never end.
pub(super) fn register(registry: &mut Registry, api: &Api) {
    let (Some(schedule), Some(cluster)) = (&api.schedule, api.truth.state().cluster()) else { return };
    let status = schedule.status(cluster);
    if let Some(age) = status.age_seconds {
        let help = "Time since the newest scheduled backup was finished";
        registry.register_with_unit("backup_age", help, Unit::Seconds, seconds(Duration::from_secs(age)));
    }
    let (made, failed) = schedule.outcomes();
    count(registry, "backups_made", "Scheduled backups that were made since the start", made);
    count(registry, "backups_failed", "Scheduled backups that failed since the start", failed);
    let good = u64::from(status.failure.is_none());
    count(registry, "backup_last_good", "1 unless the last scheduled backup failed", good);
    count(registry, "backup_newest_bytes", "Length of the newest scheduled backup", status.bytes);
    count(registry, "backups_kept", "Scheduled backups in the folder", status.kept);
}
