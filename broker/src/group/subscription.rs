//! The topics in a consumer's metadata: the one thing in there that a coordinator ever looks at, and only to know what
//! must not be deleted (behaviour 100: it is never validated).
//!
//! | field | |
//! |---|---|
//! | version | 16 bits |
//! | topics | 32-bit count, then each a 16-bit length and UTF-8 |
//! | more | of no interest here; differs by version |
//!
//! (Source: `ConsumerProtocolSubscription.json` in Kafka's clients module. All versions, 0 to 3, begin so; a newer one
//! may only add fields behind, `ConsumerProtocol.deserializeSubscription`.)

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Buf;

use super::records::Malformed;

const WHAT: Malformed = Malformed { what: "consumer metadata" };

/// Adds the topics that `metadata` names. What it takes is bounded by the length of `metadata`.
pub fn add_topics(mut metadata: &[u8], topics: &mut HashSet<Arc<str>>) -> Result<(), Malformed> {
    let version = metadata.try_get_i16().map_err(|_| WHAT)?;
    let count = metadata.try_get_i32().map_err(|_| WHAT)?;
    if version < 0 || count < 0 {
        return Err(WHAT);
    }
    for _ in 0..count {
        let length = metadata.try_get_i16().map_err(|_| WHAT)?;
        let length = usize::try_from(length).map_err(|_| WHAT)?;
        let (name, rest) = metadata.split_at_checked(length).ok_or(WHAT)?;
        let name = std::str::from_utf8(name).map_err(|_| WHAT)?;
        if !topics.contains(name) {
            topics.insert(Arc::from(name));
        }
        metadata = rest;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bytes::{BufMut, Bytes, BytesMut};
    use kafka_protocol::messages::ConsumerProtocolSubscription;
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use proptest::prelude::*;

    /// As a client of this version of the protocol writes it.
    pub fn metadata(version: i16, topics: &[&str]) -> Bytes {
        let topics = topics.iter().map(|topic| StrBytes::from_string((*topic).to_owned()));
        let mut bytes = BytesMut::new();
        bytes.put_i16(version);
        let subscription = ConsumerProtocolSubscription::default()
            .with_topics(topics.collect())
            .with_user_data(Some(Bytes::from_static(b"of the assignor")));
        subscription.encode(&mut bytes, version).expect("encodes");
        bytes.freeze()
    }

    #[test]
    fn topics_of_every_version_are_found() {
        for version in 0..=3 {
            let mut topics = HashSet::new();
            add_topics(&metadata(version, &["b", "a", "b"]), &mut topics).unwrap();
            add_topics(&metadata(version, &[]), &mut topics).unwrap();
            assert_eq!(topics, HashSet::from(["a".into(), "b".into()]), "version {version}");
        }
    }

    #[test]
    fn what_is_cut_short_or_lies_about_counts_is_malformed() {
        let whole = metadata(0, &["topic"]);
        let names_end = 2 + 4 + 2 + 5;
        for length in 0..names_end {
            assert!(add_topics(&whole[..length], &mut HashSet::new()).is_err(), "{length}");
        }
        for lie in [
            &[0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 1, b'a'][..],
            &[0, 0, 0xff, 0xff, 0xff, 0xff],
            &[0x80, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 1, 0xff, 0xff],
            &[0, 0, 0, 0, 0, 1, 0, 1, 0xff],
        ] {
            assert!(add_topics(lie, &mut HashSet::new()).is_err(), "{lie:x?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = add_topics(&bytes, &mut HashSet::new());
        }
    }
}
