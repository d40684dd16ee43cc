//! The runtime on which sessions and publishing run, apart from the group: a burst of handshakes, or of jobs to thousands of
//! minions, takes its own threads' time, and the operating system shares the cores fairly between them and the threads that
//! carry heartbeats and entries. The fan-out's socket has a thread of its own beside it (`saltern_pubsub::zmq`).
//!
//! **Invariants.** Nothing of Raft runs here. The threads are named, so that whoever looks at a busy master sees which half of it
//! is busy.

use tokio::runtime::{Builder, Handle, Runtime};

/// Name of the threads, within the 15 bytes that the kernel keeps.
const THREAD_NAME: &str = "saltern-session";

/// The runtime. Dropping it ends what runs on it without waiting.
pub struct Isolation(Option<Runtime>);

impl Isolation {
    /// Starts as many threads as there are cores.
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().thread_name(THREAD_NAME).enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Where to spawn.
    pub fn handle(&self) -> Option<Handle> {
        self.0.as_ref().map(|runtime| runtime.handle().clone())
    }
}

impl Drop for Isolation {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // The drop of a runtime waits, which must not be done where other tasks run.
            runtime.shutdown_background();
        }
    }
}
