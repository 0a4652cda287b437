//! Blocks that are being fetched: single flight for runs of adjacent blocks (C1).
//!
//! A claim is made for all missing blocks of a read under one lock, so concurrent readers of the same range end up with
//! the same flights. A flight is driven by whoever waits for it, and ends with the last of them; the table only has weak
//! references, and a guard inside the flight takes its entries out, however it ends.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use parking_lot::Mutex;

use super::{Error, Options};
use crate::ObjectId;
use crate::object::{Block, BlockEntry};

pub(super) type BlockKey = (ObjectId, usize);
type Landing = BoxFuture<'static, Result<Arc<[Block]>, Error>>;
pub(super) type Flight = Shared<Landing>;

#[derive(Default)]
pub(super) struct Flights {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    flying: HashMap<BlockKey, Entry>,
    last_id: u64,
}

struct Entry {
    id: u64,
    /// The first block of the flight.
    first: usize,
    flight: WeakShared<Landing>,
}

/// A flight to wait for.
pub(super) struct Joined {
    /// Which of its blocks the caller asked for.
    pub wanted: Vec<usize>,
    /// The number of its first block.
    pub first: usize,
    pub flight: Flight,
}

/// Lives inside the flight; takes it out of the table when dropped.
pub(super) struct FlightGuard {
    table: Arc<Mutex<Table>>,
    id: u64,
    object: ObjectId,
    run: Range<usize>,
}

impl Flights {
    /// Joins the flights that bring `missing` (ascending block numbers) or claims runs for new ones, made by `launch`.
    pub fn join(
        &self,
        object: ObjectId,
        missing: &[usize],
        entries: &[BlockEntry],
        options: &Options,
        launch: impl Fn(Range<usize>, FlightGuard) -> Landing,
    ) -> Vec<Joined> {
        let mut joined: Vec<(u64, Joined)> = Vec::new();
        let mut table = self.table.lock();
        let mut free = Vec::new();
        for &number in missing {
            // A flight that nobody waits for any more cannot be joined; its guard is about to run.
            let flying = table.flying.get(&(object, number));
            match flying.and_then(|entry| Some((entry.id, entry.first, entry.flight.upgrade()?))) {
                Some((id, first, flight)) => match joined.iter_mut().find(|(known, _)| *known == id) {
                    Some((_, joined)) => joined.wanted.push(number),
                    None => joined.push((id, Joined { wanted: vec![number], first, flight })),
                },
                None => free.push(number),
            }
        }
        for run in runs(&free, entries, options.get_bytes_max) {
            table.last_id += 1;
            let id = table.last_id;
            let guard = FlightGuard { table: Arc::clone(&self.table), id, object, run: run.clone() };
            let flight = launch(run.clone(), guard).shared();
            for number in run.clone() {
                let weak = flight.downgrade().expect("not polled yet, so not complete");
                table.flying.insert((object, number), Entry { id, first: run.start, flight: weak });
            }
            joined.push((id, Joined { wanted: run.clone().collect(), first: run.start, flight }));
        }
        drop(table);
        joined.into_iter().map(|(_, joined)| joined).collect()
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        for number in self.run.clone() {
            let key = (self.object, number);
            if table.flying.get(&key).is_some_and(|entry| entry.id == self.id) {
                table.flying.remove(&key);
            }
        }
    }
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Flights").field("blocks", &self.table.lock().flying.len()).finish()
    }
}

/// Splits ascending block numbers into runs of adjacent blocks of at most `bytes_max`, or of one block.
pub(super) fn runs(numbers: &[usize], entries: &[BlockEntry], bytes_max: u64) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for &number in numbers {
        let size = u64::from(entries[number].size);
        match runs.last_mut() {
            Some(run) if run.end == number && bytes + size <= bytes_max => {
                run.end += 1;
                bytes += size;
            }
            _ => {
                runs.push(number..number + 1);
                bytes = size;
            }
        }
    }
    runs
}
