//! The state of a partition: where its log ends, and what its idempotent producers wrote last. No I/O; time is an
//! argument.
//!
//! # Invariants
//!
//! - **P1** Offsets are given out without gap: a batch begins where the one before ended.
//! - **P2** A batch of a producer is appended only if its sequence follows the one before, its epoch is not below the
//!   producer's, and it is none of the producer's last [`BATCHES_KEPT`] (behaviours 48–50).
//! - **P3** The state is a function of the batches of the log in their order, of what was forgotten by age or number, and
//!   of nothing else: replaying the log behind a checkpoint gives what was there before (behaviour 51).
//! - **P4** A producer of which nothing is known, and whose batch found no room, is next heard with that batch: what it sent
//!   behind it, not knowing, does not overtake. This is remembered for [`TURNED_AWAY_MAX`] producers and not across
//!   restarts, where their connections end anyway.
//! - **P5** At most [`Limits::producers_max`] producers are kept; the one that wrote longest ago goes first.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::batch::BatchHeader;

/// How many batches of a producer are recognised when they come again (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
pub const BATCHES_KEPT: usize = 5;

/// Producers that are remembered for a first batch that found no room. Those with the oldest ids are forgotten first.
pub const TURNED_AWAY_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Producers kept for a partition. Default 10,000.
    pub producers_max: usize,
    /// A producer that wrote nothing for this long is forgotten (`producer.id.expiration.ms`). Default 24 h.
    pub producer_expiration_ms: i64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { producers_max: 10_000, producer_expiration_ms: 86_400_000 }
    }
}

/// One batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptBatch {
    pub base_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: u64,
    /// Behind the batch's last offset.
    pub end_offset: u64,
    /// The batch's max timestamp.
    pub timestamp: i64,
}

/// A producer's last batches, all of one epoch, oldest first; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    pub epoch: i16,
    /// When it wrote last, by the broker's clock.
    pub seen_ms: i64,
    pub batches: VecDeque<KeptBatch>,
}

impl Producer {
    /// The batch that it wrote last.
    pub fn last(&self) -> &KeptBatch {
        self.batches.back().expect("a producer is kept for its batches")
    }
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Append,
    /// It was appended before: answer as then, once that is durable (behaviour 48).
    Duplicate(KeptBatch),
}

/// Why a batch of an idempotent producer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// OUT_OF_ORDER_SEQUENCE_NUMBER (45).
    #[error("producer {producer_id} sent sequence {sequence} where {expected} was expected")]
    OutOfOrder { producer_id: i64, sequence: i32, expected: i32 },
    /// INVALID_PRODUCER_EPOCH (47).
    #[error("producer {producer_id} has epoch {current}; {epoch} is older")]
    Fenced { producer_id: i64, epoch: i16, current: i16 },
}

/// See the module's page.
#[derive(Clone, Debug)]
pub struct State {
    limits: Limits,
    log_end: u64,
    producers: HashMap<i64, Producer>,
    /// Producers by the end of their last batch: who wrote longest ago comes first.
    by_age: BTreeMap<u64, i64>,
    /// Producers that are not in `producers`, and the epoch and sequence that they must come back with (P4).
    turned_away: BTreeMap<i64, (i16, i32)>,
}

impl State {
    /// The state of a log that ends at `log_end` and of which nothing else is known.
    pub fn new(limits: Limits, log_end: u64) -> State {
        let (producers, by_age, turned_away) = (HashMap::new(), BTreeMap::new(), BTreeMap::new());
        State { limits, log_end, producers, by_age, turned_away }
    }

    /// The offset of the next record.
    pub fn log_end(&self) -> u64 {
        self.log_end
    }

    pub fn producers(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.by_age.values().map(|id| (*id, &self.producers[id]))
    }

    /// Those that have not expired.
    pub fn active_producers(&self, now_ms: i64) -> impl Iterator<Item = (i64, &Producer)> {
        self.producers().filter(move |(_, producer)| !self.expired(now_ms, producer))
    }

    pub fn producer_count(&self) -> usize {
        self.producers.len()
    }

    /// Whether `batch`, which is valid in itself, may be appended now (P2).
    pub fn check(&self, now_ms: i64, batch: &BatchHeader) -> Result<Verdict, Refused> {
        if !batch.has_producer() {
            return Ok(Verdict::Append);
        }
        let producer_id = batch.producer_id;
        let Some(producer) = self.known(now_ms, producer_id) else {
            return match self.turned_away.get(&producer_id) {
                Some(&(epoch, expected))
                    if epoch == batch.producer_epoch && expected != batch.base_sequence =>
                {
                    Err(Refused::OutOfOrder { producer_id, sequence: batch.base_sequence, expected })
                }
                // Nothing is known of it: it may be an old one. Any sequence is accepted (behaviour 49).
                _ => Ok(Verdict::Append),
            };
        };
        if batch.producer_epoch < producer.epoch {
            let (epoch, current) = (batch.producer_epoch, producer.epoch);
            return Err(Refused::Fenced { producer_id, epoch, current });
        }
        let expected = if batch.producer_epoch > producer.epoch {
            0
        } else {
            let (first, last) = (batch.base_sequence, batch.last_sequence());
            let same = |kept: &&KeptBatch| kept.base_sequence == first && kept.last_sequence == last;
            if let Some(kept) = producer.batches.iter().find(same) {
                if host::planted("no-duplicates") {
                    return Ok(Verdict::Append);
                }
                return Ok(Verdict::Duplicate(*kept));
            }
            super::batch::add_to_sequence(producer.last().last_sequence, 1)
        };
        if batch.base_sequence != expected {
            return Err(Refused::OutOfOrder { producer_id, sequence: batch.base_sequence, expected });
        }
        Ok(Verdict::Append)
    }

    /// Takes note that there was no room for `batch`, which will come again (P4).
    pub fn turned_away(&mut self, now_ms: i64, batch: &BatchHeader) {
        if !batch.has_producer() || self.known(now_ms, batch.producer_id).is_some() {
            return;
        }
        let sent = (batch.producer_epoch, batch.base_sequence);
        let first = self.turned_away.entry(batch.producer_id).or_insert(sent);
        if first.0 < sent.0 {
            *first = sent;
        }
        if self.turned_away.len() > TURNED_AWAY_MAX {
            self.turned_away.pop_first();
        }
    }

    /// Gives away what it knows of producers that were turned away, to whoever goes on with the log in this process.
    pub fn take_turned_away(&mut self) -> BTreeMap<i64, (i16, i32)> {
        std::mem::take(&mut self.turned_away)
    }

    /// Of producers that are known only from there.
    pub fn know_turned_away(&mut self, turned_away: BTreeMap<i64, (i16, i32)>) {
        let news = turned_away.into_iter().filter(|(id, _)| !self.producers.contains_key(id));
        self.turned_away.extend(news);
    }

    /// Takes note that `batch` got the offsets from the log's end on. Its base offset is not looked at.
    pub fn appended(&mut self, now_ms: i64, batch: &BatchHeader) {
        let base_offset = self.log_end;
        self.log_end += batch.last_offset_delta as u64 + 1;
        if batch.has_producer() && !batch.is_control() {
            let kept = KeptBatch {
                base_sequence: batch.base_sequence,
                last_sequence: batch.last_sequence(),
                base_offset,
                end_offset: self.log_end,
                timestamp: batch.max_timestamp,
            };
            self.note(now_ms, batch.producer_id, batch.producer_epoch, kept);
        }
    }

    fn note(&mut self, now_ms: i64, id: i64, epoch: i16, kept: KeptBatch) {
        self.turned_away.remove(&id);
        match self.producers.get_mut(&id) {
            Some(producer) => {
                self.by_age.remove(&producer.last().end_offset);
                if producer.epoch != epoch || now_ms - producer.seen_ms > self.limits.producer_expiration_ms {
                    producer.batches.clear();
                    producer.epoch = epoch;
                }
                if producer.batches.len() == BATCHES_KEPT {
                    producer.batches.pop_front();
                }
                producer.batches.push_back(kept);
                producer.seen_ms = now_ms;
            }
            None => {
                self.forget_expired(now_ms);
                if self.producers.len() >= self.limits.producers_max {
                    self.forget_oldest();
                }
                let batches = VecDeque::from([kept]);
                self.producers.insert(id, Producer { epoch, seen_ms: now_ms, batches });
            }
        }
        let displaced = self.by_age.insert(kept.end_offset, id);
        assert!(displaced.is_none(), "two batches end at offset {}", kept.end_offset);
    }

    /// Restores a producer from a checkpoint. `false` if it contradicts the others or is empty.
    pub fn restore(&mut self, id: i64, producer: Producer) -> bool {
        let Some(last) = producer.batches.back() else { return false };
        let end = last.end_offset;
        if end > self.log_end || self.by_age.contains_key(&end) || self.producers.contains_key(&id) {
            return false;
        }
        self.by_age.insert(end, id);
        self.producers.insert(id, producer);
        true
    }

    /// Continues at `log_end`, further on than the log ends: only when offsets between were lost to retention.
    pub fn skip_to(&mut self, log_end: u64) {
        assert!(log_end >= self.log_end, "the log cannot end at {log_end} after {}", self.log_end);
        self.log_end = log_end;
    }

    fn known(&self, now_ms: i64, id: i64) -> Option<&Producer> {
        self.producers.get(&id).filter(|producer| !self.expired(now_ms, producer))
    }

    fn expired(&self, now_ms: i64, producer: &Producer) -> bool {
        now_ms - producer.seen_ms > self.limits.producer_expiration_ms
    }

    /// Drops expired producers from the old end.
    pub fn forget_expired(&mut self, now_ms: i64) {
        while let Some(id) = self.by_age.values().next() {
            if !self.expired(now_ms, &self.producers[id]) {
                return;
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_first() {
            self.producers.remove(&id);
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
