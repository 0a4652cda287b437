use clap::Command;

use super::*;

pub(super) fn options(arguments_given: &[&str], environment: &[(&str, &str)]) -> Result<Options, Error> {
    let matches = Command::new("serve")
        .args(arguments())
        .try_get_matches_from(std::iter::once("serve").chain(arguments_given.iter().copied()))
        .expect("the arguments parse");
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
    Options::from_values(&gather(&matches, environment)?)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn without_anything_the_defaults_hold() {
    let options = options(&[], &[]).unwrap();
    assert_eq!(options.store, Location::Directory("./ottla-data".into()));
    assert!(
        matches!(&options.wal, WalChoice::Block(uri) if uri.0.ends_with("/ottla-data/wal?capacity=256MiB"))
    );
    assert_eq!(options.listen.to_string(), "127.0.0.1:9092");
    assert_eq!(options.bounds.engine.log_cache_bytes, 256 << 20);
    assert_eq!(options.bounds.metadata.lease, Duration::from_secs(3));
}

/// Somebody may have to wait for the lease of a volume beside a bucket, and of nothing else.
#[test]
fn a_volume_beside_a_bucket_has_a_short_lease_unless_another_is_given() {
    let (bucket, volume) = (["--store", "s3://bucket"], ["--wal", "block:///dev/volume"]);
    let metadata = |given: &[&[&str]]| options(&given.concat(), &[]).unwrap().bounds.metadata;
    let times = |given: &[&[&str]]| {
        let crate::metadata::Options { lease, log, .. } = metadata(given);
        [lease, log.poll_interval, log.hedge_after, log.request_timeout].map(|time| time.as_millis())
    };
    assert_eq!(times(&[&bucket, &volume]), [1_000, 300, 250, 2_000]);
    for long in [&[&bucket[..]][..], &[&volume], &[]] {
        assert_eq!(times(long), [3_000, 1_000, 500, 5_000], "{long:?}");
    }
    assert_eq!(times(&[&bucket, &volume, &["--lease", "4s"]]), [4_000, 300, 250, 2_000]);
    assert_eq!(times(&[&bucket, &volume, &["--metadata-poll", "1s"]]), [3_000, 1_000, 500, 5_000]);
    let error = options(&["--lease", "1s"], &[]).unwrap_err().to_string();
    assert!(error.contains("a third of lease (1s)"), "{error}");
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file =
        file("log-cache = \"512MiB\"\nblock-cache = \"64MiB\"\nnode-id = 7\n[kafka]\nnum.partitions = 4\n");
    let path = file.path().to_str().unwrap();
    let options = options(
        &["--config", path, "--log-cache", "1GiB", "--kafka", "num.partitions=6"],
        &[
            ("OTTLA_LOG_CACHE", "2GiB"),
            ("OTTLA_BLOCK_CACHE", "96MiB"),
            ("OTTLA_KAFKA", "retention.ms=1,a.b=c"),
        ],
    )
    .unwrap();
    assert_eq!(options.bounds.engine.log_cache_bytes, 1 << 30);
    assert_eq!(options.bounds.engine.block_cache.cache_bytes, 96 << 20);
    assert_eq!(options.node_id, Some(7));
    let kafka: Vec<_> = options.kafka.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(kafka, [("a.b", "c"), ("num.partitions", "6"), ("retention.ms", "1")]);
}

#[test]
fn variables_that_are_not_text_matter_only_if_they_are_options() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let matches = Command::new("serve").args(arguments()).get_matches_from(["serve"]);
    let latin = || OsString::from_vec(b"M\xfcller".to_vec());
    let with = |name: OsString| gather(&matches, [(name, latin()), ("OTTLA_NODE_ID".into(), "7".into())]);
    for name in ["FULL_NAME".into(), latin(), OsString::from_vec(b"OTTLA_\xfc".to_vec())] {
        assert_eq!(Options::from_values(&with(name).unwrap()).unwrap().node_id, Some(7));
    }
    let error = with("OTTLA_RACK".into()).unwrap_err().to_string();
    assert_eq!(error, "OTTLA_RACK: its value is not UTF-8");
}

#[test]
fn a_bucket_has_its_write_ahead_log_inside() {
    let options = options(&["--store", "s3://bucket/prefix"], &[]).unwrap();
    assert_eq!(options.wal, WalChoice::Object);
    assert_eq!(options.store.to_string(), "s3://bucket/prefix");
}

#[test]
fn faults_name_the_value_and_where_it_came_from() {
    let file = file("log-cach = 1");
    for (arguments, environment, expected) in [
        (&["--listen", "nine"][..], &[][..], "--listen: \"nine\" is not HOST:PORT"),
        (&[], &[("OTTLA_LOG_CACHE", "1KiB")], "OTTLA_LOG_CACHE: 1KiB is below the least, 8MiB"),
        (&["--wal", "tape:"], &[], "--wal: \"tape:\" is neither object nor block:"),
        (
            &["--lease", "5s", "--metadata-poll", "2s"],
            &[],
            "metadata-poll (2s) must be at most a third of lease (5s)",
        ),
        (&["--kafka", "num.partitions"], &[], "--kafka: \"num.partitions\" is not NAME=VALUE"),
        (&["--config", file.path().to_str().unwrap()], &[], "log-cach is not an option"),
        (&["--advertise", "0.0.0.0:9092"], &[], "is a wildcard"),
        (
            &["--upload-bytes", "200MiB"],
            &[],
            "upload-bytes (200MiB) must be at most half of log-cache (256MiB)",
        ),
    ] {
        let error = options(arguments, environment).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

#[test]
fn the_short_help_leaves_the_advanced_limits_out() {
    let mut command = Command::new("serve").args(arguments());
    let (short, long) = (command.render_help().to_string(), command.render_long_help().to_string());
    let shows = |help: &str, flag: &str| help.split_whitespace().any(|word| word == flag);
    for definition in table::definitions() {
        let flag = format!("--{}", definition.name);
        assert!(shows(&long, &flag), "{flag} in the long help");
        assert_eq!(shows(&short, &flag), definition.section != table::Section::Advanced, "{flag}");
    }
    assert!(!short.contains("Advanced limits"));
    assert!(long.contains("Advanced limits:"));
}

#[test]
fn every_option_is_documented_once() {
    let page = markdown();
    for definition in table::definitions() {
        assert_eq!(page.matches(&format!("| `{}` |", definition.name)).count(), 1, "{}", definition.name);
    }
}

/// `docs/config.md` is what `ottla options --markdown` prints.
#[test]
fn the_page_in_docs_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(page, markdown(), "run `cargo run -- options --markdown > docs/config.md`");
}

#[test]
fn addresses_are_parsed_with_and_without_brackets() {
    assert_eq!(value::parse_host_port("[::1]:9092").unwrap(), HostPort { host: "::1".into(), port: 9092 });
    assert_eq!(value::parse_host_port("kafka.example:1").unwrap().host, "kafka.example");
    assert_eq!(HostPort { host: "::1".into(), port: 1 }.to_string(), "[::1]:1");
    assert_eq!(value::parse_host_port("[fe80::1%eth0]:1").unwrap().to_string(), "[fe80::1%eth0]:1");
    assert_eq!(value::parse_host_port(" kafka_1:1 ").unwrap().host, "kafka_1");
    for text in [
        "::1:9092",
        "host",
        ":9092",
        "host:99999",
        "[10.0.0.1]:1",
        "[::1",
        "[::1%]:1",
        "[]:1",
        "[\r\0]:9",
        "a b:1",
    ] {
        assert!(value::parse_host_port(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_are_parsed_with_their_units() {
    for (text, bytes) in
        [("17", 17), ("64KiB", 65_536), ("1GiB", 1 << 30), ("5 MB", 5_000_000), ("2g", 2 << 30)]
    {
        assert_eq!(parse_bytes(text).unwrap(), bytes, "{text}");
    }
    for text in ["", "MiB", "1XiB", "-1", "99999999999TiB"] {
        assert!(parse_bytes(text).is_err(), "{text}");
    }
}
