//! A client without a socket: two streams of bytes in memory, of which each piece is taken as a whole.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's end.
#[derive(Clone)]
pub struct Peer(Arc<Mutex<Wire>>);

/// What the broker reads from.
pub struct Requests(Arc<Mutex<Wire>>);

/// What the broker writes to.
pub struct Responses(Arc<Mutex<Wire>>);

#[derive(Default)]
struct Wire {
    requests: VecDeque<Bytes>,
    reading: Option<Waker>,
    response: Response,
    /// Whole, and not taken yet.
    arrived: Option<usize>,
    waiting: Option<Waker>,
}

/// The response that is coming in.
#[derive(Default)]
struct Response {
    bytes: usize,
    length: [u8; 4],
    /// All of it, if somebody wants to look.
    kept: Option<Vec<u8>>,
}

impl Response {
    fn take(&mut self, from: &[u8]) {
        for (to, byte) in self.length.iter_mut().skip(self.bytes).zip(from) {
            *to = *byte;
        }
        self.bytes += from.len();
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(from);
        }
    }

    /// The size of a frame that is whole.
    ///
    /// # Panics
    /// If more than one came, while one request is under way at a time.
    fn whole(&self) -> Option<usize> {
        if self.bytes < self.length.len() {
            return None;
        }
        let size = self.length.len() + u32::from_be_bytes(self.length) as usize;
        assert!(self.bytes <= size, "{} bytes of a response of {size}", self.bytes);
        (self.bytes == size).then_some(size)
    }
}

impl Peer {
    pub fn new() -> (Peer, Requests, Responses) {
        let wire = Arc::new(Mutex::new(Wire::default()));
        (Peer(wire.clone()), Requests(wire.clone()), Responses(wire))
    }

    /// Sends a request and waits for its response, of which only the size is kept.
    pub async fn call(&self, request: &Bytes) -> usize {
        {
            let mut wire = self.0.lock();
            wire.requests.push_back(request.clone());
            if let Some(reading) = wire.reading.take() {
                reading.wake();
            }
        }
        std::future::poll_fn(|context| {
            let mut wire = self.0.lock();
            match wire.arrived.take() {
                Some(size) => Poll::Ready(size),
                None => {
                    wire.waiting = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The same, with the response.
    pub async fn call_and_keep(&self, request: &Bytes) -> Vec<u8> {
        self.0.lock().response.kept = Some(Vec::new());
        self.call(request).await;
        self.0.lock().response.kept.take().expect("it was to be kept")
    }
}

impl AsyncRead for Requests {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut wire = self.0.lock();
        let Some(front) = wire.requests.front_mut() else {
            wire.reading = Some(context.waker().clone());
            return Poll::Pending;
        };
        let piece = front.len().min(to.remaining());
        to.put_slice(&front[..piece]);
        front.advance(piece);
        if front.is_empty() {
            wire.requests.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Responses {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(from)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut wire = self.0.lock();
        let mut written = 0;
        for slice in from {
            wire.response.take(slice);
            written += slice.len();
        }
        if let Some(size) = wire.response.whole() {
            wire.arrived = Some(size);
            wire.response.bytes = 0;
            if let Some(waiting) = wire.waiting.take() {
                waiting.wake();
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
