//! One master carries a truth on alone, under a higher generation: after a restore, and after the others were lost for good.
//!
//! What both have in common stands here: the credentials of that master, the directory that names it alone, and the command
//! that puts it in place. Everything is made before anything is written.

use crate::config::Config;
use crate::founding::WEIGHT_ORDINARY;
use crate::pki::ring::Keyring;
use crate::pki::{Authority, Credentials, PkiError, certificate_from_pem};
use saltern_store::command::{Command, MasterCommand, Proposal};
use saltern_wire::crypto::Identity;
use saltern_wire::io::{Entropy, draw};
use saltern_wire::level::LEVEL;
use saltern_wire::master::{Directory, MasterRecord, MasterState, Role};
use saltern_wire::{ClusterId, LogicalTime, MasterId, RequestId};
use std::sync::Arc;
use zeroize::Zeroizing;

/// What is to be carried on, and by whom.
pub struct Succession {
    /// Which cluster it is from now on.
    pub cluster: ClusterId,
    /// Clusters whose minions follow, the latest one first.
    pub succeeds: Vec<ClusterId>,
    /// Above every earlier one.
    pub generation: u64,
    /// The master's id.
    pub master: MasterId,
    /// Its name.
    pub name: String,
    /// Its key.
    pub identity: Arc<Identity>,
    /// The CA of all these clusters.
    pub authority: Authority,
    /// Its X.509 certificate, PEM.
    pub ca_certificate_pem: String,
    /// Seals secret values of the truth.
    pub state_secret: Zeroizing<[u8; 32]>,
    /// The wall clock: the truth's time jumps there, so that no job gets a name that an earlier one had.
    pub now: LogicalTime,
}

impl Succession {
    /// The credentials of the master, and the proposal that its log gets.
    pub fn prepare(self, config: &Config, entropy: &dyn Entropy) -> Result<(Credentials, Proposal), PkiError> {
        let Self {
            cluster,
            succeeds,
            generation,
            master,
            name,
            identity,
            authority,
            ca_certificate_pem,
            state_secret,
            now,
        } = self;
        let (public_key, endpoints) = (identity.public_key(), config.endpoints());
        let certificate = authority.certify(master, &name, public_key, generation);
        let record = MasterRecord {
            id: master,
            name: name.clone(),
            state: MasterState::Active,
            endpoints: endpoints.clone(),
            region: config.region.clone(),
            zone: config.zone.clone(),
            weight: WEIGHT_ORDINARY,
            certificate: certificate.clone(),
            public_key,
            role: Role::Voter,
        };
        let masters = vec![record];
        let directory = Directory { cluster, generation, version: 1, masters, succeeds, retired: Vec::new() };
        let directory = authority.sign_directory(&directory);
        let tls_certificate_pem = authority.tls_certificate_pem(master, &public_key, &endpoints)?;
        let refound = MasterCommand::Refound {
            cluster,
            ca_certificate_pem: ca_certificate_pem.clone(),
            ca_sealed: authority.seal(&state_secret, entropy),
            level: LEVEL,
            directory: directory.clone(),
        };
        let proposal = Proposal {
            request: Some(RequestId::from_bytes(draw(entropy))),
            by: master,
            stamp: now,
            command: Command::Master(refound),
        };
        let credentials = Credentials {
            cluster,
            master,
            name,
            endpoints,
            region: config.region.clone(),
            zone: config.zone.clone(),
            identity,
            certificate,
            ca: authority.public_key(),
            ca_certificate: certificate_from_pem("the CA certificate", &ca_certificate_pem)?,
            ca_certificate_pem,
            tls_certificate: certificate_from_pem("the master certificate", &tls_certificate_pem)?,
            tls_certificate_pem,
            ring: Keyring::new(&state_secret),
            state_secret,
            directory,
        };
        Ok((credentials, proposal))
    }
}

/// Whether `directory` is one that a [`Succession`] made for `master`: it names that one alone, and is not a first one.
pub fn is_alone(directory: &Directory, master: MasterId) -> bool {
    let [only] = directory.masters.as_slice() else { return false };
    only.id == master && directory.version == 1 && directory.generation > 1
}
