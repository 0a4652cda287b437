//! What a broker has used of its store since it started, as one document: what `ottla cost` prices.
//!
//! Counters of the process, not of the cluster: a restart begins anew, and says since when it counts. Nothing is written
//! to the store for it.
//!
//! - **U1** However often it is asked for, it is made once in [`Config::usage_interval`](crate::admin::Config) at most, one
//!   at a time, on a thread that no request needs: making it goes through all partitions and objects of the cluster. Nothing
//!   is locked for longer than [`STREAMS_AT_ONCE`] streams take; the metadata's snapshot costs nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::store::meter::{Meter, Purpose, Totals};

/// Streams whose traffic is read under one lock, which appends need. No option: it is some microseconds.
const STREAMS_AT_ONCE: usize = 256;

/// The document as text, kept for a while (U1).
pub struct Page {
    make: Arc<dyn Fn() -> Usage + Send + Sync>,
    interval: Duration,
    kept: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl Page {
    /// `interval` is how long after one document the next one is made at the earliest.
    pub fn new(interval: Duration, make: impl Fn() -> Usage + Send + Sync + 'static) -> Page {
        Page { make: Arc::new(make), interval, kept: Arc::default() }
    }

    /// The one that is kept, or a new one. A document that is being made is finished and kept, whoever leaves meanwhile.
    ///
    /// # Panics
    /// If making it does.
    pub async fn get(&self) -> Bytes {
        let mut kept = self.kept.clone().lock_owned().await;
        if let Some((since, page)) = &*kept
            && since.elapsed() < self.interval
        {
            return page.clone();
        }
        let make = self.make.clone();
        let made = tokio::task::spawn_blocking(move || {
            let page = Bytes::from(serde_json::to_vec(&make()).expect("numbers and text"));
            *kept = Some((Instant::now(), page.clone()));
            page
        });
        match made.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(page) => page,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

/// See the module. Bodies of records are counted as they are stored: compressed, with their batches' headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub node_id: i32,
    pub cluster_id: String,
    /// Its URL.
    pub store: String,
    /// When counting began, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// How long it has gone on.
    pub seconds: f64,
    /// PUTs and LISTs a second that the object WAL keeps the broker inside; absent with a block WAL.
    pub puts_per_second_max: Option<f64>,
    /// One for each purpose.
    pub requests: Vec<Asked>,
    /// Appended to all partitions, those of topics that are gone included.
    pub appended_bytes: u64,
    /// Read from data objects for consumers, by way of the cache.
    pub read_bytes: u64,
    /// Data objects that the metadata names, now: of the whole cluster.
    pub stored_bytes: u64,
    /// By name.
    pub topics: Vec<TopicUsage>,
}

/// Requests for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub purpose: Purpose,
    #[serde(flatten)]
    pub totals: Totals,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TopicUsage {
    pub name: String,
    pub appended_bytes: u64,
    pub read_bytes: u64,
    pub stored_bytes: u64,
}

impl Usage {
    /// As it is now. Costs time in proportion to the partitions and objects of the cluster.
    pub fn of(broker: &Broker, meter: &Meter, puts_per_second_max: Option<f64>) -> Usage {
        let image = broker.metadata.image();
        let storage = broker.partitions.storage();
        let topics = image.topics().map(|topic| {
            let mut usage = TopicUsage { name: topic.name.to_string(), ..TopicUsage::default() };
            for partitions in topic.partitions.chunks(STREAMS_AT_ONCE / 2) {
                let streams =
                    || partitions.iter().flat_map(|partition| [partition.log, partition.checkpoint]);
                let traffic = storage.traffic(streams());
                usage.appended_bytes += traffic.appended_bytes;
                usage.read_bytes += traffic.read_bytes;
                let stored = streams().filter_map(|id| image.stream(id)).map(|stream| stream.bytes());
                usage.stored_bytes += stored.sum::<u64>();
            }
            usage
        });
        let topics = topics.collect();
        // After those of the topics, which are parts of it.
        let traffic = storage.status().traffic;
        let asked = |purpose| Asked { purpose, totals: meter.totals(purpose) };
        Usage {
            node_id: broker.node_id,
            cluster_id: broker.cluster_id.clone(),
            store: broker.data_location.clone(),
            started_ms: meter.started_ms(),
            seconds: meter.seconds(),
            puts_per_second_max,
            requests: Purpose::ALL.into_iter().map(asked).collect(),
            appended_bytes: traffic.appended_bytes,
            read_bytes: traffic.read_bytes,
            stored_bytes: image.objects().map(|(_, object)| object.size_bytes).sum(),
            topics,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    fn usage(appended_bytes: u64) -> Usage {
        Usage {
            node_id: 1,
            cluster_id: "c".to_owned(),
            store: "s3://b".to_owned(),
            started_ms: 1,
            seconds: 1.0,
            puts_per_second_max: None,
            requests: Vec::new(),
            appended_bytes,
            read_bytes: 0,
            stored_bytes: 0,
            topics: Vec::new(),
        }
    }

    fn appended(page: &Bytes) -> u64 {
        serde_json::from_slice::<Usage>(page).unwrap().appended_bytes
    }

    /// U1. There is one thread for the requests: if it made the document, nobody could let that go on.
    #[tokio::test]
    async fn many_requests_are_one_walk_that_holds_up_nobody() {
        let (walks, (go_on, wait)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
        let (counted, wait) = (walks.clone(), parking_lot::Mutex::new(wait));
        let interval = Duration::from_secs(3_600);
        let page = Arc::new(Page::new(interval, move || {
            let walk = counted.fetch_add(1, Ordering::SeqCst) as u64;
            wait.lock().recv_timeout(Duration::from_secs(120)).expect("the requests' thread is free");
            usage(walk)
        }));
        let ask = || {
            let page = page.clone();
            tokio::spawn(async move { page.get().await })
        };
        let first = ask();
        while walks.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let others: Vec<_> = (0..20).map(|_| ask()).collect();
        // Who asked first has gone: its walk goes on, for the others.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        tokio::task::yield_now().await;
        go_on.send(()).unwrap();
        for other in others {
            assert_eq!(appended(&other.await.unwrap()), 0);
        }
        assert_eq!(walks.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_is_made_anew_after_its_time() {
        let walks = AtomicUsize::new(0);
        let page =
            Page::new(Duration::from_secs(1), move || usage(walks.fetch_add(1, Ordering::SeqCst) as u64));
        for (after_ms, expected) in [(0, 0), (0, 0), (999, 0), (1, 1), (500, 1), (500, 2)] {
            tokio::time::advance(Duration::from_millis(after_ms)).await;
            assert_eq!(appended(&page.get().await), expected, "after {after_ms} ms more");
        }
    }
}
