//! A cluster is attacked on all of its ports while its fleet works, and nobody of the fleet notices.
//!
//! The short form; `saltern-jepsen attack --seconds 300` is the long one.

use saltern_jepsen::attack::report::GROWTH_KIB_MAX;
use saltern_jepsen::attack::{Options, run};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_strangers_do_the_fleets_jobs_complete() -> anyhow::Result<()> {
    let report = run(Options { seed: 1, time: Duration::from_secs(8), minions: 4 }).await?;
    println!("{report}");
    let mut faults = report.faults();
    // Some attacks wait longer for their end than this run takes.
    faults.retain(|fault| !fault.contains("never struck"));
    assert_eq!(faults, Vec::<String>::new(), "the limit of memory is {GROWTH_KIB_MAX} KiB");
    let struck: u64 = report.strikes.values().map(|strikes| strikes.done + strikes.cut).sum();
    assert!(struck > 300, "only {struck} strikes");
    Ok(())
}
