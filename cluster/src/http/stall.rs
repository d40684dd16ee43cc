//! A connection that ends when its peer does not take what it asked for.
//!
//! **Invariants.** While something waits to be written and nothing of it leaves for [`STALL_MAX`], writing fails: so neither
//! an answer nor an event stream holds a place and its memory for somebody who does not read. Reading has limits elsewhere.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a peer may take nothing: some lost packets on a bad line, not a process that was stopped.
pub const STALL_MAX: Duration = Duration::from_secs(20);

/// The connection.
pub struct Draining<S> {
    inner: S,
    /// Runs while something waits to be written.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Draining<S> {
    /// Watches over `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, stalled: None }
    }

    /// What a write has come to, unless it has waited for too long.
    fn judge<T>(&mut self, wrote: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_MAX)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Draining<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Draining<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judge(wrote, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.judge(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_shutdown(context);
        self.judge(closed, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.judge(wrote, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut draining = Draining::new(near);
        draining.write_all(&[0; 1024]).await.expect("room");
        let wrote = draining.write_all(&[0; 1]).await.expect_err("nobody reads");
        assert_eq!(wrote.kind(), io::ErrorKind::TimedOut);
        drop(draining);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.expect("closed");
        let (near, mut slow) = tokio::io::duplex(16);
        let reads = async {
            let mut taken = [0; 16];
            for _ in 0..10 {
                tokio::time::sleep(STALL_MAX * 3 / 4).await;
                slow.read_exact(&mut taken).await.expect("more");
            }
        };
        let mut draining = Draining::new(near);
        let (wrote, ()) = tokio::join!(draining.write_all(&[0; 160]), reads);
        wrote.expect("it took something all the time");
    }
}
