//! Frames over a TCP or a unix stream, read and written through a shared reference, so that one task does both.

use super::frame::{
    Frame, FrameError, GREETING_BYTES, check_greeting, check_ready, greeting, missing, ready, take_frame,
};
use bytes::{Buf, Bytes, BytesMut};
use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice};
use tokio::net::{TcpStream, UnixStream};

/// Least and most bytes that are reserved for one read. A stranger's announced length is believed as it arrives, not before.
const READ_BYTES: std::ops::Range<usize> = 2 * 1024..32 * 1024;

/// A stream socket.
pub(super) trait Stream: Send + Sync {
    /// Waits until a read may succeed.
    fn readable(&self) -> impl Future<Output = std::io::Result<()>> + Send;
    /// Waits until a write may succeed.
    fn writable(&self) -> impl Future<Output = std::io::Result<()>> + Send;
    /// Reads what is there.
    fn try_read(&self, buffer: &mut BytesMut) -> std::io::Result<usize>;
    /// Writes what fits.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> std::io::Result<usize>;
}

/// Both sockets have the same methods and no trait for them.
macro_rules! stream {
    ($socket:ty) => {
        impl Stream for $socket {
            async fn readable(&self) -> std::io::Result<()> {
                <$socket>::readable(self).await
            }
            async fn writable(&self) -> std::io::Result<()> {
                <$socket>::writable(self).await
            }
            fn try_read(&self, buffer: &mut BytesMut) -> std::io::Result<usize> {
                self.try_read_buf(buffer)
            }
            fn try_write(&self, slices: &[IoSlice<'_>]) -> std::io::Result<usize> {
                self.try_write_vectored(slices)
            }
        }
    };
}
stream!(TcpStream);
stream!(UnixStream);

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// The other side closed it.
    #[error("the other side closed the connection")]
    Closed,
    /// The system reports a fault.
    #[error("{0}")]
    Io(#[from] Error),
    /// The other side broke the protocol.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// Reads frames. Holds no buffer while nothing is under way.
pub(super) struct FrameReader<'a, S> {
    stream: &'a S,
    buffer: BytesMut,
    body_bytes_max: usize,
}

impl<'a, S: Stream> FrameReader<'a, S> {
    /// Reads frames whose body has `body_bytes_max` bytes at most.
    pub(super) fn new(stream: &'a S, body_bytes_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), body_bytes_max }
    }

    /// Gives up the stream and keeps what was read ahead, for a reader elsewhere.
    pub(super) fn into_buffer(self) -> BytesMut {
        self.buffer
    }

    /// Goes on with what another reader had read ahead.
    pub(super) fn resume(stream: &'a S, buffer: BytesMut, body_bytes_max: usize) -> Self {
        Self { stream, buffer, body_bytes_max }
    }

    /// Bodies may have `body_bytes_max` bytes from the next look on.
    pub(super) fn widen(&mut self, body_bytes_max: usize) {
        self.body_bytes_max = body_bytes_max;
    }

    /// The next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Frame, StreamError> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer, self.body_bytes_max)? {
                return Ok(frame);
            }
            let missing = missing(&self.buffer, self.body_bytes_max);
            self.read(missing).await?;
        }
    }

    /// The other side's greeting. Cancel safe.
    async fn greeting(&mut self) -> Result<(), StreamError> {
        loop {
            if let Some(bytes) = self.buffer.first_chunk::<GREETING_BYTES>() {
                check_greeting(bytes)?;
                self.buffer.advance(GREETING_BYTES);
                return Ok(());
            }
            self.read(GREETING_BYTES).await?;
        }
    }

    /// Reads something.
    async fn read(&mut self, wanted: usize) -> Result<(), StreamError> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        loop {
            tokio::task::consume_budget().await;
            self.stream.readable().await?;
            self.buffer.reserve(wanted.clamp(READ_BYTES.start, READ_BYTES.end));
            match self.stream.try_read(&mut self.buffer) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Writes all of `bytes`, which keeps what is not written yet: a write that was given up may be taken up again.
pub(super) async fn write_all<S: Stream>(stream: &S, bytes: &mut Bytes) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        tokio::task::consume_budget().await;
        stream.writable().await?;
        match stream.try_write(&[IoSlice::new(bytes)]) {
            Ok(written) => bytes.advance(written),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Greets and makes ready: this side is a socket of type `ours` (with `identity`), the other has to be of type `theirs` and
/// without identity.
pub(super) async fn shake_hands<S: Stream>(
    reader: &mut FrameReader<'_, S>,
    ours: &'static str,
    identity: &[u8],
    theirs: &'static str,
) -> Result<(), StreamError> {
    write_all(reader.stream, &mut Bytes::copy_from_slice(&greeting())).await?;
    reader.greeting().await?;
    write_all(reader.stream, &mut ready(ours, identity).into()).await?;
    let answer = reader.next().await?;
    check_ready(&answer, theirs)?;
    Ok(())
}
