//! G3, and what is at the edges of a hand-over: openings, closings, and answers that are lost.

use super::super::batch::BatchHeader;
use super::super::nodes::{Node, append, leave, two};
use super::super::open::Surroundings;
use super::super::state::Refused;
use super::super::validate::Checked;
use super::super::{AppendError, GetError, testing};
use super::*;
use crate::metadata::image::Topic;

/// Nothing here takes so long unless it hangs.
const LONG: Duration = Duration::from_secs(60);

async fn refusal(partition: &Arc<Partition>) -> AppendError {
    let appending = partition.append_own(testing::batch(1, |_| {}));
    tokio::time::timeout(LONG, appending).await.expect("it says so").unwrap_err()
}

async fn stopped(node: &Node, leave: Leave) -> Option<Stopped> {
    tokio::time::timeout(LONG, node.partitions.stop_one(leave)).await.expect("it stops")
}

/// Has `look` begin, on a thread of its own, with what node 2 knew before partition 0 of `topic`, and a topic that is new,
/// were there; and with both open there by the time it sees what is open.
fn looked_with_an_older_view<R: Send>(look: impl Fn(&Partitions) -> R + Send + Sync) -> (R, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let [one, two] = runtime.block_on(two());
    let topic = runtime.block_on(one.topic("arrives", 1));
    runtime.block_on(two.known(&topic));
    let mut open = two.partitions.open.lock();
    let (sender, thread) = std::sync::mpsc::channel();
    let looked = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            sender.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            look(&two.partitions)
        });
        let stat = std::path::Path::new("/proc").join(thread.recv().unwrap()).join("stat");
        // All that it can wait for is what is locked here.
        let sleeps = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
        while !sleeps() {
            std::thread::yield_now();
        }
        runtime.block_on(async {
            one.give(&topic, 2).await;
            let new = one.topic("new", 1).await;
            one.give(&new, 2).await;
            for topic in [two.known(&topic).await, two.known(&new).await] {
                let around = Surroundings {
                    storage: &two.storage,
                    metadata: &two.metadata,
                    config: &two.partitions.config,
                    tasks: &two.partitions.tasks,
                };
                let partition =
                    Partition::open(&around, topic.id, 0, &topic.partitions[0], false, None).await.unwrap();
                let slot: Arc<Slot> = Arc::default();
                slot.partition.set(Arc::new(partition)).unwrap();
                open.insert((topic.id, 0), slot);
            }
        });
        drop(open);
        looking.join().unwrap()
    });
    let still_open = two.partitions.open.lock().len();
    (looked, still_open)
}

/// Whoever closes what has left, or is deleted, has a view that is as new as every opening.
#[test]
fn what_has_just_arrived_is_not_taken_for_what_has_left() {
    let (left, _) = looked_with_an_older_view(|partitions| partitions.left().len());
    assert_eq!(left, 0);
    let ((), open) = looked_with_an_older_view(Partitions::close_gone);
    assert_eq!(open, 2);
}

/// What was forgotten while it was opened is not left open where nobody finds it.
#[tokio::test]
async fn what_is_forgotten_during_its_opening_is_closed() {
    let [one, _two] = two().await;
    let topic = one.topic("opened", 1).await;
    let forgotten: Arc<Slot> = Arc::default();
    let gate = forgotten.gate.clone().lock_owned().await;
    let opened = one.partitions.open_gated(&topic, 0, &forgotten, gate, None).await;
    assert!(matches!(opened, Err(GetError::NotLeader { leader: Some((1, _)) })), "{opened:?}");
    // Its streams can be opened by whoever comes next.
    append(&one.open(&topic).await).await;
}

/// A partition that was closed a moment ago may have a rest that is only in this broker's log: to give it away would be to
/// leave that behind.
#[tokio::test]
async fn a_partition_whose_rest_is_not_uploaded_stays_although_it_is_closed() {
    let [one, two] = two().await;
    let topic = one.topic("closed", 1).await;
    append(&one.open(&topic).await).await;
    one.partitions.forget(topic.id, 0);
    assert!(stopped(&one, leave(&topic, 0, 2)).await.is_none());
    let done = one.partitions.hand_over(&[leave(&topic, 0, 2)]).await.unwrap();
    assert_eq!((done.left.len(), done.stayed.len()), (0, 1), "{done:?}");
    one.storage.flush().await.unwrap();
    let done = one.partitions.hand_over(&[leave(&topic, 0, 2)]).await.unwrap();
    assert_eq!((done.left.len(), done.stayed.len()), (1, 0), "{done:?}");
    assert_eq!(two.open(&topic).await.high_watermark(), 1);
}

#[tokio::test]
async fn what_is_forgotten_while_it_is_to_stop_is_not_given_away() {
    let [one, _two] = two().await;
    let topic = one.topic("forgotten", 1).await;
    let slot = one.partitions.open.lock().entry((topic.id, 0)).or_default().clone();
    let gate = slot.gate.clone().lock_owned().await;
    let stopping = stopped(&one, leave(&topic, 0, 2));
    let forgetting = async {
        one.partitions.forget_left(topic.id, 0, &slot);
        drop(gate);
    };
    assert!(tokio::join!(biased; stopping, forgetting).0.is_none());
}

/// G4: one that is being opened, however long that takes, keeps nobody else.
#[tokio::test]
async fn a_slow_opening_holds_up_nothing_that_is_stopped_with_it() {
    let [one, two] = two().await;
    let topic = one.topic("slow", 2).await;
    let slot = one.partitions.open.lock().entry((topic.id, 0)).or_default().clone();
    let _opening = slot.gate.clone().lock_owned().await;
    let both = [leave(&topic, 0, 2), leave(&topic, 1, 2)];
    let done = tokio::time::timeout(LONG, one.partitions.hand_over(&both)).await.expect("in time").unwrap();
    assert_eq!(done.left, both[1..], "{done:?}");
    let led: Vec<u32> = two.known(&topic).await.partitions.iter().map(|info| info.leader).collect();
    assert_eq!(led, [1, 2]);
}

async fn stopped_with_a_record(node: &Node, topic: &Topic) -> (Arc<Partition>, Stopped) {
    let partition = node.open(topic).await;
    append(&partition).await;
    node.storage.flush().await.unwrap();
    let stopped = stopped(node, leave(topic, 0, 2)).await.unwrap();
    (partition, stopped)
}

/// G3: where an entry's outcome was not learnt, who leads is asked before anything goes on.
#[tokio::test]
async fn what_left_although_nobody_heard_of_it_takes_nothing_any_more() {
    let [one, two] = two().await;
    let topic = one.topic("unheard", 1).await;
    let (partition, stopped) = stopped_with_a_record(&one, &topic).await;
    let (moves, early) = (handed(std::slice::from_ref(&stopped)), tokio::sync::oneshot::channel().0);
    assert_eq!(one.metadata.hand_over(moves, early).await.unwrap(), [Ok(())]);
    drop(stopped);
    assert!(matches!(refusal(&partition).await, AppendError::Left));
    assert_eq!(append(&two.open(&topic).await).await, 1);
}

/// The same where it has come back since: what leads it now is another opening, of another leader epoch.
#[tokio::test]
async fn what_left_unheard_and_came_back_is_closed_all_the_same() {
    let [one, two] = two().await;
    let topic = one.topic("back", 1).await;
    let (partition, stopped) = stopped_with_a_record(&one, &topic).await;
    one.give(&topic, 2).await;
    two.give(&topic, 1).await;
    one.known(&topic).await;
    drop(stopped);
    assert!(matches!(refusal(&partition).await, AppendError::Left));
    assert_eq!(append(&one.open(&topic).await).await, 1);
}

/// H1: what is asked again for it gives nothing away that is open here since, and takes appends.
#[tokio::test]
async fn what_is_asked_again_gives_nothing_away_that_came_back() {
    let [one, two] = two().await;
    let topic = one.topic("late", 1).await;
    let (_partition, stopped) = stopped_with_a_record(&one, &topic).await;
    one.give(&topic, 2).await;
    two.give(&topic, 1).await;
    let now = one.open(&topic).await;
    append(&now).await;
    let stopped = [stopped];
    let refused = one.partitions.decide(&stopped, true).await.unwrap();
    assert!(refused[0].is_err(), "{refused:?}");
    drop(stopped);
    assert_eq!((append(&now).await, one.known(&topic).await.partitions[0].leader), (2, 1));
}

/// A batch of one record of an idempotent producer.
fn of_producer(producer: i64, sequence: i32) -> Checked {
    let bytes = testing::batch(1, |spec| {
        (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (producer, 0, sequence)
    });
    Checked { header: BatchHeader::parse(&bytes).unwrap(), bytes }
}

async fn appended(
    node: &Node,
    partition: &Arc<Partition>,
    producer: i64,
    sequence: i32,
) -> Result<u64, AppendError> {
    let checked = of_producer(producer, sequence);
    let admission = node.storage.admit(checked.bytes.len()).await.unwrap();
    partition.append(0, checked, admission).map(|appended| appended.base_offset)
}

/// G5: producers believe nothing older than what they were told.
#[tokio::test]
async fn what_stays_although_producers_were_told_otherwise_has_a_new_leader_epoch() {
    let [one, two] = two().await;
    let topic = one.topic("told", 1).await;
    let (partition, stopped) = stopped_with_a_record(&one, &topic).await;
    two.metadata.set_draining(2, true).await.unwrap();
    partition.tell_next(2);
    assert_eq!(partition.tell_leader(), Some((2, 1)), "what producers are told");
    assert!(matches!(appended(&one, &partition, 7, 0).await, Err(AppendError::Leaving { .. })));
    let mut stopped = [stopped];
    let refused = one.partitions.give_away(&mut stopped, one.metadata.handing_to([2])).await.unwrap();
    assert!(refused[0].is_err(), "{refused:?}");
    drop(stopped);
    assert!(matches!(refusal(&partition).await, AppendError::Left), "under the old epoch it takes nothing");
    assert!(matches!(appended(&one, &partition, 8, 0).await, Err(AppendError::Left)));
    let now = one.open(&topic).await;
    assert_eq!((now.leader_epoch, now.tell_leader()), (2, Some((1, 2))));
    // What is sent behind a batch that was turned away is not taken for its producer's first, as ever (P4).
    for producer in [7, 8] {
        let early = appended(&one, &now, producer, 1).await;
        assert!(matches!(early, Err(AppendError::Refused(Refused::OutOfOrder { .. }))), "{early:?}");
    }
    assert_eq!(appended(&one, &now, 7, 0).await.unwrap(), 1, "and it goes on behind what there was");
}

/// The same where nobody was there to be told: it goes on as it was, and nobody notices.
#[tokio::test]
async fn what_stays_and_nobody_was_told_of_goes_on_as_it_was() {
    let [one, two] = two().await;
    let topic = one.topic("untold", 1).await;
    let (partition, stopped) = stopped_with_a_record(&one, &topic).await;
    // Node 1 learns of it when its own entry has lost to this one.
    two.metadata.set_draining(2, true).await.unwrap();
    let mut stopped = [stopped];
    let refused = one.partitions.give_away(&mut stopped, one.metadata.handing_to([2])).await.unwrap();
    assert!(refused[0].is_err(), "{refused:?}");
    assert_eq!((append(&partition).await, partition.leader_epoch), (1, 0));
    assert!(Arc::ptr_eq(&partition, &one.open(&topic).await));
}

#[tokio::test]
async fn what_did_not_leave_goes_on() {
    let [one, _two] = two().await;
    let topic = one.topic("stays", 1).await;
    let (partition, stopped) = stopped_with_a_record(&one, &topic).await;
    drop(stopped);
    assert_eq!(append(&partition).await, 1);
}

/// Whoever asks a second time, not knowing what became of the first, is told that it belongs to somebody else: it has left.
#[tokio::test]
async fn an_entry_that_came_without_an_answer_counts() {
    let [one, _two] = two().await;
    let topic = one.topic("asked", 1).await;
    let (_partition, stopped) = stopped_with_a_record(&one, &topic).await;
    let stopped = [stopped];
    assert_eq!(one.partitions.decide(&stopped, false).await.unwrap(), [Ok(())]);
    assert_eq!(one.partitions.decide(&stopped, true).await.unwrap(), [Ok(())]);
    let refused = one.partitions.decide(&stopped, false).await.unwrap();
    assert!(refused[0].is_err(), "{refused:?}");
}

/// Whoever has written an entry says in one breath that it is there and that nothing is on its way any more.
#[tokio::test]
async fn an_entry_that_is_said_to_be_there_is_waited_for_as_one_that_is_expected() {
    let [one, two] = two().await;
    two.metadata.refresh().await.unwrap();
    let known = two.metadata.image();
    let expected = async || {
        let mut awaited = None;
        tokio::time::timeout(LONG, two.metadata.expected(&known, &mut awaited)).await.expect("it ends")
    };
    assert!(!expected().await, "nobody says anything");
    two.metadata.hint(known.number() + 1);
    assert!(!expected().await, "it is not there: that is found out");
    let topic = one.topic("new", 1).await;
    two.metadata.hint(one.metadata.image().number());
    assert!(expected().await);
    assert!(two.metadata.image().topic(topic.id).is_some());
}
