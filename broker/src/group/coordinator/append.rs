//! From the queue of writes to the log, and what comes back. Steps of a rewrite ride along (decision 0015), one at a time,
//! so that commits are not held up by it.

use futures::future::{BoxFuture, FutureExt, ready};
use kafka_protocol::error::ResponseError;
use tokio::sync::oneshot;

use super::{Actor, DeletedAnswer, LeaveAnswer};
use crate::group::batch::Builder;
use crate::group::log::{Appended, LogError};
use crate::group::records::TooLong;
use crate::group::shard::{Deleted, EncodedRecord, Output, Placed, Write};

/// What stands in the queue.
#[derive(Debug)]
pub(super) enum Item {
    Write(Write),
    Answer(Answer),
}

/// To be given once everything in front of it is durable.
#[derive(Debug)]
pub(super) enum Answer {
    Left(oneshot::Sender<LeaveAnswer>, Vec<Result<(), ResponseError>>),
    Deleted(oneshot::Sender<Result<(), ResponseError>>),
    OffsetsDeleted(oneshot::Sender<DeletedAnswer>, Deleted),
}

impl Answer {
    pub fn give(self) {
        // A receiver that is gone is a connection that is gone.
        match self {
            Answer::Left(reply, results) => drop(reply.send(Ok(results))),
            Answer::Deleted(reply) => drop(reply.send(Ok(()))),
            Answer::OffsetsDeleted(reply, results) => drop(reply.send(Ok(results))),
        }
    }

    pub fn fail(self, error: ResponseError) {
        match self {
            Answer::Left(reply, _) => drop(reply.send(Err(error))),
            Answer::Deleted(reply) => drop(reply.send(Err(error))),
            Answer::OffsetsDeleted(reply, _) => drop(reply.send(Err(error))),
        }
    }
}

/// What is done once an append is durable.
#[derive(Debug)]
pub(super) enum Landing {
    Written(Placed),
    Answer(Answer),
    /// A step of the rewrite.
    Step,
}

/// An append whose place is fixed, and what hangs on it.
pub(super) type Flight = BoxFuture<'static, (Vec<Landing>, Result<(), LogError>)>;

/// An append that waits for room.
pub(super) struct Admitting {
    append: BoxFuture<'static, Result<Appended, LogError>>,
    landings: Vec<Landing>,
    bytes: u64,
}

impl Admitting {
    pub fn append(&mut self) -> &mut BoxFuture<'static, Result<Appended, LogError>> {
        &mut self.append
    }
}

/// What goes into the log next.
pub(super) enum Started {
    Admitting(Admitting),
    /// Nothing goes to the log, but something waits for what is on its way there.
    Nothing(Flight),
}

impl Actor {
    /// Takes writes off the queue into one batch, and begins to append it.
    pub(super) fn start_append(&mut self) -> Option<Started> {
        if self.history.is_too_long(self.shard.live_bytes() as u64) {
            let (partition, bytes) = (self.partition, self.history.bytes());
            let live = self.shard.live_bytes();
            tracing::info!(partition, bytes, live, "rewriting groups and offsets to shorten their log");
            self.history.begin();
            self.shard.begin_rewrite();
        }
        let mut builder = Builder::new(self.now().wall_ms);
        let mut landings = Vec::new();
        // First, so that it is known of all that it leaves out when that is durable.
        if self.history.takes_step() {
            self.place_step(&mut builder, &mut landings);
        }
        while builder.len_bytes() < self.options.batch_bytes_target {
            match self.queue.pop_front() {
                Some(Item::Write(write)) => self.place(write, &mut builder, &mut landings),
                Some(Item::Answer(answer)) => landings.push(Landing::Answer(answer)),
                None => break,
            }
        }
        if builder.is_empty() {
            // Not answered at once: what is in front of it may be on its way still.
            return (!landings.is_empty()).then(|| Started::Nothing(ready((landings, Ok(()))).boxed()));
        }
        let bytes = builder.len_bytes() as u64;
        let (log, batch) = (self.log.clone(), builder.finish());
        let append = async move { log.append(batch).await }.boxed();
        Some(Started::Admitting(Admitting { append, landings, bytes }))
    }

    fn place(&mut self, write: Write, builder: &mut Builder, landings: &mut Vec<Landing>) {
        self.queued_bytes -= write.estimate_bytes();
        let surroundings = self.surroundings.clone();
        let topic_id = |topic: &str| Some(surroundings.topic(topic)?.id);
        match self.shard.place(write, self.options.record_bytes_max, &topic_id) {
            Ok(placement) => {
                push_all(builder, &placement.records);
                landings.push(Landing::Written(placement.placed));
                if let Some(rest) = placement.rest {
                    self.queued_bytes += rest.estimate_bytes();
                    self.queue.push_front(Item::Write(rest));
                }
            }
            Err((write, error)) => self.unwritable(write, error),
        }
    }

    /// The write cannot be put into the format. (Kafka: an unknown server error, too.)
    fn unwritable(&mut self, write: Write, error: TooLong) {
        tracing::warn!(partition = self.partition, %error, "a group's record cannot be written");
        let (now, mut out) = (self.now(), Output::default());
        let response = match &write {
            Write::Commit { .. } => ResponseError::InvalidCommitOffsetSize,
            Write::Group { .. } | Write::Remove { .. } => ResponseError::UnknownServerError,
        };
        self.shard.refused(now, write, response, &mut out);
        self.absorb(out);
    }

    fn place_step(&mut self, builder: &mut Builder, landings: &mut Vec<Landing>) {
        // Half of the batch: it comes on whatever else there is, and holds up nothing.
        let target = (self.options.batch_bytes_target / 2).max(1);
        // What is in the log already may have been counted otherwise, or under a higher bound. With the other half a record
        // of a step takes no more of an append than one of a write may, which the batch is not full in front of.
        let bytes_max = self.options.record_bytes_max + self.options.batch_bytes_target / 2;
        match self.shard.rewrite(target, bytes_max) {
            Ok(records) if records.is_empty() => self.history.rewritten(),
            Ok(records) => {
                push_all(builder, &records);
                landings.push(Landing::Step);
                self.history.step_placed();
            }
            Err(error) => {
                tracing::warn!(partition = self.partition, %error, "the log cannot be shortened");
                self.history.rewrite_failed();
            }
        }
    }

    /// The append of a batch has its place, or has failed.
    pub(super) fn admitted(
        &mut self,
        admitting: Admitting,
        appended: Result<Appended, LogError>,
    ) -> Result<Flight, LogError> {
        let Admitting { landings, bytes, .. } = admitting;
        match appended {
            Ok(Appended { base, end, durable }) => {
                let was_foreign = self.history.is_foreign();
                self.history.appended(base, end, bytes);
                if self.history.is_foreign() && !was_foreign {
                    tracing::warn!(
                        partition = self.partition,
                        base,
                        "somebody else wrote to this partition of __consumer_offsets; it is not shortened any more until \
                         its coordinator has been started again"
                    );
                }
                Ok(durable.map(move |result| (landings, result)).boxed())
            }
            Err(error) => {
                self.keep_answers(landings);
                Err(error)
            }
        }
    }

    /// An append has ended. Its failure leaves the answers for [`give_up`](Actor::give_up).
    pub(super) fn landed(
        &mut self,
        landings: Vec<Landing>,
        result: Result<(), LogError>,
    ) -> Result<(), LogError> {
        if let Err(error) = result {
            self.keep_answers(landings);
            return Err(error);
        }
        for landing in landings {
            match landing {
                Landing::Written(placed) => {
                    let (now, mut out) = (self.now(), Output::default());
                    self.shard.written(now, placed, &mut out);
                    self.absorb(out);
                }
                Landing::Answer(answer) => answer.give(),
                Landing::Step => self.history.step_durable(),
            }
        }
        Ok(())
    }

    fn keep_answers(&mut self, landings: Vec<Landing>) {
        for landing in landings {
            if let Landing::Answer(answer) = landing {
                self.queue.push_back(Item::Answer(answer));
            }
        }
    }
}

fn push_all(builder: &mut Builder, records: &[EncodedRecord]) {
    for (key, value) in records {
        builder.push(key, value.as_deref());
    }
}
