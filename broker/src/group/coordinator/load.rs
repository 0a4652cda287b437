//! The replay of a coordinator's log.

use bytes::Bytes;

use super::Actor;
use crate::group::batch::{Content, records, split_batch};
use crate::group::log::LogError;
use crate::group::records::{CommittedOffset, GroupMetadata, Key, Malformed};
use crate::group::shard::Output;
use crate::group::state::Now;

impl Actor {
    pub(super) async fn load(&mut self) -> Result<(), LogError> {
        let (mut from, mut batches, mut bytes) = (0, 0, 0);
        while let Some(chunk) = self.log.read(from, self.options.load_chunk_bytes).await? {
            assert!(chunk.next > from, "a chunk of the log moves on");
            from = chunk.next;
            for batch in &chunk.batches {
                batches += 1;
                bytes += batch.len() as u64;
                if !host::planted("forget-offsets") {
                    self.replay(batch);
                }
            }
        }
        self.history.loaded(bytes, self.log.end().max(from));
        let (now, mut out) = (self.now(), Output::default());
        self.shard.loaded(now, &mut out);
        self.forget_orphans(&mut out);
        self.absorb(out);
        let groups = self.shard.groups().count();
        let partition = self.partition;
        tracing::info!(partition, groups, batches, bytes, end = from, "loaded groups and offsets");
        if self.history.is_foreign() {
            tracing::warn!(
                partition,
                "this partition of __consumer_offsets holds records that this version does not understand; it is \
                 not shortened, and the start of its coordinator takes longer as it grows"
            );
        }
        Ok(())
    }

    /// Damage is logged and passed over: the rest of the groups should not be down for it. Nothing of it is trimmed.
    fn replay(&mut self, bytes: &Bytes) {
        let partition = self.partition;
        let mut rest = &bytes[..];
        loop {
            let batch = match split_batch(&mut rest) {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(partition, %error, "a batch of __consumer_offsets is skipped");
                    return self.history.found_foreign();
                }
            };
            match records(batch) {
                Ok(Content::Records(records)) => {
                    for (key, value) in records {
                        self.replay_or_skip(key.unwrap_or_default(), value);
                    }
                }
                Ok(Content::Foreign) => {
                    tracing::warn!(partition, "a foreign batch in __consumer_offsets is skipped");
                    self.history.found_foreign();
                }
                Err(error) => {
                    tracing::error!(partition, %error, "a batch of __consumer_offsets is skipped");
                    self.history.found_foreign();
                }
            }
        }
    }

    fn replay_or_skip(&mut self, key: &[u8], value: Option<&[u8]>) {
        match self.replay_record(self.now(), key, value) {
            Ok(true) => {}
            Ok(false) => self.history.found_foreign(),
            Err(error) => {
                tracing::error!(partition = self.partition, %error, "a record of __consumer_offsets is skipped");
                self.history.found_foreign();
            }
        }
    }

    /// `false` for a record of a kind or a version that is not known here.
    fn replay_record(&mut self, now: Now, key: &[u8], value: Option<&[u8]>) -> Result<bool, Malformed> {
        let Some(key) = Key::decode(key)? else { return Ok(false) };
        match key {
            Key::Group { group } => {
                let value = match value {
                    None => None,
                    Some(value) => match GroupMetadata::decode(value)? {
                        Some(value) => Some(value),
                        None => return Ok(false),
                    },
                };
                self.shard.replay_group(group, value);
            }
            Key::Offset { group, topic, partition } => {
                let offset = match value {
                    None => None,
                    Some(value) => match CommittedOffset::decode(value)? {
                        Some(offset) => Some(offset),
                        None => return Ok(false),
                    },
                };
                self.shard.replay_offset(now, group, (topic, partition), offset);
            }
        }
        Ok(true)
    }
}
