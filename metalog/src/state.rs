//! What a replica knows after an entry: the machine, and where in which history it stands. No I/O.

use crate::entry::{ENVELOPE_BYTES, Entry, Nonce, command_bytes};
use crate::{Applying, Config, Machine};

#[derive(Clone)]
pub(crate) struct State<M> {
    pub machine: M,
    /// The last entry applied; 0 before the first.
    pub number: u64,
    /// Its nonce, or [`Nonce::NONE`].
    pub nonce: Nonce,
    /// Entries and bytes since the last point at which a snapshot was due. Every replica with the same configuration
    /// finds the same points, whoever takes the snapshot there.
    entries_since: u64,
    bytes_since: u64,
}

/// The next entry is of another history than this state (L4).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch;

/// What applying an entry gave.
pub(crate) struct Step<O> {
    /// One for each command.
    pub outcomes: Vec<O>,
    pub snapshot_due: bool,
}

impl<M: Machine> State<M> {
    /// Before the first entry.
    pub fn new(empty: M) -> State<M> {
        State { machine: empty, number: 0, nonce: Nonce::NONE, entries_since: 0, bytes_since: 0 }
    }

    /// As of a snapshot.
    pub fn restored(machine: M, number: u64, nonce: Nonce) -> State<M> {
        State { machine, number, nonce, entries_since: 0, bytes_since: 0 }
    }

    /// Applies the entry that follows, or changes nothing.
    ///
    /// # Panics
    /// If `entry` is not of the next number: the reader asked for that one.
    pub fn apply(&mut self, entry: &Entry, config: &Config) -> Result<Step<M::Outcome>, Mismatch> {
        assert_eq!(entry.number, self.number + 1, "entries are applied in order, without gaps");
        if entry.predecessor != self.nonce {
            return Err(Mismatch);
        }
        let context = Applying { number: entry.number, time_ms: entry.time_ms, issuer: entry.issuer };
        let outcomes = entry.commands.iter().map(|command| self.machine.apply(&context, command)).collect();
        self.number = entry.number;
        self.nonce = entry.nonce;

        self.entries_since += 1;
        let body: usize = entry.commands.iter().map(|command| command_bytes(command)).sum();
        self.bytes_since += (ENVELOPE_BYTES + body) as u64;
        let snapshot_due =
            self.entries_since >= config.snapshot_entries || self.bytes_since >= config.snapshot_log_bytes;
        if snapshot_due {
            self.entries_since = 0;
            self.bytes_since = 0;
        }
        Ok(Step { outcomes, snapshot_due })
    }
}
