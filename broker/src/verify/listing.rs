//! The bucket's keys against the metadata's names, both ways.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStoreExt};
use s3stream::ObjectId;
use s3stream::gc::Naming;
use s3stream::gc::rules::{Alive, Verdict, judge};
use s3stream::object::{object_key, parse_object_key};
use tokio::time::timeout;
use wal::object::Seal;

use super::{Error, Orphan, ProblemKind, Progress, Run};
use crate::metadata::ImageRef;

/// Unnamed objects that are judged on one state together.
const PAGE_OBJECTS: usize = 1_000;
/// Objects of at most [`SEAL_BYTES_MAX`] that are read at once.
const SMALL_READS_MAX: usize = 16;
/// Larger slots are no seals.
const SEAL_BYTES_MAX: u64 = 4 << 10;

impl Run {
    pub(super) async fn compare_with_listing(&mut self, progress: &dyn Progress) -> Result<(), Error> {
        let image = self.observer.image();
        // What was not listed yet, and its size.
        let mut expected: HashMap<ObjectId, u64> =
            image.objects().map(|(id, object)| (id, object.size_bytes)).collect();
        let mut suspects: Vec<ObjectId> = Vec::new();
        let mut page: Vec<(ObjectId, u64)> = Vec::new();
        let mut listed = 0;
        let store = self.store.clone();
        let mut listing = store.list(None);
        loop {
            let item = timeout(self.options.request_timeout, listing.next()).await;
            let item = match item.map_err(|_| Error::Store("a listing takes too long".to_owned()))? {
                None => break,
                Some(item) => item.map_err(|error| Error::Store(error.to_string()))?,
            };
            listed += 1;
            progress.listed(listed);
            let Some(id) = parse_object_key(&item.location) else {
                self.other_key(&item);
                continue;
            };
            match expected.remove(&id) {
                Some(size) if size == item.size => self.report.named.add(size),
                Some(_) => suspects.push(id),
                None => page.push((id, item.size)),
            }
            if page.len() == PAGE_OBJECTS {
                self.judge_page(std::mem::take(&mut page)).await?;
            }
        }
        self.judge_page(page).await?;
        suspects.extend(expected.into_keys());
        suspects.sort();
        self.look_again(&suspects).await
    }

    /// The log's own objects, and what is not ours.
    fn other_key(&mut self, item: &ObjectMeta) {
        let key = item.location.as_ref();
        if key.starts_with("meta/") {
            self.report.metadata_log.add(item.size);
            return;
        }
        self.report.foreign.add(item.size);
        let reason = if key.starts_with("probe/") {
            "left by an interrupted probe of the store; it may be deleted by hand".to_owned()
        } else {
            "not a key that Ottla makes".to_owned()
        };
        self.unnamed(Orphan { key: key.to_owned(), size_bytes: item.size, reason, collectable: false });
    }

    /// Objects that the first state did not name.
    async fn judge_page(&mut self, page: Vec<(ObjectId, u64)>) -> Result<(), Error> {
        if page.is_empty() {
            return Ok(());
        }
        let image = self.observer.refresh().await?;
        let seals = self.seals(&image, &page).await?;
        for (id, size) in page {
            let standing = image.standing(image.number(), id);
            let verdict = judge(id, &standing);
            if standing.naming == Naming::Named {
                self.named_since(&image, id, size);
                continue;
            }
            if seals.contains(&id) {
                self.report.seals.add(size);
                continue;
            }
            let (reason, collectable) = match verdict {
                Verdict::Delete(dead) | Verdict::DeleteUnlessSeal(dead) => {
                    self.report.orphans.add(size);
                    (dead.reason(), true)
                }
                Verdict::Keep(Alive::Garbage) => {
                    self.report.garbage.add(size);
                    (Alive::Garbage.reason(), true)
                }
                Verdict::Keep(alive) => {
                    self.report.pending.add(size);
                    (alive.reason(), false)
                }
            };
            let key = object_key(id).to_string();
            self.unnamed(Orphan { key, size_bytes: size, reason: reason.to_owned(), collectable });
        }
        Ok(())
    }

    /// Committed while the bucket was being listed.
    fn named_since(&mut self, image: &ImageRef, id: ObjectId, size: u64) {
        let expected = image.object(id).expect("it is named").size_bytes;
        if expected == size {
            self.report.named.add(size);
        } else {
            self.wrong_size(id, size, expected);
        }
    }

    fn wrong_size(&mut self, id: ObjectId, size: u64, expected: u64) {
        let detail = format!("{size} bytes instead of {expected}");
        self.problem(ProblemKind::WrongSize, object_key(id).to_string(), detail);
    }

    /// Named objects that were not listed, or with another size.
    async fn look_again(&mut self, suspects: &[ObjectId]) -> Result<(), Error> {
        if suspects.is_empty() {
            return Ok(());
        }
        for &id in suspects {
            let size = self.size(&object_key(id)).await?;
            // After the look: what is not named any more may be gone.
            let image = self.observer.refresh().await?;
            let Some(expected) = image.object(id).map(|object| object.size_bytes) else { continue };
            match size {
                Some(size) if size == expected => self.report.named.add(size),
                Some(size) => self.wrong_size(id, size, expected),
                None => {
                    let detail = format!("{expected} bytes, named by {}", self.named_by(&image, id));
                    self.problem(ProblemKind::Missing, object_key(id).to_string(), detail);
                }
            }
        }
        Ok(())
    }

    /// The partition that an operator must be told of.
    pub(super) fn named_by(&self, image: &ImageRef, id: ObjectId) -> String {
        for topic in image.topics() {
            for (partition, info) in topic.partitions.iter().enumerate() {
                for (stream, what) in [(info.log, "log"), (info.checkpoint, "checkpoints")] {
                    let part = image.parts(stream).find(|part| part.object == id);
                    if let Some(part) = part {
                        return format!(
                            "{}-{partition} ({what}, offsets {} to {})",
                            topic.name, part.part.base, part.part.end
                        );
                    }
                }
            }
        }
        "no topic".to_owned()
    }

    /// `None` if it is not there.
    async fn size(&self, key: &Path) -> Result<Option<u64>, Error> {
        let mut last = String::new();
        for _ in 0..self.options.attempts_max.max(1) {
            match timeout(self.options.request_timeout, self.store.head(key)).await {
                Ok(Ok(meta)) => return Ok(Some(meta.size)),
                Ok(Err(object_store::Error::NotFound { .. })) => return Ok(None),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = format!("{key}: no answer in time"),
            }
        }
        Err(Error::Store(last))
    }

    /// Which of these are seals. The bucket of a cluster that has failed over holds thousands that could be.
    async fn seals(&self, image: &ImageRef, page: &[(ObjectId, u64)]) -> Result<HashSet<ObjectId>, Error> {
        let candidates = page.iter().filter(|(id, size)| {
            let standing = image.standing(image.number(), *id);
            // A log is sealed only once its writer is fenced.
            matches!(id, ObjectId::Slot { .. })
                && *size <= SEAL_BYTES_MAX
                && standing.naming == Naming::Unnamed
                && judge(*id, &standing) != Verdict::Keep(Alive::WritersOwn)
        });
        let looks = futures::stream::iter(candidates.map(|(id, _)| *id))
            .map(|id| async move { Ok(self.is_seal(id).await?.then_some(id)) })
            .buffer_unordered(SMALL_READS_MAX);
        looks.try_filter_map(async |seal| Ok(seal)).try_collect().await
    }

    async fn is_seal(&self, id: ObjectId) -> Result<bool, Error> {
        let key = object_key(id);
        let read = async { self.store.get_opts(&key, GetOptions::default()).await?.bytes().await };
        match timeout(self.options.request_timeout, read).await {
            Ok(Ok(bytes)) => Ok(Seal::decode(&bytes).is_some()),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(false),
            Ok(Err(error)) => Err(Error::Store(error.to_string())),
            Err(_) => Err(Error::Store(format!("{key}: no answer in time"))),
        }
    }
}
