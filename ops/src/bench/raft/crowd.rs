//! Writers that each make their next write when the last one is acknowledged: how peers are asked.

use saltern_wire::io::Clock;
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;

/// One of them, connected.
pub trait Writer: Send + 'static {
    /// Makes a write and waits until it is acknowledged.
    fn write(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Writes per second of so many writers; `open` connects the one of a number, from 0. An error of any ends it.
pub async fn rate<W: Writer, O>(
    writers: u32,
    within: Duration,
    clock: &(impl Clock + Clone + 'static),
    open: impl Fn(u32) -> O,
) -> anyhow::Result<f64>
where
    O: Future<Output = anyhow::Result<W>> + Send + 'static,
{
    let started = clock.monotonic();
    let mut crowd = JoinSet::new();
    for number in 0..writers {
        let (opening, clock) = (open(number), clock.clone());
        crowd.spawn(async move {
            let mut writer = opening.await?;
            let mut count = 0_u64;
            while clock.monotonic().saturating_sub(started) < within {
                writer.write().await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(written) = crowd.join_next().await {
        count += written??;
    }
    Ok(count as f64 / clock.monotonic().saturating_sub(started).as_secs_f64())
}
