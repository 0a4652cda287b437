//! One or a few replicas over a store that behaves.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use bytes::Bytes;
use faults::{Fault, FaultStore, Operation, Rule};
use metalog::{Applying, Clock, Config, Error, Issuer, Machine, Replica};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};

use crate::clock::TestClock;
use crate::journal::{Journal, command};

async fn open(store: &Arc<dyn ObjectStore>, config: Config) -> Replica<Journal> {
    Replica::open(store.clone(), config, Journal::default()).await.expect("the log opens")
}

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

const LATE: Duration = Duration::from_millis(60);

/// A store that answers after [`LATE`].
fn late() -> Arc<dyn ObjectStore> {
    let config = ThrottleConfig {
        wait_get_per_call: LATE,
        wait_put_per_call: LATE,
        wait_list_per_call: LATE,
        ..ThrottleConfig::default()
    };
    Arc::new(ThrottledStore::new(InMemory::new(), config))
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_opens_and_stays_empty() {
    let store = memory();
    let replica = open(&store, Config::default()).await;
    assert_eq!(replica.view().number, 0);
    assert_eq!(replica.refresh().await.unwrap().number, 0);
    replica.close().await;
    assert_eq!(store.list_with_delimiter(None).await.unwrap().common_prefixes, []);
}

#[tokio::test(start_paused = true)]
async fn a_proposal_is_answered_once_it_is_in_the_view() {
    let store = memory();
    let replica = open(&store, Config::default()).await;
    for i in 0..5 {
        let applied = replica.propose(command(0, i)).await.unwrap();
        assert_eq!((applied.number, applied.outcome), (i as u64 + 1, i as u64));
        assert_eq!(replica.view().number, applied.number);
        assert_eq!(*replica.applied().borrow(), applied.number);
        assert_eq!(replica.polls().borrow().number, applied.number);
    }
    assert_eq!(replica.view().machine.commands(), ["0:0", "0:1", "0:2", "0:3", "0:4"]);
    replica.close().await;

    let again = open(&store, Config::default()).await;
    assert_eq!(again.view().machine.commands(), ["0:0", "0:1", "0:2", "0:3", "0:4"]);
    assert_eq!(again.view().machine.contexts(), replica.view().machine.contexts());
    again.close().await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_wait_share_an_entry() {
    let replica = open(&memory(), Config::default()).await;
    let proposals = (0..100).map(|i| replica.propose(command(0, i)));
    let applied = futures::future::try_join_all(proposals).await.unwrap();
    let mut outcomes: Vec<_> = applied.iter().map(|applied| applied.outcome).collect();
    outcomes.sort_unstable();
    assert!(outcomes.into_iter().eq(0..100));
    assert!(replica.view().number <= 4, "{} entries for a hundred commands", replica.view().number);
    replica.close().await;
}

#[tokio::test(start_paused = true)]
async fn commands_of_a_lost_race_go_into_the_next_entry_in_their_order() {
    let store = memory();
    let (first, second) = (open(&store, Config::default()).await, open(&store, Config::default()).await);
    first.propose(command(0, 0)).await.unwrap();
    // The second still believes that entry 1 is the next.
    let propose = |which| second.propose(command(1, which));
    let (a, b, c) = futures::join!(propose(0), propose(1), propose(2));
    assert_eq!(
        [a.unwrap(), b.unwrap(), c.unwrap()].map(|applied| (applied.number, applied.outcome)),
        [(2, 1), (2, 2), (2, 3)]
    );
    assert_eq!(second.view().machine.commands(), ["0:0", "1:0", "1:1", "1:2"]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_no_larger_than_configured() {
    let store = memory();
    let config = Config { entry_bytes_max: 1000, ..Config::default() };
    let limit_bytes = config.command_bytes_max();
    let replica = open(&store, config).await;
    let refused = replica.propose(Bytes::from(vec![b'x'; limit_bytes + 1])).await;
    assert_eq!(refused, Err(Error::TooLarge { bytes: limit_bytes + 1, limit_bytes }));

    let proposals = (0..10).map(|_| replica.propose(Bytes::from(vec![b'x'; limit_bytes])));
    futures::future::try_join_all(proposals).await.unwrap();
    assert_eq!(replica.view().number, 10);
    for listed in store.list_with_delimiter(Some(&"meta/log".into())).await.unwrap().objects {
        assert_eq!(listed.size, 1000);
    }
    replica.close().await;
}

#[tokio::test(start_paused = true)]
async fn others_see_an_entry_at_the_next_poll_at_a_hint_or_when_they_ask() {
    let store = memory();
    let (writer, reader) = (open(&store, Config::default()).await, open(&store, Config::default()).await);
    let mut applied = reader.applied();

    writer.propose(command(0, 0)).await.unwrap();
    applied.changed().await.unwrap();
    assert_eq!(*applied.borrow_and_update(), 1);

    let began = tokio::time::Instant::now();
    writer.propose(command(0, 1)).await.unwrap();
    reader.hint(2);
    applied.changed().await.unwrap();
    assert_eq!(*applied.borrow_and_update(), 2);

    writer.propose(command(0, 2)).await.unwrap();
    assert_eq!(reader.refresh().await.unwrap().number, 3);
    // Simulated time: neither needed a poll.
    assert_eq!(began.elapsed(), std::time::Duration::ZERO);
    writer.close().await;
    reader.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_was_false_costs_one_poll_and_hides_none_that_is_true() {
    let store = memory();
    let (writer, reader) = (open(&store, Config::default()).await, open(&store, Config::default()).await);
    let (mut applied, mut polls) = (reader.applied(), reader.polls());
    applied.borrow_and_update();
    polls.borrow_and_update();
    let began = tokio::time::Instant::now();
    reader.hint(u64::MAX);
    polls.changed().await.unwrap();
    polls.borrow_and_update();
    writer.propose(command(0, 0)).await.unwrap();
    reader.hint(1);
    applied.changed().await.unwrap();
    assert_eq!(*applied.borrow_and_update(), 1);
    // Simulated time: neither needed an interval, and the one that was false is looked for no more.
    assert_eq!(began.elapsed(), std::time::Duration::ZERO);
    polls.borrow_and_update();
    polls.changed().await.unwrap();
    assert!(!began.elapsed().is_zero());
    writer.close().await;
    reader.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_expected_is_found_when_it_is_there_and_costs_a_bounded_number_of_reads() {
    let counting = Arc::new(FaultStore::in_memory(1));
    let gets = || counting.counts().gets;
    let reading: Arc<dyn ObjectStore> = counting.clone();
    let (writer, reader) =
        (open(&counting.inner(), Config::default()).await, open(&reading, Config::default()).await);
    let mut applied = reader.applied();
    applied.borrow_and_update();
    let began = tokio::time::Instant::now();
    reader.expect(true);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(gets() > 2, "it is looked for before it is there");
    writer.propose(command(0, 0)).await.unwrap();
    applied.changed().await.unwrap();
    assert!(
        began.elapsed() < std::time::Duration::from_millis(150),
        "no hint, and no interval: {:?}",
        began.elapsed()
    );

    // Not for ever.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let polls = gets();
    assert!(polls < 60, "{polls}");
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(gets() < polls + 20, "only the usual polls are left");
    reader.expect(false);
    writer.close().await;
    reader.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_proposer_is_told_early_what_its_entry_will_have_done() {
    let store: Arc<dyn ObjectStore> = late();
    let replica = open(&store, Config::default()).await;
    replica.propose(command(0, 0)).await.unwrap();
    let (early, told) = tokio::sync::oneshot::channel();
    let began = tokio::time::Instant::now();
    let told = async {
        let outcome = told.await.unwrap();
        (outcome, began.elapsed(), replica.view().number)
    };
    let (answer, (outcome, after, known)) =
        futures::future::join(replica.propose_early(command(0, 1), early), told).await;
    assert_eq!(answer.unwrap().outcome, outcome);
    assert_eq!((after, known), (Duration::ZERO, 1), "as soon as it is sent, and before it is believed");
    assert_eq!(began.elapsed(), LATE * 2);
    replica.close().await;
}

/// Two that write in turn: neither waits for more than its own requests.
#[tokio::test(start_paused = true)]
async fn the_loser_of_a_race_tries_the_next_number_at_once() {
    let store: Arc<dyn ObjectStore> = late();
    let (first, second) = (open(&store, Config::default()).await, open(&store, Config::default()).await);
    first.propose(command(0, 0)).await.unwrap();
    let began = tokio::time::Instant::now();
    // The second still believes that entry 1 is the next.
    assert_eq!(second.propose(command(1, 0)).await.unwrap().number, 2);
    assert_eq!(began.elapsed(), LATE * 4, "lost, read who won, created, looked whether it counts");
    first.close().await;
    second.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_nobody_asked_for_gives_way_to_a_command() {
    let store: Arc<dyn ObjectStore> = late();
    let config = Config::default();
    let replica = open(&store, config.clone()).await;
    replica.propose(command(0, 0)).await.unwrap();
    // In the middle of the next poll.
    tokio::time::sleep(config.poll_interval + LATE / 2).await;
    let began = tokio::time::Instant::now();
    replica.propose(command(0, 1)).await.unwrap();
    assert_eq!(began.elapsed(), LATE * 2, "the create and the look whether it counts, and nothing else");
    let mut polls = replica.polls();
    polls.borrow_and_update();
    polls.changed().await.unwrap();
    replica.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_are_proposed_together_share_an_entry() {
    let store = memory();
    let replica = open(&store, Config::default()).await;
    for round in 0..200 {
        let commands = (0..3).map(|i| (command(0, round * 3 + i), None)).collect();
        let numbers: Vec<u64> = replica
            .propose_together(commands)
            .await
            .into_iter()
            .map(|applied| applied.expect("committed").number)
            .collect();
        assert_eq!(numbers, [round as u64 + 1; 3]);
    }
    replica.close().await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_fail_one_after_the_other_keep_nobody_from_polling() {
    let faulty = Arc::new(FaultStore::in_memory(3));
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let times = Duration::from_millis(400);
    let config = Config { request_timeout: times, operation_timeout: times, ..Config::default() };
    let replica = open(&store, config.clone()).await;
    faulty.add(Rule::new(Operation::Put, Fault::Refuse).under("meta/log"));
    let proposing = (0..3).map(|by| {
        let replica = replica.clone();
        tokio::spawn(async move {
            // Some always wait while those before them fail.
            tokio::time::sleep(times / 4 * by as u32).await;
            loop {
                assert!(replica.propose(command(by, 0)).await.is_err());
            }
        })
    });
    let proposing: Vec<_> = proposing.collect();
    let mut polls = replica.polls();
    for _ in 0..10 {
        polls.borrow_and_update();
        let polled = tokio::time::timeout(config.poll_interval * 4, polls.changed()).await;
        polled.expect("a lease can be kept").expect("the replica lives");
    }
    proposing.iter().for_each(tokio::task::JoinHandle::abort);
    replica.close().await;
}

/// It renewed as little as it took long.
#[tokio::test(start_paused = true)]
async fn a_commit_that_took_long_is_followed_by_a_poll_at_once() {
    let faulty = Arc::new(FaultStore::in_memory(4));
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let (config, clock) = (Config::default(), TestClock::new());
    let opening = Replica::open_with_clock(store, config.clone(), clock.clone(), Journal::default());
    let replica: Replica<Journal> = opening.await.unwrap();
    let long = config.poll_interval * 2;
    faulty.add(Rule::new(Operation::Put, Fault::Delay(long)).under("meta/log").times(1));
    replica.propose(command(0, 0)).await.unwrap();
    let answered = clock.boottime();
    let mut polls = replica.polls();
    polls.wait_for(|polled| polled.began >= answered).await.unwrap();
    assert!(clock.boottime() < answered + config.poll_interval / 2);
    replica.close().await;
}

/// Its reads find the number free, and nothing else is read meanwhile.
#[tokio::test(start_paused = true)]
async fn a_create_that_the_store_refuses_is_a_look_at_the_tail_each_time() {
    let faulty = Arc::new(FaultStore::in_memory(5));
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let config = Config { retry_pause_max: Duration::from_millis(100), ..Config::default() };
    let (lease, verify_interval, clock) = (config.poll_interval, config.verify_interval, TestClock::new());
    let opening = Replica::open_with_clock(store, config, clock.clone(), Journal::default());
    let replica: Replica<Journal> = opening.await.unwrap();
    faulty.add(Rule::new(Operation::Put, Fault::Refuse).under("meta/log"));
    let proposed = tokio::spawn({
        let replica = replica.clone();
        async move { replica.propose(command(0, 0)).await }
    });
    let mut polls = replica.polls();
    for _ in 0..20 {
        let from = clock.boottime();
        let polled = tokio::time::timeout(lease, polls.wait_for(|polled| polled.began > from)).await;
        polled.expect("a lease can be kept").expect("the replica lives");
        tokio::time::sleep(lease / 4).await;
    }
    // From where the view's own last entry has to be looked at again, since it may have been deleted (L5), they prove nothing.
    clock.add(verify_interval);
    let from = clock.boottime();
    let polled = tokio::time::timeout(lease * 5, polls.wait_for(|polled| polled.began >= from)).await;
    assert!(polled.is_err(), "{polled:?}");
    faulty.heal();
    assert_eq!(proposed.await.unwrap().expect("committed").number, 1);
    replica.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_log_is_read_many_entries_at_a_time() {
    let store: Arc<dyn ObjectStore> = late();
    let writer = open(&store, Config::default()).await;
    for i in 0..400 {
        writer.propose(command(0, i)).await.unwrap();
    }
    writer.close().await;
    let began = tokio::time::Instant::now();
    let reader = open(&store, Config::default()).await;
    assert_eq!(reader.view().number, 400);
    let rounds = began.elapsed().as_millis() / LATE.as_millis();
    assert!(rounds <= 24, "400 entries took as long as {rounds} requests, one after the other");
    reader.close().await;
}

#[tokio::test(start_paused = true)]
async fn every_poll_that_reached_the_tail_is_told() {
    let store = memory();
    let (writer, reader) = (open(&store, Config::default()).await, open(&store, Config::default()).await);
    let mut polls = reader.polls();
    let first = *polls.borrow_and_update();
    polls.changed().await.unwrap();
    let second = *polls.borrow_and_update();
    assert!(second.began >= first.began);
    assert_eq!(second.number, 0);
    writer.propose(command(0, 0)).await.unwrap();
    polls.changed().await.unwrap();
    assert_eq!(polls.borrow_and_update().number, 1);
    reader.close().await;
    assert!(polls.changed().await.is_err(), "the watch ends with the replica");
    writer.close().await;
}

#[tokio::test(start_paused = true)]
async fn entries_carry_the_issuer_once_it_is_set() {
    let replica = open(&memory(), Config::default()).await;
    let issuer = Issuer { broker: 7, epoch: 1 };
    replica.propose(command(0, 0)).await.unwrap();
    replica.set_issuer(Some(issuer));
    replica.propose(command(0, 1)).await.unwrap();
    let issuers: Vec<_> = replica.view().machine.contexts().iter().map(|context| context.issuer).collect();
    assert_eq!(issuers, [None, Some(issuer)]);
    replica.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_replica_says_so() {
    let replica = open(&memory(), Config::default()).await;
    replica.close().await;
    replica.close().await;
    assert_eq!(replica.propose(command(0, 0)).await, Err(Error::Closed));
    assert!(matches!(replica.refresh().await, Err(Error::Closed)));
    assert_eq!(replica.failed().await, Error::Closed);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_replica() {
    let replica = open(&memory(), Config::default()).await;
    let mut polls = replica.polls();
    drop(replica);
    while polls.changed().await.is_ok() {}
}

/// A machine whose snapshots break an invariant, after they were met at the barrier when they began and again.
#[derive(Clone, Debug)]
struct Broken(Arc<Barrier>);

impl Machine for Broken {
    type Outcome = ();

    fn apply(&mut self, _: &Applying, _: &[u8]) {}

    fn snapshot(&self) -> Vec<u8> {
        self.0.wait();
        self.0.wait();
        panic!("a broken invariant");
    }

    fn restore(_: &[u8]) -> Result<Broken, Error> {
        Err(Error::Invalid("there are no snapshots".to_owned()))
    }
}

/// F59: without snapshots nothing would ever be deleted again. Heard of at once, by a replica that has nothing to do and by
/// one that is about to end.
#[tokio::test]
async fn a_machine_that_panics_in_a_snapshot_fails_the_replica() {
    const HANG: Duration = Duration::from_secs(120);
    let never = Duration::from_secs(1_000_000_000);
    let config = Config { snapshot_entries: 1, poll_interval: never, ..Config::default() };
    for closes in [false, true] {
        let barrier = Arc::new(Barrier::new(2));
        let met = async || {
            let barrier = barrier.clone();
            tokio::task::spawn_blocking(move || barrier.wait()).await.unwrap();
        };
        let replica = Replica::open(memory(), config.clone(), Broken(barrier.clone())).await.unwrap();
        replica.propose(command(0, 0)).await.unwrap();
        met().await;
        assert_eq!(replica.failure(), None);
        if closes {
            let mut close = Box::pin(replica.close());
            assert!(futures::poll!(&mut close).is_pending());
            met().await;
            tokio::time::timeout(HANG, close).await.expect("it ends");
        } else {
            met().await;
        }
        let failure = tokio::time::timeout(HANG, replica.failed()).await.expect("it is told");
        assert!(matches!(failure, Error::Failed(_)), "{failure} (closes: {closes})");
        assert_eq!(replica.failure(), Some(failure));
    }
}
