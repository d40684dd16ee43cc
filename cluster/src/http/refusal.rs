//! Every way in which a request fails, as the one body that clients read.

use crate::truth::ProposeError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use saltern_store::StoreError;
use saltern_store::command::Refused;
use saltern_wire::api::{Failure, FailureBody, FailureCode};
use saltern_wire::id::IdError;

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Failure);

impl Refusal {
    /// From a code and a sentence that names the value and the remedy.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self(Failure::new(code, message))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(FailureBody { error: self.0 })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        let (code, message) = match error {
            ProposeError::NoRoom(room) => return Self::new(FailureCode::Busy, format!("{room}; nothing was written")),
            ProposeError::NoQuorum => (
                FailureCode::NoQuorum,
                "no quorum: this master reaches no majority of the masters; nothing was written, try again",
            ),
            ProposeError::Unknown => {
                (FailureCode::Unknown, "the outcome is unknown: ask again under the same request id to find out")
            }
            ProposeError::Busy => (FailureCode::Busy, "too much waits already; nothing was written, try again"),
            ProposeError::Stopped => {
                (FailureCode::NoQuorum, "this master is stopping; nothing was written, ask another one")
            }
        };
        Self::new(code, message)
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::Invalid(_) => FailureCode::Invalid,
            Refused::NotFound(_) => FailureCode::NotFound,
            Refused::NoTargets => FailureCode::NoMatch,
            Refused::Conflict(_) => FailureCode::Conflict,
            Refused::Limit(_) => FailureCode::Busy,
            Refused::Token(_) => FailureCode::Denied,
        };
        Self::new(code, refused.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "cannot read the truth");
        Self::new(FailureCode::Internal, format!("this master cannot read its data: {error}"))
    }
}

impl From<IdError> for Refusal {
    fn from(error: IdError) -> Self {
        Self::new(FailureCode::Invalid, error.to_string())
    }
}
