//! Keys: list, accept, reject, delete.
//!
//! A decision is made about exact (id, fingerprint) pairs, never about a pattern: what the operator's selection means is
//! settled here, against the newest state, and a key that changed meanwhile is skipped by the truth.

use super::{Answered, Api, step_name};
use crate::http::{Fresh, JsonBody, Operator, Refusal, RequestName};
use axum::Extension;
use axum::extract::State as Shared;
use saltern_store::State;
use saltern_store::command::{Command, KeyCommand, Reply};
use saltern_wire::api::{FailureCode, KeyChanges, KeyDecision, KeySelection, KeyView};
use saltern_wire::crypto::Fingerprint;
use saltern_wire::key::{KeyRecord, KeyState};
use saltern_wire::target::Target;
use saltern_wire::{Map, MinionId, RequestId};
use std::sync::Arc;

/// Keys in one log entry: an entry has to stay below its limit with the longest ids there are.
const KEYS_PER_ENTRY_MAX: usize = 1024;

/// Shortest prefix of a fingerprint that names a key: 32 bits of it.
const FINGERPRINT_DIGITS_MIN: usize = 8;

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Let them work.
    Accept,
    /// Remember and refuse them.
    Reject,
    /// Forget them.
    Delete,
}

impl Decision {
    /// Whether it applies to a key in this state.
    fn applies(self, state: KeyState, include_decided: bool) -> bool {
        match (self, state) {
            (Self::Delete, _) | (Self::Accept | Self::Reject, KeyState::Pending) => true,
            (Self::Accept, KeyState::Rejected | KeyState::Denied) | (Self::Reject, KeyState::Accepted) => {
                include_decided
            }
            (Self::Accept, KeyState::Accepted) | (Self::Reject, KeyState::Rejected | KeyState::Denied) => false,
        }
    }

    fn command(self, keys: Vec<(MinionId, Fingerprint)>, by: String) -> Command {
        Command::Key(match self {
            Self::Accept => KeyCommand::Accept { keys, by },
            Self::Reject => KeyCommand::Reject { keys, by },
            Self::Delete => KeyCommand::Delete { keys, by },
        })
    }

    /// What the keys that it is about are called.
    fn subject(self, include_decided: bool) -> &'static str {
        match self {
            Self::Delete => "key",
            Self::Accept if include_decided => "pending, rejected or denied key",
            Self::Reject if include_decided => "pending or accepted key",
            Self::Accept | Self::Reject => "pending key",
        }
    }
}

/// `GET /v1/keys`
pub async fn list(Shared(api): Shared<Arc<Api>>, _: Fresh) -> Answered<Vec<KeyView>> {
    api.read(|_, state| Ok(all_keys(state)?.iter().map(view).collect())).await
}

/// `POST /v1/keys/accept`
pub async fn accept(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    RequestName(name): RequestName,
    JsonBody(decision): JsonBody<KeyDecision>,
) -> Answered<KeyChanges> {
    decide(&api, Decision::Accept, &decision, operator, name).await
}

/// `POST /v1/keys/reject`
pub async fn reject(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    RequestName(name): RequestName,
    JsonBody(decision): JsonBody<KeyDecision>,
) -> Answered<KeyChanges> {
    decide(&api, Decision::Reject, &decision, operator, name).await
}

/// `POST /v1/keys/delete`
pub async fn delete(
    Shared(api): Shared<Arc<Api>>,
    Extension(operator): Extension<Operator>,
    RequestName(name): RequestName,
    JsonBody(decision): JsonBody<KeyDecision>,
) -> Answered<KeyChanges> {
    decide(&api, Decision::Delete, &decision, operator, name).await
}

async fn decide(
    api: &Arc<Api>,
    decision: Decision,
    wanted: &KeyDecision,
    operator: Operator,
    name: RequestId,
) -> Answered<KeyChanges> {
    let mut changed = Vec::new();
    // A retry first finds what the steps of the first attempt did: the selection would mean something else by now.
    let mut step = 0;
    while let Some((_, applied)) = api.truth.state().answer_to(step_name(name, step))? {
        let keys = changed_keys(applied?)?;
        let last = keys.len() < KEYS_PER_ENTRY_MAX;
        changed.extend(keys);
        step += 1;
        if last {
            if changed.is_empty() {
                // The first attempt found nothing to decide. If that is still so, it is said in the same words.
                select(&all_keys(api.truth.state())?, decision, wanted)?;
            }
            return Ok(api.answer(KeyChanges { changed: changed.iter().map(view).collect() }));
        }
    }
    let selected = match select(&all_keys(api.truth.state())?, decision, wanted) {
        Ok(selected) => selected,
        Err(refusal) if refusal.0.code == FailureCode::Invalid => return Err(refusal),
        Err(refusal) => {
            // Nothing to decide, as this master sees it. An earlier attempt under this request id, at a master that has died
            // since, may still be on its way into the log: the refusal goes there as well, and whichever comes first is the
            // answer.
            let command = decision.command(Vec::new(), operator.0.clone());
            let committed = api.propose(command, step_name(name, step)).await?;
            changed.extend(changed_keys(committed.applied?)?);
            if changed.is_empty() {
                return Err(refusal);
            }
            return Ok(api.answer(KeyChanges { changed: changed.iter().map(view).collect() }));
        }
    };
    for keys in selected.chunks(KEYS_PER_ENTRY_MAX) {
        let command = decision.command(keys.to_vec(), operator.0.clone());
        let committed = api.propose(command, step_name(name, step)).await?;
        changed.extend(changed_keys(committed.applied?)?);
        step += 1;
    }
    Ok(api.answer(KeyChanges { changed: changed.iter().map(view).collect() }))
}

fn changed_keys(reply: Reply) -> Result<Vec<KeyRecord>, Refusal> {
    match reply {
        Reply::Keys(records) => Ok(records),
        Reply::Done | Reply::Opened { .. } | Reply::Recorded(_) | Reply::Joined { .. } | Reply::Token { .. } => {
            Err(Refusal::new(FailureCode::Conflict, "this request id named another write before: draw a new one"))
        }
    }
}

/// Every key, denied ones included, by id.
fn all_keys(state: &State) -> Result<Vec<KeyRecord>, Refusal> {
    let mut keys = state.keys();
    keys.extend(state.denied()?);
    keys.sort_by(|one, other| {
        (&one.minion, one.state, one.public_key).cmp(&(&other.minion, other.state, other.public_key))
    });
    Ok(keys)
}

/// The exact keys that a selection means.
pub(crate) fn select(
    keys: &[KeyRecord],
    decision: Decision,
    wanted: &KeyDecision,
) -> Result<Vec<(MinionId, Fingerprint)>, Refusal> {
    let applies = |key: &&KeyRecord| decision.applies(key.state, wanted.include_decided);
    let selected: Vec<&KeyRecord> = match &wanted.select {
        KeySelection::All => keys.iter().filter(applies).collect(),
        KeySelection::Glob(glob) => {
            let matcher = Target::glob(glob.as_str())
                .matcher()
                .map_err(|error| Refusal::new(FailureCode::Invalid, error.to_string()))?;
            let named = |key: &&KeyRecord| matcher.matches(&key.minion, &Map::new());
            let matching: Vec<&KeyRecord> = keys.iter().filter(named).collect();
            let selected: Vec<&KeyRecord> = matching.iter().copied().filter(|key| applies(key)).collect();
            if selected.is_empty() {
                return Err(nothing(decision, wanted, &format!("{glob:?}"), &matching));
            }
            selected
        }
        KeySelection::Fingerprint(text) => {
            let key = by_fingerprint(keys, text)?;
            if !applies(&key) {
                return Err(nothing(decision, wanted, &format!("the fingerprint {text}"), &[key]));
            }
            vec![key]
        }
    };
    if decision == Decision::Accept
        && let Some(twice) = selected.windows(2).find(|pair| pair[0].minion == pair[1].minion)
    {
        let message = format!("{} has several keys: accept one of them by its fingerprint", twice[0].minion);
        return Err(Refusal::new(FailureCode::Conflict, message));
    }
    Ok(selected.iter().map(|key| (key.minion.clone(), key.fingerprint())).collect())
}

/// The one key whose fingerprint begins with `text`; colons are ignored.
fn by_fingerprint<'a>(keys: &'a [KeyRecord], text: &str) -> Result<&'a KeyRecord, Refusal> {
    let prefix: String = text.chars().filter(|letter| *letter != ':').flat_map(char::to_lowercase).collect();
    if prefix.len() < FINGERPRINT_DIGITS_MIN || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let message = format!("{text:?} names no key: give at least {FINGERPRINT_DIGITS_MIN} hexadecimal digits of it");
        return Err(Refusal::new(FailureCode::Invalid, message));
    }
    let mut found = keys.iter().filter(|key| key.fingerprint().to_string().starts_with(&prefix));
    match (found.next(), found.next()) {
        (None, _) => Err(Refusal::new(FailureCode::NotFound, format!("no key has the fingerprint {text}"))),
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => {
            let message = format!("several keys have a fingerprint that begins with {text}: give more digits");
            Err(Refusal::new(FailureCode::Invalid, message))
        }
    }
}

/// Why a selection that named something is empty. `matching` is what bears the name in another state.
fn nothing(decision: Decision, wanted: &KeyDecision, what: &str, matching: &[&KeyRecord]) -> Refusal {
    let subject = decision.subject(wanted.include_decided);
    let Some(held) = matching.first() else {
        return Refusal::new(FailureCode::NotFound, format!("{what} matches no {subject}"));
    };
    let state = match held.state {
        KeyState::Accepted => "accepted",
        KeyState::Denied => "denied",
        KeyState::Pending => "pending",
        KeyState::Rejected => "rejected",
    };
    let mut message = format!("{what} matches no {subject}: {} is {state}", held.minion);
    if decision.applies(held.state, true) {
        message.push_str("; include decided keys to change that");
    }
    Refusal::new(FailureCode::Conflict, message)
}

/// A key as operators see it.
pub(super) fn view(record: &KeyRecord) -> KeyView {
    KeyView {
        minion: record.minion.clone(),
        state: record.state,
        fingerprint: record.fingerprint(),
        ordinal: record.ordinal,
        submitted: record.submitted,
        decided: record.decided,
        decided_by: record.decided_by.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::LogicalTime;
    use saltern_wire::crypto::PublicKey;

    fn key(minion: &str, byte: u8, state: KeyState) -> KeyRecord {
        KeyRecord {
            minion: minion.parse().expect("an id"),
            public_key: PublicKey([byte; 32]),
            state,
            ordinal: None,
            submitted: LogicalTime::ZERO,
            decided: None,
            decided_by: None,
        }
    }

    fn keys() -> Vec<KeyRecord> {
        vec![
            key("db-1", 1, KeyState::Accepted),
            key("db-1", 2, KeyState::Denied),
            key("web-1", 3, KeyState::Pending),
            key("web-2", 4, KeyState::Pending),
            key("web-3", 5, KeyState::Rejected),
        ]
    }

    fn chosen(decision: Decision, select: KeySelection, include_decided: bool) -> Result<Vec<String>, Refusal> {
        let wanted = KeyDecision { select, include_decided };
        let selected = select_all(decision, &wanted)?;
        Ok(selected.into_iter().map(|(minion, _)| minion.to_string()).collect())
    }

    fn select_all(decision: Decision, wanted: &KeyDecision) -> Result<Vec<(MinionId, Fingerprint)>, Refusal> {
        select(&keys(), decision, wanted)
    }

    #[test]
    fn a_decision_takes_the_keys_to_which_it_applies() {
        use KeySelection::{All, Glob};
        for (decision, select, include_decided, expect) in [
            (Decision::Accept, All, false, vec!["web-1", "web-2"]),
            (Decision::Accept, Glob("web-*".into()), true, vec!["web-1", "web-2", "web-3"]),
            (Decision::Reject, All, false, vec!["web-1", "web-2"]),
            (Decision::Reject, All, true, vec!["db-1", "web-1", "web-2"]),
            (Decision::Delete, Glob("db-*".into()), false, vec!["db-1", "db-1"]),
            (Decision::Delete, All, false, vec!["db-1", "db-1", "web-1", "web-2", "web-3"]),
        ] {
            let context = format!("{decision:?} {select:?} {include_decided}");
            assert_eq!(chosen(decision, select, include_decided).expect(&context), expect, "{context}");
        }
    }

    #[test]
    fn what_is_selected_is_the_key_not_the_name() {
        let wanted = KeyDecision { select: KeySelection::Glob("web-1".into()), include_decided: false };
        let selected = select_all(Decision::Accept, &wanted).expect("one");
        assert_eq!(selected[0].1, PublicKey([3; 32]).fingerprint());
    }

    #[test]
    fn an_empty_selection_says_why() {
        use KeySelection::{Fingerprint as Print, Glob};
        let print = |byte: u8, digits: usize| Print(PublicKey([byte; 32]).fingerprint().to_string()[..digits].into());
        for (decision, select, code, words) in [
            (Decision::Accept, Glob("none*".into()), FailureCode::NotFound, "matches no pending key"),
            (Decision::Accept, Glob("web-3".into()), FailureCode::Conflict, "web-3 is rejected; include decided"),
            (Decision::Accept, Glob("[".into()), FailureCode::NotFound, ""),
            (Decision::Reject, print(5, 16), FailureCode::Conflict, "web-3 is rejected"),
            (Decision::Delete, print(9, 16), FailureCode::NotFound, "no key has the fingerprint"),
            (Decision::Delete, print(1, 7), FailureCode::Invalid, "at least 8"),
            (Decision::Delete, Print("not hexadecimal".into()), FailureCode::Invalid, "names no key"),
        ] {
            let Refusal(failure) = chosen(decision, select, false).expect_err(words);
            assert!(failure.message.contains(words), "{failure:?}");
            assert_eq!(failure.code, code, "{failure:?}");
        }
        assert_eq!(chosen(Decision::Accept, KeySelection::All, false).map(|keys| keys.len()), Ok(2));
    }

    #[test]
    fn two_keys_of_one_name_are_never_accepted_together() {
        let mut keys = keys();
        keys.push(key("web-3", 6, KeyState::Denied));
        let wanted = KeyDecision { select: KeySelection::Glob("web-3".into()), include_decided: true };
        let Refusal(failure) = select(&keys, Decision::Accept, &wanted).expect_err("ambiguous");
        assert!(failure.message.contains("web-3 has several keys"), "{failure:?}");
        let print = PublicKey([6; 32]).fingerprint();
        let wanted = KeyDecision { select: KeySelection::Fingerprint(print.to_string()), include_decided: true };
        assert_eq!(select(&keys, Decision::Accept, &wanted).expect("one")[0].1, print);
    }
}
