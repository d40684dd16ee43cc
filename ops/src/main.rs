//! `saltern`: the operator's command line. Everything is in the library, so that tests reach it.

use clap::Parser;
use saltern_ops::cli::{Cli, EXIT_USAGE};
use saltern_ops::edge::SystemEntropy;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to tell if the terminal is gone. clap ends usage errors with 2, which means "no match" here.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ERROR: cannot start: {error}");
            return ExitCode::from(71);
        }
    };
    ExitCode::from(runtime.block_on(saltern_ops::cli::main(cli, Arc::new(SystemEntropy))))
}
