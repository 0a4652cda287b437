//! The keys of slots: `wal/<broker>/<epoch>/<slot>`, decimal and zero-padded, so that a listing is in slot order.
//!
//! ```text
//!   wal/0000000003/00000000000000000042/00000000000000000007
//!       broker     epoch                slot
//! ```

use object_store::path::Path;

use crate::Incarnation;

/// Where the slot number `slot` of `owner` lies, relative to the cluster's prefix.
pub fn slot_key(owner: Incarnation, slot: u64) -> Path {
    Path::from(format!("wal/{:010}/{:020}/{slot:020}", owner.broker, owner.epoch))
}

/// The inverse of [`slot_key`]: `None` for any key that [`slot_key`] does not make.
pub fn parse_slot_key(key: &Path) -> Option<(Incarnation, u64)> {
    let mut parts = key.as_ref().split('/');
    if parts.next()? != "wal" {
        return None;
    }
    let broker = parts.next()?.parse().ok()?;
    let epoch = parts.next()?.parse().ok()?;
    let slot = parts.next()?.parse().ok()?;
    let owner = Incarnation { broker, epoch };
    // Numbers have several spellings; a key has one.
    (slot_key(owner, slot) == *key).then_some((owner, slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fixed_sort_by_slot_and_parse_back() {
        let owner = Incarnation { broker: 3, epoch: 42 };
        assert_eq!(slot_key(owner, 7).as_ref(), "wal/0000000003/00000000000000000042/00000000000000000007");
        assert!(slot_key(owner, 9) < slot_key(owner, 10));
        for slot in [0, 7, u64::MAX] {
            assert_eq!(parse_slot_key(&slot_key(owner, slot)), Some((owner, slot)));
        }
    }

    #[test]
    fn foreign_keys_are_not_slots() {
        for key in [
            "wal/3/42/7",
            "wal",
            "data/00/x",
            "wal/0000000003/00000000000000000042",
            "wal/+000000003/00000000000000000042/00000000000000000007",
            "wal/0000000003/00000000000000000042/00000000000000000007/x",
        ] {
            assert_eq!(parse_slot_key(&Path::from(key)), None, "{key}");
        }
    }
}
