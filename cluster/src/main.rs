//! `saltern-master`: one master of a cluster. Everything is in the library, so that tests reach it.

use clap::Parser;
use saltern_cluster::program::{Arguments, main_of};
use std::process::ExitCode;

/// Entries and batches of 100 KiB and more come and go by the thousand a second, across threads: a third of what a return
/// costs was spent in the C library's allocator (`ops/adr/0010-an-allocator-for-the-master.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    saltern_wire::fault::start();
    // Before anything is opened: the gates' limits follow from it. What the system refuses leaves the limit as it was.
    let descriptors = saltern_pubsub::zmq::raise_descriptor_limit();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing is left to tell if the terminal is gone. clap ends usage errors with 2; sysexits.h says 64.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    if let Err(error) = descriptors {
        eprintln!("saltern-master: the limit of file descriptors stays as it is: {error}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("saltern-master: cannot start: {error}");
            return ExitCode::from(71);
        }
    };
    let code = runtime.block_on(main_of(arguments));
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    ExitCode::from(code)
}
