//! The commands of `saltern-master`: `init`, `join`, `run`, and their exit codes.
//!
//! A command that fails says so in one line on stderr and leaves no trace. Exit codes are those of sysexits.h: 64 usage,
//! 69 no master reachable, 70 a fault of the master, 71 the system, 75 try again, 77 denied, 78 configuration.

use crate::api::Api;
use crate::config::{Config, ConfigError, LogLevel};
use crate::founding::{self, FoundingError, JoinError};
use crate::mesh::tls::TlsMesh;
use crate::node::{Edges, Node, NodeConfig, StartError, bind_address};
use crate::pki::{self, Credentials};
use crate::raft::GroupConfig;
use crate::raft::machine::DiskWork;
use clap::{Parser, Subcommand};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_pubsub::zmq::{GateLimits, ZmqTransport};
use saltern_store::FlushBy;
use saltern_store::kv::rocks::RocksEngine;
use saltern_wire::io::Io;
use saltern_wire::master::Endpoints;
use std::io::IsTerminal;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// One master of a Saltern cluster.
#[derive(Debug, Parser)]
#[command(name = "saltern-master", version, about, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: MasterCommand,
    #[command(flatten)]
    flags: crate::config::Flags,
}

#[derive(Debug, Subcommand)]
enum MasterCommand {
    /// Make a new cluster, of which this is the first master
    Init,
    /// Become a master of an existing cluster
    Join {
        /// What `saltern cluster join-token` printed on one of its masters
        token: String,
    },
    /// Run this master until SIGTERM
    Run,
}

/// Why a command failed, with its exit code.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Founding(#[from] FoundingError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Credentials(#[from] pki::credentials::CredentialsError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Listen(#[from] crate::http::ListenError),
    #[error("TLS cannot be set up: {0}")]
    Pki(#[from] pki::PkiError),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("{0}")]
    Core(String),
}

impl Failed {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            Self::Join(error) => error.exit_code(),
            Self::Founding(_) | Self::Credentials(_) | Self::Start(_) | Self::Listen(_) | Self::File { .. } => 78,
            Self::Pki(_) | Self::Core(_) => 70,
        }
    }
}

/// Runs one command to its end and gives its exit code.
pub async fn main_of(arguments: Arguments) -> u8 {
    match carry_out(arguments).await {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("saltern-master: {error}");
            error.exit_code()
        }
    }
}

async fn carry_out(arguments: Arguments) -> Result<(), Failed> {
    let uname = rustix::system::uname();
    let config = Config::load(&arguments.flags, std::env::vars(), &uname.nodename().to_string_lossy())?;
    match arguments.command {
        MasterCommand::Init => {
            println!("{}", founding::init(&config, &SystemDisk, &SystemEntropy, &SystemClock::new())?);
            Ok(())
        }
        MasterCommand::Join { token } => {
            println!("{}", founding::join(&config, &token, &SystemDisk, &SystemEntropy).await?);
            Ok(())
        }
        MasterCommand::Run => run(config).await,
    }
}

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

async fn run(config: Config) -> Result<(), Failed> {
    start_logging(&config);
    let credentials = Arc::new(Credentials::load(&SystemDisk, &config.data_dir)?);
    let founding = founding::pending(&SystemDisk, &config.data_dir)?;
    let edges = edges(&credentials)?;
    // The API's addresses are taken first: a second master with the same configuration ends here, before it touches a log.
    let tcp = crate::http::bind_tcp(config.bind(config.api_port))?;
    let node = Node::start(node_config(&config), edges, Arc::clone(&credentials), founding).await?;
    founding::settle(&SystemDisk, &config.data_dir)?;
    let unix = crate::http::bind_unix(&config.socket).await?;
    let token = founding::api_token(&SystemDisk, &config.api_token_file);
    let token = token.map_err(|source| Failed::File { path: config.api_token_file.display().to_string(), source })?;
    Api::new(&node, token).serve(unix, tcp, &node)?;
    // Outside systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let ended = tokio::select! {
        cause = node.failed() => Err(Failed::Core(format!("this master cannot go on: {cause}"))),
        () = asked_to_stop() => Ok(()),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    node.stop().await;
    // The socket is this master's own; the next start would replace it anyway.
    let _ = std::fs::remove_file(&config.socket);
    ended
}

fn edges(credentials: &Arc<Credentials>) -> Result<Edges, Failed> {
    let (client, server) = (pki::tls::mesh_client(credentials)?, pki::tls::mesh_server(credentials)?);
    let cluster = credentials.cluster;
    let mesh = TlsMesh::new(
        Arc::new(client),
        Arc::new(server),
        Arc::new(move |certificate| pki::peer_master_id(cluster, certificate)),
        Arc::new(move |master| pki::tls_name(cluster, master)),
    );
    let transport = ZmqTransport::new(GateLimits::default())
        .map_err(|source| Failed::File { path: std::env::temp_dir().display().to_string(), source })?;
    let entropy = Arc::new(SystemEntropy);
    let io =
        Io { transport: Arc::new(transport), clock: Arc::new(SystemClock::new()), entropy, disk: Arc::new(SystemDisk) };
    Ok(Edges {
        io,
        mesh: Arc::new(mesh),
        engine: Arc::new(RocksEngine),
        flush: FlushBy::Thread,
        disk_work: DiskWork::Threads,
    })
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
        group: GroupConfig {
            heartbeat_ms: config.timing.heartbeat_ms,
            election_ms_min: config.timing.election_ms_min,
            election_ms_max: config.timing.election_ms_max,
            snapshot_entries: config.snapshot_entries,
            log_keep_entries: config.log_keep_entries,
        },
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
