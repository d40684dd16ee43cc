//! The client that decides on the guests' keys, one decision at a time.

use super::{guests, stream};
use crate::crash::history::Deed;
use crate::crash::site::{Outcome, Site, Written};
use rand::seq::IndexedRandom;
use saltern_wire::api::{KeyChanges, KeyDecision, KeySelection};

/// Two accepts and two rejects for every delete: a deleted key is not there until its minion enrols again.
const DECISIONS: [&str; 5] = ["accept", "reject", "accept", "reject", "delete"];

pub(super) async fn run(site: Site) {
    let mut rng = site.rng(stream::KEYS);
    let guests = guests();
    while !site.stop.is_cancelled() {
        let (Some(minion), Some(decision)) = (guests.choose(&mut rng), DECISIONS.choose(&mut rng)) else { return };
        let path = format!("/v1/keys/{decision}");
        let body = KeyDecision { select: KeySelection::Glob(minion.clone()), include_decided: true };
        let begun = site.now();
        let written = site.write::<_, KeyChanges>(&mut rng, &path, &body).await;
        let (outcome, changed) = match written {
            Written::Done(answer) => (Outcome::Done(answer.revision.0), !answer.value.changed.is_empty()),
            // The key is so already, or it is not there: an answer, and nothing changes.
            Written::Denied => (Outcome::Done(0), false),
            Written::Refused => (Outcome::Refused, false),
            Written::Unknown => (Outcome::Unknown, false),
        };
        let deed = Deed::Decide { minion: minion.clone(), decision: (*decision).into(), changed };
        site.record("keys", deed, outcome, begun);
        site.rest(&mut rng, 60..300).await;
    }
}
