//! The object WAL over a store that takes its time: appends that are due at fixed times, or as many as are let under way.
//!
//! ```text
//!   due ──► append ──► WAL ──► PUT ──► SlowStore          an append's latency counts from when it was due, however late
//!                       └──► acknowledged, in order       the benchmark or the WAL is with it (no coordinated omission)
//!   beside it: bare PUTs of a slot's size to a store of the same kind, 20 a second
//! ```
//!
//! The slots are real data objects. With `--virtual-time` (feature `models`) the clock stands still while anybody works and
//! jumps while all wait: what remains is what the WAL decides, without the machine's noise, and a minute takes a second.

mod store;

use std::sync::Arc;
use std::time::Duration;

use ::wal::object::{Config, ObjectMedium};
use ::wal::uri::ByteSize;
use ::wal::{AckRight, Append, AppendError, Incarnation, Medium, Record, Vacated, Wal};
use bytes::Bytes;
use clap::Args;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use s3stream::StreamId;
use s3stream::object::ObjectSlotCodec;
use s3stream::record::{KIND_DATA, RecordMeta};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::store::{Distribution, SlowStore};
use crate::cpu::{self, round};
use crate::latency::Latencies;

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// How long a PUT takes on average; with --p99-ms, its median
    #[arg(long, default_value_t = 25.0)]
    put_ms: f64,
    /// Evenly distributed up to so many percent off
    #[arg(long, default_value_t = 30.0)]
    spread: f64,
    /// Log-normally distributed instead, with this 99th percentile
    #[arg(long)]
    p99_ms: Option<f64>,
    /// What a request's body takes on top; 0 for nothing
    #[arg(long, default_value_t = 0.0)]
    request_mb_per_second: f64,
    /// Appends a second, due at fixed times
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// As many appends as fit into these bytes are kept under way, instead of a rate
    #[arg(long)]
    window: Option<ByteSize>,
    /// Of a record; a run for each
    #[arg(long, value_delimiter = ',', default_value = "1024")]
    bytes: Vec<usize>,
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// The WAL's budget; a run for each
    #[arg(long, value_delimiter = ',', default_values_t = [Config::default().puts_per_second_max])]
    puts_per_second: Vec<f64>,
    /// The WAL's linger; a run for each
    #[arg(long, value_delimiter = ',', default_values_t = [Config::default().linger.as_secs_f64() * 1e3])]
    linger_ms: Vec<f64>,
    /// The WAL's PUTs under way; a run for each
    #[arg(long, value_delimiter = ',', default_values_t = [Config::default().puts_in_flight_max])]
    puts_in_flight: Vec<usize>,
    /// A late PUT is doubled after so many times the usual; 0 for never; a run for each
    #[arg(long, value_delimiter = ',', default_values_t = [Config::default().hedge_factor])]
    hedge: Vec<f64>,
    /// So many requests in a thousand take --stall-ms longer
    #[arg(long, default_value_t = 0.0)]
    stalls: f64,
    #[arg(long, default_value_t = 2000.0)]
    stall_ms: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Time that passes only while all wait
    #[cfg(feature = "models")]
    #[arg(long)]
    virtual_time: bool,
}

const OWNER: Incarnation = Incarnation { broker: 1, epoch: 1 };
/// How many streams the records are of.
const STREAMS: u64 = 16;
/// Appends that wait to be seen acknowledged; far over what the WAL takes.
const UNDER_WAY_MAX: usize = 1 << 20;
const BARE_PUTS_PER_SECOND: f64 = 20.0;
/// Of the bare PUTs: what a slot comes to.
const BARE_PUT_BYTES: usize = 8 << 10;

pub fn run(options: &Options) -> anyhow::Result<()> {
    for &bytes in &options.bytes {
        for &puts_per_second_max in &options.puts_per_second {
            for &linger_ms in &options.linger_ms {
                for (&puts_in_flight_max, &hedge_factor) in options
                    .puts_in_flight
                    .iter()
                    .flat_map(|puts| options.hedge.iter().map(move |hedge| (puts, hedge)))
                {
                    let config = Config {
                        puts_per_second_max,
                        puts_burst_max: puts_per_second_max.max(1.0),
                        linger: Duration::from_secs_f64(linger_ms / 1e3),
                        puts_in_flight_max,
                        hedge_factor,
                        // Nobody else is here, and memory is finite.
                        delete_delay: Duration::from_secs(1),
                        ..Config::default()
                    };
                    println!("{}", options.runtime()?.block_on(options.measure(config, bytes))?);
                }
            }
        }
    }
    Ok(())
}

impl Options {
    fn runtime(&self) -> anyhow::Result<tokio::runtime::Runtime> {
        #[cfg(feature = "models")]
        if self.virtual_time {
            return Ok(tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()?);
        }
        Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
    }

    fn clock(&self) -> &'static str {
        #[cfg(feature = "models")]
        if self.virtual_time {
            return "virtual";
        }
        "real"
    }

    fn distribution(&self) -> Distribution {
        match self.p99_ms {
            Some(p99_ms) => Distribution::log_normal(self.put_ms / 1e3, p99_ms / 1e3),
            None => Distribution::uniform(self.put_ms / 1e3, self.spread / 100.0),
        }
    }

    fn store(&self, seed: u64) -> SlowStore {
        let bytes_per_second =
            if self.request_mb_per_second > 0.0 { self.request_mb_per_second * 1e6 } else { f64::INFINITY };
        SlowStore::new(self.distribution(), (self.stalls / 1e3, self.stall_ms / 1e3), bytes_per_second, seed)
    }

    async fn measure(&self, config: Config, bytes: usize) -> anyhow::Result<Value> {
        let store = self.store(self.seed);
        let medium =
            ObjectMedium::new(Arc::new(store.clone()), Arc::new(ObjectSlotCodec::default()), config.clone());
        let wal = medium.open(OWNER, Vacated::new_medium(), Arc::new(AckRight::unlimited())).await?;
        // A log that nobody appends to asks for nothing.
        store.take_asked();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let idle = store.take_asked();

        let _trimmer = AbortOnDropHandle::new(tokio::spawn(trim(wal.clone())));
        let bare = self.store(self.seed + 1);
        let prober = AbortOnDropHandle::new(tokio::spawn(put_barely(bare.clone())));
        let (cpu, began) = (cpu::own_seconds(), Instant::now());
        let (sender, receiver) = mpsc::channel(UNDER_WAY_MAX);
        let waiter = tokio::spawn(wait(receiver));
        let until = began + Duration::from_secs_f64(self.seconds);
        let load = Load { wal: wal.clone(), bytes, until, sender };
        match self.window {
            Some(window) => load.window(window.0 as usize).await?,
            None => load.paced(self.rate).await?,
        }
        let appends = waiter.await??;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu::own_seconds() - cpu);
        drop(prober);
        let (asked, bare) = (store.take_asked(), bare.take_asked());
        wal.close().await;

        let gib = (appends.len() * bytes) as f64 / crate::GIB;
        let ratio = |of: fn(&Latencies) -> f64| round(of(&appends) / of(&bare.put_latencies));
        Ok(json!({
            "bench": "object-wal", "clock": self.clock(), "store": format!("{:?}", self.distribution()),
            "request_mb_per_second": self.request_mb_per_second,
            "rate": if self.window.is_none() { json!(self.rate) } else { json!(null) },
            "window": self.window.map(|window| window.0), "bytes": bytes, "seconds": round(seconds),
            "puts_per_second_max": config.puts_per_second_max,
            "linger_ms": config.linger.as_secs_f64() * 1e3, "puts_in_flight_max": config.puts_in_flight_max,
            "hedge_factor": config.hedge_factor, "stalls_per_thousand": self.stalls, "stall_ms": self.stall_ms,
            "mb_per_second": round(gib * crate::GIB / 1e6 / seconds),
            "ratio_mean": ratio(Latencies::mean),
            "ratio_p50": ratio(|latencies| latencies.at(0.5)),
            "ratio_p99": ratio(|latencies| latencies.at(0.99)),
            "puts": asked.puts, "puts_per_second": round(asked.puts as f64 / seconds),
            "puts_per_gib": round(asked.puts as f64 / gib),
            "slot_bytes": asked.put_bytes.checked_div(asked.puts),
            "gets": asked.gets,
            "idle_requests_per_second": idle.puts + idle.gets + idle.lists + idle.deletes,
            "cpu_s_per_gib": round(cpu / gib),
            "append": appends.summary(),
            "slot_put": asked.put_latencies.summary(),
            "bare_put": bare.put_latencies.summary(),
        }))
    }
}

/// An append under way: when it was due, and what it gives back when it is acknowledged.
type UnderWay = (Instant, Append, Option<OwnedSemaphorePermit>);

struct Load {
    wal: Arc<dyn Wal>,
    bytes: usize,
    until: Instant,
    sender: mpsc::Sender<UnderWay>,
}

impl Load {
    async fn paced(self, rate: f64) -> anyhow::Result<()> {
        let began = Instant::now();
        let body = Bytes::from(vec![0x5a; self.bytes]);
        for number in 0u64.. {
            let due = began + Duration::from_secs_f64(number as f64 / rate);
            if due >= self.until {
                break;
            }
            if Instant::now() < due {
                tokio::time::sleep_until(due).await;
            }
            self.append(number, due, &body, None).await?;
        }
        Ok(())
    }

    async fn window(self, bytes: usize) -> anyhow::Result<()> {
        let body = Bytes::from(vec![0x5a; self.bytes]);
        let room = Arc::new(Semaphore::new((bytes / self.bytes).max(1)));
        for number in 0u64.. {
            let permit = room.clone().acquire_owned().await?;
            let now = Instant::now();
            if now >= self.until {
                break;
            }
            self.append(number, now, &body, Some(permit)).await?;
        }
        Ok(())
    }

    async fn append(
        &self,
        number: u64,
        due: Instant,
        body: &Bytes,
        permit: Option<OwnedSemaphorePermit>,
    ) -> anyhow::Result<()> {
        let base = number / STREAMS;
        let stream = StreamId(number % STREAMS);
        let meta = RecordMeta { stream, stream_epoch: 1, base, end: base + 1, max_timestamp: 0 }.encode();
        let append = loop {
            match self.wal.append(Record { kind: KIND_DATA, meta, body: body.clone() }) {
                Ok(append) => break append,
                Err(AppendError::OverCapacity { .. }) => self.wal.admit(body.len() + meta.len()).await?,
                Err(error) => return Err(error.into()),
            }
        };
        self.sender.send((due, append, permit)).await.map_err(|_| anyhow::anyhow!("an append failed"))
    }
}

/// They are acknowledged in order, so one waiter sees each when it is.
async fn wait(mut under_way: mpsc::Receiver<UnderWay>) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::default();
    while let Some((due, append, _permit)) = under_way.recv().await {
        append.await?;
        latencies.record(due.elapsed());
    }
    Ok(latencies)
}

/// Bare PUTs, due at fixed times.
async fn put_barely(store: SlowStore) {
    let mut due = tokio::time::interval(Duration::from_secs_f64(1.0 / BARE_PUTS_PER_SECOND));
    let body = Bytes::from(vec![0x5a; BARE_PUT_BYTES]);
    for number in 0u64.. {
        due.tick().await;
        let (store, payload) = (store.clone(), PutPayload::from(body.clone()));
        tokio::spawn(async move {
            let key = Path::from(format!("bare/{number}"));
            store.put_opts(&key, payload, PutOptions::from(PutMode::Create)).await
        });
    }
}

/// Gives slots up as an uploader would.
async fn trim(wal: Arc<dyn Wal>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if wal.trim(wal.status().durable).await.is_err() {
            return;
        }
    }
}
