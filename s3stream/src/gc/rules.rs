//! What may be deleted: a pure function of an object's name and what one state of the metadata says about it.

use crate::ObjectId;

/// What one state of the metadata says about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub naming: Naming,
    /// The incarnation that the object's key names.
    pub owner: Owner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// At least one part of a stream lies in it.
    Named,
    /// It was named, and is no more.
    Garbage,
    /// The metadata knows nothing of it.
    Unnamed,
}

/// Where the writer of an object stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Registered after this state, if ever.
    Unheard,
    /// No command of it is accepted any more, and its write-ahead log has been recovered or was empty.
    Ended,
    /// It lives, or its recovery is not complete.
    Listed {
        fenced: bool,
        /// No object of it with a lower counter will be named any more that is not named now.
        low_water: u64,
        /// Its trim point, if its write-ahead log is one of slots.
        slots_below: Option<u64>,
    },
}

/// What to do with an object that a listing has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is dead, and will always be (G6).
    Delete(Dead),
    /// The same, unless its bytes are a seal's (G5).
    DeleteUnlessSeal(Dead),
    Keep(Alive),
}

/// Why an object is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// Its writer has ended without naming it.
    WriterEnded,
    /// Its writer has published that it will not be named.
    BelowLowWater,
    /// Everything of value in it is in other objects.
    BelowTrim,
}

/// Why an object is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    Named,
    /// Condemned already: it goes after the delay.
    Garbage,
    /// Its writer, or the recovery of its writer, may name it yet.
    MayBeNamed,
    /// A slot of a living writer, which deletes its own.
    WritersOwn,
    /// Its writer registered after the state that was asked.
    WriterUnheard,
}

impl Dead {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Dead::WriterEnded => "its writer has ended without naming it",
            Dead::BelowLowWater => "its writer has given it up",
            Dead::BelowTrim => "a slot below the trim point",
        }
    }
}

impl Alive {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Alive::Named => "named",
            Alive::Garbage => "garbage, deleted after the delay",
            Alive::MayBeNamed => "its writer may name it yet",
            Alive::WritersOwn => "a slot of a living writer",
            Alive::WriterUnheard => "its writer registered after this state",
        }
    }
}

/// G1 to G4.
pub fn judge(id: ObjectId, standing: &Standing) -> Verdict {
    match standing.naming {
        Naming::Named if host::planted("collect-named-slots") && matches!(id, ObjectId::Slot { .. }) => {
            return Verdict::DeleteUnlessSeal(Dead::BelowTrim);
        }
        Naming::Named => return Verdict::Keep(Alive::Named),
        Naming::Garbage => return Verdict::Keep(Alive::Garbage),
        Naming::Unnamed => {}
    }
    match (id, standing.owner) {
        (_, Owner::Unheard) => Verdict::Keep(Alive::WriterUnheard),
        (ObjectId::Data { .. }, Owner::Ended) => Verdict::Delete(Dead::WriterEnded),
        (ObjectId::Slot { .. }, Owner::Ended) => Verdict::DeleteUnlessSeal(Dead::WriterEnded),
        (ObjectId::Data { counter, .. }, Owner::Listed { low_water, .. }) if counter < low_water => {
            Verdict::Delete(Dead::BelowLowWater)
        }
        (ObjectId::Slot { .. }, Owner::Listed { fenced: false, .. }) => Verdict::Keep(Alive::WritersOwn),
        (ObjectId::Slot { slot, .. }, Owner::Listed { slots_below: Some(trim), .. }) if slot < trim => {
            Verdict::DeleteUnlessSeal(Dead::BelowTrim)
        }
        (_, Owner::Listed { .. }) if host::planted("collect-unnamed") => {
            Verdict::DeleteUnlessSeal(Dead::WriterEnded)
        }
        (_, Owner::Listed { .. }) => Verdict::Keep(Alive::MayBeNamed),
    }
}

#[cfg(test)]
mod tests {
    use wal::Incarnation;

    use super::*;

    const OWNER: Incarnation = Incarnation { broker: 1, epoch: 5 };
    const DATA: ObjectId = ObjectId::Data { owner: OWNER, counter: 7 };
    const SLOT: ObjectId = ObjectId::Slot { owner: OWNER, slot: 7 };

    fn listed(fenced: bool, low_water: u64, slots_below: Option<u64>) -> Owner {
        Owner::Listed { fenced, low_water, slots_below }
    }

    #[test]
    fn what_the_metadata_knows_is_kept_whatever_its_owner() {
        for owner in [Owner::Unheard, Owner::Ended, listed(false, 99, Some(99)), listed(true, 99, Some(99))] {
            for id in [DATA, SLOT] {
                for (naming, alive) in [(Naming::Named, Alive::Named), (Naming::Garbage, Alive::Garbage)] {
                    assert_eq!(judge(id, &Standing { naming, owner }), Verdict::Keep(alive));
                }
            }
        }
    }

    #[test]
    fn the_unnamed_goes_by_where_its_owner_stands() {
        use Verdict::{Delete, DeleteUnlessSeal, Keep};
        for (id, owner, expected) in [
            (DATA, Owner::Unheard, Keep(Alive::WriterUnheard)),
            (SLOT, Owner::Unheard, Keep(Alive::WriterUnheard)),
            (DATA, Owner::Ended, Delete(Dead::WriterEnded)),
            (SLOT, Owner::Ended, DeleteUnlessSeal(Dead::WriterEnded)),
            (DATA, listed(false, 7, Some(99)), Keep(Alive::MayBeNamed)),
            (DATA, listed(false, 8, None), Delete(Dead::BelowLowWater)),
            (DATA, listed(true, 7, Some(99)), Keep(Alive::MayBeNamed)),
            (DATA, listed(true, 8, None), Delete(Dead::BelowLowWater)),
            (SLOT, listed(false, 99, Some(99)), Keep(Alive::WritersOwn)),
            (SLOT, listed(true, 99, Some(7)), Keep(Alive::MayBeNamed)),
            (SLOT, listed(true, 0, Some(8)), DeleteUnlessSeal(Dead::BelowTrim)),
            // A position in a volume is no number of a slot.
            (SLOT, listed(true, 0, None), Keep(Alive::MayBeNamed)),
        ] {
            let standing = Standing { naming: Naming::Unnamed, owner };
            assert_eq!(judge(id, &standing), expected, "{id:?} {owner:?}");
        }
    }
}
