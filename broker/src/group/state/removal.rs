//! What may be removed of a group, and when: DeleteGroups and OffsetDelete (behaviour 98), expiry of offsets
//! (behaviour 96). Kafka's `ClassicGroup.validateDeleteGroup`, `validateOffsetDelete`, `offsetExpirationCondition`.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;

use super::{Group, NEVER, Now, State, Storing};
use crate::group::records::CommittedOffset;
use crate::group::subscription;

/// The protocol type of consumers: of their metadata alone it is known what it means.
const CONSUMER: &str = "consumer";

/// Which topics a group's members consume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// These: none if nobody is there, or if the members are no consumers.
    Topics(HashSet<Arc<str>>),
    /// Members' metadata does not say it, so any topic may be among them.
    Unknown,
}

impl Subscription {
    pub fn contains(&self, topic: &str) -> bool {
        match self {
            Subscription::Topics(topics) => topics.contains(topic),
            Subscription::Unknown => true,
        }
    }
}

/// From when on the retention of a group's offsets counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainedFrom {
    /// Milliseconds since the Unix epoch: since then the group has been without members.
    Emptied(i64),
    /// From each commit.
    Commit,
}

impl RetainedFrom {
    /// An offset whose commit asked for a retention of its own is kept for just that.
    pub fn is_over(self, offset: &CommittedOffset, retention_ms: i64, wall_ms: i64) -> bool {
        if let Some(expires_at_ms) = offset.expires_at_ms {
            return wall_ms >= expires_at_ms;
        }
        let from_ms = match self {
            RetainedFrom::Emptied(since_ms) => since_ms,
            RetainedFrom::Commit => offset.committed_at_ms,
        };
        wall_ms.saturating_sub(from_ms) >= retention_ms
    }
}

impl Group {
    fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// Nobody is in it, nor about to be.
    pub fn is_deserted(&self) -> bool {
        self.state == State::Empty && self.pending_joins.is_empty()
    }

    /// May the whole group be deleted?
    pub fn check_delete(&self) -> Result<(), ResponseError> {
        match self.state {
            State::Empty => Ok(()),
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                Err(ResponseError::NonEmptyGroup)
            }
        }
    }

    /// May offsets be deleted, of topics that nobody consumes? Of members that are no consumers nothing is known.
    pub fn check_delete_offsets(&self) -> Result<(), ResponseError> {
        match self.state {
            State::Empty => Ok(()),
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                if self.is_of_consumers() { Ok(()) } else { Err(ResponseError::NonEmptyGroup) }
            }
        }
    }

    /// Reads the members' metadata; whatever they offer counts, not only for the protocol that was chosen.
    pub fn subscription(&self) -> Subscription {
        let mut topics = HashSet::new();
        if !self.is_of_consumers() {
            return Subscription::Topics(topics);
        }
        for offered in self.members.values().flat_map(|member| &member.protocols) {
            if subscription::add_topics(&offered.metadata, &mut topics).is_err() {
                return Subscription::Unknown;
            }
        }
        Subscription::Topics(topics)
    }

    /// `None` if no offset expires now, whatever its age. Offsets of topics in the
    /// [`subscription`](Group::subscription) never do.
    pub fn retained_from(&self) -> Option<RetainedFrom> {
        match (self.state, &self.protocol_type) {
            // Who commits without a group of members may do so for years and never otherwise be seen.
            (State::Empty, None) => Some(RetainedFrom::Commit),
            // The time is unknown in values of old versions.
            (State::Empty, Some(_)) if self.state_since_ms < 0 => Some(RetainedFrom::Commit),
            (State::Empty, Some(_)) => Some(RetainedFrom::Emptied(self.state_since_ms)),
            (State::Stable, Some(_)) if self.is_of_consumers() => Some(RetainedFrom::Commit),
            (State::Stable | State::PreparingRebalance | State::CompletingRebalance, _) => None,
        }
    }

    /// The group is deleted: from here on it is a new one of the same name. Values that are still on their way to the
    /// log, in front of the tombstone, mean nothing any more.
    ///
    /// # Panics
    /// If it has members.
    pub fn forget(&mut self, now: Now) {
        assert_eq!(self.state, State::Empty, "group {}: deleted with members", self.id);
        for storing in self.storing.values_mut() {
            *storing = Storing::Empty;
        }
        self.state_since_ms = now.wall_ms;
        self.protocol_type = None;
        self.protocol = None;
        self.generation = 0;
        self.pending_joins.clear();
        self.wake = NEVER;
        self.recorded = false;
    }
}
