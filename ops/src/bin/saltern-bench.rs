//! `saltern-bench`: see [`saltern_ops::bench`].

use clap::Parser;
use saltern_ops::bench::{Arguments, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(&Arguments::parse()).await
}
