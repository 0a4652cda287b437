//! What goes: groups and offsets that somebody deletes (behaviour 98), that nobody used for long (96), or whose topics
//! are gone (97).

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::entry::Entry;
use super::placing::{Removal, Write};
use super::{Output, Shard, Touched};
use crate::group::offsets::TopicPartition;
use crate::group::records::CommittedOffset;
use crate::group::state::{Now, RetainedFrom, Subscription};

/// Which of a group's offsets have had their time.
pub(super) struct Expired {
    from: Option<RetainedFrom>,
    subscription: Subscription,
    retention_ms: i64,
    wall_ms: i64,
}

impl Expired {
    pub fn includes(&self, topic: &str, offset: &CommittedOffset) -> bool {
        self.from.is_some_and(|from| from.is_over(offset, self.retention_ms, self.wall_ms))
            && !self.subscription.contains(topic)
    }
}

/// One result for each offset that was to be deleted.
pub type Deleted = Vec<(TopicPartition, Result<(), ResponseError>)>;

impl Shard {
    /// To be answered once what is put out is durable.
    pub fn delete(&mut self, now: Now, id: &Arc<str>, out: &mut Output) -> Result<(), ResponseError> {
        let entry = self.groups.get_mut(id).ok_or(ResponseError::GroupIdNotFound)?;
        entry.group.check_delete()?;
        self.remove_group(now, id, out);
        Ok(())
    }

    fn remove_group(&mut self, now: Now, id: &Arc<str>, out: &mut Output) {
        let entry = self.entry_mut(id);
        entry.group.forget(now);
        self.remove(id, Removal::Group, out);
        self.settle(id, Touched::Membership, out);
    }

    fn remove(&mut self, id: &Arc<str>, what: Removal, out: &mut Output) {
        self.entry_mut(id).writing += 1;
        out.writes.push(Write::Remove { group: id.clone(), what });
    }

    /// To be answered once what is put out is durable. Offsets that are not there are deleted with success.
    pub fn delete_offsets(
        &mut self,
        id: &Arc<str>,
        offsets: Vec<TopicPartition>,
        out: &mut Output,
    ) -> Result<Deleted, ResponseError> {
        let entry = self.groups.get_mut(id).ok_or(ResponseError::GroupIdNotFound)?;
        entry.group.check_delete_offsets()?;
        let subscription = entry.group.subscription();
        let check = |topic: &str| match subscription.contains(topic) {
            true => Err(ResponseError::GroupSubscribedToTopic),
            false => Ok(()),
        };
        let results: Deleted = offsets.into_iter().map(|at| (at.clone(), check(&at.0))).collect();
        let keys: Vec<TopicPartition> =
            results.iter().filter(|(_, result)| result.is_ok()).map(|(at, _)| at.clone()).collect();
        if !keys.is_empty() {
            self.remove(id, Removal::Keys { keys, membership: false }, out);
        }
        Ok(results)
    }

    /// Puts out tombstones for the offsets of topics that are gone (behaviour 97). A group that commits just now is
    /// looked at when its commits have their place.
    pub fn forget_orphans(&mut self, topic_id: &dyn Fn(&str) -> Option<Uuid>, out: &mut Output) {
        let concerned = |entry: &Entry| entry.writing > 0 || entry.offsets.has_orphans(topic_id);
        for id in self.ids_where(&concerned) {
            self.remove(&id, Removal::Orphans, out);
        }
    }

    fn ids_where(&self, wanted: &dyn Fn(&Entry) -> bool) -> Vec<Arc<str>> {
        self.groups.iter().filter(|(_, entry)| wanted(entry)).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn expired(&self, entry: &Entry, wall_ms: i64) -> Expired {
        let from = entry.group.retained_from();
        // Only of use where something may go.
        let subscription = match from {
            Some(_) => entry.group.subscription(),
            None => Subscription::Unknown,
        };
        let retention_ms = self.rules.offsets_retention.as_millis() as i64;
        Expired { from, subscription, retention_ms, wall_ms }
    }

    pub(super) fn check_interval_ms(&self) -> u64 {
        self.rules.offsets_retention_check_interval.as_millis() as u64
    }

    /// Whether [`check_retention`](Shard::check_retention) is due.
    pub fn is_check_due(&self, now: Now) -> bool {
        !self.groups.is_empty() && self.next_check <= now.tick_ms
    }

    /// Puts out tombstones for offsets whose time is over, and for groups that lose their last offset by it or have
    /// none and no members. (Kafka: `GroupCoordinatorShard.cleanupExpiredOffsets`, `cleanupGroupMetadata`.) While the wall
    /// clock is not to be believed, no offset goes for its age (C5).
    pub fn check_retention(&mut self, now: Now, topic_id: &dyn Fn(&str) -> Option<Uuid>, out: &mut Output) {
        self.next_check = now.tick_ms + self.check_interval_ms();
        let steady = self.clocks.look(Duration::from_millis(now.tick_ms), now.wall_ms);
        let believed = steady && !now.outvoted;
        let (mut over, mut some) = (Vec::new(), Vec::new());
        for (id, entry) in &self.groups {
            let expired = self.expired(entry, now.wall_ms);
            let goes =
                |topic: &Arc<str>, offset: &CommittedOffset| believed && expired.includes(topic, offset);
            let is_idle = entry.writing == 0 && entry.group.is_deserted();
            if is_idle && entry.offsets.iter().all(|(topic, _, offset)| goes(topic, offset)) {
                over.push(id.clone());
            } else if entry.offsets.iter().any(|(topic, _, offset)| goes(topic, offset)) {
                some.push(id.clone());
            }
        }
        for id in over {
            self.remove_group(now, &id, out);
        }
        for id in some {
            self.remove(&id, Removal::Expired { wall_ms: now.wall_ms }, out);
        }
        for id in self.ids_where(&|entry| entry.offsets.has_orphans(topic_id)) {
            self.remove(&id, Removal::Orphans, out);
        }
    }
}
