//! [`StreamMetadata`] over the metadata log. M1 and M4 are the replica's (a command is answered once it is applied
//! here), M2 and M3 are [`apply`](super::apply)'s.
//!
//! A commit whose outcome stays unknown is reported as unavailable: the caller tries it again, and a commit that was
//! applied already is accepted as such. A recovery's commit that is tried again meets a trim point that has moved, or a
//! recovery that is complete, which makes its caller look how far the recovery has come.

use async_trait::async_trait;
use s3stream::StreamMetadata;
use s3stream::metadata::{Commit, Error, Located, Replacement, StreamId, StreamView};
use wal::{Incarnation, Position};

use super::Metadata;
use super::apply::Outcome;
use super::command::Command;

#[async_trait]
impl StreamMetadata for Metadata {
    fn stream(&self, id: StreamId) -> Option<StreamView> {
        self.view().machine.stream_view(id)
    }

    fn locate(&self, id: StreamId, from: u64, limit: usize) -> Vec<Located> {
        self.view().machine.locate(id, from, limit)
    }

    fn locate_timestamp(&self, id: StreamId, timestamp: i64) -> Option<Located> {
        self.view().machine.locate_timestamp(id, timestamp)
    }

    fn locate_max_timestamp(&self, id: StreamId) -> Option<Located> {
        self.view().machine.locate_max_timestamp(id)
    }

    fn owned_streams(&self, owner: Incarnation, from: StreamId, limit: usize) -> Vec<StreamId> {
        self.view().machine.owned_streams(owner, from, limit)
    }

    fn recovered_to(&self, of: Incarnation) -> Option<Position> {
        self.view().machine.recovered_to(of)
    }

    async fn catch_up(&self) -> Result<(), Error> {
        self.refresh().await.map(drop).map_err(|error| match error {
            super::Error::Fenced(reason) | super::Error::Failed(reason) => Error::Fenced(reason),
            other => Error::Unavailable(other.to_string()),
        })
    }

    async fn commit(&self, commit: Commit) -> Result<(), Error> {
        self.commit_with_riders(commit).await
    }

    async fn commit_recovered(
        &self,
        by: Incarnation,
        of: Incarnation,
        from: Position,
        commit: Commit,
        last: bool,
    ) -> Result<(), Error> {
        self.carry_out(Command::CommitRecovered { by, of, from, commit, last }).await
    }

    async fn trim(&self, by: Incarnation, trims: Vec<(StreamId, u64)>) -> Result<(), Error> {
        self.carry_out(Command::TrimStreams { by, trims }).await
    }

    async fn replace(&self, by: Incarnation, replacements: Vec<Replacement>) -> Result<(), Error> {
        self.carry_out(Command::ReplaceParts { by, replacements }).await
    }
}

impl Metadata {
    pub(super) async fn carry_out(&self, command: Command) -> Result<(), Error> {
        carried_out(self.propose(&command).await)
    }
}

/// What came of a command, as the storage engine is told.
pub(super) fn carried_out(outcome: Result<Outcome, super::Error>) -> Result<(), Error> {
    outcome.map(drop).map_err(|error| match error {
        super::Error::Conflict(reason) => Error::Conflict(reason),
        super::Error::Refused(reason) => Error::Rejected(reason),
        super::Error::Unavailable(reason) | super::Error::Unknown(reason) => Error::Unavailable(reason),
        // Nothing that this process asks for can succeed any more: for the storage engine the same as a fence.
        super::Error::Fenced(reason) | super::Error::Failed(reason) => Error::Fenced(reason),
    })
}
