//! `saltern-minion`: see [`saltern_minion::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    saltern_wire::fault::start();
    saltern_minion::cli::main(std::env::args_os())
}
