//! One connection, one task: a reader, a processor and a writer, joined by two bounded queues (N1, N2).

use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use kafka_protocol::messages::ApiKey;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::dispatch::{self, Close, Parsed};
use super::frame::{Budget, Frame, FrameReader, Permits};
use super::rope::Patience;
use super::{Config, ResponseBudget, Rope};
use crate::api::{Advertised, Context};
use crate::broker::Broker;

/// Ready responses are gathered into one write up to about this many bytes. No option: they share memory that is
/// counted elsewhere, and beyond this a larger write gains nothing.
const WRITE_GATHER_BYTES: usize = 256 << 10;

/// What a response turns out to be; `None` is silence: a Produce with acks=0 that went well (behaviour 10).
pub(super) type Outcome = Result<Option<Rope>, Close>;

/// A response in its place in the order.
struct Queued {
    response: BoxFuture<'static, Outcome>,
    /// Given back once the response is written: all of the pipeline's permits, or one for a Produce (N2).
    _turn: OwnedSemaphorePermit,
}

/// What a connection is made of.
pub(super) struct Connection {
    pub config: Arc<Config>,
    pub broker: Arc<Broker>,
    pub budget: Budget,
    pub responses: Arc<ResponseBudget>,
    pub peer: SocketAddr,
    pub advertised: Advertised,
    /// Cancelled when the peer is gone, and with its parent at shutdown.
    pub closing: CancellationToken,
}

impl Connection {
    /// Serves the peer until it leaves, errs, idles for too long, or the server closes. Dropping it abandons responses
    /// that are under way; what was appended stays appended.
    pub async fn serve(self, from: impl AsyncRead + Unpin + Send, to: impl AsyncWrite + Unpin + Send) {
        let peer = self.peer;
        let pipeline = Arc::new(Semaphore::new(self.config.pipelined_requests_max));
        let progress = Mutex::new(Instant::now());
        let (frames_in, frames_out) = mpsc::channel(self.config.pipelined_requests_max);
        let (responses_in, responses_out) = mpsc::channel(self.config.pipelined_requests_max);

        let frames = FrameReader::new(from, &self.config, self.budget.clone());
        let reader = self.read(frames, frames_in, &pipeline, &progress);
        let processor = self.process(frames_out, responses_in, &pipeline);
        let patience = Patience {
            stall: self.config.idle_timeout,
            contended_stall: self.config.contended_stall,
            budget: &self.responses,
        };
        let writer = write(responses_out, to, &patience, &progress);
        tokio::select! {
            // Ends when the processor has ended and everything it queued is written, or at the first failure.
            ended = writer => match ended {
                Ok(()) => debug!(%peer, "connection closed"),
                Err(reason) => debug!(%peer, %reason, "connection closed"),
            },
            () = async {
                processor.await;
                std::future::pending().await
            } => unreachable!("the other branches decide"),
            () = async {
                reader.await;
                tokio::time::sleep(self.config.linger).await;
            } => debug!(%peer, "connection closed: the peer left before its answers"),
        }
    }

    async fn read<R: AsyncRead + Unpin>(
        &self,
        mut frames: FrameReader<R>,
        to: mpsc::Sender<Frame>,
        pipeline: &Semaphore,
        progress: &Mutex<Instant>,
    ) {
        // Whatever ends the reading releases waits that only serve this peer.
        let _gone = self.closing.clone().drop_guard();
        let mut closed = std::pin::pin!(self.closing.cancelled());
        loop {
            let idle_at = *progress.lock() + self.config.idle_timeout;
            let begun = tokio::select! {
                // In this order: where the next request is there already, no timer is touched.
                biased;
                () = &mut closed => return,
                begun = frames.begun() => begun,
                () = tokio::time::sleep_until(idle_at) => {
                    let quiet = *progress.lock() + self.config.idle_timeout <= Instant::now();
                    if quiet && pipeline.available_permits() == self.config.pipelined_requests_max {
                        debug!(peer = %self.peer, "closing an idle connection");
                        return;
                    }
                    if quiet {
                        // A long wait of the peer's own asking, such as a join.
                        *progress.lock() = Instant::now();
                    }
                    continue;
                }
            };
            let frame = match begun {
                Ok(false) => return,
                Ok(true) => frames.read().await,
                Err(error) => Err(error),
            };
            *progress.lock() = Instant::now();
            match frame {
                Ok(frame) => {
                    if to.send(frame).await.is_err() {
                        return;
                    }
                }
                Err(reason) => {
                    debug!(peer = %self.peer, %reason, "closing a connection");
                    return;
                }
            }
        }
    }

    async fn process(
        &self,
        mut frames: mpsc::Receiver<Frame>,
        responses: mpsc::Sender<Queued>,
        pipeline: &Arc<Semaphore>,
    ) {
        let mut context = Context { client_id: None, peer: self.peer, advertised: self.advertised.clone() };
        while let Some(frame) = frames.recv().await {
            match self.process_one(frame, &mut context, pipeline).await {
                Ok(queued) => {
                    if responses.send(queued).await.is_err() {
                        return;
                    }
                }
                Err(reason) => {
                    // What was asked before still gets its answer: the writer ends when its queue is empty.
                    debug!(peer = %self.peer, %reason, "closing a connection");
                    return;
                }
            }
        }
    }

    async fn process_one(
        &self,
        frame: Frame,
        context: &mut Context,
        pipeline: &Arc<Semaphore>,
    ) -> Result<Queued, Close> {
        let (bytes, queued) = frame.split();
        let size = bytes.len();
        let mut request = match dispatch::parse(bytes)? {
            Parsed::Request(request) => request,
            Parsed::UnknownApiVersions { correlation_id } => {
                let turn = self.turn(pipeline, self.config.pipelined_requests_max).await;
                let response = dispatch::unknown_api_versions(correlation_id)?;
                return Ok(Queued { response: ready(Ok(Some(response))).boxed(), _turn: turn });
            }
            Parsed::Peer(request) => {
                let turn = self.turn(pipeline, self.config.pipelined_requests_max).await;
                let response = Box::pin(dispatch::handle_peer(&self.broker, request)).await?;
                return Ok(Queued { response: ready(Ok(Some(response))).boxed(), _turn: turn });
            }
        };
        if context.client_id != request.header.client_id {
            context.client_id = request.header.client_id.take();
        }
        if request.api == ApiKey::Produce {
            let turn = self.turn(pipeline, 1).await;
            let produce = dispatch::enqueue(&self.broker, context, request).await?;
            return Ok(Queued { response: produce.finish().boxed(), _turn: turn });
        }
        let turn = self.turn(pipeline, self.config.pipelined_requests_max).await;
        let decoded = self.budget.shared.decode(size).await;
        let handled = dispatch::handle(self, context, request);
        let mut response = self.counted_while_short(handled, (queued, decoded)).await?;
        if response.permits() == 0 && !self.budget.shared.is_small(response.len()) {
            // Nobody is left to read it if there is none.
            if let Some(permit) = self.responses.take(response.len(), &self.closing).await {
                response.charge(permit);
            }
        }
        Ok(Queued { response: ready(Ok(Some(response))).boxed(), _turn: turn })
    }

    /// Holds the request's share of memory until it is handled, or waits for something.
    async fn counted_while_short<T>(
        &self,
        handled: impl Future<Output = T>,
        shares: (Permits, Option<OwnedSemaphorePermit>),
    ) -> T {
        let mut handled = std::pin::pin!(handled);
        tokio::select! {
            biased;
            done = &mut handled => return done,
            () = tokio::time::sleep(self.config.queued_time_max) => drop(shares),
        }
        handled.await
    }

    /// Permits are given in the order in which they are asked for. All of them: every response before is written, and
    /// nothing that follows begins. One of them: everything before is done or a Produce that is enqueued (N2).
    async fn turn(&self, pipeline: &Arc<Semaphore>, permits: usize) -> OwnedSemaphorePermit {
        pipeline.clone().acquire_many_owned(permits as u32).await.expect("never closed")
    }
}

/// Why the writer stopped early.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Closed(#[from] Close),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Writes responses in their order until the queue is closed and empty.
async fn write(
    mut responses: mpsc::Receiver<Queued>,
    mut to: impl AsyncWrite + Unpin,
    patience: &Patience<'_>,
    progress: &Mutex<Instant>,
) -> Result<(), WriteError> {
    let mut next = responses.recv().await;
    while let Some(mut queued) = next.take() {
        let mut rope = Rope::new();
        let mut turns = Vec::new();
        let mut outcome = queued.response.await;
        let ended = loop {
            turns.push(queued._turn);
            match outcome {
                Ok(Some(response)) => rope.append(response),
                Ok(None) => {}
                Err(reason) => break Some(reason),
            }
            if rope.len() >= WRITE_GATHER_BYTES {
                break None;
            }
            match responses.try_recv() {
                Ok(following) => queued = following,
                Err(_) => break None,
            }
            match (&mut queued.response).now_or_never() {
                Some(ready) => outcome = ready,
                None => {
                    next = Some(queued);
                    break None;
                }
            }
        };
        rope.write_to(&mut to, patience).await?;
        *progress.lock() = Instant::now();
        // Before the wait for the next response, which may be long: its share of the memory is for others now.
        drop((rope, turns));
        if let Some(reason) = ended {
            return Err(reason.into());
        }
        if next.is_none() {
            next = responses.recv().await;
        }
    }
    Ok(())
}
