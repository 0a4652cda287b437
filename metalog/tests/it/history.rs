//! L1, L4, L5 and damage: what a replica makes of a log that is not what it expects.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faults::{Fault, Operation, Rule};
use futures::FutureExt;
use metalog::entry::{Entry, Nonce};
use metalog::{Config, Error, Replica};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use crate::clock::TestClock;
use crate::journal::{Journal, command};
use crate::rough::Rough;

const FOREVER: Duration = Duration::from_secs(1_000_000_000);

fn entry_path(number: u64) -> Path {
    format!("meta/log/{number:020}").into()
}

fn snapshot_path(number: u64) -> Path {
    format!("meta/snapshot/{number:020}").into()
}

async fn open(store: &Arc<Rough>, config: &Config) -> Result<Replica<Journal>, Error> {
    Replica::open(store.store(), config.clone(), Journal::default()).await
}

async fn propose_all(replica: &Replica<Journal>, commands: std::ops::Range<usize>) {
    for i in commands {
        replica.propose(command(0, i)).await.expect("a store that behaves");
    }
}

fn expect_corrupt<T: std::fmt::Debug>(result: Result<T, Error>, expected: &Path) {
    match result {
        Err(Error::Corrupt { object, .. }) => assert_eq!(object, expected.to_string()),
        other => panic!("expected damage at {expected}, not {other:?}"),
    }
}

/// Only looks for itself when it is told to.
fn idle() -> Config {
    Config { poll_interval: FOREVER, ..Config::default() }
}

/// A snapshot after every five entries, and nothing kept for long.
fn frequent() -> Config {
    Config {
        snapshot_entries: 5,
        view_age_max: Duration::from_secs(10),
        retention: Duration::from_secs(40),
        ..Config::default()
    }
}

async fn written(store: &Arc<Rough>, config: &Config, entries: usize) {
    let writer = open(store, config).await.unwrap();
    for i in 0..entries {
        writer.propose(command(0, i)).await.unwrap();
        // Snapshots are taken beside the appends; here each gets the time that it needs.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    writer.close().await;
}

fn expected(commands: usize) -> Vec<String> {
    (0..commands).map(|i| format!("0:{i}")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_missing_entry_in_the_middle_is_damage_not_the_end() {
    let store = Rough::new(0);
    written(&store, &Config::default(), 5).await;
    store.inner().delete(&entry_path(3)).await.unwrap();
    expect_corrupt(open(&store, &Config::default()).await, &entry_path(3));
    // However wide the gap is.
    store.inner().delete(&entry_path(4)).await.unwrap();
    expect_corrupt(open(&store, &Config::default()).await, &entry_path(3));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_meets_a_hidden_entry_stops() {
    let store = Rough::new(0);
    let writer = open(&store, &Config::default()).await.unwrap();
    let (config, clock) = (Config::default(), TestClock::new());
    let reader = Replica::open_with_clock(store.store(), config, clock, Journal::default()).await.unwrap();
    propose_all(&writer, 0..2).await;
    assert_eq!(reader.refresh().await.unwrap().number, 2);
    store.hide(&entry_path(3));
    // To the writer, entry 3 is the next: it need not read it. Entry 4 is somebody else's.
    writer.propose(command(0, 2)).await.unwrap();
    let third = store.inner().get(&entry_path(3)).await.unwrap().bytes().await.unwrap();
    let third = Entry::decode(third).unwrap();
    let fourth = Entry { number: 4, nonce: Nonce([4; 16]), predecessor: third.nonce, ..third };
    store.inner().put(&entry_path(4), fourth.encode().into()).await.unwrap();

    let failed = tokio::time::timeout(Duration::from_secs(60), reader.failed()).await;
    expect_corrupt::<()>(Err(failed.expect("the gap is noticed")), &entry_path(3));
    expect_corrupt(reader.propose(command(1, 0)).await, &entry_path(3));
    expect_corrupt(reader.refresh().await, &entry_path(3));
    let mut polls = reader.polls();
    // They end: no lease is renewed any more.
    while polls.changed().await.is_ok() {}
    assert_eq!(reader.view().number, 2);
}

#[tokio::test(start_paused = true)]
async fn a_writer_whose_number_exists_but_cannot_be_read_skips_nothing() {
    let store = Rough::new(0);
    let (first, second) = (open(&store, &idle()).await.unwrap(), open(&store, &idle()).await.unwrap());
    propose_all(&first, 0..2).await;
    store.hide(&entry_path(1));
    expect_corrupt(second.propose(command(1, 0)).await.map_err(flatten), &entry_path(1));
    expect_corrupt::<()>(Err(second.failed().await), &entry_path(1));

    /// What was sent is unknown to its proposer, whatever the reason.
    fn flatten(error: Error) -> Error {
        match error {
            Error::Unknown(detail) if detail.contains("it is missing, but") => {
                Error::Corrupt { object: entry_path(1).to_string(), detail }
            }
            other => other,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_entry_is_named_and_nothing_is_skipped() {
    let store = Rough::new(0);
    let reader = open(&store, &Config::default()).await.unwrap();
    written(&store, &Config::default(), 3).await;
    assert_eq!(reader.refresh().await.unwrap().number, 3);
    let mut damaged = store.inner().get(&entry_path(3)).await.unwrap().bytes().await.unwrap().to_vec();
    damaged[80] ^= 1;
    store.inner().put(&entry_path(4), damaged.clone().into()).await.unwrap();
    expect_corrupt(reader.refresh().await, &entry_path(4));
    expect_corrupt::<()>(Err(reader.failed().await), &entry_path(4));
    expect_corrupt(open(&store, &Config::default()).await, &entry_path(4));

    // An intact entry under another number is no better.
    let third = store.inner().get(&entry_path(3)).await.unwrap().bytes().await.unwrap();
    store.inner().put(&entry_path(4), third.into()).await.unwrap();
    expect_corrupt(open(&store, &Config::default()).await, &entry_path(4));

    // Nor is one that is too large to be believed.
    store.inner().put(&entry_path(4), PutPayload::from(vec![0; (16 << 20) + 1])).await.unwrap();
    expect_corrupt(open(&store, &Config::default()).await, &entry_path(4));
}

/// L4.
#[tokio::test(start_paused = true)]
async fn a_reader_of_another_history_starts_over() {
    let store = Rough::new(0);
    written(&store, &Config::default(), 2).await;
    let reader = open(&store, &idle()).await.unwrap();
    store.inner().delete(&entry_path(2)).await.unwrap();
    let writer = open(&store, &idle()).await.unwrap();
    propose_all(&writer, 7..10).await;
    assert_eq!(reader.refresh().await.unwrap().machine.commands(), ["0:0", "0:7", "0:8", "0:9"]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_went_back_is_damage() {
    let store = Rough::new(0);
    written(&store, &Config::default(), 3).await;
    let clock = TestClock::new();
    let reader =
        Replica::open_with_clock(store.store(), idle(), clock.clone(), Journal::default()).await.unwrap();
    store.inner().delete(&entry_path(3)).await.unwrap();
    clock.add(Duration::from_secs(60));
    expect_corrupt(reader.refresh().await, &entry_path(3));
}

/// L4: an entry whose predecessor is not the one before it, in a log that is read for the first time.
#[tokio::test(start_paused = true)]
async fn entries_of_two_histories_are_damage() {
    let store = Rough::new(0);
    written(&store, &Config::default(), 2).await;
    let stranger = Entry {
        number: 3,
        nonce: Nonce([1; 16]),
        predecessor: Nonce([2; 16]),
        time_ms: 0,
        issuer: None,
        commands: vec![Bytes::from_static(b"never")],
    };
    store.inner().put(&entry_path(3), stranger.encode().into()).await.unwrap();
    expect_corrupt(open(&store, &Config::default()).await, &entry_path(3));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shortens_the_replay() {
    let store = Rough::new(0);
    written(&store, &Config { snapshot_entries: 5, ..Config::default() }, 12).await;
    assert!(store.inner().head(&snapshot_path(5)).await.is_ok());
    assert!(store.inner().head(&snapshot_path(10)).await.is_ok());
    let before = store.faulty.counts().gets;
    let reader = open(&store, &idle()).await.unwrap();
    assert_eq!(reader.view().machine.commands(), expected(12));
    // The snapshot, entries 11 and 12, the missing 13 (and 14, read ahead), and a look at both sides of the tail.
    assert!(store.faulty.counts().gets - before <= 8, "{} reads", store.faulty.counts().gets - before);
}

#[tokio::test(start_paused = true)]
async fn a_log_without_snapshots_is_due_for_one_when_it_is_opened() {
    let store = Rough::new(0);
    written(&store, &Config::default(), 12).await;
    let config = Config { snapshot_entries: 6, ..Config::default() };
    let reader = open(&store, &config).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    reader.close().await;
    assert!(store.inner().head(&snapshot_path(12)).await.is_ok());
}

async fn damage(store: &Arc<Rough>, path: &Path) {
    let mut bytes = store.inner().get(path).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    store.inner().put(path, bytes.into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_passed_over() {
    let store = Rough::new(0);
    written(&store, &Config { snapshot_entries: 5, ..Config::default() }, 12).await;
    damage(&store, &snapshot_path(10)).await;
    assert_eq!(open(&store, &idle()).await.unwrap().view().machine.commands(), expected(12));
    damage(&store, &snapshot_path(5)).await;
    assert_eq!(open(&store, &idle()).await.unwrap().view().machine.commands(), expected(12));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_of_another_history_is_passed_over() {
    let store = Rough::new(0);
    written(&store, &Config { snapshot_entries: 5, ..Config::default() }, 10).await;
    let bytes = store.inner().get(&snapshot_path(5)).await.unwrap().bytes().await.unwrap();
    let mut snapshot = metalog::snapshot::Snapshot::decode(bytes).unwrap();
    for number in [9, 10] {
        (snapshot.number, snapshot.nonce) = (number, Nonce([9; 16]));
        store.inner().put(&snapshot_path(number), snapshot.encode().into_iter().collect()).await.unwrap();
    }
    assert_eq!(open(&store, &idle()).await.unwrap().view().machine.commands(), expected(10));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_proves_how_far_the_log_reaches() {
    let store = Rough::new(0);
    written(&store, &Config { snapshot_entries: 5, ..Config::default() }, 10).await;
    damage(&store, &snapshot_path(10)).await;
    for number in 8..=10 {
        store.inner().delete(&entry_path(number)).await.unwrap();
    }
    expect_corrupt(open(&store, &idle()).await, &entry_path(8));
}

#[tokio::test(start_paused = true)]
async fn old_entries_and_snapshots_go_in_order_and_late() {
    let store = Rough::new(0);
    // One entry a second, a snapshot every fifth, kept for forty seconds.
    written(&store, &frequent(), 100).await;
    let deleted = store.deleted();
    let mut entries: Vec<_> = deleted.iter().filter(|path| path.as_ref().contains("log")).cloned().collect();
    let in_order = entries.clone();
    entries.sort();
    assert_eq!(entries, in_order);
    let last = entries.len() as u64;
    // The run before snapshot 100 was taken knew 90 and 95, and compared with the time of 95.
    assert!((50..=55).contains(&last), "{last} entries deleted");
    assert_eq!(entries, (1..=last).map(entry_path).collect::<Vec<_>>());
    let snapshots = store.inner().list_with_delimiter(Some(&"meta/snapshot".into())).await.unwrap().objects;
    let names: Vec<_> = snapshots.into_iter().map(|meta| meta.location).collect();
    assert_eq!(names, [90, 95, 100].map(snapshot_path));
    assert!(store.inner().head(&"meta/trimmed".into()).await.is_ok());

    assert_eq!(open(&store, &idle()).await.unwrap().view().machine.commands(), expected(100));
    damage(&store, &snapshot_path(100)).await;
    damage(&store, &snapshot_path(95)).await;
    assert_eq!(open(&store, &idle()).await.unwrap().view().machine.commands(), expected(100));
    damage(&store, &snapshot_path(90)).await;
    expect_corrupt(open(&store, &idle()).await, &"meta/trimmed".into());
}

#[tokio::test(start_paused = true)]
async fn retention_begins_where_it_stopped() {
    let store = Rough::new(0);
    written(&store, &frequent(), 100).await;
    let writer = open(&store, &frequent()).await.unwrap();
    let before = store.faulty.counts().gets;
    propose_all(&writer, 100..105).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(store.inner().head(&snapshot_path(105)).await.is_ok());
    // Five or so entries that may go and the first that may not, not the fifty that went; two snapshots; commits.
    assert!(store.faulty.counts().gets - before < 30, "{} reads", store.faulty.counts().gets - before);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_on_the_word_of_a_damaged_snapshot() {
    let store = Rough::new(0);
    let config = frequent();
    let writer = open(&store, &config).await.unwrap();
    for i in 0..100 {
        writer.propose(command(0, i)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if i % 5 == 4 {
            damage(&store, &snapshot_path(i as u64 + 1)).await;
        }
    }
    assert_eq!(store.deleted(), []);
    writer.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_trimmed_log_without_snapshots_is_not_an_empty_one() {
    let store = Rough::new(0);
    written(&store, &frequent(), 100).await;
    for number in [90, 95, 100] {
        store.inner().delete(&snapshot_path(number)).await.unwrap();
    }
    expect_corrupt(open(&store, &idle()).await, &"meta/trimmed".into());
}

/// A reader that is slower than retention: what the listing named is gone when it is read.
#[tokio::test(start_paused = true)]
async fn a_load_that_is_overtaken_by_retention_starts_over() {
    let store = Rough::new(0);
    written(&store, &Config { snapshot_entries: 5, ..Config::default() }, 20).await;
    let bytes = store.inner().get(&snapshot_path(20)).await.unwrap().bytes().await.unwrap();
    for number in 15..=20 {
        store.inner().delete(&snapshot_path(number)).await.unwrap();
    }
    let inner = store.inner().clone();
    store.before_next_get(&snapshot_path(10), move || {
        let now = |done: Option<object_store::Result<()>>| done.expect("memory does not wait").unwrap();
        now(inner.put(&snapshot_path(20), bytes.into()).map(|put| put.map(drop)).now_or_never());
        for number in 1..=15 {
            now(inner.delete(&snapshot_path(number)).now_or_never());
            now(inner.delete(&entry_path(number)).now_or_never());
        }
        now(inner.put(&"meta/trimmed".into(), "".into()).map(|put| put.map(drop)).now_or_never());
    });
    let reader = open(&store, &idle()).await.unwrap();
    assert_eq!(reader.view().machine.commands(), expected(20));
}

/// Somebody who slept at entry `at`, clock and all, while the log went on to entry 20 and lost everything below 15.
struct Slept {
    store: Arc<Rough>,
    clock: Arc<TestClock>,
    sleeper: Replica<Journal>,
    /// Entries 1 and 2 as they were.
    first: Vec<Entry>,
}

async fn slept(at: u64) -> Slept {
    let (store, clock) = (Rough::new(0), TestClock::new());
    let open_sleeper = || {
        Replica::open_with_clock(store.store(), idle(), clock.clone(), Journal::default()).map(Result::unwrap)
    };
    clock.stop();
    let mut sleeper = open_sleeper().await;
    let writer = open(&store, &Config { snapshot_entries: 5, ..idle() }).await.unwrap();
    propose_all(&writer, 0..2).await;
    if at > 0 {
        assert_eq!(at, 2);
        sleeper = open_sleeper().await;
    }
    let mut first = Vec::new();
    for number in [1, 2] {
        let bytes = store.inner().get(&entry_path(number)).await.unwrap().bytes().await.unwrap();
        first.push(Entry::decode(bytes).unwrap());
    }
    for i in 2..20 {
        propose_all(&writer, i..i + 1).await;
        // Snapshots are taken beside the appends; here each gets the time that it needs.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    writer.close().await;
    for number in 1..15 {
        store.inner().delete(&entry_path(number)).await.unwrap();
    }
    store.inner().put(&"meta/trimmed".into(), "".into()).await.unwrap();
    Slept { store, clock, sleeper, first }
}

impl Slept {
    /// What another one created that slept at entry 2: not believed, but there.
    fn ghost(&self) -> Entry {
        Entry {
            number: 3,
            nonce: Nonce([9; 16]),
            predecessor: self.first[1].nonce,
            time_ms: 0,
            issuer: None,
            commands: vec![Bytes::from_static(b"ghost")],
        }
    }

    /// The proposal must not be believed, and is not in the log.
    async fn assert_unknown_and_nowhere(&self, which: usize) {
        match self.sleeper.propose(command(1, which)).await {
            Err(Error::Unknown(_)) => {}
            other => panic!("a create of a deleted number was believed: {other:?}"),
        }
        let reader = open(&self.store, &idle()).await.unwrap();
        assert_eq!(reader.view().machine.commands(), expected(20));
    }

    async fn assert_back_at_the_tail(&self) {
        let applied = self.sleeper.propose(command(1, 99)).await.unwrap();
        assert_eq!((applied.number, applied.outcome), (21, 20));
    }
}

/// L5: even if its clock stood still with it, a writer that slept until its number was used and deleted does not
/// take its create for a commit.
#[tokio::test(start_paused = true)]
async fn a_sleeper_cannot_commit_a_deleted_number() {
    let slept = slept(2).await;
    slept.assert_unknown_and_nowhere(0).await;
    slept.assert_back_at_the_tail().await;
}

/// L5, at the very beginning of the log, where no predecessor can be looked for.
#[tokio::test(start_paused = true)]
async fn a_sleeper_from_before_the_first_entry_cannot_commit() {
    let slept = slept(0).await;
    slept.assert_unknown_and_nowhere(0).await;
    slept.assert_back_at_the_tail().await;
}

/// L5: a sleeper that only reads does not take a deleted number for the tail.
#[tokio::test(start_paused = true)]
async fn a_sleeper_does_not_take_a_hole_for_the_tail() {
    for at in [0, 2] {
        let slept = slept(at).await;
        slept.clock.add(Config::default().verify_interval);
        assert_eq!(slept.sleeper.refresh().await.unwrap().machine.commands(), expected(20));
        slept.assert_back_at_the_tail().await;
    }
}

/// L5: nor does it believe what another sleeper created there.
#[tokio::test(start_paused = true)]
async fn a_sleeper_does_not_read_a_ghost() {
    let slept = slept(2).await;
    slept.store.inner().put(&entry_path(3), slept.ghost().encode().into()).await.unwrap();
    slept.clock.add(Config::default().verify_interval);
    assert_eq!(slept.sleeper.refresh().await.unwrap().machine.commands(), expected(20));
    slept.assert_back_at_the_tail().await;
}

/// The header of the predecessor is read without a checksum; damage on the way must not be taken for another history.
#[tokio::test(start_paused = true)]
async fn a_predecessor_that_was_damaged_on_the_way_still_stands() {
    let store = Rough::new(1);
    let writer = open(&store, &idle()).await.unwrap();
    propose_all(&writer, 0..2).await;
    // A bit of the nonce.
    let flip = Rule::new(Operation::Get, Fault::FlipBit(16 * 8)).under(entry_path(2).as_ref()).times(1);
    store.faulty.add(flip);
    assert_eq!(writer.propose(command(0, 2)).await.expect("it is in the log").number, 3);
    assert_eq!(writer.view().machine.commands(), expected(3));
}

/// L5: the age of the view is looked at again after a create, because the sleep may have been in the middle of it.
/// Here a late duplicate of entry 2 makes the predecessor stand again.
#[tokio::test(start_paused = true)]
async fn a_writer_that_slept_during_its_create_does_not_believe_it() {
    let slept = slept(2).await;
    slept.store.inner().put(&entry_path(2), slept.first[1].encode().into()).await.unwrap();
    let clock = slept.clock.clone();
    slept.store.before_next_put(move || clock.add(Config::default().view_age_max + Duration::from_secs(1)));
    slept.assert_unknown_and_nowhere(0).await;
    slept.assert_back_at_the_tail().await;
}

/// L3, L5: nor that it lost, if another sleeper's entry lies there. Its own may have been the first one, and be deleted: then
/// its command is in the log, and must not be sent again.
#[tokio::test(start_paused = true)]
async fn a_writer_that_slept_during_its_create_does_not_repeat_it() {
    let slept = slept(2).await;
    slept.store.inner().put(&entry_path(3), slept.ghost().encode().into()).await.unwrap();
    let clock = slept.clock.clone();
    slept.store.before_next_put(move || clock.add(Config::default().view_age_max + Duration::from_secs(1)));
    slept.assert_unknown_and_nowhere(0).await;
    slept.assert_back_at_the_tail().await;
}

/// L5: a view that is too old is loaded anew before anything is made of it, whatever seems to stand.
#[tokio::test(start_paused = true)]
async fn a_view_that_is_too_old_is_not_appended_to() {
    let slept = slept(2).await;
    slept.store.inner().put(&entry_path(2), slept.first[1].encode().into()).await.unwrap();
    slept.clock.add(Config::default().view_age_max + Duration::from_secs(1));
    slept.assert_back_at_the_tail().await;
    assert!(slept.store.inner().head(&entry_path(3)).await.is_err(), "a deleted number was created again");
}

/// L5: nor is it read on from, not even for a moment.
#[tokio::test(start_paused = true)]
async fn a_view_that_is_too_old_is_not_read_on_from() {
    let slept = slept(2).await;
    slept.store.inner().put(&entry_path(2), slept.first[1].encode().into()).await.unwrap();
    slept.store.inner().put(&entry_path(3), slept.ghost().encode().into()).await.unwrap();
    slept.clock.add(Config::default().view_age_max + Duration::from_secs(1));
    let sleeper = slept.sleeper.clone();
    // The next read after the ghost, if it is read.
    slept.store.before_next_get(&entry_path(4), move || {
        assert_eq!(sleeper.view().number, 2, "a ghost was published");
    });
    assert_eq!(slept.sleeper.refresh().await.unwrap().machine.commands(), expected(20));
}

/// L5: nor is a 404 believed that came after a sleep in the middle of reading.
#[tokio::test(start_paused = true)]
async fn a_reader_that_slept_while_it_read_starts_over() {
    let slept = slept(2).await;
    let clock = slept.clock.clone();
    slept.store.before_next_get(&entry_path(3), move || {
        clock.add(Config::default().view_age_max + Duration::from_secs(1))
    });
    assert_eq!(slept.sleeper.refresh().await.unwrap().machine.commands(), expected(20));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_named_and_nothing_is_lost() {
    let store = Rough::new(0);
    let replica = open(&store, &Config::default()).await.unwrap();
    propose_all(&replica, 0..3).await;
    store.faulty.set_outage(true);
    match replica.propose(command(0, 3)).await {
        Err(Error::Unknown(detail)) => assert!(detail.contains("503"), "{detail}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(replica.refresh().await, Err(Error::Unavailable(_))));
    assert!(matches!(open(&store, &Config::default()).await, Err(Error::Unavailable(_))));
    store.faulty.heal();
    propose_all(&replica, 4..6).await;
    let commands = replica.view().machine.commands();
    assert_eq!(commands, ["0:0", "0:1", "0:2", "0:4", "0:5"]);
    replica.close().await;
}

/// L3: a command whose proposer was told that its outcome is unknown is never sent again; what was sent may land.
#[tokio::test(start_paused = true)]
async fn a_command_of_unknown_outcome_takes_effect_once_or_never() {
    for lands in [false, true] {
        let store = Rough::new(0);
        let replica = open(&store, &idle()).await.unwrap();
        propose_all(&replica, 0..1).await;
        let fault = if lands { Fault::Late } else { Fault::Conflict };
        // The one put that comes through is late or lost; nothing else is answered.
        store.faulty.add(Rule::new(Operation::Put, fault).times(1));
        store.faulty.add(Rule::new(Operation::Put, Fault::Refuse));
        store.faulty.add(Rule::new(Operation::Get, Fault::Refuse));
        assert!(matches!(replica.propose(command(1, 0)).await, Err(Error::Unknown(_))));
        assert_eq!(store.faulty.land_late().await, usize::from(lands));
        store.faulty.heal();
        propose_all(&replica, 1..3).await;
        let mut commands = replica.view().machine.commands();
        let before = commands.len();
        commands.retain(|command| command != "1:0");
        assert_eq!(commands, expected(3));
        assert_eq!(before - commands.len(), usize::from(lands));
    }
}

/// Closing does not wait for a store that does not answer longer than one request takes.
#[tokio::test(start_paused = true)]
async fn closing_answers_what_was_sent_as_unknown_and_what_was_not_as_closed() {
    let store = Rough::new(0);
    let config = Config { entry_bytes_max: 200, queue_bytes_max: 1000, ..idle() };
    let replica = open(&store, &config).await.unwrap();
    store.faulty.add(Rule::new(Operation::Put, Fault::Hang));
    store.faulty.add(Rule::new(Operation::Get, Fault::Hang));
    let large = || Bytes::from(vec![b'x'; config.command_bytes_max()]);
    let first = tokio::spawn({
        let (replica, large) = (replica.clone(), large());
        async move { replica.propose(large).await }
    });
    while store.faulty.counts().puts == 0 {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn({
        let (replica, large) = (replica.clone(), large());
        async move { replica.propose(large).await }
    });
    tokio::task::yield_now().await;
    replica.close().await;
    assert!(matches!(first.await.unwrap(), Err(Error::Unknown(_))));
    assert_eq!(second.await.unwrap(), Err(Error::Closed));
}

#[tokio::test(start_paused = true)]
async fn an_inner_store_is_enough() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let replica = Replica::open(store, idle(), Journal::default()).await.unwrap();
    assert_eq!(replica.propose(command(0, 0)).await.unwrap().number, 1);
}
