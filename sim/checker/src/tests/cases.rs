//! One history at least for each kind of anomaly, and one beside it that only looks like it; and each rule is needed.

use super::{Options, history, judge};
use crate::rules::{Rule, without};
use crate::{Anomaly, check};

struct Case {
    name: &'static str,
    history: &'static str,
    /// Kinds and counts; legal ones in brackets.
    found: &'static str,
    options: Given,
}

#[derive(Clone, Copy)]
enum Given {
    Usual,
    NoFinalRead,
    RebalancesLogged,
}

impl Given {
    fn options(self) -> Options {
        match self {
            Given::Usual => Options::default(),
            Given::NoFinalRead => Options { final_read: false, ..Options::default() },
            Given::RebalancesLogged => Options { rebalances_logged: true, ..Options::default() },
        }
    }
}

const fn case(name: &'static str, history: &'static str, found: &'static str) -> Case {
    Case { name, history, found, options: Given::Usual }
}

const fn tail(name: &'static str, history: &'static str, found: &'static str) -> Case {
    Case { name, history, found, options: Given::NoFinalRead }
}

const fn logged(name: &'static str, history: &'static str, found: &'static str) -> Case {
    Case { name, history, found, options: Given::RebalancesLogged }
}

const CASES: &[Case] = &[
    // ---- records -----------------------------------------------------------------------------------------------
    case("nothing happened", "", ""),
    case("what was sent is read", "0 ok send x=1@0\n 0 ok send x=2@1\n 1 ok poll poll(x:1@0,2@1)", ""),
    case(
        "a value is sent twice",
        "0 ok send x=1@0\n 0 ok send x=1@0\n 1 ok poll poll(x:1@0)",
        "reused-value nonmonotonic-send",
    ),
    case(
        "committed records before one that was read are lost; the one behind it is unseen",
        "1 invoke send x=3\n 0 ok send x=1@0\n 0 ok send x=2@1 x=4@3\n 1 info send x=3\n 0 ok poll poll(x:3@2)",
        "lost-write×2 unseen (int-send-skip) (G0)",
    ),
    tail(
        "a record behind all that was read is neither",
        "0 ok send x=1@0\n 0 ok send x=2@1\n 1 ok poll poll(x:1@0)",
        "(unseen)",
    ),
    case("unless everything was read", "0 ok send x=1@0\n 0 ok send x=2@1\n 1 ok poll poll(x:1@0)", "unseen"),
    case(
        "an offset that was given twice loses one of the records",
        "0 ok send x=1@0\n 0 ok send x=2@0 x=3@2\n 1 ok poll poll(x:2@0,3@2)",
        "lost-write inconsistent-offsets",
    ),
    case(
        "a send in doubt that nobody read is not lost",
        "0 info txn x=1 y=2@0\n 1 info send y=3\n 2 ok poll poll(y:3@1)",
        "",
    ),
    case(
        "but it is if a read of its other record proves the transaction",
        "0 info txn x=1 y=2@0\n 1 info send y=3\n 2 ok poll poll(x:1@0)\n 3 ok poll poll(y:3@1)",
        "lost-write",
    ),
    case(
        "the sends of a send that is no transaction prove nothing of each other",
        "0 info send x=1@0 y=2\n 1 ok send y=3@1\n 2 ok poll poll(x:1@0)\n 3 ok poll poll(y:3@1)",
        "",
    ),
    case(
        "in doubt as a whole, acknowledged one by one",
        "0 info send x=1@0 x=2\n 1 ok send x=3@2\n 3 ok poll poll(x:3@2)",
        "lost-write",
    ),
    case(
        "a failed send may vanish, whatever offset it was given",
        "0 fail send x=1@0\n 0 ok send x=2@1\n 1 ok poll poll(x:2@1)",
        "",
    ),
    case(
        "a send in doubt whose offset a failed poll told may vanish",
        "0 info send x=1\n 0 ok send x=2@1\n 1 fail poll poll(x:1@0)\n 1 ok poll poll(x:2@1)",
        "",
    ),
    case(
        "what stands twice proves only how far the first one is",
        "0 invoke send x=1\n 2 invoke send x=2\n 0 ok send x=1@0\n 2 ok send x=2@1\n 1 info poll poll(x:1@5)\n 1 ok poll poll(x:1@0)",
        "unseen duplicate",
    ),
    case(
        "and had to be read only where the last one is",
        "0 invoke send x=1\n 2 invoke send x=2\n 0 ok send x=1@0\n 2 ok send x=2@1\n 1 fail poll poll(x:1@5)\n 1 ok poll poll(x:2@1)",
        "unseen duplicate",
    ),
    case(
        "what was deleted is neither lost nor unseen",
        "0 ok send x=1@0\n 0 ok send x=2@1\n 0 ok send x=3@2\n 0 ok send y=1@0\n 1 ok watermarks x:2..3 y:1..1\n 1 ok poll poll(x:3@2)",
        "",
    ),
    case(
        "what begins where the log begins was not deleted",
        "0 ok send x=2@1\n 0 ok send x=3@2\n 1 ok watermarks x:1..3\n 1 ok poll poll(x:3@2)",
        "lost-write",
    ),
    case(
        "one record at two offsets",
        "1 invoke send x=2\n 0 ok send x=1@1\n 1 info send x=2\n 2 ok poll poll(x:2@2,1@3)",
        "duplicate",
    ),
    case(
        "many records at the same two offsets",
        "0 ok send x=1@0\n 1 ok poll poll(x:1@1)\n 0 ok send x=2@0\n 2 ok poll poll(x:2@1)\n 0 ok send x=3@0\n 3 ok poll poll(x:3@1)",
        "duplicate×3 inconsistent-offsets×2",
    ),
    case(
        "the record that stands nowhere else has the offset",
        "7 info send x=1\n 8 info send x=2\n 9 info send x=3\n 0 ok poll poll(x:1@0,2@1)\n 1 ok poll poll(x:3@1,2@3)\n 2 ok poll poll(x:3@1,1@0)",
        "duplicate inconsistent-offsets int-poll-skip int-nonmonotonic-poll",
    ),
    case(
        "a read of one record proves where a send in doubt put the others, and what it put them over",
        "7 info send x=1\n 8 invoke txn x=3 x=2 x=4\n 0 ok poll poll(x:1@0,2@1)\n 8 info txn x=3@1 x=2@3 x=4@4",
        "lost-write duplicate inconsistent-offsets int-poll-skip",
    ),
    case(
        "failed polls count as much, failed sends do not",
        "0 ok send x=1@1\n 0 fail send x=2@2\n 1 fail poll poll(x:1@11,2@12)",
        "unseen duplicate",
    ),
    case(
        "a send in doubt may have had another's offset",
        "0 info txn x=1@0 y=1\n 1 ok send x=2@0\n 2 ok poll poll(x:2@0)",
        "",
    ),
    case(
        "but not one that is proved",
        "0 info txn x=1@0 y=1\n 1 ok send x=2@0\n 2 ok poll poll(y:1@5)\n 2 ok poll poll(x:2@0)",
        "lost-write inconsistent-offsets",
    ),
    case(
        "two acknowledgements of one offset",
        "0 ok send x=1@537\n 1 ok send x=2@537\n 2 ok poll poll(x:1@537)",
        "lost-write inconsistent-offsets",
    ),
    case("a failed send is read", "0 fail txn x=2 y=3\n 1 ok poll poll(x:2@0)", "G1a"),
    case("a failed send is read by a call that failed", "0 fail txn x=2 y=3\n 1 fail poll poll(x:2@0)", ""),
    case("a send that was never answered is read", "0 invoke send x=2\n 1 ok poll poll(x:2@0)", ""),
    case("a record nobody sent is read", "0 ok send x=1@0\n 1 ok poll poll(x:1@0,7@1)", "phantom-read"),
    case(
        "a record of another partition is read",
        "0 ok send x=1@0\n 1 ok poll poll(y:1@0)\n 1 ok poll poll(x:1@0)",
        "phantom-read",
    ),
    case("a transaction reads its own record", "0 ok txn x=1@0 poll(x:1@0)", "precommitted-read"),
    case(
        "a transaction reads another's",
        "0 ok send x=1@0\n 0 ok txn x=2@1 poll(x:1@0)\n 1 ok poll poll(x:2@1)",
        "",
    ),
    // ---- order within a call -----------------------------------------------------------------------------------
    case(
        "one call skips, in one poll or from poll to poll",
        "1 info send x=1 x=2 x=4\n 0 ok poll poll(x:1@1,4@4)\n 2 ok poll poll(x:1@1) poll(x:4@4)\n 3 ok poll poll(x:2@2)",
        "int-poll-skip×2",
    ),
    case("offsets without records are not skipped", "1 info send x=1 x=2\n 0 ok poll poll(x:1@1,2@4)", ""),
    case(
        "one call goes back, or reads the same again",
        "1 info send x=1 x=2 x=3\n 0 ok poll poll(x:3@3,1@1)\n 2 ok poll poll(x:2@2,3@3) poll(x:3@3)",
        "int-nonmonotonic-poll×2",
    ),
    case(
        "unless the key was rebalanced meanwhile",
        "1 info send x=1 x=2 x=3\n 0 ok poll poll(x:3@3) poll(x:1@1) !x\n 2 ok poll poll(x:2@2,3@3)",
        "",
    ),
    case(
        "a call's own records are in doubt of their order only if nobody knows it",
        "0 ok send x=3@3 x=1@1\n 0 info send y=4 y=2\n 1 info send y=3\n 2 ok poll poll(y:2@2,3@3,4@4)\n 3 ok poll poll(x:1@1,3@3)",
        "int-nonmonotonic-send×2 (G0)",
    ),
    case(
        "another's record between two of a call",
        "1 invoke send x=2\n 0 ok send x=1@1 x=3\n 1 info send x=2\n 2 ok poll poll(x:1@1,2@2,3@3)",
        "(int-send-skip) (G0)",
    ),
    case("a failed call's records have no order", "0 fail send x=3 x=1\n 2 fail poll poll(x:1@1,3@3)", ""),
    // ---- order from call to call -------------------------------------------------------------------------------
    case(
        "a consumer skips from call to call",
        "3 info send x=1 x=2 x=3 x=4 x=7\n 0 ok poll poll(x:1@1,2@2)\n 1 ok poll poll(x:3@3)\n 0 ok poll poll(x:4@4)\n 2 ok send x=6@6\n 0 ok poll poll(x:7@7)\n 1 ok poll poll(x:4@4,6@6)",
        "poll-skip×2 (int-send-skip) (G0) (G1c-ww-realtime)",
    ),
    case(
        "after an assignment without the key it may",
        "3 info send x=1 x=2 x=3\n 0 ok poll poll(x:1@1)\n 0 ok assign y\n 0 ok poll poll(x:3@3)\n 1 ok poll poll(x:2@2)",
        "",
    ),
    case(
        "after one with the key it may not",
        "3 info send x=1 x=2 x=3\n 0 ok poll poll(x:1@1)\n 0 ok assign x y\n 0 ok poll poll(x:3@3)\n 1 ok poll poll(x:2@2)",
        "poll-skip",
    ),
    case(
        "nor after one that failed",
        "3 info send x=1 x=2 x=3\n 0 ok poll poll(x:1@1)\n 0 fail assign y\n 0 ok poll poll(x:3@3)\n 1 ok poll poll(x:2@2)",
        "poll-skip",
    ),
    case(
        "but after one that may have succeeded",
        "3 info send x=1 x=2 x=3\n 0 ok poll poll(x:1@1)\n 0 info assign y\n 0 ok poll poll(x:3@3)\n 1 ok poll poll(x:2@2)",
        "",
    ),
    case(
        "after a subscription that lacks the key it may, and after one that has it nobody knows what it was given",
        "3 info send x=1 x=2 x=3\n 0 ok poll poll(x:1@1)\n 0 ok subscribe g y\n 0 ok poll poll(x:3@3)\n 2 ok poll poll(x:1@1)\n 2 ok subscribe g x y\n 2 ok poll poll(x:3@3)\n 1 ok poll poll(x:2@2)",
        "(poll-skip)",
    ),
    case(
        "after a seek it may go anywhere",
        "3 info send x=1 x=2 x=3\n 0 ok poll poll(x:1@1,2@2,3@3)\n 0 ok seek x\n 0 ok poll poll(x:2@2)",
        "",
    ),
    case(
        "a consumer goes back from call to call",
        "3 ok send x=1 x=2 x=3 x=4\n 0 ok poll poll(x:1@1,2@2,3@3)\n 0 ok poll poll(x:2@2,3@3,4@4)",
        "nonmonotonic-poll",
    ),
    case(
        "after an assignment without the key it may, after one with it it may not",
        "3 ok send x=1 x=2 x=3 x=4\n 0 ok poll poll(x:1@1,2@2,3@3)\n 0 ok assign y\n 0 ok poll poll(x:2@2,3@3,4@4)\n 1 ok poll poll(x:1@1,2@2,3@3)\n 1 ok assign x y\n 1 ok poll poll(x:2@2,3@3,4@4)",
        "nonmonotonic-poll",
    ),
    case(
        "a subscriber goes back, to other keys and to the same",
        "3 ok send x=1 x=2 x=3 x=4\n 0 ok poll poll(x:1@1,2@2,3@3)\n 0 ok subscribe g y\n 0 ok poll poll(x:2@2,3@3,4@4)\n 1 ok poll poll(x:1@1,2@2,3@3)\n 1 ok subscribe g x y\n 1 ok poll poll(x:2@2,3@3,4@4)",
        "(nonmonotonic-poll)",
    ),
    case(
        "a client that ended began anew",
        "3 ok send x=1 x=2 x=3 x=4\n 0 ok poll poll(x:1@1,2@2,3@3)\n 0 info crash\n 0 ok poll poll(x:2@2,3@3,4@4)",
        "",
    ),
    case(
        "a fetch out of range is followed by one from somewhere else",
        "3 ok send x=1 x=2 x=3 x=4\n 0 ok poll poll(x:1@1)\n 0 info out-of-range x 2\n 1 ok watermarks x:4..5\n 0 ok poll poll(x:4@4)\n 1 fail poll poll(x:1@1,2@2,3@3)",
        "",
    ),
    case(
        "a subscriber may jump between calls",
        "3 ok send x=1 x=2 x=3\n 0 ok subscribe g x\n 0 ok poll poll(x:1@1)\n 0 ok poll poll(x:3@3)\n 1 ok poll poll(x:2@2)",
        "(poll-skip)",
    ),
    logged(
        "unless every rebalance is known",
        "3 ok send x=1 x=2 x=3\n 0 ok subscribe g x\n 0 ok poll poll(x:1@1)\n 0 ok poll poll(x:3@3)\n 1 ok poll poll(x:2@2)",
        "poll-skip",
    ),
    logged(
        "and this is one",
        "3 ok send x=1 x=2 x=3\n 0 ok subscribe g x\n 0 ok poll poll(x:1@1)\n 0 ok rebalance x\n 0 ok poll poll(x:3@3)\n 1 ok poll poll(x:2@2)",
        "",
    ),
    logged(
        "or this",
        "3 ok send x=1 x=2 x=3\n 0 ok subscribe g x\n 0 ok poll poll(x:1@1)\n 0 ok poll poll(x:3@3) !x\n 1 ok poll poll(x:2@2)",
        "",
    ),
    case(
        "what failed or is in doubt is polled again",
        "0 ok send x=1@0 x=2@1 x=3@2\n 1 ok txn poll(x:1@0)\n 1 fail txn poll(x:2@1,3@2)\n 1 info txn poll(x:2@1,3@2)\n 1 ok txn poll(x:2@1,3@2)",
        "",
    ),
    case(
        "and skipping it is an error, though the next one fails as well",
        "0 ok send x=1@0 x=2@1 x=3@2 x=4@3\n 1 ok txn poll(x:1@0)\n 1 fail txn poll(x:2@1)\n 1 fail txn poll(x:3@2)\n 1 ok txn poll(x:4@3)\n 2 ok poll poll(x:2@1,3@2)",
        "poll-skip×2",
    ),
    case(
        "a crashed one too",
        "0 ok send x=1@0 x=2@1 x=3@2\n 1 ok txn poll(x:1@0)\n 1 info txn poll(x:3@2)\n 2 ok poll poll(x:2@1,3@2)",
        "poll-skip",
    ),
    case(
        "behind one that failed as well",
        "0 ok send x=1@0 x=2@1 x=3@2 x=4@3 x=5@4\n 1 ok txn poll(x:1@0)\n 1 fail txn poll(x:2@1,3@2)\n 1 info txn poll(x:4@3,5@4)\n 2 ok poll poll(x:1@0,2@1,3@2,4@3,5@4)",
        "poll-skip",
    ),
    case(
        "a producer's later record stands before its earlier one",
        "0 ok send x=3@3 x=4@4\n 0 ok send x=1@1 x=2@2\n 1 ok poll poll(x:1@1,2@2,3@3,4@4)",
        "nonmonotonic-send realtime-order×2 (G0-process) (G0-realtime)",
    ),
    case(
        "an assignment is no concern of a producer's",
        "0 ok send x=3@3\n 0 ok assign y\n 0 ok send x=1@1\n 1 ok poll poll(x:1@1,3@3)",
        "nonmonotonic-send realtime-order (G0-process) (G0-realtime)",
    ),
    case(
        "another producer has an order of its own",
        "0 invoke send x=3\n 0 info send x=3@3\n 0 ok crash\n 0 ok send x=1@1\n 1 ok poll poll(x:1@1,3@3)",
        "",
    ),
    case(
        "sends that are open at once are ordered as they were invoked",
        "0.1 invoke send x=1\n 0.2 invoke send x=2\n 0.2 ok send x=2@2\n 0.1 ok send x=1@1\n 1 ok poll poll(x:1@1,2@2)",
        "",
    ),
    case(
        "and not as they were answered",
        "0.1 invoke send x=1\n 0.2 invoke send x=2\n 0.1 ok send x=1@2\n 0.2 ok send x=2@1\n 1 ok poll poll(x:2@1,1@2)",
        "nonmonotonic-send",
    ),
    case(
        "a failed send has no place",
        "0.1 invoke send x=1\n 0.2 invoke send x=2\n 1 fail poll poll(x:1@5)\n 0.1 fail send x=1\n 0.2 ok send x=2@3\n 1 ok poll poll(x:2@3)",
        "",
    ),
    case(
        "an earlier record in doubt may land behind a later one of another producer",
        "0 info send x=1\n 1 ok send x=2@0\n 2 ok poll poll(x:2@0,1@1)",
        "",
    ),
    case(
        "a record stands before one that was acknowledged before it was sent",
        "0 ok send x=1@1\n 1 ok send x=2@0\n 2 ok poll poll(x:2@0,1@1)",
        "realtime-order (G0-realtime)",
    ),
    case(
        "or that was read before it was sent",
        "0 info send x=1\n 2 ok poll poll(x:1@1)\n 1 ok send x=2@0\n 3 ok poll poll(x:2@0,1@1)",
        "realtime-order (G1c-ww-realtime)",
    ),
    // ---- cycles ------------------------------------------------------------------------------------------------
    case(
        "writes in a circle",
        "0 invoke send x=1 y=1\n 1 invoke send x=2 y=2\n 0 ok send x=1@0 y=1@1\n 1 ok send x=2@1 y=2@0\n 2 ok poll poll(x:1@0,2@1;y:2@0,1@1)",
        "(G0)",
    ),
    case(
        "writes in a circle through one process",
        "0 invoke txn x=1 y=1\n 1 ok send x=2@1\n 1 ok send y=2@0\n 0 ok txn x=1@2 y=1@-1\n 2 ok poll poll(x:2@1,1@2;y:1@-1,2@0)",
        "",
    ),
    case(
        "writes in a circle through time",
        "0 invoke txn x=1 y=1\n 1 ok send x=2@0\n 2 ok send y=2@1\n 0 ok txn x=1@1 y=1@0\n 3 ok poll poll(x:2@0,1@1;y:1@0,2@1)",
        "",
    ),
    case(
        "two writes that another overlaps, against time",
        "0 invoke txn x=1 y=1\n 1 ok send y=2@1\n 2 ok send x=2@0\n 0 ok txn x=1@1 y=1@0\n 3 ok poll poll(x:2@0,1@1;y:1@0,2@1)",
        "(G0-realtime)",
    ),
    case(
        "the same by one process",
        "0 invoke txn x=1 y=1\n 1 ok send y=2@1\n 1 ok send x=2@0\n 0 ok txn x=1@1 y=1@0\n 3 ok poll poll(x:2@0,1@1;y:1@0,2@1)",
        "(G0-process) (G0-realtime)",
    ),
    case(
        "two transactions see each other",
        "0 invoke txn x=1 poll\n 1 invoke txn y=2 poll\n 0 ok txn x=1@0 poll(y:2@0)\n 1 ok txn y=2@0 poll(x:1@0)",
        "G1c",
    ),
    case(
        "a transaction sees what depends on what its process did next",
        "0 ok txn poll(x:1@0)\n 0 ok txn y=2@0\n 1 info txn x=1 poll(y:2@0)\n 2 ok poll poll(y:2@0)",
        "G1c-process G1c-realtime",
    ),
    case("a record is read before it is sent", "0 ok poll poll(x:1@0)\n 1 ok send x=1@0", "G1c-realtime"),
    case(
        "what is in doubt is before nothing",
        "0 info txn x=1 poll(y:2@0)\n 1 ok txn y=2@0 poll(x:1@0)\n 2 ok poll poll(y:2@0)",
        "G1c",
    ),
    case(
        "what is in doubt may happen later",
        "0 info txn x=1 poll(y:3@0)\n 1 ok send y=3@0\n 2 ok poll poll(x:1@0;y:3@0)",
        "",
    ),
    case(
        "reads and writes in a circle",
        "0 invoke txn x=1 y=3\n 1 invoke txn poll y=2\n 0 ok txn x=1@0 y=3@2\n 1 ok txn poll(x:1@0) y=2@1\n 2 ok poll poll(y:2@1,3@2)",
        "(G1c-ww)",
    ),
    case(
        "reads and writes in a circle, through one process",
        "0 invoke txn x=1 y=3\n 1 ok txn poll(x:1@0)\n 1 ok send y=2@1\n 0 ok txn x=1@0 y=3@2\n 2 ok poll poll(y:2@1,3@2)",
        "(G1c-ww-process) (G1c-ww-realtime)",
    ),
    // ---- ends --------------------------------------------------------------------------------------------------
    case("an end goes back", "0 ok watermarks x:0..5\n 0 ok watermarks x:0..4", "watermark-back"),
    case("a start goes back", "0 ok watermarks x:2..5\n 0 ok watermarks x:1..5", "watermark-back"),
    case("a start behind the end", "0 ok watermarks x:6..5", "watermark-back"),
    case(
        "an end before what was read",
        "1 ok send x=1@7\n 0 ok poll poll(x:1@7)\n 0 ok watermarks x:0..7",
        "watermark-back",
    ),
    case("another client may know less", "0 ok watermarks x:0..5\n 1 ok watermarks x:0..4", ""),
    case(
        "or the next one of that number",
        "0 ok watermarks x:0..5\n 0 info crash\n 0 ok watermarks x:0..4",
        "",
    ),
    case(
        "a fetch within the log is refused",
        "0 ok watermarks x:0..5\n 0 info out-of-range x 5",
        "spurious-out-of-range",
    ),
    case("one behind the end is rightly refused", "0 ok watermarks x:0..5\n 0 info out-of-range x 6", ""),
    case(
        "one before the start is too",
        "0 ok watermarks x:0..5\n 0 info out-of-range x 1\n 1 ok watermarks x:2..5",
        "",
    ),
    // ---- groups ------------------------------------------------------------------------------------------------
    case("a commit is read", "0 ok commit g 1 x=5\n 0 ok committed g x=5", ""),
    case("nothing is committed yet", "0 ok committed g x=none\n 0 ok commit g 1 x=5", ""),
    case("a commit is forgotten", "0 ok commit g 1 x=5\n 1 ok committed g x=none", "stale-commit"),
    case(
        "a commit comes back",
        "0 ok commit g 1 x=5\n 0 ok commit g 1 x=9\n 1 ok committed g x=5",
        "stale-commit",
    ),
    case(
        "unless it was committed again",
        "0 ok commit g 1 x=5\n 0 ok commit g 1 x=9\n 0 ok commit g 1 x=5\n 1 ok committed g x=5",
        "",
    ),
    case(
        "a commit in doubt may land late",
        "0 info commit g 1 x=5\n 0 ok commit g 1 x=9\n 1 ok committed g x=5",
        "",
    ),
    case("or never", "0 ok commit g 1 x=5\n 0 info commit g 1 x=9\n 1 ok committed g x=5", ""),
    case(
        "but not if somebody has read it",
        "0 ok commit g 1 x=5\n 0 info commit g 1 x=9\n 1 ok committed g x=9\n 1 ok committed g x=5",
        "stale-commit",
    ),
    case(
        "commits at the same time end either way",
        "0 invoke commit g 1 x=5\n 1 ok commit g 1 x=9\n 0 ok commit g 1 x=5\n 1 ok committed g x=5",
        "",
    ),
    case("an offset that nobody committed", "0 ok commit g 1 x=5\n 0 ok committed g x=6", "phantom-commit"),
    case("one that is committed only later", "0 ok committed g x=5\n 0 ok commit g 1 x=5", "phantom-commit"),
    case("one that was refused", "0 fail commit g 1 x=5\n 0 ok committed g x=5", "phantom-commit"),
    case("one of another partition", "0 ok commit g 1 x=5 y=7\n 0 ok committed g x=7", "phantom-commit"),
    case(
        "a member commits after its time",
        "0 ok join g 1 x\n 1 ok join g 2 x\n 0 ok commit g 1 x=5",
        "zombie-commit",
    ),
    case(
        "a member commits in a generation that it has left itself",
        "0 ok join g 1 x\n 0 ok join g 2 x\n 0 ok commit g 1 x=5",
        "zombie-commit",
    ),
    case(
        "a member that has joined again does not",
        "0 ok join g 1 x\n 1 ok join g 2 x\n 0 ok join g 3 x\n 0 ok commit g 3 x=5\n 1 fail commit g 2 x=4",
        "",
    ),
    case(
        "a commit that was under way is in time",
        "0 ok join g 1 x\n 0 invoke commit g 1 x=5\n 1 ok join g 2 x\n 0 ok commit g 1 x=5",
        "",
    ),
    case(
        "a group that has committed goes back",
        "0 ok join g 5 x\n 0 ok commit g 5 x=1\n 0 ok join g 1 x",
        "generation-back",
    ),
    case(
        "one that has not may begin anew",
        "0 ok join g 5 x\n 1 ok join g 5 y\n 0 ok join g 1 x\n 1 ok join g 1 y\n 0 ok commit g 1 x=1\n 1 ok commit g 1 y=1",
        "",
    ),
    case("even with the keys in other hands", "0 ok join g 1 x\n 0 ok join g 2 x\n 1 ok join g 1 x", ""),
    case("two members hold one key", "0 ok join g 1 x y\n 1 ok join g 1 y z", "double-assignment"),
    case("one after the other", "0 ok join g 1 x y\n 1 ok join g 2 y z", ""),
    case("a member's heir holds what it held", "0 ok join g 1 x\n 0 info crash\n 1 ok join g 1 x", ""),
    case(
        "a group skips a record",
        "9 ok send x=1@0 x=2@1 x=3@2\n 0 ok subscribe g x\n 0 ok poll poll(x:1@0)\n 0 ok commit g 1 x=3\n 8 ok poll poll(x:1@0,2@1,3@2)",
        "group-skip",
    ),
    case(
        "one member reads what another one commits",
        "9 ok send x=1@0 x=2@1\n 0 ok subscribe g x\n 1 ok subscribe g x\n 0 ok poll poll(x:1@0)\n 1 ok poll poll(x:2@1)\n 1 ok commit g 2 x=2",
        "",
    ),
    case(
        "a group may start behind the beginning",
        "9 ok send x=1@0 x=2@1\n 0 ok subscribe g x\n 0 ok poll poll(x:2@1)\n 0 ok commit g 1 x=2\n 8 ok poll poll(x:1@0)",
        "",
    ),
    case(
        "somebody outside may set it ahead",
        "9 ok send x=1@0 x=2@1\n 0 ok subscribe g x\n 0 ok poll poll(x:1@0)\n 7 ok commit g - x=2\n 8 ok poll poll(x:1@0,2@1)",
        "",
    ),
    case(
        "a group need not read what was deleted",
        "9 ok send x=1@0 x=2@1 x=3@2\n 0 ok subscribe g x\n 0 ok poll poll(x:1@0)\n 0 ok poll poll(x:3@2)\n 0 ok commit g 1 x=3\n 8 ok watermarks x:2..3",
        "(poll-skip)",
    ),
];

#[test]
fn each_history_is_judged_as_it_should_be() {
    let mut wrong = Vec::new();
    for case in CASES {
        let found = judge(case.history, &case.options.options());
        if found != case.found {
            wrong.push(format!("{}: found «{found}», expected «{}»", case.name, case.found));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_anomaly_has_a_history() {
    for anomaly in Anomaly::ALL {
        let has = |case: &Case| {
            let verdict = check(&history(case.history), &case.options.options());
            verdict.errors.contains_key(&anomaly) || verdict.notes.contains_key(&anomaly)
        };
        assert!(CASES.iter().any(has), "no case of {}", anomaly.name());
    }
}

/// K5: without any one of the rules at least one history is judged wrong.
#[test]
fn without_any_one_of_the_rules_a_history_is_judged_wrong() {
    let mut needless = Vec::new();
    for (rule, what) in Rule::ALL {
        let needed = |case: &Case| {
            let judge = || judge(case.history, &case.options.options());
            without(*rule, judge) != judge()
        };
        if !CASES.iter().any(needed) {
            needless.push(format!("{rule:?}: {what}"));
        }
    }
    assert!(needless.is_empty(), "{}", needless.join("\n"));
}
