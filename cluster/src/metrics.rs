//! What a master counts, in the text that Prometheus reads.
//!
//! Names bear their unit and `_total` where they only rise. Most figures are read from their owners when they are asked for;
//! only what nobody else keeps is counted here. **It refuses** labels whose values an operator or minion chooses without
//! bound: no minion id, no jid, no user, no path.

mod backup;
mod moves;
mod pressure;
mod regions;
mod traffic;

use crate::api::Api;
use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Bounds of the request duration buckets, in seconds: from a read in memory to a proposal that waits for an election.
const REQUEST_SECONDS: [f64; 9] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Bytes in a page of memory on every machine this runs on, for `/proc/self/statm`.
const PAGE_BYTES: u64 = 4096;

/// The class of a status code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

/// A master, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: String,
}

/// Gauges that are read from their owners at every scrape, and counters of the API.
pub struct Metrics {
    requests: Family<Class, Counter>,
    request_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self { requests: Family::default(), request_seconds: Histogram::new(REQUEST_SECONDS) }
    }

    /// A request of the API was answered. For a stream the time is until its head was sent.
    pub fn handle_answered(&self, status: StatusCode, took: Duration) {
        let class = match status.as_u16() {
            200..=299 => "2xx",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => "other",
        };
        self.requests.get_or_create(&Class { class }).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// Everything, as text.
    pub fn render(&self, api: &Api) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("saltern");
        registry.register("api_requests", "Requests of the API that were answered", self.requests.clone());
        registry.register_with_unit(
            "api_request_duration",
            "Time until a request of the API was answered",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        raft(&mut registry, api);
        fleet(&mut registry, api);
        room(&mut registry, api);
        regions::register(&mut registry, api);
        pressure::register(&mut registry, api);
        backup::register(&mut registry, api);
        moves::register(&mut registry, api);
        traffic::register(&mut registry, api);
        process(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// The group and this master's place in it.
fn raft(registry: &mut Registry, api: &Api) {
    let status = api.truth.status();
    let quorum = &status.quorum;
    let contact = u64::from(quorum.contact);
    count(registry, "quorum_contact", "1 while this master has heard a majority within its lease", contact);
    count(
        registry,
        "quorum_fresh",
        "1 while this master hears a majority and is known to have caught up since it does",
        u64::from(quorum.fresh),
    );
    let stale = quorum.stale_ms.unwrap_or(0);
    let help = "Time since the last contact to a majority, 0 while that is fresh";
    registry.register_with_unit("quorum_stale", help, Unit::Seconds, seconds(Duration::from_millis(stale)));
    let leads = quorum.leader == Some(api.truth.id());
    count(registry, "raft_leader", "1 while this master leads", u64::from(leads));
    count(registry, "raft_term", "Raft term", quorum.term);
    count(registry, "raft_last_log_index", "Newest entry in this master's log", status.last_log);
    count(registry, "raft_applied_index", "Newest entry that this master has applied", status.applied);
    count(registry, "feature_level", "What every voter is known to understand", u64::from(api.truth.state().level()));
    let checked = api.truth.state().checks().last().map_or(0, |check| check.index);
    count(registry, "state_checked_index", "Newest entry at which the states of masters are compared", checked);
    let help = "Newest entry at which states of masters differ and no majority tells which is right; 0 for none";
    count(registry, "state_split_index", help, api.truth.split());
    let voters = status.members.iter().filter(|member| member.voter).count();
    count(registry, "raft_voters", "Masters that vote", voters as u64);
    count(registry, "raft_learners", "Masters that follow without a vote", (status.members.len() - voters) as u64);
    let directory = api.directory();
    let reachable: Family<Peer, Gauge> = Family::default();
    let round_trip: Family<Peer, Gauge<f64, AtomicU64>> = Family::default();
    for member in status.members.iter().filter(|member| member.id != api.truth.id()) {
        let label = Peer { peer: crate::api::master_name(directory.as_ref(), member.id) };
        reachable.get_or_create(&label).set(i64::from(member.reachable));
        if let Some(micros) = member.round_trip_us {
            round_trip.get_or_create(&label).set(Duration::from_micros(micros).as_secs_f64());
        }
    }
    registry.register("peer_reachable", "1 while the master answers this one's probes", reachable);
    registry.register_with_unit("peer_round_trip", "Round trip of the last probe", Unit::Seconds, round_trip);
}

/// Minions, keys and jobs.
fn fleet(registry: &mut Registry, api: &Api) {
    let counts = api.truth.state().counts();
    count(registry, "minions_accepted", "Minions whose key is accepted", counts.accepted);
    count(registry, "keys_pending", "Keys that wait for an operator", counts.pending);
    count(registry, "jobs_open", "Jobs that somebody owes an answer for", counts.open_jobs);
    let connected = api.presence.all().len() as u64;
    count(registry, "minions_connected", "Minions with a session on a master that answers", connected);
    let own = api.presence.sessions_of(api.truth.id()).unwrap_or(0);
    count(registry, "sessions", "Accepted minions with a session on this master", own);
    let coverage = api.presence.coverage();
    count(registry, "presence_masters_heard", "Masters whose sessions are known now", u64::from(coverage.heard));
    count(registry, "presence_masters", "Masters whose sessions should be known", u64::from(coverage.all));
}

/// Room on the disk of the data folder.
fn room(registry: &mut Registry, api: &Api) {
    let (space, room) = (api.truth.space(), api.truth.space().room());
    let bytes = Unit::Bytes;
    registry.register_with_unit(
        "disk_free",
        "Free on the disk of the data folder",
        bytes.clone(),
        gauge(room.free_bytes),
    );
    registry.register_with_unit("disk_reserve", "To be kept free there", bytes, gauge(room.reserve_bytes));
    let help = "0 while there is room; 1 no returns, 2 no jobs, 3 key revocations only, 4 nothing is taken";
    count(registry, "disk_level", help, room.level() as u64);
    let refusals = Counter::<u64>::default();
    refusals.inc_by(space.refusals());
    registry.register("disk_refusals", "Proposals that were refused for want of room", refusals);
}

/// This process, as the kernel sees it; absent where there is no `/proc`.
fn process(registry: &mut Registry) {
    let version: Family<Version, Gauge> = Family::default();
    version.get_or_create(&Version { version: env!("CARGO_PKG_VERSION") }).set(1);
    registry.register("build", "Always 1; the label says which build this is", version);
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    if let Some(pages) = resident {
        let gauge = gauge(pages.saturating_mul(PAGE_BYTES));
        registry.register_with_unit("process_resident_memory", "Memory that the process holds", Unit::Bytes, gauge);
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        count(registry, "process_open_descriptors", "File descriptors that are open", descriptors.count() as u64);
    }
}

/// Which build this is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

fn count(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, gauge(value));
}

fn gauge(value: u64) -> Gauge {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

fn seconds(value: Duration) -> Gauge<f64, AtomicU64> {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value.as_secs_f64());
    gauge
}
