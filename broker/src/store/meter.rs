//! What a broker asks of its store, counted by why it asks: what a bill is made of.
//!
//! ```text
//!   wal, upload, … ──► Metered(purpose) ──► object_store's client ──► Connector ──► the bucket
//!                        says who asks        retries, pages           counts what goes over the wire
//! ```
//!
//! The count is taken below the client, because a bill is: each attempt of a repeated request, each page of a listing
//! and each part of an object is one. What gets credentials is no request to the store. A directory has no wire: there the
//! calls are counted, as a bucket would get them.
//!
//! # Invariants
//! - **M1** Everything that reaches the bucket is counted once: a store is handed out only by
//!   [`Stores`](super::Stores), and never without a purpose.
//! - **M2** Counters never go back as long as the process lives, and nothing waits for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Why the store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Slots of the write-ahead log, if that is in the store.
    Wal,
    /// What leaves the log cache for data objects.
    Upload,
    /// Data objects that become fewer and larger, read and written.
    Compaction,
    /// Data objects for consumers.
    Read,
    /// Deletion of what nothing needs any more, and the listings that find it.
    Collection,
    /// What an earlier life left in its write-ahead log.
    Recovery,
    /// The metadata log and the polls that renew the lease.
    Metadata,
}

impl Purpose {
    pub const ALL: [Purpose; 7] = [
        Purpose::Wal,
        Purpose::Upload,
        Purpose::Compaction,
        Purpose::Read,
        Purpose::Collection,
        Purpose::Recovery,
        Purpose::Metadata,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Purpose::Wal => "wal",
            Purpose::Upload => "upload",
            Purpose::Compaction => "compaction",
            Purpose::Read => "read",
            Purpose::Collection => "collection",
            Purpose::Recovery => "recovery",
            Purpose::Metadata => "metadata",
        }
    }
}

/// What a request costs by: the stores have a price for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// PUT, and POST of a multipart upload.
    Put,
    List,
    /// GET and HEAD.
    Get,
    /// One object, or a whole batch where the store takes batches.
    Delete,
}

/// A moment's counts of one purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub puts: u64,
    pub lists: u64,
    pub gets: u64,
    pub deletes: u64,
    /// Bodies of requests.
    pub sent_bytes: u64,
    /// Bodies of answers.
    pub received_bytes: u64,
}

impl Totals {
    pub fn requests(&self) -> u64 {
        self.puts + self.lists + self.gets + self.deletes
    }

    /// Field by field, never over.
    pub fn combine(self, other: Totals, with: impl Fn(u64, u64) -> u64) -> Totals {
        Totals {
            puts: with(self.puts, other.puts),
            lists: with(self.lists, other.lists),
            gets: with(self.gets, other.gets),
            deletes: with(self.deletes, other.deletes),
            sent_bytes: with(self.sent_bytes, other.sent_bytes),
            received_bytes: with(self.received_bytes, other.received_bytes),
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    requests: [AtomicU64; 4],
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// Counters of one process, for one store.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    started_ms: u64,
    counters: [Counters; Purpose::ALL.len()],
}

impl Default for Meter {
    fn default() -> Meter {
        Meter {
            started: Instant::now(),
            started_ms: host::clock::wall_ms() as u64,
            counters: Default::default(),
        }
    }
}

impl Meter {
    /// A request is about to be sent.
    pub fn request(&self, purpose: Purpose, request: Request, sent_bytes: u64) {
        let counters = &self.counters[purpose as usize];
        counters.requests[request as usize].fetch_add(1, Ordering::Relaxed);
        counters.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
    }

    /// Some of an answer's body has come.
    pub fn received(&self, purpose: Purpose, bytes: u64) {
        self.counters[purpose as usize].received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn totals(&self, purpose: Purpose) -> Totals {
        let counters = &self.counters[purpose as usize];
        let count = |request: Request| counters.requests[request as usize].load(Ordering::Relaxed);
        Totals {
            puts: count(Request::Put),
            lists: count(Request::List),
            gets: count(Request::Get),
            deletes: count(Request::Delete),
            sent_bytes: counters.sent_bytes.load(Ordering::Relaxed),
            received_bytes: counters.received_bytes.load(Ordering::Relaxed),
        }
    }

    /// What counts for the budget of PUTs: those, and LISTs, which cost as much.
    pub fn puts(&self) -> u64 {
        let of = |counters: &Counters| {
            [Request::Put, Request::List]
                .map(|request| counters.requests[request as usize].load(Ordering::Relaxed))
        };
        self.counters.iter().flat_map(of).sum()
    }

    /// Milliseconds since the Unix epoch at which counting began.
    pub fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// Seconds since counting began.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
