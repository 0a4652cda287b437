//! F48: what a client has seen of the log's end never goes back, whatever happens to the broker: no smaller high watermark,
//! no OFFSET_OUT_OF_RANGE for an offset that was the end once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kafka_protocol::ResponseError;

use super::store::{behind_a_proxy, number};
use crate::load::Load;
use crate::process::{Ottla, Storage};
use crate::wire::Wire;

/// Fetches from the end that it has seen, all the time.
struct Probe {
    fetches: Arc<AtomicU64>,
    leaving: Arc<AtomicBool>,
    thread: JoinHandle<i64>,
}

impl Probe {
    fn send(port: u16, topic: &'static str) -> Probe {
        let (fetches, leaving) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, left) = (fetches.clone(), leaving.clone());
        let thread = std::thread::spawn(move || {
            let mut end = 0;
            while !left.load(Ordering::Relaxed) {
                // While nobody is there.
                let Ok(mut wire) = Wire::connect_to(port) else {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                };
                while !left.load(Ordering::Relaxed) {
                    let Ok(fetched) = wire.fetch(topic, end) else { break };
                    match ResponseError::try_from_code(fetched.error_code) {
                        None => {
                            let seen = fetched.high_watermark;
                            assert!(seen >= end, "the high watermark went back from {end} to {seen}");
                            end = seen;
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                        Some(error) => {
                            assert_ne!(error, ResponseError::OffsetOutOfRange, "{end} was the end once");
                            assert!(error.is_retriable(), "{error}");
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    }
                }
            }
            end
        });
        Probe { fetches, leaving, thread }
    }

    fn fetches(&self) -> u64 {
        assert!(!self.thread.is_finished(), "the probe has failed");
        self.fetches.load(Ordering::Relaxed)
    }

    fn come_home(self) -> i64 {
        self.leaving.store(true, Ordering::Relaxed);
        self.thread.join().expect("the probe has seen nothing wrong")
    }
}

fn the_high_watermark_never_goes_back(storage: Storage) {
    let (mut broker, proxy): (Ottla, _) = behind_a_proxy(storage);
    broker.start();
    let mut load = Load::start(&broker, "watermark");
    load.more(100);
    let probe = Probe::send(broker.port, "watermark");
    for _ in 0..number("OTTLA_FAULT_KILLS", 3) {
        let before = probe.fetches();
        while probe.fetches() < before + 5 {
            load.more(100);
        }
        // Once without a crash: a broker that has lost its right must not mislead.
        let struck = proxy.struck();
        proxy.set_outage(faults::Fault::Refuse);
        while proxy.struck() < struck + 5 {
            std::thread::sleep(Duration::from_millis(10));
        }
        proxy.heal();
        load.more(100);
        broker.kill();
        broker.start();
    }
    load.more(100);
    load.finish().verify(&broker);
    let fetches = probe.fetches();
    let end = probe.come_home();
    assert!(end > 0);
    println!("{storage:?}: {fetches} fetches up to {end}");
}

#[test]
fn the_high_watermark_never_goes_back_on_an_object_wal() {
    the_high_watermark_never_goes_back(Storage::BucketObject);
}

#[test]
fn the_high_watermark_never_goes_back_on_a_block_wal() {
    the_high_watermark_never_goes_back(Storage::BucketBlock);
}
