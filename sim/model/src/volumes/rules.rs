//! The rules of who may write to a volume, what is done without each of them, and the scenarios that show it.

use super::{Begins, Bounds, Volumes};
use crate::check::{Off, Rule, Scenario, Subject};
use rule::*;

/// What can be switched off.
pub mod rule {
    pub const CLAIM: u8 = 0;
    pub const REFUSE: u8 = 1;
    pub const OWNER_JUDGED: u8 = 2;
    pub const NEWER: u8 = 3;
    pub const REPLACES: u8 = 4;
    pub const RIVALS: u8 = 5;
    pub const BLANK_NEWER: u8 = 6;
    pub const OUTLIVES: u8 = 7;
    pub const KEPT_OUT: u8 = 8;
    pub const KERNEL: u8 = 9;
    pub const LOCK: u8 = 10;
    pub const UNCHANGED: u8 = 11;
    pub const ANOTHERS: u8 = 12;
    pub const FORMAT_BEHIND: u8 = 13;
    pub const DETACHED: u8 = 14;
    pub const CLOSED_LAST: u8 = 15;
    pub const BEGUN_STAYS: u8 = 16;
    pub const RESERVED_FIRST: u8 = 17;
    pub const LANDING: u8 = 18;
    pub const IN_TURN: u8 = 19;
    pub const RESTED_ON: u8 = 20;
}

const BOUNDS: Bounds = Bounds {
    begins: Begins::Closed,
    two_brokers: false,
    reservations: false,
    starts: [1, 1],
    kills: 0,
    power_cuts: 0,
    fences: 0,
    detached: 0,
};

/// In the order of [`SCENARIOS`].
const USUAL: [Bounds; 7] = [
    Bounds { starts: [2, 1], fences: 1, detached: 1, ..BOUNDS },
    Bounds { begins: Begins::Blank, two_brokers: true, ..BOUNDS },
    Bounds {
        begins: Begins::Blank,
        two_brokers: true,
        starts: [2, 1],
        kills: 1,
        power_cuts: 1,
        detached: 1,
        ..BOUNDS
    },
    Bounds { begins: Begins::Owned { claimed: true }, kills: 1, power_cuts: 1, detached: 1, ..BOUNDS },
    Bounds { begins: Begins::Owned { claimed: false }, kills: 1, detached: 1, ..BOUNDS },
    Bounds { begins: Begins::Owned { claimed: true }, starts: [2, 0], kills: 1, ..BOUNDS },
    Bounds {
        begins: Begins::Owned { claimed: true },
        reservations: true,
        starts: [0, 2],
        kills: 1,
        power_cuts: 1,
        detached: 1,
        ..BOUNDS
    },
];

const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "a slow start",
        holds: "a log that was closed, two starts on one host, one on another; a fence; a host may be detached",
    },
    Scenario { name: "two find it blank", holds: "a start of a broker on each host" },
    Scenario {
        name: "blank",
        holds: "the same, and another start; one is killed, one loses its power, one may be detached",
    },
    Scenario {
        name: "an owner that hangs",
        holds: "two more starts, there and elsewhere; killed, without power, or detached",
    },
    Scenario {
        name: "an owner without a claim",
        holds: "the same of a life that claimed nothing; no power cut",
    },
    Scenario { name: "one host", holds: "an owner that is killed, and two more starts there" },
    Scenario {
        name: "a reservation",
        holds: "an owner that hangs, and two starts on the other host, with or without the reservation",
    },
];

const RULES: &[Rule] = &[
    Rule {
        number: CLAIM,
        name: "claim",
        source: "B3, N4",
        without: "a registration says nothing of the volume",
        shown_in: "a slow start",
        covered_by: &[],
    },
    Rule {
        number: REFUSE,
        name: "refuse",
        source: "B2, M3",
        without: "the volume is taken whoever may still write to it",
        shown_in: "an owner that hangs",
        covered_by: &[],
    },
    Rule {
        number: OWNER_JUDGED,
        name: "judge the owner",
        source: "M5",
        without: "only claims are judged, and not who opened the log last",
        shown_in: "an owner without a claim",
        covered_by: &[],
    },
    Rule {
        number: NEWER,
        name: "no newer claim",
        source: "N4",
        without: "a registration is accepted beside a claim that its issuer did not know",
        shown_in: "a slow start",
        covered_by: &[REPLACES],
    },
    Rule {
        number: REPLACES,
        name: "one life at a time",
        source: "Id3",
        without: "a registration is accepted beside one of the same id that its issuer did not know",
        shown_in: "a slow start",
        covered_by: &[NEWER],
    },
    Rule {
        number: RIVALS,
        name: "wait for rivals",
        source: "N4, M5",
        without: "a blank volume is judged by itself, whoever is to format one",
        shown_in: "two find it blank",
        covered_by: &[],
    },
    Rule {
        number: BLANK_NEWER,
        name: "no newer blank claim",
        source: "N4",
        without: "a registration with a blank volume is accepted beside a blank claim that its issuer did not know",
        shown_in: "two find it blank",
        covered_by: &[],
    },
    Rule {
        number: OUTLIVES,
        name: "claims outlive fences",
        source: "N5",
        without: "a claim ends when its life is fenced",
        shown_in: "a slow start",
        covered_by: &[],
    },
    Rule {
        number: KEPT_OUT,
        name: "claims outlive the next owner",
        source: "N5",
        without: "a claim ends when the next owner has opened its log",
        shown_in: "a reservation",
        covered_by: &[],
    },
    Rule {
        number: KERNEL,
        name: "same kernel",
        source: "M3",
        without: "an equal machine id is a proof, and images are cloned",
        shown_in: "an owner that hangs",
        covered_by: &[],
    },
    Rule {
        number: LOCK,
        name: "lock",
        source: "V1",
        without: "a lock is given up with its process, its last write on its way",
        shown_in: "an owner that hangs",
        covered_by: &[],
    },
    Rule {
        number: UNCHANGED,
        name: "as it was found",
        source: "V7, V9",
        without: "a log is opened whoever has opened one there since the volume was taken",
        shown_in: "two find it blank",
        covered_by: &[ANOTHERS],
    },
    Rule {
        number: ANOTHERS,
        name: "another broker's log stays",
        source: "B2",
        without: "a log is opened over another broker's",
        shown_in: "blank",
        covered_by: &[],
    },
    Rule {
        number: FORMAT_BEHIND,
        name: "format behind the claim",
        source: "V9",
        without: "a blank volume is formatted, and then claimed by the id that is read back",
        shown_in: "two find it blank",
        covered_by: &[],
    },
    Rule {
        number: DETACHED,
        name: "a true word",
        source: "M3",
        without: "`--wal-detached` is said of a volume that another host can reach",
        shown_in: "an owner that hangs",
        covered_by: &[],
    },
    Rule {
        number: CLOSED_LAST,
        name: "the last word",
        source: "V7",
        without: "a log is said to be closed while a write is on its way",
        shown_in: "a slow start",
        covered_by: &[],
    },
    Rule {
        number: BEGUN_STAYS,
        name: "begun is begun",
        source: "N5",
        without: "a start that gives up ends its claim though it has begun to write",
        shown_in: "blank",
        covered_by: &[],
    },
    Rule {
        number: IN_TURN,
        name: "in turn",
        source: "V3",
        without: "both superblocks are written at once",
        shown_in: "a slow start",
        covered_by: &[BEGUN_STAYS],
    },
    Rule {
        number: RESTED_ON,
        name: "a word that is needed stays",
        source: "N5",
        without: "a start that wrote nothing ends its claim, and says no more that the last owner is gone",
        shown_in: "one host",
        covered_by: &[],
    },
    Rule {
        number: RESERVED_FIRST,
        name: "reserve first",
        source: "P1",
        without: "the log is opened before the reservation is there that is to keep others out",
        shown_in: "a reservation",
        covered_by: &[],
    },
    Rule {
        number: LANDING,
        name: "what was accepted lands",
        source: "P4",
        without: "it is opened as soon as the reservation is there",
        shown_in: "a reservation",
        covered_by: &[],
    },
];

impl Subject for Volumes {
    type Model = Volumes;

    const NAME: &'static str = "volumes";

    fn rules() -> &'static [Rule] {
        RULES
    }

    fn scenarios() -> &'static [Scenario] {
        &SCENARIOS
    }

    fn model(scenario: usize, deep: bool, off: Off) -> Volumes {
        let mut bounds = USUAL[scenario];
        if deep {
            bounds.starts[1] += 1;
            bounds.kills += 1;
        }
        Volumes { bounds, off }
    }
}
