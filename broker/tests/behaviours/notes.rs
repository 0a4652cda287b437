//! Notes of partitions that move, and what becomes of those that lie: whoever answers in the last leader's place can cost
//! time, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use faults::Port;
use ottla::cluster::wire;
use ottla::metadata::image::Topic;
use ottla::partition::arrival::{NOTES, NotesAnswer, NotesAsk};
use ottla::partition::checkpoint::{self, Checkpoint};
use ottla::partition::handover::Leave;
use ottla::partition::state::{Limits, Producer, State};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, batch, read_all, write};
use crate::support::{Disk, Options, until, within};

/// The frame of an answer, made of the request and of the honest answer to it.
type Lie = Arc<dyn Fn(i32, &NotesAsk, NotesAnswer) -> BytesMut + Send + Sync>;

/// Stands at the address that a broker tells the others, and lies about its notes.
struct Liar {
    lie: Arc<Mutex<Lie>>,
    answered: Arc<Mutex<usize>>,
    _serving: JoinSet<()>,
}

impl Liar {
    async fn before(port: &Port, broker: SocketAddr) -> Liar {
        let lie: Arc<Mutex<Lie>> = Arc::new(Mutex::new(honest()));
        let answered = Arc::new(Mutex::new(0));
        let listener = TcpListener::bind(("127.0.0.1", port.number())).await.unwrap();
        let mut serving = JoinSet::new();
        let (lies, count) = (lie.clone(), answered.clone());
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (lies, count) = (lies.clone(), count.clone());
                connections.spawn(async move {
                    // Connections end as they like.
                    let _ = serve(client, broker, &lies, &count).await;
                });
            }
        });
        Liar { lie, answered, _serving: serving }
    }
}

async fn read_frame(from: &mut TcpStream) -> std::io::Result<BytesMut> {
    let length = from.read_i32().await?;
    let mut frame = BytesMut::new();
    frame.put_i32(length);
    frame.resize(4 + length as usize, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

async fn serve(
    mut client: TcpStream,
    broker: SocketAddr,
    lies: &Mutex<Lie>,
    answered: &Mutex<usize>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(broker).await?;
    let asked = read_frame(&mut client).await?;
    server.write_all(&asked).await?;
    if i16::from_be_bytes([asked[4], asked[5]]) != NOTES {
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let correlation_id = i32::from_be_bytes(asked[8..12].try_into().unwrap());
    let client_id = usize::from(u16::from_be_bytes(asked[12..14].try_into().unwrap()));
    let ask = NotesAsk::decode(&asked[14 + client_id..]).unwrap();
    let answer = read_frame(&mut server).await?;
    let answer = NotesAnswer::decode(wire::response_body(&answer[4..], correlation_id).unwrap()).unwrap();
    let lie = lies.lock().clone();
    let sent = client.write_all(&lie(correlation_id, &ask, answer)).await;
    *answered.lock() += 1;
    sent
}

fn honest() -> Lie {
    Arc::new(|id, _, answer| wire::response(id, &answer.encode()))
}

/// What is in a note, changed, with a checksum that is right.
fn changed(change: impl Fn(u64, Checkpoint) -> (u64, State, u64) + Send + Sync + 'static) -> Lie {
    Arc::new(move |id, _, mut answer| {
        for (_, _, note) in &mut answer.0 {
            let behind = u64::from_le_bytes(note[..8].try_into().unwrap());
            let checkpoint = checkpoint::decode(&note[8..], Limits::default()).unwrap();
            let (behind, state, log_start) = change(behind, checkpoint);
            let mut lie = BytesMut::new();
            lie.put_u64_le(behind);
            lie.put_slice(&checkpoint::encode(&state, log_start));
            *note = lie.freeze();
        }
        wire::response(id, &answer.encode())
    })
}

/// Its producers, changed.
fn producers(change: impl Fn(&mut Producer) + Send + Sync + 'static) -> Lie {
    changed(move |behind, known| {
        let mut state = State::new(Limits::default(), known.state.log_end());
        for (id, producer) in known.state.producers() {
            let mut producer = producer.clone();
            change(&mut producer);
            assert!(state.restore(id, producer));
        }
        (behind, state, known.log_start)
    })
}

fn raw(bytes: impl Fn(&NotesAsk, NotesAnswer) -> Vec<u8> + Send + Sync + 'static) -> Lie {
    Arc::new(move |id, ask, answer| wire::response(id, &bytes(ask, answer)))
}

/// Every kind of lie.
fn lies(earlier: NotesAnswer) -> Vec<(&'static str, Lie)> {
    let ended = |by: i64| {
        changed(move |behind, known| {
            let end = known.state.log_end().checked_add_signed(by).unwrap();
            (behind, State::new(Limits::default(), end), known.log_start.min(end))
        })
    };
    let note = |bytes: &'static [u8]| {
        raw(move |ask, _| {
            let (topic, index, _) = ask.partitions[0];
            NotesAnswer(vec![(topic, index, Bytes::from_static(bytes))]).encode()
        })
    };
    vec![
        (
            "forgotten producers",
            changed(|behind, known| {
                (behind, State::new(Limits::default(), known.state.log_end()), known.log_start)
            }),
        ),
        (
            "producers that were further",
            producers(|producer| {
                producer.batches.iter_mut().for_each(|batch| {
                    batch.base_sequence += 90;
                    batch.last_sequence += 90;
                });
            }),
        ),
        ("producers of a newer epoch", producers(|producer| producer.epoch += 1)),
        (
            "batches at other offsets",
            producers(|producer| producer.batches.iter_mut().for_each(|batch| batch.base_offset = 0)),
        ),
        (
            "a log that begins at its end",
            changed(|behind, known| (behind, known.state.clone(), known.state.log_end())),
        ),
        ("a log that ends later", ended(5)),
        ("a log that ends earlier", ended(-1)),
        (
            "another length behind the newest checkpoint",
            changed(|behind, known| (behind ^ 1, known.state, known.log_start)),
        ),
        ("an earlier leader's note", raw(move |_, _| earlier.encode())),
        ("an empty note", note(b"")),
        ("a short note", note(b"1234567")),
        ("a note of nothing", note(b"12345678")),
        (
            "the same note twice",
            raw(|_, mut answer| {
                answer.0.extend_from_within(..);
                answer.encode()
            }),
        ),
        (
            "a note that nobody asked for",
            raw(|_, mut answer| {
                answer.0[0].0 = uuid::Uuid::nil();
                answer.encode()
            }),
        ),
        (
            "another partition's note",
            raw(|_, mut answer| {
                answer.0[0].1 = 7;
                answer.encode()
            }),
        ),
        (
            "half of an answer",
            raw(|_, answer| {
                let bytes = answer.encode();
                bytes[..bytes.len() / 2].to_vec()
            }),
        ),
        ("a length that lies", Arc::new(|_, _, _| BytesMut::from(&i32::MAX.to_be_bytes()[..]))),
        ("a length below zero", Arc::new(|_, _, _| BytesMut::from(&i32::MIN.to_be_bytes()[..]))),
        ("the answer to another request", Arc::new(|id, _, answer| wire::response(id + 1, &answer.encode()))),
        ("nothing", Arc::new(|_, _, _| BytesMut::new())),
    ]
}

async fn with_a_liar_before_broker_1() -> (Cluster, Liar, Port) {
    let mut options = Options::default();
    // Whatever is answered is waited for.
    options.partitions.handover.note_wait = Duration::from_secs(60);
    let port = Port::reserve();
    let advertised = port.number();
    let cluster = Cluster::of(2, options, |disk| match disk.node {
        1 => Disk { advertised: Some(advertised), ..disk },
        _ => disk,
    })
    .await;
    let liar = Liar::before(&port, cluster.broker(1).address).await;
    (cluster, liar, port)
}

/// Moves the partition when its next leader has seen that it left, if it did: otherwise that would not see it arrive.
async fn move_to(cluster: &Cluster, topic: &Topic, to: u32) {
    let next = &cluster.broker(to).broker;
    let left = next.metadata.image().number();
    until(|| next.partitions.looked_for_arrivals_upto() >= left).await;
    cluster.move_to(topic, 0, to).await;
}

fn is_open(cluster: &Cluster, node: u32, topic: &Topic) -> bool {
    cluster.broker(node).broker.partitions.is_current(topic.id, 0)
}

/// N1: whatever a note says, the next leader knows every producer, every offset and the log's start as the last one did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notes_that_lie_change_nothing() {
    let (cluster, liar, _port) = with_a_liar_before_broker_1().await;
    let topic = cluster.topic("noted", &[1]).await;
    let mut client = None;
    for sequence in 0..2 {
        write(&cluster, &mut client, &topic, 0, &batch(9, sequence)).await;
    }
    // What is true opens the partition before anybody asks for it.
    let heard: Arc<Mutex<Option<NotesAnswer>>> = Arc::default();
    let hearing = heard.clone();
    *liar.lie.lock() = Arc::new(move |id, ask, answer| {
        *hearing.lock() = Some(answer.clone());
        honest()(id, ask, answer)
    });
    move_to(&cluster, &topic, 2).await;
    until(|| is_open(&cluster, 2, &topic)).await;
    move_to(&cluster, &topic, 1).await;
    until(|| is_open(&cluster, 1, &topic)).await;

    let earlier = heard.lock().take().unwrap();
    for (next, (what, lie)) in (2..).zip(lies(earlier)) {
        *liar.lie.lock() = lie;
        let before = *liar.answered.lock();
        move_to(&cluster, &topic, 2).await;
        until(|| *liar.answered.lock() > before).await;
        for sequence in [next - 1, next, next - 1] {
            let offset = write(&cluster, &mut client, &topic, 0, &batch(9, sequence)).await;
            assert_eq!(offset, i64::from(sequence), "{what}: sequence {sequence}");
        }
        let expected: Vec<_> = (0..=next).map(|at| (i64::from(at), at)).collect();
        assert_eq!(read_all(&cluster, &topic, 0).await, expected, "{what}");
        move_to(&cluster, &topic, 1).await;
        until(|| is_open(&cluster, 1, &topic)).await;
    }
    cluster.stop().await;
}

/// N3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_checkpoint_accounts_for_is_counted_over_moves() {
    let mut options = Options::default();
    options.partitions.handover.note_wait = Duration::from_secs(60);
    let cluster = Cluster::with(2, options).await;
    let topic = cluster.topic("counted", &[1]).await;
    let (mut client, mut bytes) = (None, 0);
    // Of no producer: nobody thinks that a checkpoint is needed before a move.
    let batch = batch(-1, -1);
    for to in [2, 1, 2, 1] {
        write(&cluster, &mut client, &topic, 0, &batch).await;
        bytes += batch.len() as u64;
        move_to(&cluster, &topic, to).await;
        until(|| is_open(&cluster, to, &topic)).await;
        let topic = cluster.broker(to).broker.metadata.image().topic(topic.id).unwrap().clone();
        let partition = cluster.broker(to).partition(&topic, 0).await;
        assert_eq!((partition.replayed_bytes(), partition.bytes_since_checkpoint()), (0, bytes));
    }
    cluster.stop().await;
}

/// However many topics leave together, and however their names and ids compare: all are open at the next leader before anybody asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_many_topics_arrive_with_their_notes() {
    let mut options = Options::default();
    options.partitions.handover.note_wait = Duration::from_secs(60);
    let cluster = Cluster::with(2, options).await;
    let (mut client, mut topics, mut leaving) = (cluster.connect(1).await, Vec::new(), Vec::new());
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let topic = cluster.topic(name, &[1, 1]).await;
        for index in 0..2 {
            client.produced(name, index, &batch(9, 0)).await;
            leaving.push(Leave { topic: topic.id, index, to: 2 });
        }
        topics.push(topic);
    }
    let done = within(cluster.broker(1).broker.partitions.hand_over(&leaving)).await.unwrap();
    assert_eq!(done.left.len(), 16);
    within(cluster.broker(2).broker.metadata.refresh()).await.unwrap();
    let open =
        |index| topics.iter().all(|topic| cluster.broker(2).broker.partitions.is_current(topic.id, index));
    until(|| open(0) && open(1)).await;
    cluster.stop().await;
}

/// N5: whoever is there before the partition, and asks in the moment in which its entry is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_before_a_partition_has_arrived_gets_it_with_its_note() {
    let mut options = Options::default();
    options.partitions.handover.note_wait = Duration::from_secs(60);
    let cluster = Cluster::with(2, options).await;
    let topic = cluster.topic("early", &[1]).await;
    write(&cluster, &mut None, &topic, 0, &batch(-1, -1)).await;
    for to in [2, 1, 2, 1, 2, 1, 2, 1] {
        let next = cluster.broker(to).broker.clone();
        let topic_id = topic.id;
        let asking = tokio::spawn(async move {
            loop {
                let image = next.metadata.image();
                if let Ok(partition) = next.partitions.get(image.topic(topic_id).unwrap(), 0).await {
                    return partition;
                }
                tokio::task::yield_now().await;
            }
        });
        move_to(&cluster, &topic, to).await;
        let partition = within(asking).await.unwrap();
        assert_eq!(partition.replayed_bytes(), 0, "opened by its note");
    }
    cluster.stop().await;
}
