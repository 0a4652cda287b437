//! From options to a running broker, and back to nothing left to recover.
//!
//! ```text
//!   store ─► probe, if it is new ─► metadata ─► volume locked ─► who are we? ─► is a predecessor alive?
//!         ─► register (fences the predecessor) ─► recover its WAL ─► open ours ─► leaderships ─► listen
//! ```
//!
//! - **A1** Nothing is written to a store that failed the probe, but the probe's own objects.
//! - **A2** The volume is locked, and known to be nobody else's to write to, before a predecessor is fenced: a start that
//!   must be refused disturbs nobody.
//! - **A3** A start recovers what earlier lives of the same broker left, and waits for nobody else's: no stream of a life that
//!   is not recovered can be opened anyhow (O2), and the others' are the fail-over's.
//! - **A4** Clients are accepted only after all of that.
//!
//! A crash anywhere in between leaves an incarnation that the next start fences and recovers like any other.

mod address;
mod banner;
mod identity;
mod limits;
mod predecessor;
pub mod rejoin;
mod running;
mod store_ready;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use wal::uri::Target;
use wal::{AckRight, Incarnation, Uri, Vacated, Wal};

use crate::admin;
use crate::cluster::Peers;
use crate::config::BrokerConfig;
use crate::failover::recovery::{Recovered, Recoverer};
use crate::machine;
use crate::media::{self, Judged, LastWriter, Media, Ours};
use crate::metadata::image::Listener;
use crate::metadata::{self, ImageRef, Metadata, Registering, cluster_id};
use crate::options::Options;
use crate::store::{self, Stores};

use address::Addresses;
use banner::is_loopback;

pub use running::{Running, signals};

/// Between two attempts while the store does not do what a start needs.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Other processes that take the id that this one wants, one after the other, until it gives up. No option: more than a few
/// at one time are a mistake of whoever starts them.
const RACES_MAX: u32 = 16;

/// How long brokers that are to format blank volumes wait for each other, where the devices have no ids to tell them apart. No
/// option: it takes a moment, once, and who waits for one that is gone has to be told.
const FORMATTING_MAX: Duration = Duration::from_secs(60);

/// How long a start that ends early tries to say that nothing of it is left. No option: it is a courtesy to later starts.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a broker. On an error nothing is left running, and the predecessor, if there is one, is undisturbed unless the
/// error came after it was fenced.
pub async fn start(options: Options) -> anyhow::Result<Running> {
    let started = start_unless(options, futures::stream::pending()).await?;
    Ok(started.expect("nobody told it to stop"))
}

/// The same, unless one of the `signals` comes before it serves: `None`. A second one ends it where it stands.
pub async fn start_unless(
    options: Options,
    mut signals: impl Stream<Item = &'static str> + Unpin,
) -> anyhow::Result<Option<Running>> {
    let began = Instant::now();
    let begun = Begun::default();
    let outcome = {
        let mut attempt = std::pin::pin!(attempt(options, &begun, began));
        tokio::select! {
            started = &mut attempt => started.map(Some),
            Some(name) = signals.next() => {
                tracing::info!("{name} during the start: stopping");
                // What it has sent may be accepted, and is to be ended then.
                let heard = tokio::time::timeout(CLOSE_TIMEOUT, begun.has_heard());
                tokio::select! {
                    biased;
                    _ = heard => Ok(None),
                    Some(name) = signals.next() => {
                        tracing::info!("{name} again: stopped where it stood");
                        return Ok(None);
                    }
                    started = &mut attempt => match started {
                        Ok(running) => {
                            let signals = futures::stream::iter([name]).chain(signals);
                            return running.until_stopped(signals).await.map(|()| None);
                        }
                        Err(error) => Err(error),
                    },
                }
            }
        }
    };
    let error = match outcome {
        Ok(Some(running)) => return Ok(Some(running)),
        Ok(None) => None,
        Err(error) => Some(error),
    };
    let deposed = tokio::select! {
        deposed = begun.end(began) => deposed,
        Some(name) = signals.next() => {
            tracing::info!("{name} again: stopped where it stood");
            None
        }
    };
    match (error, deposed) {
        (None, _) => Ok(None),
        (Some(error), Some(deposed)) => Err(error.context(deposed)),
        (Some(error), None) => Err(error),
    }
}

/// How far a start has come.
#[derive(Default)]
struct Begun {
    metadata: OnceLock<Arc<Metadata>>,
    ours: OnceLock<Arc<Ours>>,
    /// It has sent a registration, and not heard what became of it.
    registers: watch::Sender<bool>,
    /// It opens its log: from here on there may be writes on their way to it.
    log: AtomicBool,
}

impl Begun {
    /// Ends what was begun. A life that did not get to open its log says that nothing of it is left, its claim of a volume
    /// included (N5 of [`volumes`](crate::metadata::volumes)), unless others are judged by that; of another one the next start finds
    /// what there is. Gives the reason to begin anew, if there is one.
    async fn end(&self, began: Instant) -> Option<rejoin::Deposed> {
        let metadata = self.metadata.get()?;
        let stays = self.log.load(Ordering::SeqCst) || self.is_rested_on(metadata);
        if !stays && matches!(tokio::time::timeout(CLOSE_TIMEOUT, metadata.close(true)).await, Ok(Ok(()))) {
            return None;
        }
        let _ = metadata.close(false).await;
        // A start that took long, or was stopped for a while, may have been taken for dead (J3).
        metadata.incarnation().and_then(|own| rejoin::deposed(&metadata.image(), own, began.elapsed()))
    }

    /// Resolves when it waits for no registration's outcome.
    async fn has_heard(&self) {
        // The sender is here.
        let _ = self.registers.subscribe().wait_for(|registers| !registers).await;
    }

    fn is_rested_on(&self, metadata: &Metadata) -> bool {
        let (Some(ours), Some(own)) = (self.ours.get(), metadata.incarnation()) else { return false };
        ours.rests_on(own, &metadata.image())
    }
}

async fn attempt(options: Options, begun: &Begun, began: Instant) -> anyhow::Result<Running> {
    limits::prepare(options.bounds.server.connections_max);
    let config = Arc::new(
        BrokerConfig::new(&options.kafka)
            .and_then(|config| config.with_batch_limit(media::batch_bytes_max(&options)))
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
    begun.metadata.set(metadata.clone()).expect("a start opens it once");
    assemble(&options, config, Doors { addresses, admin }, stores, metadata, begun, began).await
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
    begun: &Begun,
    began: Instant,
) -> anyhow::Result<Running> {
    let cluster = cluster_id::parse(&metadata.cluster_id()).context("the cluster's id is not a UUID")?;
    let media = Arc::new(Media::new(options, cluster, Arc::new(stores), machine::here()));
    // A2.
    let ours = take(&media).await?;
    begun.ours.set(ours.clone()).expect("a start takes it once");
    let right = Arc::new(AckRight::leased());
    let advertised = doors.addresses.advertised();
    let listener = Listener { host: advertised.host.as_str().into(), port: advertised.port };
    let (incarnation, last) = become_a_broker(options, &metadata, &media, &ours, &listener, begun).await?;
    metadata.keep_lease(right.clone())?;
    // From here on the others expect to hear of it, however long it takes until it serves.
    let peers = Peers::start(options.bounds.cluster.clone(), metadata.clone(), right.clone());

    let engine = options.bounds.engine.clone();
    let recoverer = Recoverer {
        metadata: metadata.clone(),
        media: media.clone(),
        engine: engine.clone(),
        by: incarnation,
    };
    // A3.
    let (vacated, recovered) = recover_own(&recoverer, &ours, last).await?;
    begun.log.store(true, Ordering::SeqCst);
    let wal = ours
        .medium
        .open(incarnation, vacated, right.clone())
        .await
        .context("the write-ahead log cannot be opened")?;
    let parts = Parts { options, config, media, metadata, peers, wal, right, incarnation, engine, recoverer };
    parts.serve(doors, recovered, began).await
}

/// Takes the volume. On a thread of its own, like all that asks a device: one that does not answer holds up nobody who wants to
/// stop this process.
async fn take(media: &Arc<Media>) -> anyhow::Result<Arc<Ours>> {
    let media = media.clone();
    Ok(Arc::new(host::work::blocking(move || media.ours()).await??))
}

/// [`media::check_ours`], likewise.
async fn judge(
    media: &Arc<Media>,
    ours: &Arc<Ours>,
    image: &ImageRef,
    id: u32,
    detached: bool,
) -> anyhow::Result<Judged> {
    let (media, ours, image) = (media.clone(), ours.clone(), image.clone());
    host::work::blocking(move || media::check_ours(&media, &ours, &image, id, detached)).await?
}

/// Takes an id, and registers under it (Id3), once the volume is known to be nobody else's to write to (A2).
async fn become_a_broker(
    options: &Options,
    metadata: &Metadata,
    media: &Arc<Media>,
    ours: &Arc<Ours>,
    listener: &Listener,
    begun: &Begun,
) -> anyhow::Result<(Incarnation, LastWriter)> {
    let machine = media.machine.as_str();
    let known = identity::Known {
        id: options.node_id.map(|id| id as u32),
        volume: ours.last_owner,
        listener,
        machine,
    };
    let until = tokio::time::Instant::now() + FORMATTING_MAX;
    let mut races = 0;
    while races < RACES_MAX {
        // One image for who may write to the volume, who is asked whether it lives and who is replaced.
        let image = metadata.image();
        let id = identity::choose(&known, &image)?;
        let judged = judge(media, ours, &image, id, options.wal_detached).await?;
        if let Some(reason) = judged.wait {
            ensure!(tokio::time::Instant::now() < until, reason);
            tracing::info!("waiting: {reason}");
            tokio::time::sleep(STORE_PAUSE).await;
            persevere("reading the metadata", || metadata.refresh()).await?;
            continue;
        }
        races += 1;
        refuse_beside_a_living_broker(options, metadata, &image, id, machine).await?;
        let mut unheard = false;
        let register = async || {
            let registering = Registering {
                id,
                wal: ours.medium.uri(),
                listener: listener.clone(),
                rack: options.rack.as_deref(),
                machine,
                replaces: image.last_registration(id),
                claim: judged.claim.clone(),
            };
            begun.registers.send_replace(true);
            let registered = metadata.register(registering).await;
            begun.registers.send_replace(false);
            unheard |= matches!(registered, Err(metadata::Error::Unknown(_)));
            registered
        };
        match persevere("registering this broker", register).await {
            Ok(registered) => return Ok((registered.incarnation, judged.writer)),
            Err(metadata::Error::Conflict(_)) => {
                let before = image.last_registration(id);
                let image =
                    metadata.refresh().await.context("this broker cannot register in the metadata")?;
                if image.last_registration(id) == before {
                    // Somebody else claimed the volume, or a blank one, which is to be judged first.
                    continue;
                }
                let theirs = image.broker(id).context("a registration was lost")?;
                // Our own, of which we did not hear that it was accepted, is followed like any other that is dead.
                let is_own = theirs.listener == *listener && *theirs.machine == *machine;
                ensure!(
                    is_own || (options.node_id.is_none() && identity::choose(&known, &image)? != id),
                    "broker id {id} of {} was taken a moment ago by another process, which says that it is reached at {}:{}: give \
                     each broker an id of its own, or none",
                    options.store,
                    theirs.listener.host,
                    theirs.listener.port
                );
                let life = Incarnation { broker: id, epoch: theirs.epoch };
                if unheard && is_own && ours.is_claimed_by(life, &image) {
                    ours.is_not(life);
                }
            }
            Err(error) => return Err(error).context("this broker cannot register in the metadata"),
        }
    }
    bail!("other processes were quicker {RACES_MAX} times to take the id that this one wanted")
}

/// Refuses to start where the registered broker of this id answers on its address (unless told to take over).
///
/// That address may be ours too: our port is free and nobody listens on it yet, so whoever answers there is another.
async fn refuse_beside_a_living_broker(
    options: &Options,
    metadata: &Metadata,
    image: &ImageRef,
    id: u32,
    machine: &str,
) -> anyhow::Result<()> {
    let Some(info) = image.broker(id) else { return Ok(()) };
    let registered = &info.listener;
    // Clean shutdowns leave nobody to ask.
    let may_live = image.is_live(Incarnation { broker: id, epoch: info.epoch });
    if !may_live || options.takeover {
        return Ok(());
    }
    ensure!(
        machine::is_same(&info.machine, machine) || !is_loopback(&registered.host),
        "broker {id} of {} registered from another machine ({}) with an address that only that machine can reach, \
         {}:{}, so nobody here can tell whether it lives. Stop it there first; or, if it is dead for certain, say \
         --takeover",
        options.store,
        info.machine,
        registered.host,
        registered.port
    );
    let alive =
        predecessor::is_alive(&registered.host, registered.port, &metadata.cluster_id(), id as i32).await;
    ensure!(
        !alive,
        "broker {id} of {} is alive at {}:{}. Stop it first, or say --takeover to replace it",
        options.store,
        registered.host,
        registered.port
    );
    Ok(())
}

/// Recovers what earlier lives of this broker left (A3). Gives the proof that nothing is left in our log, and whether there
/// was anything to recover.
async fn recover_own(
    recoverer: &Recoverer,
    ours: &Ours,
    last: LastWriter,
) -> anyhow::Result<(Vacated, bool)> {
    let known = tokio::time::Instant::now();
    let image = recoverer.metadata.image();
    let earlier: Vec<(Incarnation, Uri)> = image
        .unrecovered()
        .filter(|(of, _)| of.broker == recoverer.by.broker)
        .map(|(of, life)| (of, Uri(life.wal_uri.to_string())))
        .collect();
    let mut vacated = None;
    // Fenced by our registration, whether anybody recovered it or not.
    let acknowledges = match last {
        LastWriter::Gone => false,
        LastWriter::Leased => true,
        LastWriter::Reachable(owner) => !ours.shut_out(owner).await,
    };
    for (of, uri) in &earlier {
        // A volume is known by who wrote it, whatever it is called today.
        let is_ours = ours.last_owner.is_some_and(|last| last.incarnation == *of)
            || matches!(uri.target()?, Target::Block { .. }) && media::is_same(uri, ours.medium.uri());
        if !is_ours {
            recoverer.recover_left(*of, known, None).await.with_context(|| beyond_reach(*of, uri))?;
            continue;
        }
        let recovered = match acknowledges {
            true => recoverer.recover_leased(*of, known, &*ours.medium).await?,
            false => recoverer.recover(*of, &*ours.medium).await?,
        };
        if let Recovered::Here { vacated: proof, .. } = recovered {
            vacated = Some(proof);
        }
    }
    // Where no life with this log is unrecovered, the last one closed it empty, or others recovered it, or there was none.
    Ok((vacated.unwrap_or_else(Vacated::nothing_left), !earlier.is_empty()))
}

/// What to do where a start fails on what an earlier life left elsewhere.
fn beyond_reach(of: Incarnation, uri: &Uri) -> String {
    format!(
        "this broker's last life (epoch {}) left its log in {uri}, not in the one that it has now, and it has to be recovered \
         first. Start it with that log (--wal), wherever that is now (and with --wal-detached if it moved there from a machine \
         that cannot write to it any more); or let another broker of the cluster recover it that can reach it or attach it \
         (--wal-attach), and then start again; or start with another --node-id meanwhile",
        of.epoch
    )
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
    media: Arc<Media>,
    metadata: Arc<Metadata>,
    peers: Peers,
    wal: Arc<dyn Wal>,
    right: Arc<AckRight>,
    incarnation: Incarnation,
    engine: s3stream::Config,
    recoverer: Recoverer,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{arguments, gather};

    fn options(directory: &std::path::Path, more: &[&str]) -> Options {
        let store = format!("--store=file:{}/store", directory.display());
        let given = ["serve", &store, "--listen=127.0.0.1:0", "--node-id=1"];
        let given = given.iter().chain(more);
        let matches = clap::Command::new("serve").args(arguments()).get_matches_from(given);
        Options::from_values(&gather(&matches, []).unwrap()).unwrap()
    }

    /// The metadata, as somebody else sees it.
    async fn metadata(options: &Options) -> Arc<Metadata> {
        let stores = store::open(options.store.clone(), &options.access).unwrap();
        open_metadata(options, &stores).await.unwrap()
    }

    /// A life of broker 1 that has ended, and left its log on a volume that is not here.
    async fn left_behind(options: &Options) -> Arc<Metadata> {
        let metadata = metadata(options).await;
        let registering = Registering {
            id: 1,
            wal: &Uri("block:///gone/volume".to_owned()),
            listener: Listener { host: "127.0.0.1".into(), port: 1 },
            rack: None,
            machine: &machine::here(),
            replaces: None,
            claim: None,
        };
        metadata.register(registering).await.unwrap();
        metadata.open_leaderships().await.unwrap();
        metadata
    }

    /// Nothing of it can be on its way to any volume: so nobody has to wait for it, or to be told that it is gone.
    #[tokio::test]
    async fn a_start_that_ends_before_it_opened_its_log_leaves_no_life() {
        let directory = tempfile::tempdir().unwrap();
        let refused = options(directory.path(), &["--wal=object"]);
        let left = left_behind(&refused).await;
        let before = left.incarnation().unwrap();
        let error = start(refused.clone()).await.err().expect("a log is out of reach");
        assert!(format!("{error:#}").contains("has to be recovered"), "{error:#}");
        assert!(error.downcast_ref::<rejoin::Deposed>().is_none(), "it ended by itself: {error:#}");
        let image = left.refresh().await.unwrap();
        assert!(image.last_registration(1) > Some(before.epoch), "it had registered");
        let lives: Vec<_> = image.lives().map(|(life, _)| life).collect();
        assert_eq!(lives, [before], "what is to be recovered");

        // One that is told to stop, by somebody who waits until it knows that it has registered.
        let attaching = directory.path().join("attaching");
        let attach = format!("--wal-attach=touch {}; exec sleep 600", attaching.display());
        let waiting = options(directory.path(), &["--wal=object", &attach]);
        let signals = futures::stream::once(Box::pin(async move {
            while !attaching.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            "SIGTERM"
        }));
        assert!(start_unless(waiting, signals.chain(futures::stream::pending())).await.unwrap().is_none());
        let lives: Vec<_> = left.refresh().await.unwrap().lives().map(|(life, _)| life).collect();
        assert_eq!(lives, [before]);
        left.close(false).await.unwrap();
    }

    /// A signal that comes between a registration and word of it.
    #[tokio::test]
    async fn a_start_that_is_stopped_while_it_registers_leaves_no_life() {
        let directory = tempfile::tempdir().unwrap();
        // It goes no further than that.
        let options = options(directory.path(), &["--wal=object", "--wal-attach=exec sleep 600"]);
        let left = left_behind(&options).await;
        let log = directory.path().join("store/objects/meta/log");
        let entries = move || std::fs::read_dir(&log).unwrap().count();
        let before = entries();
        let signals = futures::stream::poll_fn(move |context| {
            if entries() > before {
                return std::task::Poll::Ready(Some("SIGTERM"));
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        });
        let signals = signals.take(1).chain(futures::stream::pending());
        assert!(start_unless(options, signals).await.unwrap().is_none());
        let image = left.refresh().await.unwrap();
        let before = left.incarnation().unwrap();
        assert!(image.last_registration(1) > Some(before.epoch), "it had registered");
        assert_eq!(image.lives().map(|(life, _)| life).collect::<Vec<_>>(), [before]);
        left.close(false).await.unwrap();
    }

    /// A device that does not answer does not hold up the task that hears of signals.
    #[test]
    fn a_volume_is_looked_at_where_it_holds_up_nobody() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../target").unwrap();
        let wal = format!("--wal=block://{}/wal?capacity=2MiB", directory.path().display());
        let options = options(directory.path(), &[&wal]);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
        let (free, freed) = std::sync::mpsc::channel::<()>();
        let (metadata, media) = runtime.block_on(async {
            let stores = store::open(options.store.clone(), &options.access).unwrap();
            let metadata = open_metadata(&options, &stores).await.unwrap();
            let cluster = cluster_id::parse(&metadata.cluster_id()).unwrap();
            (metadata, Arc::new(Media::new(&options, cluster, Arc::new(stores), machine::here())))
        });
        let image = metadata.image();
        runtime.block_on(async {
            // All threads that may block are held up.
            let held = tokio::task::spawn_blocking(move || freed.recv());
            let mut taking = std::pin::pin!(take(&media));
            let patience = Duration::from_millis(50);
            assert!(tokio::time::timeout(patience, &mut taking).await.is_err(), "it is at work elsewhere");
            free.send(()).unwrap();
            let ours = taking.await.unwrap();
            held.await.unwrap().unwrap();

            let (free, freed) = std::sync::mpsc::channel::<()>();
            let held = tokio::task::spawn_blocking(move || freed.recv());
            let mut judging = std::pin::pin!(judge(&media, &ours, &image, 1, false));
            assert!(tokio::time::timeout(patience, &mut judging).await.is_err(), "so is this");
            free.send(()).unwrap();
            assert_eq!(judging.await.unwrap().writer, LastWriter::Gone);
            held.await.unwrap().unwrap();
        });
    }
}
