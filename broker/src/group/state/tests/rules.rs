//! Kafka's rules, by their numbers in section 4.G of the behaviour list.

use super::*;
use ResponseError as E;

#[test]
fn behaviour_82_a_dynamic_member_without_an_id_is_given_one_and_told_to_come_back() {
    let mut driver = Driver::new();
    let member_id = driver.fresh_id();
    assert!(member_id.starts_with("c-"), "client id and a random part: {member_id}");
    assert_eq!(driver.group.state(), State::Empty);
    let waiter = driver.rejoin(&member_id);
    assert_eq!(driver.group.state(), State::PreparingRebalance);
    driver.pass(3_000);
    assert_eq!(driver.joined(waiter).generation, 1);
}

#[test]
fn behaviour_82_before_v4_the_member_is_added_at_once() {
    let mut driver = Driver::new();
    let mut request = driver.request("");
    request.requires_known_member_id = false;
    let waiter = driver.join(request);
    driver.pass(3_000);
    let joined = driver.joined(waiter);
    assert!(joined.member_id.starts_with("c-"));
    assert_eq!(joined.leader, joined.member_id);
}

#[test]
fn behaviour_82_an_id_that_is_not_used_lapses_with_the_session_timeout() {
    let mut driver = Driver::new();
    let member_id = driver.fresh_id();
    driver.pass(10_000);
    let waiter = driver.rejoin(&member_id);
    assert_eq!(driver.join_error(waiter), E::UnknownMemberId);
    assert!(driver.group.is_vacant());
}

#[test]
fn behaviour_82_a_pending_member_holds_up_the_join_phase_until_it_lapses() {
    let (mut driver, ids) = Driver::stable(1);
    driver.fresh_id();
    let waiter = driver.rejoin(&ids[0]);
    assert!(!driver.joins.contains_key(&waiter));
    driver.pass(10_000);
    assert_eq!(driver.joined(waiter).generation, 2);
}

#[test]
fn behaviour_82_pending_ids_are_bounded() {
    let mut driver = Driver::new();
    driver.rules.pending_members_max = 2;
    driver.fresh_id();
    driver.fresh_id();
    let request = driver.request("");
    let waiter = driver.join(request);
    assert_eq!(driver.join_error(waiter), E::GroupMaxSizeReached);
}

#[test]
fn behaviour_83_an_unknown_member_id_is_refused() {
    let (mut driver, _) = Driver::stable(1);
    let waiter = driver.rejoin("nobody");
    assert_eq!(driver.join_error(waiter), E::UnknownMemberId);
}

#[test]
fn behaviour_83_a_full_group_refuses_new_members() {
    let (mut driver, ids) = Driver::stable(2);
    driver.rules.group_size_max = 2;
    let request = driver.request("");
    let waiter = driver.join(request);
    assert_eq!(driver.join_error(waiter), E::GroupMaxSizeReached);
    assert_eq!(driver.heartbeat(&ids[1]), Ok(()));
}

#[test]
fn behaviour_83_a_group_over_its_size_loses_whoever_rejoins_last() {
    let (mut driver, ids) = Driver::stable(3);
    driver.rules.group_size_max = 2;
    driver.run(|group, now, rules, effects| group.loaded(now, rules, effects));
    assert_eq!(driver.group.state(), State::PreparingRebalance);
    let first = driver.rejoin(&ids[2]);
    let second = driver.rejoin(&ids[1]);
    let third = driver.rejoin(&ids[0]);
    assert_eq!(driver.join_error(third), E::GroupMaxSizeReached);
    assert_eq!(driver.joined(first).generation, 2);
    assert_eq!(driver.joined(second).generation, 2);
}

#[test]
fn behaviour_84_the_protocol_must_be_one_that_all_support() {
    let (mut driver, _) = Driver::stable(2);
    let mut other = driver.request("");
    other.protocols = vec![protocol("sticky", "x")];
    let waiter = driver.join(other);
    assert_eq!(driver.join_error(waiter), E::InconsistentGroupProtocol);
    let mut other = driver.request("");
    other.protocol_type = Arc::from("connect");
    let waiter = driver.join(other);
    assert_eq!(driver.join_error(waiter), E::InconsistentGroupProtocol);
}

#[test]
fn behaviour_84_an_empty_protocol_list_or_type_is_refused() {
    let mut driver = Driver::new();
    let mut request = driver.request("");
    request.protocols.clear();
    let waiter = driver.join(request);
    assert_eq!(driver.join_error(waiter), E::InconsistentGroupProtocol);
    let mut request = driver.request("");
    request.protocol_type = Arc::from("");
    let waiter = driver.join(request);
    assert_eq!(driver.join_error(waiter), E::InconsistentGroupProtocol);
}

#[test]
fn behaviour_84_each_member_votes_for_its_first_candidate_and_most_votes_win() {
    let mut driver = Driver::new();
    let mut waiters = Vec::new();
    let ids: Vec<MemberId> = (0..3).map(|_| driver.fresh_id()).collect();
    for (member_id, order) in ids.into_iter().zip([["a", "b", "x"], ["b", "a", "y"], ["b", "z", "a"]]) {
        let mut request = driver.request(&member_id);
        request.protocols = order.iter().map(|name| protocol(name, name)).collect();
        waiters.push(driver.join(request));
    }
    driver.pass(12_000);
    for waiter in waiters {
        assert_eq!(driver.joined(waiter).protocol.as_deref(), Some("b"));
    }
}

#[test]
fn behaviour_85_only_the_leader_gets_the_members() {
    let mut driver = Driver::new();
    let joining: Vec<_> = (0..3).map(|_| driver.join_new()).collect();
    driver.pass(12_000);
    let leader = driver.joined(joining[0].1).leader;
    for (member_id, waiter) in joining {
        let joined = driver.joined(waiter);
        assert_eq!(joined.members.len(), if member_id == leader { 3 } else { 0 });
        assert!(joined.members.iter().all(|member| member.metadata == text("topics")));
        assert_eq!(joined.protocol_type.as_deref(), Some("consumer"));
    }
}

#[test]
fn behaviour_86_a_leader_that_rejoins_a_stable_group_starts_a_rebalance() {
    let (mut driver, ids) = Driver::stable(2);
    driver.rejoin(&ids[0]);
    assert_eq!(driver.group.state(), State::PreparingRebalance);
}

#[test]
fn behaviour_86_a_follower_that_rejoins_unchanged_gets_the_current_generation() {
    let (mut driver, ids) = Driver::stable(2);
    let waiter = driver.rejoin(&ids[1]);
    assert_eq!(driver.joined(waiter).generation, 1);
    assert!(driver.joined(waiter).members.is_empty());
    assert_eq!(driver.group.state(), State::Stable);
}

#[test]
fn behaviour_86_a_follower_with_other_metadata_starts_a_rebalance() {
    let (mut driver, ids) = Driver::stable(2);
    let mut request = driver.request(&ids[1]);
    request.protocols = vec![protocol("range", "other topics")];
    driver.join(request);
    assert_eq!(driver.group.state(), State::PreparingRebalance);
    assert_eq!(driver.heartbeat(&ids[0]), Err(E::RebalanceInProgress));
}

#[test]
fn behaviour_86_rejoining_unchanged_before_the_sync_gets_the_same_generation() {
    let mut driver = Driver::new();
    let (member_id, waiter) = driver.join_new();
    driver.pass(3_000);
    let again = driver.rejoin(&member_id);
    assert_eq!(driver.joined(again), driver.joined(waiter));
    let mut changed = driver.request(&member_id);
    changed.protocols = vec![protocol("range", "other")];
    let waiter = driver.join(changed);
    assert_eq!(driver.joined(waiter).generation, 2);
}

#[test]
fn behaviour_87_the_initial_delay_is_prolonged_by_new_members_up_to_the_rebalance_timeout() {
    let mut driver = Driver::new();
    let (_, first) = driver.join_new();
    driver.pass(2_000);
    let (_, second) = driver.join_new();
    driver.pass(2_000);
    assert!(driver.joins.len() == 2, "only the answers with the member ids");
    driver.pass(2_000);
    assert_eq!(driver.joined(first).generation, 1);
    assert_eq!(driver.joined(second).generation, 1);
}

#[test]
fn behaviour_87_no_initial_delay_where_it_is_zero() {
    let mut driver = Driver::new();
    driver.rules.initial_rebalance_delay = Duration::ZERO;
    let (_, waiter) = driver.join_new();
    driver.pass(0);
    assert_eq!(driver.joined(waiter).generation, 1);
}

#[test]
fn behaviour_87_late_dynamic_members_are_evicted_and_a_joined_one_leads() {
    let (mut driver, ids) = Driver::stable(2);
    let mut request = driver.request(&ids[1]);
    request.protocols = vec![protocol("range", "other")];
    let waiter = driver.join(request);
    for _ in 0..12 {
        driver.pass(5_000);
        let beat = driver.heartbeat(&ids[0]);
        assert!(matches!(beat, Err(E::RebalanceInProgress | E::IllegalGeneration | E::UnknownMemberId)));
    }
    let joined = driver.joined(waiter);
    assert_eq!((joined.generation, joined.leader), (2, ids[1].clone()));
    assert_eq!(driver.heartbeat(&ids[0]), Err(E::UnknownMemberId));
}

#[test]
fn behaviour_88_who_joins_and_never_syncs_is_removed() {
    let mut driver = Driver::new();
    let joining: Vec<_> = (0..2).map(|_| driver.join_new()).collect();
    driver.pass(12_000);
    let leader = driver.joined(joining[0].1).leader;
    let silent = &joining.iter().find(|(id, _)| *id != leader).unwrap().0;
    driver.sync(&leader, &[(&leader, "all")]);
    driver.store_all();
    for _ in 0..12 {
        driver.pass(5_000);
        let _ = driver.heartbeat(&leader);
        let _ = driver.heartbeat(silent);
    }
    assert_eq!(driver.heartbeat(silent), Err(E::UnknownMemberId));
    assert_eq!(driver.group.state(), State::PreparingRebalance);
}

#[test]
fn behaviour_88_waiting_for_the_end_of_the_join_phase_does_not_end_the_session() {
    let (mut driver, ids) = Driver::stable(2);
    let waiter = driver.rejoin(&ids[0]);
    for _ in 0..4 {
        driver.pass(5_000);
        assert_eq!(driver.heartbeat(&ids[1]), Err(E::RebalanceInProgress));
    }
    assert!(!driver.joins.contains_key(&waiter), "20 s of a 10 s session, and still waiting");
    driver.rejoin(&ids[1]);
    assert_eq!(driver.joined(waiter).generation, 2);
}

#[test]
fn behaviour_88_a_new_member_whose_join_is_never_answered_lapses() {
    let (mut driver, _) = Driver::stable(1);
    driver.rules.new_member_join_timeout = Duration::from_secs(30);
    let member_id = driver.fresh_id();
    let mut request = driver.request(&member_id);
    request.rebalance_timeout_ms = 600_000;
    let waiter = driver.join(request);
    // The first member keeps its session and never rejoins.
    let first = driver.group.leader.clone().unwrap();
    for _ in 0..7 {
        driver.pass(5_000);
        let _ = driver.heartbeat(&first);
    }
    assert_eq!(driver.join_error(waiter), E::UnknownMemberId);
}

#[test]
fn behaviour_89_sync_errors() {
    let (mut driver, ids) = Driver::stable(2);
    let request = |member_id: &MemberId, generation| SyncRequest {
        member_id: member_id.clone(),
        instance_id: None,
        generation,
        protocol_type: Some(Arc::from("consumer")),
        protocol: Some(Arc::from("range")),
        assignments: Vec::new(),
    };
    let wrong_generation = driver.sync_with(request(&ids[1], 7));
    assert_eq!(driver.syncs[&wrong_generation], Err(E::IllegalGeneration));
    let unknown = driver.sync_with(request(&Arc::from("nobody"), 1));
    assert_eq!(driver.syncs[&unknown], Err(E::UnknownMemberId));
    let mut other = request(&ids[1], 1);
    other.protocol = Some(Arc::from("sticky"));
    let other_protocol = driver.sync_with(other);
    assert_eq!(driver.syncs[&other_protocol], Err(E::InconsistentGroupProtocol));
    let mut other = request(&ids[1], 1);
    other.protocol_type = Some(Arc::from("connect"));
    let other_type = driver.sync_with(other);
    assert_eq!(driver.syncs[&other_type], Err(E::InconsistentGroupProtocol));
    driver.rejoin(&ids[0]);
    let preparing = driver.sync_with(request(&ids[1], 1));
    assert_eq!(driver.syncs[&preparing], Err(E::RebalanceInProgress));
}

#[test]
fn behaviour_89_stable_returns_the_current_assignment_and_a_missing_one_is_empty() {
    let mut driver = Driver::new();
    let joining: Vec<_> = (0..2).map(|_| driver.join_new()).collect();
    driver.pass(12_000);
    let leader = driver.joined(joining[0].1).leader;
    let follower = joining.iter().map(|(id, _)| id).find(|id| **id != leader).unwrap().clone();
    let early = driver.sync(&follower, &[]);
    driver.sync(&leader, &[(&leader, "mine")]);
    driver.store_all();
    assert_eq!(driver.syncs[&early].clone().unwrap().assignment, Bytes::new());
    let again = driver.sync(&leader, &[]);
    assert_eq!(driver.syncs[&again].clone().unwrap().assignment, text("mine"));
}

#[test]
fn behaviour_101_assignments_are_released_only_once_durable() {
    let mut driver = Driver::new();
    let (member_id, _) = driver.join_new();
    driver.pass(3_000);
    let waiter = driver.sync(&member_id, &[(&member_id, "all")]);
    assert!(!driver.syncs.contains_key(&waiter), "not durable yet (G3)");
    assert_eq!(driver.group.state(), State::CompletingRebalance);
    let (_, value) = driver.stores[0].clone();
    assert_eq!((value.generation, value.members[0].assignment.clone()), (1, text("all")));
    driver.store_all();
    assert_eq!(driver.syncs[&waiter].clone().unwrap().assignment, text("all"));
}

#[test]
fn behaviour_101_an_assignment_of_a_generation_that_is_over_is_dropped() {
    let mut driver = Driver::new();
    let (member_id, _) = driver.join_new();
    driver.pass(3_000);
    let waiter = driver.sync(&member_id, &[(&member_id, "all")]);
    let mut changed = driver.request(&member_id);
    changed.protocols = vec![protocol("range", "other")];
    let joined = driver.join(changed);
    assert_eq!(driver.syncs[&waiter], Err(E::RebalanceInProgress));
    assert_eq!(driver.joined(joined).generation, 2);
    driver.store_all();
    assert_eq!(driver.group.state(), State::CompletingRebalance, "the value was generation 1's");
}

#[test]
fn behaviour_101_a_failed_write_is_reported_and_the_group_rebalances() {
    let (mut driver, ids) = Driver::stable(1);
    let waiter = driver.rejoin(&ids[0]);
    assert_eq!(driver.joined(waiter).generation, 2);
    let waiter = driver.sync(&ids[0], &[(&ids[0], "all")]);
    let (id, _) = driver.stores.remove(0);
    driver.run(|group, now, _, effects| group.stored(now, id, Err(E::NotCoordinator), effects));
    assert_eq!(driver.syncs[&waiter], Err(E::NotCoordinator));
    assert_eq!(driver.group.state(), State::PreparingRebalance);
}

#[test]
fn behaviour_101_a_restored_group_goes_on_without_a_rebalance() {
    let (mut driver, ids) = Driver::stable(3);
    driver.rejoin(&ids[0]);
    driver.rejoin(&ids[1]);
    driver.rejoin(&ids[2]);
    for id in [&ids[1], &ids[2]] {
        driver.sync(id, &[]);
    }
    driver.sync(&ids[0], &[(&ids[0], "x"), (&ids[1], "y"), (&ids[2], "z")]);
    let value = driver.stores.last().unwrap().1.clone();
    let mut restored = Driver::new();
    restored.group = Group::restore(Arc::from("g"), &value, restored.now);
    assert_eq!((restored.group.state(), restored.group.generation()), (State::Stable, 2));
    for (id, assignment) in ids.iter().zip(["x", "y", "z"]) {
        assert_eq!(restored.heartbeat(id), Ok(()));
        let waiter = restored.sync(id, &[]);
        assert_eq!(restored.syncs[&waiter].clone().unwrap().assignment, text(assignment));
    }
    assert_eq!(restored.group.leader.as_ref(), Some(&ids[0]));
    restored.pass(10_001);
    assert_eq!(restored.group.state(), State::Empty, "sessions run from the restart");
}

#[test]
fn behaviour_90_heartbeats() {
    let (mut driver, ids) = Driver::stable(2);
    assert_eq!(driver.heartbeat(&ids[0]), Ok(()));
    assert_eq!(driver.heartbeat("nobody"), Err(E::UnknownMemberId));
    let now = driver.now;
    assert_eq!(driver.group.heartbeat(now, &ids[0], None, 9), Err(E::IllegalGeneration));
    assert_eq!(driver.group.heartbeat(now, &ids[0], Some("i"), 1), Err(E::UnknownMemberId));
    driver.rejoin(&ids[0]);
    assert_eq!(driver.heartbeat(&ids[1]), Err(E::RebalanceInProgress));
    driver.pass(9_000);
    assert_eq!(driver.heartbeat(&ids[1]), Err(E::RebalanceInProgress));
    driver.pass(9_000);
    assert_eq!(driver.heartbeat(&ids[1]), Err(E::RebalanceInProgress), "the timer was reset");
}

#[test]
fn behaviour_90_completing_rebalance_is_fine_and_empty_is_not() {
    let mut driver = Driver::new();
    let (member_id, _) = driver.join_new();
    driver.pass(3_000);
    assert_eq!(driver.group.state(), State::CompletingRebalance);
    assert_eq!(driver.heartbeat(&member_id), Ok(()));
    driver.leave(&member_id, None).unwrap();
    assert_eq!(driver.group.state(), State::Empty);
    assert_eq!(driver.heartbeat(&member_id), Err(E::UnknownMemberId));
}

#[test]
fn behaviour_90_a_silent_member_is_removed_and_the_group_rebalances() {
    let (mut driver, ids) = Driver::stable(2);
    driver.pass(6_000);
    assert_eq!(driver.heartbeat(&ids[0]), Ok(()));
    driver.pass(6_000);
    assert_eq!(driver.heartbeat(&ids[0]), Err(E::RebalanceInProgress));
    let waiter = driver.rejoin(&ids[0]);
    assert_eq!(driver.joined(waiter).members.len(), 1);
}

#[test]
fn behaviour_91_leaving_rebalances_at_once_with_a_result_for_each() {
    let (mut driver, ids) = Driver::stable(3);
    let leave = |id: &str| Leaving { member_id: Arc::from(id), instance_id: None };
    let leaving = [leave(&ids[2]), leave("nobody"), leave("")];
    let results = driver.run(|group, now, _, effects| group.leave(now, &leaving, effects));
    assert_eq!(results, [Ok(()), Err(E::UnknownMemberId), Err(E::UnknownMemberId)]);
    assert_eq!(driver.group.state(), State::PreparingRebalance);
}

#[test]
fn behaviour_91_the_last_to_leave_empties_the_group_in_a_new_generation() {
    let (mut driver, ids) = Driver::stable(1);
    driver.leave(&ids[0], None).unwrap();
    assert_eq!((driver.group.state(), driver.group.generation()), (State::Empty, 2));
    let (_, value) = &driver.stores[0];
    assert!(value.members.is_empty());
    assert_eq!((value.protocol.clone(), value.generation), (None, 2));
}

#[test]
fn behaviour_91_a_pending_member_may_leave() {
    let (mut driver, ids) = Driver::stable(1);
    let pending = driver.fresh_id();
    let waiter = driver.rejoin(&ids[0]);
    assert!(!driver.joins.contains_key(&waiter));
    driver.leave(&pending, None).unwrap();
    assert_eq!(driver.joined(waiter).generation, 2);
}

#[test]
fn behaviour_91_an_instance_is_removed_by_its_instance_id_alone() {
    let mut driver = Driver::new();
    driver.join_static("one");
    driver.pass(3_000);
    assert_eq!(driver.leave("", Some("two")), Err(E::UnknownMemberId));
    assert_eq!(driver.leave("", Some("one")), Ok(()));
    assert_eq!(driver.group.state(), State::Empty);
}

/// A stable group of static members "a" and "b", "a" leading.
fn static_pair() -> (Driver, MemberId, MemberId) {
    let mut driver = Driver::new();
    let first = driver.join_static("a");
    let second = driver.join_static("b");
    driver.pass(12_000);
    let (a, b) = (driver.joined(first).member_id, driver.joined(second).member_id);
    assert_eq!(driver.joined(first).leader, a);
    driver.sync_all(&[a.clone(), b.clone()]);
    (driver, a, b)
}

#[test]
fn behaviour_92_a_static_member_gets_its_id_without_the_extra_round() {
    let mut driver = Driver::new();
    let waiter = driver.join_static("one");
    driver.pass(3_000);
    assert!(driver.joined(waiter).member_id.starts_with("one-"));
}

#[test]
fn behaviour_92_an_instance_that_comes_back_replaces_its_member_without_a_rebalance() {
    let (mut driver, _, b) = static_pair();
    let waiter = driver.join_static("b");
    assert!(!driver.joins.contains_key(&waiter), "not before it is durable");
    driver.store_all();
    let joined = driver.joined(waiter);
    assert_ne!(joined.member_id, b);
    assert_eq!((driver.group.state(), joined.generation), (State::Stable, 1));
    let synced = driver.sync(&joined.member_id, &[]);
    assert_eq!(driver.syncs[&synced].clone().unwrap().assignment, text("1"), "it keeps its assignment");
}

#[test]
fn behaviour_92_the_old_member_id_is_fenced() {
    let (mut driver, _, b) = static_pair();
    driver.join_static("b");
    driver.store_all();
    let now = driver.now;
    assert_eq!(driver.group.heartbeat(now, &b, Some("b"), 1), Err(E::FencedInstanceId));
    assert_eq!(driver.group.check_commit(now, &b, Some("b"), 1), Err(E::FencedInstanceId));
    let mut request = driver.request(&b);
    request.instance_id = Some(Arc::from("b"));
    let waiter = driver.join(request);
    assert_eq!(driver.join_error(waiter), E::FencedInstanceId);
    assert_eq!(driver.leave(&b, Some("b")), Err(E::FencedInstanceId));
}

#[test]
fn behaviour_92_whoever_waits_under_the_old_id_is_fenced_at_once() {
    let mut driver = Driver::new();
    let old = driver.join_static("a");
    let new = driver.join_static("a");
    assert_eq!(driver.join_error(old), E::FencedInstanceId);
    driver.pass(12_000);
    assert_eq!(driver.joined(new).generation, 1);
}

#[test]
fn behaviour_92_a_returning_leader_skips_the_assignment_from_v9_on() {
    let (mut driver, a, _) = static_pair();
    let waiter = driver.join_static("a");
    driver.store_all();
    let joined = driver.joined(waiter);
    assert!(joined.skip_assignment && joined.leader == joined.member_id && joined.members.len() == 2);
    let mut older = driver.request("");
    older.instance_id = Some(Arc::from("a"));
    older.supports_skipping_assignment = false;
    let current_leader = joined.member_id.clone();
    let waiter = driver.join(older);
    driver.store_all();
    let joined = driver.joined(waiter);
    assert_ne!(joined.leader, joined.member_id, "it must not take itself for the leader");
    assert_eq!(joined.leader, current_leader);
    assert!(joined.members.is_empty() && joined.leader != a);
}

#[test]
fn behaviour_92_a_change_of_the_chosen_protocol_rebalances() {
    let mut driver = Driver::new();
    for name in ["a", "b"] {
        let mut request = driver.request("");
        request.instance_id = Some(Arc::from(name));
        request.protocols = vec![protocol("range", "t"), protocol("sticky", "t")];
        driver.join(request);
    }
    driver.pass(12_000);
    let ids: Vec<MemberId> = {
        let leader = driver.group.leader.clone().unwrap();
        let other = driver.group.members.keys().find(|id| **id != leader).unwrap().clone();
        vec![leader, other]
    };
    driver.sync_all(&ids);
    let mut request = driver.request("");
    request.instance_id = Some(Arc::from("b"));
    request.protocols = vec![protocol("sticky", "t")];
    driver.join(request);
    assert_eq!(driver.group.state(), State::PreparingRebalance);
}

#[test]
fn behaviour_92_a_replacement_before_the_sync_rebalances() {
    let mut driver = Driver::new();
    driver.join_static("a");
    driver.join_static("b");
    driver.pass(12_000);
    driver.join_static("b");
    assert_eq!(driver.group.state(), State::PreparingRebalance);
}

#[test]
fn behaviour_92_a_static_member_keeps_its_place_until_its_session_is_over() {
    let (mut driver, a, b) = static_pair();
    driver.pass(9_999);
    assert_eq!(driver.group.state(), State::Stable);
    let now = driver.now;
    driver.group.heartbeat(now, &a, Some("a"), 1).unwrap();
    driver.pass(2);
    assert_eq!(driver.group.heartbeat(now, &b, Some("b"), 1), Err(E::UnknownMemberId));
    assert_eq!(driver.group.state(), State::PreparingRebalance);
}

#[test]
fn behaviour_92_static_members_that_miss_a_rebalance_are_kept_in_the_generation() {
    let (mut driver, a, b) = static_pair();
    let mut request = driver.request(&a);
    request.instance_id = Some(Arc::from("a"));
    let waiter = driver.join(request);
    for _ in 0..12 {
        driver.pass(5_000);
        let now = driver.now;
        let generation = driver.group.generation();
        let _ = driver.group.heartbeat(now, &b, Some("b"), generation);
    }
    assert_eq!(driver.joined(waiter).members.len(), 2);
}

#[test]
fn behaviour_93_commits_by_generation_and_state() {
    let (mut driver, ids) = Driver::stable(2);
    let now = driver.now;
    let group = &mut driver.group;
    assert_eq!(group.check_commit(now, &ids[0], None, 1), Ok(()));
    assert_eq!(group.check_commit(now, "", None, -1), Err(E::UnknownMemberId));
    assert_eq!(group.check_commit(now, "nobody", None, 1), Err(E::UnknownMemberId));
    assert_eq!(group.check_commit(now, &ids[0], None, 2), Err(E::IllegalGeneration));
    let mut simple = Group::new(Arc::from("simple"), now);
    assert_eq!(simple.check_commit(now, "", None, -1), Ok(()));
    driver.rejoin(&ids[0]);
    assert_eq!(driver.group.check_commit(now, &ids[1], None, 1), Ok(()), "before it rejoins it may commit");
    driver.rejoin(&ids[1]);
    assert_eq!(driver.group.state(), State::CompletingRebalance);
    assert_eq!(driver.group.check_commit(now, &ids[1], None, 2), Err(E::RebalanceInProgress));
}

#[test]
fn behaviour_93_a_commit_counts_as_a_heartbeat() {
    let (mut driver, ids) = Driver::stable(1);
    for _ in 0..4 {
        driver.pass(9_000);
        let now = driver.now;
        assert_eq!(driver.group.check_commit(now, &ids[0], None, 1), Ok(()));
    }
}

#[test]
fn behaviour_99_metadata_and_protocol_are_shown_only_when_stable() {
    let (mut driver, ids) = Driver::stable(1);
    let shown = driver.group.describe();
    assert_eq!((&*shown.protocol, &*shown.protocol_type), ("range", "consumer"));
    assert_eq!(shown.members[0].metadata, text("topics"));
    assert_eq!(shown.members[0].assignment, text("0"));
    driver.fresh_id();
    driver.rejoin(&ids[0]);
    let shown = driver.group.describe();
    assert_eq!((shown.state.name(), &*shown.protocol), ("PreparingRebalance", ""));
    assert!(shown.members[0].metadata.is_empty() && shown.members[0].assignment.is_empty());
}

#[test]
fn behaviour_100_metadata_and_assignments_are_opaque() {
    let mut driver = Driver::new();
    let member_id = driver.fresh_id();
    let mut request = driver.request(&member_id);
    let junk = Bytes::from_static(&[0xff, 0x00, 0x80]);
    request.protocol_type = Arc::from("connect");
    request.protocols = vec![Protocol { name: Arc::from("compatible"), metadata: junk.clone() }];
    let waiter = driver.join(request);
    driver.pass(3_000);
    assert_eq!(driver.joined(waiter).members[0].metadata, junk);
    let sync = SyncRequest {
        member_id: member_id.clone(),
        instance_id: None,
        generation: 1,
        protocol_type: None,
        protocol: None,
        assignments: vec![(member_id, junk.clone())],
    };
    let waiter = driver.sync_with(sync);
    driver.store_all();
    assert_eq!(driver.syncs[&waiter].clone().unwrap().assignment, junk);
}
