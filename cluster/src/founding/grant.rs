//! The other half of joining, at a master of the cluster: makes join tokens, answers those who bring one, and those who were
//! a master before they lost their data.
//!
//! ```text
//!   Join (token's hash, name, key) ─▶ id ─▶ CA key opened with the state secret ─▶ certificates ─▶ Directory + 1 ─▶ grant
//!   Rejoin (proved id, name, key)  ─▶ id ─▶ the same; the new id stands where the proved one stood
//! ```
//!
//! **Invariants.** The truth decides whether a token is good, and gives out the id, before anything is signed. Every step is
//! harmless to repeat: the same key gets the same id, and a directory that names the joiner already is left alone.

use super::init::WEIGHT_ORDINARY;
use super::token;
use crate::config::{Host, Name};
use crate::http::Refusal;
use crate::mesh::message::RejoinRequest;
use crate::pki::{Authority, Credentials};
use crate::replica::Replica;
use crate::truth::Lane;
use saltern_store::command::{Command, MasterCommand, Refused, Reply};
use saltern_store::view::JoinedMaster;
use saltern_wire::api::{FailureCode, JoinGrant, JoinRequest, JoinToken, JoinTokenRequest, JoinTokenView};
use saltern_wire::crypto::{PublicKey, Signed};
use saltern_wire::limits::MASTERS_MAX;
use saltern_wire::master::{Directory, Endpoints, MasterRecord, MasterState};
use saltern_wire::{MasterId, RequestId, Revision};
use std::time::Duration;
use zeroize::Zeroizing;

/// Directories that one join builds before it gives up: each one lost to another change of the directory meanwhile.
const DIRECTORY_ATTEMPTS: u32 = 16;

/// Longest life of a join token, in milliseconds: seven days.
pub const TOKEN_TTL_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// How long a master may take to make sure that it knows every token.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes a join token. A retry under the same request id prints the same token.
pub async fn create_token(
    replica: &dyn Replica,
    credentials: &Credentials,
    request: &JoinTokenRequest,
    name: RequestId,
) -> Result<(JoinTokenView, Revision), Refusal> {
    if !(1..=TOKEN_TTL_MS_MAX).contains(&request.ttl_ms) {
        let message = format!("a token cannot live for {} ms: use 1 to {TOKEN_TTL_MS_MAX}", request.ttl_ms);
        return Err(Refusal::new(FailureCode::Invalid, message));
    }
    let directory = directory(replica)?;
    let state_secret = state_secret(replica, credentials)?;
    let secret = token::secret(&state_secret, name);
    let command =
        MasterCommand::Token { secret_hash: token::secret_hash(&secret), ttl_ms: request.ttl_ms, uses: request.uses };
    let committed = replica.propose(Lane::Control, Command::Master(command), Some(name)).await?;
    let Reply::Token { expires } = committed.applied? else { return Err(unexpected()) };
    // A retry after the state secret was changed: what the first one made has ended, and its secret is another one.
    if replica.state().token_ends(&token::secret_hash(&secret))?.is_none() {
        let message =
            "the token that this request made has ended, because the state secret was changed: draw a new one";
        return Err(Refusal::new(FailureCode::Conflict, message));
    }
    let addresses = directory.masters.iter().map(|master| master.endpoints.api.clone()).collect();
    let token = token::write(&JoinToken { addresses, ca_fingerprint: credentials.ca_fingerprint(), secret });
    Ok((JoinTokenView { token, expires }, committed.revision))
}

/// Answers a machine that wants to join.
pub async fn issue_join(
    replica: &dyn Replica,
    credentials: &Credentials,
    request: &JoinRequest,
    name: RequestId,
) -> Result<(JoinGrant, Revision), Refusal> {
    let newcomer = Newcomer::with_token(request);
    newcomer.check()?;
    require_level(replica, &newcomer, request.level)?;
    let secret_hash = token::secret_hash(&request.secret);
    require_token(replica, &secret_hash, &newcomer).await?;
    let command = MasterCommand::Join { secret_hash, name: request.name.clone(), public_key: request.public_key };
    let joined = replica.propose(Lane::Control, Command::Master(command), Some(name)).await?;
    let Reply::Joined { master } = joined.applied? else { return Err(unexpected()) };
    admit(replica, credentials, &newcomer, master, joined.revision).await
}

/// Answers a master that lost its data: `gone` is the id that it proved. Asked again, it gives the same.
pub async fn issue_rejoin(
    replica: &dyn Replica,
    credentials: &Credentials,
    gone: MasterId,
    request: &RejoinRequest,
) -> Result<JoinGrant, Refusal> {
    let newcomer = Newcomer {
        name: &request.name,
        public_key: request.public_key,
        endpoints: &request.endpoints,
        region: &request.region,
        zone: &request.zone,
        replaces: Some(gone),
    };
    newcomer.check()?;
    require_level(replica, &newcomer, request.level)?;
    let command = MasterCommand::Rejoin { gone, name: request.name.clone(), public_key: request.public_key };
    let joined = replica.propose(Lane::Control, Command::Master(command), None).await?;
    let Reply::Joined { master } = joined.applied? else { return Err(unexpected()) };
    let (grant, _) = admit(replica, credentials, &newcomer, master, joined.revision).await?;
    tracing::warn!(%gone, %master, name = request.name, "a master that lost its data comes back under a fresh id");
    Ok(grant)
}

/// A machine that comes into the cluster.
struct Newcomer<'a> {
    name: &'a str,
    public_key: PublicKey,
    endpoints: &'a Endpoints,
    region: &'a str,
    zone: &'a str,
    /// The master whose place in the directory it takes.
    replaces: Option<MasterId>,
}

/// Certifies the newcomer under the id that the truth gave it, and puts it into the directory.
async fn admit(
    replica: &dyn Replica,
    credentials: &Credentials,
    newcomer: &Newcomer<'_>,
    master: MasterId,
    joined: Revision,
) -> Result<(JoinGrant, Revision), Refusal> {
    let authority = authority(replica, credentials)?;
    let generation = directory(replica)?.generation;
    let certificate = authority.certify(master, newcomer.name, newcomer.public_key, generation);
    let record = MasterRecord {
        id: master,
        name: newcomer.name.to_owned(),
        state: MasterState::Joining,
        endpoints: newcomer.endpoints.clone(),
        region: newcomer.region.to_owned(),
        zone: newcomer.zone.to_owned(),
        weight: WEIGHT_ORDINARY,
        certificate: certificate.clone(),
        public_key: newcomer.public_key,
        role: saltern_wire::master::Role::Voter,
    };
    let (directory, revision) = enter(replica, &authority, record, newcomer.replaces, joined).await?;
    let pki = |error: crate::pki::PkiError| Refusal::new(FailureCode::Internal, error.to_string());
    let tls = authority.tls_certificate_pem(master, &newcomer.public_key, newcomer.endpoints).map_err(pki)?;
    tracing::info!(%master, name = newcomer.name, "gave a joining master its certificates");
    let grant = JoinGrant {
        cluster: credentials.cluster,
        master,
        ca: credentials.ca,
        ca_certificate_pem: credentials.ca_certificate_pem.clone(),
        tls_certificate_pem: tls,
        certificate,
        state_secret: hex::encode(state_secret(replica, credentials)?.as_slice()),
        directory,
        level: replica.state().level(),
    };
    Ok((grant, revision))
}

/// Refuses a machine whose program does not know what this cluster writes: it would stop at the first entry of that sort.
fn require_level(replica: &dyn Replica, newcomer: &Newcomer<'_>, level: u32) -> Result<(), Refusal> {
    let needs = replica.state().level();
    if level >= needs {
        return Ok(());
    }
    let message = format!(
        "{} cannot join: its version of Saltern knows feature level {level}, this cluster stands at {needs}; install the \
         version of the other masters there and join again",
        newcomer.name
    );
    Err(Refusal::new(FailureCode::Conflict, message))
}

/// Refuses a token that nobody made, or that is over, without a proposal: the path is open to everybody, and strangers must
/// not make the log grow. Apply decides all the same. A joiner that was given its id may ask again.
async fn require_token(replica: &dyn Replica, secret_hash: &[u8; 32], newcomer: &Newcomer<'_>) -> Result<(), Refusal> {
    let state = replica.state();
    let good = || -> Result<bool, Refusal> {
        let known = |joined: &JoinedMaster| joined.public_key == newcomer.public_key && joined.name == newcomer.name;
        let ends = state.token_ends(secret_hash)?;
        Ok(ends.is_some_and(|ends| ends > state.time()) || state.masters()?.iter().any(known))
    };
    if good()? {
        return Ok(());
    }
    // Made a moment ago through another master, perhaps.
    replica.confirm(CONFIRM_TIMEOUT).await?;
    if good()? {
        return Ok(());
    }
    let message = "the join token is unknown, used up or over: make a new one with `saltern cluster join-token`";
    Err(Refusal::new(FailureCode::Denied, message))
}

/// Puts `record` into the directory, in the place of the master `gone` if there is one, unless it is there already.
async fn enter(
    replica: &dyn Replica,
    authority: &Authority,
    mut record: MasterRecord,
    gone: Option<MasterId>,
    joined: Revision,
) -> Result<(Signed<Directory>, Revision), Refusal> {
    let mut revision = joined;
    for _ in 0..DIRECTORY_ATTEMPTS {
        let mut next = directory(replica)?;
        if let Some(held) = next.masters.iter_mut().find(|held| held.id == record.id) {
            if held.endpoints == record.endpoints && held.public_key == record.public_key {
                return Ok((authority.sign_directory(&next), revision));
            }
            // It asks again after a change of its configuration; how far it has come stays as it is.
            *held = MasterRecord { state: held.state, weight: held.weight, role: held.role, ..record.clone() };
        } else {
            if let Some(gone) = gone {
                let Some(gone) = next.retire(gone) else {
                    let message = format!("the master {gone} left the directory meanwhile: join again with a token");
                    return Err(Refusal::new(FailureCode::Conflict, message));
                };
                (record.weight, record.role) = (gone.weight, gone.role);
            }
            next.masters.push(record.clone());
            next.masters.sort_by_key(|master| master.id);
        }
        if next.masters.len() > MASTERS_MAX {
            let message = format!("the cluster has {MASTERS_MAX} masters, which is all it may have: remove one first");
            return Err(Refusal::new(FailureCode::Conflict, message));
        }
        next.version += 1;
        let signed = authority.sign_directory(&next);
        let command = MasterCommand::Directory { directory: signed.clone() };
        let committed = replica.propose(Lane::Control, Command::Master(command), None).await?;
        revision = committed.revision;
        match committed.applied {
            Ok(_) => return Ok((signed, revision)),
            // Somebody else changed it meanwhile, and this master has applied that by now.
            Err(Refused::Conflict(_)) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Err(Refusal::new(FailureCode::Busy, "the directory of masters keeps changing: try again with the same token"))
}

/// Whether a wish to join makes sense at all.
#[cfg(test)]
pub(crate) fn check(request: &JoinRequest) -> Result<(), Refusal> {
    Newcomer::with_token(request).check()
}

impl<'a> Newcomer<'a> {
    /// A machine that brings a token.
    fn with_token(request: &'a JoinRequest) -> Self {
        Self {
            name: &request.name,
            public_key: request.public_key,
            endpoints: &request.endpoints,
            region: &request.region,
            zone: &request.zone,
            replaces: None,
        }
    }

    /// Whether its wish makes sense at all; the truth decides the rest.
    fn check(&self) -> Result<(), Refusal> {
        let invalid = |cause: String| Refusal::new(FailureCode::Invalid, cause);
        for name in [self.name, self.region, self.zone] {
            Name::parse(name).map_err(invalid)?;
        }
        let Endpoints { fanout, session, mesh, api } = self.endpoints;
        for address in [fanout, session, mesh, api] {
            Host::parse(address.host()).map_err(invalid)?;
            let unspecified = address.host().parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified());
            if address.port() == 0 || unspecified {
                return Err(invalid(format!("nobody can reach {address}: set `advertise` to a real address and port")));
            }
        }
        Ok(())
    }
}

/// The newest directory.
fn directory(replica: &dyn Replica) -> Result<Directory, Refusal> {
    let Some(signed) = replica.state().directory() else { return Err(unfounded()) };
    signed.peek().map_err(|error| Refusal::new(FailureCode::Internal, format!("the directory: {error}")))
}

/// The CA, opened.
fn authority(replica: &dyn Replica, credentials: &Credentials) -> Result<Authority, Refusal> {
    let Some(ca) = replica.state().ca() else { return Err(unfounded()) };
    // A master that has not been given the newest secret yet is given it within seconds.
    Authority::open(credentials, &ca).map_err(|error| Refusal::new(FailureCode::Busy, error.to_string()))
}

/// The state secret in force.
fn state_secret(replica: &dyn Replica, credentials: &Credentials) -> Result<Zeroizing<[u8; 32]>, Refusal> {
    let Some(ca) = replica.state().ca() else { return Err(unfounded()) };
    let message = "this master has not been given the newest state secret yet: try again, or ask another one";
    credentials.ring.in_force(&ca).ok_or_else(|| Refusal::new(FailureCode::Busy, message))
}

fn unfounded() -> Refusal {
    Refusal::new(
        FailureCode::NoQuorum,
        "this master has not caught up with its cluster yet: try again, or ask another one",
    )
}

/// A reply of another sort than the command's: the request id was used before, for another write.
fn unexpected() -> Refusal {
    Refusal::new(FailureCode::Conflict, "this request id named another write before: draw a new one")
}
