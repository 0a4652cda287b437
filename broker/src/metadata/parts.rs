//! A stream's parts in data objects, by base offset. Their bytes are counted along: what a partition holds is asked for
//! much more often than it changes, and must not cost a walk.

use std::ops::Deref;

use s3stream::ObjectId;

use super::image::Map;

/// The part `[base, end)` of a stream, in an object. `base` is its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub end: u64,
    pub object: ObjectId,
    /// -1 if none. As committed: a clip does not change it.
    pub max_timestamp: i64,
    /// As committed: a clip does not change it.
    pub bytes: u64,
    /// Wall clock of the entry that committed it, milliseconds; that of its youngest source where parts were merged.
    /// It stands in for the timestamp where no record has one.
    pub committed_ms: i64,
}

/// See the module's page. Clones in O(1).
#[derive(Clone, Debug)]
pub struct Parts {
    by_base: Map<u64, Part>,
    bytes: u64,
}

impl Parts {
    pub(super) fn new() -> Parts {
        Parts { by_base: Map::new_sync(), bytes: 0 }
    }

    /// Bytes of all parts. What a clip cut off counts until its part goes, as it is stored until then.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn insert_mut(&mut self, base: u64, part: Part) {
        self.remove_mut(&base);
        // What nonsense adds it takes away again.
        self.bytes = self.bytes.wrapping_add(part.bytes);
        self.by_base.insert_mut(base, part);
    }

    pub(super) fn remove_mut(&mut self, base: &u64) -> bool {
        let Some(part) = self.by_base.get(base) else { return false };
        self.bytes = self.bytes.wrapping_sub(part.bytes);
        self.by_base.remove_mut(base)
    }
}

impl Deref for Parts {
    type Target = Map<u64, Part>;

    fn deref(&self) -> &Map<u64, Part> {
        &self.by_base
    }
}

impl<'a> IntoIterator for &'a Parts {
    type Item = (&'a u64, &'a Part);
    type IntoIter = <&'a Map<u64, Part> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&self.by_base).into_iter()
    }
}
