//! One device with persistent reservations, two paths to it, and what a fail-over does: for a machine that has such a device.
//! `wal/qemu/run` is one. Everything on the device is lost.
//!
//! ```text
//!   two_hosts PATH PATH      for example /dev/sda /dev/sdb, the same disk seen by two hosts
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use uuid::Uuid;
use wal::block::device::{Access, Device, FileDevice};
use wal::block::reservation::{self, Host, PathReservations, Use};
use wal::block::{BlockMedium, Config};
use wal::{AckRight, Error, Incarnation, Medium, Meta, Position, Record, Uri, Vacated, Wal};

const CLUSTER: Uuid = Uuid::from_u128(1);
const A: Incarnation = Incarnation { broker: 1, epoch: 10 };
const A_AGAIN: Incarnation = Incarnation { broker: 1, epoch: 20 };
const B: Incarnation = Incarnation { broker: 1, epoch: 30 };
const LAST: Incarnation = Incarnation { broker: 1, epoch: 40 };
const AFTERWARDS: Incarnation = Incarnation { broker: 1, epoch: 50 };

/// Records under way at once.
const TOGETHER: u64 = 16;

fn main() {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [a, b] = &paths[..] else { panic!("two paths are needed") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(fail_over(a, b));
    println!("two hosts: passed");
}

fn config() -> Config {
    Config { reservation: Use::Required, ..Config::default() }
}

fn uri(path: &str) -> Uri {
    Uri::block(Path::new(path), None).expect("a device's path")
}

fn own(path: &str) -> BlockMedium {
    BlockMedium::new(&uri(path), CLUSTER, config()).expect("the volume can be taken")
}

/// With `--wal-reservation off`.
fn own_without(path: &str) -> BlockMedium {
    let config = Config { reservation: Use::Off, ..config() };
    BlockMedium::new(&uri(path), CLUSTER, config).expect("the volume can be taken")
}

/// What an attempt to open it says.
async fn refusal(medium: &BlockMedium, life: Incarnation, vacated: Vacated) -> String {
    let right = Arc::new(AckRight::unlimited());
    let error = medium.open(life, vacated, right).await.expect_err("it is another host's");
    assert!(matches!(error, Error::Refused(_) | Error::Fenced(_)), "{error}");
    error.to_string()
}

async fn open(medium: &BlockMedium, life: Incarnation, vacated: Vacated) -> Arc<dyn Wal> {
    medium.open(life, vacated, Arc::new(AckRight::unlimited())).await.expect("the log can be opened")
}

/// Writes until it is fenced. How many records were acknowledged; all of them in order, from `from` on.
async fn write(wal: Arc<dyn Wal>, from: u64, upto: u64) -> (u64, Option<Error>) {
    let mut acknowledged = from;
    while acknowledged < upto {
        let batch = acknowledged..(acknowledged + TOGETHER).min(upto);
        let appends: Vec<_> = batch
            .map(|number| {
                let body = Bytes::copy_from_slice(&number.to_be_bytes());
                wal.append(Record { kind: 1, meta: Meta::new(b"two hosts"), body })
            })
            .collect();
        for append in appends {
            match append {
                Ok(append) => match append.await {
                    Ok(_) => acknowledged += 1,
                    Err(error) => return (acknowledged, Some(error)),
                },
                Err(error) => return (acknowledged, Some(Error::Failed(error.to_string()))),
            }
        }
    }
    (acknowledged, None)
}

/// How many records are there, which must be the first ones.
async fn read(medium: &BlockMedium, of: Incarnation) -> (u64, Vacated) {
    let mut recovery = medium.recover(of, Position(0)).await.expect("the log can be recovered");
    let mut next = 0;
    while let Some(batch) = recovery.next().await.expect("the log is whole") {
        for record in batch.records {
            assert_eq!(record.body[..], u64::to_be_bytes(next), "in order");
            next += 1;
        }
    }
    (next, recovery.finish())
}

/// The first block of the device, written as it is: what an unregistered host may not do.
fn scribble(path: &str) -> std::io::Result<()> {
    let access = Access::Own { capacity: None, zeroing_max: std::time::Duration::ZERO };
    let device = FileDevice::open(Path::new(path), access).expect("no lock of the other path's is seen here");
    let block = device.block_bytes();
    let mut memory = vec![0; 2 * block];
    let start = memory.as_ptr().align_offset(block);
    let bytes = &mut memory[start..start + block];
    device.read(bytes, 0)?;
    device.write_durable(bytes, 0)
}

/// All of the device.
fn wipe(path: &str) {
    let access = Access::Own { capacity: None, zeroing_max: std::time::Duration::ZERO };
    let device = FileDevice::open(Path::new(path), access).expect("nobody uses it");
    let (block, piece) = (device.block_bytes(), 1 << 20);
    let memory = vec![0; piece + block];
    let start = memory.as_ptr().align_offset(block);
    let capacity = device.size_bytes();
    for at in (0..capacity).step_by(piece) {
        let bytes = piece.min((capacity - at) as usize);
        device.write_durable(&memory[start..start + bytes], at).expect("a registered host writes");
    }
}

async fn fail_over(a: &str, b: &str) {
    let began = Instant::now();
    let say = |what: &str| println!("{:>6} ms  {what}", began.elapsed().as_millis());

    // A blank volume, which both have taken: each knows of nobody else. A has the reservation, and stands still.
    let medium = own(a);
    let claimed =
        reservation::claim(&PathReservations::open(Path::new(a)).expect("a device"), A, None, false);
    assert_eq!(claimed, reservation::Claimed::Held);
    let late = own_without(b);
    assert!(late.is_blank() && medium.is_blank(), "nobody has written to it");
    let refused = refusal(&late, B, Vacated::new_medium()).await;
    assert!(refused.contains("is blank, but reserved"), "{refused}");
    drop(late);
    let late = own_without(b);
    assert!(late.is_blank(), "nothing was written");
    say("B formats no blank volume that A has reserved");

    let wal = open(&medium, A, Vacated::new_medium()).await;
    let refused = refusal(&late, B, Vacated::new_medium()).await;
    assert!(refused.contains("was blank when"), "{refused}");
    drop(late);
    say("nor one that A has formatted since B took it");
    let (count, none) = write(wal.clone(), 0, 500).await;
    assert!(none.is_none() && count == 500);
    say("A holds the reservation, and 500 records are acknowledged");

    let refused = scribble(b).expect_err("B is not registered");
    assert!(reservation::is_refusal(&refused), "{refused}");
    say(&format!("B's write is refused: {refused}"));
    let own_path = PathReservations::open(Path::new(a)).expect("a device");
    assert!(reservation::shut_out(&own_path, A, Host::Another).is_err(), "were it told so, and wrong");
    let (count, none) = write(wal.clone(), 500, 600).await;
    assert!(none.is_none() && count == 600, "nothing of that disturbed A");
    say("A's own path shuts nobody out");

    // In the middle of its writes.
    let writer = tokio::spawn(write(wal.clone(), 600, u64::MAX));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let left = BlockMedium::for_recovery(&uri(b), CLUSTER, config()).expect("it can be read");
    left.shut_out(A, Host::Another).await.expect("the device removes A");
    let (found, _) = read(&left, A).await;
    let (acknowledged, error) = writer.await.expect("it ends");
    assert!(matches!(error, Some(Error::Fenced(_))), "A steps down: {error:?}");
    assert!(matches!(wal.failed().await, Error::Fenced(_)));
    assert!(
        (acknowledged..=acknowledged + TOGETHER).contains(&found),
        "{acknowledged} were acknowledged, {found} recovered"
    );
    say(&format!(
        "B shut A out in the middle: {acknowledged} acknowledged, {found} recovered; A: {}",
        error.unwrap()
    ));
    wal.close().await;
    drop((wal, medium));
    let refused = scribble(a).expect_err("A is not registered");
    assert!(reservation::is_refusal(&refused), "{refused}");
    say("A's host is still refused, since the volume has no other owner yet");

    let without = own_without(a);
    let (again, vacated) = read(&without, A).await;
    let refused = refusal(&without, A_AGAIN, vacated).await;
    assert!(again == found && refused.contains("probably by who recovered its log"), "{refused}");
    drop(without);
    say("nor does its next life write there without a reservation of its own");

    let medium = own(a);
    assert_eq!(medium.last_owner().map(|last| (last.incarnation, last.released)), Some((A, false)));
    let (again, vacated) = read(&medium, A).await;
    assert_eq!(again, found, "nothing was written meanwhile");
    let wal = open(&medium, A_AGAIN, vacated).await;
    let (count, none) = write(wal.clone(), 0, 100).await;
    assert!(none.is_none() && count == 100);
    let refused = scribble(b).expect_err("B is not registered any more");
    assert!(reservation::is_refusal(&refused), "{refused}");
    say("A's next life took it from B, who cannot write any more");

    // The volume's next owner is B's host, while A lives.
    let next = own(b);
    next.prepare_to_shut_out(A_AGAIN, Host::Another).expect("it can register");
    next.rely_on_reservation();
    let (count, none) = write(wal.clone(), 100, 200).await;
    assert!(none.is_none() && count == 200, "which A does not notice");
    next.shut_out(A_AGAIN, Host::Another).await.expect("the device removes A");
    let (found, vacated) = read(&next, A_AGAIN).await;
    assert_eq!(found, 200);
    let new = open(&next, B, vacated).await;
    let (count, none) = write(new.clone(), 0, 100).await;
    assert!(none.is_none() && count == 100);
    let (late, error) = write(wal.clone(), 200, 201).await;
    assert!(late == 200 && matches!(error, Some(Error::Fenced(_))), "{error:?}");
    wal.close().await;
    drop((wal, medium));
    assert_eq!(read(&next, B).await.0, 100, "the zombie wrote nothing");
    say("B shut the living A out, formatted the volume, and A's late write was refused");

    new.close().await;
    drop((new, next));
    scribble(a).expect("nothing is reserved any more");
    say("B closed its log, and gave the reservation back");

    let medium = own(a);
    let wal = open(&medium, LAST, Vacated::nothing_left()).await;
    assert!(reservation::is_refusal(&scribble(b).expect_err("its registration is gone")));
    let left = BlockMedium::for_recovery(&uri(b), CLUSTER, config()).expect("it can be read");
    left.shut_out(LAST, Host::Another)
        .await
        .expect("the device removes A, over the path that was once the owner's");
    assert!(matches!(write(wal.clone(), 0, 1).await, (0, Some(Error::Fenced(_)))));
    wal.close().await;
    drop(wal);
    say("A took the free device, and B shut it out once more");
    drop((left, medium));

    // Somebody has wiped it meanwhile, and B's reservation is still there.
    wipe(b);
    let medium = own(a);
    let refused = refusal(&medium, AFTERWARDS, Vacated::new_medium()).await;
    assert!(refused.contains("is reserved on its device") && medium.is_blank(), "{refused}");
    drop(medium);
    let medium = own(a);
    assert!(medium.is_blank(), "nothing was written");
    medium.is_detached_elsewhere();
    let wal = open(&medium, AFTERWARDS, Vacated::new_medium()).await;
    let (count, none) = write(wal.clone(), 0, 100).await;
    assert!(none.is_none() && count == 100);
    assert!(reservation::is_refusal(&scribble(b).expect_err("its registration is gone")));
    wal.close().await;
    say("a blank volume that somebody has reserved was formatted on the operator's word, and not before");
}
