//! What a medium brings to the suite, and the tools that the cases share.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::{AckRight, Append, Error, Incarnation, Medium, Meta, Position, Record, Recovered, Vacated, Wal};

/// Makes media for the cases.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A medium that nobody has owned yet.
    async fn fresh(&self) -> Arc<dyn Subject>;

    /// How many random histories [`run`](super::run) plays.
    fn model_seeds(&self) -> u64 {
        20
    }
}

/// What becomes of the writes that were under way when a process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    Lost,
    Kept,
    /// Each write is kept or lost by a coin that this seed tosses: holes.
    Some(u64),
}

/// Faults that not every medium has. A case that needs one is left out for media that do not support it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`Subject::hold`], [`Subject::held`], [`Subject::complete`], [`Subject::resume`].
    Hold,
    /// [`Subject::fail_next_write`].
    FailWrite,
    /// [`Subject::fail_next_flush`].
    FailFlush,
    /// [`Subject::lie`].
    Lie,
    /// Recovery fences a writer that knows nothing of it, without help of its right to acknowledge.
    Seals,
    /// The medium has a capacity, and the subject's is small (at most some MiB).
    Full,
}

/// One medium under test. It outlives processes.
#[async_trait]
pub trait Subject: Send + Sync {
    fn supports(&self, fault: Fault) -> bool;

    /// The medium as a process finds it that starts now. Called again after each crash, and for recoverers that run
    /// beside a living writer.
    async fn medium(&self) -> Arc<dyn Medium>;

    /// The writing process dies, whatever it was doing. Held writes are resolved as `in_flight` says, and nothing is
    /// held, failed or lied about from here on. Returns once the dead process can write no more.
    async fn crash(&self, in_flight: InFlight);

    /// The largest record (meta and body) that the medium takes.
    fn record_bytes_max(&self) -> usize;

    /// From here on writes reach the medium but do not complete.
    fn hold(&self) {}

    /// How many writes are held. One write may carry several records.
    fn held(&self) -> usize {
        0
    }

    /// Completes the `nth` oldest held write (0 is the oldest).
    fn complete(&self, _nth: usize) {}

    /// Completes what is held and holds no more.
    fn resume(&self) {}

    /// The next write fails, for good.
    fn fail_next_write(&self) {}

    /// The next flush (or write that must be durable) fails although its bytes may have arrived.
    fn fail_next_flush(&self) {}

    /// While lying, writes are reported durable and get lost in a crash, as [`InFlight`] says, all the same.
    fn lie(&self, _lying: bool) {}
}

/// The broker whose lives the cases play.
pub const BROKER: u32 = 7;

/// How long a case waits for a state before it gives up. Never part of an assertion about speed.
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn life(epoch: u64) -> Incarnation {
    Incarnation { broker: BROKER, epoch }
}

/// A record whose every byte follows from `seed`.
pub(super) fn record(seed: u64, bytes: usize) -> Record {
    let mut random = StdRng::seed_from_u64(seed);
    let meta_bytes = random.random_range(0..=Meta::CAPACITY.min(bytes));
    let mut meta = [0u8; Meta::CAPACITY];
    random.fill_bytes(&mut meta[..meta_bytes]);
    let mut body = vec![0u8; bytes - meta_bytes];
    random.fill_bytes(&mut body);
    Record { kind: random.random(), meta: Meta::new(&meta[..meta_bytes]), body: Bytes::from(body) }
}

pub(super) fn records(seed: u64, count: usize, bytes_max: usize) -> Vec<Record> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|index| record(seed.wrapping_mul(1 << 20) + index as u64, random.random_range(0..=bytes_max)))
        .collect()
}

/// Opens a medium that nobody has owned.
pub(super) async fn open_new(subject: &dyn Subject, epoch: u64) -> Arc<dyn Wal> {
    open_with(subject, epoch, Vacated::new_medium(), Arc::new(AckRight::unlimited())).await
}

pub(super) async fn open_with(
    subject: &dyn Subject,
    epoch: u64,
    vacated: Vacated,
    right: Arc<AckRight>,
) -> Arc<dyn Wal> {
    subject.medium().await.open(life(epoch), vacated, right).await.expect("the medium opens")
}

/// Appends all and waits for all.
pub(super) async fn append_all(wal: &dyn Wal, records: &[Record]) -> Vec<Position> {
    let appends: Vec<Append> =
        records.iter().map(|record| wal.append(record.clone()).expect("room")).collect();
    let mut positions = Vec::new();
    for append in appends {
        positions.push(settled(append).await.expect("acknowledged"));
    }
    positions
}

/// The outcome of an append; panics rather than hang.
pub(super) async fn settled(append: Append) -> Result<Position, Error> {
    tokio::time::timeout(DEADLINE, append).await.expect("an append hangs")
}

pub(super) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Everything that a recovery of `epoch` from `from` yields, and the proof.
pub(super) async fn recover(
    subject: &dyn Subject,
    epoch: u64,
    from: Position,
) -> Result<(Vec<Recovered>, Vacated), Error> {
    let mut recovery = subject.medium().await.recover(life(epoch), from).await?;
    let mut batches: Vec<Recovered> = Vec::new();
    while let Some(batch) = recovery.next().await? {
        assert!(!batch.records.is_empty(), "a batch without records");
        assert!(batch.position >= from, "recovery started before {from:?}");
        let last = batches.last().map(|batch| batch.position);
        assert!(last.is_none_or(|last| last < batch.position), "recovered positions grow");
        batches.push(batch);
    }
    assert!(recovery.next().await?.is_none(), "the end is the end");
    Ok((batches, recovery.finish()))
}

/// The records of a recovery that must succeed.
pub(super) async fn recovered(subject: &dyn Subject, epoch: u64, from: Position) -> (Vec<Record>, Vacated) {
    let (batches, vacated) = recover(subject, epoch, from).await.expect("recovery");
    (batches.into_iter().flat_map(|batch| batch.records).collect(), vacated)
}

/// Compares without printing megabytes.
pub(super) fn assert_records(got: &[Record], expected: &[Record]) {
    for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            got == expected,
            "record {index} is another one: {} bytes, not {}",
            got.size(),
            expected.size()
        );
    }
    assert_eq!(got.len(), expected.len(), "number of records");
}

/// `got` is a prefix of `appended` that holds at least the first `acknowledged`.
pub(super) fn assert_prefix(got: &[Record], appended: &[Record], acknowledged: usize) {
    assert!(got.len() <= appended.len(), "recovery yields {} of {} records", got.len(), appended.len());
    assert!(got.len() >= acknowledged, "{} records recovered, {acknowledged} acknowledged", got.len());
    assert_records(got, &appended[..got.len()]);
}
