//! A look at a volume, for people: both superblocks, and the frames of its last owner. Only reads, and takes no lock, so
//! it works on the volume of a living broker too; what it shows then is of one moment after the other.

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::BLOCK_BYTES_MAX;
use super::device::{Access, Device, FileDevice};
use super::recovery::Scan;
use super::superblock::{Pair, SLOT_BYTES, SLOT_OFFSETS, Slot, Superblock};
use super::volume::Volume;
use crate::{Error, Incarnation, Recovered, Uri};

/// What a superblock's place holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Blank,
    Valid(Summary),
    /// Ours by its magic, of a version that this build does not know.
    Version(u32),
    /// Ours by its magic, and damaged.
    Damaged,
    Foreign,
}

/// What a superblock says. Positions are bytes and grow for ever within an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub cluster: Uuid,
    pub volume: Uuid,
    pub block_bytes: u32,
    pub ring_bytes: u64,
    /// Of two valid superblocks the one with the higher sequence number counts.
    pub sequence: u64,
    pub owner: Option<Incarnation>,
    /// Everything below was given up.
    pub trim: u64,
    /// Everything below was durable when this was written.
    pub durable: u64,
}

/// A volume that was opened to look at it.
#[derive(Debug)]
pub struct Inspection {
    pub size_bytes: u64,
    pub superblocks: [Found; 2],
    /// Of the superblocks the one that counts.
    pub current: Option<Summary>,
    scan: Option<Scan>,
}

impl Inspection {
    /// Opens the volume at `path` and reads its superblocks. Blocks.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not there or too small for superblocks, [`Error::Failed`] if it cannot be read.
    pub fn open(path: &Path) -> Result<Inspection, Error> {
        let device = Arc::new(FileDevice::open(path, Access::Read)?);
        let size_bytes = device.size_bytes();
        let uri = Uri(format!("block://{}", path.display()));
        let mut volume = Volume { device, uri, cluster: Uuid::nil() };
        if size_bytes < SLOT_OFFSETS[1] + BLOCK_BYTES_MAX as u64 {
            return Err(volume.refuse(format!("holds only {size_bytes} bytes")));
        }
        let mut slots = [Slot::Blank, Slot::Blank];
        for (slot, offset) in slots.iter_mut().zip(SLOT_OFFSETS) {
            *slot = Slot::decode(&volume.read(offset, BLOCK_BYTES_MAX)?[..SLOT_BYTES]);
        }
        let current = match Pair::of(slots[0], slots[1]) {
            Pair::Valid(superblock) => Some(superblock),
            _ => None,
        };
        let scan = current.and_then(|superblock| {
            volume.cluster = superblock.cluster;
            Some(Scan::new(volume, superblock, superblock.owner?, superblock.trim))
        });
        let superblocks = slots.map(Found::from);
        Ok(Inspection { size_bytes, superblocks, current: current.map(Summary::from), scan })
    }

    /// The next frame of the owner's log, from the trim point on; `None` at its end. Blocks.
    ///
    /// # Errors
    /// As a recovery's: [`Error::Corrupt`] where something that was durable is damaged. On the volume of a living broker
    /// that may also be a frame that was overwritten meanwhile.
    pub fn next_frame(&mut self) -> Result<Option<Recovered>, Error> {
        match &mut self.scan {
            Some(scan) => scan.next(),
            None => Ok(None),
        }
    }

    /// Where the next frame is expected: at the end, the end.
    pub fn position(&self) -> Option<u64> {
        self.scan.as_ref().map(Scan::position)
    }
}

impl From<Superblock> for Summary {
    fn from(superblock: Superblock) -> Summary {
        let Superblock { block_bytes, cluster, volume, ring_bytes, sequence, owner, trim, durable, .. } =
            superblock;
        Summary { cluster, volume, block_bytes, ring_bytes, sequence, owner, trim, durable }
    }
}

impl From<Slot> for Found {
    fn from(slot: Slot) -> Found {
        match slot {
            Slot::Blank => Found::Blank,
            Slot::Valid(superblock) => Found::Valid(superblock.into()),
            Slot::Version(version) => Found::Version(version),
            Slot::Damaged => Found::Damaged,
            Slot::Foreign => Found::Foreign,
        }
    }
}
