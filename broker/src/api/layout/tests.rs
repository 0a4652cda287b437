use bytes::Bytes;
use kafka_protocol::messages::{RequestKind, ResponseKind};
use kafka_protocol::protocol::VersionRange;

use super::*;
use crate::api::versions::{SUPPORTED, supported};

/// What the codec leaves of `body`, if it accepts it.
fn codec(api: ApiKey, side: Side, version: i16, body: &[u8]) -> Result<usize, String> {
    let mut bytes = Bytes::copy_from_slice(body);
    match side {
        Side::Request => RequestKind::decode(api, &mut bytes, version).map(drop),
        Side::Response => ResponseKind::decode(api, &mut bytes, version).map(drop),
    }
    .map(|()| bytes.len())
    .map_err(|error| format!("{error:#}"))
}

/// Every message in every version: those that are served, or that the codec has.
fn all() -> impl Iterator<Item = (ApiKey, Side, i16)> {
    table::ROWS.iter().flat_map(|row| {
        let served = supported(row.api as i16).map(|row| VersionRange { min: row.min, max: row.max });
        let versions = served.unwrap_or(row.api.valid_versions());
        let sides = [Side::Request, Side::Response];
        (versions.min..=versions.max).flat_map(move |version| sides.map(|side| (row.api, side, version)))
    })
}

#[test]
fn rows_are_sorted_and_every_api_that_is_served_has_one() {
    assert!(table::ROWS.is_sorted_by(|one, next| (one.api as i16) < (next.api as i16)));
    for row in SUPPORTED {
        assert!(layout(row.key, Side::Request).is_some(), "{:?} needs a row", row.key);
    }
}

/// Every field of every version: what the layout makes, the codec reads to the last byte.
#[test]
fn behaviour_16_the_layouts_are_the_codecs() {
    for (api, side, version) in all() {
        for (elements, text_bytes) in [(0, 0), (1, 1), (2, 200), (3, 0)] {
            let mut body = sample::body(api, side, version, elements, text_bytes).unwrap();
            let whole = body.len();
            body.extend([0xee; 7]);
            let of = format!("{api:?} {side:?} version {version}, {elements} elements");
            assert_eq!(codec(api, side, version, &body), Ok(7), "{of}");
            assert_eq!(check(api, side, version, &body).unwrap().consumed, whole, "{of}");
            // Of long ones it says no more.
            for length in 0..if text_bytes == 1 { whole } else { 0 } {
                assert!(check(api, side, version, &body[..length]).is_err(), "{of} cut to {length}");
            }
        }
    }
}

/// Y1. The counts stand anywhere, so each byte in turn becomes the first of a huge number.
#[test]
fn behaviour_16_counts_beyond_the_body_are_refused_before_anything_is_allocated() {
    for (api, side, version) in all() {
        let body = sample::body(api, side, version, 1, 1).unwrap();
        let huge: &[u8] = if api.request_header_version(version) >= 2 {
            &[0xff, 0xff, 0xff, 0xff, 0x07]
        } else {
            &[0x7f, 0xff, 0xff, 0xff]
        };
        for at in 0..body.len() {
            let mut lying = body.clone();
            lying.splice(at..(at + huge.len()).min(body.len()), huge.iter().copied());
            if let Ok(walked) = check(api, side, version, &lying) {
                assert!(walked.decoded_bytes < 4096, "{api:?} {side:?} {version} at {at}: {walked:?}");
            }
        }
    }
    let four_bytes = [0x7f, 0xff, 0xff, 0xff];
    assert_eq!(
        check(ApiKey::Metadata, Side::Request, 1, &four_bytes),
        Err(Refused::Count { count: 0x7fff_ffff, left: 0 })
    );
}

/// Y2.
#[test]
fn behaviour_16_tiny_elements_are_refused_where_they_would_grow_too_large() {
    let topics = |count: u32| {
        let mut body = vec![0; 5];
        for (at, byte) in body.iter_mut().enumerate() {
            *byte = ((count + 1) >> (7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 };
        }
        // Each an empty id, an empty name, no tags.
        body.resize(5 + count as usize * 18, 0);
        body.extend([0; 3]);
        body
    };
    assert!(check(ApiKey::Metadata, Side::Request, 12, &topics(10_000)).is_ok());
    let strings = |count: usize| [&(count as i32).to_be_bytes()[..], &vec![0; count * 2 + 1]].concat();
    assert!(check(ApiKey::DescribeGroups, Side::Request, 4, &strings(25_000)).is_ok());
    assert!(matches!(
        check(ApiKey::DescribeGroups, Side::Request, 4, &strings(2_000_000)),
        Err(Refused::TooLarge { .. })
    ));
    // Structs with a tagged field each that nobody knows.
    let mut tags = vec![0x80, 0x80, 0x80, 0x01];
    tags.extend([0, 1, 99, 0].repeat((1 << 21) - 1));
    tags.extend([0; 4]);
    assert!(matches!(
        check(ApiKey::DescribeTopicPartitions, Side::Request, 0, &tags),
        Err(Refused::TooLarge { .. })
    ));
}

/// Y3: the codec would take the rest of the field for what follows it.
#[test]
fn behaviour_13_a_tagged_field_with_the_wrong_size_is_refused() {
    // Fetch version 12 ends with: rack "", one tagged field, tag 0, its size, a cluster id "a".
    let mut body = vec![0; 4 + 4 + 4 + 4 + 1 + 4 + 4];
    body.extend([1, 1, 1, 1, 0, 2, 2, b'a']);
    assert_eq!(check(ApiKey::Fetch, Side::Request, 12, &body).unwrap().consumed, body.len());
    let size_at = body.len() - 3;
    for size in [0, 1, 3, 0x7f] {
        body[size_at] = size;
        assert_eq!(check(ApiKey::Fetch, Side::Request, 12, &body), Err(Refused::Tag(0)), "{size}");
    }
}
