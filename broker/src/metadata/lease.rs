//! Keeps a broker's right to acknowledge alive (O4, B1), for as long as the metadata log shows no fence.
//!
//! Each read of the log that reached its tail, and behind which the view still has the incarnation alive, renews the
//! right from the moment that the read *began*. A view that shows the fence revokes it, however it was learned. When
//! the replica ends, nothing renews any more: the right is revoked at once instead of being left to run out.
//!
//! A view that shows a *challenge* (N4 of [`members`](super::members)) renews nothing either, and is answered: from the entry of the
//! answer on it is as before (not by who has given its right up, and is about to end). So whoever knows of a challenge that stood when
//! the fence came knows that no read renewed anything that began later than he knew of the challenge: the lease counts from then.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Fuse, FusedFuture};
use metalog::Replica;
use tokio_util::sync::CancellationToken;
use wal::{AckRight, Incarnation};

use super::command::Command;
use super::image::Image;

pub(super) struct Lease {
    pub replica: Replica<Image>,
    pub incarnation: Incarnation,
    pub right: Arc<AckRight>,
    /// From the beginning of a poll.
    pub length: Duration,
}

/// Why `incarnation` must not acknowledge, by this state.
pub(super) fn standing(image: &Image, incarnation: Incarnation) -> Result<(), String> {
    if let Some(reason) = image.halted() {
        return Err(reason.to_string());
    }
    if image.is_live(incarnation) {
        return Ok(());
    }
    Err(format!(
        "broker {} epoch {} was fenced (by a later registration, or because others took it for dead), or has closed",
        incarnation.broker, incarnation.epoch
    ))
}

/// Whether this state has a challenge that `incarnation` has to answer.
fn is_challenged(image: &Image, incarnation: Incarnation) -> bool {
    image.life(incarnation).is_some_and(|life| life.challenged.is_some())
}

impl Lease {
    pub(super) async fn keep(self, closing: CancellationToken) {
        let mut polls = self.replica.polls();
        let mut applied = self.replica.applied();
        let mut answering: Fuse<BoxFuture<'_, _>> = Fuse::terminated();
        loop {
            // The poll before the view: a view is at least as new as a poll that was seen before it.
            let polled = *polls.borrow_and_update();
            applied.borrow_and_update();
            let view = self.replica.view();
            if let Err(reason) = standing(&view.machine, self.incarnation) {
                self.right.revoke(reason);
                return;
            }
            let challenged = is_challenged(&view.machine, self.incarnation);
            if challenged && answering.is_terminated() && self.right.revoked().is_none() {
                answering = self.answer().boxed().fuse();
            }
            if view.number >= polled.number && !challenged {
                self.right.renew(polled.began, self.length);
            }
            let alive = tokio::select! {
                () = closing.cancelled() => return,
                // Where it came to nothing it is tried again.
                () = &mut answering => true,
                changed = polls.changed() => changed.is_ok(),
                changed = applied.changed() => changed.is_ok(),
            };
            if !alive {
                self.right.revoke(format!("the metadata log ended: {}", self.replica.failed().await));
                return;
            }
        }
    }

    async fn answer(&self) {
        let command = Command::Answer { by: self.incarnation };
        match self.replica.propose(command.encode().into()).await {
            Ok(applied) if applied.outcome.is_err() => {}
            Ok(_) => tracing::info!("another broker took this one for dead; it has answered that it lives"),
            Err(error) => {
                tracing::warn!(%error, "another broker takes this one for dead, and cannot be answered");
            }
        }
    }
}
