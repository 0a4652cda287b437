//! What the checks decide by, rule by rule. In tests any one of them can be switched off, to show that it is needed (K5).

macro_rules! rules {
    ($($rule:ident: $what:literal,)+) => {
        /// A rule of the checks, or an exemption from one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Rule { $(#[doc = $what] $rule,)+ }

        #[cfg(test)]
        impl Rule {
            pub(crate) const ALL: &[(Rule, &str)] = &[$((Rule::$rule, $what)),+];
        }
    };
}

rules! {
    DoubtfulSendsAreNoEvidence: "offsets of an info transaction none of whose records was read prove nothing",
    ReadProvesTransaction: "one record of an info transaction that was read proves all of it",
    AcknowledgedOneByOne: "in an info of several sends those with an offset were acknowledged",
    FailedSendsAreNoEvidence: "offsets of failed sends prove nothing",
    FailedPollsAreEvidence: "what a failed or doubtful poll brought counts",
    OpenCallsMayHappen: "a send that was never answered may be read",
    BoundByFirstOffset: "how far was read is told by the first offset of what was read",
    LostByLastOffset: "what had to be read is told by its last offset",
    OnlyCommittedIsLost: "a send in doubt may vanish",
    DeletedIsNotLost: "records before the start of the log are not lost",
    DeletedIsNotUnseen: "records before the start of the log need not be seen at the end",
    UnseenOnlyAtTheEnd: "records may be unseen if the history has no final read",
    LostIsNotAlsoUnseen: "a lost record is not reported twice",
    AbortedReadsByOkOnly: "a failed send that only failed polls saw is no G1a",
    MostSettledRecordStands: "of two records at one offset the one that stands nowhere else gives the order",
    GapsAreLegal: "offsets without a record are no records",
    RebalancedKeysAreExempt: "a key that was rebalanced in a call may skip and go back in it",
    RebalanceForgetsPosition: "a rebalance ends what a consumer's next poll is compared with",
    AssignKeepsNamedKeys: "a new assignment keeps the positions of the keys that it names",
    AssignDropsOtherKeys: "a new assignment drops the positions of the others",
    FailedAssignChangesNothing: "an assignment that failed changes nothing",
    SeekForgetsPosition: "a seek ends what the next poll is compared with",
    OutOfRangeForgetsPosition: "so does a fetch out of range",
    CrashForgetsPosition: "so does the end of a client",
    CrashForgetsSends: "and its producer's order",
    AbortRewinds: "only calls that are ok move the position",
    SubscribersMayJump: "consumers that subscribe may skip from call to call unless all rebalances are logged",
    SendsInOrderOfInvocation: "a producer's sends are ordered as they were invoked",
    FailedSendsHaveNoOrder: "failed sends have no place in a producer's order",
    ReadIsProofOfTime: "a record that was read was there by then",
    DoubtfulCallsNeverEnd: "a call in doubt is before nothing",
    DeletedIsLegallyOutOfRange: "offsets before the start of the log are out of range",
    BeyondTheEndIsOutOfRange: "and those behind the end that a client knows of",
    CrashForgetsWatermarks: "another client may know less",
    PollsAreWatermarks: "a log ends behind what was polled",
    DoubtfulCommitsMayLand: "a commit in doubt may take effect at any later time",
    ReadProvesCommit: "a commit that was read had taken effect",
    FailedCommitsDoNotCount: "a failed commit cannot be what was read",
    ConcurrentCommits: "commits at the same time may take effect in any order",
    RestartedGroups: "a group without committed offsets may begin its generations anew",
    GroupsStartAnywhere: "a group need not have read what is before the first record that it read",
    GroupsForgetDeleted: "nor what is before the start of the log",
    OutsideCommits: "nor what somebody outside skipped",
    CrashReturnsKeys: "a client that ended holds no keys",
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn on(_rule: Rule) -> bool {
    true
}

#[cfg(test)]
thread_local! {
    static OFF: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub(crate) fn on(rule: Rule) -> bool {
    OFF.with(|off| off.get() != Some(rule))
}

/// Runs `f` with one rule switched off.
#[cfg(test)]
pub(crate) fn without<T>(rule: Rule, f: impl FnOnce() -> T) -> T {
    OFF.with(|off| off.set(Some(rule)));
    let result = f();
    OFF.with(|off| off.set(None));
    result
}
