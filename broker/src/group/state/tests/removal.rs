//! Behaviours 96 and 98: what may go.

use super::*;
use crate::group::records::CommittedOffset;
use crate::group::subscription::tests::metadata;
use kafka_protocol::error::ResponseError as E;

/// A stable group of one member with this type and metadata.
fn stable(protocol_type: &str, metadata: Bytes) -> (Driver, MemberId) {
    let mut driver = Driver::new();
    let member_id = driver.fresh_id();
    let mut request = driver.request(&member_id);
    request.protocol_type = Arc::from(protocol_type);
    request.protocols = vec![Protocol { name: Arc::from("range"), metadata }];
    driver.join(request);
    driver.pass(3_000);
    driver.sync_all(std::slice::from_ref(&member_id));
    assert_eq!(driver.group.state(), State::Stable);
    (driver, member_id)
}

fn offset(committed_at_ms: i64, expires_at_ms: Option<i64>) -> CommittedOffset {
    CommittedOffset {
        offset: 1,
        leader_epoch: -1,
        metadata: Arc::from(""),
        committed_at_ms,
        expires_at_ms,
        topic_id: None,
    }
}

#[test]
fn behaviour_98_a_group_with_members_is_not_deleted() {
    let (mut driver, ids) = Driver::stable(1);
    assert_eq!(driver.group.check_delete(), Err(E::NonEmptyGroup));
    driver.rejoin(&ids[0]);
    assert_eq!(driver.group.check_delete(), Err(E::NonEmptyGroup), "completing a rebalance");
    driver.leave(&ids[0], None).unwrap();
    assert_eq!(driver.group.check_delete(), Ok(()));
    driver.store_all();
    let now = driver.now;
    driver.group.forget(now);
    assert!(driver.group.is_vacant());
    assert_eq!((driver.group.generation(), driver.group.protocol_type()), (0, None));
}

#[test]
fn behaviour_98_what_a_deleted_group_had_on_its_way_does_not_reach_its_successor() {
    let (mut driver, ids) = Driver::stable(1);
    driver.rejoin(&ids[0]);
    // The assignment of generation 2 is on its way when the member leaves.
    let waiter = driver.sync(&ids[0], &[(&ids[0], "of the first life")]);
    driver.leave(&ids[0], None).unwrap();
    assert_eq!(driver.syncs[&waiter], Err(E::UnknownMemberId));
    let now = driver.now;
    driver.group.forget(now);
    let on_the_way = std::mem::take(&mut driver.stores);
    let (_, _) = driver.join_new();
    driver.pass(3_000);
    let (second, _) = driver.join_new();
    // The first one is silent, and out when its session is over.
    driver.pass(10_000);
    assert_eq!((driver.group.generation(), driver.group.state()), (2, State::CompletingRebalance));
    let waiter = driver.sync(&second, &[]);
    for (id, _) in on_the_way {
        driver.run(|group, now, _, effects| group.stored(now, id, Ok(()), effects));
    }
    assert!(!driver.syncs.contains_key(&waiter), "generation 2 of the first life is not that of the second");
}

#[test]
fn behaviour_98_offsets_of_consumers_are_deleted_but_for_what_they_consume() {
    let (driver, _) = stable("consumer", metadata(3, &["a", "b"]));
    assert_eq!(driver.group.check_delete_offsets(), Ok(()));
    let subscription = driver.group.subscription();
    assert!(subscription.contains("a") && subscription.contains("b") && !subscription.contains("c"));
    let (driver, _) = stable("consumer", text("of a client of its own"));
    assert!(driver.group.subscription().contains("anything"), "who cannot be understood may consume it");
}

#[test]
fn behaviour_98_offsets_of_other_members_are_not_deleted_while_there_are_any() {
    let (mut driver, member_id) = stable("connect", text("opaque"));
    assert_eq!(driver.group.check_delete_offsets(), Err(E::NonEmptyGroup));
    driver.leave(&member_id, None).unwrap();
    assert_eq!(driver.group.check_delete_offsets(), Ok(()));
    assert!(!driver.group.subscription().contains("anything"));
}

#[test]
fn behaviour_96_retention_counts_from_when_the_group_emptied() {
    let (mut driver, member_id) = stable("consumer", metadata(0, &["t"]));
    assert_eq!(driver.group.retained_from(), Some(RetainedFrom::Commit));
    driver.pass(5_000);
    driver.leave(&member_id, None).unwrap();
    let emptied_ms = driver.now.wall_ms;
    assert_eq!(driver.group.retained_from(), Some(RetainedFrom::Emptied(emptied_ms)));
    let (_, value) = driver.stores.last().expect("stored").clone();
    let restored = Group::restore(Arc::from("g"), &value, driver.now);
    assert_eq!(restored.retained_from(), Some(RetainedFrom::Emptied(emptied_ms)), "and so after a restart");
    let unknown = GroupMetadata { state_since_ms: -1, ..value };
    let restored = Group::restore(Arc::from("g"), &unknown, driver.now);
    assert_eq!(restored.retained_from(), Some(RetainedFrom::Commit));
}

#[test]
fn behaviour_96_nothing_expires_during_a_rebalance_nor_of_members_that_are_no_consumers() {
    let (mut driver, member_id) = stable("consumer", metadata(0, &["t"]));
    driver.fresh_id();
    let mut request = driver.request(&member_id);
    request.protocols = vec![Protocol { name: Arc::from("range"), metadata: metadata(0, &["u"]) }];
    driver.join(request);
    assert_eq!((driver.group.state(), driver.group.retained_from()), (State::PreparingRebalance, None));
    driver.pass(12_000);
    assert_eq!((driver.group.state(), driver.group.retained_from()), (State::CompletingRebalance, None));
    let (driver, _) = stable("connect", text("opaque"));
    assert_eq!(driver.group.retained_from(), None);
    assert_eq!(Driver::new().group.retained_from(), Some(RetainedFrom::Commit), "without members ever");
}

#[test]
fn behaviour_96_the_moment_and_a_retention_of_its_own() {
    for (from, base_ms) in [(RetainedFrom::Emptied(1_000), 1_000), (RetainedFrom::Commit, 500)] {
        assert!(!from.is_over(&offset(500, None), 100, base_ms + 99));
        assert!(from.is_over(&offset(500, None), 100, base_ms + 100));
        assert!(!from.is_over(&offset(500, Some(9_000)), 100, 8_999));
        assert!(from.is_over(&offset(500, Some(9_000)), i64::MAX, 9_000));
    }
    assert!(!RetainedFrom::Commit.is_over(&offset(i64::MAX, None), 0, i64::MIN));
}
