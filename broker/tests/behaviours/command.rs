//! The `ottla` command as people use it, against a whole broker.

use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::{TestBroker, within};

/// Runs `ottla` with these arguments and this standard input.
async fn ottla(broker: &TestBroker, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ottla"))
        .args(arguments)
        .env("OTTLA_BOOTSTRAP", broker.address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start ottla");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A command that reads no input may be gone before it is written.
    let write = async move { drop(stdin.write_all(&input).await) };
    let (output, ()) = within(async { tokio::join!(child.wait_with_output(), write) }).await;
    output.expect("wait for ottla")
}

/// Runs it and demands success; returns standard output.
async fn done(broker: &TestBroker, arguments: &[&str], input: &[u8]) -> String {
    let output = ottla(broker, arguments, input).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs it and demands failure; returns standard error.
async fn refused(broker: &TestBroker, arguments: &[&str]) -> String {
    let output = ottla(broker, arguments, b"").await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[tokio::test]
async fn topics_are_created_listed_described_and_deleted() {
    let broker = TestBroker::start().await;
    let created =
        done(&broker, &["topic", "create", "greetings", "-p", "2", "--config", "retention.ms=5000"], b"");
    assert_eq!(created.await, "created topic greetings with 2 partitions\n");
    assert!(refused(&broker, &["topic", "create", "greetings"]).await.contains("TopicAlreadyExists"));
    let list = done(&broker, &["topic", "list"], b"").await;
    assert_eq!(list, "TOPIC      PARTITIONS\ngreetings  2\n");
    let described = done(&broker, &["topic", "describe", "greetings"], b"").await;
    assert!(described.contains("retention.ms = 5000\n"), "{described}");
    assert!(
        described.contains("PARTITION  LEADER  START  END\n0          1       0      0\n"),
        "{described}"
    );
    assert_eq!(done(&broker, &["topic", "delete", "greetings"], b"").await, "deleted topic greetings\n");
    let error = refused(&broker, &["topic", "describe", "greetings"]).await;
    assert!(error.contains("`ottla topic create TOPIC`"), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn topics_grow_and_configs_change() {
    let broker = TestBroker::start().await;
    broker.topic("t", 2, &[]).await;
    let grown = done(&broker, &["topic", "alter", "t", "--partitions", "3"], b"").await;
    assert_eq!(grown, "topic t has 3 partitions now\n");
    let error = refused(&broker, &["topic", "alter", "t", "-p", "2"]).await;
    assert!(
        error.contains("2 would not be an increase (InvalidPartitions). Partitions can be added"),
        "{error}"
    );
    assert!(refused(&broker, &["topic", "alter", "absent", "-p", "2"]).await.contains("`ottla topic list`"));

    let set = ["config", "set", "t", "retention.ms=5000", "cleanup.policy="];
    assert_eq!(done(&broker, &set, b"").await, "set 2 configs of topic t\n");
    let append = ["config", "append", "t", "cleanup.policy=delete"];
    assert_eq!(done(&broker, &append, b"").await, "changed 1 config of topic t\n");
    let described = done(&broker, &["config", "describe", "t"], b"").await;
    let expected = "CONFIG          VALUE   SET\n\
                    cleanup.policy  delete  for the topic\n\
                    retention.ms    5000    for the topic\n";
    assert_eq!(described, expected);
    done(&broker, &["config", "subtract", "t", "cleanup.policy=delete"], b"").await;
    assert_eq!(
        done(&broker, &["config", "unset", "t", "retention.ms"], b"").await,
        "unset 1 config of topic t\n"
    );
    let all = done(&broker, &["config", "describe", "t", "--all"], b"").await;
    assert!(all.contains("by default\n") && all.lines().count() == 34, "{all}");

    let dry = ["config", "set", "--all-brokers", "log.retention.ms=7", "--dry-run"];
    assert_eq!(done(&broker, &dry, b"").await, "would change 1 config of all brokers\n");
    done(&broker, &["config", "set", "--all-brokers", "log.retention.ms=7"], b"").await;
    done(&broker, &["config", "set", "--broker", "1", "log.segment.bytes=2000000"], b"").await;
    let own = done(&broker, &["config", "describe", "--broker", "1"], b"").await;
    assert!(own.contains("for all brokers\n") && own.contains("for the broker\n"), "{own}");
    let cluster = done(&broker, &["config", "describe", "--all-brokers"], b"").await;
    assert_eq!(cluster, "CONFIG            VALUE  SET\nlog.retention.ms  7      for all brokers\n");
    for (arguments, message) in [
        (&["config", "set", "t", "retention.ms=soon"][..], "Not a number of type LONG (InvalidConfig)"),
        (&["config", "set", "t", "no.such=1"], "Unknown topic config name: no.such"),
        (&["config", "append", "t", "retention.ms=1"], "its type is not LIST"),
        (&["config", "set", "absent", "retention.ms=1"], "`ottla topic list`"),
        (&["config", "set", "t"], "which configs?"),
        (&["config", "set", "t", "retention.ms"], "expected KEY=VALUE"),
        (&["config", "unset", "t", "retention.ms=1"], "takes its name alone"),
        (&["config", "set", "--broker", "1", "num.partitions=2"], "Cannot update these configs dynamically"),
        (&["config", "describe", "--broker", "9"], "broker 9 is not in the cluster's metadata"),
        (&["config", "describe", "absent"], "`ottla topic create TOPIC`"),
    ] {
        let error = refused(&broker, arguments).await;
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn what_is_produced_is_consumed() {
    let broker = TestBroker::start().await;
    assert_eq!(done(&broker, &["produce", "greetings", "hello"], b"").await, "1 record to greetings\n");
    done(&broker, &["produce", "greetings", "-k", ":", "-H", "trace=7", "ann:world"], b"").await;
    let all = done(&broker, &["consume", "greetings", "-k", "="], b"").await;
    assert_eq!(all, "null=hello\nann=world\n");
    let line = done(&broker, &["consume", "greetings", "-p", "0", "-o", "1", "--json"], b"").await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
    assert_eq!((&line["offset"], &line["key"], &line["value"]), (&1.into(), &"ann".into(), &"world".into()));
    assert_eq!(line["headers"], serde_json::json!([{"name": "trace", "value": "7"}]));
    assert_eq!(done(&broker, &["consume", "greetings", "-n", "1"], b"").await, "hello\n");
    let error = refused(&broker, &["consume", "greetings", "-p", "9"]).await;
    assert!(error.contains("no partition 9"), "{error}");
    let error = refused(&broker, &["consume", "greetings", "-p", "0", "-o", "9"]).await;
    assert!(error.contains("it holds 0 to 2"), "{error}");
    broker.stop().await;
}

/// More than one lot, more than one batch in flight, several partitions.
#[tokio::test]
async fn long_input_arrives_whole_and_in_order() {
    let broker = TestBroker::start().await;
    broker.topic("lines", 1, &[]).await;
    broker.topic("spread", 3, &[]).await;
    let padding = "x".repeat(100);
    let input: String = (0..100_000).map(|line| format!("{line} {padding}\n")).collect();
    for topic in ["lines", "spread"] {
        let produced = done(&broker, &["produce", topic], input.as_bytes()).await;
        assert_eq!(produced, format!("100000 records to {topic}\n"));
    }
    let output = done(&broker, &["consume", "lines"], b"").await;
    assert!(output == input, "{} bytes came back of {}", output.len(), input.len());
    let output = done(&broker, &["consume", "spread"], b"").await;
    let mut lines: Vec<usize> = output
        .lines()
        .map(|line| line.split(' ').next().expect("a number").parse().expect("a number"))
        .collect();
    lines.sort_unstable();
    assert!(lines.into_iter().eq(0..100_000));
    broker.stop().await;
}

/// It follows, takes what comes, and ends in order on SIGTERM.
#[tokio::test]
async fn following_waits_for_more_until_it_is_told_to_stop() {
    let broker = TestBroker::start().await;
    broker.topic("live", 1, &[]).await;
    let mut follower = Command::new(env!("CARGO_BIN_EXE_ottla"))
        .args(["consume", "live", "--follow", "--from-beginning"])
        .env("OTTLA_BOOTSTRAP", broker.address.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start ottla");
    let stdout = follower.stdout.take().expect("piped");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
    for word in ["one", "two"] {
        done(&broker, &["produce", "live", word], b"").await;
        let line = within(lines.next_line()).await.expect("read").expect("a line");
        assert_eq!(line, word);
    }
    let pid = rustix::process::Pid::from_raw(follower.id().expect("running") as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
    assert!(within(follower.wait()).await.expect("wait").success());
    broker.stop().await;
}

/// `ottla consume | head -1`.
#[tokio::test]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let broker = TestBroker::start().await;
    let input = "some line\n".repeat(200_000);
    done(&broker, &["produce", "long"], input.as_bytes()).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_ottla"))
        .args(["consume", "long"])
        .env("OTTLA_BOOTSTRAP", broker.address.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start ottla");
    drop(child.stdout.take());
    let output = within(child.wait_with_output()).await.expect("wait");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    broker.stop().await;
}

#[tokio::test]
async fn exit_codes_and_errors_tell_people_what_to_do() {
    let broker = TestBroker::start().await;
    let usage = ottla(&broker, &["consume", "t", "--group", "g", "--offset", "1"], b"").await;
    assert_eq!(usage.status.code(), Some(2));
    let nobody = ottla(&broker, &["topic", "list", "--bootstrap", "127.0.0.1:1"], b"").await;
    assert_eq!(nobody.status.code(), Some(1));
    let error = String::from_utf8_lossy(&nobody.stderr);
    assert!(error.contains("Is the broker running? `ottla serve` starts one"), "{error}");
    let error = refused(&broker, &["produce", "t", "-k", ":", "no key"]).await;
    assert!(error.contains("record 1 has no key"), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn offsets_of_a_group_are_reset_and_deleted_and_so_is_the_group() {
    let broker = TestBroker::start().await;
    broker.topic("t", 1, &[]).await;
    for word in ["one", "two", "three", "four"] {
        done(&broker, &["produce", "t", word], b"").await;
    }
    let reset = async |arguments: &[&str]| {
        let arguments = [&["group", "reset-offsets", "g"], arguments].concat();
        done(&broker, &arguments, b"").await
    };
    let row = |was: &str, now: &str| {
        format!("TOPIC  PARTITION  COMMITTED  NEW-OFFSET\nt      0          {was:<9}  {now}\n")
    };
    // Without --execute nothing happens, not even the group.
    assert_eq!(reset(&["--topic", "t", "--to-offset", "3"]).await, row("-", "3"));
    assert!(refused(&broker, &["group", "describe", "g"]).await.contains("there is no group g"));
    let error = refused(&broker, &["group", "reset-offsets", "g", "--all-topics", "--to-latest"]).await;
    assert!(error.contains("has no committed offsets"), "{error}");
    assert_eq!(reset(&["--topic", "t:0", "--to-offset", "3", "--execute"]).await, row("-", "3"));
    assert_eq!(reset(&["--all-topics", "--shift-by", "-2", "--execute"]).await, row("3", "1"));
    assert_eq!(reset(&["--all-topics", "--to-latest", "--dry-run"]).await, row("1", "4"));
    assert_eq!(reset(&["--all-topics", "--to-earliest"]).await, row("1", "0"));
    assert_eq!(reset(&["--all-topics", "--by-duration", "1h"]).await, row("1", "0"));
    assert_eq!(reset(&["--all-topics", "--to-datetime", "2100-01-01T00:00:00"]).await, row("1", "4"));
    let consumed = done(&broker, &["consume", "t", "--group", "g", "-n", "1"], b"").await;
    assert_eq!(consumed, "two\n", "the reset counts");
    let error = refused(&broker, &["group", "reset-offsets", "g", "--topic", "t:7", "--to-latest"]).await;
    assert!(error.contains("no partition 7"), "{error}");
    let deleted = done(&broker, &["group", "delete-offsets", "g", "--topic", "t"], b"").await;
    assert_eq!(deleted, "deleted the offset of t [0]\n");
    let error = refused(&broker, &["group", "reset-offsets", "g", "--topic", "t", "--shift-by", "1"]).await;
    assert!(error.contains("t [0] has no committed offset"), "{error}");
    assert_eq!(done(&broker, &["group", "delete", "g"], b"").await, "deleted group g\n");
    let error = refused(&broker, &["group", "delete", "g"]).await;
    assert!(error.contains("`ottla group list` shows those there are"), "{error}");
    let error = refused(&broker, &["group", "delete-offsets", "g", "--topic", "t"]).await;
    assert!(error.contains("there is no such group"), "{error}");
    broker.stop().await;
}

#[tokio::test]
async fn a_group_with_members_is_left_alone() {
    let broker = TestBroker::start().await;
    done(&broker, &["produce", "t", "one"], b"").await;
    let mut member = Command::new(env!("CARGO_BIN_EXE_ottla"))
        .args(["consume", "t", "--group", "g", "--follow", "--from-beginning"])
        .env("OTTLA_BOOTSTRAP", broker.address.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start ottla");
    let stdout = member.stdout.take().expect("piped");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
    let line = within(lines.next_line()).await.expect("read");
    assert_eq!(line.as_deref(), Some("one"));
    let error = refused(&broker, &["group", "delete", "g"]).await;
    assert!(error.contains("the group has members (NonEmptyGroup). Stop its consumers first"), "{error}");
    let error = refused(&broker, &["group", "delete-offsets", "g", "--topic", "t"]).await;
    assert!(error.contains("the group's members consume the topic"), "{error}");
    let error = refused(&broker, &["group", "reset-offsets", "g", "--topic", "t", "--to-latest"]).await;
    assert!(error.contains("group g is Stable: stop its consumers"), "{error}");
    // What nobody consumes may go all the same.
    broker.topic("u", 1, &[]).await;
    let deleted = done(&broker, &["group", "delete-offsets", "g", "--topic", "u"], b"").await;
    assert_eq!(deleted, "deleted the offset of u [0]\n");
    member.kill().await.expect("kill");
    broker.stop().await;
}
