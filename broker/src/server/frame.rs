//! Frames: a 32-bit big-endian length, then that many bytes, of which the first eight are key, version and
//! correlation id.
//!
//! The length is checked against the limit of its API before anything is taken or allocated for it (N3). The budget of all
//! connections is taken in steps, each as large as what has arrived before it: a peer that announces much and sends little
//! holds little. Frames that wait for each other's bytes are let out of that one at a time, through the [`Shared`] passage.
//! Each step has a deadline (N4); the time spent waiting for the budgets does not count.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Config;
use super::header::{Header, PREFIX_BYTES};

/// Small requests take one system call; large ones go past this buffer. No option: each connection has
/// one, so that connections-max bounds them all.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// The first step: what a frame takes of the shared budget before any of it has arrived, at most.
const STEP_BYTES_FIRST: usize = 64 << 10;
/// Memory for a frame that is reserved at once, so that frames of a usual size never move. Until it is written to, it is
/// no more than addresses.
const RESERVED_BYTES_FIRST: usize = 1 << 20;

/// A request as it came, without the length in front, and its share of the budgets, given back on drop.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: BytesMut,
    queued: Permits,
}

/// A share of the budgets.
#[derive(Debug)]
pub(super) struct Permits {
    all: Option<OwnedSemaphorePermit>,
    _own: OwnedSemaphorePermit,
    /// Held by the one frame that goes beyond the shared budget.
    passage: Option<OwnedSemaphorePermit>,
}

impl Frame {
    /// The bytes, and what to drop once they are processed.
    pub fn split(self) -> (BytesMut, Permits) {
        (self.bytes, self.queued)
    }
}

/// Why a connection has to be closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("a request of {length} bytes is outside {PREFIX_BYTES}..={limit}")]
    Length { length: i32, limit: usize },
    #[error("a request did not arrive whole in time")]
    TimedOut,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What the queued requests of all connections share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// A permit per byte.
    bytes: Arc<Semaphore>,
    /// One permit. While frames that are not whole yet hold all bytes, its holder reads on without taking any, and so
    /// somebody always gets done.
    passage: Arc<Semaphore>,
    /// A permit per byte, for small requests alone: whoever holds the others, these are read. They take theirs in one
    /// step.
    small: Arc<Semaphore>,
    small_request_bytes: usize,
    decoded: Arc<Semaphore>,
    decoded_max: usize,
}

/// A decoded request, and what is made of it until it is answered, is taken for this many times its size. No option: it
/// follows from the sizes of the structs (`api::layout` for those of the request).
const DECODED_FACTOR: usize = 32;

impl Shared {
    pub fn new(config: &Config) -> Shared {
        Shared {
            bytes: Arc::new(Semaphore::new(config.queued_bytes_max)),
            passage: Arc::new(Semaphore::new(1)),
            small: Arc::new(Semaphore::new(config.queued_small_bytes_max)),
            small_request_bytes: config.small_request_bytes,
            decoded: Arc::new(Semaphore::new(config.decoded_bytes_max)),
            decoded_max: config.decoded_bytes_max,
        }
    }

    pub fn is_small(&self, bytes: usize) -> bool {
        bytes <= self.small_request_bytes
    }

    /// Room for decoding a request; small ones need none of it.
    pub async fn decode(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        if self.is_small(bytes) {
            return None;
        }
        let share = bytes.saturating_mul(DECODED_FACTOR).min(self.decoded_max) as u32;
        Some(self.decoded.clone().acquire_many_owned(share).await.expect("never closed"))
    }
}

/// The shared bytes, and one connection's own bound.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    pub shared: Shared,
    own: Arc<Semaphore>,
    own_max: usize,
}

impl Budget {
    pub fn new(config: &Config, shared: Shared) -> Budget {
        let own_max = config.queued_bytes_per_connection_max;
        Budget { shared, own: Arc::new(Semaphore::new(own_max)), own_max }
    }

    /// The connection's own share, for the whole of a frame, and nothing yet of what is shared.
    async fn take_own(&self, frame_bytes: usize) -> Permits {
        // A request larger than the connection's bound takes all of it: one at a time then. First its own, so that
        // a connection that may not go on does not hold what others could use.
        let own = self.own.clone().acquire_many_owned(frame_bytes.min(self.own_max) as u32).await;
        Permits { all: None, _own: own.expect("never closed"), passage: None }
    }

    /// All that a small request needs.
    async fn take_small(&self, permits: &mut Permits, frame_bytes: usize) {
        let all = self.shared.small.clone().acquire_many_owned(frame_bytes as u32).await;
        permits.all = Some(all.expect("never closed"));
    }

    /// Adds `bytes` of what is shared, or lets the frame pass without.
    async fn take_more(&self, permits: &mut Permits, bytes: usize) {
        if permits.passage.is_some() {
            return;
        }
        let more = tokio::select! {
            biased;
            more = self.shared.bytes.clone().acquire_many_owned(bytes as u32) => more.expect("never closed"),
            passage = self.shared.passage.clone().acquire_owned() => {
                permits.passage = Some(passage.expect("never closed"));
                return;
            }
        };
        match &mut permits.all {
            Some(all) => all.merge(more),
            None => permits.all = Some(more),
        }
    }
}

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    from: BufReader<R>,
    budget: Budget,
    request_bytes_max: usize,
    control_request_bytes_max: usize,
    timeout: Duration,
    rate_min: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(from: R, config: &Config, budget: Budget) -> FrameReader<R> {
        FrameReader {
            from: BufReader::with_capacity(READ_BUFFER_BYTES, from),
            budget,
            request_bytes_max: config.request_bytes_max,
            control_request_bytes_max: config.control_request_bytes_max,
            timeout: config.frame_timeout,
            rate_min: config.frame_rate_min,
        }
    }

    /// Waits for the first byte of the next frame; `false` at the end of the stream. Cancel safe.
    pub async fn begun(&mut self) -> Result<bool, Error> {
        use tokio::io::AsyncBufReadExt;
        Ok(!self.from.fill_buf().await?.is_empty())
    }

    /// Reads the frame that has begun.
    pub async fn read(&mut self) -> Result<Frame, Error> {
        let began = Instant::now();
        let head = tokio::time::timeout_at(began + self.timeout, self.read_head()).await;
        let (length, prefix) = head.map_err(|_| Error::TimedOut)??;

        let mut queued = self.budget.take_own(length).await;
        let mut bytes = BytesMut::with_capacity(length.min(RESERVED_BYTES_FIRST));
        bytes.put_slice(&prefix);
        let mut upto = 0;
        let mut pass_until = None;
        while upto < length {
            let mut step = (length - upto).min(upto.max(STEP_BYTES_FIRST));
            if self.budget.shared.is_small(length) {
                step = length;
                self.budget.take_small(&mut queued, length).await;
            } else {
                self.budget.take_more(&mut queued, step).await;
            }
            upto += step;
            let mut until =
                Instant::now() + self.timeout + Duration::from_secs((step / self.rate_min) as u64);
            if queued.passage.is_some() {
                // Others wait for it, so it is not extended.
                until = until.min(*pass_until.get_or_insert(Instant::now() + self.timeout));
            }
            bytes.reserve(upto - bytes.len());
            let arrived = tokio::time::timeout_at(until, self.read_upto(&mut bytes, upto)).await;
            arrived.map_err(|_| Error::TimedOut)??;
        }
        Ok(Frame { bytes, queued })
    }

    /// Reads until `bytes` has `upto` bytes.
    async fn read_upto(&mut self, bytes: &mut BytesMut, upto: usize) -> std::io::Result<()> {
        let mut rest = (&mut self.from).take((upto - bytes.len()) as u64);
        while bytes.len() < upto {
            if rest.read_buf(bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The frame's length, checked, and its first bytes.
    async fn read_head(&mut self) -> Result<(usize, [u8; PREFIX_BYTES]), Error> {
        let length = self.from.read_i32().await?;
        let within = |limit: usize| match usize::try_from(length) {
            Ok(length) if (PREFIX_BYTES..=limit).contains(&length) => Ok(length),
            _ => Err(Error::Length { length, limit }),
        };
        within(self.request_bytes_max)?;
        let mut prefix = [0; PREFIX_BYTES];
        self.from.read_exact(&mut prefix).await?;
        let header = Header::peek(&prefix).expect("a whole prefix");
        let limit = if header.key == ApiKey::Produce as i16 {
            self.request_bytes_max
        } else {
            self.request_bytes_max.min(self.control_request_bytes_max)
        };
        Ok((within(limit)?, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Shared {
        fn free(&self) -> usize {
            self.bytes.available_permits() + self.small.available_permits()
        }
    }

    fn reader<'a>(bytes: &'a [u8], config: &Config) -> (FrameReader<&'a [u8]>, Shared) {
        let shared = Shared::new(config);
        (FrameReader::new(bytes, config, Budget::new(config, shared.clone())), shared)
    }

    fn frame(key: i16, body: usize) -> Vec<u8> {
        let mut bytes = ((PREFIX_BYTES + body) as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes.extend_from_slice(&[0; PREFIX_BYTES - 2]);
        bytes.extend((0..body).map(|at| at as u8));
        bytes
    }

    #[tokio::test]
    async fn behaviour_11_lengths_outside_the_limits_are_refused_before_anything_is_taken() {
        let config = Config::default();
        for length in [-1, i32::MIN, 0, 7, (100 << 20) + 1, i32::MAX, i32::from_be_bytes(*b"GET ")] {
            let bytes = length.to_be_bytes();
            let (mut reader, all) = reader(&bytes, &config);
            assert!(matches!(reader.read().await, Err(Error::Length { .. })), "{length}");
            assert_eq!(all.free(), config.queued_bytes_max + config.queued_small_bytes_max);
        }
    }

    #[tokio::test]
    async fn behaviour_16_only_produce_may_be_large() {
        let config = Config { control_request_bytes_max: 100, request_bytes_max: 1000, ..Config::default() };
        for (key, body, good) in
            [(0, 900, true), (0, 1000, false), (3, 92, true), (3, 93, false), (999, 93, false)]
        {
            let bytes = frame(key, body);
            let (mut reader, all) = reader(&bytes, &config);
            let read = reader.read().await;
            assert_eq!(read.is_ok(), good, "{key} {body}");
            if let Ok(read) = read {
                assert_eq!(&read.bytes[..], &bytes[4..]);
                assert_eq!(
                    all.free(),
                    config.queued_bytes_max + config.queued_small_bytes_max - PREFIX_BYTES - body
                );
            }
            assert_eq!(all.free(), config.queued_bytes_max + config.queued_small_bytes_max);
        }
    }

    #[tokio::test]
    async fn frames_follow_each_other_and_every_truncation_is_an_error() {
        let config = Config::default();
        let mut bytes = frame(3, 5);
        bytes.extend(frame(0, 20_000));
        bytes.extend(frame(18, 0));
        let (mut whole, _) = reader(&bytes, &config);
        for length in [5, 20_000, 0] {
            assert!(whole.begun().await.unwrap());
            assert_eq!(whole.read().await.unwrap().bytes.len(), PREFIX_BYTES + length);
        }
        assert!(!whole.begun().await.unwrap());

        let one = frame(3, 5);
        for length in 1..one.len() {
            let (mut cut, all) = reader(&one[..length], &config);
            assert!(matches!(cut.read().await, Err(Error::Io(_))));
            assert_eq!(all.free(), config.queued_bytes_max + config.queued_small_bytes_max);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_dribbles_meets_the_deadline_and_gives_its_bytes_back() {
        let config = Config { request_bytes_max: 1 << 20, ..Config::default() };
        let shared = Shared::new(&config);
        let all = shared.clone();
        let (mut peer, server) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(server, &config, Budget::new(&config, shared));
        let dribble = async move {
            use tokio::io::AsyncWriteExt;
            for byte in frame(0, 1 << 19) {
                if peer.write_u8(byte).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let (read, ()) = tokio::join!(
            async move {
                let read = reader.read().await;
                drop(reader);
                read
            },
            dribble
        );
        assert!(matches!(read, Err(Error::TimedOut)));
        assert_eq!(all.free(), config.queued_bytes_max + config.queued_small_bytes_max);
    }

    /// What a peer has announced and not sent is not taken from the others (N5).
    #[tokio::test(start_paused = true)]
    async fn an_announced_frame_holds_little_until_it_arrives() {
        let config = Config::default();
        let shared = Shared::new(&config);
        let (mut peer, server) = tokio::io::duplex(1 << 20);
        let mut reader = FrameReader::new(server, &config, Budget::new(&config, shared.clone()));
        let held = || config.queued_bytes_max - shared.bytes.available_permits();
        let whole = frame(0, 50 << 20);
        let sending = async {
            use tokio::io::AsyncWriteExt;
            peer.write_all(&whole[..100]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(held(), STEP_BYTES_FIRST);
            peer.write_all(&whole[100..10 << 20]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(held() <= 20 << 20, "{}", held());
            peer.write_all(&whole[10 << 20..]).await.unwrap();
        };
        let (read, ()) = tokio::join!(reader.read(), sending);
        let read = read.unwrap();
        assert_eq!(&read.bytes[..], &whole[4..]);
        assert_eq!(held(), read.bytes.len());
        drop(read);
        assert_eq!(held(), 0);
    }

    /// Frames that each hold a part of a budget that is too small for all of them get done, one after the other.
    #[tokio::test(start_paused = true)]
    async fn frames_that_wait_for_each_other_get_done() {
        let config = Config {
            queued_bytes_max: 1 << 20,
            request_bytes_max: 1 << 20,
            queued_bytes_per_connection_max: 1 << 20,
            ..Config::default()
        };
        let shared = Shared::new(&config);
        let whole = frame(0, 900_000);
        let reads = (0..8).map(|_| {
            let (mut peer, server) = tokio::io::duplex(1 << 10);
            let mut reader = FrameReader::new(server, &config, Budget::new(&config, shared.clone()));
            let whole = &whole;
            async move {
                use tokio::io::AsyncWriteExt;
                let (read, sent) = tokio::join!(reader.read(), peer.write_all(whole));
                sent.unwrap();
                let read = read.expect("nobody is closed for the others' sake");
                assert_eq!(read.bytes.len(), whole.len() - 4);
            }
        });
        let all = futures::future::join_all(reads);
        tokio::time::timeout(config.frame_timeout, all).await.expect("nobody waits for ever");
        assert_eq!(shared.bytes.available_permits(), config.queued_bytes_max);
        assert_eq!(shared.passage.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_hold_up_no_small_ones() {
        let config = Config { request_bytes_max: 1 << 20, queued_bytes_max: 1 << 20, ..Config::default() };
        let shared = Shared::new(&config);
        let _processed = shared.bytes.clone().try_acquire_many_owned(1 << 20).unwrap();
        let _passing = shared.passage.clone().try_acquire_owned().unwrap();
        let bytes = frame(12, 100);
        let mut small = FrameReader::new(&bytes[..], &config, Budget::new(&config, shared.clone()));
        assert_eq!(small.read().await.unwrap().bytes.len(), 108);
        let bytes = frame(0, 100_000);
        let mut large = FrameReader::new(&bytes[..], &config, Budget::new(&config, shared.clone()));
        assert!(futures::poll!(Box::pin(large.read())).is_pending());
    }

    #[tokio::test]
    async fn large_requests_are_decoded_one_after_the_other() {
        use futures::FutureExt;
        let shared = Shared::new(&Config::default());
        assert!(shared.decode(64 << 10).now_or_never().expect("small ones do not wait").is_none());
        let held = shared.decode(8 << 20).now_or_never().expect("the first may");
        assert!(shared.decode(100_000).now_or_never().is_none());
        drop(held);
        assert!(shared.decode(100_000).now_or_never().is_some());
    }
}
