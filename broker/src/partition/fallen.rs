//! Partitions that fell to this broker from one that died are opened at once, before anybody asks: what that takes of the
//! store is then done while clients learn of their new leader.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use wal::Incarnation;

use super::Partitions;
use crate::metadata::image::{Image, Topic};

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
        let mut dead = fenced(&self.metadata.image());
        loop {
            if changed.changed().await.is_err() {
                // The metadata ended, and says so itself.
                return std::future::pending().await;
            }
            let image = self.metadata.image();
            let now = fenced(&image);
            // To look for what is ours costs a look at everything, so only when a recovery has come to its end.
            if dead.is_subset(&now) {
                dead = now;
                continue;
            }
            dead = now;
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

fn fenced(image: &Image) -> BTreeSet<Incarnation> {
    image.unrecovered().map(|(incarnation, _)| incarnation).collect()
}
