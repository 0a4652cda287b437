//! A response as a list of slices, so that record bytes go from the log cache to the socket without a copy.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;

use super::ResponseBudget;

/// Bytes to be written one after the other.
#[derive(Debug, Default)]
pub struct Rope {
    segments: VecDeque<Bytes>,
    len: usize,
    /// Shares of a budget, given back when the rope is dropped.
    permits: Vec<OwnedSemaphorePermit>,
}

/// How long a peer may leave a response unread.
#[derive(Debug)]
pub struct Patience<'a> {
    /// In any case.
    pub stall: Duration,
    /// While others wait for the memory that the response holds.
    pub contended_stall: Duration,
    pub budget: &'a ResponseBudget,
}

impl Patience<'_> {
    async fn ends(&self, charged: bool) {
        let contended = async {
            if !charged {
                return std::future::pending().await;
            }
            tokio::time::sleep(self.contended_stall).await;
            self.budget.contended().await;
        };
        tokio::select! {
            () = contended => {}
            () = tokio::time::sleep(self.stall) => {}
        }
    }
}

/// What one system call is given at most; Linux takes 1024 (IOV_MAX).
const SLICES_PER_WRITE: usize = 64;

impl Rope {
    pub fn new() -> Rope {
        Rope::default()
    }

    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.len += bytes.len();
            self.segments.push_back(bytes);
        }
    }

    pub fn append(&mut self, mut other: Rope) {
        self.len += other.len;
        if self.segments.is_empty() {
            self.segments = other.segments;
        } else {
            self.segments.append(&mut other.segments);
        }
        self.permits.append(&mut other.permits);
    }

    /// Keeps a share of a budget for as long as the bytes are here.
    pub fn charge(&mut self, permit: OwnedSemaphorePermit) {
        self.permits.push(permit);
    }

    /// The bytes of the budget that are held for it.
    pub fn permits(&self) -> usize {
        self.permits.iter().map(OwnedSemaphorePermit::num_permits).sum()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices in order.
    pub fn segments(&self) -> impl Iterator<Item = &Bytes> {
        self.segments.iter()
    }

    /// Writes everything. Each write must take at least one byte before `patience` ends, or the peer does not read.
    pub async fn write_to<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        patience: &Patience<'_>,
    ) -> io::Result<()> {
        let charged = self.permits() > 0;
        while !self.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
                let mut count = 0;
                for (slice, segment) in slices.iter_mut().zip(&self.segments) {
                    *slice = IoSlice::new(segment);
                    count += 1;
                }
                tokio::select! {
                    biased;
                    written = to.write_vectored(&slices[..count]) => written?,
                    () = patience.ends(charged) => return Err(io::ErrorKind::TimedOut.into()),
                }
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        to.flush().await
    }

    fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while written > 0 {
            let first = self.segments.front_mut().expect("no more is written than there was");
            if first.len() > written {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.segments.pop_front();
        }
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Rope {
        let mut rope = Rope::new();
        rope.push(bytes);
        rope
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    fn patience(budget: &ResponseBudget) -> Patience<'_> {
        let (stall, contended_stall) = (Duration::from_secs(600), Duration::from_secs(5));
        Patience { stall, contended_stall, budget }
    }

    /// Takes a few bytes at a time, across slice borders.
    struct Stingy(Vec<u8>, usize);

    impl AsyncWrite for Stingy {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }
        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = all.len().min(self.1);
            self.0.extend_from_slice(&all[..taken]);
            Poll::Ready(Ok(taken))
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

    #[tokio::test]
    async fn partial_writes_lose_and_repeat_nothing() {
        for step in 1..40 {
            let mut rope = Rope::new();
            let mut expected = Vec::new();
            for index in 0u8..150 {
                let segment = vec![index; (index % 7) as usize];
                expected.extend_from_slice(&segment);
                rope.push(Bytes::from(segment));
            }
            assert_eq!(rope.len(), expected.len());
            let mut to = Stingy(Vec::new(), step);
            rope.write_to(&mut to, &patience(&ResponseBudget::new(1))).await.unwrap();
            assert_eq!(to.0, expected);
            assert!(rope.is_empty());
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_an_error() {
        let mut rope = Rope::from(Bytes::from_static(b"abc"));
        let mut to = Stingy(Vec::new(), 0);
        let error = rope.write_to(&mut to, &patience(&ResponseBudget::new(1))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_gives_way_to_who_waits_for_the_memory() {
        let budget = ResponseBudget::new(100);
        let gone = tokio_util::sync::CancellationToken::new();
        for (charged, wanted, after) in [(true, true, 5), (true, false, 600), (false, true, 600)] {
            let (mut to, _unread) = tokio::io::duplex(1);
            let mut rope = Rope::from(Bytes::from_static(b"abc"));
            let held = budget.try_take(100).unwrap();
            let mut kept = None;
            if charged {
                rope.charge(held)
            } else {
                kept = Some(held)
            }
            let began = tokio::time::Instant::now();
            let waits = async {
                if wanted {
                    budget.take(1, &gone).await;
                }
                std::future::pending::<()>().await
            };
            let patience = patience(&budget);
            let error = tokio::select! {
                written = rope.write_to(&mut to, &patience) => written.unwrap_err(),
                () = waits => unreachable!(),
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(began.elapsed().as_secs(), after, "charged: {charged}, wanted: {wanted}");
            drop(kept);
        }
    }
}
