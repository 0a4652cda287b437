//! Opening a partition that another broker has just handed over, with what that broker knows of it. What the store says would be
//! enough; but to read it takes several requests, one after the other, while nobody can write.
//!
//! ```text
//!   last leader: stops ──► note: its state as a checkpoint, in memory ──► HandOver, with the note's hash
//!                                        ▲                                   │ hint, poll
//!   next leader:                         └── asks for notes ◄── sees that partitions have arrived ──► opens
//! ```
//!
//! A note: the bytes of log behind the newest checkpoint of the store 8, then a `checkpoint` of now.
//!
//! API key 32702, version 0, in frames and primitives like those of [`wire`]. Request: the life that is asked (broker 4, epoch
//! 8), then a list of topic id 16, partition 4, leader epoch of the last leader 4; at most [`ASKED_MAX`]. Answer: a list of topic
//! id 16, partition 4, length 4 and so many bytes of a note; what is not known is not in it. Both lists ascend strictly by topic
//! and partition.
//!
//! - **N1** A note is used only if the entry that gave the partition to its leader has the note's hash: so it is what the last
//!   leader knew when it stopped, whoever says it, and whatever the network did. It must also account for the log up to exactly its
//!   committed end. Otherwise the store is read, as always: a note that lies costs the time of that.
//! - **N2** Nobody waits for notes longer than [`Limits::note_wait`](super::handover::Limits::note_wait); they take no more memory
//!   than [`Limits::notes_bytes_max`](super::handover::Limits::notes_bytes_max).
//! - **N3** What lies behind the newest checkpoint of the store is counted across any number of moves, so that the next
//!   checkpoint comes when it is due.
//! - **N4** Only what was open at the last leader has a note, and only that is opened before anybody asks.
//! - **N5** Whoever asks for a partition that has just arrived waits for its note, however early he is: a producer may have waited
//!   here for the entry ([`Partitions::get_expected`]), and would otherwise read the store before the note is asked for.
//! - **N6** A broker that leaves goes on serving until its notes have been fetched, or were kept for four times as long as
//!   anybody waits for them: the next leader reads the entry, and asks, only after this one knows that it is there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;
use wal::Incarnation;

use super::{Partitions, Slot};
use crate::cluster::wire;
use crate::metadata::NoteHash;
use crate::metadata::codec::{Malformed, Reader, Writer};
use crate::metadata::image::{Image, Listener, Topic};

/// The API key of requests for notes.
pub const NOTES: i16 = 32_702;

/// Partitions of one request. No option: it bounds a message.
pub const ASKED_MAX: usize = 4_000;

/// One answer, bytes; what does not fit is left to the store.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Whoever has not asked by then has opened the partition already. No option: it only gives memory back.
const NOTE_AGE_MAX: Duration = Duration::from_secs(30);

/// N6, in multiples of [`Limits::note_wait`](super::handover::Limits::note_wait): for the entry to be written and read, too.
const FETCH_WAITS: u32 = 4;

/// Partitions that are opened at a time. No option: with a note none of them waits for anything.
const OPENED_AT_ONCE: usize = 64;

const ASKED_BYTES: usize = 24;
const NOTE_BYTES_MIN: usize = 24;

/// A partition of which a note is asked for: topic, number, leader epoch of the last leader.
pub type Asked = (Uuid, u32, i32);

/// What to ask a life for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotesAsk {
    pub to: Incarnation,
    pub partitions: Vec<Asked>,
}

/// Notes, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotesAnswer(pub Vec<(Uuid, u32, Bytes)>);

impl NotesAsk {
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.incarnation(self.to);
        to.count(self.partitions.len());
        for (topic, index, epoch) in &self.partitions {
            to.uuid(*topic);
            to.u32(*index);
            to.i32(*epoch);
        }
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<NotesAsk, Malformed> {
        let mut from = Reader::new(bytes);
        let to = from.incarnation()?;
        let partitions = from.list(ASKED_BYTES, |from| Ok((from.uuid()?, from.u32()?, from.i32()?)))?;
        if partitions.len() > ASKED_MAX
            || !partitions.is_sorted_by(|one, next| (one.0, one.1) < (next.0, next.1))
        {
            return Err(from.malformed("a request for too many notes, or not in ascending order"));
        }
        from.end()?;
        Ok(NotesAsk { to, partitions })
    }
}

impl NotesAnswer {
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.count(self.0.len());
        for (topic, index, note) in &self.0 {
            to.uuid(*topic);
            to.u32(*index);
            to.count(note.len());
            to.0.extend_from_slice(note);
        }
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<NotesAnswer, Malformed> {
        let mut from = Reader::new(bytes);
        let notes = from.list(NOTE_BYTES_MIN, |from| {
            let (topic, index) = (from.uuid()?, from.u32()?);
            let length = from.u32()? as usize;
            Ok((topic, index, Bytes::copy_from_slice(from.bytes(length)?)))
        })?;
        if !notes.is_sorted_by(|one, next| (one.0, one.1) < (next.0, next.1)) {
            return Err(from.malformed("notes that are not in ascending order"));
        }
        from.end()?;
        Ok(NotesAnswer(notes))
    }
}

/// What a partition's leader knows when it has stopped, and what identifies that.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub hash: NoteHash,
    bytes: Bytes,
}

impl Note {
    /// Of a state as a `checkpoint`, with so many bytes of log behind the newest one of the store (N3).
    pub fn new(behind_checkpoint: u64, checkpoint: &[u8]) -> Note {
        let mut bytes = BytesMut::with_capacity(8 + checkpoint.len());
        bytes.put_u64_le(behind_checkpoint);
        bytes.put_slice(checkpoint);
        Note::of(bytes.freeze())
    }

    fn of(bytes: Bytes) -> Note {
        Note { hash: NoteHash::of(&bytes), bytes }
    }

    /// What [`new`](Note::new) was given; `None` if it was not made by that.
    pub fn parts(&self) -> Option<(u64, &[u8])> {
        let (behind, checkpoint) = self.bytes.split_first_chunk()?;
        Some((u64::from_le_bytes(*behind), checkpoint))
    }
}

#[derive(Debug)]
struct Kept {
    at: Instant,
    partition: Asked,
    note: Bytes,
    fetched: bool,
}

/// What this broker noted of partitions that it has handed over, or is about to.
#[derive(Debug, Default)]
pub(super) struct Notes {
    kept: Mutex<VecDeque<Kept>>,
    fetched: Notify,
}

impl Notes {
    /// Keeps a note, and forgets the oldest beyond `bytes_max`.
    pub fn keep(&self, partition: Asked, note: Note, bytes_max: usize) {
        let mut notes = self.kept.lock();
        notes.retain(|kept| kept.at.elapsed() < NOTE_AGE_MAX && kept.partition != partition);
        notes.push_back(Kept { at: Instant::now(), partition, note: note.bytes, fetched: false });
        let mut bytes: usize = notes.iter().map(|kept| kept.note.len()).sum();
        while bytes > bytes_max
            && let Some(oldest) = notes.pop_front()
        {
            bytes -= oldest.note.len();
        }
    }

    fn of(&self, wanted: &[Asked]) -> NotesAnswer {
        let mut notes = self.kept.lock();
        let mut known: HashMap<Asked, &mut Kept> =
            notes.iter_mut().map(|kept| (kept.partition, kept)).collect();
        let mut room = ANSWER_BYTES_MAX;
        let found = wanted.iter().filter_map(|wanted| {
            let kept = known.get_mut(wanted)?;
            room = room.checked_sub(NOTE_BYTES_MIN + kept.note.len())?;
            kept.fetched = true;
            Some((wanted.0, wanted.1, kept.note.clone()))
        });
        let found = NotesAnswer(found.collect());
        self.fetched.notify_waiters();
        found
    }

    /// N6: until all are fetched that are not older than `age_max`.
    async fn fetched(&self, age_max: Duration) {
        loop {
            let fetched = self.fetched.notified();
            let unfetched = self.kept.lock().iter().rfind(|kept| !kept.fetched).map(|kept| kept.at);
            let Some(until) = unfetched.map(|at| at + age_max).filter(|until| *until > Instant::now()) else {
                return;
            };
            // Whoever still wants them may be gone.
            let _ = tokio::time::timeout_at(until, fetched).await;
        }
    }
}

/// A partition that nobody else opens now.
type Gated = (Arc<Topic>, i32, Arc<Slot>, OwnedMutexGuard<()>);

/// Partitions that one life has handed to us, and the leader epochs under which it led them.
type Arrived = BTreeMap<Incarnation, Vec<(Arc<Topic>, usize, i32)>>;

/// What `own` leads in `after` that another life, which lives still, led in `before`.
fn arrived(before: &Image, after: &Image, own: Incarnation) -> Arrived {
    let mut arrived = Arrived::new();
    for topic in after.topics() {
        let Some(old) = before.topic(topic.id).filter(|old| !Arc::ptr_eq(old, topic)) else { continue };
        for (index, (was, is)) in old.partitions.iter().zip(topic.partitions.iter()).enumerate() {
            if is.leader != own.broker || is.leader_epoch != was.leader_epoch + 1 {
                continue;
            }
            let from = before.owner(was).filter(|from| *from != own && after.is_live(*from));
            if let Some(from) = from.filter(|_| after.owner(is) == Some(own)) {
                arrived.entry(from).or_default().push((topic.clone(), index, was.leader_epoch));
            }
        }
    }
    arrived
}

impl Partitions {
    /// The notes that another broker asks for.
    pub fn notes(&self, ask: &NotesAsk) -> NotesAnswer {
        if self.metadata.incarnation() != Some(ask.to) {
            return NotesAnswer::default();
        }
        self.notes.of(&ask.partitions)
    }

    /// Until those to whom partitions were handed know what this broker knew of them, or have had their time (N6).
    pub async fn notes_fetched(&self) {
        self.notes.fetched(self.config.handover.note_wait * FETCH_WAITS).await;
    }

    /// As long as the broker runs.
    pub(super) async fn open_arriving(self: Arc<Self>) {
        let mut changed = self.metadata.changed();
        let mut before = self.metadata.image();
        self.looked_upto.send_replace(before.number());
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                change = changed.changed() => if change.is_err() {
                    // The metadata ended, and says so itself.
                    return self.closing.cancelled().await;
                },
            }
            let image = self.metadata.image();
            if let Some(own) = self.metadata.incarnation()
                // Otherwise there is no need to look at all topics.
                && image.led_count(own.broker) > before.led_count(own.broker)
            {
                for (from, partitions) in arrived(&before, &image, own) {
                    let Some(info) = image.broker(from.broker) else { continue };
                    let arriving = self.clone().arrive(from, info.listener.clone(), self.gates(partitions));
                    self.tasks.spawn("the opening of partitions that arrive", arriving);
                }
            }
            self.looked_upto.send_replace(image.number());
            before = image;
        }
    }

    /// The entry up to which it was looked for partitions that have arrived. One that went and came back between two looks is not
    /// seen to arrive: it is opened when somebody asks for it.
    pub fn looked_for_arrivals_upto(&self) -> u64 {
        *self.looked_upto.borrow()
    }

    /// Resolves once it was looked for what arrived with entry `number` (N5), or is not looked any more.
    pub(super) async fn looked_for_arrivals_of(&self, number: u64) {
        let mut looked_upto = self.looked_upto.subscribe();
        self.closing.run_until_cancelled(looked_upto.wait_for(|looked| *looked >= number)).await;
    }

    /// The right to open those of them that nobody opens, in the order of a request for notes: in an image topics are in that of
    /// their names.
    fn gates(&self, mut arrived: Vec<(Arc<Topic>, usize, i32)>) -> Vec<(Gated, i32)> {
        arrived.sort_unstable_by_key(|(topic, index, _)| (topic.id, *index));
        let gated =
            arrived.iter().filter_map(|(topic, index, epoch)| Some((self.gate(topic, *index)?, *epoch)));
        gated.collect()
    }

    async fn arrive(self: Arc<Self>, from: Incarnation, listener: Listener, mut all: Vec<(Gated, i32)>) {
        while !all.is_empty() {
            let gated: Vec<_> = all.drain(..all.len().min(ASKED_MAX)).collect();
            let asked = |((topic, index, ..), epoch): &(Gated, i32)| (topic.id, *index as u32, *epoch);
            let ask = NotesAsk { to: from, partitions: gated.iter().map(asked).collect() };
            let limit = self.config.handover.note_wait;
            let notes = match tokio::time::timeout(limit, ask_for(&listener, &ask)).await {
                Ok(Ok(notes)) => notes,
                Ok(Err(error)) => {
                    tracing::info!(broker = from.broker, %error, "no notes of partitions that were handed over");
                    continue;
                }
                Err(_) => {
                    tracing::info!(
                        broker = from.broker,
                        "no notes of partitions that were handed over, within {limit:?}"
                    );
                    continue;
                }
            };
            let mut notes: HashMap<(Uuid, u32), Note> =
                notes.0.into_iter().map(|(topic, index, note)| ((topic, index), Note::of(note))).collect();
            let image = self.metadata.image();
            // Whatever has no note, or one that lies, waits for nobody here.
            let opening: Vec<_> = gated
                .into_iter()
                .filter_map(|(gated, _)| {
                    let note = notes.remove(&(gated.0.id, gated.1 as u32))?;
                    let info = image.topic(gated.0.id)?.partitions.get(gated.1 as usize)?;
                    let is_right = info.note == Some(note.hash);
                    if !is_right {
                        let (topic, partition) = (&gated.0.name, gated.1);
                        warn!(broker = from.broker, %topic, partition, "a note is not what its leader made of it");
                    }
                    is_right.then_some((gated, note))
                })
                .collect();
            let open = async |((topic, index, slot, gate), note): (Gated, Note)| {
                // What goes wrong is reported there, and met again by whoever asks.
                let _ = self.open_gated(&topic, index, &slot, gate, Some(note)).await;
            };
            futures::stream::iter(opening).for_each_concurrent(OPENED_AT_ONCE, open).await;
        }
    }

    /// The right to open a partition, unless somebody has it or it is open.
    fn gate(&self, topic: &Arc<Topic>, index: usize) -> Option<Gated> {
        let index = index as i32;
        let slot = self.open.lock().entry((topic.id, index)).or_default().clone();
        let gate = slot.gate.clone().try_lock_owned().ok()?;
        slot.partition.get().is_none().then(|| (topic.clone(), index, slot, gate))
    }
}

async fn ask_for(listener: &Listener, ask: &NotesAsk) -> std::io::Result<NotesAnswer> {
    let invalid = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let stream = host::net::connect(&listener.host, listener.port).await?;
    let (mut from, mut to) = stream.into_split();
    to.write_all(&wire::request(NOTES, 1, "ottla", &ask.encode())).await?;
    let length = usize::try_from(from.read_i32().await?).ok();
    let length = length.filter(|length| *length <= ANSWER_BYTES_MAX + 64);
    let mut frame = vec![0; length.ok_or_else(|| invalid("an answer that is too long".to_owned()))?];
    from.read_exact(&mut frame).await?;
    let body =
        wire::response_body(&frame, 1).ok_or_else(|| invalid("the answer to another request".to_owned()))?;
    NotesAnswer::decode(body).map_err(|malformed| invalid(malformed.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_read_back_and_what_is_cut_is_refused() {
        let to = Incarnation { broker: 1, epoch: 2 };
        let ask = NotesAsk { to, partitions: vec![(Uuid::from_u128(3), 4, 5), (Uuid::from_u128(6), 7, 8)] };
        let answer = NotesAnswer(vec![
            (Uuid::nil(), 0, Bytes::new()),
            (Uuid::from_u128(3), 4, Bytes::from_static(b"note")),
        ]);
        let (asked, answered) = (ask.encode(), answer.encode());
        assert_eq!((asked.len(), answered.len()), (12 + 4 + 48, 4 + 24 + 24 + 4));
        assert_eq!(NotesAsk::decode(&asked), Ok(ask));
        assert_eq!(NotesAnswer::decode(&answered), Ok(answer));
        (0..asked.len()).for_each(|at| assert!(NotesAsk::decode(&asked[..at]).is_err()));
        (0..answered.len()).for_each(|at| assert!(NotesAnswer::decode(&answered[..at]).is_err()));
        let mut lying = answered.clone();
        lying[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(NotesAnswer::decode(&lying).is_err());
        // Nothing is asked for twice, or said twice.
        let twice = (Uuid::nil(), 0);
        let ask = NotesAsk { to, partitions: vec![(twice.0, twice.1, 1), (twice.0, twice.1, 2)] };
        assert!(NotesAsk::decode(&ask.encode()).is_err());
        let answer = NotesAnswer(vec![(twice.0, twice.1, Bytes::new()), (twice.0, twice.1, Bytes::new())]);
        assert!(NotesAnswer::decode(&answer.encode()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn n2_notes_are_bounded_in_memory_and_time() {
        let notes = Notes::default();
        let asked = |index| (Uuid::nil(), index, 0);
        for index in 0..10 {
            notes.keep(asked(index), Note::new(7, &[0; 92]), 350);
        }
        let all: Vec<Asked> = (0..10).map(asked).collect();
        let indexes = |notes: &Notes| notes.of(&all).0.iter().map(|(_, index, _)| *index).collect::<Vec<_>>();
        assert_eq!(indexes(&notes), [7, 8, 9]);
        assert!(notes.of(&[(Uuid::nil(), 9, 1)]).0.is_empty(), "of another time");
        tokio::time::advance(NOTE_AGE_MAX).await;
        notes.keep(asked(1), Note::new(0, &[]), 350);
        assert_eq!(indexes(&notes), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn n6_notes_are_waited_for_until_they_are_fetched_or_too_old() {
        const WAIT: Duration = Duration::from_secs(1);
        let (notes, asked) = (Notes::default(), |index| (Uuid::nil(), index, 0));
        let began = Instant::now();
        notes.fetched(WAIT).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "there are none");
        for index in 0..3 {
            notes.keep(asked(index), Note::new(7, &[0; 92]), 1_000);
        }
        let fetch = async {
            tokio::time::sleep(WAIT / 4).await;
            notes.of(&[asked(0), asked(2)]);
            tokio::time::sleep(WAIT / 4).await;
            notes.of(&[asked(1)]);
        };
        tokio::join!(notes.fetched(WAIT), fetch);
        assert_eq!(began.elapsed(), WAIT / 2);
        notes.keep(asked(5), Note::new(7, &[0; 92]), 1_000);
        notes.fetched(WAIT).await;
        assert_eq!(began.elapsed(), WAIT / 2 + WAIT, "nobody wants it");
    }
}
