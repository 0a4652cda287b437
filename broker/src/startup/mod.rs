//! From options to a running broker, and back to nothing left to recover.
//!
//! ```text
//!   store ─► probe, if it is new ─► metadata ─► is the predecessor alive? ─► volume locked
//!         ─► register (fences the predecessor) ─► recover its WAL ─► open ours ─► partitions ─► listen
//! ```
//!
//! - **A1** Nothing is written to a store that failed the probe, but the probe's own objects.
//! - **A2** The volume is locked before the predecessor is fenced: a start that must be refused disturbs nobody.
//! - **A3** No partition is opened before the recovery of every earlier incarnation is complete (O2).
//! - **A4** Clients are accepted only after all of that.
//!
//! A crash anywhere in between leaves an incarnation that the next start fences and recovers like any other.

mod address;
mod banner;
mod limits;
mod predecessor;
mod running;
mod store_ready;
mod wal_medium;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use s3stream::StreamMetadata;
use wal::{AckRight, Incarnation, Medium, Position, Uri, Vacated, Wal};

use crate::admin;
use crate::config::BrokerConfig;
use crate::metadata::image::Listener;
use crate::metadata::{self, Metadata, Registering, cluster_id};
use crate::options::Options;
use crate::store::{self, Purpose, Stores};

use address::Addresses;
use banner::is_loopback;
use wal_medium::{Media, Opened};

pub use running::{Running, signals};

/// Between two attempts while the store does not do what a start needs.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Added to a predecessor's lease before its volume is read: what two clocks may disagree about over that time.
const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// Starts a broker. On an error nothing is left running, and the predecessor, if there is one, is undisturbed unless the
/// error came after it was fenced.
pub async fn start(options: Options) -> anyhow::Result<Running> {
    let began = Instant::now();
    limits::prepare(options.bounds.server.connections_max);
    let config = Arc::new(
        BrokerConfig::new(&options.kafka)
            .and_then(|config| config.with_batch_limit(wal_medium::batch_bytes_max(&options)))
            .map_err(|invalid| anyhow::anyhow!("kafka: {}", invalid.0))?,
    );
    let addresses = Addresses::resolve(&options).await?;
    let admin = match &options.admin_listen {
        Some(at) => {
            if !is_loopback(&at.host) {
                tracing::warn!(
                    "the admin endpoint on {at} asks nobody for a password: keep it behind a firewall"
                );
            }
            Some(admin::Bound::new(at, options.bounds.admin.clone()).await?)
        }
        None => None,
    };
    let stores = store::open(options.store.clone(), &options.access)?;
    store_ready::until_ready(&stores).await?;
    let metadata = open_metadata(&options, &stores).await?;
    match assemble(&options, config, Doors { addresses, admin }, stores, metadata.clone(), began).await {
        Ok(running) => Ok(running),
        Err(error) => {
            // What was registered stays in the log as it is; the next start deals with it.
            let _ = metadata.close(false).await;
            Err(error)
        }
    }
}

/// Tries until the store lets it. What may have happened and what did not are the same here: an incarnation that nobody
/// knows of never opened its log, and the next registration fences it.
async fn persevere<T>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, metadata::Error>,
) -> Result<T, metadata::Error> {
    loop {
        match attempt().await {
            Err(error @ (metadata::Error::Unavailable(_) | metadata::Error::Unknown(_))) => {
                tracing::warn!("{what}: {error}. Trying again until it works");
                tokio::time::sleep(STORE_PAUSE).await;
            }
            ended => return ended,
        }
    }
}

async fn open_metadata(options: &Options, stores: &Stores) -> anyhow::Result<Arc<Metadata>> {
    let open = || Metadata::open(stores.metadata.clone(), options.bounds.metadata.clone());
    persevere("reading the metadata", open)
        .await
        .with_context(|| format!("the metadata in {} cannot be read", stores.location))
}

async fn assemble(
    options: &Options,
    config: Arc<BrokerConfig>,
    doors: Doors,
    stores: Stores,
    metadata: Arc<Metadata>,
    began: Instant,
) -> anyhow::Result<Running> {
    let cluster = cluster_id::parse(&metadata.cluster_id()).context("the cluster's id is not a UUID")?;
    refuse_beside_a_living_broker(options, &metadata).await?;
    let media = Media { options, cluster, stores: &stores };
    // A2.
    let ours = media.ours()?;
    let right = Arc::new(AckRight::leased());
    let advertised = doors.addresses.advertised();
    let listener = Listener { host: advertised.host.as_str().into(), port: advertised.port };
    let machine = host::machine_id();
    let register = || {
        let id = options.node_id as u32;
        metadata.register(Registering {
            id,
            wal: ours.medium.uri(),
            listener: listener.clone(),
            rack: options.rack.as_deref(),
            machine: &machine,
            replaces: metadata.image().last_registration(id),
        })
    };
    let registered = persevere("registering this broker", register)
        .await
        .context("this broker cannot register in the metadata")?;
    metadata.keep_lease(right.clone())?;

    let incarnation = registered.incarnation;
    let engine = options.bounds.engine.clone();
    // A3.
    let mut vacated = None;
    let recovered = !registered.previous.is_empty();
    for previous in &registered.previous {
        let uri = Uri(previous.wal_uri.to_string());
        let is_ours = wal_medium::is_same(&uri, ours.medium.uri());
        let theirs = media.left(&uri, is_ours)?;
        let Opened { medium, exclusive } = theirs.as_ref().unwrap_or(&ours);
        if !exclusive {
            let wait = previous.lease + LEASE_MARGIN;
            tracing::warn!("waiting {wait:?} until no other host can acknowledge anything on {uri}");
            tokio::time::sleep(wait).await;
        }
        let proof =
            recover(&engine, &stores, &metadata, &**medium, incarnation, previous.incarnation, previous.trim)
                .await?;
        if is_ours {
            vacated = Some(proof);
        }
    }
    // Where no incarnation with this log is unrecovered, the last one closed it empty, or there was none.
    let vacated = vacated.unwrap_or_else(Vacated::nothing_left);
    let wal = ours
        .medium
        .open(incarnation, vacated, right.clone())
        .await
        .context("the write-ahead log cannot be opened")?;
    let parts = Parts { options, config, stores, metadata, wal, right, incarnation, engine };
    parts.serve(doors, recovered, began).await
}

/// Refuses to start where the registered broker of this id answers on its address (unless told to take over).
///
/// That address may be ours too: our port is free and nobody listens on it yet, so whoever answers there is another.
async fn refuse_beside_a_living_broker(options: &Options, metadata: &Metadata) -> anyhow::Result<()> {
    let image = metadata.image();
    let id = options.node_id as u32;
    let Some(info) = image.broker(id) else { return Ok(()) };
    let registered = &info.listener;
    // Clean shutdowns leave nobody to ask.
    let may_live = image.is_live(Incarnation { broker: id, epoch: info.epoch });
    if !may_live || options.takeover {
        return Ok(());
    }
    ensure!(
        *info.machine == *host::machine_id() || !is_loopback(&registered.host),
        "broker {id} of {} registered from another machine ({}) with an address that only that machine can reach, \
         {}:{}, so nobody here can tell whether it lives. Stop it there first; or, if it is dead for certain, say \
         --takeover",
        options.store,
        info.machine,
        registered.host,
        registered.port
    );
    let alive =
        predecessor::is_alive(&registered.host, registered.port, &metadata.cluster_id(), options.node_id)
            .await;
    ensure!(
        !alive,
        "broker {id} of {} is alive at {}:{}. Stop it first, or say --takeover to replace it",
        options.store,
        registered.host,
        registered.port
    );
    Ok(())
}

async fn recover(
    engine: &s3stream::Config,
    stores: &Stores,
    metadata: &Arc<Metadata>,
    medium: &dyn Medium,
    by: Incarnation,
    of: Incarnation,
    from: Position,
) -> anyhow::Result<Vacated> {
    let began = Instant::now();
    let mut from = from;
    loop {
        let streams = metadata.clone() as Arc<dyn StreamMetadata>;
        let store = stores.data(Purpose::Recovery);
        tracing::info!("recovering what epoch {} of broker {} left in {}", of.epoch, of.broker, medium.uri());
        match s3stream::recovery::recover(engine, store, streams, medium, by, of, from).await {
            Ok(vacated) => {
                tracing::info!(
                    "recovered what epoch {} of broker {} left in {}, in {:?}",
                    of.epoch,
                    of.broker,
                    medium.uri(),
                    began.elapsed()
                );
                return Ok(vacated);
            }
            Err(s3stream::Error::Unavailable(reason)) => {
                tracing::warn!("recovery of {of:?}: {reason}; starting over from where the metadata stands");
                tokio::time::sleep(Duration::from_millis(500)).await;
                let image = metadata.refresh().await?;
                match image.life(of) {
                    Some(life) => from = life.trim,
                    // Nobody else could: whoever else recovers has fenced us. The last commit's answer was lost.
                    None if image.is_live(by) => return Ok(Vacated::nothing_left()),
                    None => bail!("{of:?} was recovered by somebody else, who has fenced {by:?}"),
                }
            }
            Err(error) => return Err(error).with_context(|| format!("{} cannot be recovered", medium.uri())),
        }
    }
}

/// Where people and programs come in.
struct Doors {
    addresses: Addresses,
    admin: Option<admin::Bound>,
}

/// What [`assemble`] has gathered once the log is open.
struct Parts<'a> {
    options: &'a Options,
    config: Arc<BrokerConfig>,
    stores: Stores,
    metadata: Arc<Metadata>,
    wal: Arc<dyn Wal>,
    right: Arc<AckRight>,
    incarnation: Incarnation,
    engine: s3stream::Config,
}
