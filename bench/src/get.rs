//! The data objects of a directory, read by bare GETs: what a consumer of old data could get at most.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;

use crate::cpu::round;

#[derive(Debug, Args)]
pub struct Options {
    /// The store's directory
    #[arg(long)]
    path: PathBuf,
    /// Bytes of a GET (read-get)
    #[arg(long, default_value_t = 8 << 20)]
    bytes: u64,
    /// GETs at once: read-bytes-in-flight in pieces of read-get
    #[arg(long, default_value_t = 8)]
    gets: usize,
    /// Said again in the result, to tell runs apart
    #[arg(long, default_value = "")]
    label: String,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.bytes > 0 && options.gets > 0, "a GET of at least a byte, one at least");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(read(options))
}

async fn read(options: &Options) -> anyhow::Result<()> {
    let store = LocalFileSystem::new_with_prefix(&options.path)?;
    let objects: Vec<_> = store.list(None).try_collect().await?;
    let mut pieces = Vec::new();
    for object in objects.iter().filter(|object| object.location.parts().any(|part| part.as_ref() == "data"))
    {
        for from in (0..object.size).step_by(usize::try_from(options.bytes)?) {
            pieces.push((object.location.clone(), from..object.size.min(from + options.bytes)));
        }
    }
    ensure!(!pieces.is_empty(), "{} holds no data objects", options.path.display());
    let (began, gets) = (Instant::now(), pieces.len());
    let bytes = futures::stream::iter(pieces)
        .map(|(location, range)| {
            let store = &store;
            async move { anyhow::Ok(store.get_range(&location, range).await?.len() as u64) }
        })
        .buffer_unordered(options.gets)
        .try_fold(0, async |sum, bytes| Ok(sum + bytes))
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({
            "bench": "get", "label": options.label, "objects": objects.len(), "gets": gets, "gets_at_once": options.gets,
            "bytes": bytes, "seconds": round(seconds), "mb_per_second": round(bytes as f64 / 1e6 / seconds),
        })
    );
    Ok(())
}
