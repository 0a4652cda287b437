//! `ottla cost`, and whether what it counts is what reaches the store: against the count of a door in front of it.

use std::time::Duration;

use faults::{Counts, Fault, Operation, Port, Proxy, Rule, Seen};
use serde_json::Value;

use crate::faults::store::behind_a_proxy;
use crate::process::{Ottla, Storage, run, wait_for, wait_until};
use crate::testing;
use crate::wire::Wire;

/// A broker with an admin endpoint on a port that is free as long as `Port` lives.
fn with_admin(broker: Ottla) -> (Ottla, Port) {
    let port = Port::reserve();
    let listen = format!("127.0.0.1:{port}");
    let broker = broker.with(&["--admin-listen", &listen, "--admin-usage-interval", "10ms"]);
    (broker, port)
}

fn cost(broker: &Ottla, port: &Port, arguments: &[&str]) -> String {
    let admin = format!("127.0.0.1:{port}");
    run(broker.cli(&["cost", "--admin", &admin]).args(arguments))
}

fn report(broker: &Ottla, port: &Port) -> Value {
    serde_json::from_str(&cost(broker, port, &["--json"])).unwrap()
}

/// Of one purpose, or of all.
fn asked(report: &Value, purpose: Option<&str>) -> Counts {
    let mut counts = Counts::default();
    for asked in report["requests"].as_array().unwrap() {
        if purpose.is_none_or(|purpose| asked["purpose"] == purpose) {
            counts.puts += asked["puts"].as_u64().unwrap();
            counts.gets += asked["gets"].as_u64().unwrap();
            counts.deletes += asked["deletes"].as_u64().unwrap();
            counts.lists += asked["lists"].as_u64().unwrap();
        }
    }
    counts
}

fn topic<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    report["by_topic"].as_array().unwrap().iter().find(|row| row["topic"] == name)
}

fn produce(broker: &Ottla, topic: &str, count: usize) {
    let values: Vec<String> = (0..count).map(|number| format!("{number:0>1000}")).collect();
    let mut arguments = vec!["produce", topic];
    arguments.extend(values.iter().map(String::as_str));
    run(&mut broker.cli(&arguments));
}

/// GETs that are given up between their count and their way: where a log's end is found, what was to be read behind it.
const GIVEN_UP_MAX: u64 = 8;

/// For comparing what is counted with what comes through a door.
const COUNTABLE: &[&str] = &[
    // A PUT that is given up may have been counted and not yet sent.
    "--object-wal-hedge-factor",
    "0",
    // So that there are moments in which nothing is under way.
    "--metadata-poll",
    "5s",
    "--lease",
    "30s",
    "--upload-interval",
    "1s",
];

/// M1: through a start on an empty store, load, refusals and lost answers, uploads, compaction, reads, listings and
/// deletions. The client repeats what failed by itself: those attempts are requests, too.
fn nothing_goes_uncounted(storage: Storage) {
    let (broker, proxy) = behind_a_proxy(storage);
    let (mut broker, port) = with_admin(broker.with(COUNTABLE).with(&[
        "--compaction-fan-in",
        "2",
        "--compaction-interval",
        "100ms",
        "--collect-delay",
        "1s",
        "--collect-interval",
        "100ms",
        "--collect-first-sweep",
        "300ms",
        "--collect-sweep-interval",
        "3s",
        "--log-cache",
        "8MiB",
        "--upload-bytes",
        "1MiB",
    ]));
    broker.start();
    produce(&broker, "kept", 50);
    for kind in [Operation::Put, Operation::Get] {
        for fault in [Fault::Refuse, Fault::LoseReply] {
            proxy.add(Rule::new(kind, fault).with_probability(0.2));
        }
    }
    let mut rounds = 0;
    while proxy.struck() < 20 || asked(&report(&broker, &port), Some("compaction")).puts == 0 {
        produce(&broker, "kept", 50);
        rounds += 1;
        assert!(rounds < 1_000, "{}", proxy.struck());
    }
    proxy.heal();
    produce(&broker, "doomed", 50);
    run(&mut broker.cli(&["topic", "delete", "doomed"]));
    let (log, reported) = wait_for(|| {
        let (log, report) = settled(&broker, &port, &proxy, 0)?;
        let collected = asked(&report, Some("collection"));
        if collected.deletes > 0 && collected.lists > 2 {
            Ok((log, report))
        } else {
            Err(format!("{collected:?}"))
        }
    });
    println!("{storage:?}: {:?}, {} struck", came_through(&log, ""), proxy.struck());
    let of = |purpose| asked(&reported, Some(purpose));
    let (slots, objects) = (came_through(&log, "wal"), came_through(&log, "data"));
    assert_eq!(of("wal").puts, slots.puts, "{reported:#}");
    assert_eq!(of("upload").puts + of("compaction").puts, objects.puts, "{reported:#}");
    assert_eq!(of("metadata").puts, came_through(&log, "").puts - slots.puts - objects.puts, "{reported:#}");
    for purpose in ["upload", "compaction", "metadata"] {
        assert!(of(purpose).puts > 0, "{purpose}: {reported:#}");
    }
    assert!(of("compaction").gets > 0, "what is merged is read: {reported:#}");
    // The probe's objects and the collector's: slots wait longer. Batches name no key.
    let deletes = came_through(&log, "").deletes;
    assert_eq!(of("collection").deletes + of("metadata").deletes, deletes, "{reported:#}");
    assert_eq!((of("read"), of("recovery")), (Counts::default(), Counts::default()), "{reported:#}");
    broker.stop();
}

/// What came through for keys under `prefix`.
fn came_through(log: &[Seen], prefix: &str) -> Counts {
    let mut counts = Counts::default();
    for seen in log.iter().filter(|seen| seen.key.as_ref().starts_with(prefix)) {
        *match seen.operation {
            Operation::Put => &mut counts.puts,
            Operation::Get => &mut counts.gets,
            Operation::Delete => &mut counts.deletes,
            Operation::List => &mut counts.lists,
        } += 1;
    }
    counts
}

/// What came through the door from its `from`-th request on, and a report that counts as much. Between two equal counts
/// of the door nothing was under way for as long as the broker was asked.
///
/// A GET that reads ahead may be given up after it was counted and before it is sent: where nothing is under way for a
/// second, such a surplus is all that there is between the two.
fn settled(broker: &Ottla, port: &Port, proxy: &Proxy, from: usize) -> Result<(Vec<Seen>, Value), String> {
    let look = || {
        let log = proxy.log().split_off(from);
        let report = report(broker, port);
        (came_through(&log, ""), asked(&report, None), log, report)
    };
    let (door, counted, log, report) = look();
    if door == counted {
        return Ok((log, report));
    }
    let surplus = counted.gets.checked_sub(door.gets);
    if surplus.is_some_and(|gets| gets <= GIVEN_UP_MAX && Counts { gets: door.gets, ..counted } == door) {
        std::thread::sleep(Duration::from_secs(1));
        let (still_door, still_counted, log, report) = look();
        if (still_door, still_counted) == (door, counted) {
            return Ok((log, report));
        }
    }
    Err(format!("{door:?} came through, {counted:?} were counted"))
}

/// One thing at a time, so that the keys alone tell what each request was for: uploads, then recovery, then reads.
fn requests_count_as_what_they_are_for(storage: Storage) {
    let (broker, proxy) = behind_a_proxy(storage);
    let (mut broker, port) = with_admin(broker.with(COUNTABLE).with(&[
        "--compaction-interval",
        "1h",
        "--collect-first-sweep",
        "1h",
    ]));
    let nothing = Counts::default();
    broker.start();
    produce(&broker, "t", 50);
    let (log, reported) = wait_for(|| {
        let (log, report) = settled(&broker, &port, &proxy, 0)?;
        if asked(&report, Some("upload")).puts > 0 { Ok((log, report)) } else { Err("no upload".to_owned()) }
    });
    let of = |purpose| asked(&reported, Some(purpose));
    assert_eq!(of("upload"), came_through(&log, "data"), "{reported:#}");
    assert_eq!(of("wal"), came_through(&log, "wal"), "{reported:#}");
    for purpose in ["compaction", "read", "collection", "recovery"] {
        assert_eq!(of(purpose), nothing, "{purpose}: {reported:#}");
    }

    produce(&broker, "t", 50);
    broker.kill();
    // What the dead process had sent is through once nothing more comes.
    let mut dead = proxy.log().len();
    wait_until("requests of a dead process go on", || {
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut dead, proxy.log().len()) == dead
    });
    broker.start();
    let (log, recovered) = wait_for(|| settled(&broker, &port, &proxy, dead));
    let of = |purpose| asked(&recovered, Some(purpose));
    let (slots, objects) = (came_through(&log, "wal"), came_through(&log, "data"));
    assert_ne!(of("recovery"), nothing, "{recovered:#}");
    // The walk reads slots and puts the seal; a volume's records become objects.
    assert_eq!(of("recovery").puts + of("upload").puts + of("wal").puts, slots.puts + objects.puts);
    for purpose in ["compaction", "read", "collection"] {
        assert_eq!(of(purpose), nothing, "{purpose}: {recovered:#}");
    }

    let before = proxy.log().len();
    assert_eq!(run(&mut broker.cli(&["consume", "t", "--from-beginning"])).lines().count(), 100);
    let (log, read) = wait_for(|| settled(&broker, &port, &proxy, dead));
    let of = |purpose| asked(&read, Some(purpose));
    let fetched =
        came_through(&log[before - dead..], "data").gets + came_through(&log[before - dead..], "wal").gets;
    assert!(fetched > 0 && of("read").gets == fetched, "{fetched} fetched: {read:#}");
    assert_eq!(of("recovery"), asked(&recovered, Some("recovery")), "{read:#}");
    for purpose in ["compaction", "collection"] {
        assert_eq!(of(purpose), nothing, "{purpose}: {read:#}");
    }
    broker.stop();
}

#[test]
fn requests_count_as_what_they_are_for_with_an_object_wal() {
    requests_count_as_what_they_are_for(Storage::BucketObject);
}

#[test]
fn requests_count_as_what_they_are_for_with_a_block_wal() {
    requests_count_as_what_they_are_for(Storage::BucketBlock);
}

#[test]
fn nothing_goes_uncounted_with_an_object_wal() {
    nothing_goes_uncounted(Storage::BucketObject);
}

#[test]
fn nothing_goes_uncounted_with_a_block_wal() {
    nothing_goes_uncounted(Storage::BucketBlock);
}

/// By topic, at prices of one's own, and where a topic is gone.
#[test]
fn topics_share_the_cost_by_their_bytes() {
    let (mut broker, port) =
        with_admin(Ottla::new(Storage::DirectoryObject).with(&["--upload-interval", "1s"]));
    broker.start();
    produce(&broker, "large", 90);
    produce(&broker, "small", 30);
    wait_until("they are never uploaded", || {
        let report = report(&broker, &port);
        let stored = |name| topic(&report, name).unwrap()["stored_bytes"].as_u64().unwrap();
        stored("large") > 90_000 && stored("small") > 30_000
    });
    let prices = broker.directory.path().join("prices.toml");
    std::fs::write(&prices, "put-1000 = 1000\nlist-1000 = 0\nget-1000 = 0\nstored-gib-month = 0").unwrap();
    let prices = ["--json", "--prices", prices.to_str().unwrap()];
    let priced: Value = serde_json::from_str(&cost(&broker, &port, &prices)).unwrap();
    // A dollar for each PUT.
    assert_eq!(priced["cost"].as_f64().unwrap(), asked(&priced, None).puts as f64);
    let (large, small) = (topic(&priced, "large").unwrap(), topic(&priced, "small").unwrap());
    let ratio = large["cost"].as_f64().unwrap() / small["cost"].as_f64().unwrap();
    assert!((2.5..3.5).contains(&ratio), "{large} {small}");

    run(&mut broker.cli(&["topic", "delete", "large"]));
    let written = wait_for(|| {
        let report = report(&broker, &port);
        match (topic(&report, "large"), topic(&report, "(deleted)")) {
            (None, Some(gone)) => Ok(gone["appended_bytes"].as_u64().unwrap()),
            _ => Err(format!("{report:#}")),
        }
    });
    assert!((90_000..120_000).contains(&written), "{written}");

    let table = cost(&broker, &port, &[]);
    for text in [
        "FOR ",
        "wal ",
        "total ",
        "TOPIC ",
        "small ",
        "(deleted) ",
        "(cluster) ",
        "a month: ",
        "Nobody bills",
    ] {
        assert!(table.contains(text), "{text:?} in\n{table}");
    }
    let watched = cost(&broker, &port, &["--over", "10ms"]);
    assert!(watched.contains("watched for"), "{watched}");
    broker.stop();
}

/// Between two readings of a broker that has nothing to do, of at least `polls` polls of its metadata.
fn idle(storage: Storage, polls: u64) {
    // Ten times as often as by default, and so is everything that goes by time: what is counted is the same.
    let (mut broker, port) = with_admin(Ottla::new(storage).with(&[
        "--metadata-poll",
        "100ms",
        "--metadata-verify-interval",
        "1s",
        "--collect-interval",
        "1s",
        "--compaction-interval",
        "1s",
        "--compaction-walk-interval",
        "2s",
        "--upload-interval",
        "1s",
    ]));
    broker.start();
    run(&mut broker.cli(&["topic", "create", "quiet", "--partitions", "50"]));
    produce(&broker, "quiet", 50);
    // Until what that leads to is over: nothing but polls in as many as a tenth of those that are counted then.
    let settled = |polls: u64| {
        let before = report(&broker, &port);
        wait_for(|| {
            let after = report(&broker, &port);
            let gets = |report: &Value| asked(report, Some("metadata")).gets;
            if gets(&after) < gets(&before) + polls { Err("few polls".to_owned()) } else { Ok(after) }
        });
        let after = report(&broker, &port);
        (before, after)
    };
    let but_gets = |report: &Value| {
        let Counts { puts, deletes, lists, .. } = asked(report, None);
        (puts, deletes, lists)
    };
    wait_for(|| {
        let (before, after) = settled(polls / 10);
        if but_gets(&before) == but_gets(&after) { Ok(()) } else { Err(format!("{after:#}")) }
    });
    let (before, after) = settled(polls);
    assert_eq!(but_gets(&before), but_gets(&after), "{storage:?}: {before:#} {after:#}");
    let gets = |purpose| asked(&after, purpose).gets - asked(&before, purpose).gets;
    assert_eq!(gets(None), gets(Some("metadata")), "{storage:?}: {before:#} {after:#}");
    // A poll is one GET, and the verification two, at every tenth.
    let seconds = after["seconds"].as_f64().unwrap() - before["seconds"].as_f64().unwrap();
    let allowed = seconds / 0.1 * 1.2 + 10.0;
    println!("{storage:?}: {} GETs in {seconds:.1} s", gets(None));
    assert!(gets(None) as f64 <= allowed, "{storage:?}: {} GETs in {seconds} s", gets(None));
    broker.stop();
}

/// With nothing to do: the polls of the metadata, and nothing else. At one a second a month of them is $1.26.
#[test]
fn an_idle_broker_polls_its_metadata_and_asks_for_nothing_else() {
    for storage in [Storage::DirectoryBlock, Storage::DirectoryObject] {
        idle(storage, 100);
    }
}

/// All that a broker sends, whatever for, while it is kept busy with little at a time.
#[test]
fn puts_stay_inside_their_budget() {
    let arguments = ["--puts-per-second", "10", "--upload-interval", "1s"];
    let (mut broker, port) = with_admin(Ottla::new(Storage::DirectoryObject).with(&arguments));
    broker.start();
    produce(&broker, "busy", 1);
    let before = report(&broker, &port);
    // Each waits for its batch, which could have a slot of its own.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut connection = Wire::connect(&broker);
            scope.spawn(move || {
                for number in 0..100 {
                    let batch = testing::batch(1, |spec| spec.base_timestamp = 1_000_000 + number);
                    let answer = connection.produce("busy", &batch).unwrap();
                    assert_eq!(answer.error_code, 0);
                }
            });
        }
    });
    let after = report(&broker, &port);
    let puts = |report: &Value| {
        let Counts { puts, lists, .. } = asked(report, None);
        puts + lists
    };
    let seconds = after["seconds"].as_f64().unwrap() - before["seconds"].as_f64().unwrap();
    // What was saved up, and the most that may be owed at the end: 7.5 seconds' worth.
    let (sent, allowed) = (puts(&after) - puts(&before), 10.0 * (1.0 + seconds + 7.5));
    println!("{sent} PUTs in {seconds:.1} s, {allowed:.0} allowed");
    assert!(sent as f64 <= allowed, "{sent} PUTs in {seconds} s, {allowed} are allowed");
    assert_eq!(after["budget"]["per_second"], 10.0);
    let table = cost(&broker, &port, &[]);
    assert!(table.contains("The budget is 10 PUTs and LISTs a second, $131.40 a month at most"), "{table}");
    broker.stop();
}

#[test]
fn without_an_endpoint_it_says_what_to_do() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let port = Port::reserve();
    let admin = format!("127.0.0.1:{port}");
    let output = broker.cli(&["cost", "--admin", &admin]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(&format!("--admin-listen {admin}")), "{told}");
    // Kafka's port is not it.
    let output = broker.cli(&["cost", "--timeout", "5s", "--admin", &broker.bootstrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
