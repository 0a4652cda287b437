//! Frames: a 32-bit big-endian length, then that many bytes, of which the first eight are key, version and
//! correlation id.
//!
//! The length is checked against the limit of its API, and its bytes are taken from the budgets, before the rest is
//! read (N3). From its first byte on a frame has a deadline (N4); the time spent waiting for the budgets does not count.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Config;
use super::header::{Header, PREFIX_BYTES};

/// Small requests take one system call; large ones go past this buffer.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// A request as it came, without the length in front, and its share of the budgets, given back on drop.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: BytesMut,
    queued: Permits,
}

/// A share of the budgets.
pub(super) type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

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

/// The bytes that all connections' queued requests share, and one connection's own bound.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    own_max: usize,
}

impl Budget {
    /// `all` holds `config.queued_bytes_max` permits.
    pub fn new(config: &Config, all: Arc<Semaphore>) -> Budget {
        let own_max = config.queued_bytes_per_connection_max;
        Budget { all, own: Arc::new(Semaphore::new(own_max)), own_max }
    }

    async fn take(&self, bytes: usize) -> Permits {
        // A request larger than the connection's bound takes all of it: one at a time then. First its own, so that
        // a connection that may not go on does not hold what others could use.
        let own = self.own.clone().acquire_many_owned(bytes.min(self.own_max) as u32).await;
        let all = self.all.clone().acquire_many_owned(bytes as u32).await;
        (all.expect("never closed"), own.expect("never closed"))
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

        let queued = self.budget.take(length).await;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_slice(&prefix);
        let allowance = self.timeout + Duration::from_secs((length / self.rate_min) as u64);
        let rest = async {
            let mut rest = (&mut self.from).take((length - PREFIX_BYTES) as u64);
            while bytes.len() < length {
                if rest.read_buf(&mut bytes).await? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
                }
            }
            Ok(())
        };
        tokio::time::timeout(allowance, rest).await.map_err(|_| Error::TimedOut)??;
        Ok(Frame { bytes, queued })
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

    fn reader<'a>(bytes: &'a [u8], config: &Config) -> (FrameReader<&'a [u8]>, Arc<Semaphore>) {
        let all = Arc::new(Semaphore::new(config.queued_bytes_max));
        (FrameReader::new(bytes, config, Budget::new(config, all.clone())), all)
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
            assert_eq!(all.available_permits(), config.queued_bytes_max);
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
                assert_eq!(all.available_permits(), config.queued_bytes_max - PREFIX_BYTES - body);
            }
            assert_eq!(all.available_permits(), config.queued_bytes_max);
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
            assert_eq!(all.available_permits(), config.queued_bytes_max);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_dribbles_meets_the_deadline_and_gives_its_bytes_back() {
        let config = Config { request_bytes_max: 1 << 20, ..Config::default() };
        let all = Arc::new(Semaphore::new(config.queued_bytes_max));
        let (mut peer, server) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(server, &config, Budget::new(&config, all.clone()));
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
        assert_eq!(all.available_permits(), config.queued_bytes_max);
    }
}
