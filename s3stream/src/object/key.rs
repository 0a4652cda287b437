//! The keys of objects, relative to the cluster's prefix.
//!
//! ```text
//!   data/b7/0000000003-00000000000000000042-00000000000000000007     broker, epoch, counter, decimal
//!        └── low byte of the CRC-32C of the three, little endian: spreads keys over a store's partitions
//!   wal/0000000003/00000000000000000042/00000000000000000007         see `wal::object::slot_key`
//! ```

use object_store::path::Path;
use wal::Incarnation;
use wal::object::{parse_slot_key, slot_key};

use crate::ObjectId;

/// Where an object lies.
pub fn object_key(id: ObjectId) -> Path {
    match id {
        ObjectId::Data { owner, counter } => {
            let mut name = [0; 20];
            name[..4].copy_from_slice(&owner.broker.to_le_bytes());
            name[4..12].copy_from_slice(&owner.epoch.to_le_bytes());
            name[12..].copy_from_slice(&counter.to_le_bytes());
            let spread = crc_fast::crc32_iscsi(&name) & 0xff;
            Path::from(format!("data/{spread:02x}/{:010}-{:020}-{counter:020}", owner.broker, owner.epoch))
        }
        ObjectId::Slot { owner, slot } => slot_key(owner, slot),
    }
}

/// The inverse of [`object_key`]: `None` for any key that it does not make.
pub fn parse_object_key(key: &Path) -> Option<ObjectId> {
    if let Some((owner, slot)) = parse_slot_key(key) {
        return Some(ObjectId::Slot { owner, slot });
    }
    let (_, name) = key.as_ref().strip_prefix("data/")?.split_once('/')?;
    let mut numbers = name.split('-');
    let broker = numbers.next()?.parse().ok()?;
    let epoch = numbers.next()?.parse().ok()?;
    let counter = numbers.next()?.parse().ok()?;
    let id = ObjectId::Data { owner: Incarnation { broker, epoch }, counter };
    (object_key(id) == *key).then_some(id)
}
