//! The store does what the crate's page says.

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::sync::Arc;

use crate::{Fault, FaultStore, Operation, Rule};

fn key() -> Path {
    Path::from("a/b")
}

async fn create(store: &FaultStore, bytes: &'static str) -> object_store::Result<()> {
    let options = PutOptions::from(PutMode::Create);
    store.put_opts(&key(), PutPayload::from_static(bytes.as_bytes()), options).await.map(drop)
}

async fn stored(store: &FaultStore) -> Option<String> {
    let bytes = store.inner().get(&key()).await.ok()?.bytes().await.unwrap();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

fn failing(fault: Fault) -> FaultStore {
    let store = FaultStore::in_memory(1);
    store.add(Rule::new(Operation::Put, fault).times(1));
    store
}

#[tokio::test]
async fn refusals_and_conflicts_change_nothing() {
    let store = failing(Fault::Refuse);
    assert!(matches!(create(&store, "x").await, Err(Error::Generic { .. })));
    assert_eq!(stored(&store).await, None);
    let store = failing(Fault::Conflict);
    assert!(
        matches!(create(&store, "x").await, Err(Error::AlreadyExists { source, .. }) if source.to_string().contains("409"))
    );
    assert_eq!(stored(&store).await, None);
    create(&store, "y").await.unwrap();
    assert_eq!(stored(&store).await.as_deref(), Some("y"));
}

#[tokio::test]
async fn lost_replies_and_hidden_retries_apply() {
    let store = failing(Fault::LoseReply);
    assert!(matches!(create(&store, "x").await, Err(Error::Generic { .. })));
    assert_eq!(stored(&store).await.as_deref(), Some("x"));
    let store = failing(Fault::HiddenRetry);
    assert!(matches!(create(&store, "x").await, Err(Error::AlreadyExists { .. })));
    assert_eq!(stored(&store).await.as_deref(), Some("x"));
}

#[tokio::test]
async fn late_puts_land_when_they_are_told_to() {
    let store = failing(Fault::Late);
    assert!(create(&store, "late").await.is_err());
    assert_eq!(stored(&store).await, None);
    assert_eq!(store.land_late().await, 1);
    assert_eq!(stored(&store).await.as_deref(), Some("late"));
    // Overtaken by another create, a late one has no effect.
    let store = failing(Fault::Late);
    assert!(create(&store, "late").await.is_err());
    create(&store, "first").await.unwrap();
    assert_eq!(store.land_late().await, 0);
    assert_eq!(stored(&store).await.as_deref(), Some("first"));
}

#[tokio::test]
async fn bodies_are_damaged_as_asked_and_counts_add_up() {
    let store = FaultStore::in_memory(1);
    create(&store, "0123456789").await.unwrap();
    store.add(Rule::new(Operation::Get, Fault::Truncate(4)).times(1));
    store.add(Rule::new(Operation::Get, Fault::FlipBit(0)).times(1));
    store.add(Rule::new(Operation::Get, Fault::Hide).times(1));
    let read = || async { store.get(&key()).await?.bytes().await };
    assert_eq!(read().await.unwrap(), "0123");
    assert_eq!(read().await.unwrap(), "1123456789");
    assert!(matches!(read().await, Err(Error::NotFound { .. })));
    assert_eq!(read().await.unwrap(), "0123456789");
    assert_eq!((store.counts().puts, store.counts().gets), (1, 4));
    store.add(Rule::new(Operation::List, Fault::Hide).times(1));
    let list = || async { store.list(None).try_collect::<Vec<_>>().await.unwrap().len() };
    assert_eq!((list().await, list().await), (0, 1));
}

#[tokio::test]
async fn held_puts_complete_in_any_order_or_are_dropped() {
    let store = FaultStore::new(Arc::new(InMemory::new()), 1);
    store.hold_puts();
    let put = |name: &'static str| {
        let store = store.clone();
        tokio::spawn(async move { store.put(&Path::from(name), PutPayload::from_static(b"x")).await.is_ok() })
    };
    let (one, two, three) = (put("1"), put("2"), put("3"));
    while store.held_puts().len() < 3 {
        tokio::task::yield_now().await;
    }
    let nth = |name: &str| store.held_puts().iter().position(|key| key.as_ref() == name).unwrap();
    store.complete_put(nth("2"));
    assert!(two.await.unwrap());
    store.drop_put(nth("1"));
    assert!(!one.await.unwrap());
    store.resume_puts();
    assert!(three.await.unwrap());
    assert!(store.inner().head(&Path::from("1")).await.is_err());
}

#[tokio::test]
async fn a_careless_store_lets_several_creates_win() {
    let store = FaultStore::in_memory(1);
    let winners = |store: FaultStore| async move {
        let creates = (0..8).map(|_| create(&store, "x"));
        futures::future::join_all(creates).await.into_iter().filter(Result::is_ok).count()
    };
    assert_eq!(winners(store).await, 1);
    let careless = FaultStore::in_memory(1);
    careless.careless();
    assert!(winners(careless).await > 1);
}

#[tokio::test]
async fn an_outage_refuses_everything_until_it_is_healed() {
    let store = FaultStore::in_memory(1);
    store.set_outage(true);
    assert!(create(&store, "x").await.is_err());
    assert!(store.get(&key()).await.is_err() && store.delete(&key()).await.is_err());
    store.heal();
    create(&store, "x").await.unwrap();
}
