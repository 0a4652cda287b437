//! The rules of the object WAL's fail-over, what is done without each of them, and the scenarios that show it.

use super::{Bounds, Object, PLACES};
use crate::check::{Off, Rule, Scenario, Subject};
use rule::*;

/// What can be switched off.
pub mod rule {
    pub const CREATE_ONLY: u8 = 0;
    pub const READ_BACK: u8 = 1;
    pub const OWN_NONCE: u8 = 2;
    pub const SLOT_ONCE: u8 = 3;
    pub const ACK_DURABLE: u8 = 4;
    pub const ACK_IN_ORDER: u8 = 5;
    pub const FRESH_VIEW: u8 = 6;
    pub const FENCE_FIRST: u8 = 7;
    pub const TRIM_READ_FENCED: u8 = 8;
    pub const START_AT_TRIM: u8 = 9;
    pub const SEAL: u8 = 10;
    pub const SEAL_LOST_READS: u8 = 11;
    pub const SEAL_ENDS: u8 = 12;
    pub const CLIP: u8 = 13;
    pub const TRIM_UNCHANGED: u8 = 14;
    pub const NOT_COMPLETE: u8 = 15;
    pub const EXACT: u8 = 16;
    pub const OWNER: u8 = 17;
    pub const OPEN_RECOVERED: u8 = 18;
    pub const RETRY_LOOKS: u8 = 19;
    pub const TRIM_LOWEST: u8 = 20;
    pub const ONE_ENTRY: u8 = 21;
    pub const DELETE_COMMITTED: u8 = 22;
    pub const OWN_TRIM: u8 = 23;
    pub const SEAL_STAYS: u8 = 24;
    pub const SEAL_STAYS_LATE: u8 = 25;
    pub const EPOCH_IN_KEY: u8 = 26;
    pub const NAMED_STAYS: u8 = 27;
    pub const SLOT_MAY_BE_READ: u8 = 28;
    pub const DATA_MAY_BE_NAMED: u8 = 29;
    pub const LOW_WATER_HONOURED: u8 = 30;
    pub const LOW_WATER_IN_FLIGHT: u8 = 31;
    pub const JUDGE_AFTER_LIST: u8 = 32;
    pub const UNHEARD: u8 = 33;
    pub const FENCED_REJECTED: u8 = 34;
}

const BOUNDS: Bounds = Bounds {
    slots: 2,
    records_per_slot: 1,
    late: 0,
    writer_dies: false,
    uploads: 0,
    low_water: false,
    merges_by_writer: false,
    recoverers: 1,
    recoverers_die: 0,
    answers_lost: 0,
    two_entries: false,
    appends: 0,
    merges: false,
    collects: 0,
    clock: false,
    next_life: 0,
};

/// In the order of [`SCENARIOS`].
const USUAL: [Bounds; 12] = [
    Bounds { slots: 3, late: 2, ..BOUNDS },
    Bounds { late: 1, recoverers: 2, recoverers_die: 1, writer_dies: true, answers_lost: 1, ..BOUNDS },
    Bounds { recoverers: 2, recoverers_die: 1, answers_lost: 1, two_entries: true, ..BOUNDS },
    Bounds { records_per_slot: 2, uploads: 2, recoverers: 2, ..BOUNDS },
    Bounds { slots: 3, late: 1, uploads: 1, ..BOUNDS },
    Bounds { slots: 3, uploads: 2, recoverers: 2, ..BOUNDS },
    Bounds { slots: 3, uploads: 1, recoverers: 2, two_entries: true, ..BOUNDS },
    Bounds { uploads: 1, appends: 2, recoverers: 2, ..BOUNDS },
    Bounds { late: 1, appends: 1, merges: true, collects: 2, ..BOUNDS },
    Bounds { uploads: 2, low_water: true, merges_by_writer: true, collects: 2, ..BOUNDS },
    Bounds { late: 1, collects: 1, clock: true, ..BOUNDS },
    Bounds { late: 1, recoverers: 2, next_life: 1, collects: 1, ..BOUNDS },
];

const SCENARIOS: [Scenario; 12] = [
    Scenario {
        name: "late PUTs",
        holds: "three slots, two requests that are hedged, time out, or lose their answer",
    },
    Scenario {
        name: "two recoverers",
        holds: "one of them may die; a late PUT; an adoption whose answer is lost",
    },
    Scenario {
        name: "two entries",
        holds: "the same, each recovery in as many commits as it likes; no late PUT",
    },
    Scenario {
        name: "half a slot",
        holds: "two records in each slot, uploads that end anywhere, two recoverers",
    },
    Scenario { name: "trim", holds: "three slots, an upload, deletion of trimmed slots, a late PUT" },
    Scenario { name: "trim and two recoverers", holds: "three slots, two uploads, two recoverers" },
    Scenario {
        name: "trim by recoverers",
        holds: "three slots, an upload, two recoverers in any number of commits",
    },
    Scenario { name: "new owner", holds: "a late upload, two recoverers, a new owner that appends" },
    Scenario {
        name: "collected slots",
        holds: "the new owner merges what was adopted, the collector deletes twice, a late PUT",
    },
    Scenario {
        name: "collected data",
        holds: "uploads, a merge, a low-water mark, two deletions by the collector",
    },
    Scenario { name: "seals", holds: "a lease, the collector, a late PUT" },
    Scenario {
        name: "next life",
        holds: "the same broker opens a log again and is recovered too, beside the zombie",
    },
];

const RULES: &[Rule] = &[
    Rule {
        number: CREATE_ONLY,
        name: "create only",
        source: "section 3",
        without: "a PUT overwrites what is there",
        shown_in: "late PUTs",
        covered_by: &[],
    },
    Rule {
        number: READ_BACK,
        name: "read back",
        source: "O4, F22",
        without: "“exists already” is taken for one's own success",
        shown_in: "late PUTs",
        covered_by: &[],
    },
    Rule {
        number: OWN_NONCE,
        name: "own nonce",
        source: "O4",
        without: "any slot of the same life is taken for the one that was sent",
        shown_in: "late PUTs",
        covered_by: &[SLOT_ONCE],
    },
    Rule {
        number: SLOT_ONCE,
        name: "a slot once",
        source: "O3",
        without: "a slot whose PUT timed out is cut anew",
        shown_in: "collected slots",
        covered_by: &[],
    },
    Rule {
        number: ACK_DURABLE,
        name: "durable first",
        source: "W3",
        without: "acknowledged once sent",
        shown_in: "late PUTs",
        covered_by: &[],
    },
    Rule {
        number: ACK_IN_ORDER,
        name: "in order",
        source: "W2",
        without: "acknowledged in the order of completion",
        shown_in: "late PUTs",
        covered_by: &[],
    },
    Rule {
        number: FENCE_FIRST,
        name: "fence first",
        source: "O1",
        without: "the walk begins without a fence",
        shown_in: "trim",
        covered_by: &[TRIM_UNCHANGED],
    },
    Rule {
        number: TRIM_READ_FENCED,
        name: "T behind the fence",
        source: "O1",
        without: "T is read before the fence",
        shown_in: "trim",
        covered_by: &[TRIM_UNCHANGED],
    },
    Rule {
        number: START_AT_TRIM,
        name: "start at T",
        source: "O1",
        without: "the walk starts at the first slot that a listing shows",
        shown_in: "trim and two recoverers",
        covered_by: &[],
    },
    Rule {
        number: SEAL,
        name: "seal",
        source: "O1",
        without: "the first free slot ends the walk as it is",
        shown_in: "late PUTs",
        covered_by: &[],
    },
    Rule {
        number: SEAL_LOST_READS,
        name: "a lost seal reads",
        source: "O1",
        without: "whatever is in the seal's place is taken for a seal",
        shown_in: "late PUTs",
        covered_by: &[],
    },
    Rule {
        number: SEAL_ENDS,
        name: "a seal ends the walk",
        source: "O1, W5",
        without: "a recoverer walks over the other one's seal",
        shown_in: "two recoverers",
        covered_by: &[],
    },
    Rule {
        number: CLIP,
        name: "clip",
        source: "O2",
        without: "slots are adopted whole",
        shown_in: "half a slot",
        covered_by: &[],
    },
    Rule {
        number: TRIM_UNCHANGED,
        name: "T unchanged",
        source: "O2",
        without: "an adoption does not say from where it started",
        shown_in: "trim",
        covered_by: &[TRIM_READ_FENCED],
    },
    Rule {
        number: NOT_COMPLETE,
        name: "not complete",
        source: "O2",
        without: "an adoption is accepted after the recovery was completed",
        shown_in: "two recoverers",
        covered_by: &[EXACT, OWNER],
    },
    Rule {
        number: EXACT,
        name: "exact end",
        source: "S4",
        without: "a part may begin anywhere",
        shown_in: "two entries",
        covered_by: &[TRIM_UNCHANGED],
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
        number: RETRY_LOOKS,
        name: "a retry looks",
        source: "F4, F22",
        without: "“the slots are adopted already” is taken for one's own lost answer",
        shown_in: "two entries",
        covered_by: &[],
    },
    Rule {
        number: TRIM_LOWEST,
        name: "lowest uncommitted",
        source: "O2, F5",
        without: "T moves beyond a slot of which half is committed",
        shown_in: "half a slot",
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
        number: DELETE_COMMITTED,
        name: "delete what is committed",
        source: "W6",
        without: "slots go once the upload is written",
        shown_in: "trim",
        covered_by: &[],
    },
    Rule {
        number: OWN_TRIM,
        name: "own trim point",
        source: "O5",
        without: "a writer deletes below the metadata's T, which a recoverer may have moved",
        shown_in: "trim by recoverers",
        covered_by: &[],
    },
    Rule {
        number: SEAL_STAYS,
        name: "seals stay",
        source: "O3",
        without: "the collector deletes seals of recovered lives",
        shown_in: "seals",
        covered_by: &[],
    },
    Rule {
        number: SEAL_STAYS_LATE,
        name: "seals stay for ever",
        source: "O3",
        without: "the collector deletes them once no lease can be left",
        shown_in: "seals",
        covered_by: &[FRESH_VIEW],
    },
    Rule {
        number: FRESH_VIEW,
        name: "fresh view",
        source: "O4",
        without: "acknowledged whatever the age of the view",
        shown_in: "seals",
        covered_by: &[SEAL_STAYS_LATE],
    },
    Rule {
        number: EPOCH_IN_KEY,
        name: "epoch in the key",
        source: "O3",
        without: "the next life goes on behind the seal",
        shown_in: "next life",
        covered_by: &[],
    },
    Rule {
        number: NAMED_STAYS,
        name: "named stays",
        source: "O5",
        without: "all slots of a recovered life go",
        shown_in: "collected slots",
        covered_by: &[],
    },
    Rule {
        number: SLOT_MAY_BE_READ,
        name: "slots stay until recovered",
        source: "O5",
        without: "unnamed slots go by age",
        shown_in: "collected slots",
        covered_by: &[],
    },
    Rule {
        number: DATA_MAY_BE_NAMED,
        name: "data stays until given up",
        source: "O5",
        without: "unnamed data objects go by age",
        shown_in: "collected data",
        covered_by: &[],
    },
    Rule {
        number: LOW_WATER_HONOURED,
        name: "low water on apply",
        source: "O5",
        without: "commits below the mark are accepted",
        shown_in: "collected data",
        covered_by: &[LOW_WATER_IN_FLIGHT],
    },
    Rule {
        number: LOW_WATER_IN_FLIGHT,
        name: "low water below what is in flight",
        source: "O5",
        without: "the mark is the next counter",
        shown_in: "collected data",
        covered_by: &[LOW_WATER_HONOURED],
    },
    Rule {
        number: JUDGE_AFTER_LIST,
        name: "judge behind the listing",
        source: "G2, F27",
        without: "the view is older than the listing",
        shown_in: "next life",
        covered_by: &[UNHEARD],
    },
    Rule {
        number: UNHEARD,
        name: "unheard of",
        source: "G4",
        without: "a life that the view does not know is taken for a dead one",
        shown_in: "next life",
        covered_by: &[JUDGE_AFTER_LIST],
    },
    Rule {
        number: FENCED_REJECTED,
        name: "fenced is rejected",
        source: "O6",
        without: "commands of a fenced or recovered life are carried out",
        shown_in: "collected data",
        covered_by: &[],
    },
];

impl Subject for Object {
    type Model = Object;

    const NAME: &'static str = "object WAL";

    fn rules() -> &'static [Rule] {
        RULES
    }

    fn scenarios() -> &'static [Scenario] {
        &SCENARIOS
    }

    fn model(scenario: usize, deep: bool, off: Off) -> Object {
        let mut bounds = USUAL[scenario];
        if deep {
            bounds.slots = (bounds.slots + 1).min(PLACES as u8 - 1);
            bounds.late += 1;
            bounds.recoverers = 2;
        }
        Object { bounds, off }
    }
}
