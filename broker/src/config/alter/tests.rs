use super::*;

fn configs(pairs: &[(&str, &str)]) -> Vec<Config> {
    pairs.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect()
}

fn some<'a>(changes: &[(&'a str, Op, &'a str)]) -> Changes<'a> {
    Changes::Some(changes.iter().map(|(name, op, value)| Change { name, op: *op, value }).collect())
}

fn topic_of(set: &[(&str, &str)], changes: &Changes<'_>) -> Result<Vec<Config>, Refused> {
    topic(&configs(set), changes, &BrokerConfig::default(), false)
}

#[test]
fn lists_are_changed_by_element_and_from_what_holds() {
    let list = "leader.replication.throttled.replicas";
    let appended = |set: &str, value| {
        let next = topic_of(&[(list, set)], &some(&[(list, Op::Append, value)])).unwrap();
        next[0].1.to_string()
    };
    assert_eq!(appended("", "a"), "a");
    assert_eq!(appended("a, b", "b ,c,c"), "a,b,c");
    let broker = BrokerConfig::default()
        .with_dynamic(&configs(&[("log.cleanup.policy", "delete")]), &configs(&[("log.cleanup.policy", "")]));
    let next = topic(&[], &some(&[("cleanup.policy", Op::Append, "delete")]), &broker, false).unwrap();
    assert_eq!(next, configs(&[("cleanup.policy", "delete")]));
    let gone = topic_of(&[], &some(&[("cleanup.policy", Op::Subtract, "delete")])).unwrap();
    assert_eq!(gone, configs(&[("cleanup.policy", "")]));
}

#[test]
fn the_result_is_sorted_and_one_bad_change_spoils_all() {
    let set = [("retention.ms", "5"), ("segment.ms", "6")];
    let next =
        topic_of(&set, &some(&[("preallocate", Op::Set, "true"), ("segment.ms", Op::Delete, "")])).unwrap();
    assert_eq!(next, configs(&[("preallocate", "true"), ("retention.ms", "5")]));
    let spoiled = [("preallocate", Op::Set, "true"), ("segment.ms", Op::Set, "0")];
    assert!(matches!(topic_of(&set, &some(&spoiled)), Err(Refused::Config(_))));
    let all = Changes::All(vec![("segment.ms", "7"), ("preallocate", "true")]);
    assert_eq!(topic_of(&set, &all).unwrap(), configs(&[("preallocate", "true"), ("segment.ms", "7")]));
    // What holds together is checked for the result, not for each change.
    let lags = [("min.compaction.lag.ms", Op::Set, "9"), ("max.compaction.lag.ms", Op::Set, "8")];
    assert!(topic_of(&[], &some(&lags)).is_err());
}

#[test]
fn values_are_bounded() {
    let long = "0:1,".repeat(3_000);
    let list = "leader.replication.throttled.replicas";
    assert!(
        topic_of(&[], &some(&[(list, Op::Set, &long)])).unwrap_err().to_string().contains("at most 8192")
    );
    // Nor by and by.
    let half = &long[..4_000];
    let other: String = (0..300).map(|n| format!("{n}:2,")).collect();
    assert!(topic_of(&[(list, half)], &some(&[(list, Op::Append, &other)])).is_ok());
    let most: String = (0..600).map(|n| format!("{n}:12345,")).collect();
    assert!(topic_of(&[(list, half)], &some(&[(list, Op::Append, &most)])).is_err());
}

#[test]
fn broker_configs_that_would_make_topics_impossible_are_refused() {
    let config = BrokerConfig::default();
    let none = Dynamic { cluster: &[], own: &[] };
    let lag = some(&[("log.cleaner.min.compaction.lag.ms", Op::Set, "9")]);
    let lagging = broker(none, &lag, &config, true).unwrap();
    let set = Dynamic { cluster: &lagging, own: &[] };
    let max = some(&[("log.cleaner.max.compaction.lag.ms", Op::Set, "8")]);
    assert!(matches!(broker(set, &max, &config, false), Err(Refused::Request(_))));
    assert!(broker(none, &max, &config, false).is_ok());
}

/// A value that hides behind one of the broker's own must be possible once that is unset.
#[test]
fn a_default_must_be_possible_without_what_outranks_it() {
    let config = BrokerConfig::default().with_batch_limit(2_000_000).unwrap();
    let own = configs(&[("message.max.bytes", "5")]);
    let set = Dynamic { cluster: &[], own: &own };
    let large = some(&[("message.max.bytes", Op::Set, "2000001")]);
    assert!(broker(set, &large, &config, true).is_err());
}

#[test]
fn what_another_version_wrote_counts_as_not_set() {
    let broker = BrokerConfig::default().with_dynamic(
        &configs(&[("log.retention.ms", "soon"), ("no.such", "1"), ("num.partitions", "9")]),
        &configs(&[("log.segment.bytes", "5")]),
    );
    for name in ["log.retention.ms", "num.partitions", "log.segment.bytes"] {
        assert_eq!(broker.set(name), None, "{name}");
    }
}

#[test]
fn all_that_can_be_set_at_run_time_gives_topics_their_defaults() {
    let dynamic: Vec<&str> =
        table::BROKER.iter().map(|row| row.name).filter(|name| table::is_dynamic(name)).collect();
    for name in
        ["log.retention.ms", "message.max.bytes", "compression.type", "min.insync.replicas", "log.roll.ms"]
    {
        assert!(dynamic.contains(&name), "{name}");
    }
    for name in
        ["log.retention.hours", "log.retention.minutes", "log.roll.hours", "num.partitions", "node.id"]
    {
        assert!(!dynamic.contains(&name), "{name}");
    }
}
