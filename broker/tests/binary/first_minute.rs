//! A new user's first minute, as the README tells it: the bare command, the client commands, what they say when
//! something is missing, and every way to set an option.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use faults::Port;

use crate::process::{DEADLINE, Ottla, Storage, exit_within, run};

/// A broker started as somebody does who has read nothing: no options, an empty directory.
fn bare() -> Ottla {
    let mut broker = Ottla::bare();
    broker.start();
    broker
}

fn ottla(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.args(arguments).env_remove("OTTLA_BOOTSTRAP");
    command
}

/// Runs a command that must fail with this exit code, and returns what it said on standard error.
fn failure(command: &mut Command, code: i32) -> String {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{command:?}: {said}");
    said
}

fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn the_bare_command_says_what_it_is_and_the_two_commands_that_it_prints_work() {
    let broker = bare();
    let banner = broker.output();
    let bootstrap = broker.bootstrap();
    for expected in [
        format!("Ottla {} is ready", env!("CARGO_PKG_VERSION")),
        format!("listening  {bootstrap}"),
        "store      file:./ottla-data".to_owned(),
        "wal        block://".to_owned(),
    ] {
        assert!(banner.contains(&expected), "{expected:?} is not in\n{banner}");
    }
    assert!(banner.lines().count() <= 24, "one screen:\n{banner}");
    assert!(!banner.contains("WARNING"), "{banner}");
    assert!(broker.directory.path().join("ottla-data/objects").is_dir());

    // As a person does who copies the lines into a shell.
    let printed: Vec<&str> = banner
        .lines()
        .filter(|line| line.contains("ottla produce") || line.contains("ottla consume"))
        .collect();
    let [produce, consume] = &printed[..] else { panic!("two commands:\n{banner}") };
    let shell = |line: &str| run(Command::new("sh").args(["-c", line]));
    assert_eq!(shell(produce), "1 record to hello\n");
    assert_eq!(shell(consume), "first record\n");
}

#[test]
fn what_was_written_is_there_after_an_orderly_stop_and_after_a_crash() {
    let mut broker = bare();
    run(&mut broker.cli(&["produce", "kept", "one"]));
    broker.stop();
    broker.start();
    assert!(!broker.output().contains("recovered"), "{}", broker.output());
    run(&mut broker.cli(&["produce", "kept", "two"]));
    broker.kill();
    broker.start();
    assert!(broker.output().contains("recovered"), "{}", broker.output());
    assert_eq!(lines(&run(&mut broker.cli(&["consume", "kept"]))), ["one", "two"]);
}

#[test]
fn topics_are_created_listed_described_and_deleted() {
    let broker = bare();
    let said = broker.cli(&["topic", "list"]).output().unwrap();
    assert!(said.status.success() && said.stdout.is_empty());
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("ottla topic create"), "it says how to make one: {said}");

    let options = ["--partitions", "3", "--config", "retention.ms=3600000"];
    run(broker.cli(&["topic", "create", "clicks"]).args(options));
    let listed = run(&mut broker.cli(&["topic", "list"]));
    assert!(lines(&listed).iter().any(|line| line.contains("clicks") && line.contains('3')), "{listed}");
    run(&mut broker.cli(&["produce", "clicks", "a", "b", "--partition", "2"]));
    let described = run(&mut broker.cli(&["topic", "describe", "clicks"]));
    assert!(described.contains("retention.ms") && described.contains("3600000"), "{described}");
    assert!(lines(&described).iter().any(|line| line.starts_with('2') && line.contains(" 2")), "{described}");

    let said = failure(&mut broker.cli(&["topic", "create", "clicks"]), 1);
    assert!(said.contains("exist") && said.contains("ottla topic describe"), "{said}");
    let said = failure(&mut broker.cli(&["topic", "create", "not/valid"]), 1);
    assert!(said.contains("not/valid"), "{said}");
    let said = failure(&mut broker.cli(&["topic", "create", "t", "--config", "retention.mss=1"]), 1);
    assert!(said.contains("retention.mss"), "{said}");

    assert!(run(&mut broker.cli(&["topic", "delete", "clicks"])).contains("clicks"));
    for command in [["topic", "describe", "clicks"], ["topic", "delete", "clicks"]] {
        let said = failure(&mut broker.cli(&command), 1);
        assert!(said.contains("topic clicks") && said.contains("ottla topic list"), "{said}");
    }
}

#[test]
fn records_come_from_arguments_and_lines_and_leave_as_lines_and_json() {
    let broker = bare();
    assert_eq!(run(&mut broker.cli(&["produce", "t", "one", "two words"])), "2 records to t\n");
    let output = run_with_input(&mut broker.cli(&["produce", "t"]), b"three\nfour\nwithout an end");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "3 records to t\n");
    let all = run(&mut broker.cli(&["consume", "t", "--from-beginning"]));
    assert_eq!(lines(&all), ["one", "two words", "three", "four", "without an end"]);
    let two = run(&mut broker.cli(&["consume", "t", "--from-beginning", "--count", "2"]));
    assert_eq!(lines(&two), ["one", "two words"]);
    assert_eq!(lines(&run(&mut broker.cli(&["consume", "t", "--offset", "3"]))).len(), 2);

    let keyed = ["produce", "keyed", "--key-separator", ":", "--header", "trace=7"];
    let output = run_with_input(&mut broker.cli(&keyed), b"ann:{\"age\":7}\nbob:\xff\n");
    assert!(output.status.success());
    let shown = run(&mut broker.cli(&["consume", "keyed", "--json"]));
    let records: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 2);
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record["topic"], "keyed");
        assert_eq!(record["partition"], 0);
        assert_eq!(record["offset"], at);
        assert!(record["timestamp"].as_i64().unwrap() > 1_600_000_000_000, "{record}");
        assert_eq!(record["headers"][0]["name"], "trace");
        assert_eq!(record["headers"][0]["value"], "7");
    }
    assert_eq!((&records[0]["key"], &records[0]["value"]), (&"ann".into(), &"{\"age\":7}".into()));
    assert_eq!(records[1]["value"]["hex"], "ff");

    // Of a line without a key nothing is made up, and the number of the line is told.
    let output = run_with_input(&mut broker.cli(&keyed), b"ann:1\nno key\n");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("record 2 has no key"), "{said}");
}

#[test]
fn following_shows_new_records_as_they_come_until_it_is_stopped() {
    let broker = bare();
    run(&mut broker.cli(&["produce", "news", "old"]));
    let mut follower = broker
        .cli(&["consume", "news", "--from-beginning", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(shown.next().unwrap().unwrap(), "old");
    for news in ["first", "second"] {
        run(&mut broker.cli(&["produce", "news", news]));
        assert_eq!(shown.next().unwrap().unwrap(), news);
    }
    run(Command::new("kill").args(["-INT", &follower.id().to_string()]));
    let status = exit_within(&mut follower, DEADLINE).expect("it stops when it is asked to");
    assert!(status.success(), "{status}");
    assert!(shown.next().is_none());
}

#[test]
fn a_group_goes_on_where_it_left_off_and_can_be_looked_at() {
    let broker = bare();
    let said = broker.cli(&["group", "list"]).output().unwrap();
    assert!(said.status.success() && said.stdout.is_empty());
    assert!(String::from_utf8(said.stderr).unwrap().contains("--group"), "it says how to make one");
    let said = failure(&mut broker.cli(&["group", "describe", "reports"]), 1);
    assert!(said.contains("there is no group reports"), "{said}");
    assert!(said.contains("ottla group list"), "{said}");

    run(&mut broker.cli(&["produce", "jobs", "1", "2", "3"]));
    let consume = ["consume", "jobs", "--group", "reports", "--from-beginning"];
    let first = run(broker.cli(&consume).args(["--count", "2"]));
    assert_eq!(lines(&first), ["1", "2"]);
    let described = run(&mut broker.cli(&["group", "describe", "reports"]));
    let row: BTreeSet<&str> = lines(&described)
        .into_iter()
        .find(|line| line.starts_with("jobs"))
        .unwrap_or_else(|| panic!("its offsets:\n{described}"))
        .split_whitespace()
        .collect();
    assert!(row.is_superset(&["jobs", "2", "3", "1"].into()), "committed 2 of 3, lag 1: {described}");
    assert!(run(&mut broker.cli(&["group", "list"])).contains("reports"));
    assert_eq!(lines(&run(&mut broker.cli(&consume))), ["3"]);
    assert!(run(&mut broker.cli(&consume)).is_empty());
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let broker = bare();
    let many: Vec<u8> = (0..20_000).flat_map(|number| format!("record {number}\n").into_bytes()).collect();
    assert!(run_with_input(&mut broker.cli(&["produce", "long"]), &many).status.success());
    let mut consume =
        broker.cli(&["consume", "long"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut shown = BufReader::new(consume.stdout.take().unwrap());
    shown.read_line(&mut String::new()).unwrap();
    drop(shown);
    let output = consume.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

#[test]
fn errors_say_what_to_do_next() {
    let port = Port::reserve();
    let nobody = format!("127.0.0.1:{port}");
    for command in [&["topic", "list"][..], &["produce", "t", "v"], &["consume", "t"], &["group", "list"]] {
        let said = failure(ottla(command).args(["--bootstrap", &nobody]), 1);
        assert!(said.contains(&nobody) && said.contains("ottla serve"), "{command:?}: {said}");
    }
    let broker = bare();
    let said = failure(&mut broker.cli(&["consume", "nothing"]), 1);
    assert!(said.contains("does not exist") && said.contains("ottla topic create"), "{said}");
    run(&mut broker.cli(&["produce", "t", "v"]));
    let said = failure(&mut broker.cli(&["consume", "t", "--partition", "7"]), 1);
    assert!(said.contains("no partition 7") && said.contains("ottla topic describe t"), "{said}");
    let said = failure(&mut broker.cli(&["consume", "t", "--offset", "7"]), 1);
    assert!(said.contains("no offset 7") && said.contains("0 to 1"), "{said}");
    let large = "x".repeat(100_000);
    run(&mut broker.cli(&["topic", "create", "small", "--config", "max.message.bytes=1000"]));
    let said = failure(&mut broker.cli(&["produce", "small", &large]), 1);
    assert!(said.contains("max.message.bytes"), "{said}");

    let taken = failure(ottla(&["serve", "--listen", &broker.bootstrap()]).current_dir("/"), 1);
    assert!(taken.contains(&broker.bootstrap()) && taken.contains("--listen"), "{taken}");
}

#[test]
fn a_command_line_that_is_not_understood_is_exit_code_two() {
    for line in [
        &["consum"][..],
        &["consume"],
        &["topic", "create"],
        &["topic", "create", "t", "--partitions", "0"],
        &["consume", "t", "--count", "many"],
        &["serve", "--sotre", "x"],
        &["--nonsense"],
        &["store"],
    ] {
        let said = failure(&mut ottla(line), 2);
        assert!(said.contains("Usage") || said.contains("--help"), "{line:?}: {said}");
    }
    // Understood, but it makes no sense.
    for (line, named) in [
        (&["serve", "--log-cache", "lots"][..], "--log-cache"),
        (&["serve", "--lease", "1s"], "a third of lease"),
        (&["serve", "--store", "ftp://x"], "file:PATH"),
        (&["serve", "--kafka", "num.partitions=0"], "num.partitions"),
        (&["serve", "--kafka", "no.such.thing=1"], "no.such.thing"),
        (&["serve", "--config", "/nowhere.toml"], "/nowhere.toml"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let said = failure(ottla(line).current_dir(directory.path()), 1);
        assert!(said.contains(named), "{line:?}: {said}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{line:?} left something");
    }
}

#[test]
fn every_command_has_help_with_examples() {
    for (command, needs_examples) in [
        (&[][..], true),
        (&["serve"], true),
        (&["store"], false),
        (&["store", "check"], true),
        (&["options"], false),
        (&["topic"], false),
        (&["topic", "create"], true),
        (&["topic", "list"], true),
        (&["topic", "describe"], true),
        (&["topic", "delete"], true),
        (&["produce"], true),
        (&["consume"], true),
        (&["group"], false),
        (&["group", "list"], true),
        (&["group", "describe"], true),
    ] {
        let help = run(ottla(command).arg("--help"));
        assert!(help.contains("Usage: ottla"), "{command:?}:\n{help}");
        assert!(!needs_examples || help.contains("Example"), "{command:?} has no example:\n{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 140, "{command:?}: a line too long to read: {line}");
        }
    }
    assert!(run(&mut ottla(&["--version"])).contains(env!("CARGO_PKG_VERSION")));
    let options = run(&mut ottla(&["options"]));
    let help = run(&mut ottla(&["serve", "--help"]));
    for option in ["store", "wal", "listen", "advertise", "log-cache", "lease"] {
        assert!(options.contains(option) && help.contains(&format!("--{option}")), "{option}");
    }
}

#[test]
fn options_come_from_a_file_the_environment_and_flags_in_that_order() {
    let mut broker = Ottla::bare();
    let file = broker.directory.path().join("ottla.toml");
    std::fs::write(
        &file,
        "store = \"file:from-the-file\"\nrack = \"a\"\nlog = \"warn\"\nlisten = \"127.0.0.1:1\"\n\
         [kafka]\nnum.partitions = 3\n",
    )
    .unwrap();
    let mut command = broker.command();
    command.args(["serve", "--config", "ottla.toml", "--store", "file:from-the-flag"]);
    command.env("OTTLA_STORE", "file:from-the-environment");
    broker.begin_as(command);
    broker.wait_until_ready();
    let made = |name: &str| broker.directory.path().join(name).exists();
    assert!(made("from-the-flag") && !made("from-the-environment") && !made("from-the-file"));
    // The address is the environment's, the number of partitions the file's.
    run(&mut broker.cli(&["produce", "t", "v"]));
    let described = run(&mut broker.cli(&["topic", "describe", "t"]));
    assert!(lines(&described).iter().any(|line| line.starts_with('2')), "three partitions:\n{described}");
    assert!(!broker.log().contains("INFO"), "{}", broker.log());

    std::fs::write(&file, "sotre = \"file:x\"\n").unwrap();
    let said = failure(ottla(&["serve", "--config"]).arg(&file), 1);
    assert!(said.contains("sotre") && said.contains("ottla.toml"), "{said}");
}

#[test]
fn listening_beyond_loopback_is_said_loudly() {
    let mut broker = Ottla::bare();
    let mut command = broker.command();
    command.env("OTTLA_LISTEN", format!("0.0.0.0:{}", broker.port));
    command.env("OTTLA_ADVERTISE", broker.bootstrap());
    broker.begin_as(command);
    broker.wait_until_ready();
    assert!(broker.output().contains("WARNING: there is no authentication"), "{}", broker.output());
    assert!(broker.log().contains("without authentication"), "{}", broker.log());
    run(&mut broker.cli(&["produce", "t", "v"]));
}

#[test]
fn a_directory_passes_the_check_of_stores_and_keeps_nothing_of_it() {
    let directory = Ottla::new(Storage::DirectoryBlock).directory.clone();
    let store = format!("file:{}/checked", directory.path().display());
    let said = run(&mut ottla(&["store", "check", "--store", &store]));
    assert!(said.contains("ok"), "{said}");
    let files = run(Command::new("find").arg(directory.path().join("checked/objects")).args(["-type", "f"]));
    assert!(files.is_empty(), "left behind: {files}");
}
