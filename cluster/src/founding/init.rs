//! `saltern-master init`: makes a cluster out of nothing, on this machine's disk only.

use super::FoundingError;
use crate::config::Config;
use crate::pki::{Authority, Credentials, certificate_from_pem};
use saltern_store::command::{Command, MasterCommand, Proposal};
use saltern_wire::crypto::{Fingerprint, Identity};
use saltern_wire::io::{Clock, Disk, Entropy, draw};
use saltern_wire::master::{Directory, MasterRecord, MasterState};
use saltern_wire::{ClusterId, LogicalTime, MasterId, RequestId};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The founder's id. Ids rise from here and are never reused.
pub const FOUNDER: MasterId = MasterId(1);

/// The share of minions of an ordinary master.
pub const WEIGHT_ORDINARY: u32 = 100;

/// The generation of a new cluster. It rises on restore and recovery.
const GENERATION_FIRST: u64 = 1;

/// What was founded. Its `Display` is what the operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founded {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The founder's name.
    pub name: String,
    /// What minions pin.
    pub ca_fingerprint: Fingerprint,
    /// The data folder.
    pub data_dir: PathBuf,
    /// Where the API's bearer token is.
    pub api_token_file: PathBuf,
}

impl fmt::Display for Founded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cluster         {}", self.cluster)?;
        writeln!(f, "master          {} ({})", self.name, FOUNDER)?;
        writeln!(f, "CA fingerprint  {}", self.ca_fingerprint)?;
        writeln!(f, "data folder     {}", self.data_dir.display())?;
        writeln!(f, "API token       {}", self.api_token_file.display())?;
        writeln!(f)?;
        writeln!(f, "Start it with the same configuration:")?;
        writeln!(f, "    saltern-master run")?;
        writeln!(f, "Then let other masters join:")?;
        writeln!(f, "    saltern cluster join-token      # here; prints TOKEN")?;
        writeln!(f, "    saltern-master join TOKEN       # there")?;
        writeln!(f, "Minions trust it by this line in their configuration:")?;
        write!(f, "    ca_fingerprint: {}", self.ca_fingerprint)
    }
}

/// Makes the cluster's secrets and the founder's data folder, with the proposal that the first `run` carries into the log.
pub fn init(
    config: &Config,
    disk: &dyn Disk,
    entropy: &dyn Entropy,
    clock: &dyn Clock,
) -> Result<Founded, FoundingError> {
    super::require_vacant(disk, &config.data_dir)?;
    let cluster = ClusterId::from_bytes(draw(entropy));
    let authority = Authority::new(cluster, Identity::from_seed(*Zeroizing::new(draw(entropy))));
    let state_secret: Zeroizing<[u8; 32]> = Zeroizing::new(draw(entropy));
    let identity = Identity::from_seed(*Zeroizing::new(draw(entropy)));
    let public_key = identity.public_key();
    let endpoints = config.endpoints();
    let certificate = authority.certify(FOUNDER, &config.id, public_key, GENERATION_FIRST);
    let record = MasterRecord {
        id: FOUNDER,
        name: config.id.clone(),
        state: MasterState::Active,
        endpoints: endpoints.clone(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        weight: WEIGHT_ORDINARY,
        certificate: certificate.clone(),
        public_key,
        role: saltern_wire::master::Role::Voter,
    };
    let directory = authority.sign_directory(&Directory {
        cluster,
        generation: GENERATION_FIRST,
        version: 1,
        masters: vec![record],
        succeeds: Vec::new(),
        retired: Vec::new(),
    });
    let ca_certificate_pem = authority.certificate_pem()?;
    let tls_certificate_pem = authority.tls_certificate_pem(FOUNDER, &public_key, &endpoints)?;
    let found = MasterCommand::Found {
        cluster,
        ca: authority.public_key(),
        ca_sealed: authority.seal(&state_secret, entropy),
        ca_certificate_pem: ca_certificate_pem.clone(),
        directory: directory.clone(),
        settings: config.seeds.clone(),
        level: saltern_wire::level::LEVEL,
    };
    let proposal = Proposal {
        request: Some(RequestId::from_bytes(draw(entropy))),
        by: FOUNDER,
        stamp: LogicalTime::from_unix_micros(clock.wall_unix_micros()),
        command: Command::Master(found),
    };
    let credentials = Credentials {
        cluster,
        master: FOUNDER,
        name: config.id.clone(),
        endpoints,
        region: config.region.clone(),
        zone: config.zone.clone(),
        identity: Arc::new(identity),
        certificate,
        ca: authority.public_key(),
        ca_certificate: certificate_from_pem("the new CA certificate", &ca_certificate_pem)?,
        ca_certificate_pem,
        tls_certificate: certificate_from_pem("the new master certificate", &tls_certificate_pem)?,
        tls_certificate_pem,
        ring: crate::pki::ring::Keyring::new(&state_secret),
        state_secret,
        directory,
    };
    super::prepare(disk, entropy, &config.data_dir, &config.api_token_file, &credentials, Some(&proposal))?;
    Ok(Founded {
        cluster,
        name: config.id.clone(),
        ca_fingerprint: authority.public_key().fingerprint(),
        data_dir: config.data_dir.clone(),
        api_token_file: config.api_token_file.clone(),
    })
}
