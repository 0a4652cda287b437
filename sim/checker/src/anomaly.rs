//! The catalogue of what can be wrong.

/// A kind of contradiction in a history. *Jepsen* marks those of its workload for Kafka, by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// The history itself is wrong: a value was sent to a key twice (H2).
    ReusedValue,
    /// *Jepsen.* A record that was committed was read by nobody, while somebody read one behind it.
    LostWrite,
    /// *Jepsen.* A record that was acknowledged was never read, not even at the end.
    Unseen,
    /// *Jepsen.* One record stands at two offsets.
    Duplicate,
    /// *Jepsen.* Two records stand at one offset.
    InconsistentOffsets,
    /// *Jepsen.* A record was read whose send had failed.
    G1a,
    /// A record was read that nobody had sent there.
    PhantomRead,
    /// *Jepsen.* A transaction read what it had sent itself.
    PrecommittedRead,
    /// *Jepsen.* One call skipped a record between two that it polled.
    IntPollSkip,
    /// *Jepsen.* One call polled a record and then an earlier one, or the same one again.
    IntNonmonotonicPoll,
    /// *Jepsen.* A consumer skipped a record from one call to the next. Legal after a rebalance.
    PollSkip,
    /// *Jepsen.* A consumer went back from one call to the next. Legal after a rebalance.
    NonmonotonicPoll,
    /// *Jepsen.* Of two sends in one call the second stands before the first.
    IntNonmonotonicSend,
    /// *Jepsen.* Between two sends of one call stands another's record. Legal: writes are not isolated.
    IntSendSkip,
    /// *Jepsen.* A producer's record stands before an earlier one of its own.
    NonmonotonicSend,
    /// A record stands before one that was acknowledged, or read, before it was sent at all.
    RealtimeOrder,
    /// *Jepsen.* A cycle of sends, each before the next in some log. Legal: writes are not isolated.
    G0,
    /// *Jepsen.* The same, with steps between the calls of one process. Legal.
    G0Process,
    /// *Jepsen.* The same, with steps from what was over to what began later. Legal.
    G0Realtime,
    /// *Jepsen.* A cycle of calls, each of which read what the one before it had sent.
    G1c,
    /// *Jepsen.* The same, with steps between the calls of one process.
    G1cProcess,
    /// *Jepsen.* The same, with steps from what was over to what began later: a read of what was sent only afterwards.
    G1cRealtime,
    /// *Jepsen*'s G1c, of reads and of sends before sends. Legal: writes are not isolated.
    G1cWw,
    /// *Jepsen*'s G1c-process, of reads and of sends before sends. Legal.
    G1cWwProcess,
    /// *Jepsen*'s G1c-realtime, of reads and of sends before sends. Legal.
    G1cWwRealtime,
    /// A client saw the start or the end of a log go back, or an end before what it had read, or a start behind the end.
    WatermarkBack,
    /// A fetch was refused as out of range that asked for what is there, or for the end.
    SpuriousOutOfRange,
    /// A committed offset was answered that had been overwritten, or none although one was committed.
    StaleCommit,
    /// A committed offset was answered that nobody had committed.
    PhantomCommit,
    /// A member committed although the group had gone on to a later generation.
    ZombieCommit,
    /// The generation of a group that has committed offsets went back.
    GenerationBack,
    /// Two members were given one key in one generation.
    DoubleAssignment,
    /// A group committed an offset while none of its members had polled a record before it.
    GroupSkip,
}

impl Anomaly {
    pub const ALL: [Anomaly; 33] = [
        Anomaly::ReusedValue,
        Anomaly::LostWrite,
        Anomaly::Unseen,
        Anomaly::Duplicate,
        Anomaly::InconsistentOffsets,
        Anomaly::G1a,
        Anomaly::PhantomRead,
        Anomaly::PrecommittedRead,
        Anomaly::IntPollSkip,
        Anomaly::IntNonmonotonicPoll,
        Anomaly::PollSkip,
        Anomaly::NonmonotonicPoll,
        Anomaly::IntNonmonotonicSend,
        Anomaly::IntSendSkip,
        Anomaly::NonmonotonicSend,
        Anomaly::RealtimeOrder,
        Anomaly::G0,
        Anomaly::G0Process,
        Anomaly::G0Realtime,
        Anomaly::G1c,
        Anomaly::G1cProcess,
        Anomaly::G1cRealtime,
        Anomaly::G1cWw,
        Anomaly::G1cWwProcess,
        Anomaly::G1cWwRealtime,
        Anomaly::WatermarkBack,
        Anomaly::SpuriousOutOfRange,
        Anomaly::StaleCommit,
        Anomaly::PhantomCommit,
        Anomaly::ZombieCommit,
        Anomaly::GenerationBack,
        Anomaly::DoubleAssignment,
        Anomaly::GroupSkip,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Anomaly::ReusedValue => "reused-value",
            Anomaly::LostWrite => "lost-write",
            Anomaly::Unseen => "unseen",
            Anomaly::Duplicate => "duplicate",
            Anomaly::InconsistentOffsets => "inconsistent-offsets",
            Anomaly::G1a => "G1a",
            Anomaly::PhantomRead => "phantom-read",
            Anomaly::PrecommittedRead => "precommitted-read",
            Anomaly::IntPollSkip => "int-poll-skip",
            Anomaly::IntNonmonotonicPoll => "int-nonmonotonic-poll",
            Anomaly::PollSkip => "poll-skip",
            Anomaly::NonmonotonicPoll => "nonmonotonic-poll",
            Anomaly::IntNonmonotonicSend => "int-nonmonotonic-send",
            Anomaly::IntSendSkip => "int-send-skip",
            Anomaly::NonmonotonicSend => "nonmonotonic-send",
            Anomaly::RealtimeOrder => "realtime-order",
            Anomaly::G0 => "G0",
            Anomaly::G0Process => "G0-process",
            Anomaly::G0Realtime => "G0-realtime",
            Anomaly::G1c => "G1c",
            Anomaly::G1cProcess => "G1c-process",
            Anomaly::G1cRealtime => "G1c-realtime",
            Anomaly::G1cWw => "G1c-ww",
            Anomaly::G1cWwProcess => "G1c-ww-process",
            Anomaly::G1cWwRealtime => "G1c-ww-realtime",
            Anomaly::WatermarkBack => "watermark-back",
            Anomaly::SpuriousOutOfRange => "spurious-out-of-range",
            Anomaly::StaleCommit => "stale-commit",
            Anomaly::PhantomCommit => "phantom-commit",
            Anomaly::ZombieCommit => "zombie-commit",
            Anomaly::GenerationBack => "generation-back",
            Anomaly::DoubleAssignment => "double-assignment",
            Anomaly::GroupSkip => "group-skip",
        }
    }

    /// Whether Kafka promises nothing against it, ever.
    pub(crate) fn always_legal(self) -> bool {
        matches!(
            self,
            Anomaly::IntSendSkip
                | Anomaly::G0
                | Anomaly::G0Process
                | Anomaly::G0Realtime
                | Anomaly::G1cWw
                | Anomaly::G1cWwProcess
                | Anomaly::G1cWwRealtime
        )
    }
}
