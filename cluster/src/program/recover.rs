//! `saltern-master recover plan` and `apply`.

use super::Failed;
use crate::config::Config;
use crate::recover::{Plan, Report, apply, report};
use saltern_pubsub::clock::{SystemClock, SystemEntropy};
use saltern_pubsub::disk::SystemDisk;
use saltern_store::kv::Engine;
use saltern_store::kv::rocks::RocksEngine;
use saltern_wire::ClusterId;
use std::sync::Arc;

/// The two steps.
#[derive(Debug, clap::Subcommand)]
pub enum RecoverCommand {
    /// Show what this master holds, which survivor to choose and what would be lost; decides nothing
    #[command(
        after_help = "Run it on every survivor, with its master stopped, and carry the lines that begin with `report` to one of\n\
        them: it compares them.\n\nExample:\n  saltern-master recover plan --report '{\"cluster\":…}'"
    )]
    Plan {
        /// The line that another survivor printed
        #[arg(long = "report", value_name = "LINE")]
        reports: Vec<String>,
    },
    /// Let this master carry on alone, with everything that it holds; the lost ones are refused from then on
    #[command(after_help = "Look at `recover plan` first. Running it again after any failure is harmless.")]
    Apply {
        /// The cluster, as `recover plan` names it
        #[arg(long, value_name = "CLUSTER-ID")]
        confirm: ClusterId,
    },
}

/// Carries out a step.
pub async fn run(config: Config, command: RecoverCommand) -> Result<u8, Failed> {
    let work = move || {
        let engine: Arc<dyn Engine> = Arc::new(RocksEngine);
        match command {
            RecoverCommand::Plan { reports } => {
                let own = report(&config, &engine, &SystemDisk)?;
                let mut text = format!("{own}\n");
                let line = own.line();
                let others = reports.iter().map(|line| Report::parse(line)).collect::<Result<Vec<_>, _>>()?;
                let plan = Plan::of(std::iter::once(own).chain(others).collect())?;
                text += &format!("{plan}\n\nreport {line}");
                Ok(text)
            }
            RecoverCommand::Apply { confirm } => {
                let edges = (&SystemDisk as _, &SystemEntropy as _, &SystemClock::new() as _);
                apply(&config, confirm, &engine, edges).map(|recovered| recovered.to_string())
            }
        }
    };
    let done = tokio::task::spawn_blocking(work).await;
    let text = done.map_err(|error| Failed::Core(format!("the command ended early: {error}")))?;
    println!("{}", text.map_err(Failed::Recover)?);
    Ok(0)
}
