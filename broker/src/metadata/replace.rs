//! Compacted objects take the place of the parts that they were made of.
//!
//! ```text
//!   stream   ├─ 0..7 in a ─┼─ 7..9 in b ─┼─ 9..20 in c ─┼─ 20..22 in d ─┤
//!   + x: 0..20, made of {a, b, c}
//!            ├───────────── 0..20 in x ──────────────────┼─ 20..22 in d ─┤
//! ```
//!
//! A part is accepted only if it covers whole parts of its stream (I1 stays true), all of which lie in the objects that
//! it was made of: if somebody else replaced one of them meanwhile, what was read is out of date. What retention did
//! meanwhile is no conflict: a part begins at its stream's start if that has moved into it, and is dropped if it lies
//! below, or if its stream was deleted. An object of which nothing is left goes to the garbage (I2).

use s3stream::ObjectId;
use s3stream::metadata::{Replacement, StreamPart};
use wal::Incarnation;

use super::apply::{At, Outcome, Rejection, conflict, invalid};
use super::image::{Image, Part};

impl Image {
    pub(super) fn replace_parts(
        &mut self,
        at: At,
        by: Incarnation,
        replacements: &[Replacement],
    ) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        if replacements.is_empty() {
            return Err(invalid("a replacement by nothing"));
        }
        if replacements.iter().all(|replacement| self.is_named_as(&replacement.object)) {
            // A retry after an outcome that was not known (F36).
            return Ok(Outcome::Done);
        }
        for replacement in replacements {
            self.replace(at, by, replacement)?;
        }
        Ok(Outcome::Done)
    }

    fn replace(&mut self, at: At, by: Incarnation, replacement: &Replacement) -> Result<(), Rejection> {
        let Replacement { object, sources } = replacement;
        let id = object.id;
        if !matches!(id, ObjectId::Data { owner, .. } if owner == by) {
            return Err(invalid(format!("{id:?} is not an object of {by:?}")));
        }
        if self.objects.contains_key(&id) || self.garbage.contains_key(&id) || sources.contains(&id) {
            return Err(invalid(format!("{id:?} was committed before, or is its own source")));
        }
        self.check_low_water(id)?;
        if object.parts.is_empty() {
            return Err(invalid(format!("{id:?} holds nothing")));
        }
        let mut live = 0;
        let mut released = Vec::new();
        // Looked into for each part that is replaced: thousands, of hundreds of objects.
        let mut sources = sources.clone();
        sources.sort_unstable();
        for part in &object.parts {
            live += u32::from(self.replace_part(id, part, &sources, &mut released)?);
        }
        self.name_object(at, object, live);
        released.into_iter().for_each(|source| self.release_part(at, source));
        Ok(())
    }

    /// `false` if nothing of the part is left to be replaced. `sources` ascend.
    fn replace_part(
        &mut self,
        id: ObjectId,
        part: &StreamPart,
        sources: &[ObjectId],
        released: &mut Vec<ObjectId>,
    ) -> Result<bool, Rejection> {
        if part.base >= part.end {
            return Err(invalid(format!("an empty part of stream {}", part.stream.0)));
        }
        let Some(stream) = self.streams.get_mut(&part.stream) else {
            return self.was_deleted(part.stream).map(|()| false);
        };
        if part.end <= stream.start {
            return Ok(false);
        }
        let base = part.base.max(stream.start);
        let mut next = base;
        let mut committed_ms = i64::MIN;
        while next < part.end {
            let old = stream.parts.get(&next).copied();
            let Some(old) =
                old.filter(|old| old.end <= part.end && sources.binary_search(&old.object).is_ok())
            else {
                return Err(conflict(format!(
                    "{}..{} of stream {} does not replace whole parts of the objects it was made of: see {next}",
                    part.base, part.end, part.stream.0
                )));
            };
            stream.parts.remove_mut(&next);
            released.push(old.object);
            committed_ms = committed_ms.max(old.committed_ms);
            next = old.end;
        }
        let StreamPart { end, max_timestamp, bytes, .. } = *part;
        stream.parts.insert_mut(base, Part { end, object: id, max_timestamp, bytes, committed_ms });
        Ok(true)
    }
}
