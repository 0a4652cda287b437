//! Keys of the AWS tools' files, read again while the broker runs.
//!
//! Whoever rotates keys, or renews a session token before it expires, writes the files anew; a broker that had read them
//! only at its start would have to be restarted each time. Keys in the environment cannot change in a running process,
//! and what object_store finds by itself (web identity, container, instance) it renews by itself.
//!
//! **Retries**: what cannot be read, perhaps because it is just being written, leaves the keys as they were until the
//! next time. **Cancellation**: harmless, the next caller after the interval reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use parking_lot::Mutex;

use super::Error;
use super::aws_profile::{self, Keys, Profile};

#[derive(Debug)]
pub(super) struct RotatingKeys {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    keys: Arc<AwsCredential>,
    read_at: Instant,
}

impl RotatingKeys {
    /// `keys` until they are read again, `interval` from now at the earliest.
    pub fn new(keys: Keys, interval: Duration) -> RotatingKeys {
        RotatingKeys {
            interval,
            state: Mutex::new(State { keys: credential(keys), read_at: Instant::now() }),
        }
    }

    /// The keys; `None` if it is this caller's turn to read them again.
    fn current(&self, now: Instant) -> Option<Arc<AwsCredential>> {
        let mut state = self.state.lock();
        if now.saturating_duration_since(state.read_at) < self.interval {
            return Some(state.keys.clone());
        }
        state.read_at = now;
        None
    }

    /// Takes what was read, or keeps what there was.
    fn replace(&self, read: Result<Profile, Error>) -> Arc<AwsCredential> {
        let mut state = self.state.lock();
        match read {
            Ok(Profile { keys: Some(keys), .. }) => {
                let keys = credential(keys);
                if keys != state.keys {
                    tracing::info!("the keys for S3 have changed; using the new ones");
                    state.keys = keys;
                }
            }
            Ok(_) => tracing::warn!("the AWS files hold no keys any more; keeping those from before"),
            Err(error) => tracing::warn!("the keys for S3 stay as they were: {error}"),
        }
        state.keys.clone()
    }
}

fn credential(keys: Keys) -> Arc<AwsCredential> {
    let Keys { access_key_id, secret_access_key, session_token } = keys;
    Arc::new(AwsCredential { key_id: access_key_id, secret_key: secret_access_key, token: session_token })
}

#[async_trait]
impl CredentialProvider for RotatingKeys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        if let Some(keys) = self.current(Instant::now()) {
            return Ok(keys);
        }
        // Files; not on the runtime's threads.
        let read = tokio::task::spawn_blocking(aws_profile::load).await;
        let read =
            read.map_err(|error| object_store::Error::Generic { store: "S3", source: error.into() })?;
        Ok(self.replace(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(id: &str) -> Keys {
        Keys { access_key_id: id.to_owned(), secret_access_key: "s".to_owned(), session_token: None }
    }

    fn profile(keys: Option<Keys>) -> Profile {
        Profile { keys, ..Profile::default() }
    }

    #[test]
    fn keys_are_read_again_after_the_interval_by_one_caller() {
        let rotating = RotatingKeys::new(keys("old"), Duration::from_secs(10));
        let start = Instant::now();
        let current = |seconds| rotating.current(start + Duration::from_secs(seconds));
        assert_eq!(current(9).unwrap().key_id, "old");
        assert!(current(11).is_none(), "the one who reads");
        assert_eq!(current(12).unwrap().key_id, "old", "nobody waits for the one who reads");
        assert_eq!(rotating.replace(Ok(profile(Some(keys("new"))))).key_id, "new");
        assert_eq!(current(13).unwrap().key_id, "new");
        assert!(current(22).is_none());
    }

    #[test]
    fn what_cannot_be_read_leaves_the_keys_as_they_were() {
        let rotating = RotatingKeys::new(keys("old"), Duration::ZERO);
        assert_eq!(rotating.replace(Ok(profile(None))).key_id, "old");
        let error = Error::Profile { profile: "default".to_owned(), detail: "gone".to_owned() };
        assert_eq!(rotating.replace(Err(error)).key_id, "old");
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let secret = Keys {
            access_key_id: "id".to_owned(),
            secret_access_key: "canary-one".to_owned(),
            session_token: Some("canary-two".to_owned()),
        };
        assert!(!format!("{:?}", RotatingKeys::new(secret, Duration::ZERO)).contains("canary"));
    }
}
