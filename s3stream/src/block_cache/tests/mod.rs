//! The cache over a store that a test controls. Time is tokio's paused clock: nothing really waits.

mod probe;

use bytes::Bytes;
use futures::future::join_all;
use object_store::{ObjectStoreExt, PutPayload};
use proptest::prelude::*;
use wal::Incarnation;

use super::*;
use crate::StreamId;
use crate::object::{Identity, ObjectWriter, object_key};
use probe::{Fate, Probe};

const OWNER: Incarnation = Incarnation { broker: 1, epoch: 9 };
const STREAM: StreamId = StreamId(4);

fn options() -> Options {
    Options { tail_bytes: 2048, ..Options::default() }
}

fn record(base: u64, len: usize) -> StreamRecord {
    let body: Vec<u8> = (0..len).map(|at| (base as usize * 31 + at) as u8).collect();
    StreamRecord { base, end: base + 1, max_timestamp: base as i64 * 10, body: body.into() }
}

/// Puts an object with these records of [`STREAM`], between a smaller and a larger stream, and locates them.
async fn put(probe: &Probe, counter: u64, block_bytes: usize, records: &[StreamRecord]) -> Located {
    let object = ObjectId::Data { owner: OWNER, counter };
    let mut writer = ObjectWriter::new(Identity { object, nonce: 5 }, crate::object::Options { block_bytes });
    for stream in [StreamId(3), StreamId(5)] {
        writer.add(stream, 1, KIND_DATA, record(0, 700));
    }
    for record in records {
        writer.add(STREAM, 1, KIND_DATA, record.clone());
    }
    let encoded = writer.finish();
    probe.inner.put(&object_key(object), encoded.payload()).await.unwrap();
    let part = *encoded.parts.iter().find(|part| part.stream == STREAM).unwrap();
    Located { object, object_size_bytes: encoded.size_bytes, part }
}

/// A record of `len` bytes at each offset of the range, a block each.
async fn blocks(probe: &Probe, counter: u64, offsets: Range<u64>, len: usize) -> Located {
    let records: Vec<_> = offsets.map(|base| record(base, len)).collect();
    put(probe, counter, 1, &records).await
}

fn cache(probe: &Probe, options: Options) -> BlockCache {
    BlockCache::new(Arc::new(probe.clone()), options)
}

/// Reads until the parts end.
async fn read_to_end(
    cache: &BlockCache,
    parts: &[Located],
    mut from: u64,
    max_bytes: usize,
) -> Vec<StreamRecord> {
    let end = parts.last().unwrap().part.end;
    let mut all = Vec::new();
    while from < end {
        let fetched = cache.read(parts, from, max_bytes).await.unwrap();
        assert!(fetched.next() > from, "a read must get on");
        from = fetched.next();
        all.extend(fetched.into_records());
        // A consumer does something with what it got.
        tokio::task::yield_now().await;
    }
    all
}

#[tokio::test(start_paused = true)]
async fn concurrent_readers_share_one_get() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..8, 5000).await;
    probe.with(|state| state.latency = Duration::from_millis(30));
    let cache = cache(&probe, options());
    let reads = join_all((0..100).map(|_| cache.read(std::slice::from_ref(&located), 0, 40_000))).await;
    for read in reads {
        assert_eq!(read.unwrap().into_records(), (0..8).map(|base| record(base, 5000)).collect::<Vec<_>>());
    }
    assert_eq!(
        probe.gets(),
        2,
        "one for the index, one for the blocks: {:?}",
        probe.with(|state| state.gets.clone())
    );
}

/// What a dead broker left in its log: many small objects, each with a little of every stream.
#[tokio::test(start_paused = true)]
async fn what_is_about_to_be_read_comes_from_many_objects_side_by_side() {
    let probe = Probe::default();
    let latency = Duration::from_millis(60);
    let mut parts = Vec::new();
    for number in 0..128 {
        let records: Vec<_> = (number * 2..number * 2 + 2).map(|base| record(base, 100)).collect();
        parts.push(put(&probe, number, 4096, &records).await);
    }
    probe.with(|state| state.latency = latency);
    let cache = cache(&probe, Options { gets_in_flight_max: 64, ..options() });
    let began = tokio::time::Instant::now();
    cache.warm(&parts, 1, 1 << 20).await;
    assert_eq!(began.elapsed(), latency * 2, "128 objects, 64 at a time");
    assert_eq!(read_to_end(&cache, &parts, 1, 1 << 20).await.len(), 255);
    assert_eq!(began.elapsed(), latency * 2, "all of it was there");
    assert_eq!(probe.gets(), 128);

    // A large object is not fetched for that as a whole.
    let large = blocks(&probe, 1_000, 256..512, 5_000).await;
    cache.warm(std::slice::from_ref(&large), 256, 20_000).await;
    let read =
        probe.with(|state| state.gets[128..].iter().map(|(_, range)| range.end - range.start).sum::<u64>());
    assert!(read < 40_000, "{read} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_readers_on_many_threads_never_fetch_a_block_twice() {
    for round in 0..20 {
        let probe = Probe::default();
        let located = blocks(&probe, round, 0..16, 5000).await;
        let cache = cache(&probe, Options { read_ahead_bytes_max: 0, ..options() });
        let readers = (0..32u64).map(|reader| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let read = cache.read(&[located], reader % 16, 20_000).await.unwrap();
                assert_eq!(read.records().next(), Some(record(reader % 16, 5000)));
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            reader.await.unwrap();
        }
        let mut gets = probe.with(|state| state.gets.clone());
        // The tail ends with the index but begins somewhere in a block.
        gets.retain(|(_, range)| range.end < located.object_size_bytes);
        gets.sort_by_key(|(_, range)| range.start);
        for pair in gets.windows(2) {
            assert!(pair[0].1.end <= pair[1].1.start, "fetched twice: {pair:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_costs_few_gets_and_hardly_waits() {
    let probe = Probe::default();
    let records: Vec<_> = (0..1024).map(|base| record(base, 64 << 10)).collect();
    let located = put(&probe, 1, 512 << 10, &records).await;
    probe.with(|state| state.latency = Duration::from_millis(30));
    let cache = cache(&probe, Options::default());
    assert_eq!(read_to_end(&cache, &[located], 0, 1 << 20).await, records);
    let gets = probe.gets();
    assert!(gets <= 25, "{gets} GETs for 64 MiB");
    let mut starts = probe.with(|state| state.gets.clone());
    // The first is the tail, which ends with the index but begins somewhere in a block.
    starts.remove(0);
    starts.sort_by_key(|(_, range)| range.start);
    assert!(starts.windows(2).all(|pair| pair[0].1.end <= pair[1].1.start), "a byte was fetched twice");
    cache.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn read_ahead_crosses_objects() {
    let probe = Probe::default();
    let mut parts = Vec::new();
    for object in 0..64u64 {
        parts.push(blocks(&probe, object, object * 4..object * 4 + 4, 60_000).await);
    }
    probe.with(|state| state.latency = Duration::from_millis(10));
    let mut elapsed = Vec::new();
    for read_ahead_bytes_max in [0, 8 << 20] {
        let cache = cache(&probe, Options { read_ahead_bytes_max, ..options() });
        let started = tokio::time::Instant::now();
        assert_eq!(read_to_end(&cache, &parts, 0, 1 << 20).await.len(), 256);
        elapsed.push(started.elapsed());
        cache.shutdown().await;
    }
    // On the paused clock: 128 GETs one after the other, against several at a time.
    assert_eq!(elapsed[0], Duration::from_millis(1280));
    assert!(elapsed[1] * 2 < elapsed[0], "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_small_object_is_one_get() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..3, 100).await;
    let cache = cache(&probe, Options::default());
    assert_eq!(read_to_end(&cache, &[located], 0, 1).await.len(), 3);
    assert_eq!(cache.find_timestamp(&located, 15).await.unwrap(), Some(record(2, 100)));
    assert_eq!(probe.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_index_longer_than_the_tail_is_two_gets() {
    for tail_bytes in [1, 50, 500] {
        let probe = Probe::default();
        let located = blocks(&probe, 1, 0..100, 100).await;
        let cache = cache(&probe, Options { tail_bytes, ..options() });
        assert_eq!(cache.read(&[located], 99, 10).await.unwrap().into_records(), [record(99, 100)]);
        // A footer that does not fit costs one more.
        assert_eq!(probe.gets(), if tail_bytes < 72 { 4 } else { 3 }, "tail {tail_bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_and_then_reported() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..4, 5000).await;
    for fate in [Fate::Refused, Fate::Truncated(10), Fate::Truncated(0), Fate::Silent] {
        let cache = cache(&probe, options());
        probe.with(|state| state.next = [fate, fate, Fate::Fine, fate].into());
        let read = cache.read(&[located], 1, 1).await.unwrap();
        assert_eq!(read.into_records(), [record(1, 5000)], "{fate:?}");

        probe.with(|state| {
            state.gets.clear();
            state.always = Some(fate);
        });
        let error = cache.read(&[located], 3, 1).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{fate:?}: {error}");
        assert_eq!(probe.gets(), 5, "attempts are bounded");
        probe.with(|state| state.always = None);
        assert!(cache.read(&[located], 3, 1).await.is_ok(), "an error is not cached");
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_object_is_reported_at_once() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..4, 5000).await;
    let cache = cache(&probe, options());
    let gone = Located { object: ObjectId::Data { owner: OWNER, counter: 2 }, ..located };
    let error = cache.read(&[gone], 0, 1).await.unwrap_err();
    assert_eq!(error, Error::Missing { object: gone.object });
    assert_eq!(probe.gets(), 1);
    // Gone after its index was cached.
    cache.read(&[located], 0, 1).await.unwrap();
    probe.inner.delete(&object_key(located.object)).await.unwrap();
    assert_eq!(cache.read(&[located], 3, 1).await.unwrap_err(), Error::Missing { object: located.object });
    assert!(cache.read(&[located], 0, 1).await.is_ok(), "what is cached is still true");
}

#[tokio::test(start_paused = true)]
async fn damage_is_fetched_again_as_often_as_a_get_fails_and_then_reported_wherever_it_is() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..3, 900).await;
    let mut seen = 0;
    // The header and the blocks of other streams are not looked at.
    let first = 8 + 28 + 700;
    let others = first + 3 * 928..first + 3 * 928 + 728;
    for at in (first..located.object_size_bytes).filter(|at| !others.contains(at)).step_by(7) {
        let fresh = cache(&probe, options());
        probe.with(|state| {
            state.next.clear();
            state.always = Some(Fate::Flipped(at));
        });
        let mut result = Ok(0);
        for offset in 0..3 {
            result = result.and(fresh.read(&[located], offset, 1).await.map(|fetched| fetched.bytes()));
        }
        match result.unwrap_err() {
            Error::Corrupt { object, .. } => assert_eq!(object, located.object),
            Error::Unsupported { .. } => seen += 1,
            other => panic!("byte {at}: {other}"),
        }
        // The same damage in transit, each time but the last.
        let fresh = cache(&probe, options());
        for offset in 0..3 {
            let damaged = options().attempts_max as usize - 1;
            probe.with(|state| {
                state.always = None;
                state.next = std::iter::repeat_n(Fate::Flipped(at), damaged).chain([Fate::Fine]).collect();
            });
            match fresh.read(&[located], offset, 1).await {
                Ok(read) => assert_eq!(read.into_records(), [record(offset, 900)]),
                // A flipped version: not damage as far as anybody can tell.
                Err(Error::Unsupported { .. }) => {}
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }
    assert!(seen <= 1);
}

/// The index of a small object brings the whole object with it, which stays cached as it came.
#[tokio::test(start_paused = true)]
async fn a_block_that_came_damaged_with_its_index_is_fetched_by_itself() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..3, 900).await;
    let cache = cache(&probe, Options::default());
    // In the body of the second record, which is not asked for at first.
    probe.with(|state| state.next = [Fate::Flipped(8 + 28 + 700 + 928 + 200)].into());
    assert_eq!(cache.read(&[located], 0, 1).await.unwrap().into_records(), [record(0, 900)]);
    assert_eq!(probe.gets(), 1, "the whole object came at once");
    assert_eq!(cache.read(&[located], 1, 1).await.unwrap().into_records(), [record(1, 900)]);
    assert_eq!(probe.gets(), 2);
    assert_eq!(cache.read(&[located], 2, 1).await.unwrap().into_records(), [record(2, 900)]);
    assert_eq!(probe.gets(), 2, "its neighbours were whole");
}

#[tokio::test(start_paused = true)]
async fn a_truncated_or_foreign_object_is_corrupt() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..4, 5000).await;
    let key = object_key(located.object);
    let whole = probe.inner.get(&key).await.unwrap().bytes().await.unwrap();
    for len in [0, 1, 100, whole.len() - 1] {
        probe.inner.put(&key, PutPayload::from(whole.slice(..len))).await.unwrap();
        let error = cache(&probe, options()).read(&[located], 0, 1).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{len} bytes: {error}");
    }
    probe.inner.put(&key, PutPayload::from(whole.clone())).await.unwrap();
    // Another object's bytes under this key.
    let other = ObjectId::Data { owner: OWNER, counter: 2 };
    probe.inner.put(&object_key(other), PutPayload::from(whole)).await.unwrap();
    let error =
        cache(&probe, options()).read(&[Located { object: other, ..located }], 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    // A stream that the object does not hold.
    let mut wrong = located;
    wrong.part.stream = StreamId(77);
    let error = cache(&probe, options()).read(&[wrong], 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn blocks_of_an_unknown_kind_are_refused() {
    let probe = Probe::default();
    let object = ObjectId::Data { owner: OWNER, counter: 1 };
    let mut writer = ObjectWriter::new(Identity { object, nonce: 5 }, crate::object::Options::default());
    writer.add(STREAM, 1, KIND_DATA + 1, record(0, 10));
    let encoded = writer.finish();
    probe.inner.put(&object_key(object), encoded.payload()).await.unwrap();
    let located = Located { object, object_size_bytes: encoded.size_bytes, part: encoded.parts[0] };
    let error = cache(&probe, options()).read(&[located], 0, 1).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn budgets_hold() {
    let probe = Probe::default();
    let mut parts = Vec::new();
    for object in 0..16u64 {
        parts.push(blocks(&probe, object, object * 32..object * 32 + 32, 20_000).await);
    }
    probe.with(|state| state.latency = Duration::from_millis(5));
    let limits = Options {
        cache_bytes: 1 << 20,
        index_cache_bytes: 16 << 10,
        get_bytes_max: 100_000,
        gets_in_flight_max: 7,
        in_flight_bytes_max: 256 << 10,
        ..options()
    };
    let cache = cache(&probe, limits);
    let readers = (0..20u64).map(|reader| {
        let (cache, parts) = (cache.clone(), &parts);
        async move {
            let records = read_to_end(&cache, parts, reader * 20, 150_000).await;
            assert_eq!(records.len() as u64, 512 - reader * 20);
            assert!(cache.cached_bytes().await <= (1 << 20) + (16 << 10));
            // By its own account, and counted.
            let bytes: usize = cache.inner.blocks.iter().map(|(_, block)| block.memory_bytes()).sum();
            assert!(bytes <= 1 << 20, "{bytes} bytes of blocks");
        }
    });
    join_all(readers).await;
    probe.with(|state| {
        assert!(state.in_flight_bytes_max <= 256 << 10, "{} bytes in flight", state.in_flight_bytes_max);
        assert!(state.in_flight_max <= 7, "{} GETs in flight", state.in_flight_max);
    });
    cache.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn read_ahead_wins_against_blocks_that_were_popular() {
    let probe = Probe::default();
    let popular = blocks(&probe, 1, 0..20, 50_000).await;
    let located = blocks(&probe, 2, 0..200, 50_000).await;
    let cache = cache(&probe, Options { cache_bytes: 1 << 20, ..options() });
    for _ in 0..20 {
        read_to_end(&cache, &[popular], 0, 100_000).await;
    }
    probe.with(|state| {
        state.latency = Duration::from_millis(5);
        state.gets.clear();
    });
    assert_eq!(read_to_end(&cache, &[located], 0, 50_000).await.len(), 200);
    let mut gets = probe.with(|state| state.gets.split_off(1));
    gets.sort_by_key(|(_, range)| range.start);
    assert!(
        gets.windows(2).all(|pair| pair[0].1.end <= pair[1].1.start),
        "fetched, refused by the cache, fetched"
    );
    assert!(gets.len() < 100, "{} GETs", gets.len());
    cache.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_get_larger_than_the_budget_still_goes_through() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..2, 50_000).await;
    let cache = cache(&probe, Options { in_flight_bytes_max: 10_000, cache_bytes: 10_000, ..options() });
    assert_eq!(read_to_end(&cache, &[located], 0, 1).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_harms_nobody() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..4, 5000).await;
    let cache = cache(&probe, options());
    cache.read(&[located], 3, 1).await.unwrap();
    probe.with(|state| {
        state.latency = Duration::from_secs(1);
        state.gets.clear();
    });
    // The first to ask, and so the one who drives the GET, leaves in the middle.
    let first = tokio::spawn({
        let cache = cache.clone();
        async move { cache.read(&[located], 0, 1).await.map(|_| ()) }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let second = tokio::spawn({
        let cache = cache.clone();
        async move { cache.read(&[located], 0, 1).await.map(Fetched::into_records) }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    first.abort();
    assert_eq!(second.await.unwrap().unwrap(), [record(0, 5000)]);
    assert_eq!(probe.gets(), 1);
    // The only one who waits leaves: the GET ends, and the next reader has one of its own.
    let lonely = cache.read(std::slice::from_ref(&located), 1, 1);
    assert!(tokio::time::timeout(Duration::from_millis(10), lonely).await.is_err());
    assert_eq!(format!("{:?}", cache.inner.flights), "Flights { blocks: 0 }");
    assert_eq!(cache.read(&[located], 1, 1).await.unwrap().into_records(), [record(1, 5000)]);
    assert_eq!(probe.gets(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_and_leaves_nothing_behind() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..8, 5000).await;
    let cache = cache(&probe, options());
    probe.with(|state| state.always = Some(Fate::Refused));
    for read in join_all((0..8).map(|offset| cache.read(std::slice::from_ref(&located), offset, 1))).await {
        assert!(matches!(read, Err(Error::Unavailable { .. })));
    }
    probe.with(|state| state.always = None);
    assert_eq!(read_to_end(&cache, &[located], 0, 1).await.len(), 8);
}

#[tokio::test(start_paused = true)]
async fn shutdown_stops_read_ahead_and_reads_go_on() {
    let probe = Probe::default();
    let located = blocks(&probe, 1, 0..64, 60_000).await;
    probe.with(|state| state.latency = Duration::from_secs(5));
    let cache = cache(&probe, options());
    for offset in 0..2 {
        cache.read(&[located], offset, 1).await.unwrap();
    }
    tokio::task::yield_now().await;
    assert_eq!(cache.inner.tasks.len(), 1);
    let before = tokio::time::Instant::now();
    cache.shutdown().await;
    assert!(before.elapsed() < Duration::from_secs(1), "shutdown does not wait for GETs");
    assert_eq!(read_to_end(&cache, &[located], 2, 1).await.len(), 62);
    assert!(cache.inner.tasks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bodies_are_slices_of_cached_blocks() {
    let probe = Probe::default();
    let records: Vec<_> = (0..10).map(|base| record(base, 500)).collect();
    let located = put(&probe, 1, 1 << 20, &records).await;
    let cache = cache(&probe, options());
    let first = cache.read(&[located], 2, 1500).await.unwrap();
    let second = cache.read(&[located], 2, 1500).await.unwrap();
    assert_eq!(first.slices().len(), 1, "one slice over all records");
    assert_eq!((first.slices()[0].base(), first.slices()[0].end()), (2, 5));
    let (first, second) = (first.slices()[0].bodies(), second.slices()[0].bodies());
    assert_eq!((first.len(), first.as_ptr()), (1500, second.as_ptr()));
}

#[test]
fn a_piece_does_not_keep_its_neighbours_alive() {
    let chunk = Bytes::from(vec![1u8; 1000]);
    let range = chunk.as_ptr() as usize..chunk.as_ptr() as usize + 1000;
    let pieces = fetch::cut(&[400, 600], [chunk.clone()]).unwrap();
    assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [400, 600]);
    assert!(pieces.iter().all(|piece| !range.contains(&(piece.as_ptr() as usize))));
    let (a, b) = (Bytes::from(vec![1u8; 4]), Bytes::from(vec![2u8; 6]));
    let pointers = [a.as_ptr(), b.as_ptr()];
    let pieces = fetch::cut(&[4, 6], [a, b]).unwrap();
    assert_eq!([pieces[0].as_ptr(), pieces[1].as_ptr()], pointers, "what fits is not copied");
    assert!(fetch::cut(&[4], [Bytes::from(vec![0; 5])]).is_err());
    assert!(fetch::cut(&[4, 1], [Bytes::from(vec![0; 4])]).is_err());
}

/// A stream with gaps over several objects, each clipped somewhere.
#[derive(Clone, Debug)]
struct Layout {
    objects: Vec<Clipped>,
    block_bytes: usize,
}

/// Records (base, end, timestamp, body bytes), and what of them the metadata still names.
type Clipped = (Vec<(u64, u64, i64, usize)>, u64, u64);

prop_compose! {
    fn layouts()(
        objects in prop::collection::vec(
            (prop::collection::vec((0u64..3, 1u64..4, 0i64..50, 0usize..300), 1..12), 0usize..4, 0usize..4),
            1..6,
        ),
        block_bytes in 1usize..900,
    ) -> Layout {
        let mut next = 0;
        let objects = objects
            .into_iter()
            .map(|(steps, cut_front, cut_back)| {
                let records: Vec<_> = steps
                    .into_iter()
                    .map(|(gap, len, timestamp, bytes)| {
                        let base = next + gap;
                        next = base + len;
                        (base, next, timestamp, bytes)
                    })
                    .collect();
                let first = cut_front.min(records.len() - 1);
                let last = records.len() - 1 - cut_back.min(records.len() - 1 - first);
                (records.clone(), records[first].0, records[last].1)
            })
            .collect();
        Layout { objects, block_bytes }
    }
}

async fn build(probe: &Probe, layout: &Layout) -> (Vec<Located>, Vec<Vec<StreamRecord>>) {
    let mut parts = Vec::new();
    let mut model = Vec::new();
    for (counter, (rows, base, end)) in layout.objects.iter().enumerate() {
        let records: Vec<_> = rows
            .iter()
            .map(|&(base, end, max_timestamp, len)| StreamRecord { end, max_timestamp, ..record(base, len) })
            .collect();
        let mut located = put(probe, counter as u64, layout.block_bytes, &records).await;
        (located.part.base, located.part.end) = (*base, *end);
        parts.push(located);
        model.push(records.into_iter().filter(|record| record.base >= *base && record.end <= *end).collect());
    }
    (parts, model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn reads_equal_the_model(layout in layouts(), from in 0u64..120, max_bytes in 0usize..1500, tail_bytes in 1u64..2000, cache_bytes in 0u64..4000, timestamp in 0i64..60) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let probe = Probe::default();
            let (parts, model) = build(&probe, &layout).await;
            let options = Options { tail_bytes, cache_bytes, index_cache_bytes: cache_bytes, ..options() };
            let cache = cache(&probe, options);
            let expected: Vec<_> = model.iter().flatten().filter(|record| record.end > from).cloned().collect();
            assert_eq!(read_to_end(&cache, &parts, from, max_bytes).await, expected);

            let fetched = cache.read(&parts, from, max_bytes).await.unwrap();
            assert!(fetched.bytes() <= max_bytes || fetched.records().count() == 1);
            assert_eq!(fetched.is_empty(), expected.is_empty());
            assert_eq!(fetched.records().map(|record| record.body.len()).sum::<usize>(), fetched.bytes());
            for (located, records) in parts.iter().zip(&model) {
                let found = cache.find_timestamp(located, timestamp).await.unwrap();
                assert_eq!(found.as_ref(), records.iter().find(|record| record.max_timestamp >= timestamp));
                let largest = records.iter().map(|record| record.max_timestamp).max();
                let found = cache.find_max_timestamp(located).await.unwrap();
                assert_eq!(found.as_ref(), records.iter().find(|record| Some(record.max_timestamp) == largest));
            }
            cache.shutdown().await;
        });
    }
}

/// C4, for stores that are directories.
#[test]
fn a_file_is_read_in_pieces_of_their_own() {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..20_000).map(|at| (at % 251) as u8).collect();
    file.write_all(&bytes).unwrap();
    let pieces = fetch::read_pieces(&file, 100, &[9_000, 1, 10_000]).unwrap();
    let expected = [&bytes[100..9_100], &bytes[9_100..9_101], &bytes[9_101..19_101]];
    assert_eq!(pieces, expected);
    for piece in pieces {
        assert!(piece.try_into_mut().is_ok(), "a piece shares its memory");
    }
    let error = fetch::read_pieces(&file, 19_000, &[500, 501]).unwrap_err();
    assert!(error.contains("1 bytes early"), "{error}");
}
