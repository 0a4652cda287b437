//! Is the store there, and does it keep its promise?

use std::time::Duration;

use anyhow::Context;
use futures::TryStreamExt;
use metalog::probe;
use object_store::path::Path;

use crate::store::{self, Stores};

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Waits until the store answers, and probes it if it has never held a cluster (A1). A store that is down is waited for,
/// with a word about it; one that refuses is an error.
pub(super) async fn until_ready(stores: &Stores) -> anyhow::Result<()> {
    let mut pause = PAUSE_MIN;
    let is_new = loop {
        // One key is enough to know; the log's own objects are read by number, not by listing.
        match stores.metadata.list(Some(&Path::from("meta"))).try_next().await {
            Ok(first) => break first.is_none(),
            Err(error) if is_final(&error) => {
                return Err(error)
                    .with_context(|| format!("the store {} refuses to be read", stores.location));
            }
            Err(error) => {
                let advice = store::advice(&error.to_string()).unwrap_or_default();
                tracing::warn!(
                    "the store {} does not answer: {error}. Trying again until it does. {advice}",
                    stores.location
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    };
    // A directory's creates are hard links, which the kernel makes atomic; the probe holds for it as for any store.
    if is_new {
        let report = probe::probe(stores.metadata.clone(), probe::Options::default())
            .await
            .with_context(|| format!("the store {} cannot be used", stores.location))?;
        tracing::info!(
            "formatting {}: its creates held in all {} rounds of the probe",
            stores.location,
            report.rounds
        );
    }
    Ok(())
}

/// Whether trying again is pointless.
fn is_final(error: &object_store::Error) -> bool {
    use object_store::Error;
    let by_kind = matches!(
        error,
        Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotFound { .. }
            | Error::NotImplemented { .. }
            | Error::NotSupported { .. }
    );
    by_kind || FINAL_ANSWERS.iter().any(|answer| error.to_string().contains(answer))
}

/// The stores' own words, which object_store passes on for a listing without giving them a kind.
const FINAL_ANSWERS: [&str; 8] = [
    "NoSuchBucket",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "PermanentRedirect",
    // Azure's.
    "ContainerNotFound",
    "AuthenticationFailed",
    "AuthorizationFailure",
];
