//! A broker's surroundings that outlive it: metadata, bucket and WAL volume.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use s3stream::metadata::memory::MemoryMetadata;
use s3stream::recovery::{Left, recover};
use s3stream::{Config, Error, Storage, Stores, Stream, StreamId, StreamRecord, compaction};
use wal::memory::{MemoryMedium, Options};
use wal::{AckRight, Incarnation, Medium, Position, Vacated};

/// Small sizes, so that few bytes reach every limit.
pub fn small() -> Config {
    Config {
        log_cache_bytes: 64 << 10,
        upload_bytes: 16 << 10,
        stream_object_bytes: 6 << 10,
        object_block_bytes: 2 << 10,
        recovery_bytes: 8 << 10,
        retry_pause_min: Duration::from_millis(1),
        retry_pause_max: Duration::from_millis(20),
        // For tests that count requests.
        compaction: compaction::Options { jobs_max: 0, ..compaction::Options::default() },
        ..Config::default()
    }
}

/// With compaction of parts that are as small as these sizes make them.
pub fn compacting() -> Config {
    let compaction = compaction::Options {
        jobs_max: 2,
        interval: Duration::from_millis(10),
        walk_interval: Duration::from_secs(10),
        fan_in: 4,
        full_bytes: 16 << 10,
        object_bytes: 64 << 10,
        memory_bytes: 16 << 10,
        piece_bytes: 4 << 10,
        retry_pause_min: Duration::from_millis(10),
        retry_pause_max: Duration::from_secs(1),
        ..compaction::Options::default()
    };
    Config { compaction, ..small() }
}

pub struct World {
    pub metadata: Arc<MemoryMetadata>,
    pub store: Arc<dyn ObjectStore>,
    pub medium: Arc<dyn Medium>,
    pub config: Config,
}

impl World {
    pub fn new(config: Config) -> World {
        World::on(config, Arc::new(InMemory::new()), Arc::new(MemoryMedium::new("world", Options::default())))
    }

    pub fn on(config: Config, store: Arc<dyn ObjectStore>, medium: Arc<dyn Medium>) -> World {
        World { metadata: MemoryMetadata::new(), store, medium, config }
    }

    /// A new incarnation: registers, recovers what the last one left, opens all streams that it is given.
    pub async fn start(&self, streams: &[StreamId]) -> Broker {
        self.try_start(streams).await.expect("recovers and opens")
    }

    pub async fn try_start(&self, streams: &[StreamId]) -> Result<Broker, Error> {
        let owner = self.metadata.register(1);
        let vacated = self.recover(owner).await?;
        self.open(owner, vacated, streams).await
    }

    /// A first incarnation, over stores of its own for some of what it does.
    pub async fn start_over(&self, stores: Stores, streams: &[StreamId]) -> Broker {
        let owner = self.metadata.register(1);
        self.open_over(stores, owner, Vacated::new_medium(), streams).await.expect("opens")
    }

    pub async fn open(
        &self,
        owner: Incarnation,
        vacated: Vacated,
        streams: &[StreamId],
    ) -> Result<Broker, Error> {
        self.open_over(self.store.clone().into(), owner, vacated, streams).await
    }

    async fn open_over(
        &self,
        stores: Stores,
        owner: Incarnation,
        vacated: Vacated,
        streams: &[StreamId],
    ) -> Result<Broker, Error> {
        let right = Arc::new(AckRight::unlimited());
        let wal = self.medium.open(owner, vacated, right).await?;
        let storage = Storage::start(self.config.clone(), stores, self.metadata.clone(), wal, owner);
        for id in streams {
            self.metadata.open_stream(*id, owner);
        }
        let streams =
            streams.iter().map(|id| storage.open_stream(*id, None)).collect::<Result<Vec<_>, _>>()?;
        Ok(Broker { owner, storage, streams })
    }

    /// What `of` left from its trim point `from` on, to be recovered by `by`.
    pub fn left(&self, by: Incarnation, of: Incarnation, from: Position) -> Left<'_> {
        let (store, metadata) = (self.store.clone(), self.metadata.clone());
        Left { config: &self.config, store, metadata, by, of, from }
    }

    /// Recovers every incarnation that needs it.
    pub async fn recover(&self, by: Incarnation) -> Result<Vacated, Error> {
        let mut vacated = None;
        for (of, from) in self.metadata.unrecovered() {
            vacated = Some(recover(self.left(by, of, from), self.medium.as_ref()).await?);
        }
        Ok(vacated.unwrap_or_else(Vacated::nothing_left))
    }
}

pub struct Broker {
    pub owner: Incarnation,
    pub storage: Storage,
    pub streams: Vec<Stream>,
}

impl Broker {
    /// Appends and waits until it is confirmed.
    pub async fn append(&self, stream: usize, record: StreamRecord) -> Result<(), Error> {
        let admission = self.storage.admit(record.body.len()).await?;
        self.streams[stream].append(admission, record)?.await
    }

    /// Appends `count` records of `bytes` one offset each, with timestamps that equal the offsets.
    pub async fn fill(&self, stream: usize, count: u64, bytes: usize) {
        for _ in 0..count {
            let base = self.streams[stream].next();
            self.append(stream, record(stream as u64, base, 1, bytes)).await.expect("appends");
        }
    }
}

/// A record whose body tells stream and offset, and whose timestamp is its base.
pub fn record(stream: u64, base: u64, count: u64, bytes: usize) -> StreamRecord {
    let mut body = format!("{stream}/{base}/{count}/").into_bytes();
    body.resize(bytes.max(body.len()), (base % 251) as u8);
    StreamRecord { base, end: base + count, max_timestamp: base as i64, body: Bytes::from(body) }
}

/// All records from `from` to the confirmed end.
pub async fn read_all(stream: &Stream, from: u64) -> Vec<StreamRecord> {
    let mut records: Vec<StreamRecord> = Vec::new();
    let mut next = from;
    loop {
        let found = stream.read(next, 4 << 10).await.expect("reads");
        let Some(last) = found.last() else { return records };
        next = last.end;
        records.extend(found);
    }
}
