//! `saltern-master run`: a master from its first file to its last.

use super::Failed;
use crate::api::{Api, Gate};
use crate::backup::schedule::Schedule;
use crate::config::{Config, LogLevel};
use crate::founding;
use crate::isolation::Isolation;
use crate::membership::{removed, wiped};
use crate::mesh::Mesh;
use crate::node::{DiskWatch, Edges, Failure, Node, NodeConfig, bind_address, removed_words};
use crate::pki::{Credentials, tls};
use crate::quarantine::{QUARANTINE_FILE, Quarantine, cause_of, tell_peers};
use crate::raft::GroupConfig;
use crate::raft::machine::DiskWork;
use crate::regions::duty;
use crate::space::require_writable;
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_pubsub::zmq::{GateLimits, Needs, Room, ZmqTransport};
use saltern_store::FlushBy;
use saltern_store::kv::rocks::RocksEngine;
use saltern_wire::LogicalTime;
use saltern_wire::io::{Clock, Io};
use saltern_wire::master::Endpoints;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// What Raft itself says about unreachable peers and elections is for its developers: it is shown at the levels debug and
/// trace only. Operators hear of the leader and of the quorum from the node.
fn directives(config: &Config) -> String {
    match config.log_level {
        LogLevel::Error | LogLevel::Warning | LogLevel::Info => {
            format!("{},{}=error", config.log_level.directive(), crate::raft::LOG_TARGET)
        }
        LogLevel::Debug | LogLevel::Trace => config.log_level.directive().into(),
    }
}

fn start_logging(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SALTERN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(directives(config)));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second subscriber means that a test set one already.
    let _ = logs.with_ansi(std::io::stderr().is_terminal()).try_init();
}

/// A panic anywhere ends the process, after its message. A master that lost a task or a thread would go on answering and do
/// half of its work, a writer of the log perhaps; about a dead one everybody knows what to do.
fn end_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}

/// Runs a master until it is asked to stop or cannot go on. `remedy` is what brings it back if its data cannot be trusted;
/// `beside` begins once it runs.
pub async fn run(config: Config, remedy: &str, beside: impl FnOnce(&Node)) -> Result<(), Failed> {
    start_logging(&config);
    end_on_panic();
    let credentials = Arc::new(Credentials::load(&SystemDisk, &config.data_dir)?);
    let doubted = Quarantine::read(&SystemDisk, &config.data_dir);
    let path = || config.data_dir.join(QUARANTINE_FILE).display().to_string();
    if let Some(quarantine) = doubted.map_err(|source| Failed::File { path: path(), source })? {
        let cause = format!("{} (since {})", quarantine.cause, quarantine.since);
        return Err(take_no_part(&config, &credentials, &cause, remedy).await);
    }
    let limits = gate_limits(&config)?;
    // Everything that follows writes; what the stores would say of a disk that takes nothing is harder to read.
    require_writable(&config.data_dir)?;
    let founding = founding::pending(&SystemDisk, &config.data_dir)?;
    let mesh = Mesh::new(Arc::new(tls::mesh(&credentials)?.from_interface(config.interface)));
    if let Some(directory) = removed::look(&credentials, &mesh).await {
        return Err(Failed::Removed(removed_words(&credentials, directory.generation, directory.version)));
    }
    if let Some(cause) = wiped::look(&config.data_dir, &credentials, &mesh, founding.is_some()).await {
        return Err(quarantine(&config, &credentials, &cause, remedy).await);
    }
    let isolation =
        Isolation::start().map_err(|error| Failed::Core(format!("it cannot start its threads: {error}")))?;
    let (edges, gate) = edges(&config, &credentials, limits, &isolation)?;
    // The API's addresses are taken first: a second master with the same configuration ends here, before it touches a log.
    let tcp = crate::http::bind_tcp(config.bind(config.api_port))?;
    let node = match Node::start(node_config(&config), edges, Arc::clone(&credentials), founding).await {
        Ok(node) => node,
        Err(error) => {
            let Some(cause) = error.corruption() else {
                require_writable(&config.data_dir)?;
                return Err(error.into());
            };
            return Err(quarantine(&config, &credentials, &cause, remedy).await);
        }
    };
    founding::settle(&SystemDisk, &config.data_dir)?;
    let unix = crate::http::bind_unix(&config.socket).await?;
    let token = founding::api_token(&SystemDisk, &config.api_token_file);
    let token = token.map_err(|source| Failed::File { path: config.api_token_file.display().to_string(), source })?;
    let schedule = config.backup.clone().map(|plan| Schedule::start(plan, &node));
    Api::new(&node, token, Some(gate), schedule).serve(unix, tcp, &node)?;
    beside(&node);
    // Outside systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let failure = tokio::select! {
        failure = node.failed() => Some(failure),
        () = asked_to_stop() => None,
        profile = duty::turn_to_start(&node.truth) => {
            tracing::info!(%profile, "the cluster has another profile: this process starts anew to run with it");
            node.stop().await;
            return Err(start_anew());
        }
        () = node.asked_to_leave().cancelled() => None,
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if failure.is_none() {
        tokio::select! {
            () = node.leave() => {}
            // Whoever asks twice is in a hurry.
            () = asked_to_stop() => {}
        }
    }
    node.stop().await;
    // The socket is this master's own; the next start would replace it anyway.
    let _ = std::fs::remove_file(&config.socket);
    match failure {
        None => Ok(()),
        Some(Failure::Core(cause)) => {
            // The core says that storage failed; the disk says why.
            require_writable(&config.data_dir)?;
            Err(Failed::Core(format!("this master cannot go on: {cause}")))
        }
        Some(Failure::Newer(cause)) => Err(Failed::Newer(cause)),
        Some(Failure::Disk(cause)) => {
            // What the store says of the write is exact, what the disk says now is easier to act on.
            require_writable(&config.data_dir)?;
            Err(Failed::Write { folder: config.data_dir.display().to_string(), cause })
        }
        Some(Failure::Removed(cause)) => Err(Failed::Removed(cause)),
        Some(Failure::Corrupt(cause)) => Err(quarantine(&config, &credentials, &cause, remedy).await),
    }
}

/// Puts a new process in the place of this one: the same program, arguments, environment and process id, so that whoever
/// watches over it notices nothing. Everything that was open is closed by it. Returns only if that fails.
fn start_anew() -> Failed {
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let error = command.args(arguments).exec();
    Failed::Core(format!(
        "this master stopped to run with another profile, and does not start again by itself: {error}"
    ))
}

/// Notes durably that this master's data cannot be trusted, once nothing of it runs any more.
async fn quarantine(config: &Config, credentials: &Credentials, cause: &str, remedy: &str) -> Failed {
    let quarantine = Quarantine {
        master: credentials.master,
        name: credentials.name.clone(),
        cause: cause_of(cause),
        since: LogicalTime::from_unix_micros(SystemClock::new().wall_unix_micros()),
    };
    if let Err(error) = quarantine.write(&SystemDisk, &config.data_dir) {
        // It ends all the same. The next start meets the same bytes.
        tracing::error!(%error, "the quarantine cannot be written down");
    }
    take_no_part(config, credentials, &quarantine.cause, remedy).await
}

/// Tells everybody who may want to know, and gives what this process ends with.
async fn take_no_part(config: &Config, credentials: &Credentials, cause: &str, remedy: &str) -> Failed {
    tracing::error!(master = %credentials.master, cause, remedy, "this master is quarantined and takes no part");
    let status = format!("quarantined: {cause}; run `{remedy}`");
    // Outside systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&status)]);
    match (tls::mesh(credentials), credentials.directory.verify(&credentials.ca)) {
        (Ok(transport), Ok(directory)) => {
            let mesh = Mesh::new(Arc::new(transport.from_interface(config.interface)));
            mesh.learn(&directory);
            let told = tell_peers(&mesh, &directory, credentials.master, cause).await;
            tracing::info!(told, "told the other masters");
        }
        (Err(error), _) => tracing::warn!(%error, "the other masters cannot be told"),
        (_, Err(error)) => tracing::warn!(%error, "the other masters cannot be told"),
    }
    Failed::Quarantined { cause: cause.into(), remedy: remedy.into() }
}

/// What the gates let through: what the operator asked for, if the system gives it, or as much as it gives.
fn gate_limits(config: &Config) -> Result<GateLimits, Failed> {
    let room = Room::read();
    let mut limits = GateLimits::default();
    if let Some(minions) = config.minions_max {
        Needs::of(minions).check(&room)?;
        limits = GateLimits::for_minions(minions);
    }
    if let Some(wanted) = config.connections_per_address_max {
        limits.connections_per_address_max = usize::try_from(wanted).unwrap_or(usize::MAX);
    }
    let (connections, descriptors) = (limits.connections_max, room.descriptors);
    tracing::info!(connections, descriptors, "connections of minions that each of the two ports has room for");
    Ok(limits)
}

fn edges(
    config: &Config,
    credentials: &Arc<Credentials>,
    limits: GateLimits,
    isolation: &Isolation,
) -> Result<(Edges, Gate), Failed> {
    let mesh = tls::mesh(credentials)?.from_interface(config.interface);
    let transport = ZmqTransport::new(limits)
        .map_err(|source| Failed::File { path: std::env::temp_dir().display().to_string(), source })?;
    let gate = Gate { counters: transport.counters(), offences: transport.offences() };
    let entropy = Arc::new(SystemEntropy);
    let io =
        Io { transport: Arc::new(transport), clock: Arc::new(SystemClock::new()), entropy, disk: Arc::new(SystemDisk) };
    let edges = Edges {
        io,
        mesh: Arc::new(mesh),
        engine: Arc::new(RocksEngine),
        flush: FlushBy::Thread,
        disk_work: DiskWork::Threads,
        sessions_on: isolation.handle(),
    };
    Ok((edges, gate))
}

fn node_config(config: &Config) -> NodeConfig {
    let bind = |port| bind_address(config.interface, port);
    NodeConfig {
        data_dir: config.data_dir.clone(),
        bind: Endpoints {
            fanout: bind(config.publish_port),
            session: bind(config.ret_port),
            mesh: bind(config.mesh_port),
            api: bind(config.api_port),
        },
        follows_profile: !config.is_own_timing,
        group: GroupConfig {
            heartbeat_ms: config.timing.heartbeat_ms,
            election_ms_min: config.timing.election_ms_min,
            election_ms_max: config.timing.election_ms_max,
            snapshot_entries: config.snapshot_entries,
            log_keep_entries: config.log_keep_entries,
            log_compact_bytes: config.log_compact_mib.saturating_mul(1024 * 1024),
            log_keep_bytes: config.log_keep_mib.saturating_mul(1024 * 1024),
        },
        disk_watch: Some(DiskWatch {
            reserve_bytes: config.disk_reserve_mib.map(|mib| mib.saturating_mul(1024 * 1024)),
        }),
    }
}

/// Ends when the process is asked to (SIGTERM, or SIGINT from a terminal).
async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
