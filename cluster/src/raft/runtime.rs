//! The runtime that openraft runs on: tokio's, with a random source that the simulation can seed.
//!
//! openraft draws random numbers for election timeouts only. In production they come from the operating system; a simulated
//! run calls [`seed_elections`] first, and its elections repeat.

use openraft::OptionalSend;
use openraft::type_config::AsyncRuntime;
use rand::rngs::SysRng;
use rand::{Rng as _, SeedableRng, TryRng};
use rand_chacha::ChaCha8Rng;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use openraft::impls::TokioRuntime as Tokio;

thread_local! {
    static SOURCE: RefCell<Option<ChaCha8Rng>> = const { RefCell::new(None) };
}

/// Makes the election timeouts of every Raft core on this thread repeat for the same `seed`.
pub fn seed_elections(seed: u64) {
    SOURCE.with_borrow_mut(|source| *source = Some(ChaCha8Rng::seed_from_u64(seed)));
}

/// Draws from the thread's source, seeding it from the operating system on first use.
#[derive(Debug, Default)]
pub struct ElectionRng;

fn with_source<T>(draw: impl FnOnce(&mut ChaCha8Rng) -> T) -> T {
    SOURCE.with_borrow_mut(|source| {
        let source = source.get_or_insert_with(|| {
            let mut seed = [0; 32];
            // Without the operating system's randomness there are no session keys either; nothing can run.
            #[expect(clippy::expect_used, reason = "see above")]
            SysRng.try_fill_bytes(&mut seed).expect("the operating system gives random bytes");
            ChaCha8Rng::from_seed(seed)
        });
        draw(source)
    })
}

impl TryRng for ElectionRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(with_source(|source| source.next_u32()))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(with_source(|source| source.next_u64()))
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        with_source(|source| source.fill_bytes(out));
        Ok(())
    }
}

/// tokio, seedable.
#[derive(Debug)]
pub struct Runtime(Tokio);

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ElectionRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }
    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }
    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }
    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }
    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }
    fn is_panic(error: &Self::JoinError) -> bool {
        Tokio::is_panic(error)
    }
    fn thread_rng() -> Self::ThreadLocalRng {
        ElectionRng
    }
    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}
