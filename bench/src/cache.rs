//! The caches that reads are served from, over a WAL and a store in memory.
//!
//! ```text
//!   log-cache append    admit, append, confirmed, with many under way: the engine without a device
//!   log-cache read      a consumer at the tail: 1 MiB at a time, from the oldest record to the newest, again and again
//!   block-cache miss    a consumer that catches up: the object is fetched, decoded and checked
//!   block-cache hit     the next consumer of the same
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::wal::memory::{MemoryMedium, Options as MemoryOptions};
use ::wal::{AckRight, Incarnation, Medium, Vacated};
use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use s3stream::block_cache::{self, BlockCache};
use s3stream::metadata::Located;
use s3stream::metadata::memory::MemoryMetadata;
use s3stream::object::{Identity, ObjectWriter, Options as ObjectOptions, object_key};
use s3stream::record::KIND_DATA;
use s3stream::{Config, ObjectId, Storage, Stream, StreamId, StreamRecord};
use serde_json::json;

use crate::GIB;
use crate::cpu::{own_seconds, round};

#[derive(Args)]
pub struct Options {
    /// Bytes of a record, four lines for each
    #[arg(long, value_delimiter = ',', default_value = "1024,16384,65536")]
    bytes: Vec<usize>,
    /// How long each read goes on
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// What is appended, and what is read again: less than each cache holds.
const DATA_BYTES: usize = 96 << 20;
const READ_BYTES: usize = 1 << 20;
/// Appends under way.
const APPENDS_MAX: usize = 256;

pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for &bytes in &options.bytes {
        anyhow::ensure!((1..=READ_BYTES).contains(&bytes), "a record of {bytes} bytes");
        runtime.block_on(log_cache(bytes, options.seconds))?;
        runtime.block_on(block_cache(bytes, options.seconds))?;
    }
    Ok(())
}

/// One line.
fn say(what: &str, record: usize, taken: Taken) {
    let Taken { operations, bytes, seconds, cpu } = taken;
    let line = json!({
        "bench": "cache", "what": what, "bytes": record,
        "operations_per_second": (operations as f64 / seconds) as u64,
        "ns_per_operation": (seconds * 1e9 / operations.max(1) as f64) as u64,
        "mb_per_second": (bytes as f64 / 1e6 / seconds) as u64,
        "cpu_s_per_gib": round(cpu / (bytes as f64 / GIB)),
    });
    println!("{line}");
}

/// What a run came to.
struct Taken {
    operations: usize,
    bytes: usize,
    seconds: f64,
    cpu: f64,
}

struct Stopwatch(Instant, f64);

impl Stopwatch {
    fn begin() -> Stopwatch {
        Stopwatch(Instant::now(), own_seconds())
    }

    fn taken(&self, operations: usize, bytes: usize) -> Taken {
        Taken { operations, bytes, seconds: self.0.elapsed().as_secs_f64(), cpu: own_seconds() - self.1 }
    }
}

async fn log_cache(bytes: usize, seconds: f64) -> anyhow::Result<()> {
    // Nothing is uploaded meanwhile, and nothing evicted.
    let config = Config {
        log_cache_bytes: 4 * DATA_BYTES,
        upload_bytes: 4 * DATA_BYTES,
        upload_interval_max: Duration::from_secs(3600),
        wal_used_fraction_max: 1.0,
        ..Config::default()
    };
    let metadata = MemoryMetadata::new();
    let medium = MemoryMedium::new(
        "bench",
        MemoryOptions { capacity_bytes: 4 * DATA_BYTES as u64, ..MemoryOptions::default() },
    );
    let owner = metadata.register(1);
    let wal = medium.open(owner, Vacated::nothing_left(), Arc::new(AckRight::unlimited())).await?;
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let storage = Storage::start(config, store, metadata.clone(), wal, owner);
    let id = metadata.create_stream();
    metadata.open_stream(id, owner);
    let stream = storage.open_stream(id, None)?;

    let body = Bytes::from(vec![0x5a; bytes]);
    let records = DATA_BYTES / bytes;
    let watch = Stopwatch::begin();
    let mut under_way = VecDeque::new();
    for base in 0..records as u64 {
        if under_way.len() == APPENDS_MAX
            && let Some(oldest) = under_way.pop_front()
        {
            confirmed(oldest).await?;
        }
        let admission = storage.admit(bytes).await?;
        let record = StreamRecord { base, end: base + 1, max_timestamp: 0, body: body.clone() };
        under_way.push_back(stream.append(admission, record)?);
    }
    for append in under_way {
        confirmed(append).await?;
    }
    say("log-cache append", bytes, watch.taken(records, records * bytes));

    let watch = Stopwatch::begin();
    let (mut reads, mut read) = (0, 0);
    while watch.0.elapsed().as_secs_f64() < seconds {
        let pass = read_tail(&stream)?;
        reads += pass.0;
        read += pass.1;
    }
    say("log-cache read", bytes, watch.taken(reads, read));
    Ok(())
}

async fn confirmed(append: s3stream::Appending) -> anyhow::Result<()> {
    append.await.context("an append was not confirmed")
}

/// Reads and bytes of one pass.
fn read_tail(stream: &Stream) -> anyhow::Result<(usize, usize)> {
    let end = stream.confirmed_end();
    let (mut from, mut reads, mut read) = (0, 0, 0);
    while from < end {
        let records = stream.read_cached(from, READ_BYTES, end).context("it is all cached")?;
        reads += 1;
        read += records.iter().map(|record| record.body.len()).sum::<usize>();
        from = records.last().context("something is there")?.end;
    }
    Ok((reads, read))
}

async fn block_cache(bytes: usize, seconds: f64) -> anyhow::Result<()> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let object = ObjectId::Data { owner: Incarnation { broker: 1, epoch: 1 }, counter: 1 };
    let mut writer = ObjectWriter::new(Identity { object, nonce: 1 }, ObjectOptions::default());
    let body = Bytes::from(vec![0x5a; bytes]);
    for base in 0..(DATA_BYTES / bytes) as u64 {
        let record = StreamRecord { base, end: base + 1, max_timestamp: 0, body: body.clone() };
        writer.add(StreamId(1), 1, KIND_DATA, record);
    }
    let encoded = writer.finish();
    store.put(&object_key(object), encoded.payload()).await?;
    let located = Located { object, object_size_bytes: encoded.size_bytes, part: encoded.parts[0] };
    drop(encoded);

    // The blocks' own size comes on top of their records'.
    let options =
        block_cache::Options { cache_bytes: 4 * DATA_BYTES as u64, ..block_cache::Options::default() };
    let cache = BlockCache::new(store, options);
    let watch = Stopwatch::begin();
    let (reads, read) = read_object(&cache, located).await?;
    say("block-cache miss", bytes, watch.taken(reads, read));
    let watch = Stopwatch::begin();
    let (mut reads, mut read) = (0, 0);
    while watch.0.elapsed().as_secs_f64() < seconds {
        let pass = read_object(&cache, located).await?;
        reads += pass.0;
        read += pass.1;
    }
    say("block-cache hit", bytes, watch.taken(reads, read));
    cache.shutdown().await;
    Ok(())
}

async fn read_object(cache: &BlockCache, located: Located) -> anyhow::Result<(usize, usize)> {
    let (mut from, mut reads, mut read) = (0, 0, 0);
    while from < located.part.end {
        let fetched = cache.read(&[located], from, READ_BYTES).await?;
        anyhow::ensure!(fetched.next() > from, "a read at {from} found nothing");
        reads += 1;
        read += fetched.slices().iter().map(|slice| slice.bodies().len()).sum::<usize>();
        from = fetched.next();
    }
    Ok((reads, read))
}
