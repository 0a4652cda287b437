//! The rules of the block WAL's fail-over, what is done without each of them, and the scenarios that show it.

use super::{Block, Bounds, RECORDS};
use crate::check::{Off, Rule, Scenario, Subject};
use rule::*;

/// What can be switched off.
pub mod rule {
    pub const FLUSH_FIRST: u8 = 0;
    pub const FAILED_FLUSH: u8 = 1;
    pub const ACK_IN_ORDER: u8 = 2;
    pub const LEASE_HELD: u8 = 3;
    pub const RIGHT_BEHIND_DURABLE: u8 = 4;
    pub const FROM_POLL_BEGIN: u8 = 5;
    pub const HINTS: u8 = 6;
    pub const BOOTTIME: u8 = 7;
    pub const WAIT: u8 = 8;
    pub const MARGIN_WAITED: u8 = 9;
    pub const WAIT_FROM_KNOWN: u8 = 10;
    pub const FENCE_FIRST: u8 = 11;
    pub const TRIM_READ_FENCED: u8 = 12;
    pub const TRIM_UNCHANGED: u8 = 13;
    pub const NOT_COMPLETE: u8 = 14;
    pub const EXACT: u8 = 15;
    pub const OWNER: u8 = 16;
    pub const OPEN_RECOVERED: u8 = 17;
    pub const FORMAT_RECOVERED: u8 = 18;
    pub const ONLY_READ: u8 = 19;
    pub const CUT_OFF: u8 = 20;
    pub const EPOCH_IN_FRAME: u8 = 21;
    pub const POSITION_IN_FRAME: u8 = 22;
    pub const CHECKSUM: u8 = 23;
    pub const KEPT_STAYS: u8 = 24;
    pub const SPACE_COMMITTED: u8 = 25;
    pub const METADATA_TRIM: u8 = 26;
    pub const HOLE_ENDS: u8 = 27;
    pub const RECOVERER_FENCED: u8 = 28;
    pub const ONE_ENTRY: u8 = 29;
    pub const CLIP: u8 = 30;
    pub const CHALLENGED: u8 = 31;
    pub const VIEW_BEHIND_POLL: u8 = 32;
    pub const ANSWER_FROM_SENT: u8 = 33;
    pub const ANSWER_UNFENCED: u8 = 34;
    pub const CHALLENGE_STANDS: u8 = 35;
    pub const TOLD_APART: u8 = 36;
    pub const WAIT_FROM_CHALLENGE: u8 = 37;
    pub const END_BEHIND_LEASE: u8 = 38;
}

const BOUNDS: Bounds = Bounds {
    records: 2,
    places: 4,
    in_flight: 2,
    uploads: 0,
    trim_lags: 0,
    power_cuts: 0,
    failed_flushes: 0,
    recoverers: 1,
    recoverers_die: 0,
    recoverers_fenced: false,
    answers_lost: 0,
    appends: 0,
    ticks: 0,
    polls: 0,
    challenges: 0,
    ahead: false,
    next_life: 0,
};

/// In the order of [`SCENARIOS`].
const USUAL: [Bounds; 10] = [
    Bounds { records: 1, ticks: 2, polls: 2, ..BOUNDS },
    Bounds { records: 1, ticks: 2, polls: 2, challenges: 1, ..BOUNDS },
    Bounds { records: 1, ticks: 2, polls: 1, challenges: 2, ..BOUNDS },
    Bounds { recoverers: 2, recoverers_die: 1, recoverers_fenced: true, answers_lost: 1, ..BOUNDS },
    Bounds { uploads: 1, power_cuts: 1, recoverers: 2, recoverers_die: 1, ahead: true, ..BOUNDS },
    Bounds { records: 3, in_flight: 3, power_cuts: 1, failed_flushes: 1, ..BOUNDS },
    Bounds { records: 3, places: 2, uploads: 2, power_cuts: 1, ..BOUNDS },
    Bounds { uploads: 2, trim_lags: 1, recoverers: 2, ..BOUNDS },
    Bounds { uploads: 1, recoverers: 2, appends: 2, ..BOUNDS },
    Bounds { recoverers: 2, next_life: 2, power_cuts: 1, ..BOUNDS },
];

const SCENARIOS: [Scenario; 10] = [
    Scenario { name: "lease", holds: "a clock, two polls, one record, a recoverer" },
    Scenario { name: "challenge", holds: "the same, and a challenge that W may answer" },
    Scenario { name: "two challenges", holds: "the same with two, and one poll" },
    Scenario { name: "two recoverers", holds: "one may die or be fenced itself, an answer is lost" },
    Scenario {
        name: "reading ahead",
        holds: "two recoverers that may read ahead, one may die; an upload, a power cut",
    },
    Scenario { name: "power cut", holds: "three writes at once, the power goes, a flush fails" },
    Scenario { name: "full ring", holds: "three records in a ring of two, two uploads, a power cut" },
    Scenario { name: "trim", holds: "two uploads, a T that stays one record behind, two recoverers" },
    Scenario { name: "new owner", holds: "a late upload, two recoverers, a new owner that appends" },
    Scenario {
        name: "next owner",
        holds: "the volume gets a new owner, beside the zombie's queued writes; a power cut",
    },
];

const RULES: &[Rule] = &[
    Rule {
        number: FLUSH_FIRST,
        name: "flush first",
        source: "W3",
        without: "acknowledged once the device has taken the write",
        shown_in: "power cut",
        covered_by: &[],
    },
    Rule {
        number: FAILED_FLUSH,
        name: "a failed flush is final",
        source: "V4, F13",
        without: "flushed again, and believed",
        shown_in: "power cut",
        covered_by: &[],
    },
    Rule {
        number: ACK_IN_ORDER,
        name: "in order",
        source: "W2",
        without: "acknowledged in the order of completion",
        shown_in: "power cut",
        covered_by: &[],
    },
    Rule {
        number: LEASE_HELD,
        name: "lease",
        source: "B1",
        without: "acknowledged whether the right holds or not",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: RIGHT_BEHIND_DURABLE,
        name: "right behind durability",
        source: "B1",
        without: "the right is asked when the write is begun",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: FROM_POLL_BEGIN,
        name: "from the poll's beginning",
        source: "B1",
        without: "the right counts from the poll's answer",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: HINTS,
        name: "hints renew nothing",
        source: "B1",
        without: "a hint renews the right",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: BOOTTIME,
        name: "boot time",
        source: "B1, F8",
        without: "a clock that stands still while the host sleeps",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: WAIT,
        name: "wait",
        source: "B1",
        without: "the volume is read behind the fence at once",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: MARGIN_WAITED,
        name: "margin",
        source: "B1, F9",
        without: "the wait is the lease alone",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: WAIT_FROM_KNOWN,
        name: "wait from knowing",
        source: "B1",
        without: "the wait counts from when the fence was proposed",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: CHALLENGED,
        name: "challenged, polls renew nothing",
        source: "B1",
        without: "a poll renews the right though a challenge stands",
        shown_in: "challenge",
        covered_by: &[],
    },
    Rule {
        number: VIEW_BEHIND_POLL,
        name: "a view behind the poll",
        source: "B1",
        without: "the poll renews if the view of before it shows no challenge",
        shown_in: "challenge",
        covered_by: &[],
    },
    Rule {
        number: ANSWER_FROM_SENT,
        name: "from the answer's sending",
        source: "B1",
        without: "the right counts from when the answer is known to be in the log",
        shown_in: "challenge",
        covered_by: &[],
    },
    Rule {
        number: ANSWER_UNFENCED,
        name: "no answer behind the fence",
        source: "B1",
        without: "an answer is accepted behind the fence, and renews",
        shown_in: "challenge",
        covered_by: &[],
    },
    Rule {
        number: CHALLENGE_STANDS,
        name: "a challenge that stands",
        source: "B1",
        without: "the wait counts from a challenge that was answered before the fence",
        shown_in: "challenge",
        covered_by: &[],
    },
    Rule {
        number: TOLD_APART,
        name: "told apart by its number",
        source: "B1",
        without: "the wait counts from the first challenge, though it is a later one that stands",
        shown_in: "two challenges",
        covered_by: &[],
    },
    Rule {
        number: WAIT_FROM_CHALLENGE,
        name: "wait from knowing the challenge",
        source: "B1",
        without: "the wait counts from when the challenge was proposed",
        shown_in: "challenge",
        covered_by: &[],
    },
    Rule {
        number: END_BEHIND_LEASE,
        name: "the end behind the lease",
        source: "B1",
        without: "reading ahead completes the recovery",
        shown_in: "reading ahead",
        covered_by: &[],
    },
    Rule {
        number: FENCE_FIRST,
        name: "fence first",
        source: "O1, B1",
        without: "waits and reads without a fence",
        shown_in: "lease",
        covered_by: &[],
    },
    Rule {
        number: TRIM_READ_FENCED,
        name: "T behind the fence",
        source: "O1",
        without: "T is read before the fence",
        shown_in: "full ring",
        covered_by: &[TRIM_UNCHANGED],
    },
    Rule {
        number: TRIM_UNCHANGED,
        name: "T unchanged",
        source: "O2",
        without: "a recovery does not say from where it started",
        shown_in: "full ring",
        covered_by: &[TRIM_READ_FENCED],
    },
    Rule {
        number: NOT_COMPLETE,
        name: "not complete",
        source: "O2",
        without: "a recovery is accepted after another one was completed",
        shown_in: "two recoverers",
        covered_by: &[EXACT, OWNER],
    },
    Rule {
        number: EXACT,
        name: "exact end",
        source: "S4",
        without: "a part may begin anywhere",
        shown_in: "reading ahead",
        covered_by: &[],
    },
    Rule {
        number: OWNER,
        name: "owner",
        source: "O2",
        without: "a commit may extend a stream that another life has open",
        shown_in: "two recoverers",
        covered_by: &[NOT_COMPLETE, EXACT],
    },
    Rule {
        number: OPEN_RECOVERED,
        name: "open when recovered",
        source: "O2",
        without: "a stream is opened as soon as its owner is fenced",
        shown_in: "new owner",
        covered_by: &[],
    },
    Rule {
        number: FORMAT_RECOVERED,
        name: "format when recovered",
        source: "B2",
        without: "the next owner formats the volume as soon as it can",
        shown_in: "next owner",
        covered_by: &[],
    },
    Rule {
        number: ONLY_READ,
        name: "recoverers only read",
        source: "B2",
        without: "a recoverer wipes the volume once it has committed",
        shown_in: "next owner",
        covered_by: &[],
    },
    Rule {
        number: CUT_OFF,
        name: "cut off first",
        source: "B2",
        without: "the volume is used again while the old host may still write to it",
        shown_in: "next owner",
        covered_by: &[],
    },
    Rule {
        number: EPOCH_IN_FRAME,
        name: "epoch in the frame",
        source: "V3, F3",
        without: "a frame of any life is data",
        shown_in: "next owner",
        covered_by: &[],
    },
    Rule {
        number: POSITION_IN_FRAME,
        name: "position in the frame",
        source: "F12",
        without: "a frame of any lap is data",
        shown_in: "full ring",
        covered_by: &[CLIP],
    },
    Rule {
        number: CHECKSUM,
        name: "checksum",
        source: "F10",
        without: "a torn frame is data",
        shown_in: "power cut",
        covered_by: &[],
    },
    Rule {
        number: KEPT_STAYS,
        name: "kept stays",
        source: "L2, F16",
        without: "frames go over what is not trimmed",
        shown_in: "full ring",
        covered_by: &[],
    },
    Rule {
        number: SPACE_COMMITTED,
        name: "space from commits",
        source: "W6",
        without: "space comes back once an upload is written",
        shown_in: "full ring",
        covered_by: &[],
    },
    Rule {
        number: METADATA_TRIM,
        name: "the metadata's T",
        source: "section 3",
        without: "a recovery starts at the superblock's trim point",
        shown_in: "full ring",
        covered_by: &[],
    },
    Rule {
        number: HOLE_ENDS,
        name: "a hole ends the log",
        source: "W5, F11",
        without: "frames behind a hole are read",
        shown_in: "power cut",
        covered_by: &[],
    },
    Rule {
        number: RECOVERER_FENCED,
        name: "fenced recoverers are rejected",
        source: "O6",
        without: "the commit of a recoverer that was fenced is carried out",
        shown_in: "two recoverers",
        covered_by: &[],
    },
    Rule {
        number: ONE_ENTRY,
        name: "one entry",
        source: "section 4",
        without: "T moves in an entry of its own, before the objects",
        shown_in: "trim",
        covered_by: &[],
    },
    Rule {
        number: CLIP,
        name: "clip",
        source: "O2",
        without: "records below the committed end are written again",
        shown_in: "trim",
        covered_by: &[],
    },
];

impl Subject for Block {
    type Model = Block;

    const NAME: &'static str = "block WAL";

    fn rules() -> &'static [Rule] {
        RULES
    }

    fn scenarios() -> &'static [Scenario] {
        &SCENARIOS
    }

    fn model(scenario: usize, deep: bool, off: Off) -> Block {
        let mut bounds = USUAL[scenario];
        // The clock of a scenario goes by the one recoverer that it has.
        if deep && bounds.challenges > 0 {
            (bounds.polls, bounds.challenges) = (bounds.polls + 1, bounds.challenges + 1);
        } else if deep && bounds.ticks > 0 {
            (bounds.records, bounds.polls) = (2, 3);
        } else if deep {
            bounds.records = (bounds.records + 1).min(RECORDS as u8 - 1);
            bounds.recoverers = 2;
            // Where the other one is there for the next life, this one has to live.
            bounds.recoverers_die = u8::from(bounds.next_life == 0);
        }
        Block { bounds, off }
    }
}
