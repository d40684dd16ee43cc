//! Who calls, and whether they may.
//!
//! | came by | may |
//! |---|---|
//! | unix socket, as root or as the master's own user | everything, without a token |
//! | either road, with the bearer token | everything |
//! | anything else | the open paths only; answered with a failure of code `denied` |
//!
//! The token is compared in constant time, and a wrong one is refused even for root: whoever shows one means it.

use super::refusal::Refusal;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use saltern_wire::api::FailureCode;
use std::net::SocketAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The road that a request came by; put into every request by the connection it came on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// By the unix socket, from a process of this user, as the kernel says.
    Local {
        /// Its user id.
        uid: u32,
    },
    /// By TLS.
    Remote {
        /// Where from.
        peer: SocketAddr,
    },
}

/// Who is behind an authorised request, for audit: a user name of this machine, `uid N`, or `token`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator(pub String);

/// Lets operators through.
#[derive(Clone)]
pub struct Gatekeeper {
    token: Option<Arc<Zeroizing<String>>>,
    own_uid: u32,
}

impl Gatekeeper {
    /// Accepts `token`, if there is one, and processes of root and of `own_uid`.
    pub fn new(token: Option<Zeroizing<String>>, own_uid: u32) -> Self {
        Self { token: token.map(Arc::new), own_uid }
    }

    /// Decides about one request.
    pub fn admit(&self, caller: Option<Caller>, headers: &HeaderMap) -> Result<Operator, Refusal> {
        let denied = |message: String| Err(Refusal::new(FailureCode::Denied, message));
        if let Some(shown) = headers.get(header::AUTHORIZATION) {
            return match self.token_matches(shown.as_bytes()) {
                true => Ok(Operator("token".into())),
                false => denied("the bearer token is wrong: use the one in this master's api_token_file".into()),
            };
        }
        match caller {
            Some(Caller::Local { uid }) if uid == 0 || uid == self.own_uid => Ok(Operator(user_name(uid))),
            Some(Caller::Local { uid }) => denied(format!(
                "user {uid} may not use this socket: run as root or as user {}, or send the bearer token",
                self.own_uid
            )),
            Some(Caller::Remote { .. }) | None => denied(
                "no bearer token: send the one in this master's api_token_file as `Authorization: Bearer …`".into(),
            ),
        }
    }

    fn token_matches(&self, authorization: &[u8]) -> bool {
        let Some(token) = &self.token else { return false };
        let Some((scheme, shown)) = authorization.split_at_checked(b"Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(shown.ct_eq(token.as_bytes()))
    }
}

/// Puts the [`Operator`] into the request, or refuses it.
pub async fn authorise(State(gatekeeper): State<Gatekeeper>, mut request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().copied();
    match gatekeeper.admit(caller, request.headers()) {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(refusal) => {
            tracing::warn!(?caller, path = request.uri().path(), reason = refusal.0.message, "refused a request");
            refusal.into_response()
        }
    }
}

/// The name of a user of this machine, from `/etc/passwd`; `uid N` if it is not there.
fn user_name(uid: u32) -> String {
    let named = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd.lines().find_map(named).unwrap_or_else(|| format!("uid {uid}"))
}
