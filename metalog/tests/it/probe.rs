//! The probe accepts what keeps its promise and nothing else.

use std::sync::Arc;
use std::time::Duration;

use metalog::probe::{Options, ProbeFailure, Seen, probe};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::rough::{Faults, Rough};

#[tokio::test(start_paused = true)]
async fn a_store_in_memory_is_accepted_and_left_clean() {
    let store = Arc::new(InMemory::new());
    let report = probe(store.clone(), Options::default()).await.unwrap();
    assert_eq!((report.writers, report.rounds, report.unclear), (8, 16, 0));
    assert!(store.list_with_delimiter(None).await.unwrap().common_prefixes.is_empty());
}

#[tokio::test]
async fn a_local_directory_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(directory.path()).unwrap().with_fsync(true);
    probe(Arc::new(store), Options::default()).await.unwrap();
}

async fn refused(store: &Rough) -> (Seen, String) {
    match probe(store.store(), Options::default()).await {
        Err(ProbeFailure::Unsafe(seen)) => (seen, ProbeFailure::Unsafe(seen).to_string()),
        other => panic!("this store must be refused, not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_checks_and_then_writes_is_refused() {
    let store = Rough::new(1);
    store.faulty.careless();
    let (seen, text) = refused(&store).await;
    assert_eq!((seen.several_winners, seen.overwritten), (16, 0));
    assert!(text.contains("in 16 of 16 rounds more than one of 8 concurrent creates"), "{text}");
    assert!(text.contains("Use a store that"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ignores_the_header_is_refused() {
    let store = Rough::new(1);
    store.ignore_creates();
    let (seen, text) = refused(&store).await;
    assert_eq!(seen.overwritten, 16);
    assert!(text.contains("a create of a key that existed already succeeded"), "{text}");
}

/// Lost answers, hidden retries and conflicts are no broken promises, whatever their mix.
#[tokio::test(start_paused = true)]
async fn a_rough_store_that_keeps_its_promise_is_accepted() {
    for seed in 0..50 {
        let store = Rough::new(seed);
        store.set_delay(Duration::from_millis(50));
        store.set_faults(Faults {
            refused: 0.1,
            lost_reply: 0.1,
            hidden_retry: 0.1,
            conflict: 0.1,
            late: 0.1,
            duplicate: 0.1,
            hang: 0.01,
        });
        let landing = async {
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                store.faulty.land_late().await;
            }
        };
        let probed = tokio::select! {
            probed = probe(store.store(), Options::default()) => probed,
            () = landing => unreachable!("it has no end"),
        };
        match probed {
            Ok(report) => assert!(report.unclear > 0),
            // Too rough to tell is an honest answer.
            Err(ProbeFailure::Unavailable(_)) => {}
            Err(failure) => panic!("seed {seed}: {failure}"),
        }
    }
}

/// Only the losers of a race hear of it: hidden retries must not make a racy store look right.
#[tokio::test(start_paused = true)]
async fn a_rough_store_that_breaks_its_promise_is_refused() {
    for seed in 0..20 {
        let store = Rough::new(seed);
        store.faulty.careless();
        store.set_faults(Faults { refused: 0.05, hidden_retry: 0.2, ..Faults::default() });
        match probe(store.store(), Options::default()).await {
            Err(ProbeFailure::Unsafe(seen)) => assert!(seen.several_winners > 0),
            other => panic!("seed {seed}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_not_judged() {
    let store = Rough::new(0);
    store.faulty.set_outage(true);
    match probe(store.store(), Options::default()).await {
        Err(ProbeFailure::Unavailable(detail)) => assert!(detail.contains("503"), "{detail}"),
        other => panic!("{other:?}"),
    }
    store.set_faults(Faults { hang: 1.0, ..Faults::default() });
    match probe(store.store(), Options::default()).await {
        Err(ProbeFailure::Unavailable(detail)) => assert!(detail.contains("no answer"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

/// "Exists already" for everything, and nothing there.
#[tokio::test(start_paused = true)]
async fn a_store_on_which_nobody_ever_wins_is_not_accepted() {
    let store = Rough::new(0);
    store.set_faults(Faults { conflict: 1.0, ..Faults::default() });
    match probe(store.store(), Options::default()).await {
        Err(ProbeFailure::Unavailable(detail)) => assert!(detail.contains("nobody could create"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_can_be_read_and_deleted_by_hand() {
    let store = Rough::new(0);
    store.set_faults(Faults { late: 0.5, ..Faults::default() });
    let _ = probe(store.store(), Options { retries: 0, ..Options::default() }).await;
    assert!(store.faulty.land_late().await > 0);
    for left in store.inner().list_with_delimiter(Some(&"probe".into())).await.unwrap().common_prefixes {
        for object in store.inner().list_with_delimiter(Some(&left)).await.unwrap().objects {
            let body = store.inner().get(&object.location).await.unwrap().bytes().await.unwrap();
            assert!(body.starts_with(b"Ottla tests this store; this object may be deleted."));
        }
    }
}
