//! The client that reads: consistently at drawn masters, and the mine also in one session over all masters, without a
//! majority's word.

use super::{Recent, jobs, mine, stream, workers};
use crate::crash::history::Deed;
use crate::crash::site::{Outcome, Site};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use saltern_ops::client::Client;
use saltern_wire::api::{Answer, KeyView};
use saltern_wire::mine::MineEntry;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) async fn run(site: Site, recent: Recent) {
    let mut rng = site.rng(stream::READS);
    let workers = workers();
    // One session: every answer's revision is handed back with the next question.
    let mut session = site.client(&mut rng, None);
    while !site.stop.is_cancelled() {
        let Some(minion) = workers.choose(&mut rng) else { return };
        match rng.random_range(0..4_u32) {
            0 => keys(&site, &mut rng).await,
            1 => match recent.all().choose(&mut rng) {
                Some(jid) => drop(jobs::read(&site, "reads", *jid, &mut rng).await),
                None => {}
            },
            2 => {
                let mut client = site.client_of(rng.random_range(0..site.masters()));
                of_mine(&site, "reads", minion, true, &mut client).await;
            }
            _ => of_mine(&site, "session", minion, false, &mut session).await,
        }
        site.rest(&mut rng, 20..120).await;
    }
}

async fn keys(site: &Site, rng: &mut ChaCha8Rng) {
    let begun = site.now();
    let mut client = site.client_of(rng.random_range(0..site.masters()));
    let answer = site.read(client.get::<Vec<KeyView>>("/v1/keys", "consistent=true")).await;
    let keys = answer.as_ref().map(|answer| states(&answer.value)).unwrap_or_default();
    site.record("reads", Deed::ReadKeys { keys }, outcome(&answer), begun);
}

/// The keys by minion.
pub(in crate::crash) fn states(keys: &[KeyView]) -> BTreeMap<String, String> {
    keys.iter().map(|key| (key.minion.to_string(), format!("{:?}", key.state).to_lowercase())).collect()
}

async fn of_mine(site: &Site, process: &str, minion: &str, consistent: bool, client: &mut Client) {
    let begun = site.now();
    let path = format!("/v1/mine?kind=glob&target={minion}&function={}", mine::FUNCTION);
    let parameters = if consistent { "consistent=true" } else { "" };
    let answer = site.read(client.get::<Vec<MineEntry>>(&path, parameters)).await;
    let counter = answer.as_ref().and_then(|answer| numbers(&answer.value).remove(minion));
    let deed = Deed::ReadMine { minion: minion.to_owned(), consistent, counter };
    site.record(process, deed, outcome(&answer), begun);
    if answer.is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The numbers in the mine by minion.
pub(in crate::crash) fn numbers(entries: &[MineEntry]) -> BTreeMap<String, u64> {
    let number = |entry: &MineEntry| entry.value.as_str()?.trim().parse().ok();
    entries.iter().filter_map(|entry| Some((entry.minion.to_string(), number(entry)?))).collect()
}

fn outcome<T>(answer: &Option<Answer<T>>) -> Outcome {
    answer.as_ref().map_or(Outcome::Refused, |answer| Outcome::Done(answer.revision.0))
}
