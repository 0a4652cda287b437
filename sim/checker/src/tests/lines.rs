//! Histories as lines, and verdicts as words.

use std::io::{BufRead, Cursor};

use super::{history, summary};
use crate::history::{F, History, Malformed, Op, Type};
use crate::{Options, check, json};

fn read(files: &[&str]) -> Result<History, json::Error> {
    let mut sources: Vec<Box<dyn BufRead>> =
        files.iter().map(|file| Box::new(Cursor::new(file.to_string())) as Box<dyn BufRead>).collect();
    json::read(&mut sources)
}

#[test]
fn files_of_several_clients_become_one_history() {
    let producer = r#"
        {"process":0,"type":"invoke","time":10,"f":"send","value":[["send","t-0",7]]}
        {"process":0,"type":"ok","time":20,"f":"send","value":[["send","t-0",[5,7]]]}
        {"process":0,"type":"invoke","call":1,"time":30,"f":"send","value":[["send","t-0",8]]}
        {"process":0,"type":"invoke","call":2,"time":31,"f":"send","value":[["send","t-0",9]]}
        {"process":0,"type":"info","call":1,"time":40,"f":"send"}
        {"process":0,"type":"fail","call":2,"time":41,"f":"send","value":[["send","t-0",[null,9]]],"why":"fenced"}
    "#;
    let consumer = r#"{"process":1,"type":"ok","time":5,"f":"subscribe","group":"g","value":["t-0"]}
        {"process":1,"type":"invoke","time":20,"f":"poll","value":[["poll"]]}
        {"process":1,"type":"ok","time":50,"f":"poll","value":[["poll",{"t-0":[[5,7],[6,8]]}]],"rebalanced":["t-0"]}
        {"process":1,"type":"invoke","time":60,"f":"commit","group":"g","generation":2,"value":{"t-0":7}}
        {"process":1,"type":"ok","time":61,"f":"commit","group":"g","generation":2,"value":{"t-0":7}}
        {"process":1,"type":"invoke","time":62,"f":"committed","group":"g"}
        {"process":1,"type":"ok","time":63,"f":"committed","group":"g","value":{"t-0":7,"t-1":null}}
        {"process":1,"type":"invoke","time":64,"f":"watermarks"}
        {"process":1,"type":"ok","time":65,"f":"watermarks","value":{"t-0":[0,7]}}
        {"process":1,"type":"info","time":66,"f":"out-of-range","value":{"key":"t-0","offset":9}}
        {"process":1,"type":"info","time":67,"f":"crash"}"#;
    let history = read(&[producer, consumer]).unwrap();
    assert_eq!(history.len(), 17);
    // At the same instant an invocation comes first, so that the poll did not begin after the send.
    let poll = history.calls().iter().find(|call| matches!(call.f, F::Poll { .. })).unwrap();
    let send = history.calls().iter().find(|call| matches!(call.f, F::Send(_))).unwrap();
    assert!(poll.invoked < send.completed.unwrap());
    let verdict = check(&history, &Options::default());
    assert_eq!(summary(&verdict), "");
    assert_eq!(verdict.counts.acknowledged, 1);
    assert_eq!(verdict.counts.polled, 2);
}

#[test]
fn every_operation_reads_back_as_it_was_written() {
    let words = "0 invoke send x=1 y=2\n 0 ok send x=1@0 y=2@-1\n 1 ok poll poll(x:1@0,3@1;y:2@0) poll !x !y\n \
         2 info txn x=4 poll(y:2@0)\n 3 ok assign x\n 3 ok seek x y\n 3 ok subscribe g x\n 3 ok rebalance x y\n \
         3 info out-of-range x 5\n 3 ok watermarks x:0..5 y:2..7\n 3 ok join g 4 x y\n 3 ok commit g 4 x=5 y=6\n \
         3 fail commit g - x=5\n 3 ok committed g x=5 y=none\n 3 info crash\n 4.7 invoke send x=9";
    let history = history(words);
    let mut again = History::new();
    let mut lines = String::new();
    for call in history.calls() {
        let mut op = Op::new(call.process, call.outcome, call.invoked.time, call.f.clone());
        if call.completed.is_none() {
            op.kind = Type::Invoke;
        }
        let line = json::line(&history, &op);
        let parsed = json::parse(&mut again, line.as_bytes()).unwrap();
        assert_eq!(json::line(&again, &parsed), line);
        lines += &line;
    }
    assert_eq!(lines.matches("\"f\"").count(), 15);
}

#[test]
fn what_is_no_history_is_refused_and_named() {
    let line = |rest: &str| format!(r#"{{"process":0,"time":1,{rest}}}"#);
    for (rest, says) in [
        (r#""type":"ok""#, "no f"),
        (r#""type":"so","f":"send""#, "the type is none"),
        (r#""type":"ok","f":"sned""#, "sned"),
        (r#""type":"ok","f":"send","value":[["send","x",[1]]]"#, "neither VALUE nor"),
        (r#""type":"ok","f":"send","value":[["send","x",-1]]"#, "a value is no number"),
        (r#""type":"ok","f":"poll","value":[["poll",{"x":[[1]]}]]"#, "not [offset, value]"),
        (r#""type":"ok","f":"poll","value":{}"#, "not a list"),
        (r#""type":"ok","f":"commit","value":{"x":1}"#, "no group"),
        (r#""type":"ok","f":"join","group":"g","generation":9999999999"#, "2^31"),
        (r#""type":"ok","f":"send","value":[["send","x",1]]"#, "did not invoke"),
        (r#""type":"invoke","f":"poll","value":[["send","x",1]]"#, "another kind of operation"),
    ] {
        let error = read(&[&line(rest)]).err().unwrap().to_string();
        assert!(error.contains(says), "{rest}: {error}");
        assert!(error.starts_with("line 1: "), "{error}");
    }
    assert!(read(&["{"]).is_err());
    assert!(read(&["[]"]).is_err());
    let twice = line(r#""type":"invoke","f":"poll""#);
    assert!(read(&[&twice, &twice]).err().unwrap().to_string().contains("is open"));
    let another = [twice.clone(), line(r#""type":"ok","f":"send""#)].join("\n");
    assert!(read(&[&another]).err().unwrap().to_string().contains("completes a poll with a send"));
    // A refused operation leaves the history as it was.
    let mut history = History::new();
    let key = history.key("x");
    let ok = Op::new(0, Type::Ok, 0, F::send(key, 1, Some(0)));
    assert_eq!(history.record(ok), Err(Malformed::NotInvoked { index: 0, process: 0, f: "send" }));
    assert!(history.is_empty());
}

#[test]
fn a_verdict_says_what_is_wrong_where_and_by_whom() {
    let verdict = check(
        &history(
            "0 ok send x=1@0\n 0 ok send x=2@1\n 0 ok send x=3@2\n 1 ok poll poll(x:1@0)\n 1 ok poll poll(x:3@2)",
        ),
        &Options::default(),
    );
    let text = verdict.to_string();
    for part in [
        "INVALID\n",
        "10 operations: 5 ok, 0 failed, 0 in doubt",
        "3 records acknowledged, 2 polled, 0 commits",
        "error: 1 × lost-write",
        "x: 2 at offset 1 was committed and never read, although 3 at offset 2 was",
        "process 0 send #2–#3 (3.000000 s–4.000000 s) ok: sent 2 to x at 1",
        "process 1 poll #8–#9 (9.000000 s–10.000000 s) ok: polled 3@2",
        "error: 1 × poll-skip",
        "polled 1, then 3; between them 1 stand [2]",
    ] {
        assert!(text.contains(part), "«{part}» is missing in:\n{text}");
    }
    assert!(!verdict.valid());
    assert!(check(&history(""), &Options::default()).valid());
}

#[test]
fn findings_are_counted_beyond_those_that_are_kept() {
    let words: String = (0..50).map(|value| format!("0 ok send x={value}@{value}\n")).collect();
    let options = Options { findings_max: 3, ..Options::default() };
    let verdict = check(&history(&words), &options);
    let found = &verdict.errors[&crate::Anomaly::Unseen];
    assert_eq!((found.count, found.findings.len()), (50, 3));
    assert!(verdict.to_string().contains("and 47 more"));
}

/// Times are seconds here, one for each line.
#[test]
fn lag_is_how_long_a_consumer_did_not_see_what_was_known_to_be_there() {
    let lag = |words: &str| {
        check(&history(words), &Options::default()).worst_lag.map(|lag| lag.lag / 1_000_000_000)
    };
    assert_eq!(lag("0 ok assign x\n 0 ok poll poll\n 0 ok send x=1@0\n 0 ok poll poll(x:1@0)"), None);
    // Acknowledged at 4; a poll that began at 5 did not see it.
    assert_eq!(lag("0 ok assign x\n 0 ok send x=1@0\n 0 ok poll poll"), Some(1));
    // Offset 1 was not the end since 8, when 3 was acknowledged; a poll at 13 still stood there.
    let late = "0 ok assign x\n 1 ok send x=1@0\n 0 ok poll poll(x:1@0)\n 1 ok send x=4@3\n 0 ok poll poll(x:2@1)\n 0 ok poll poll\n 0 ok poll poll";
    assert_eq!(lag(late), Some(5));
    // An assignment that keeps the key keeps the position, one that drops it begins anew: nothing was seen since 4.
    let anew = "0 ok assign x\n 1 ok send x=1@0\n 0 ok poll poll(x:1@0)\n 0 ok assign x y\n 0 ok poll poll\n 0 ok assign y\n 0 ok assign x\n 0 ok poll poll";
    assert_eq!(lag(anew), Some(11));
}

#[test]
fn what_a_subscriber_gets_twice_is_counted() {
    let verdict = check(
        &history(
            "9 ok send x=1@0\n 0 ok subscribe g x\n 0 ok poll poll(x:1@0)\n 0 ok poll poll(x:1@0)\n 1 ok poll poll(x:1@0)\n 1 ok seek x\n 1 ok poll poll(x:1@0)",
        ),
        &Options::default(),
    );
    assert_eq!(verdict.consumed, [(2, 1)].into());
    assert!(verdict.valid());
}
