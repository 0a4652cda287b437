//! Records become batches, a queue of them per partition.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use bytes::Bytes;

use crate::cli::client::records::{Builder, Header, Producer};
use crate::partition::batch::add_to_sequence;

/// A batch is ended before the record that would make it larger; below the default of `max.message.bytes`.
const BATCH_BYTES: usize = 900_000;

/// Which partition a record goes to.
#[derive(Debug)]
pub enum Partitioner {
    Fixed(i32),
    /// As Kafka's default: a key's hash decides; records without a key go to one partition per batch.
    ByKey {
        partitions: Vec<i32>,
        sticky: usize,
    },
}

/// A batch that is ready to be sent, again and again if need be.
#[derive(Clone, Debug)]
pub struct Batch {
    pub bytes: Bytes,
    pub records: u64,
}

pub type Lot = BTreeMap<i32, VecDeque<Batch>>;

#[derive(Debug)]
pub struct Batches {
    partitioner: Partitioner,
    producer: Option<Producer>,
    headers: Vec<Header>,
    open: BTreeMap<i32, Builder>,
    ready: Lot,
    /// The sequence number of each partition's next batch.
    sequences: BTreeMap<i32, i32>,
    bytes: usize,
}

impl Partitioner {
    /// # Panics
    /// If there are no partitions.
    pub fn by_key(partitions: Vec<i32>) -> Partitioner {
        assert!(!partitions.is_empty(), "a topic has partitions");
        let sticky = rand::random_range(0..partitions.len());
        Partitioner::ByKey { partitions, sticky }
    }

    fn choose(&self, key: Option<&[u8]>) -> i32 {
        match (self, key) {
            (Partitioner::Fixed(partition), _) => *partition,
            (Partitioner::ByKey { partitions, .. }, Some(key)) => {
                let hash = murmur2(key) & 0x7fff_ffff;
                partitions[hash as usize % partitions.len()]
            }
            (Partitioner::ByKey { partitions, sticky }, None) => partitions[*sticky],
        }
    }

    fn batch_ended(&mut self) {
        if let Partitioner::ByKey { partitions, sticky } = self {
            *sticky = (*sticky + 1) % partitions.len();
        }
    }
}

impl Batches {
    pub fn new(partitioner: Partitioner, producer: Option<Producer>, headers: Vec<Header>) -> Batches {
        Batches {
            partitioner,
            producer,
            headers,
            open: BTreeMap::new(),
            ready: Lot::new(),
            sequences: BTreeMap::new(),
            bytes: 0,
        }
    }

    pub fn push(&mut self, key: Option<&[u8]>, value: &[u8]) {
        let partition = self.partitioner.choose(key);
        // Not the exact size on the wire, but never far below it.
        let bytes = 32 + key.map_or(0, <[u8]>::len) + value.len() + self.header_bytes();
        if self.open.get(&partition).is_some_and(|open| open.size() + bytes > BATCH_BYTES) {
            self.end(partition);
            return self.push(key, value);
        }
        let open = self.open.entry(partition).or_insert_with(|| Builder::new(now()));
        open.push(key, Some(value), &self.headers);
        self.bytes += bytes;
    }

    /// Bytes that [`take`](Batches::take) would give, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.ready.is_empty()
    }

    /// Everything so far.
    pub fn take(&mut self) -> Lot {
        for partition in self.open.keys().copied().collect::<Vec<_>>() {
            self.end(partition);
        }
        self.bytes = 0;
        std::mem::take(&mut self.ready)
    }

    fn end(&mut self, partition: i32) {
        let Some(open) = self.open.remove(&partition) else { return };
        let count = open.count();
        let sequence = self.sequences.entry(partition).or_insert(0);
        let bytes = open.finish(self.producer, *sequence);
        *sequence = add_to_sequence(*sequence, count);
        self.ready.entry(partition).or_default().push_back(Batch { bytes, records: count as u64 });
        self.partitioner.batch_ended();
    }

    fn header_bytes(&self) -> usize {
        self.headers.iter().map(|(name, value)| 10 + name.len() + value.as_ref().map_or(0, Bytes::len)).sum()
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}

/// Kafka's hash of keys (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::super::input::Input;
    use super::*;
    use crate::cli::client::records;
    use crate::partition::batch::BatchHeader;

    /// Vectors of Kafka's `UtilsTest.testMurmur2`.
    #[test]
    fn keys_hash_as_in_kafka() {
        for (key, hash) in [
            ("21", -973_932_308i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn sequences_run_on_and_batches_keep_below_their_limit() {
        let producer = Producer { id: 1, epoch: 0 };
        let mut batches = Batches::new(Partitioner::Fixed(3), Some(producer), vec![]);
        for _ in 0..10 {
            batches.push(None, &[7; 200_000]);
        }
        let mut first = batches.take();
        batches.push(None, b"more");
        let mut second = batches.take();
        assert!(batches.is_empty() && batches.bytes() == 0);
        let mut all: Vec<Batch> = first.remove(&3).unwrap().into();
        all.extend(second.remove(&3).unwrap());
        let mut next = 0;
        for batch in all {
            assert!(batch.bytes.len() <= BATCH_BYTES);
            let header = BatchHeader::parse(&batch.bytes).unwrap();
            assert_eq!((header.base_sequence, header.count as u64), (next, batch.records));
            next += header.count;
        }
        assert_eq!(next, 11);
    }

    #[test]
    fn a_key_always_goes_to_its_partition_and_the_keyless_spread_by_batch() {
        let mut batches = Batches::new(Partitioner::by_key(vec![0, 1, 2]), None, vec![]);
        for key in 0..50 {
            batches.push(Some(format!("{}", key % 5).as_bytes()), b"");
        }
        let keyed = batches.take();
        let counts: Vec<u64> = keyed.values().flatten().map(|batch| batch.records).collect();
        assert!(counts.iter().all(|count| count % 10 == 0), "{counts:?}");
        for _ in 0..9 {
            batches.push(None, b"x");
        }
        assert_eq!(batches.take().len(), 1);
    }

    #[tokio::test]
    async fn lines_become_records() {
        let mut input = Input::lines(&b"a:1\r\nb:\n:3\n\xff:4"[..], Some(":"));
        let mut batches = Batches::new(Partitioner::Fixed(0), None, vec![]);
        assert!(!input.gather(&mut batches).await.unwrap());
        let lot = batches.take();
        let decoded = records::decode(lot[&0][0].bytes.clone(), 0).unwrap();
        let pairs: Vec<_> = decoded
            .records
            .iter()
            .map(|record| (&record.key.as_ref().unwrap()[..], &record.value.as_ref().unwrap()[..]))
            .collect();
        assert_eq!(pairs, [(&b"a"[..], &b"1"[..]), (b"b", b""), (b"", b"3"), (b"\xff", b"4")]);
        let error = Input::lines(&b"x:1\nno key"[..], Some(":")).gather(&mut batches).await.unwrap_err();
        assert!(error.to_string().contains("record 2 has no key"), "{error}");
    }
}
