//! Takes a job from an operator: checks it, resolves its target once, names it, signs it and carries it into the log.
//!
//! **Invariants.** Targets are resolved on a copy that a majority has just confirmed to be the newest, so a key that was
//! accepted at one master is matched at any other from then on. An empty set is an error and nothing is sent. Two jobs of one master never share a tick of 100 µs, so no
//! two share a jid. A retry under the same request id finds the first job, because the truth keeps the answer of the first.
//!
//! **It refuses** to sign what does not fit a fan-out frame, and functions whose name cannot be one.

mod rolling;

use crate::pki::Credentials;
use crate::replica::Replica;
use crate::target::{ResolveError, resolve};
use crate::truth::{Lane, PROPOSE_TIMEOUT, ProposeError};
use saltern_store::command::{Command, JobCommand, Refused, Reply};
use saltern_wire::api::{Failure, FailureCode, Submit, Submitted};
use saltern_wire::crypto::{Identity, Signed};
use saltern_wire::job::Job;
use saltern_wire::limits::{FUNCTION_NAME_BYTES_MAX, JOB_BYTES_MAX, NAME_BYTES_MAX};
use saltern_wire::rolling::{Rolling, WHOLE_MS};
use saltern_wire::{ClusterId, JobId, LogicalTime, MasterId, RequestId, Revision};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest time to live: what `--queue` may ask for. Intents are kept at least that long.
pub const TTL_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// Resolution of the time in a jid, in microseconds: the last two digits are the master's slot.
const TICK_MICROS: u64 = 100;

/// Names tried for one submission. The first is taken only if this master's time went back at a restart; each further one
/// leaves more room.
const NAMING_ATTEMPTS: u8 = 3;

/// How far a new attempt moves ahead of a name that was taken, in ticks: one second.
const NAMING_STEP_TICKS: u64 = 10_000;

/// How long a majority may take to confirm that what is applied here is the newest: an election, generously.
const CONFIRM_WITHIN: Duration = Duration::from_secs(3);

/// The least that is waited for it: a master that has just woken hears of its leader within that.
const CUT_OFF: Duration = Duration::from_millis(150);

/// What happens when nothing matches, in Salt's words.
pub const NO_MATCH: &str = "No minions matched the target. No command was sent, no jid was assigned.";

/// Mints the jids of one master.
#[derive(Debug)]
pub struct Mint {
    slot: u64,
    last_tick: u64,
}

impl Mint {
    /// For the master `id`. Nothing is minted at or before `after`.
    pub fn new(id: MasterId, after: LogicalTime) -> Self {
        Self { slot: id.0 % saltern_wire::id::JOB_SLOTS, last_tick: after.unix_micros() / TICK_MICROS }
    }

    /// The next jid, and the time that it reads as: `now`, or the first tick that is still free.
    pub fn mint(&mut self, now: LogicalTime) -> (JobId, LogicalTime) {
        let tick = (now.unix_micros() / TICK_MICROS).max(self.last_tick + 1);
        self.last_tick = tick;
        let time = LogicalTime::from_unix_micros(tick * TICK_MICROS);
        (JobId::mint(time, self.slot), time)
    }

    /// Names were taken that this mint does not know of: leaves room before the next.
    fn skip(&mut self, ticks: u64) {
        self.last_tick += ticks;
    }
}

/// Takes jobs. One per master: it owns the mint.
pub struct Jobs {
    replica: Arc<dyn Replica>,
    cluster: ClusterId,
    identity: Arc<Identity>,
    mint: Mutex<Mint>,
}

impl Jobs {
    /// For the master that these credentials belong to.
    pub fn new(replica: Arc<dyn Replica>, credentials: &Credentials) -> Self {
        Self::signing_with(replica, credentials.cluster, Arc::clone(&credentials.identity))
    }

    /// For a master of `cluster` whose key is `identity`.
    pub fn signing_with(replica: Arc<dyn Replica>, cluster: ClusterId, identity: Arc<Identity>) -> Self {
        let mint = Mutex::new(Mint::new(replica.id(), LogicalTime::ZERO));
        Self { replica, cluster, identity, mint }
    }

    /// Opens a job for `user`. `request` names the submission: asked again, it answers the first job.
    pub async fn submit(
        &self,
        submit: Submit,
        user: &str,
        request: RequestId,
    ) -> Result<(Submitted, Revision), Failure> {
        self.submit_within(submit, user, request, PROPOSE_TIMEOUT).await
    }

    /// The same, for somebody who waits for `within` and no longer.
    pub async fn submit_within(
        &self,
        submit: Submit,
        user: &str,
        request: RequestId,
        within: Duration,
    ) -> Result<(Submitted, Revision), Failure> {
        check(&submit, user)?;
        let state = self.replica.state();
        // What was acknowledged at any master before this call is in the targets: a copy may be older than it seems.
        let quorum = self.replica.quorum();
        let cut_off = Duration::from_millis(quorum.stale_ms.unwrap_or(0));
        // Without contact an election may be under way; the longer there was none, the less is it worth waiting for.
        let patience =
            if quorum.contact { CONFIRM_WITHIN } else { CONFIRM_WITHIN.saturating_sub(cut_off).max(CUT_OFF) };
        self.replica.confirm(patience.min(within)).await.map_err(failure_of)?;
        if let Some(first) = self.recall(request)? {
            return Ok(first);
        }
        let targets = resolve(state, &submit.target).map_err(|error| match error {
            ResolveError::Target(error) => Failure::new(FailureCode::Invalid, error.to_string()),
            ResolveError::Store(error) => Failure::new(FailureCode::Internal, error.to_string()),
        })?;
        if targets.is_empty() {
            return Err(Failure::new(FailureCode::NoMatch, NO_MATCH));
        }
        let ttl_ms = submit.ttl_ms.unwrap_or_else(|| state.settings().job_ttl_ms);
        let rolling = submit.batch.map(|batch| rolling::rolling(batch, ttl_ms));
        let targets =
            submit.subset.map_or_else(|| targets.clone(), |number| rolling::subset(&targets, number, request));
        let Some(directory) = state.directory().and_then(|signed| signed.peek().ok()) else {
            return Err(Failure::new(FailureCode::NoQuorum, "this master has not caught up with its cluster yet"));
        };
        if directory.master(self.replica.id()).is_none() {
            let message = "this master was removed from its cluster: ask another one; nothing was written";
            return Err(Failure::new(FailureCode::NoQuorum, message));
        }
        let mut job = Job {
            cluster: self.cluster,
            generation: directory.generation,
            jid: JobId::mint(LogicalTime::ZERO, 0),
            master: self.replica.id(),
            function: submit.function,
            arguments: submit.arguments,
            keywords: submit.keywords,
            target: submit.target,
            targets,
            user: user.to_owned(),
            opened: LogicalTime::ZERO,
            // A batch is over when its last turn is; how long each of them is stands in its record.
            ttl_ms: if rolling.is_some() { WHOLE_MS } else { ttl_ms },
        };
        for attempt in 0..NAMING_ATTEMPTS {
            (job.jid, job.opened) = self.name(attempt);
            let signed = Signed::new(&job, &self.identity);
            if signed.len() > JOB_BYTES_MAX {
                let message = format!("the job has {} bytes, the limit is {JOB_BYTES_MAX}: pass less", signed.len());
                return Err(Failure::new(FailureCode::Invalid, message));
            }
            if let Some(settled) = self.open(signed, rolling, named(request, attempt), within).await? {
                return Ok(settled);
            }
        }
        Err(Failure::new(FailureCode::Busy, "every name for the job was taken: submit it again"))
    }

    /// The first answer to this request, if this master has applied it: a retry finds it even if the target has changed.
    fn recall(&self, request: RequestId) -> Result<Option<(Submitted, Revision)>, Failure> {
        let answered = self.replica.state().answer_to(request);
        let answered = answered.map_err(|error| Failure::new(FailureCode::Internal, error.to_string()))?;
        Ok(answered.and_then(|(revision, applied)| match applied {
            Ok(Reply::Opened { jid, minions }) => Some((Submitted { jid, targeted: minions }, revision)),
            Ok(Reply::Done | Reply::Keys(_) | Reply::Recorded(_) | Reply::Joined { .. } | Reply::Token { .. })
            | Err(_) => None,
        }))
    }

    fn name(&self, attempt: u8) -> (JobId, LogicalTime) {
        let now = self.replica.now().max(self.replica.state().time());
        let mut mint = self.mint.lock().unwrap_or_else(PoisonError::into_inner);
        mint.skip(u64::from(attempt) * NAMING_STEP_TICKS);
        mint.mint(now)
    }

    /// Carries a signed job into the log; `None` if its name is taken.
    async fn open(
        &self,
        job: Signed<Job>,
        rolling: Option<Rolling>,
        request: RequestId,
        within: Duration,
    ) -> Result<Option<(Submitted, Revision)>, Failure> {
        let command = Command::Job(match rolling {
            None => JobCommand::Open { job },
            Some(rolling) => JobCommand::Roll { job, rolling },
        });
        // Said here: a refusal by the truth of a command that it does not know yet looks like a name that is taken.
        let known = command.require_level(self.replica.state().level());
        known.map_err(|refused| Failure::new(FailureCode::Conflict, refused.to_string()))?;
        let committed = self.replica.propose_within(Lane::Control, command, Some(request), within).await;
        let committed = committed.map_err(failure_of)?;
        let failure = match committed.applied {
            Ok(Reply::Opened { jid, minions }) => {
                return Ok(Some((Submitted { jid, targeted: minions }, committed.revision)));
            }
            Err(Refused::NoTargets) => return Err(Failure::new(FailureCode::NoMatch, NO_MATCH)),
            Err(Refused::Conflict(_)) => return Ok(None),
            Err(refused @ Refused::Limit(_)) => Failure::new(FailureCode::Busy, refused.to_string()),
            Err(refused @ Refused::NotFound(_)) => Failure::new(FailureCode::NotFound, refused.to_string()),
            Err(refused @ (Refused::Invalid(_) | Refused::Token(_))) => {
                Failure::new(FailureCode::Invalid, refused.to_string())
            }
            Ok(Reply::Done | Reply::Keys(_) | Reply::Recorded(_) | Reply::Joined { .. } | Reply::Token { .. }) => {
                let message = format!("the request id {request} has named another write before: draw a new one");
                Failure::new(FailureCode::Conflict, message)
            }
        };
        Err(failure)
    }
}

/// Checks everything that needs no truth.
pub(crate) fn check(submit: &Submit, user: &str) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(FailureCode::Invalid, message));
    let function = &submit.function;
    let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let words = function.split('.').count();
    if words < 2 || !function.split('.').all(word) || function.len() > FUNCTION_NAME_BYTES_MAX {
        let shown: String = function.chars().take(80).collect();
        return refuse(format!("{shown:?} is not a function: write MODULE.FUNCTION, for example test.ping"));
    }
    if user.is_empty() || user.len() > NAME_BYTES_MAX {
        return refuse(format!("the user's name has {} bytes, it must have 1 to {NAME_BYTES_MAX}", user.len()));
    }
    rolling::check(submit)?;
    match submit.ttl_ms {
        Some(0) => refuse("a time to live of 0 ms expires at once: give at least 1".into()),
        Some(ttl_ms) if ttl_ms > TTL_MS_MAX => {
            refuse(format!("a time to live of {ttl_ms} ms is too long, the limit is {TTL_MS_MAX} (7 days)"))
        }
        Some(_) | None => Ok(()),
    }
}

/// The name of one attempt of a request. The truth remembers a refusal under the id that it met, so a further attempt needs
/// another one; it is derived, so that a retry of the request walks the same attempts and finds their answers.
fn named(request: RequestId, attempt: u8) -> RequestId {
    if attempt == 0 {
        return request;
    }
    let mut bytes = *request.as_bytes();
    let hash = blake3::hash(&[request.as_bytes().as_slice(), &[attempt]].concat());
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    RequestId::from_bytes(bytes)
}

/// A proposal that failed, in the words of the API.
pub fn failure_of(error: ProposeError) -> Failure {
    let (code, message) = match error {
        ProposeError::NoRoom(room) => {
            return Failure::new(FailureCode::Busy, format!("{room}; nothing was written"));
        }
        ProposeError::NoQuorum => (FailureCode::NoQuorum, "no quorum: nothing was written, try again"),
        ProposeError::Unknown | ProposeError::Stopped => {
            (FailureCode::Unknown, "the outcome is unknown: ask again under the same request id")
        }
        ProposeError::Busy => (FailureCode::Busy, "too much waits already: nothing was written, try again"),
    };
    Failure::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use saltern_wire::target::Target;
    use saltern_wire::{Map, Value};

    #[test]
    fn a_mint_never_uses_a_tick_twice_and_never_goes_back() {
        let time = |micros: u64| LogicalTime::from_unix_micros(1_795_392_390_000_000 + micros);
        let mut mint = Mint::new(MasterId(107), LogicalTime::ZERO);
        let mut last = mint.mint(time(0)).0;
        assert_eq!(last.to_string(), "20261123000630000007", "the slot is the id modulo 100");
        for micros in [0, 50, 99, 100, 5_000, 10, 5_100] {
            let (jid, opened) = mint.mint(time(micros));
            assert!(jid > last, "{jid} after {last}");
            assert_eq!(JobId::mint(opened, 7), jid, "the job opened when its name says");
            last = jid;
        }
        mint.skip(NAMING_STEP_TICKS);
        assert!(mint.mint(time(0)).1 > time(1_000_000), "a second later");
    }

    #[test]
    fn attempts_have_names_of_their_own_that_a_retry_finds_again() {
        let request = RequestId::from_bytes([9; 16]);
        assert_eq!(named(request, 0), request);
        assert_eq!(named(request, 1), named(request, 1));
        assert_ne!(named(request, 1), named(request, 2));
        assert_ne!(named(request, 1), request);
    }

    #[test]
    fn wrong_submissions_are_refused_with_what_is_wrong() {
        let submit = |function: &str, ttl_ms| Submit {
            target: Target::glob("*"),
            function: function.into(),
            arguments: vec![Value::Null],
            keywords: Map::new(),
            ttl_ms,
            batch: None,
            subset: None,
        };
        for good in ["test.ping", "a.b.c", "_x.y_1"] {
            assert_eq!(check(&submit(good, Some(1)), "root"), Ok(()), "{good}");
        }
        for bad in ["", "ping", "test.", ".ping", "test ping", "test.pi ng", "test..ping", "tést.ping"] {
            let failure = check(&submit(bad, None), "root").expect_err(bad);
            assert!(failure.code == FailureCode::Invalid && failure.message.contains(bad), "{failure:?}");
        }
        for ttl_ms in [0, TTL_MS_MAX + 1] {
            let failure = check(&submit("test.ping", Some(ttl_ms)), "root").expect_err("no such time to live");
            assert!(failure.message.contains(&ttl_ms.to_string()), "{failure:?}");
        }
        assert!(check(&submit("test.ping", None), "").is_err());
    }
}
