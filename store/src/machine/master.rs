//! The cluster's beginning, join tokens, joining masters, the directory.
//!
//! A name belongs to the key that holds it: as long as its master is in the directory, and for [`NAME_HELD`] after a join
//! that has not got there yet, so that a joiner that died on the way does not block its name for ever. Master ids are never
//! given twice.

use super::{Stop, Tx};
use crate::command::{Effect, MasterCommand, Refused, Reply};
use crate::error::StoreError;
use crate::table::master::{self, MasterRow, TokenRow};
use crate::table::meta::{self, CaRow};
use crate::table::timeline::{self, Due};
use saltern_wire::crypto::{PublicKey, Signed};
use saltern_wire::level::LEVEL_MEMBERSHIP;
use saltern_wire::limits::{MASTERS_MAX, NAME_BYTES_MAX};
use saltern_wire::master::Directory;
use saltern_wire::{ClusterId, MasterId};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a join that has not reached the directory keeps its name.
const NAME_HELD: Duration = Duration::from_secs(600);
/// Most tokens at a time: each may be good for several masters.
const TOKENS_MAX: usize = 256;
/// Longest life of a token: it is a secret that lies around.
const TOKEN_TTL_MS_MAX: u64 = 30 * 24 * 3600 * 1000;
/// The founding master.
const FOUNDER: MasterId = MasterId(1);

pub(super) fn apply(tx: &mut Tx<'_>, command: &MasterCommand) -> Result<Reply, Stop> {
    match command {
        MasterCommand::Found { cluster, ca, ca_sealed, ca_certificate_pem, directory, settings, level } => {
            let row = CaRow {
                cluster: *cluster,
                public_key: *ca,
                sealed: ca_sealed.clone(),
                certificate_pem: ca_certificate_pem.clone(),
            };
            found(tx, row, directory)?;
            super::level::raise(tx, *level)?;
            if *settings != tx.index.settings {
                meta::put_settings(&mut tx.over, settings);
                tx.index.settings = settings.clone();
                tx.effects.push(Effect::Settings { settings: settings.clone() });
            }
            Ok(Reply::Done)
        }
        MasterCommand::Token { secret_hash, ttl_ms, uses } => token(tx, secret_hash, *ttl_ms, *uses),
        MasterCommand::Join { secret_hash, name, public_key } => join(tx, secret_hash, name, *public_key),
        MasterCommand::Directory { directory } => replace_directory(tx, directory),
        MasterCommand::Rejoin { gone, name, public_key } => rejoin(tx, *gone, name, *public_key),
        MasterCommand::Refound { cluster, ca_certificate_pem, ca_sealed, level, directory } => {
            super::refound::apply(tx, *cluster, (ca_certificate_pem, ca_sealed), directory)?;
            super::level::raise(tx, *level)?;
            Ok(Reply::Done)
        }
    }
}

fn found(tx: &mut Tx<'_>, row: CaRow, directory: &Signed<Directory>) -> Result<(), Stop> {
    if let Some(held) = &tx.index.ca {
        return Err(Refused::Conflict(format!("this cluster was founded already, its id is {}", held.cluster)).into());
    }
    let listed = read(directory, &row.public_key, row.cluster)?;
    let [founder] = listed.masters.as_slice() else {
        return Err(
            Refused::Invalid(format!("the first directory has {} masters, not one", listed.masters.len())).into()
        );
    };
    if founder.id != FOUNDER {
        return Err(Refused::Invalid(format!("the founding master has the id {}, not {FOUNDER}", founder.id)).into());
    }
    let master =
        MasterRow { name: founder.name.clone(), public_key: founder.public_key, joined: tx.time, replaces: None };
    master::put(&mut tx.over, FOUNDER, &master);
    meta::put_ca(&mut tx.over, &row);
    tx.index.ca = Some(row);
    put_next_master(tx, FOUNDER.0 + 1);
    put_directory(tx, directory);
    Ok(())
}

/// The directory, if `ca` signed it for `cluster` and it makes sense.
pub(super) fn read(directory: &Signed<Directory>, ca: &PublicKey, cluster: ClusterId) -> Result<Directory, Refused> {
    let listed =
        directory.verify(ca).map_err(|error| Refused::Invalid(format!("the directory: {error}")))?.into_inner();
    if listed.cluster != cluster {
        return Err(Refused::Invalid(format!(
            "the directory belongs to the cluster {}, this is {cluster}",
            listed.cluster
        )));
    }
    let max = MASTERS_MAX;
    if listed.masters.is_empty() || listed.masters.len() > max {
        return Err(Refused::Limit(format!(
            "the directory has {} masters, it must have 1 to {max}",
            listed.masters.len()
        )));
    }
    let ids: BTreeSet<_> = listed.masters.iter().map(|master| master.id).collect();
    let names: BTreeSet<_> = listed.masters.iter().map(|master| master.name.as_str()).collect();
    if ids.len() < listed.masters.len() || names.len() < listed.masters.len() {
        return Err(Refused::Invalid("the directory has two masters of one id or one name".into()));
    }
    Ok(listed)
}

fn token(tx: &mut Tx<'_>, secret_hash: &[u8; 32], ttl_ms: u64, uses: u32) -> Result<Reply, Stop> {
    if ttl_ms == 0 || ttl_ms > TOKEN_TTL_MS_MAX || uses == 0 {
        return Err(Refused::Invalid(format!(
            "a token for {uses} uses and {ttl_ms} ms: it needs at least one use and 1 to {TOKEN_TTL_MS_MAX} ms"
        ))
        .into());
    }
    if master::token(&tx.over, secret_hash)?.is_some() {
        return Err(Refused::Conflict("this token was made before; make another one".into()).into());
    }
    if master::tokens(&tx.over, TOKENS_MAX)? >= TOKENS_MAX {
        return Err(Refused::Limit(format!("{TOKENS_MAX} join tokens are waiting; let some of them end")).into());
    }
    let expires = tx.time.plus(Duration::from_millis(ttl_ms));
    master::put_token(&mut tx.over, secret_hash, TokenRow { expires, uses });
    timeline::put(&mut tx.over, Due::Token, expires, secret_hash);
    Ok(Reply::Token { expires })
}

fn join(tx: &mut Tx<'_>, secret_hash: &[u8; 32], name: &str, public_key: PublicKey) -> Result<Reply, Stop> {
    check_name(name)?;
    let masters = master::all(&tx.over)?;
    if let Some((id, _)) = masters.iter().find(|(_, row)| row.public_key == public_key && row.name == name) {
        return Ok(Reply::Joined { master: *id });
    }
    let refuse = |cause: &str| Refused::Token(format!("{cause}; make a new one with `saltern cluster join-token`"));
    let token = master::token(&tx.over, secret_hash)?.ok_or_else(|| refuse("the join token is unknown or used up"))?;
    if token.expires <= tx.time {
        return Err(refuse(&format!("the join token ended at {}", token.expires)).into());
    }
    let listed = listed(tx)?;
    let mut stale = Vec::new();
    for (id, row) in masters.iter().filter(|(_, row)| row.name == name || row.public_key == public_key) {
        if listed.contains(id) || tx.time.since(row.joined) < NAME_HELD {
            return Err(Refused::Conflict(format!("the name {name:?} or the key belongs to the master {id}")).into());
        }
        stale.push(*id);
    }
    for id in stale {
        master::delete(&mut tx.over, id);
    }
    use_token(tx, secret_hash, token);
    Ok(Reply::Joined { master: give_id(tx, name, public_key, None) })
}

/// A master that lost its data asks under its old id, which it proved. It keeps its name, gets a fresh id, and takes the old
/// one's place by the next directory. An earlier attempt that has not got there yet (its key was lost) is forgotten.
fn rejoin(tx: &mut Tx<'_>, gone: MasterId, name: &str, public_key: PublicKey) -> Result<Reply, Stop> {
    check_name(name)?;
    let masters = master::all(&tx.over)?;
    let same = |row: &MasterRow| row.public_key == public_key && row.name == name && row.replaces == Some(gone);
    if let Some((id, _)) = masters.iter().find(|(_, row)| same(row)) {
        return Ok(Reply::Joined { master: *id });
    }
    let listed = listed(tx)?;
    if !listed.contains(&gone) {
        let cause = format!("the master {gone} is not in the directory (any more): join again with a token");
        return Err(Refused::NotFound(cause).into());
    }
    let mut stale = Vec::new();
    for (id, row) in &masters {
        let earlier = row.replaces == Some(gone) && !listed.contains(id);
        let clashes = row.public_key == public_key || (row.name == name && *id != gone);
        let held = listed.contains(id) || tx.time.since(row.joined) < NAME_HELD;
        if clashes && held && !earlier {
            return Err(Refused::Conflict(format!("the name {name:?} or the key belongs to the master {id}")).into());
        }
        if clashes || earlier {
            stale.push(*id);
        }
    }
    for id in stale {
        master::delete(&mut tx.over, id);
    }
    Ok(Reply::Joined { master: give_id(tx, name, public_key, Some(gone)) })
}

fn check_name(name: &str) -> Result<(), Refused> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Refused::Invalid(format!("the name {name:?} must have 1 to {NAME_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The next id, which nobody had before.
fn give_id(tx: &mut Tx<'_>, name: &str, public_key: PublicKey, replaces: Option<MasterId>) -> MasterId {
    let id = MasterId(tx.index.next_master.max(FOUNDER.0));
    put_next_master(tx, id.0 + 1);
    master::put(&mut tx.over, id, &MasterRow { name: name.into(), public_key, joined: tx.time, replaces });
    id
}

fn use_token(tx: &mut Tx<'_>, secret_hash: &[u8; 32], token: TokenRow) {
    if token.uses > 1 {
        master::put_token(&mut tx.over, secret_hash, TokenRow { uses: token.uses - 1, ..token });
        return;
    }
    forget_token(tx, token.expires, secret_hash);
}

/// Removes a token. Used by ticks, too.
pub(super) fn forget_token(tx: &mut Tx<'_>, expires: saltern_wire::LogicalTime, secret_hash: &[u8]) {
    master::delete_token(&mut tx.over, secret_hash);
    timeline::delete(&mut tx.over, Due::Token, expires, secret_hash);
}

fn replace_directory(tx: &mut Tx<'_>, directory: &Signed<Directory>) -> Result<Reply, Stop> {
    let Some(ca) = tx.index.ca.clone() else {
        return Err(Refused::NotFound("there is no cluster yet; run `saltern-master init`".into()).into());
    };
    let next = read(directory, &ca.public_key, ca.cluster)?;
    let held = held(tx)?;
    if (next.generation, next.version) != (held.generation, held.version + 1) {
        return Err(Refused::Conflict(format!(
            "the directory has generation {} and version {}, expected {} and {}; build it anew",
            next.generation,
            next.version,
            held.generation,
            held.version + 1
        ))
        .into());
    }
    if let Some(strange) = next.masters.iter().find(|master| master.id.0 == 0 || master.id.0 >= tx.index.next_master) {
        return Err(Refused::Invalid(format!(
            "the id {} of the master {:?} was never given",
            strange.id, strange.name
        ))
        .into());
    }
    let rows = master::all(&tx.over)?;
    let follows =
        |gone: MasterId| rows.iter().any(|(id, row)| row.replaces == Some(gone) && next.master(*id).is_some());
    let mut removed = false;
    for gone in held.masters.iter().filter(|master| next.master(master.id).is_none()) {
        // One that comes back under a fresh id takes its secrets along.
        removed |= !follows(gone.id);
        master::delete(&mut tx.over, gone.id);
    }
    // Below that level the build of another replica would not do the same.
    if removed && tx.index.level >= LEVEL_MEMBERSHIP {
        super::secret::want_anew(tx)?;
    }
    put_directory(tx, directory);
    Ok(Reply::Done)
}

/// The directory that is in place.
pub(super) fn held(tx: &Tx<'_>) -> Result<Directory, StoreError> {
    let corrupt = |cause: String| StoreError::corrupt("the directory", cause);
    let signed = tx.index.directory.as_ref().ok_or_else(|| corrupt("there is none in a founded cluster".into()))?;
    signed.peek().map_err(|error| corrupt(error.to_string()))
}

fn listed(tx: &Tx<'_>) -> Result<BTreeSet<MasterId>, StoreError> {
    if tx.index.directory.is_none() {
        return Ok(BTreeSet::new());
    }
    Ok(held(tx)?.masters.iter().map(|master| master.id).collect())
}

pub(super) fn put_next_master(tx: &mut Tx<'_>, next: u64) {
    tx.index.next_master = next;
    meta::put_number(&mut tx.over, meta::NEXT_MASTER, next);
}

pub(super) fn put_directory(tx: &mut Tx<'_>, directory: &Signed<Directory>) {
    meta::put_directory(&mut tx.over, directory);
    tx.index.directory = Some(directory.clone());
    tx.effects.push(Effect::Directory { directory: directory.clone() });
}
