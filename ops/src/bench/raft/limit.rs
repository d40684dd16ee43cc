//! What the disk allows: as many loops as there are members, each of them writing and syncing one page again and again.

use saltern_wire::io::Clock;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

/// Bytes that each sync covers.
const PAGE_BYTES: usize = 4096;

/// Pages of a file: it is written over from the beginning then, so that it never grows while it is measured.
const PAGES: u64 = 256;

/// Syncs per second that each of `loops` concurrent loops reaches in `folder`, on the average.
pub async fn fdatasync_per_s(
    folder: &Path,
    loops: usize,
    within: Duration,
    clock: &(impl Clock + Clone + 'static),
) -> anyhow::Result<f64> {
    let mut running = tokio::task::JoinSet::new();
    for number in 0..loops {
        let (path, clock) = (folder.join(format!("limit-{number}")), clock.clone());
        running.spawn_blocking(move || one_loop(&path, within, &clock));
    }
    let mut sum = 0.0;
    while let Some(rate) = running.join_next().await {
        sum += rate??;
    }
    Ok(sum / loops as f64)
}

fn one_loop(path: &Path, within: Duration, clock: &impl Clock) -> anyhow::Result<f64> {
    let mut file = File::options().create(true).truncate(true).write(true).open(path)?;
    file.write_all(&vec![1; PAGE_BYTES * usize::try_from(PAGES)?])?;
    file.sync_all()?;
    let page = [7; PAGE_BYTES];
    let started = clock.monotonic();
    let mut count = 0_u64;
    while clock.monotonic().saturating_sub(started) < within {
        file.seek(SeekFrom::Start(count % PAGES * PAGE_BYTES as u64))?;
        file.write_all(&page)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = count as f64 / clock.monotonic().saturating_sub(started).as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}
