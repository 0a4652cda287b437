//! Which of a partition's parts may go now. Pure.
//!
//! The rules are Kafka's (`UnifiedLog.deleteOldSegments`), with a part in the place of a segment. From the oldest on, a
//! part goes if it lies below the log's start, or if what is left without it is still `retention.bytes`, or if even its
//! youngest record is older than `retention.ms`. The first part to which none of it applies ends the matter: a record
//! never goes before an older offset.

use crate::config::TopicConfig;
use crate::metadata::image::Part;

/// What a topic's configs say about old records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Milliseconds; `None` for no limit.
    pub age_max_ms: Option<i64>,
    /// `None` for no limit.
    pub bytes_max: Option<u64>,
}

impl Policy {
    /// No limits at all unless `cleanup.policy` has `delete`.
    pub fn of(config: &TopicConfig) -> Policy {
        if !config.cleanup().delete {
            return Policy::default();
        }
        Policy {
            age_max_ms: Some(config.retention_ms()).filter(|age| *age >= 0),
            bytes_max: u64::try_from(config.retention_bytes()).ok(),
        }
    }

    fn expired(&self, now_ms: i64, part: &Part) -> bool {
        // Kafka takes the file's time for a segment without timestamps.
        let newest = if part.max_timestamp >= 0 { part.max_timestamp } else { part.committed_ms };
        self.age_max_ms.is_some_and(|age_max| now_ms.saturating_sub(newest) > age_max)
    }
}

/// What goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// Where the stream begins then: the end of the last part that goes.
    pub to: u64,
    pub parts: usize,
    pub bytes: u64,
    /// More could go, but for `parts_max`.
    pub capped: bool,
}

/// `parts` are those of the stream, from its start; `bytes` is what the partition holds, what is not in parts yet
/// included. At most `parts_max` of them go. `None` if none does.
pub fn plan<'a>(
    parts: impl Iterator<Item = &'a Part>,
    bytes: u64,
    log_start: u64,
    policy: &Policy,
    now_ms: i64,
    parts_max: usize,
) -> Option<Trim> {
    let mut excess = policy.bytes_max.map_or(0, |bytes_max| bytes.saturating_sub(bytes_max));
    let mut trim: Option<Trim> = None;
    for part in parts {
        // One without bytes does not go for its size: nothing would come of it.
        let beyond_size = part.bytes > 0 && excess >= part.bytes;
        if part.end > log_start && !beyond_size && !policy.expired(now_ms, part) {
            break;
        }
        let so_far = trim.unwrap_or(Trim { to: 0, parts: 0, bytes: 0, capped: false });
        if so_far.parts == parts_max {
            return Some(Trim { capped: true, ..so_far }).filter(|trim| trim.parts > 0);
        }
        excess = excess.saturating_sub(part.bytes);
        trim = Some(Trim {
            to: part.end,
            parts: so_far.parts + 1,
            bytes: so_far.bytes + part.bytes,
            capped: false,
        });
    }
    trim
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use s3stream::ObjectId;
    use wal::Incarnation;

    use super::*;
    use crate::config::BrokerConfig;

    fn part(end: u64, bytes: u64, max_timestamp: i64) -> Part {
        let object = ObjectId::Data { owner: Incarnation { broker: 1, epoch: 1 }, counter: end };
        Part { end, object, max_timestamp, bytes, committed_ms: 1_000 }
    }

    fn age(age_max_ms: i64) -> Policy {
        Policy { age_max_ms: Some(age_max_ms), bytes_max: None }
    }

    fn size(bytes_max: u64) -> Policy {
        Policy { age_max_ms: None, bytes_max: Some(bytes_max) }
    }

    fn start(parts: &[Part], uncommitted: u64, log_start: u64, policy: &Policy, now_ms: i64) -> Option<u64> {
        let bytes = parts.iter().map(|part| part.bytes).sum::<u64>() + uncommitted;
        plan(parts.iter(), bytes, log_start, policy, now_ms, usize::MAX).map(|trim| trim.to)
    }

    #[test]
    fn a_part_goes_by_its_youngest_record_and_none_before_an_older_offset() {
        let parts = [part(10, 1, 100), part(20, 1, 300), part(30, 1, 200)];
        for (now, to) in [(150, None), (151, Some(10)), (350, Some(10)), (351, Some(30))] {
            assert_eq!(start(&parts, 0, 0, &age(50), now), to, "at {now}");
        }
        assert_eq!(start(&parts, 0, 0, &age(0), 101), Some(10));
        assert_eq!(start(&parts, 0, 0, &Policy::default(), i64::MAX), None);
    }

    #[test]
    fn a_timestamp_in_the_future_keeps_and_one_that_is_missing_counts_from_the_commit() {
        let future = [part(10, 1, i64::MAX), part(20, 1, 0)];
        assert_eq!(start(&future, 0, 0, &age(50), 1_000_000), None);
        let without = [part(10, 1, -1)];
        assert_eq!(start(&without, 0, 0, &age(50), 1_050), None);
        assert_eq!(start(&without, 0, 0, &age(50), 1_051), Some(10));
        assert_eq!(start(&[part(10, 1, 0)], 0, 0, &age(i64::MAX), i64::MAX), None, "no overflow either way");
        assert_eq!(start(&[part(10, 1, i64::MAX)], 0, 0, &age(0), i64::MIN), None);
    }

    #[test]
    fn at_least_retention_bytes_are_kept_and_what_is_not_uploaded_yet_counts() {
        let parts = [part(10, 40, 0), part(20, 40, 0), part(30, 40, 0)];
        for (keep, uncommitted, to) in [
            (120, 0, None),
            (81, 0, None),
            (80, 0, Some(10)),
            (41, 0, Some(10)),
            (40, 0, Some(20)),
            (0, 0, Some(30)),
            (80, 40, Some(20)),
            (40, 40, Some(30)),
        ] {
            assert_eq!(start(&parts, uncommitted, 0, &size(keep), 0), to, "{keep} of 120 and {uncommitted}");
        }
    }

    #[test]
    fn what_lies_below_the_logs_start_goes_whatever_the_policy() {
        let parts = [part(10, 40, 0), part(20, 40, 0)];
        for (log_start, to) in [(9, None), (10, Some(10)), (19, Some(10)), (20, Some(20)), (25, Some(20))] {
            assert_eq!(start(&parts, 0, log_start, &Policy::default(), 0), to, "{log_start}");
        }
    }

    #[test]
    fn only_a_topic_that_deletes_has_limits() {
        let policy = |configs: &[(&str, &str)]| {
            let configs: Vec<_> =
                configs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            Policy::of(&TopicConfig::new(&configs, &BrokerConfig::default()))
        };
        assert_eq!(policy(&[]), age(604_800_000));
        let both = [("cleanup.policy", "compact,delete"), ("retention.bytes", "7"), ("retention.ms", "-1")];
        assert_eq!(policy(&both), size(7));
        assert_eq!(policy(&[("cleanup.policy", "compact"), ("retention.bytes", "7")]), Policy::default());
        assert_eq!(policy(&[("retention.bytes", "-2"), ("retention.ms", "-1")]), Policy::default());
    }

    /// Kafka's three sweeps, again and again until none of them finds anything.
    fn sweeps(parts: &[Part], uncommitted: u64, log_start: u64, policy: &Policy, now_ms: i64) -> Option<u64> {
        let mut left: Vec<Part> = parts.to_vec();
        let mut to = None;
        loop {
            let before = left.len();
            let size = |left: &[Part]| left.iter().map(|part| part.bytes).sum::<u64>() + uncommitted;
            let mut drop_first = |left: &mut Vec<Part>| to = Some(left.remove(0).end);
            while left.first().is_some_and(|part| part.end <= log_start) {
                drop_first(&mut left);
            }
            if let Some(bytes_max) = policy.bytes_max
                && size(&left) >= bytes_max
            {
                let mut diff = size(&left) - bytes_max;
                while let Some(part) = left.first().copied().filter(|part| part.bytes <= diff) {
                    diff -= part.bytes;
                    drop_first(&mut left);
                }
            }
            while let (Some(part), Some(age_max)) = (left.first(), policy.age_max_ms) {
                let newest = if part.max_timestamp < 0 { part.committed_ms } else { part.max_timestamp };
                if now_ms - newest <= age_max {
                    break;
                }
                drop_first(&mut left);
            }
            if left.len() == before {
                return to;
            }
        }
    }

    proptest! {
        #[test]
        fn equals_kafkas_sweeps_and_a_cap_only_takes_longer(
            shapes in prop::collection::vec((1u64..5, 1u64..50, -1i64..100), 0..12),
            uncommitted in 0u64..100,
            log_start in 0u64..40,
            age_max_ms in prop::option::of(0i64..80),
            bytes_max in prop::option::of(0u64..300),
            now_ms in 0i64..1_200,
            parts_max in 1usize..4,
        ) {
            let mut parts = Vec::new();
            let mut end = 0;
            for (count, bytes, timestamp) in shapes {
                end += count;
                parts.push(part(end, bytes, timestamp));
            }
            let policy = Policy { age_max_ms, bytes_max };
            let expected = sweeps(&parts, uncommitted, log_start, &policy, now_ms);
            prop_assert_eq!(start(&parts, uncommitted, log_start, &policy, now_ms), expected);
            let mut left = &parts[..];
            let mut to = None;
            loop {
                let bytes = left.iter().map(|part| part.bytes).sum::<u64>() + uncommitted;
                let Some(trim) = plan(left.iter(), bytes, log_start, &policy, now_ms, parts_max) else { break };
                prop_assert!(trim.parts <= parts_max && trim.parts > 0);
                prop_assert_eq!(trim.bytes, left[..trim.parts].iter().map(|part| part.bytes).sum::<u64>());
                to = Some(trim.to);
                left = &left[trim.parts..];
                prop_assert_eq!(trim.capped, to != expected);
            }
            prop_assert_eq!(to, expected);
        }
    }
}
