//! What machines ask: is it alive, is it ready, what does it count.
//!
//! `/livez` says that the process answers and depends on nothing else: restarting a master that has lost its quorum would
//! make things worse. `/readyz` says whether this master is one to send operators and minions to.

use super::refusal::Refusal;
use crate::api::Api;
use crate::truth::RaftStatus;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use saltern_wire::api::FailureCode;
use saltern_wire::master::MasterState;
use std::fmt::Write;
use std::sync::Arc;

/// Entries that a ready master may lack: below the noise of a busy cluster, and read in well under a second.
const LAG_READY_MAX: u64 = 1000;

/// One thing that readiness depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What is wrong, if it is not met.
    pub fault: Option<String>,
}

/// `GET /livez`
pub async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`, with every check by name if the query says `verbose`.
pub async fn readyz(State(api): State<Arc<Api>>, uri: Uri) -> Response {
    let own = api.directory().and_then(|directory| directory.master(api.truth.id()).map(|master| master.state));
    let checks = checks(&api.truth.status(), own);
    let faults: Vec<String> =
        checks.iter().filter_map(|check| Some(format!("{}: {}", check.name, check.fault.as_ref()?))).collect();
    let verbose =
        uri.query().is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    match (verbose, faults.is_empty()) {
        (true, ready) => {
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, report(&checks)).into_response()
        }
        (false, true) => "ok\n".into_response(),
        (false, false) => {
            let message = format!("not ready: {}", faults.join("; "));
            Refusal::new(FailureCode::NoQuorum, message).into_response()
        }
    }
}

/// Everything that readiness depends on. `own` is this master's state in the directory.
pub fn checks(raft: &RaftStatus, own: Option<MasterState>) -> Vec<Check> {
    let quorum = (!raft.quorum.fresh).then(|| match raft.quorum.stale_ms {
        Some(ms) => format!("no contact to a majority of the masters for {ms} ms"),
        None => "no contact to a majority of the masters".into(),
    });
    let newest = raft.members.iter().filter_map(|member| member.last_log).chain([raft.last_log]).max();
    let lag = newest.unwrap_or(0).saturating_sub(raft.applied);
    let caught_up = match own {
        None => Some("this master is not in the directory that it has applied".into()),
        Some(MasterState::Joining) => Some("this master is joining".into()),
        Some(MasterState::Active | MasterState::Draining) if lag > LAG_READY_MAX => {
            Some(format!("{lag} entries behind, at most {LAG_READY_MAX} count as caught up"))
        }
        Some(MasterState::Active | MasterState::Draining) => None,
    };
    let draining = (own == Some(MasterState::Draining)).then(|| "this master gives its minions away".to_owned());
    vec![
        Check { name: "quorum", fault: quorum },
        Check { name: "caught_up", fault: caught_up },
        Check { name: "not_draining", fault: draining },
    ]
}

fn report(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        // Writing to a String does not fail.
        let _ = match &check.fault {
            None => writeln!(text, "[+] {} ok", check.name),
            Some(fault) => writeln!(text, "[-] {} failed: {fault}", check.name),
        };
    }
    text
}

/// `GET /metrics`
pub async fn metrics(State(api): State<Arc<Api>>) -> Response {
    match api.metrics.render(&api) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            Refusal::new(FailureCode::Internal, format!("the metrics cannot be written: {error}")).into_response()
        }
    }
}

/// Counts every answered request.
pub async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let begun = api.io.clock.monotonic();
    let response = next.run(request).await;
    api.metrics.handle_answered(response.status(), api.io.clock.monotonic().saturating_sub(begun));
    response
}
