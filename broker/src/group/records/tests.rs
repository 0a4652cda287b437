use super::*;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn offset_key() -> Key {
    Key::Offset { group: Arc::from("grp"), topic: Arc::from("orders"), partition: 7 }
}

fn offset() -> CommittedOffset {
    CommittedOffset {
        offset: 4711,
        leader_epoch: 3,
        metadata: Arc::from("note"),
        committed_at_ms: 0x18c_5678_9abc,
        expires_at_ms: None,
        topic_id: Some(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)),
    }
}

fn group() -> GroupMetadata {
    let member = MemberMetadata {
        member_id: Arc::from("m-1"),
        instance_id: Some(Arc::from("i")),
        client_id: Arc::from("c"),
        client_host: Arc::from("/h"),
        rebalance_timeout_ms: 300_000,
        session_timeout_ms: 45_000,
        subscription: Bytes::from_static(&[0, 1]),
        assignment: Bytes::from_static(&[2]),
    };
    let dynamic = MemberMetadata { instance_id: None, member_id: Arc::from("m-2"), ..member.clone() };
    GroupMetadata {
        protocol_type: Arc::from("consumer"),
        generation: 5,
        protocol: Some(Arc::from("range")),
        leader: Some(Arc::from("m-1")),
        state_since_ms: 1_700_000_000_000,
        members: vec![member, dynamic],
    }
}

const OFFSET_KEY: &str = "0001 0003 677270 0006 6f7264657273 00000007";
const OFFSET_V4: &str = "0004 0000000000001267 00000003 05 6e6f7465 0000018c56789abc \
                         01 00 10 00112233445566778899aabbccddeeff";
const OFFSET_V4_EXPIRING: &str = "0004 0000000000001267 00000003 05 6e6f7465 0000018c56789abc \
                                  02 00 10 00112233445566778899aabbccddeeff d49e01 08 0000018c56789abd";
const OFFSET_V1: &str = "0001 0000000000001267 0004 6e6f7465 0000018c56789abc 0000018c56789abd";
const OFFSET_V3: &str = "0003 0000000000001267 00000003 0004 6e6f7465 0000018c56789abc";
const GROUP_KEY: &str = "0002 0003 677270";
const GROUP_V3: &str = "0003 0008 636f6e73756d6572 00000005 0005 72616e6765 0003 6d2d31 0000018bcfe56800 00000002 \
    0003 6d2d31 0001 69 0001 63 0002 2f68 000493e0 0000afc8 00000002 0001 00000001 02 \
    0003 6d2d32 ffff 0001 63 0002 2f68 000493e0 0000afc8 00000002 0001 00000001 02";
const GROUP_V4: &str = "0004 09 636f6e73756d6572 00000005 06 72616e6765 04 6d2d31 0000018bcfe56800 03 \
    04 6d2d31 02 69 02 63 03 2f68 000493e0 0000afc8 03 0001 02 02 00 \
    04 6d2d32 00 02 63 03 2f68 000493e0 0000afc8 03 0001 02 02 01 05 01 ff 00";
const GROUP_V0: &str = "0000 0008 636f6e73756d6572 00000005 0005 72616e6765 0003 6d2d31 00000001 \
    0003 6d2d31 0001 63 0002 2f68 0000afc8 00000002 0001 00000001 02";

#[test]
fn golden_keys() {
    assert_eq!(hex(&offset_key().encode().unwrap()), OFFSET_KEY.replace(' ', ""));
    assert_eq!(Key::decode(&unhex(OFFSET_KEY)), Ok(Some(offset_key())));
    let version_0 = OFFSET_KEY.replacen("0001", "0000", 1);
    assert_eq!(Key::decode(&unhex(&version_0)), Ok(Some(offset_key())));
    let key = Key::Group { group: Arc::from("grp") };
    assert_eq!(hex(&key.encode().unwrap()), GROUP_KEY.replace(' ', ""));
    assert_eq!(Key::decode(&unhex(GROUP_KEY)), Ok(Some(key)));
}

#[test]
fn golden_offsets() {
    assert_eq!(hex(&offset().encode().unwrap()), OFFSET_V4.replace(' ', ""));
    assert_eq!(CommittedOffset::decode(&unhex(OFFSET_V4)), Ok(Some(offset())));
    let expiring = CommittedOffset { expires_at_ms: Some(offset().committed_at_ms + 1), ..offset() };
    assert_eq!(hex(&expiring.encode().unwrap()), OFFSET_V4_EXPIRING.replace(' ', ""));
    assert_eq!(CommittedOffset::decode(&unhex(OFFSET_V4_EXPIRING)), Ok(Some(expiring.clone())));
    let from_kafka = CommittedOffset { leader_epoch: -1, topic_id: None, ..expiring };
    assert_eq!(CommittedOffset::decode(&unhex(OFFSET_V1)), Ok(Some(from_kafka)));
    let without_id = CommittedOffset { topic_id: None, ..offset() };
    assert_eq!(CommittedOffset::decode(&unhex(OFFSET_V3)), Ok(Some(without_id)));
}

#[test]
fn golden_groups() {
    assert_eq!(hex(&group().encode().unwrap()), GROUP_V3.replace(' ', ""));
    assert_eq!(GroupMetadata::decode(&unhex(GROUP_V3)), Ok(Some(group())));
    assert_eq!(GroupMetadata::decode(&unhex(GROUP_V4)), Ok(Some(group())));
    let old = GroupMetadata::decode(&unhex(GROUP_V0)).unwrap().unwrap();
    assert_eq!((old.state_since_ms, old.members[0].rebalance_timeout_ms), (-1, -1));
}

#[test]
fn unknown_versions_are_told_apart_from_damage() {
    assert_eq!(Key::decode(&unhex("0003 0003 677270")), Ok(None));
    assert_eq!(Key::decode(&unhex("ffff")), Ok(None));
    assert_eq!(CommittedOffset::decode(&unhex("0005 00")), Ok(None));
    assert_eq!(GroupMetadata::decode(&unhex("0005 00")), Ok(None));
    assert!(Key::decode(&unhex("00")).is_err());
}

#[test]
fn truncation_is_an_error_everywhere() {
    for (golden, decode) in [
        (OFFSET_KEY, (|bytes| Key::decode(bytes).is_err()) as fn(&[u8]) -> bool),
        (GROUP_KEY, |bytes| Key::decode(bytes).is_err()),
        (OFFSET_V4, |bytes| CommittedOffset::decode(bytes).is_err()),
        (OFFSET_V4_EXPIRING, |bytes| CommittedOffset::decode(bytes).is_err()),
        (OFFSET_V1, |bytes| CommittedOffset::decode(bytes).is_err()),
        (GROUP_V3, |bytes| GroupMetadata::decode(bytes).is_err()),
        (GROUP_V4, |bytes| GroupMetadata::decode(bytes).is_err()),
    ] {
        let whole = unhex(golden);
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]), "{length} bytes of {golden}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(decode(&longer), "a byte too many: {golden}");
    }
}

#[test]
fn flipped_bits_never_panic_and_counts_are_not_believed() {
    for golden in [OFFSET_KEY, OFFSET_V4, OFFSET_V4_EXPIRING, OFFSET_V1, GROUP_V3, GROUP_V4] {
        let whole = unhex(golden);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ =
                (Key::decode(&flipped), CommittedOffset::decode(&flipped), GroupMetadata::decode(&flipped));
        }
    }
    let members = "0003 0000 00000000 ffff ffff 0000000000000000 7fffffff";
    assert!(GroupMetadata::decode(&unhex(members)).is_err());
}

#[test]
fn members_of_one_id_are_no_group() {
    let mut value = group();
    value.members[1].member_id = value.members[0].member_id.clone();
    assert!(GroupMetadata::decode(&value.encode().unwrap()).is_err());
    value.members[1].member_id = Arc::from("");
    assert!(GroupMetadata::decode(&value.encode().unwrap()).is_err());
    let mut value = group();
    value.members[1].instance_id = value.members[0].instance_id.clone();
    assert!(GroupMetadata::decode(&value.encode().unwrap()).is_err());
    value.members[0].instance_id = None;
    assert!(GroupMetadata::decode(&value.encode().unwrap()).is_ok());
}

#[test]
fn strings_that_do_not_fit_are_refused() {
    let long: Arc<str> = Arc::from("x".repeat(40_000));
    assert!(Key::Group { group: long.clone() }.encode().is_err());
    assert!(GroupMetadata { leader: Some(long.clone()), ..group() }.encode().is_err());
    assert!(CommittedOffset { metadata: long, ..offset() }.encode().is_ok(), "compact strings may be longer");
}

prop_compose! {
    fn any_text()(text in ".{0,20}") -> Arc<str> { Arc::from(text) }
}

prop_compose! {
    pub fn any_group()(
        texts in (any_text(), prop::option::of(any_text()), prop::option::of(any_text())),
        generation in prop_oneof![any::<i32>(), Just(i32::MAX), Just(-1)],
        state_since_ms in any::<i64>(),
        members in prop::collection::vec(any_member(), 0..5),
    ) -> GroupMetadata {
        let (protocol_type, protocol, leader) = texts;
        let mut group = GroupMetadata { protocol_type, generation, protocol, leader, state_since_ms, members };
        let (mut ids, mut instances) = (HashSet::new(), HashSet::new());
        group.members.retain(|member| {
            !member.member_id.is_empty()
                && ids.insert(member.member_id.clone())
                && member.instance_id.as_ref().is_none_or(|instance| instances.insert(instance.clone()))
        });
        group
    }
}

prop_compose! {
    fn any_member()(
        ids in (any_text(), prop::option::of(any_text()), any_text(), any_text()),
        timeouts in (any::<i32>(), any::<i32>()),
        bytes in (prop::collection::vec(any::<u8>(), 0..50), prop::collection::vec(any::<u8>(), 0..50)),
    ) -> MemberMetadata {
        let (member_id, instance_id, client_id, client_host) = ids;
        MemberMetadata {
            member_id,
            instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: timeouts.0,
            session_timeout_ms: timeouts.1,
            subscription: bytes.0.into(),
            assignment: bytes.1.into(),
        }
    }
}

proptest! {
    #[test]
    fn groups_round_trip(group in any_group()) {
        prop_assert_eq!(GroupMetadata::decode(&group.encode().unwrap()), Ok(Some(group)));
    }

    #[test]
    fn offsets_round_trip(
        offset in any::<i64>(),
        leader_epoch in any::<i32>(),
        metadata in any_text(),
        committed_at_ms in any::<i64>(),
        expires_at_ms in prop::option::of(0i64..),
        topic_id in prop::option::of(1u128..),
    ) {
        let topic_id = topic_id.map(Uuid::from_u128);
        let value = CommittedOffset { offset, leader_epoch, metadata, committed_at_ms, expires_at_ms, topic_id };
        prop_assert_eq!(CommittedOffset::decode(&value.encode().unwrap()), Ok(Some(value)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Key::decode(&bytes), CommittedOffset::decode(&bytes), GroupMetadata::decode(&bytes));
    }
}
