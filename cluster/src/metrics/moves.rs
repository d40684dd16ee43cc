//! Minions that change masters, and the sessions that wait for it.

use super::count;
use crate::api::Api;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

/// Why a minion came from another master.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Came {
    reason: &'static str,
}

pub(super) fn register(registry: &mut Registry, api: &Api) {
    let help = "Sessions that wait here for minions that work through another master";
    count(registry, "sessions_standby", help, api.sessions.roster().counts().standby);
    let moves = api.sessions.moves();
    let came: Family<Came, Counter> = Family::default();
    for (reason, count) in moves.counts() {
        came.get_or_create(&Came { reason: reason.name() }).inc_by(count);
    }
    registry.register("minion_moves", "Minions that came here from another master, by reason", came);
    let help = "Time from a minion's word that it works through this master from now on until it has its seat";
    registry.register_with_unit("minion_move", help, Unit::Seconds, moves.seats().clone());
}
