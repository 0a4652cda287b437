//! Since when challenges stand (N4 of [`members`](super::members)), as one process sees it.

use std::collections::BTreeMap;

use wal::Incarnation;

use super::image::Image;

/// The challenges that stand as of the last look, and when each was first seen. No more than there are lives.
#[derive(Debug)]
pub struct Challenges<T> {
    /// By who is challenged: the entry, and when.
    seen: BTreeMap<Incarnation, (u64, T)>,
}

impl<T> Default for Challenges<T> {
    fn default() -> Challenges<T> {
        Challenges { seen: BTreeMap::new() }
    }
}

impl<T: Copy> Challenges<T> {
    /// Takes note of a state that was seen at `now`, or before. A challenge that comes after an answer is another one.
    pub fn look(&mut self, now: T, image: &Image) {
        let standing = image.lives().filter_map(|(of, life)| Some((of, life.challenged?)));
        let seen = standing.map(|(of, entry)| {
            let known = self.seen.get(&of).filter(|(known, _)| *known == entry);
            (of, known.copied().unwrap_or((entry, now)))
        });
        self.seen = seen.collect();
    }

    /// When the challenge of `of` that stands was first seen.
    pub fn since(&self, of: Incarnation) -> Option<T> {
        self.seen.get(&of).map(|(_, since)| *since)
    }
}
