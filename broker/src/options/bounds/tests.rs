use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::options::source::variable;
use crate::options::table::{Definition, Place};
use crate::options::tests::options;
use crate::options::value;
use crate::options::{Options, arguments, gather};

/// The rows that set a field.
fn rows() -> impl Iterator<Item = (&'static Definition, Place)> {
    definitions().filter_map(|definition| Some((definition, definition.place()?)))
}

fn range(definition: &Definition) -> (u64, u64) {
    definition.kind.range().expect("a row that sets a field has a range")
}

fn parse(definition: &Definition, text: &str) -> u64 {
    use crate::options::table::Kind;
    match definition.kind {
        Kind::Bytes { .. } => value::parse_bytes(text).unwrap(),
        Kind::Duration { .. } => value::parse_duration(text).unwrap().as_millis() as u64,
        _ => text.parse().unwrap(),
    }
}

/// Every field of a struct of structs, by its path, as `Debug` shows it.
fn fields(bounds: &Bounds) -> BTreeMap<String, String> {
    let (mut path, mut fields) = (Vec::new(), BTreeMap::new());
    for line in format!("{bounds:#?}").lines() {
        let line = line.trim().trim_end_matches(',');
        match line.split_once(": ") {
            Some((name, value)) if value.ends_with('{') => path.push(name.to_owned()),
            Some((name, value)) => {
                let path = path.iter().chain([&name.to_owned()]).cloned().collect::<Vec<_>>().join(".");
                assert!(fields.insert(path, value.to_owned()).is_none(), "{line}");
            }
            None if line == "}" => drop(path.pop()),
            None => assert_eq!(line, "Bounds {"),
        }
    }
    fields
}

fn changed(bounds: &Bounds) -> Vec<String> {
    let now = fields(bounds);
    fields(&Bounds::default())
        .into_iter()
        .filter(|(path, was)| now[path] != *was)
        .map(|(path, _)| path)
        .collect()
}

/// Something other than the default.
fn other(definition: &Definition, place: Place) -> u64 {
    let (min, max) = range(definition);
    if place(&mut Bounds::default()).get() == min { max } else { min }
}

/// Bo1.
#[test]
fn every_default_is_that_of_the_struct_and_within_its_range() {
    let accepted = options(&[], &[]).unwrap().bounds;
    let mut fresh = Bounds::default();
    for (definition, place) in rows() {
        let default = place(&mut fresh).get();
        let (min, max) = range(definition);
        assert!((min..=max).contains(&default), "{}: {default} is not in {min}..={max}", definition.name);
        for amount in [default, min, max] {
            assert_eq!(parse(definition, &definition.kind.show(amount)), amount, "{}", definition.name);
        }
        assert_eq!(parse(definition, &definition.default_text().unwrap()), default, "{}", definition.name);
    }
    // Bit for bit: no default loses anything on its way through the table.
    assert_eq!(changed(&accepted), [""; 0]);
}

#[test]
fn every_row_sets_one_field_that_no_other_row_sets() {
    let mut seen = BTreeMap::new();
    for (definition, place) in rows() {
        let mut bounds = Bounds::default();
        let amount = other(definition, place);
        place(&mut bounds).set(amount);
        assert_eq!(place(&mut bounds).get(), amount, "{}", definition.name);
        let changed = changed(&bounds);
        assert_eq!(changed.len(), 1, "{} changes {changed:?}", definition.name);
        if let Some(earlier) = seen.insert(changed[0].clone(), definition.name) {
            panic!("{} and {earlier} both set {}", definition.name, changed[0]);
        }
    }
}

/// Bo2. A bound that somebody adds to a part needs a row, or an entry here that says who decides it.
#[test]
fn every_field_has_a_row_or_is_decided_by_something_else() {
    let mut bounds = Bounds::default();
    for (definition, place) in rows() {
        place(&mut bounds).set(other(definition, place));
    }
    let changed = changed(&bounds);
    let without_row: Vec<_> = fields(&bounds).into_keys().filter(|path| !changed.contains(path)).collect();
    assert_eq!(
        without_row,
        [
            "block_wal.reservation",                        // wal-reservation
            "fetch_session.sessions_max",                   // max.incremental.fetch.session.cache.slots
            "group.offset_metadata_bytes_max",              // offset.metadata.max.bytes
            "group.rules.group_size_max",                   // group.max.size
            "group.rules.initial_rebalance_delay",          // group.initial.rebalance.delay.ms
            "group.rules.offsets_retention",                // offsets.retention.minutes
            "group.rules.offsets_retention_check_interval", // offsets.retention.check.interval.ms
            "group.rules.session_timeout_max",              // group.max.session.timeout.ms
            "group.rules.session_timeout_min",              // group.min.session.timeout.ms
            "object_wal.puts_burst_max",                    // puts-per-second
            "partition.accept_lost_checkpoints",            // partition-accept-lost-checkpoints
            "partition.limits.producer_expiration_ms",      // producer.id.expiration.ms
            "server.idle_timeout",                          // connections.max.idle.ms
            "server.request_bytes_max",                     // socket.request.max.bytes
        ]
    );
}

#[test]
fn rules_name_rows_that_set_a_field() {
    for rule in advanced::RULES {
        for name in rule.terms.iter().chain([&rule.most]) {
            let definition = find(name).unwrap_or_else(|| panic!("{name} is not in the table"));
            assert!(definition.place().is_some(), "{name}");
        }
    }
}

/// Each rule catches the values that break it, by name.
#[test]
fn every_rule_is_kept() {
    for rule in advanced::RULES {
        let most = find(rule.most).unwrap();
        let term = find(rule.terms[0]).unwrap();
        // The other options go out of the way of this rule: they are checked in the order of the table.
        let broken =
            [(rule.most, most.kind.show(range(most).0)), (rule.terms[0], term.kind.show(range(term).1))];
        let values = values(&broken);
        let error = rule.check(&values).unwrap_err().to_string();
        assert!(
            error.contains(rule.most) && error.contains(rule.terms[0]) && error.contains(rule.why),
            "{error}"
        );
        assert!(Bounds::from_values(&values).is_err());
    }
}

fn values(given: &[(&str, String)]) -> Values {
    let environment: Vec<_> =
        given.iter().map(|(name, text)| (variable(find(name).unwrap()).into(), text.into())).collect();
    let command = clap::Command::new("serve").args(arguments());
    gather(&command.get_matches_from(["serve"]), environment).unwrap()
}

#[test]
fn faults_in_advanced_limits_name_the_option() {
    for (arguments, expected) in [
        (
            &["--block-wal-frame", "4MiB"][..],
            "group-batch (512KiB) + group-record (4MiB) + 64KiB must be at most block-wal-frame (4MiB): an append",
        ),
        (
            &["--block-wal-frame-target", "16MiB"],
            "block-wal-frame-target (16MiB) must be at most block-wal-frame (8MiB)",
        ),
        (
            &["--object-wal-pending", "64MiB"],
            "object-wal-record (112MiB) must be at most object-wal-pending (64MiB): or the largest",
        ),
        (
            &["--metadata-view-age", "2d"],
            "metadata-view-age (2d) must be at most a quarter of metadata-retention (7d)",
        ),
        (
            &["--upload-commit-streams", "60000"],
            "upload-commit-streams (60000) must be at most 1/80 of metadata-entry (4MiB)",
        ),
        (&["--block-wal-writes-in-flight", "65"], "--block-wal-writes-in-flight: 65 is over the most, 64"),
        (&["--object-wal-linger", "5"], "--object-wal-linger: \"5\" is not a time"),
        (
            &["--upload-retry-pause", "10s"],
            "upload-retry-pause (10s) must be at most upload-retry-pause-max (5s)",
        ),
    ] {
        let error = options(arguments, &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

#[test]
fn advanced_limits_come_from_flags_variables_and_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "group-memory = \"1GiB\"\nread-attempts = 9\nupload-wal-used-percent = 75\n")
        .unwrap();
    let Options { bounds, access, .. } = options(
        &[
            "--config",
            file.path().to_str().unwrap(),
            "--object-wal-linger",
            "1ms",
            "--store-data-timeout",
            "7s",
        ],
        &[("OTTLA_BLOCK_WAL_WRITES_IN_FLIGHT", "2")],
    )
    .unwrap();
    assert_eq!(bounds.group.state_bytes_max, 1 << 30);
    assert_eq!(bounds.engine.block_cache.attempts_max, 9);
    assert_eq!(bounds.engine.wal_used_fraction_max, 0.75);
    assert_eq!(bounds.object_wal.linger, Duration::from_millis(1));
    assert_eq!(bounds.block_wal.writes_in_flight_max, 2);
    assert_eq!(access.limits.data_timeout, Duration::from_secs(7));
}

#[test]
fn what_follows_from_other_options_does() {
    let bounds = options(&["--puts-per-second", "3", "--lease", "2m"], &[]).unwrap().bounds;
    assert_eq!(bounds.object_wal.puts_per_second_max, 3.0);
    assert_eq!(bounds.object_wal.puts_burst_max, 3.0);
    assert_eq!(bounds.object_wal.delete_delay, Duration::from_secs(1200));
    let bounds = options(&["--object-wal-delete-delay", "1h", "--lease", "2m"], &[]).unwrap().bounds;
    assert_eq!(bounds.object_wal.delete_delay, Duration::from_secs(3600));
}

/// Bo3: either the parts take it, or an option that was given is named, with a rule.
fn accepted_or_named(given: &[(&str, String)]) {
    match Bounds::from_values(&values(given)) {
        Ok(bounds) => {
            bounds.validate().unwrap();
            // A Kafka config may make it larger.
            let queued_bytes_max = bounds.server.queued_bytes_max.max(bounds.server.request_bytes_max);
            server::Config { queued_bytes_max, ..bounds.server }.validate().unwrap();
        }
        Err(error) => {
            let error = error.to_string();
            assert!(given.iter().any(|(name, _)| error.contains(name)), "{error} for {given:?}");
            assert!(advanced::RULES.iter().any(|rule| error.contains(rule.why)), "{error} for {given:?}");
        }
    }
}

#[test]
fn both_ends_of_every_range_are_accepted_or_a_rule_says_why_not() {
    for (definition, _) in rows() {
        let (min, max) = range(definition);
        accepted_or_named(&[(definition.name, definition.kind.show(min))]);
        accepted_or_named(&[(definition.name, definition.kind.show(max))]);
    }
}

proptest! {
    /// Few rows at a time, at their ends or anywhere between, so that both outcomes are frequent.
    #[test]
    fn what_is_accepted_is_valid_for_every_part(
        given in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..4, any::<u64>()), 1..6)
    ) {
        let all: Vec<_> = rows().map(|(definition, _)| definition).collect();
        let given: Vec<_> = given
            .iter()
            .map(|(index, end, between)| {
                let definition = *index.get(&all);
                let (min, max) = range(definition);
                let amount = match end {
                    0 => min,
                    1 => max,
                    _ => min + between % (max - min + 1),
                };
                (definition.name, definition.kind.show(amount))
            })
            .collect();
        accepted_or_named(&given);
    }
}
