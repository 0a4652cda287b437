//! The planner by itself, and in a model of a bucket that it keeps in order: uploads arrive, jobs are carried out, retention
//! deletes; what is counted are the bounds that `docs/architecture.md` states.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wal::Incarnation;

use super::*;
use crate::StreamId;
use crate::compaction::sink::SINGLE_PIECES_MAX;
use crate::metadata::StreamPart;
use crate::upload::plan::share;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn id(counter: u64) -> ObjectId {
    ObjectId::Data { owner: Incarnation { broker: 1, epoch: 1 }, counter }
}

/// A bucket and what the metadata says about it, in numbers.
struct Model {
    config: Config,
    /// Of each stream its parts; an offset is a byte.
    streams: BTreeMap<StreamId, Vec<Located>>,
    counter: u64,
    uploaded: u64,
    rewritten: u64,
    /// Objects that were uploaded, each of them by one PUT.
    upload_puts: u64,
    /// Of compaction: GETs for blocks and indexes, PUTs, objects that were made.
    gets: u64,
    puts: u64,
    swaps: u64,
    reclaim: Reclaim,
    indexed: HashSet<ObjectId>,
}

impl Model {
    fn new(config: Config) -> Model {
        assert_eq!(config.validate(), Ok(()));
        Model {
            config,
            streams: BTreeMap::new(),
            counter: 0,
            uploaded: 0,
            rewritten: 0,
            upload_puts: 0,
            gets: 0,
            puts: 0,
            swaps: 0,
            reclaim: Reclaim::default(),
            indexed: HashSet::new(),
        }
    }

    /// One block of the log cache: so much of each stream.
    fn upload(&mut self, sizes: &[(u64, u64)]) {
        for object in share(sizes.to_vec(), |(_, bytes)| *bytes as usize, &self.config) {
            self.upload_puts += 1;
            self.counter += 1;
            let size: u64 = object.iter().map(|(_, bytes)| bytes + 92).sum();
            for (stream, bytes) in object {
                let stream = StreamId(stream);
                let parts = self.streams.entry(stream).or_default();
                let base = parts.last().map_or(0, |last| last.part.end);
                let part = StreamPart { stream, base, end: base + bytes, max_timestamp: 0, bytes };
                parts.push(Located { object: id(self.counter), object_size_bytes: size + 80, part });
                self.uploaded += bytes;
            }
        }
    }

    fn pass(&mut self) -> usize {
        let mut planner = Planner::new(&self.config, std::mem::take(&mut self.reclaim));
        for parts in self.streams.values() {
            planner.add(parts, |_| false, |_| true);
        }
        let (jobs, reclaim) = planner.finish();
        self.reclaim = reclaim;
        self.indexed.clear();
        for job in &jobs {
            self.carry_out(job);
        }
        jobs.len()
    }

    fn carry_out(&mut self, job: &Job) {
        let options = &self.config.compaction;
        assert!(job.parts() <= options.parts_max && job.runs.len() <= self.config.object_streams_max);
        let bytes: u64 = job.runs.iter().map(Run::bytes).sum();
        let sources: HashSet<_> =
            job.runs.iter().flat_map(|run| &run.parts).map(|located| located.object).collect();
        assert!(sources.len() <= options.sources_max);
        // An index is read once in a pass; a window of the object lies in each of its sources.
        self.gets += sources.iter().filter(|source| self.indexed.insert(**source)).count() as u64;
        let (mut window, mut of_window) = (0, HashSet::new());
        for located in job.runs.iter().flat_map(|run| &run.parts) {
            of_window.insert(located.object);
            window += located.part.bytes;
            if window >= options.memory_bytes / 4 {
                self.gets += of_window.len() as u64 + window / self.config.block_cache.get_bytes_max;
                (window, of_window) = (0, HashSet::new());
            }
        }
        self.gets += of_window.len() as u64;
        // With some for the index.
        let pieces = (bytes + bytes / 1000).div_ceil(options.piece_bytes);
        // So many are begun and completed.
        self.puts += if pieces > SINGLE_PIECES_MAX { pieces + 2 } else { 1 };
        self.swaps += 1;
        self.rewritten += bytes;
        self.counter += 1;
        let size = bytes + 92 * job.runs.len() as u64 + 80;
        for run in &job.runs {
            let (first, last) = (run.parts[0].part, run.parts[run.parts.len() - 1].part);
            let parts = self.streams.get_mut(&first.stream).unwrap();
            let at = parts.iter().position(|located| *located == run.parts[0]).unwrap();
            assert_eq!(parts[at..at + run.parts.len()], run.parts, "a run is what is there");
            let part = StreamPart { end: last.end, bytes: run.bytes(), ..first };
            let new = Located { object: id(self.counter), object_size_bytes: size, part };
            parts.splice(at..at + run.parts.len(), [new]);
        }
    }

    /// Passes until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            if self.pass() == 0 && self.reclaim.is_empty() {
                return;
            }
        }
        panic!("compaction never ends");
    }

    /// Deletes whole parts beyond what a stream may hold.
    fn retain(&mut self, bytes: u64) {
        for parts in self.streams.values_mut() {
            let mut held: u64 = parts.iter().map(|located| located.part.bytes).sum();
            let kept = parts.iter().position(|located| {
                held -= located.part.bytes;
                held < bytes
            });
            parts.drain(..kept.unwrap_or(0));
        }
    }

    fn check(&self) {
        for (stream, parts) in &self.streams {
            for pair in parts.windows(2) {
                assert_eq!(pair[0].part.end, pair[1].part.base, "{stream:?} has a gap or an overlap");
            }
            for located in parts {
                assert_eq!(located.part.end - located.part.base, located.part.bytes);
            }
        }
    }

    fn parts_max(&self) -> usize {
        self.streams.values().map(Vec::len).max().unwrap_or(0)
    }

    fn amplification(&self) -> f64 {
        self.rewritten as f64 / self.uploaded as f64
    }
}

/// A steady load: streams, and how much all of them get in a second.
struct Load {
    streams: u64,
    bytes_per_second: u64,
    uploads: u64,
    /// What the tiers promise.
    amplification_max: f64,
    tiers: u64,
}

/// The bounds of `docs/architecture.md`, for steady loads with the default settings.
#[test]
fn a_steady_load_keeps_the_stated_bounds() {
    let loads = [
        // 100 MB/s: blocks of 64 MiB, more than one a second.
        Load { streams: 1, bytes_per_second: 100_000_000, uploads: 400, amplification_max: 0.0, tiers: 0 },
        Load { streams: 10, bytes_per_second: 100_000_000, uploads: 400, amplification_max: 1.0, tiers: 1 },
        Load { streams: 100, bytes_per_second: 100_000_000, uploads: 1200, amplification_max: 2.0, tiers: 2 },
        Load {
            streams: 1000,
            bytes_per_second: 100_000_000,
            uploads: 1200,
            amplification_max: 2.0,
            tiers: 2,
        },
        // Slower ones: a block a minute.
        Load { streams: 1, bytes_per_second: 1_000_000, uploads: 400, amplification_max: 0.0, tiers: 0 },
        Load { streams: 10, bytes_per_second: 1_000_000, uploads: 400, amplification_max: 1.0, tiers: 1 },
        Load { streams: 1, bytes_per_second: 10 * KIB, uploads: 3000, amplification_max: 2.0, tiers: 2 },
        Load { streams: 1, bytes_per_second: KIB, uploads: 6000, amplification_max: 2.0, tiers: 2 },
        Load { streams: 1000, bytes_per_second: KIB, uploads: 1200, amplification_max: 4.0, tiers: 4 },
    ];
    println!("streams  bytes/s    write amp  parts/stream  parts/GiB+  compaction GETs, PUTs per GiB in");
    for load in loads {
        let mut model = Model::new(Config::default());
        let per_upload = (load.bytes_per_second * 60).min(model.config.upload_bytes as u64);
        // Streams are alike: some of many tell as much.
        let sizes: Vec<_> =
            (0..load.streams.min(25)).map(|stream| (stream, (per_upload / load.streams).max(1))).collect();
        let mut most = 0;
        let mut beyond = 0.0f64;
        for upload in 0..load.uploads {
            model.upload(&sizes);
            model.settle();
            // A prime: every phase of the tiers comes up.
            for parts in model.streams.values().filter(|_| upload % 7 == 0) {
                let bytes: u64 = parts.iter().map(|located| located.part.bytes).sum();
                let gib = bytes as f64 / GIB as f64;
                let bound = 32.0 * gib + 31.0 * load.tiers as f64 + 1.0;
                assert!(parts.len() as f64 <= bound, "{} parts, {gib} GiB", parts.len());
                if gib >= 1.0 {
                    beyond = beyond.max((parts.len() as f64 - 31.0 * load.tiers as f64) / gib);
                }
            }
            most = most.max(model.parts_max());
        }
        model.check();
        let gib = model.uploaded as f64 / GIB as f64;
        println!(
            "{:7} {:9} {:10.2} {:13} {:11.1} {:12.0} {:6.0}",
            load.streams,
            load.bytes_per_second,
            model.amplification(),
            most,
            beyond,
            model.gets as f64 / gib,
            model.puts as f64 / gib,
        );
        assert!(model.amplification() <= load.amplification_max, "{}", model.amplification());
    }
}

/// What a GiB costs an engine with an object WAL that gets all it can take, so that its slots and its blocks are full:
/// with the default settings, and from one stream to as many as a block has 32 KiB for each of.
#[test]
fn at_full_load_a_gib_takes_200_puts_at_most() {
    let slot_bytes = wal::object::Config::default().batch_bytes_max as u64;
    println!("streams  PUTs per GiB: slots  uploads  compaction  metadata   all");
    for streams in [1, 2, 3, 4, 7, 10, 16, 20, 23, 30, 33, 63, 64, 65, 100, 300, 2000] {
        let mut model = Model::new(Config::default());
        let block_bytes = model.config.upload_bytes as u64;
        let sizes: Vec<_> = (0..streams).map(|stream| (stream, block_bytes / streams)).collect();
        // Enough for the tiers to fill; what many streams have in theirs takes longest.
        let blocks = if streams < 1000 { 512 } else { 160 };
        for _ in 0..blocks {
            model.upload(&sizes);
            model.settle();
        }
        model.check();
        let gib = model.uploaded as f64 / GIB as f64;
        // A commit for each block, a swap for each object.
        let counts = [(GIB / slot_bytes) as f64 * gib, model.upload_puts as f64, model.puts as f64]
            .into_iter()
            .chain([(blocks + model.swaps) as f64])
            .map(|count| count / gib)
            .collect::<Vec<_>>();
        let all: f64 = counts.iter().sum();
        println!(
            "{streams:7} {:20.0} {:8.0} {:11.0} {:9.0} {all:5.0}",
            counts[0], counts[1], counts[2], counts[3]
        );
        assert!(all <= 200.0, "{all} PUTs per GiB of {streams} streams");
    }
}

/// A stream that wrote little and long ago must not keep large mixed objects alive.
#[test]
fn objects_of_which_little_is_left_are_emptied_once() {
    let mut model = Model::new(Config::default());
    let mut sizes: Vec<_> = (0..20).map(|stream| (stream, 3 * MIB)).collect();
    sizes.push((99, 1000));
    model.upload(&sizes);
    model.settle();
    let before = model.rewritten;
    assert_eq!(before, 0);
    (0..20).for_each(|stream| drop(model.streams.remove(&StreamId(stream))));
    model.settle();
    assert_eq!(model.rewritten, 1000);
    assert_eq!(model.streams[&StreamId(99)][0].object_size_bytes, 1000 + 92 + 80);
    model.settle();
    assert_eq!(model.rewritten, 1000, "once");
}

#[test]
fn what_is_damaged_is_left_out_and_the_rest_is_merged_around_it() {
    let mut model = Model::new(Config::default());
    (0..70).for_each(|_| model.upload(&[(1, 40 * KIB)]));
    let parts = &model.streams[&StreamId(1)];
    let mut planner = Planner::new(&model.config, Reclaim::default());
    planner.add(parts, |located| located.object == parts[32].object, |_| true);
    let (jobs, _) = planner.finish();
    let merged: Vec<_> = jobs.iter().flat_map(|job| &job.runs).map(|run| run.parts.clone()).collect();
    assert_eq!(merged, [parts[..32].to_vec(), parts[33..].to_vec()]);
    let runs: Vec<_> = jobs.iter().flat_map(|job| &job.runs).map(|run| run.may_be_cut).collect();
    assert_eq!(runs, [true, false]);
}

#[test]
fn small_runs_share_an_object_and_large_ones_do_not() {
    let config = Config { stream_object_bytes: MIB as usize, object_streams_max: 3, ..Config::default() };
    let mut model = Model::new(config);
    let sizes: Vec<_> = (0..5).map(|stream| (stream, if stream == 2 { 40 * KIB } else { KIB })).collect();
    (0..32).for_each(|_| model.upload(&sizes));
    let mut planner = Planner::new(&model.config, Reclaim::default());
    model.streams.values().for_each(|parts| {
        planner.add(parts, |_| false, |_| true);
    });
    let (jobs, _) = planner.finish();
    let streams: Vec<Vec<u64>> =
        jobs.iter().map(|job| job.runs.iter().map(|run| run.parts[0].part.stream.0).collect()).collect();
    assert_eq!(streams, [vec![2], vec![0, 1, 3], vec![4]]);
}

#[test]
fn jobs_are_bounded() {
    let compaction = Options { parts_max: 40, sources_max: 33, ..Options::default() };
    let mut model = Model::new(Config { compaction, ..Config::default() });
    (0..200).for_each(|_| model.upload(&[(1, 100), (2, 100)]));
    // Asserted for each job.
    model.settle();
    assert!(model.parts_max() < 33);
}

/// What happens to a model in one step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Upload(Vec<(u64, u64)>),
    Retain(u64),
    /// The n-th part of a stream cannot be read from now on, until it is repaired.
    Damage(u64, usize),
    Repair,
    /// Objects that were made last are not settled, so many of them.
    Unsettle(u64),
    /// Jobs succeed where the bit is set.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop::collection::vec((0..8u64, 1..3000u64), 1..4);
    prop_oneof![
        6 => sizes.prop_map(|sizes| {
            let sizes: BTreeMap<u64, u64> = sizes.into_iter().collect();
            Step::Upload(sizes.into_iter().collect())
        }),
        1 => (1_000..40_000u64).prop_map(Step::Retain),
        1 => (0..8u64, 0..10usize).prop_map(|(stream, nth)| Step::Damage(stream, nth)),
        1 => Just(Step::Repair),
        1 => (0..3u64).prop_map(Step::Unsettle),
        4 => any::<u64>().prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// C7.
    #[test]
    fn looking_at_what_changed_plans_what_a_walk_over_everything_does(steps in prop::collection::vec(step(), 1..80)) {
        let compaction = Options { fan_in: 4, full_bytes: 8192, object_bytes: 16_384, ..Options::default() };
        let config = Config { compaction, stream_object_bytes: 2048, object_streams_max: 3, ..Config::default() };
        let mut model = Model::new(config.clone());
        let (mut dirty, mut unread) = (std::collections::BTreeSet::new(), HashSet::new());
        let (mut unsettled, mut newest) = (0, 0);
        for step in steps {
            match step {
                Step::Upload(sizes) => {
                    model.upload(&sizes);
                    dirty.extend(sizes.iter().map(|(stream, _)| StreamId(*stream)));
                }
                Step::Retain(bytes) => {
                    let before = model.streams.clone();
                    model.retain(bytes);
                    let changed = |stream: &&StreamId| model.streams[*stream] != before[*stream];
                    dirty.extend(model.streams.keys().filter(changed).copied().collect::<Vec<_>>());
                }
                Step::Damage(stream, nth) => {
                    let part = model.streams.get(&StreamId(stream)).and_then(|parts| parts.get(nth));
                    // It is found by a job that reads it, which leaves the stream to be looked at.
                    if let Some(part) = part && dirty.contains(&StreamId(stream)) {
                        unread.insert((part.object, part.part.base));
                    }
                }
                Step::Repair => unread.clear(),
                Step::Unsettle(objects) => unsettled = objects,
                Step::Pass(succeed) => {
                    // What is settled stays so.
                    newest = newest.max(model.counter - unsettled.min(model.counter));
                    let is_settled = |object: ObjectId| {
                        matches!(object, ObjectId::Data { counter, .. } if counter <= newest)
                    };
                    let is_damaged = |part: &Located| unread.contains(&(part.object, part.part.base));
                    let plan = |streams: &mut dyn Iterator<Item = StreamId>| {
                        let mut planner = Planner::new(&config, Reclaim::default());
                        let mut left = Vec::new();
                        for stream in streams {
                            let parts = model.streams.get(&stream).map_or(&[][..], |parts| &parts[..]);
                            if planner.add(parts, is_damaged, is_settled) == Added::LeavesSomething {
                                left.push(stream);
                            }
                        }
                        (planner.finish().0, left)
                    };
                    let (jobs, left) = plan(&mut dirty.iter().copied());
                    prop_assert_eq!(&jobs, &plan(&mut model.streams.keys().copied()).0);
                    dirty = left.into_iter().collect();
                    for (at, job) in jobs.iter().enumerate() {
                        if succeed & (1 << (at % 64)) != 0 {
                            model.carry_out(job);
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the sizes: it ends, nothing is lost, closed segments are one part, and no byte is rewritten more often than
    /// twice for each tier.
    #[test]
    fn any_uploads_are_settled_within_the_bounds(
        uploads in prop::collection::vec(prop::collection::vec((0..5u64, 0..14u32, 1..100u64), 1..4), 1..120),
        retained in 1_000..100_000u64,
    ) {
        let compaction = Options {
            fan_in: 4,
            full_bytes: 4096,
            object_bytes: 16_384,
            memory_bytes: 4096,
            piece_bytes: 512,
            ..Options::default()
        };
        let config = Config { compaction, stream_object_bytes: 2048, object_streams_max: 3, ..Config::default() };
        let mut model = Model::new(config);
        let mut smallest = u64::MAX;
        for upload in uploads {
            let sizes: BTreeMap<u64, u64> =
                upload.into_iter().map(|(stream, power, times)| (stream, (1 << power) * times / 50 + 1)).collect();
            smallest = smallest.min(*sizes.values().min().unwrap());
            model.upload(&sizes.into_iter().collect::<Vec<_>>());
            model.settle();
            model.check();
            let options = &model.config.compaction;
            for parts in model.streams.values() {
                let full = |located: &Located| located.part.bytes >= options.full_bytes;
                let last_full = parts.iter().rposition(full).unwrap_or(0);
                let closed = parts[..last_full].windows(2).filter(|pair| !full(&pair[0]) && !full(&pair[1]));
                prop_assert_eq!(closed.count(), 0, "two parts that could be one");
            }
            model.retain(retained);
        }
        // Uploads that are full at once are never rewritten.
        let tiers = (tier(4095, 4) + 1).saturating_sub(tier(smallest, 4));
        prop_assert!(model.amplification() <= 2.0 * f64::from(tiers), "{}", model.amplification());
    }
}
