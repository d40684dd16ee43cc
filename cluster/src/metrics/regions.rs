//! Distances between masters, and the timing that has to fit them.

use super::{Peer, count};
use crate::api::{Api, master_name};
use crate::regions::duty;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Registers what is known of the ways to the other masters.
pub(super) fn register(registry: &mut Registry, api: &Api) {
    let Some(directory) = api.directory() else { return };
    let half: Family<Peer, Gauge<f64, AtomicU64>> = Family::default();
    let most: Family<Peer, Gauge<f64, AtomicU64>> = Family::default();
    for master in directory.masters.iter().filter(|master| master.id != api.truth.id()) {
        let Some(way) = api.truth.ways().to(master.id) else { continue };
        let label = Peer { peer: master_name(Some(&directory), master.id) };
        half.get_or_create(&label).set(Duration::from_micros(way.p50_us).as_secs_f64());
        most.get_or_create(&label).set(Duration::from_micros(way.p99_us).as_secs_f64());
    }
    let help = "Round trip that half of the probes of the last minutes did not exceed";
    registry.register_with_unit("peer_round_trip_p50", help, Unit::Seconds, half);
    let help = "Round trip that ninety-nine of a hundred probes of the last minutes did not exceed";
    registry.register_with_unit("peer_round_trip_p99", help, Unit::Seconds, most);
    let timing = duty::status(&api.truth, &directory);
    let heartbeat = api.truth.timing().heartbeat_ms;
    count(registry, "raft_heartbeat_interval_milliseconds", "Raft's timing on this master", heartbeat);
    let help = "1 while a round trip between voters is longer than the cluster's profile bears";
    count(registry, "profile_unfit", help, u64::from(timing.unfit.is_some()));
    let help = "Masters that run with another timing than the cluster's profile";
    count(registry, "profile_others", help, timing.other.len() as u64);
}
