//! `raft-member`: a master of `ops/bench raft`, with the generator of its load inside.
//!
//! ```text
//!   saltern-bench ──▶ {"do": …} a line ──▶ SALTERN_BENCH_SOCKET ──▶ load, gap ──▶ Truth, Inbox ──▶ the real core
//!                 ◀── {name: number, …} a line ◀──
//! ```
//!
//! It takes the arguments of `saltern-master` and is one in everything; beside it, questions on a unix socket are answered,
//! each a measurement. Load that came from outside would measure its own way in: TLS, HTTP and JSON cost more than a write.
//!
//! **It refuses** nothing that it is asked to do: the folder that the socket lives in belongs to the benchmark.

mod gap;
mod load;
mod question;
mod stock;
mod tally;

use clap::Parser;
use question::{Bench, answer_all};
use saltern_cluster::program::{Arguments, main_beside};
use std::process::ExitCode;

/// Names the socket for questions.
const SOCKET_VARIABLE: &str = "SALTERN_BENCH_SOCKET";

/// Entries and batches of 100 KiB and more come and go by the thousand a second, across threads: a third of what a return
/// costs was spent in the C library's allocator (`ops/adr/0010-an-allocator-for-the-master.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("raft-member: cannot start: {error}");
            return ExitCode::from(71);
        }
    };
    let socket = std::env::var_os(SOCKET_VARIABLE);
    let code = runtime.block_on(main_beside(arguments, |node| {
        if let Some(socket) = socket {
            node.tasks().spawn(answer_all(socket.into(), Bench::new(node), node.stopping().clone()));
        }
    }));
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    ExitCode::from(code)
}
