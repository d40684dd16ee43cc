//! What handlers take out of a request, checked: a JSON body, query parameters, the write's name, the wanted freshness.

use super::refusal::Refusal;
use crate::api::Api;
use crate::truth::ProposeError;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use saltern_wire::api::{FailureCode, REQUEST_HEADER};
use saltern_wire::io::draw;
use saltern_wire::limits::API_BODY_BYTES_MAX;
use saltern_wire::{RequestId, Revision};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// How long a query waits for the revision or the confirmation that it asks for.
pub const FRESH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it waits for a confirmation if there is no quorum contact to begin with: a master that just woke finds it at
/// once, one that is cut off should say so soon.
const CUT_OFF_TIMEOUT: Duration = Duration::from_secs(1);

/// A JSON body of at most [`API_BODY_BYTES_MAX`].
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let too_long = |_| {
            let message = format!("the body cannot be read, or is longer than {API_BODY_BYTES_MAX} bytes: send less");
            Refusal::new(FailureCode::Invalid, message)
        };
        let bytes = axum::body::to_bytes(request.into_body(), API_BODY_BYTES_MAX).await.map_err(too_long)?;
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            Refusal::new(FailureCode::Invalid, format!("the body is not what it should be: {error}"))
        })?;
        Ok(Self(value))
    }
}

/// Query parameters.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let parsed = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        let refuse = |error: axum::extract::rejection::QueryRejection| {
            Refusal::new(FailureCode::Invalid, format!("the query is not what it should be: {}", error.body_text()))
        };
        parsed.map(|query| Self(query.0)).map_err(refuse)
    }
}

/// The one variable part of a path.
pub struct PathPart(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathPart {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let taken = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        taken.map(|path| Self(path.0)).map_err(|error| Refusal::new(FailureCode::Invalid, error.body_text()))
    }
}

/// The name of a write, from its header. Without one a name is drawn, and a retry is another write.
pub struct RequestName(pub RequestId);

impl FromRequestParts<Arc<Api>> for RequestName {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(REQUEST_HEADER) else {
            return Ok(Self(RequestId::from_bytes(draw(&*api.io.entropy))));
        };
        let text = value.to_str().unwrap_or("(not text)");
        Ok(Self(text.parse::<RequestId>()?))
    }
}

/// Proof that this master's copy is as new as the query asked for with `revision=N` and `consistent=true`.
pub struct Fresh(());

/// What a query may ask for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    revision: Option<u64>,
    #[serde(default)]
    consistent: bool,
}

impl FromRequestParts<Arc<Api>> for Fresh {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let Query(wanted) = Query::<Wanted>::from_request_parts(parts, api).await?;
        if wanted.consistent {
            let within = if api.truth.quorum().contact { FRESH_TIMEOUT } else { CUT_OFF_TIMEOUT }.min(api.left());
            api.truth.confirm(within).await.map_err(unconfirmed)?;
        }
        if let Some(revision) = wanted.revision {
            match api.truth.reach(Revision(revision), FRESH_TIMEOUT.min(api.left())).await {
                Ok(()) => {}
                Err(ProposeError::Unknown | ProposeError::NoQuorum | ProposeError::Busy | ProposeError::NoRoom(_)) => {
                    return Err(behind(api, revision));
                }
                Err(stopped @ ProposeError::Stopped) => return Err(stopped.into()),
            }
        }
        Ok(Self(()))
    }
}

/// Nobody could say that this master's copy is current.
fn unconfirmed(error: ProposeError) -> Refusal {
    match error {
        ProposeError::Stopped => error.into(),
        ProposeError::NoQuorum | ProposeError::Unknown | ProposeError::Busy | ProposeError::NoRoom(_) => Refusal::new(
            FailureCode::NoQuorum,
            "no quorum: no majority confirms that this master is current; ask without `consistent`, or another master",
        ),
    }
}

/// This master has not applied `revision` in time.
fn behind(api: &Api, revision: u64) -> Refusal {
    let code = if api.truth.quorum().fresh { FailureCode::Busy } else { FailureCode::NoQuorum };
    let message = format!(
        "this master has applied revision {}, not {revision}, and waited {} s: try again, or ask another master",
        api.truth.revision(),
        FRESH_TIMEOUT.as_secs()
    );
    Refusal::new(code, message)
}
