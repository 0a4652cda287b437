//! A log and a cluster in memory. What was appended outlives the coordinators, as a store does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::group::batch::{Batch, Builder};
use crate::group::log::{Appended, Chunk, KnownTopic, LogError, OffsetsLog, Surroundings};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Switches {
    hold: bool,
    hold_reads: bool,
    hold_reads_of: Option<i32>,
    fail_appends: bool,
    fail_trims: bool,
    not_uploaded: bool,
    trims: usize,
    batches_read: usize,
    stale: bool,
    no_offsets_topic: bool,
    appended: usize,
    reads: usize,
}

/// A partition's batches; a batch's offset is its number.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub start: u64,
    pub batches: Vec<Bytes>,
}

impl Log {
    fn end(&self) -> u64 {
        self.start + self.batches.len() as u64
    }
}

/// What stays when a broker goes.
#[derive(Debug)]
pub struct World {
    logs: Mutex<HashMap<i32, Log>>,
    topics: Mutex<HashMap<String, Uuid>>,
    switches: watch::Sender<Switches>,
    topics_version: watch::Sender<u64>,
}

impl World {
    pub fn new() -> Arc<World> {
        Arc::new(World {
            logs: Mutex::default(),
            topics: Mutex::default(),
            switches: watch::Sender::new(Switches::default()),
            topics_version: watch::Sender::new(0),
        })
    }

    /// Appends take their place but do not become durable.
    pub fn hold(&self, hold: bool) {
        self.switches.send_modify(|switches| switches.hold = hold);
    }

    pub fn hold_reads(&self, hold: bool) {
        self.switches.send_modify(|switches| switches.hold_reads = hold);
    }

    pub fn fail_appends(&self, fail: bool) {
        self.switches.send_modify(|switches| switches.fail_appends = fail);
    }

    /// What is durable is in objects, too. (It is unless this says otherwise.)
    pub fn upload(&self, uploaded: bool) {
        self.switches.send_modify(|switches| switches.not_uploaded = !uploaded);
        self.notify_topics();
    }

    pub fn fail_trims(&self, fail: bool) {
        self.switches.send_modify(|switches| switches.fail_trims = fail);
    }

    /// Waits until so many trims were carried out or refused.
    pub async fn trimmed(&self, count: usize) {
        let mut switches = self.switches.subscribe();
        switches.wait_for(|switches| switches.trims >= count).await.expect("the world stands");
    }

    pub fn trims(&self) -> usize {
        self.switches.borrow().trims
    }

    /// Batches that were read from logs so far.
    pub fn batches_read(&self) -> usize {
        self.switches.borrow().batches_read
    }

    pub fn log(&self, partition: i32) -> Log {
        self.logs.lock().get(&partition).cloned().unwrap_or_default()
    }

    /// Of this partition alone.
    pub fn hold_reads_of(&self, partition: Option<i32>) {
        self.switches.send_modify(|switches| switches.hold_reads_of = partition);
    }

    /// `__consumer_offsets` is not there, and cannot be made.
    pub fn lose_offsets_topic(&self) {
        self.switches.send_modify(|switches| switches.no_offsets_topic = true);
    }

    pub fn set_fresh(&self, fresh: bool) {
        self.switches.send_modify(|switches| switches.stale = !fresh);
    }

    /// Waits until so many batches were handed to the logs.
    pub async fn appended(&self, count: usize) {
        let mut switches = self.switches.subscribe();
        switches.wait_for(|switches| switches.appended >= count).await.expect("the world stands");
    }

    pub fn batches(&self) -> usize {
        self.switches.borrow().appended
    }

    pub fn reads(&self) -> usize {
        self.switches.borrow().reads
    }

    pub fn topic(&self, name: &str) -> Uuid {
        let id = self.topic_silently(name);
        self.notify_topics();
        id
    }

    pub fn topic_silently(&self, name: &str) -> Uuid {
        *self.topics.lock().entry(name.to_owned()).or_insert_with(Uuid::new_v4)
    }

    pub fn delete_topic(&self, name: &str) {
        self.delete_topic_silently(name);
        self.notify_topics();
    }

    pub fn delete_topic_silently(&self, name: &str) {
        self.topics.lock().remove(name);
    }

    pub fn notify_topics(&self) {
        self.topics_version.send_modify(|version| *version += 1);
    }

    pub fn put(&self, partition: i32, records: &[(&[u8], Option<&[u8]>)]) {
        let mut builder = Builder::new(0);
        for (key, value) in records {
            builder.push(key, *value);
        }
        self.put_raw(partition, builder.finish().bytes);
    }

    pub fn put_raw(&self, partition: i32, bytes: Bytes) {
        self.logs.lock().entry(partition).or_default().batches.push(bytes);
    }
}

/// A broker's view of the world.
#[derive(Debug)]
pub struct Memory(pub Arc<World>);

#[derive(Debug)]
struct MemoryLog {
    world: Arc<World>,
    partition: i32,
    /// The offset of the next append.
    placed: AtomicU64,
}

#[async_trait]
impl OffsetsLog for MemoryLog {
    fn is_led(&self) -> bool {
        true
    }

    async fn append(&self, batch: Batch) -> Result<Appended, LogError> {
        self.world.switches.send_modify(|switches| switches.appended += 1);
        let (world, partition) = (self.world.clone(), self.partition);
        let durable = async move {
            let mut switches = world.switches.subscribe();
            let now = *switches.wait_for(|switches| !switches.hold).await.expect("the world stands");
            if now.fail_appends {
                return Err(LogError::NotLeader("switched off".to_owned()));
            }
            world.put_raw(partition, batch.bytes);
            Ok(())
        };
        let base = self.placed.fetch_add(1, Ordering::Relaxed);
        Ok(Appended { base, end: base + 1, durable: durable.boxed() })
    }

    async fn read(&self, from: u64, max_bytes: usize) -> Result<Option<Chunk>, LogError> {
        self.world.switches.send_modify(|switches| switches.reads += 1);
        let mut switches = self.world.switches.subscribe();
        let held =
            |switches: &Switches| switches.hold_reads || switches.hold_reads_of == Some(self.partition);
        switches.wait_for(|switches| !held(switches)).await.expect("the world stands");
        drop(switches);
        let logs = self.world.logs.lock();
        let Some(log) = logs.get(&self.partition) else { return Ok(None) };
        let from = from.max(log.start);
        let batches = &log.batches[(from - log.start) as usize..];
        let mut bytes = 0;
        let taken = batches.iter().take_while(|batch| {
            let room = bytes < max_bytes;
            bytes += batch.len();
            room
        });
        let batches: Vec<Bytes> = taken.cloned().collect();
        let next = from + batches.len() as u64;
        self.world.switches.send_modify(|switches| switches.batches_read += batches.len());
        Ok((next > from).then_some(Chunk { batches, next }))
    }

    fn end(&self) -> u64 {
        self.world.logs.lock().get(&self.partition).map_or(0, Log::end)
    }

    fn committed_end(&self) -> u64 {
        if self.world.switches.borrow().not_uploaded { 0 } else { self.end() }
    }

    async fn trim(&self, to: u64) -> Result<(), LogError> {
        assert!(to <= self.committed_end(), "the metadata refuses such a trim");
        let fail = self.world.switches.borrow().fail_trims;
        if !fail {
            let mut logs = self.world.logs.lock();
            let log = logs.entry(self.partition).or_default();
            log.batches.drain(..(to.max(log.start) - log.start) as usize);
            log.start = log.start.max(to);
        }
        self.world.switches.send_modify(|switches| switches.trims += 1);
        if fail { Err(LogError::Unavailable("switched off".to_owned())) } else { Ok(()) }
    }
}

#[async_trait]
impl Surroundings for Memory {
    fn is_current(&self, _partition: i32) -> bool {
        true
    }

    fn clock_is_outvoted(&self) -> bool {
        false
    }

    fn led_epoch(&self, _partition: i32) -> Option<i32> {
        Some(0)
    }

    async fn ensure_offsets_topic(&self) -> Result<i32, LogError> {
        if self.0.switches.borrow().no_offsets_topic {
            return Err(LogError::Unavailable("switched off".to_owned()));
        }
        Ok(50)
    }

    fn offsets_partitions(&self) -> Option<i32> {
        Some(50)
    }

    async fn open(&self, partition: i32) -> Result<Arc<dyn OffsetsLog>, LogError> {
        let placed = AtomicU64::new(self.0.log(partition).end());
        Ok(Arc::new(MemoryLog { world: self.0.clone(), partition, placed }))
    }

    fn topic(&self, name: &str) -> Option<KnownTopic> {
        let id = self.0.topics.lock().get(name).copied()?;
        Some(KnownTopic { id, partitions: 40 })
    }

    fn topics_changed(&self) -> watch::Receiver<u64> {
        self.0.topics_version.subscribe()
    }

    fn is_fresh(&self) -> bool {
        !self.0.switches.borrow().stale
    }
}
