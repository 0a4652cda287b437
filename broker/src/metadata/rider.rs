//! Hand-overs that go into the log with the commit that they wait for: one entry, and so one request to the store, instead of two
//! while nobody can write to the partitions.
//!
//! - **R1** A hand-over rides only with a commit after which everything that it names is committed. It stands behind that commit,
//!   in the same entry or in a later one; should it ever come first, it is rejected, as H1 of [`moves`](super::moves) says.
//! - **R2** Whoever registered it learns its outcome, or takes it back before it was sent; never neither.

use bytes::Bytes;
use parking_lot::Mutex;
use s3stream::StreamId;
use s3stream::metadata::Commit;
use tokio::sync::oneshot;

use super::command::{Command, Handed};
use super::handing::moved;
use super::streams::carried_out;
use super::{Early, Error, Metadata, MoveRejection};

/// What became of each partition of a hand-over.
pub type Moved = Result<Vec<Result<(), MoveRejection>>, Error>;

#[derive(Debug)]
struct Rider {
    id: u64,
    moves: Vec<Handed>,
    /// Ends that must be committed.
    needs: Vec<(StreamId, u64)>,
    outcome: oneshot::Sender<Moved>,
    early: Early,
}

/// Those that have not been sent.
#[derive(Debug, Default)]
pub(super) struct Riders(Mutex<(u64, Vec<Rider>)>);

/// A hand-over that waits for its commit.
#[derive(Debug)]
pub struct Riding {
    id: u64,
    outcome: oneshot::Receiver<Moved>,
}

impl Metadata {
    /// Has a hand-over sent with the commit after which `needs` are committed. `early` as in [`Metadata::hand_over`].
    pub fn ride(&self, moves: Vec<Handed>, needs: Vec<(StreamId, u64)>, early: Early) -> Riding {
        let (sender, outcome) = oneshot::channel();
        let mut riders = self.riders.0.lock();
        riders.0 += 1;
        let id = riders.0;
        riders.1.push(Rider { id, moves, needs, outcome: sender, early });
        Riding { id, outcome }
    }

    /// Takes it back: `None` if it was not sent. Otherwise its outcome, which is [`Error::Unknown`] if nobody can tell any more.
    pub async fn alight(&self, riding: Riding) -> Option<Moved> {
        {
            let mut riders = self.riders.0.lock();
            let before = riders.1.len();
            riders.1.retain(|rider| rider.id != riding.id);
            if riders.1.len() < before {
                return None;
            }
        }
        let unknown =
            |_| Err(Error::Unknown("the commit that a hand-over was sent with was given up".to_owned()));
        Some(riding.outcome.await.unwrap_or_else(unknown))
    }

    /// The hand-overs that `commit` makes possible.
    fn boarding(&self, commit: &Commit) -> Vec<Rider> {
        let mut riders = self.riders.0.lock();
        if riders.1.is_empty() {
            return Vec::new();
        }
        let image = self.image();
        let parts = || commit.objects.iter().flat_map(|object| &object.parts);
        let ready = |rider: &mut Rider| {
            rider.needs.iter().all(|(stream, end)| {
                image.stream(*stream).is_some_and(|stream| stream.committed_end == *end)
                    || parts().any(|part| part.stream == *stream && part.end == *end)
            })
        };
        riders.1.extract_if(.., ready).collect()
    }

    /// Commits, and sends what rides with it right behind.
    pub(super) async fn commit_with_riders(&self, commit: Commit) -> Result<(), s3stream::metadata::Error> {
        let riders = self.boarding(&commit);
        let commit = Command::CommitObjects { commit };
        if riders.is_empty() {
            return self.carry_out(commit).await;
        }
        let commit: Bytes = commit.encode().into();
        let mut commands = vec![(commit.clone(), None)];
        let mut outcomes = Vec::with_capacity(riders.len());
        for Rider { moves, outcome, early, .. } in riders {
            match self.registered() {
                Ok(by) => {
                    commands.push((Command::HandOver { by, moves }.encode().into(), Some(early)));
                    outcomes.push(outcome);
                }
                // Nobody waits any more only if the process ends.
                Err(error) => drop(outcome.send(Err(error))),
            }
        }
        let mut answers = self.replica.propose_together(commands).await.into_iter();
        let committed = answers.next().expect("one answer for each command");
        if let Err(metalog::Error::TooLarge { .. }) = &committed {
            // Of all of them together, and none was sent. The commit goes alone, if it can go at all.
            for outcome in outcomes {
                let _ =
                    outcome.send(Err(Error::Unavailable("there was no room beside the commit".to_owned())));
            }
            return carried_out(self.proposed(self.replica.propose(commit).await));
        }
        for (answer, outcome) in answers.zip(outcomes) {
            let _ = outcome.send(self.proposed(answer).and_then(moved));
        }
        carried_out(self.proposed(committed))
    }
}
