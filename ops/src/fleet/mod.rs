//! A whole cluster of real processes on loopback, in one folder: for the demo, for benchmarks and for tests.
//!
//! ```text
//!   folder/master-1/{master.yaml, data/, master.sock, log}     127.A.B.1:4505 4506 4510 4511
//!   folder/minion-1/{minion.yaml, data/, log}
//! ```
//!
//! Every member has an environment of its own ([`Master::environment`], [`Minion::environment`]), which its next start takes.
//!
//! Every process belongs to the [`Fleet`] that started it and is killed when it is dropped. Each master has an address of its
//! own out of 127.0.0.0/8, so that any of them can be reached, cut off and named separately. Masters in regions that are far
//! from each other ([`Plan::distances`]) speak through a relay of the fleet.
//!
//! **It refuses** to know what the processes do: it writes their configuration, starts, kills, freezes and restarts them.

pub mod binaries;
pub mod bring_up;
pub mod burst;
pub mod jobs;
pub mod ports;
pub mod process;
pub mod swarm;

use crate::relay::{Distances, Jitter, Relay, RelayError, Site};
use binaries::Binaries;
use ports::Ports;
use process::{Process, ProcessError};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Fleets that this process has laid out.
static FLEETS: AtomicU32 = AtomicU32::new(0);

/// What stands for a member's own folder in [`Plan::environment`].
pub const FOLDER_PLACEHOLDER: &str = "{folder}";

/// Environment variables of a member, by name.
pub type Environment = BTreeMap<String, String>;

/// What a fleet looks like.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Masters, at least one.
    pub masters: usize,
    /// Minions.
    pub minions: usize,
    /// Region labels, given to the masters in turn.
    pub regions: Vec<String>,
    /// How far the regions are from each other: the masters speak through a [`Relay`] then.
    pub distances: Option<Distances>,
    /// Where everything is kept; made by the caller and empty.
    pub folder: PathBuf,
    /// Lines for every master's configuration.
    pub master_extra: String,
    /// Lines for every minion's configuration.
    pub minion_extra: String,
    /// Environment variables of every member; [`FOLDER_PLACEHOLDER`] in a value becomes the member's folder.
    pub environment: Environment,
    /// What the members run; what stands beside this program if it is not said.
    pub programs: Option<Binaries>,
}

impl Plan {
    /// The environment that a member in `folder` begins with.
    fn environment_of(&self, folder: &Path) -> Environment {
        let folder = folder.display().to_string();
        let own = |(name, value): (&String, &String)| (name.clone(), value.replace(FOLDER_PLACEHOLDER, &folder));
        self.environment.iter().map(own).collect()
    }
}

/// Why a fleet cannot go on. Messages name the process and its log.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A binary is missing.
    #[error(transparent)]
    Binaries(#[from] binaries::MissingBinary),
    /// A process could not be started, or ended early.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file could not be written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The relay between the regions does not start.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// There is no free set of ports.
    #[error("no free ports on {0}: stop what listens there, or wait a moment")]
    Ports(Ipv4Addr),
}

/// One master of a fleet.
#[derive(Debug)]
pub struct Master {
    /// Its name, `master-1` and so on.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its folder.
    pub folder: PathBuf,
    /// Its region label.
    pub region: String,
    /// Environment variables for its next start.
    pub environment: Environment,
    /// The process, while it is meant to run.
    pub process: Option<Process>,
}

impl Master {
    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("master.yaml")
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The unix socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("master.sock")
    }
}

/// One minion of a fleet.
#[derive(Debug)]
pub struct Minion {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Environment variables for its next start.
    pub environment: Environment,
    /// The process, while it is meant to run.
    pub process: Option<Process>,
}

impl Minion {
    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("minion.yaml")
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

/// Processes and where they live.
#[derive(Debug)]
pub struct Fleet {
    plan: Plan,
    binaries: Binaries,
    ports: Ports,
    /// What is between the masters, if they are in regions that are far from each other.
    pub relay: Option<Relay>,
    /// The masters, in the order of their numbers.
    pub masters: Vec<Master>,
    /// The minions, in the order of their numbers.
    pub minions: Vec<Minion>,
}

impl Fleet {
    /// Lays out the folders and picks addresses and ports; nothing is started.
    pub fn lay_out(plan: Plan) -> Result<Self, FleetError> {
        let binaries = plan.programs.clone().map_or_else(Binaries::find, Ok)?;
        let network = ports::network_of(std::process::id(), FLEETS.fetch_add(1, Ordering::Relaxed));
        let ports = Ports::pick(network, plan.masters)?;
        let regions = if plan.regions.is_empty() { vec!["local".to_owned()] } else { plan.regions.clone() };
        let masters = (1..=plan.masters).map(|number| {
            let name = format!("master-{number}");
            let folder = plan.folder.join(&name);
            let region = regions[(number - 1) % regions.len()].clone();
            let environment = plan.environment_of(&folder);
            Master { name, address: ports::host_of(network, number), folder, region, environment, process: None }
        });
        let minions = (1..=plan.minions).map(|number| {
            let id = format!("minion-{number}");
            let folder = plan.folder.join(&id);
            let environment = plan.environment_of(&folder);
            Minion { id, folder, environment, process: None }
        });
        let (masters, minions) = (masters.collect(), minions.collect());
        let mut fleet = Self { binaries, ports, relay: None, masters, minions, plan };
        fleet.relay = fleet.start_relay()?;
        fleet.write_masters()?;
        Ok(fleet)
    }

    /// Puts a relay before every master's port for other masters, if the plan says how far they are from each other.
    fn start_relay(&self) -> Result<Option<Relay>, FleetError> {
        let Some(distances) = self.plan.distances.clone() else { return Ok(None) };
        let sites = self.masters.iter().map(|master| Site {
            place: master.region.clone(),
            source: master.address.into(),
            listens: (master.address, self.ports.mesh).into(),
            relayed: (ports::relayed_of(master.address), self.ports.mesh).into(),
        });
        Ok(Some(Relay::start(sites.collect(), distances, Jitter::default())?))
    }

    fn write_masters(&self) -> Result<(), FleetError> {
        for master in &self.masters {
            make_folder(&master.folder)?;
            let text = format!(
                "id: {}\ninterface: {}\npublish_port: {}\nret_port: {}\nmesh_port: {}\napi_port: {}\ndata_dir: {}\n\
                 socket: {}\nregion: {}\nzone: {}\nmesh_advertise: {}\n{}",
                master.name,
                master.address,
                self.ports.publish,
                self.ports.session,
                self.ports.mesh,
                self.ports.api,
                master.data().display(),
                master.socket().display(),
                master.region,
                master.name,
                if self.relay.is_some() { ports::relayed_of(master.address) } else { master.address },
                self.plan.master_extra,
            );
            write(&master.config(), &text)?;
        }
        Ok(())
    }

    /// Makes the cluster on the first master's disk. Returns the CA fingerprint that minions pin.
    pub fn init(&self) -> Result<String, FleetError> {
        let master = &self.masters[0];
        let arguments = ["init".into(), "-c".into(), master.config().display().to_string()];
        let said = process::run(&self.binaries.master, &arguments)?;
        let digits = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let fingerprint = said.split_whitespace().find(digits);
        fingerprint.map(str::to_owned).ok_or_else(|| {
            let cause = format!("`saltern-master init` named no CA fingerprint; it said: {said}");
            ProcessError::Said { name: master.name.clone(), cause }.into()
        })
    }

    /// Gives a master its credentials with a join token.
    pub fn join(&self, number: usize, token: &str) -> Result<(), FleetError> {
        let master = &self.masters[number];
        let arguments = ["join".into(), token.into(), "-c".into(), master.config().display().to_string()];
        process::run(&self.binaries.master, &arguments)?;
        Ok(())
    }

    /// Starts a master that was initialised or joined.
    pub fn start_master(&mut self, number: usize) -> Result<(), FleetError> {
        let master = &mut self.masters[number];
        let arguments = ["run".into(), "-c".into(), master.config().display().to_string()];
        let program = &self.binaries.master;
        let process = Process::start(&master.name, program, &arguments, &master.folder, &master.environment)?;
        master.process = Some(process);
        Ok(())
    }

    /// Writes a minion's configuration: every master in an order that starts at another one for each minion.
    pub fn write_minion(&self, number: usize, ca_fingerprint: &str) -> Result<(), FleetError> {
        let minion = &self.minions[number];
        make_folder(&minion.folder)?;
        let mut text = format!("id: {}\nmaster:\n", minion.id);
        for step in 0..self.masters.len() {
            let master = &self.masters[(number + step) % self.masters.len()];
            let _ = writeln!(text, "  - {}:{}", master.address, self.ports.session);
        }
        let data = minion.data();
        let _ =
            write!(text, "ca_fingerprint: {ca_fingerprint}\ndata_dir: {}\n{}", data.display(), self.plan.minion_extra);
        write(&minion.config(), &text)
    }

    /// Starts a minion whose configuration was written.
    pub fn start_minion(&mut self, number: usize) -> Result<(), FleetError> {
        let minion = &mut self.minions[number];
        let arguments = ["run".into(), "-c".into(), minion.config().display().to_string()];
        let program = &self.binaries.minion;
        let process = Process::start(&minion.id, program, &arguments, &minion.folder, &minion.environment)?;
        minion.process = Some(process);
        Ok(())
    }

    /// The operator's command line that reaches every master of this fleet, for people.
    pub fn server_list(&self) -> String {
        let sockets: Vec<String> =
            self.masters.iter().map(|master| format!("unix://{}", master.socket().display())).collect();
        sockets.join(",")
    }

    /// The binaries that it starts.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The ports that every master listens on.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The first process that ended although it should run, with the end of its log.
    pub fn first_dead(&mut self) -> Option<String> {
        let masters = self.masters.iter_mut().filter_map(|master| master.process.as_mut());
        let minions = self.minions.iter_mut().filter_map(|minion| minion.process.as_mut());
        masters.chain(minions).find_map(Process::ended)
    }
}

impl Drop for Fleet {
    /// Jobs outlive their minion by design; those of a fleet end with it.
    fn drop(&mut self) {
        self.masters.clear();
        for minion in &mut self.minions {
            minion.process = None;
            process::kill_all_of(&minion.folder);
        }
    }
}

fn make_folder(path: &Path) -> Result<(), FleetError> {
    std::fs::create_dir_all(path).map_err(|source| FleetError::File { path: path.into(), source })
}

fn write(path: &Path, text: &str) -> Result<(), FleetError> {
    std::fs::write(path, text).map_err(|source| FleetError::File { path: path.into(), source })
}
