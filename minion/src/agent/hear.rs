//! What a master says, and what follows.

use super::connection::Connection;
use super::core::Core;
use crate::refusals::reason_of_directory;
use crate::trust::Place;
use saltern_wire::MasterId;
use saltern_wire::crypto::Signed;
use saltern_wire::fanout::{Beacon, Broadcast};
use saltern_wire::level::LEVEL;
use saltern_wire::master::Directory;
use saltern_wire::session::{Attach, MoveReason, SessionRole, Standing, ToMaster, ToMinion};
use std::time::Duration;

/// How long a proven master that is not in our directory has to bring a newer one.
const ADMIT_WITHIN: Duration = Duration::from_secs(5);

/// Longest time that is spent on one wish to move.
const MOVE_WITHIN_MAX: Duration = Duration::from_secs(60);

/// What is to become of the connection.
pub(super) enum Fate {
    /// It goes on.
    Stay,
    /// It ends, for this reason.
    Leave(String),
    /// It ends because the master asked for it, which is to be left alone for so long.
    Bye(String, Duration),
    /// It goes on until the minion works through another master.
    Move(Wish),
}

/// A master's wish that this minion works through another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// Through which; whichever is best if none is named.
    pub(super) to: Option<MasterId>,
    /// Why.
    pub(super) reason: MoveReason,
    /// Until when it may take.
    pub(super) by: Duration,
}

impl Core {
    /// The first message of a session.
    pub(super) fn attach(&self, role: SessionRole) -> ToMaster {
        ToMaster::Attach(Attach {
            version: env!("CARGO_PKG_VERSION").into(),
            incarnation: self.incarnation,
            directory: self.rules.trust.directory().map(|directory| (directory.generation, directory.version)),
            facts_digest: self.facts.reported_digest(),
            credit: true,
            role,
            level: LEVEL,
        })
    }

    /// A session stands with a master whose certificate was checked: may it be obeyed?
    pub(super) fn handle_session(&mut self, connection: &mut Connection, now: Duration) {
        match self.rules.trust.place(&connection.certificate) {
            Place::Listed | Place::FirstContact => {}
            Place::Absent => {
                self.refusals.count("master_not_in_directory", now);
                connection.admit_by = Some(now + ADMIT_WITHIN);
            }
        }
    }

    /// Takes in a message of the session.
    pub(super) fn handle_message(&mut self, connection: &mut Connection, message: ToMinion, now: Duration) -> Fate {
        match message {
            ToMinion::Directory(signed) => self.handle_directory(connection, &signed, now),
            ToMinion::Pong { sequence, quorum } => {
                if let Some(round_trip) = connection.vitals.handle_pong(sequence, quorum, now) {
                    self.candidates.handle_round_trip(connection.certificate.master, round_trip);
                }
                Fate::Stay
            }
            ToMinion::Bye { reason, retry_after_ms } => Fate::Bye(reason, Duration::from_millis(retry_after_ms)),
            other if connection.admit_by.is_some() => {
                if connection.hold(other) {
                    Fate::Stay
                } else {
                    Fate::Leave("it is not in the directory and says a lot".into())
                }
            }
            ToMinion::Standing(standing) => {
                connection.vitals.handle_standing(matches!(standing, Standing::Accepted { .. }), now);
                self.handle_standing(standing)
            }
            ToMinion::Grant(grant) if grant.key.master != connection.certificate.master => {
                self.refusals.count("grant_of_other_master", now);
                Fate::Leave(format!("it grants the fan-out of master {}", grant.key.master))
            }
            ToMinion::Grant(grant) => {
                self.handle_grant();
                connection.subscribe(grant, &self.io);
                Fate::Stay
            }
            ToMinion::Rekey(key) => {
                connection.rekey(key);
                Fate::Stay
            }
            ToMinion::Offer(offer) => {
                let actions = self.rules.handle_offer(&offer, &self.room());
                self.perform(actions);
                Fate::Stay
            }
            ToMinion::Credit { bytes } => {
                self.handle_credit(bytes);
                Fate::Stay
            }
            ToMinion::Reply { sequence, result, .. } => {
                self.handle_reply(sequence, result, now);
                Fate::Stay
            }
            ToMinion::Move { to, reason, within_ms } => {
                let within = Duration::from_millis(within_ms).min(MOVE_WITHIN_MAX);
                Fate::Move(Wish { to, reason, by: now + within })
            }
            // Said on the session that waits, about the one that is worked through.
            ToMinion::Promote { .. } => Fate::Stay,
        }
    }

    pub(super) fn handle_directory(
        &mut self,
        connection: &mut Connection,
        signed: &Signed<Directory>,
        now: Duration,
    ) -> Fate {
        let generation = self.rules.trust.generation();
        match self.rules.trust.handle_directory(connection.ca, signed) {
            Err(error) => {
                self.refusals.count(reason_of_directory(&error), now);
                return Fate::Leave(format!("its directory of masters is refused: {error}"));
            }
            Ok(None) => {
                // It was verified just now; the same one again is none that was refused.
                let same = self.rules.trust.directory().zip(signed.verify(&connection.ca).ok());
                if same.is_some_and(|(ours, theirs)| ours.replaces(&theirs)) {
                    self.refusals.count("directory_older", now);
                }
            }
            Ok(Some(kept)) => {
                if let Err(error) = self.folder.keep_directory(&kept) {
                    tracing::error!(%error, "the directory of masters is not kept over a restart");
                }
                if self.rules.trust.generation() != generation {
                    self.facts.handle_generation();
                }
                let masters = self.rules.trust.active_masters();
                self.candidates.handle_directory(masters);
            }
        }
        match self.rules.trust.place(&connection.certificate) {
            Place::Absent => Fate::Leave("it is not in the directory of masters".into()),
            Place::FirstContact => Fate::Stay,
            Place::Listed => {
                for message in connection.admit() {
                    match self.handle_message(connection, message, now) {
                        Fate::Stay => {}
                        fate @ (Fate::Leave(_) | Fate::Bye(..) | Fate::Move(_)) => return fate,
                    }
                }
                Fate::Stay
            }
        }
    }

    fn handle_standing(&mut self, standing: Standing) -> Fate {
        let before = self.standing.replace(standing);
        let fingerprint = self.identity.public_key().fingerprint();
        let id = &self.config.id;
        let ordinal = match standing {
            Standing::Accepted { ordinal } => Some(ordinal),
            Standing::Pending | Standing::Rejected | Standing::Denied | Standing::Deleted => None,
        };
        self.rules.handle_ordinal(ordinal);
        if before == Some(standing) {
            return Fate::Stay;
        }
        match standing {
            Standing::Accepted { ordinal } => tracing::info!(%ordinal, "the key of {id} is accepted"),
            Standing::Pending => tracing::warn!(
                %fingerprint,
                "the key of {id} is pending; compare the fingerprint and accept it with: saltern key accept {id}"
            ),
            Standing::Rejected => tracing::error!(%fingerprint, "the key of {id} is rejected"),
            Standing::Denied => {
                tracing::error!(%fingerprint, "the id {id} belongs to another key; delete that one or choose another id");
            }
            Standing::Deleted => tracing::warn!(%fingerprint, "the key of {id} was deleted; enrolling again"),
        }
        Fate::Stay
    }

    /// Takes in a genuine frame of the fan-out.
    pub(super) fn handle_broadcast(
        &mut self,
        connection: &mut Connection,
        broadcast: Broadcast,
        now: Duration,
    ) -> Fate {
        match broadcast {
            Broadcast::Job(offer) => {
                let actions = self.rules.handle_offer(&offer, &self.room());
                self.perform(actions);
                Fate::Stay
            }
            Broadcast::Beacon(beacon) => self.handle_beacon(connection, &beacon, now),
        }
    }

    fn handle_beacon(&mut self, connection: &mut Connection, beacon: &Beacon, now: Duration) -> Fate {
        if beacon.cluster != connection.certificate.cluster {
            self.refusals.count("beacon_of_other_cluster", now);
            return Fate::Leave(format!("its beacon is of cluster {}", beacon.cluster));
        }
        let generation = self.rules.trust.generation();
        if beacon.directory.0 < generation {
            self.refusals.count("beacon_of_old_generation", now);
            return Fate::Leave(format!(
                "it is of generation {}, which generation {generation} fenced",
                beacon.directory.0
            ));
        }
        connection.vitals.handle_beacon(beacon, now);
        self.level = beacon.level;
        let actions = self.rules.handle_time(beacon.time);
        self.perform(actions);
        Fate::Stay
    }
}
