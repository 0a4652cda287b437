//! A device with its superblocks: reading, planning, refusing.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::BLOCK_BYTES_MAX;
use super::aligned::AlignedBuffer;
use super::device::Device;
use super::reservation;
use super::superblock::{Pair, RING_OFFSET, SLOT_BYTES, SLOT_OFFSETS, Slot, Superblock, slot_offset};
use crate::{Error, Uri};

/// The least that a volume must have for its ring.
const RING_BYTES_MIN: u64 = 1 << 20;
/// How much of a device's front and back must be zero before it counts as blank: partition tables, file systems, RAID and
/// LVM labels all leave something there.
const BLANK_PROBE_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub device: Arc<dyn Device>,
    pub uri: Uri,
    pub cluster: Uuid,
}

impl Volume {
    /// The superblock, or `None` where the volume is blank.
    ///
    /// # Errors
    /// [`Error::Refused`] for what is not this cluster's, [`Error::Corrupt`] for what was, [`Error::Failed`] where it
    /// cannot be read.
    pub(super) fn superblock(&self) -> Result<Option<Superblock>, Error> {
        if self.device.size_bytes() < RING_OFFSET + RING_BYTES_MIN {
            return Err(self.refuse(format!(
                "holds {} bytes; a volume needs {} at least",
                self.device.size_bytes(),
                RING_OFFSET + RING_BYTES_MIN
            )));
        }
        let wipe = "if nothing on it is needed any more, wipe it (for a file: delete it; for a device: `blkdiscard -z` it), \
                    then start again";
        let superblock = match Pair::of(self.slot(0)?, self.slot(1)?) {
            Pair::Blank => return self.check_blank(wipe).map(|()| None),
            Pair::Foreign => {
                return Err(self.refuse(format!("holds something that Ottla did not write; {wipe}")));
            }
            Pair::Version(version) => {
                return Err(self.refuse(format!(
                    "has format version {version}, which this build does not know; use the build that wrote it"
                )));
            }
            Pair::Damaged => return Err(self.corrupt(0, "both superblocks are damaged")),
            Pair::Valid(superblock) => superblock,
        };
        if superblock.cluster != self.cluster {
            return Err(self.refuse(format!(
                "belongs to the cluster {}, this one is {}; name another volume, or {wipe}",
                superblock.cluster, self.cluster
            )));
        }
        if (superblock.block_bytes as usize) < self.device.block_bytes() {
            return Err(self.refuse(format!(
                "was formatted with blocks of {} bytes, but its device now wants {}; move it back",
                superblock.block_bytes,
                self.device.block_bytes()
            )));
        }
        if RING_OFFSET + superblock.ring_bytes > self.device.size_bytes() {
            let detail = format!(
                "the volume was formatted with {} bytes, only {} are left",
                RING_OFFSET + superblock.ring_bytes,
                self.device.size_bytes()
            );
            return Err(self.corrupt(0, &detail));
        }
        Ok(Some(superblock))
    }

    fn slot(&self, index: usize) -> Result<Slot, Error> {
        Ok(Slot::decode(&self.read(SLOT_OFFSETS[index], BLOCK_BYTES_MAX)?[..SLOT_BYTES]))
    }

    /// Blank superblocks on a device full of something else are somebody else's device.
    fn check_blank(&self, wipe: &str) -> Result<(), Error> {
        let block = self.device.block_bytes() as u64;
        let size = self.device.size_bytes() / block * block;
        for offset in [0, size - BLANK_PROBE_BYTES as u64] {
            if self.read(offset, BLANK_PROBE_BYTES)?.iter().any(|byte| *byte != 0) {
                return Err(self.refuse(format!("is not blank, and Ottla did not write it; {wipe}")));
            }
        }
        Ok(())
    }

    /// What a blank volume will be: the cluster's, without an owner. Nothing is written yet (V9).
    pub(super) fn plan(&self, capacity: Option<u64>) -> Result<Superblock, Error> {
        let block = self.device.block_bytes() as u64;
        let size = capacity.unwrap_or(u64::MAX).min(self.device.size_bytes());
        if size < RING_OFFSET + RING_BYTES_MIN {
            let least = RING_OFFSET + RING_BYTES_MIN;
            return Err(self.refuse(format!("has a capacity of {size} bytes; it needs {least} at least")));
        }
        Ok(Superblock {
            block_bytes: block as u32,
            cluster: self.cluster,
            volume: Uuid::new_v4(),
            ring_bytes: (size - RING_OFFSET) / block * block,
            sequence: 0,
            owner: None,
            released: false,
            trim: 0,
            durable: 0,
            reach: 0,
        })
    }

    /// Durable when it returns. An error is final: the log has failed.
    pub(super) async fn write_superblock(&self, superblock: &Superblock) -> Result<(), Error> {
        let written = self.write(&encoded(superblock), slot_offset(superblock.sequence)).await;
        written.map_err(|error| match reservation::is_refusal(&error) {
            true => reservation::taken(),
            false => Error::Failed(format!("could not write a superblock of {}: {error}", self.uri)),
        })
    }

    /// Durable when it resolves. Blocks, but on a simulated device.
    pub(super) async fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(feature = "simulated")]
        if let Some(written) = self.device.write_simulated(bytes, offset) {
            return written.await;
        }
        self.device.write_durable(bytes, offset)
    }

    /// Reads `bytes` at `offset` of the device, both multiples of its block. An error is never taken for an end.
    pub(super) fn read(&self, offset: u64, bytes: usize) -> Result<Bytes, Error> {
        let mut buffer = AlignedBuffer::zeroed(bytes);
        self.device.read(&mut buffer, offset).map_err(|error| {
            Error::Failed(format!("could not read {bytes} bytes at {offset} of {}: {error}", self.uri))
        })?;
        Ok(Bytes::from_owner(buffer))
    }

    pub(super) fn refuse(&self, reason: String) -> Error {
        Error::Refused(format!("the write-ahead log {} {reason}", self.uri))
    }

    pub(super) fn corrupt(&self, position: u64, detail: &str) -> Error {
        Error::Corrupt { location: format!("{}, position {position}", self.uri), detail: detail.to_owned() }
    }
}

fn encoded(superblock: &Superblock) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(superblock.block_bytes as usize);
    buffer[..SLOT_BYTES].copy_from_slice(&superblock.encode());
    buffer
}
