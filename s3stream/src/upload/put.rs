//! One object into the bucket: whatever it takes, or within so many attempts.
//!
//! Objects are created, never overwritten, and keys are never used twice. So a PUT that lands after its caller gave up
//! on it does no harm: it carries the same bytes under the same key (F24). "It exists already" is resolved by reading
//! back what is there (F22, F23): the index with its checksums and the nonce says whether it is ours.

use std::time::Duration;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::time::timeout;

use super::plan::{StreamRecords, encode};
use crate::backoff::Backoff;
use crate::metadata::NewObject;
use crate::object::{ENTRY_BYTES, Encoded, FOOTER_BYTES, ObjectIndex, Tail, object_key};
use crate::{Config, ObjectId};

/// Writes `contents` as one object under an id of `next_id`. Returns once it is in the bucket; tries for ever.
pub(crate) async fn put(
    config: &Config,
    store: &dyn ObjectStore,
    next_id: &(dyn Fn() -> ObjectId + Sync),
    contents: Vec<StreamRecords>,
) -> NewObject {
    loop {
        let id = next_id();
        let encoded = encode(id, &contents, config).await;
        if host::planted("commit-before-upload") {
            let _ = attempt(config, store, id, &encoded).await;
            return encoded.new_object();
        }
        if create(config, store, id, &encoded).await {
            return encoded.new_object();
        }
        tracing::error!(key = %object_key(id), "the key of a new object holds something else; taking the next");
    }
}

/// Creates the object; tries for ever. `false` if the key holds something else.
async fn create(config: &Config, store: &dyn ObjectStore, id: ObjectId, encoded: &Encoded) -> bool {
    let mut backoff = Backoff::new(config);
    loop {
        match attempt(config, store, id, encoded).await {
            Ok(is_ours) => return is_ours,
            Err(error) => tracing::warn!(key = %object_key(id), error, "upload failed; retrying"),
        }
        backoff.pause().await;
    }
}

/// Creates the object, or says after so many attempts why the last one failed: then it may be there, or come yet.
pub(crate) async fn create_within(
    attempts_max: usize,
    config: &Config,
    store: &dyn ObjectStore,
    id: ObjectId,
    encoded: &Encoded,
) -> Result<bool, String> {
    let mut backoff = Backoff::new(config);
    for _ in 1..attempts_max {
        match attempt(config, store, id, encoded).await {
            Ok(is_ours) => return Ok(is_ours),
            Err(error) => tracing::debug!(key = %object_key(id), error, "a PUT failed; retrying"),
        }
        backoff.pause().await;
    }
    let last = attempt(config, store, id, encoded).await;
    last.map_err(|error| format!("writing {}: {error}, in {attempts_max} attempts", object_key(id)))
}

/// One attempt to create the object. `false` if the key holds something else.
async fn attempt(
    config: &Config,
    store: &dyn ObjectStore,
    id: ObjectId,
    encoded: &Encoded,
) -> Result<bool, String> {
    let key = object_key(id);
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let put = timeout(config.put_timeout, store.put_opts(&key, encoded.payload(), options)).await;
    match put {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => {
            match read_back(config.put_timeout, store, id, encoded).await {
                Found::Ours => Ok(true),
                Found::Other => Ok(false),
                Found::Nothing => Err("it was there, and is not".to_owned()),
                Found::NoAnswer(error) => Err(format!("it cannot be read back: {error}")),
            }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {:?}", config.put_timeout)),
    }
}

enum Found {
    Ours,
    Other,
    Nothing,
    NoAnswer(String),
}

async fn read_back(limit: Duration, store: &dyn ObjectStore, id: ObjectId, encoded: &Encoded) -> Found {
    let key = object_key(id);
    let tail_bytes = (encoded.index.blocks().len() * ENTRY_BYTES + FOOTER_BYTES) as u64;
    let read = async {
        // The size first: a range beyond the end of what is there would be an error like any other.
        let size = store.head(&key).await?.size;
        if size != encoded.size_bytes {
            return Ok((size, Bytes::new()));
        }
        Ok((size, store.get_range(&key, size - tail_bytes..size).await?))
    };
    match timeout(limit, read).await {
        Ok(Ok((size, _))) if size != encoded.size_bytes => Found::Other,
        Ok(Ok((size, tail))) => match ObjectIndex::decode(&tail, size) {
            Ok(Tail::Index(index)) if index == encoded.index => Found::Ours,
            // Truncated on the way, perhaps: an object that is really other is so every time.
            _ if tail.len() as u64 != tail_bytes => Found::NoAnswer("a short answer".to_owned()),
            _ => Found::Other,
        },
        Ok(Err(object_store::Error::NotFound { .. })) => Found::Nothing,
        Ok(Err(error)) => Found::NoAnswer(error.to_string()),
        Err(_) => Found::NoAnswer("timed out".to_owned()),
    }
}
