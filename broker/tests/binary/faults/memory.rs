//! F51: one budget of memory, whatever is asked for at once. Producers send as much as they can and consumers ask for as
//! much as they may, of data that is in no cache.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::process::{Ottla, Storage, run};
use crate::testing;
use crate::wire::Wire;

/// What the brokers here are given, all together, is 80 MiB; the rest is the program, its stacks and the allocator's.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;

const PRODUCERS: usize = 16;
const CONSUMERS: usize = 32;
/// Nearly as large as a batch may be.
const VALUE_BYTES: usize = 1_000_000;
const BATCHES_PER_PRODUCER: usize = 20;
/// How long the broker may wait for room before it answers.
const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn memory_stays_within_its_budget_under_huge_requests() {
    let mut broker = Ottla::new(Storage::DirectoryBlock).with(&[
        "--log-cache",
        "16MiB",
        "--block-cache",
        "8MiB",
        "--request-memory",
        "8MiB",
        "--small-request-memory",
        "4MiB",
        "--decoded-memory",
        "8MiB",
        "--response-memory",
        "16MiB",
        "--read-bytes-in-flight",
        "16MiB",
        "--read-index-cache",
        "4MiB",
        "--upload-bytes",
        "4MiB",
        "--kafka",
        "socket.request.max.bytes=8000000",
    ]);
    broker.start();
    run(&mut broker.cli(&["topic", "create", "huge"]));
    let port = broker.port;
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..PRODUCERS {
            scope.spawn(|| {
                let batch = testing::batch(1, |spec| spec.value_bytes = VALUE_BYTES);
                let mut wire = Wire::connect_to(port).unwrap();
                for _ in 0..BATCHES_PER_PRODUCER {
                    let answer = wire.produce_within(PATIENCE, "huge", &batch).expect("an answer");
                    // 0, or an error after which a client tries again: there is no room just now.
                    if answer.error_code == 0 {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let error = kafka_protocol::ResponseError::try_from_code(answer.error_code).unwrap();
                        assert!(error.is_retriable(), "{error} is final");
                    }
                }
            });
        }
    });
    let end = acknowledged.into_inner() as i64;
    assert!(end > 50, "only {end} batches were taken");
    let batch = testing::batch(1, |spec| spec.value_bytes = VALUE_BYTES).len();
    std::thread::scope(|scope| {
        for consumer in 0..CONSUMERS {
            scope.spawn(move || {
                let mut wire = Wire::connect_to(port).unwrap();
                // From everywhere at once, so that no cache is of use.
                let mut offset = (consumer as i64 * 7) % end;
                for _ in 0..10 {
                    let fetched = wire.fetch_up_to("huge", offset, i32::MAX).expect("an answer");
                    assert_eq!(fetched.error_code, 0, "at {offset}");
                    let bytes = fetched.records.map_or(0, |records| records.len());
                    assert!(bytes >= batch, "at {offset}: {bytes} bytes");
                    offset = (offset + (bytes / batch) as i64) % end;
                }
            });
        }
    });
    let resident = broker.resident_bytes_max();
    println!("{end} batches of 1 MB, {CONSUMERS} consumers at once: {} MiB were resident", resident >> 20);
    assert!(resident < RESIDENT_BYTES_MAX, "{} MiB were resident", resident >> 20);
    broker.stop();
}
