//! Reading what a life left: frames from the trim point to the first hole (W5, B2).
//!
//! # Where the log ends
//!
//! A frame counts if its header and body have their CRCs, and volume, epoch, position and predecessor are the expected
//! ones. So a stale lap, an earlier life, a wiped volume and a torn write are all told from data. The first place
//! without such a frame is the end, unless it is *proved* that what stood there was durable, and so may have been
//! acknowledged:
//!
//! - the superblock's `durable` lies beyond it, or
//! - a later frame of the same life, within `reach`, was written when everything below a later position was durable.
//!
//! Then the log is corrupt, and recovery says so instead of losing what was acknowledged. Without proof it is a torn tail,
//! and frames behind it are writes that were under way and were never acknowledged.
//!
//! # While the owner still writes
//!
//! A fenced owner may write for as long as it does not know ([`Medium::recovers_early`](crate::Medium::recovers_early)). What is
//! yielded then does not change any more: no position is written twice in one life (V4) before it is trimmed (W6), and
//! the metadata takes no trim from the fenced. So a frame that is whole stays, and so does all that lies before it. The end means nothing
//! then: a write under way looks torn, and one that ends while its successors are read looks like damage. Each recovery reads
//! the device anew, so that one which begins when nothing is acknowledged any more sees all that was.
//!
//! # Retries, cancellation, crash
//!
//! Recovery only reads, so it may be dropped, run again and run by many. A read error ends it. At the end the superblock
//! is read again: if the volume has a new owner by now, what was read proves nothing.

use async_trait::async_trait;
use bytes::Bytes;

use super::frame::{HEADER_BYTES, Header, decode_records, frame_bytes};
use super::superblock::{RING_OFFSET, Superblock};
use super::volume::Volume;
use crate::{Error, Incarnation, Position, Record, Recovered, Recovery, Vacated};

/// How much is read at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// A recovery under way. The scan is away while a thread reads for it.
#[derive(Debug)]
pub(super) struct BlockRecovery {
    scan: Option<Box<Scan>>,
    finished: bool,
}

impl BlockRecovery {
    pub(super) fn new(scan: Scan) -> BlockRecovery {
        BlockRecovery { scan: Some(Box::new(scan)), finished: false }
    }
}

#[async_trait]
impl Recovery for BlockRecovery {
    async fn next(&mut self) -> Result<Option<Recovered>, Error> {
        if self.finished {
            return Ok(None);
        }
        let Some(mut scan) = self.scan.take() else {
            return Err(Error::Failed("this recovery has failed before; start it again".into()));
        };
        let read = host::work::blocking(move || scan.next().map(|next| (scan, next)));
        let (scan, next) =
            read.await.map_err(|error| Error::Failed(format!("a recovery died: {error}")))??;
        self.finished = next.is_none();
        self.scan = Some(scan);
        Ok(next)
    }

    fn finish(self: Box<Self>) -> Vacated {
        assert!(self.finished, "a recovery is finished only after its last record was read");
        Vacated::recovered()
    }
}

/// A walk through the ring.
#[derive(Debug)]
pub(super) struct Scan {
    volume: Volume,
    superblock: Superblock,
    previous: Incarnation,
    /// Where the next frame is expected.
    position: u64,
    /// Whether a frame was found yet.
    started: bool,
    /// What was read last, and the position of its first byte.
    chunk: (u64, Bytes),
}

impl Scan {
    pub(super) fn new(volume: Volume, superblock: Superblock, previous: Incarnation, from: u64) -> Scan {
        Scan { volume, superblock, previous, position: from, started: false, chunk: (0, Bytes::new()) }
    }

    fn block(&self) -> usize {
        self.superblock.block_bytes as usize
    }

    fn lap_left(&self, position: u64) -> u64 {
        self.superblock.ring_bytes - position % self.superblock.ring_bytes
    }

    /// Where the next frame is expected.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn next(&mut self) -> Result<Option<Recovered>, Error> {
        let here = self.position;
        let next_lap = here + self.lap_left(here);
        let mut found = self.frame(here)?.filter(|(header, _)| header.previous_end == here || !self.started);
        if found.is_none() {
            // The frame may not have fitted into what was left of the lap.
            found = self.frame(next_lap)?.filter(|(header, _)| header.previous_end == here);
        }
        let Some((header, records)) = found else {
            self.check_end()?;
            return Ok(None);
        };
        self.position = header.end(self.block());
        self.started = true;
        Ok(Some(Recovered { position: Position(header.position), records, origin: None }))
    }

    /// The frame at `position`, if a whole one of this life is there.
    fn frame(&mut self, position: u64) -> Result<Option<(Header, Vec<Record>)>, Error> {
        let Some(header) = self.header(position)? else { return Ok(None) };
        let bytes = frame_bytes(header.body_bytes as usize, self.block()) as u64;
        if bytes > self.lap_left(position).min(self.superblock.reach) || header.records == 0 {
            return Ok(None);
        }
        let whole = self.read(position, bytes as usize)?;
        let body = whole.slice(HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize);
        Ok(decode_records(&header, &body).map(|records| (header, records)))
    }

    /// The header at `position`, if one of this life is there.
    fn header(&mut self, position: u64) -> Result<Option<Header>, Error> {
        let header = Header::decode(&self.read(position, self.block())?);
        Ok(header.filter(|header| {
            let is_its = header.epoch == self.previous.epoch || host::planted("stale-frame-accepted");
            header.volume == self.superblock.volume && is_its && header.position == position
        }))
    }

    /// `bytes` at `position`, which do not cross the ring's end.
    fn read(&mut self, position: u64, bytes: usize) -> Result<Bytes, Error> {
        let (start, chunk) = &self.chunk;
        if position < *start || position + bytes as u64 > start + chunk.len() as u64 {
            let wanted = CHUNK_BYTES.max(bytes as u64).min(self.lap_left(position));
            let offset = RING_OFFSET + position % self.superblock.ring_bytes;
            self.chunk = (position, self.volume.read(offset, wanted as usize)?);
        }
        let at = (position - self.chunk.0) as usize;
        Ok(self.chunk.1.slice(at..at + bytes))
    }

    /// Nothing proves that there was more.
    fn check_end(&mut self) -> Result<(), Error> {
        let end = self.position;
        if self.superblock.durable > end {
            let detail =
                format!("damaged: everything up to position {} was durable once", self.superblock.durable);
            return Err(self.volume.corrupt(end, &detail));
        }
        let block = self.block() as u64;
        for position in (end..=end + self.superblock.reach).step_by(self.block()).skip(1) {
            if let Some(header) = self.header(position)?
                && header.durable_before > end
            {
                let detail = format!(
                    "damaged: the frame at position {position} was written when everything below {} was durable",
                    header.durable_before
                );
                return Err(self.volume.corrupt(end, &detail));
            }
        }
        assert!(end.is_multiple_of(block), "frames end at blocks");
        let now = self.volume.superblock()?;
        if now.is_none_or(|now| now.volume != self.superblock.volume || now.owner != Some(self.previous)) {
            return Err(Error::Fenced(format!("{} got a new owner during its recovery", self.volume.uri)));
        }
        Ok(())
    }
}
