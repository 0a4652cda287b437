//! The one table of what this broker speaks: ApiVersions is answered from it, requests are checked against it, and
//! `docs/compatibility.md` is generated from it. A row stands here only if its arm in `server/dispatch.rs` does.
//!
//! Ranges are those of a live Apache Kafka 4.1 broker. Kafka closes the connection on any other version and on any
//! other key (`SocketServer.parseRequestHeader`), so a row promises every version of its range.

use kafka_protocol::messages::ApiKey;

/// One API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supported {
    pub key: ApiKey,
    /// The lowest version that is answered.
    pub min: i16,
    pub max: i16,
    /// The lowest version that ApiVersions names. Lower than `min` for Produce alone: librdkafka before 2.8.2 takes a
    /// minimum of 3 for "no compression" (KAFKA-18659; `ApiKeys.PRODUCE_API_VERSIONS_RESPONSE_MIN_VERSION`).
    pub advertised_min: i16,
}

const fn row(key: ApiKey, min: i16, max: i16) -> Supported {
    Supported { key, min, max, advertised_min: min }
}

/// In the order of the keys.
pub const SUPPORTED: &[Supported] = &[
    Supported { key: ApiKey::Produce, min: 3, max: 13, advertised_min: 0 },
    row(ApiKey::Fetch, 4, 18),
    row(ApiKey::ListOffsets, 1, 10),
    row(ApiKey::Metadata, 0, 13),
    row(ApiKey::OffsetCommit, 2, 9),
    row(ApiKey::OffsetFetch, 1, 9),
    row(ApiKey::FindCoordinator, 0, 6),
    row(ApiKey::JoinGroup, 0, 9),
    row(ApiKey::Heartbeat, 0, 4),
    row(ApiKey::LeaveGroup, 0, 5),
    row(ApiKey::SyncGroup, 0, 5),
    row(ApiKey::DescribeGroups, 0, 6),
    row(ApiKey::ListGroups, 0, 5),
    row(ApiKey::ApiVersions, 0, 4),
    row(ApiKey::CreateTopics, 2, 7),
    row(ApiKey::DeleteTopics, 1, 6),
    row(ApiKey::DeleteRecords, 0, 2),
    row(ApiKey::InitProducerId, 0, 5),
    row(ApiKey::OffsetForLeaderEpoch, 2, 4),
    row(ApiKey::DescribeAcls, 1, 3),
    row(ApiKey::CreateAcls, 1, 3),
    row(ApiKey::DeleteAcls, 1, 3),
    row(ApiKey::DescribeConfigs, 1, 4),
    row(ApiKey::AlterConfigs, 0, 2),
    row(ApiKey::DescribeLogDirs, 1, 4),
    row(ApiKey::CreatePartitions, 0, 3),
    row(ApiKey::DeleteGroups, 0, 2),
    row(ApiKey::ElectLeaders, 0, 2),
    row(ApiKey::IncrementalAlterConfigs, 0, 1),
    row(ApiKey::AlterPartitionReassignments, 0, 1),
    row(ApiKey::ListPartitionReassignments, 0, 0),
    row(ApiKey::OffsetDelete, 0, 0),
    row(ApiKey::DescribeCluster, 0, 2),
    row(ApiKey::DescribeProducers, 0, 0),
    row(ApiKey::ListConfigResources, 0, 1),
    row(ApiKey::DescribeTopicPartitions, 0, 0),
];

/// The row of `key`, if it is supported at all.
pub fn supported(key: i16) -> Option<&'static Supported> {
    SUPPORTED.iter().find(|row| row.key as i16 == key)
}

impl Supported {
    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// The first version in the compact ("flexible", KIP-482) encoding; `None` if there is none in the range.
    pub fn flexible_from(&self) -> Option<i16> {
        (self.min..=self.max).find(|version| self.key.request_header_version(*version) >= 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_unique_and_known_to_the_codec() {
        assert!(SUPPORTED.is_sorted_by(|a, b| (a.key as i16) < (b.key as i16)));
        for row in SUPPORTED {
            let codec = row.key.valid_versions();
            assert!(row.advertised_min <= row.min && row.min <= row.max, "{row:?}");
            assert!(codec.min <= row.min && row.max <= codec.max, "{row:?} is beyond the codec's {codec}");
        }
    }

    /// Unstable in 4.1 although the codec knows them: 2PC (KIP-939) and topic ids in offset requests (KIP-848).
    #[test]
    fn unstable_versions_are_not_served() {
        for (key, unstable) in
            [(ApiKey::InitProducerId, 6), (ApiKey::OffsetCommit, 10), (ApiKey::OffsetFetch, 10)]
        {
            assert!(!supported(key as i16).is_some_and(|row| row.serves(unstable)), "{key:?} {unstable}");
        }
    }
}
