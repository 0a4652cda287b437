//! A connection whose requests are frames made beforehand, several under way at once.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};
use kafka_protocol::protocol::Decodable;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::client::{Frame, topic_name};

const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// Longer than any wait that a request asks for.
const PATIENCE: Duration = Duration::from_secs(120);
/// The last version without tagged fields.
const CREATE_VERSION: i16 = 4;
const READ_BYTES: usize = 64 << 10;

pub struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
    /// Correlation ids and since when the requests count as under way, oldest first.
    under_way: VecDeque<(i32, Instant)>,
    next: i32,
}

impl Connection {
    pub fn open(address: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, inbox: BytesMut::new(), under_way: VecDeque::new(), next: 1 })
    }

    /// Creates a topic.
    pub fn create_topic(&mut self, name: &str, partitions: i32) -> anyhow::Result<()> {
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let mut frame = Frame::new(CREATE_VERSION, &request)?.into_bytes();
        let length = frame.len();
        self.send(&mut frame, length, Instant::now())?;
        let (mut answer, _) = self.receive()?;
        let code = CreateTopicsResponse::decode(&mut answer, CREATE_VERSION)?.topics[0].error_code;
        ensure!(code == 0, "creating {name}: error {code}");
        Ok(())
    }

    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Numbers the frames that lie in `frames` one behind the other, and sends them in one go.
    pub fn send(&mut self, frames: &mut [u8], frame_bytes: usize, since: Instant) -> anyhow::Result<()> {
        for frame in frames.chunks_exact_mut(frame_bytes) {
            frame[Frame::NUMBER..Frame::NUMBER + 4].copy_from_slice(&self.next.to_be_bytes());
            self.under_way.push_back((self.next, since));
            self.next = self.next.wrapping_add(1);
        }
        self.stream.write_all(frames).context("sending")
    }

    /// The next answer without its correlation id, and how long it took.
    pub fn receive(&mut self) -> anyhow::Result<(Bytes, Duration)> {
        loop {
            if let Some(answer) = self.received()? {
                return Ok(answer);
            }
            self.read()?;
        }
    }

    /// The next answer, if it has arrived whole and was read already.
    pub fn received(&mut self) -> anyhow::Result<Option<(Bytes, Duration)>> {
        let Some(length) = self.length()? else { return Ok(None) };
        if self.inbox.len() < 4 + length {
            return Ok(None);
        }
        self.inbox.advance(4);
        let mut answer = self.inbox.split_to(length).freeze();
        let (expected, since) = self.under_way.pop_front().context("an answer to no request")?;
        let correlation_id = answer.try_get_i32()?;
        if correlation_id != expected {
            bail!("an answer to request {correlation_id} where {expected} was due");
        }
        Ok(Some((answer, since.elapsed())))
    }

    fn length(&self) -> anyhow::Result<Option<usize>> {
        if self.inbox.len() < 4 {
            return Ok(None);
        }
        let length = (&self.inbox[..4]).get_u32() as usize;
        ensure!((4..=RESPONSE_BYTES_MAX).contains(&length), "an answer of {length} bytes");
        Ok(Some(length))
    }

    /// Waits until there is something to read, or `until`; and reads it.
    pub fn wait(&mut self, until: Instant) -> anyhow::Result<()> {
        let mut descriptors = [PollFd::new(&self.stream, PollFlags::IN)];
        // The time-out of a socket is as coarse as the scheduler's tick, that of a poll is not.
        let patience = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        match rustix::event::poll(&mut descriptors, Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) => self.read(),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let wanted = self.length()?.map_or(0, |length| 4 + length).saturating_sub(self.inbox.len());
        let before = self.inbox.len();
        self.inbox.resize(before + wanted.max(READ_BYTES), 0);
        let read = self.stream.read(&mut self.inbox[before..]).context("receiving")?;
        self.inbox.truncate(before + read);
        ensure!(read > 0, "the broker closed the connection");
        Ok(())
    }
}
