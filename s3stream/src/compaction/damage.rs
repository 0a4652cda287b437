//! What could not be read, and when to try it again. Pure.
//!
//! A damaged object, or one that the store does not give away now, holds up only its own parts (C6). The operator is told
//! once, not at each attempt: whoever reads the records is told by the read. Of more damage than may be remembered the rest is found again and again: at the pace of
//! what failed, not of what was learned.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Options;
use super::job::Damaged;
use crate::metadata::Located;
use crate::object::object_key;
use crate::{ObjectId, StreamId};

#[derive(Debug)]
pub(super) struct Damage {
    known: HashMap<Place, Known>,
    max: usize,
    pause_min: Duration,
    pause_max: Duration,
    /// That there is more than may be remembered was said.
    overflow_told: bool,
}

/// An object as a whole, or what it has of one stream.
type Place = (ObjectId, Option<StreamId>);

/// Why a place is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Not before somebody repaired it.
    Broken,
    /// The store refuses it, or does not answer: it may pass by itself.
    Unavailable,
    /// Nothing of it is left to be moved.
    Empty,
}

#[derive(Debug)]
struct Known {
    why: Why,
    again: Instant,
    pause: Duration,
}

impl Damage {
    pub fn new(options: &Options) -> Damage {
        Damage {
            known: HashMap::new(),
            max: options.damaged_max,
            pause_min: options.retry_pause_min,
            pause_max: options.retry_pause_max,
            overflow_told: false,
        }
    }

    /// Whether this part is to be left alone for now.
    pub fn is_known(&self, now: Instant, located: &Located) -> bool {
        !self.known.is_empty()
            && [None, Some(located.part.stream)].into_iter().any(|stream| {
                self.known.get(&(located.object, stream)).is_some_and(|known| known.again > now)
            })
    }

    /// When to try what may pass by itself: the first such time that is after `now`.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let passing = self.known.values().filter(|known| known.why == Why::Unavailable && known.again > now);
        passing.map(|known| known.again).min()
    }

    /// Says whether it is remembered: otherwise the next attempt meets it again.
    pub fn note(&mut self, now: Instant, found: &Damaged) -> bool {
        let place = (found.object, found.stream);
        if let Some(known) = self.known.get_mut(&place) {
            known.pause = (known.pause * 2).min(self.pause_max);
            known.again = now + known.pause;
            if std::mem::replace(&mut known.why, found.why) != found.why {
                tell(found);
            }
            return true;
        }
        if self.known.len() >= self.max {
            // What nobody met for so long was repaired, or is gone.
            let (max, forgotten) = (self.pause_max, self.known.len());
            self.known.retain(|_, known| now.saturating_duration_since(known.again) < max);
            self.overflow_told &= self.known.len() == forgotten;
        }
        if self.known.len() >= self.max {
            if !std::mem::replace(&mut self.overflow_told, true) {
                tracing::error!(
                    remembered = self.max,
                    "more places are damaged than compaction remembers; it goes on slowly. Restore the bucket from a copy"
                );
            }
            return false;
        }
        tell(found);
        let known = Known { why: found.why, again: now + self.pause_min, pause: self.pause_min };
        self.known.insert(place, known);
        true
    }
}

fn tell(found: &Damaged) {
    let Damaged { why, object, stream, offset, ref detail } = *found;
    let (object, stream) = (object_key(object), stream.map(|stream| stream.0));
    match why {
        Why::Broken => tracing::error!(
            %object,
            stream,
            offset,
            detail,
            "acknowledged records cannot be compacted, since they cannot be read; restore the object from a copy of \
             the bucket"
        ),
        Why::Unavailable => tracing::warn!(
            %object,
            offset,
            detail,
            "an object cannot be read now and is not compacted; that will be tried again. If it stays so, look at the \
             store and at what its keys may read"
        ),
        Why::Empty => tracing::debug!(%object, stream, offset, detail, "nothing is left to be compacted"),
    }
}

#[cfg(test)]
mod tests {
    use wal::Incarnation;

    use super::*;
    use crate::metadata::StreamPart;

    fn located(counter: u64, stream: u64) -> Located {
        let object = ObjectId::Data { owner: Incarnation { broker: 1, epoch: 1 }, counter };
        let part = StreamPart { stream: StreamId(stream), base: 0, end: 1, max_timestamp: 0, bytes: 1 };
        Located { object, object_size_bytes: 200, part }
    }

    fn found(why: Why, object: ObjectId, stream: Option<u64>) -> Damaged {
        Damaged { why, object, stream: stream.map(StreamId), offset: 0, detail: String::new() }
    }

    #[test]
    fn what_may_pass_is_tried_again_by_itself_and_what_is_broken_is_not() {
        let seconds = Duration::from_secs;
        let mut damage = Damage::new(&Options { retry_pause_min: seconds(10), ..Options::default() });
        let start = Instant::now();
        assert_eq!(damage.next(start), None);
        assert!(damage.note(start, &found(Why::Broken, located(1, 7).object, None)));
        assert!(damage.note(start, &found(Why::Empty, located(2, 7).object, Some(7))));
        assert_eq!(damage.next(start), None);
        assert!(damage.note(start + seconds(5), &found(Why::Unavailable, located(3, 7).object, None)));
        assert!(damage.note(start + seconds(6), &found(Why::Unavailable, located(4, 7).object, None)));
        assert_eq!(damage.next(start), Some(start + seconds(15)));
        assert_eq!(damage.next(start + seconds(15)), Some(start + seconds(16)));
        assert_eq!(damage.next(start + seconds(16)), None);
        assert!(damage.note(start + seconds(20), &found(Why::Broken, located(3, 7).object, None)));
        assert_eq!(damage.next(start), Some(start + seconds(16)), "it turned out to be broken");
    }

    #[test]
    fn a_place_is_left_alone_for_longer_and_longer_and_the_bound_holds() {
        let seconds = Duration::from_secs;
        let options = Options {
            damaged_max: 2,
            retry_pause_min: seconds(10),
            retry_pause_max: seconds(30),
            ..Options::default()
        };
        let mut damage = Damage::new(&options);
        let (start, part) = (Instant::now(), located(1, 7));
        assert!(!damage.is_known(start, &part));
        let mut now = start;
        for pause in [10, 20, 30, 30] {
            assert!(damage.note(now, &found(Why::Broken, part.object, Some(7))));
            assert!(damage.is_known(now + seconds(pause - 1), &part));
            assert!(!damage.is_known(now, &located(1, 8)), "others of the object can be read");
            now += seconds(pause);
            assert!(!damage.is_known(now, &part));
        }
        assert!(damage.note(now, &found(Why::Broken, located(2, 0).object, None)));
        assert!(damage.is_known(now, &located(2, 9)), "the object as a whole");
        assert!(!damage.note(now, &found(Why::Broken, located(3, 0).object, None)), "there is no room");
        assert!(!damage.is_known(now, &located(3, 1)));
        assert!(damage.is_known(now, &located(2, 9)), "nothing is forgotten for it");
        // The first place was due at this time; nobody has met it since for the longest pause.
        now += seconds(30);
        assert!(damage.note(now, &found(Why::Broken, located(3, 0).object, None)));
        assert!(damage.is_known(now, &located(3, 1)));
        assert_eq!(damage.known.len(), 2);
    }
}
