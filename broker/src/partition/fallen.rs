//! Partitions that fell to this broker from one that died are opened at once, before anybody asks: what that takes of the
//! store is then done while clients learn of their new leader.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use wal::Incarnation;

use super::Partitions;
use crate::metadata::image::{Image, Life, Topic};

impl Partitions {
    /// Runs until `closing`. At most `opens_max` are opened at a time. What cannot be opened is left to those who ask for it.
    pub fn open_what_falls_to_us(
        self: &Arc<Self>,
        opens_max: usize,
        closing: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let partitions = self.clone();
        async move {
            let watching = partitions.watch(opens_max.max(1));
            closing.run_until_cancelled(watching).await.unwrap_or_default();
        }
    }

    async fn watch(self: Arc<Self>, opens_max: usize) {
        let mut changed = self.metadata.changed();
        let mut holders = holders(&self.metadata.image());
        loop {
            if changed.changed().await.is_err() {
                // The metadata ended, and says so itself.
                return std::future::pending().await;
            }
            let image = self.metadata.image();
            // To look for what is ours costs a look at everything, so only when something may have fallen.
            let fell = any_is_forgotten(&holders, &image);
            holders = self::holders(&image);
            if !fell {
                continue;
            }
            let Some(own) = self.metadata.incarnation() else { continue };
            let fallen = self.closed_ones(&image, own);
            if fallen.is_empty() {
                continue;
            }
            tracing::info!(partitions = fallen.len(), "opening what fell to this broker");
            let began = tokio::time::Instant::now();
            let open = async |(topic, index): (Arc<Topic>, i32)| {
                // Reported there.
                let _ = self.get(&topic, index).await;
            };
            futures::stream::iter(fallen).for_each_concurrent(opens_max, open).await;
            tracing::info!(took = ?began.elapsed(), "opened what fell to this broker");
        }
    }

    /// Ours, with records, and not open.
    fn closed_ones(&self, image: &Image, own: Incarnation) -> Vec<(Arc<Topic>, i32)> {
        let open: BTreeSet<_> = self
            .open
            .lock()
            .iter()
            .filter(|(_, slot)| slot.partition.get().is_some())
            .map(|(key, _)| *key)
            .collect();
        let holds_any = |topic: &Topic, index: usize| {
            let partition = &topic.partitions[index];
            let streams = [partition.log, partition.checkpoint];
            streams.iter().any(|id| image.stream(*id).is_some_and(|stream| stream.committed_end > 0))
        };
        image
            .partitions_of(own)
            .filter(|(topic, index)| !open.contains(&(topic.id, *index as i32)) && holds_any(topic, *index))
            .map(|(topic, index)| (topic.clone(), index as i32))
            .collect()
    }
}

/// Lives of which something falls to others when they are forgotten: fenced ones, and whoever leads anything.
fn holders(image: &Image) -> BTreeSet<Incarnation> {
    let holds =
        |incarnation: Incarnation, life: &Life| life.fenced || image.led_count(incarnation.broker) > 0;
    image.lives().filter(|(incarnation, life)| holds(*incarnation, life)).map(|(life, _)| life).collect()
}

/// Whether one of them is. Its fence need not have been seen: that and the end of the recovery may be read at once.
fn any_is_forgotten(holders: &BTreeSet<Incarnation>, image: &Image) -> bool {
    holders.iter().any(|life| image.life(*life).is_none())
}

#[cfg(test)]
mod tests {
    use s3stream::metadata::Commit;
    use uuid::Uuid;

    use super::*;
    use crate::failover::tests::History;
    use crate::metadata::command::{Command, NewTopic};

    fn topic(by: Incarnation, leader: u32) -> Command {
        let topic = NewTopic {
            id: Uuid::from_u128(1),
            name: "t".into(),
            partitions: 1,
            configs: Vec::new(),
            leaders: vec![leader],
        };
        Command::CreateTopics { by, topics: vec![topic] }
    }

    fn recovered(history: &mut History, by: Incarnation, of: Incarnation) {
        let from = history.image.life(of).unwrap().trim;
        let commit = Commit { owner: of, objects: Vec::new(), wal_trim: from };
        history.apply(Command::CommitRecovered { by, of, from, commit, last: true });
    }

    #[test]
    fn what_fell_between_two_looks_is_looked_for() {
        let (mut history, lives) = History::serving(3, "object:");
        history.apply(topic(lives[0], 1));
        let before = holders(&history.image);
        assert_eq!(before, BTreeSet::from([lives[0]]));
        history.apply(Command::Fence { by: lives[1], of: lives[0] });
        recovered(&mut history, lives[1], lives[0]);
        assert!(any_is_forgotten(&before, &history.image));
        assert!(!any_is_forgotten(&holders(&history.image), &history.image), "once");
    }

    #[test]
    fn nothing_is_looked_for_while_it_may_come_and_when_there_was_nothing() {
        let (mut history, lives) = History::serving(3, "object:");
        history.apply(topic(lives[0], 1));
        let before = holders(&history.image);
        history.apply(Command::CloseBroker { by: lives[2] });
        history.apply(Command::Fence { by: lives[1], of: lives[0] });
        assert!(!any_is_forgotten(&before, &history.image));
        let fenced = holders(&history.image);
        recovered(&mut history, lives[1], lives[0]);
        assert!(any_is_forgotten(&fenced, &history.image));
    }
}
