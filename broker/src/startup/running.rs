//! A broker that serves, and how it stops.
//!
//! | what happens | what it does | exit |
//! |---|---|---|
//! | SIGTERM, SIGINT | hands its partitions over, stops accepting, finishes requests, writes checkpoints, uploads, says that nothing is left | 0 |
//! | the same again | stops where it stands; the next start recovers | 1 |
//! | the WAL or the metadata failed, or its id was taken | stops where it stands, with the reason | 1 |
//! | fenced by others, which took it for dead | the same, and begins anew ([`rejoin`](super::rejoin)) | – |
//! | an invariant of ours is broken, in a connection or in a task of the background | the same | 1 |

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use futures::{FutureExt, Stream, StreamExt};
use s3stream::gc::{Collector, LowestInFlight};
use s3stream::{Storage, StreamMetadata};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wal::{AckRight, Incarnation};

use super::banner::Banner;
use super::rejoin::deposed;
use super::{Doors, Parts};
use crate::admin::{Admin, Pages};
use crate::api::Advertised;
use crate::api::fetch_session;
use crate::broker::Broker;
use crate::cluster::mover::{self, Mover};
use crate::cluster::{self, Peers};
use crate::config::{BrokerConfig, CurrentConfig};
use crate::failover::Failover;
use crate::options::{Options, WalChoice};
use crate::server::{self, Server};
use crate::store::{Meter, Purpose, Stores};
use crate::usage::{self, Usage};
use crate::{group, partition};

/// How long a broker that cannot go on waits for its fail-over's tasks to end, and for its metadata's.
const FAILED_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A broker that accepts clients. [`until_stopped`](Running::until_stopped) is its life.
pub struct Running {
    broker: Arc<Broker>,
    storage: Storage,
    mover: Arc<Mover>,
    drain_timeout: Duration,
    /// To be shut down before the storage engine is.
    collector: Collector,
    /// So is this.
    failover: Failover,
    incarnation: Incarnation,
    began: Instant,
    right: Arc<AckRight>,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), server::Error>>,
    admin: Option<Admin>,
    shutdown_timeout: Duration,
    banner: String,
    /// Keeps a directory locked until everything has ended.
    _stores: Arc<Stores>,
}

impl Parts<'_> {
    /// Opens the partitions, and lets clients in (A4).
    pub(super) async fn serve(
        self,
        doors: Doors,
        recovered: bool,
        began: Instant,
    ) -> anyhow::Result<Running> {
        let Doors { addresses, admin } = doors;
        let Parts { options, config, media, metadata, peers, wal, right, incarnation, engine, recoverer } =
            self;
        let stores = media.stores.clone();
        super::persevere("taking leaderships", || metadata.open_leaderships())
            .await
            .context("the partitions cannot be opened")?;
        let streams: Arc<dyn StreamMetadata> = metadata.clone();
        let wal_name = options.wal.to_string();
        let engine_stores = s3stream::Stores {
            upload: stores.data(Purpose::Upload),
            compaction: stores.data(Purpose::Compaction),
            read: stores.data(Purpose::Read),
        };
        let storage = Storage::start(engine, engine_stores, streams, wal, incarnation);
        let collector = Collector::start(
            options.bounds.collector.clone(),
            stores.data(Purpose::Collection),
            metadata.clone(),
            incarnation,
            lowest_in_flight(storage.clone()),
        );
        let partitions = partition::Partitions::start(
            partition_config(options, &config),
            incarnation.broker,
            storage.clone(),
            metadata.clone(),
        );
        let groups = group::Groups::of_broker(
            options.bounds.group.clone(),
            metadata.clone(),
            partitions.clone(),
            right.clone(),
            config.clone(),
        );
        let sessions = fetch_session::Limits {
            sessions_max: config.fetch_session_slots,
            ..options.bounds.fetch_session.clone()
        };
        let broker = Arc::new(Broker {
            node_id: incarnation.broker as i32,
            cluster_id: metadata.cluster_id().to_string(),
            configs: Arc::new(CurrentConfig::new(config.clone(), incarnation.broker, metadata.clone())),
            data_location: stores.location.to_string(),
            metadata,
            peers: Arc::new(peers),
            partitions,
            groups: Arc::new(groups),
            right: right.clone(),
            fetch_sessions: fetch_session::Sessions::new(sessions),
        });
        broker.partitions.keep_retention(broker.configs.clone());
        let failover = Failover::start(
            options.bounds.failover.clone(),
            recoverer,
            broker.peers.verdicts(),
            Some(broker.partitions.clone()),
        );
        let mover = Mover::start(
            options.bounds.mover.clone(),
            broker.partitions.clone(),
            broker.metadata.clone(),
            avoided(broker.peers.clone()),
            unreached(broker.peers.clone()),
        );
        cluster::load::tell(&broker.partitions, &broker.peers);
        let advertised = addresses.advertised();
        let advertise = Advertised { host: advertised.host.as_str().into(), port: advertised.port };
        let listeners: Vec<_> =
            addresses.sockets.iter().map(|socket| (*socket, Some(advertise.clone()))).collect();
        let server = Server::bind(server_config(options, &config), broker.clone(), &listeners)
            .await
            .with_context(|| format!("listen: {} cannot be listened on", addresses.listening))?;
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        let admin = admin
            .map(|bound| bound.serve(pages(options, broker.clone(), stores.meter.clone())))
            .transpose()?;
        let banner = Banner {
            options,
            listening: &addresses.listening,
            advertised,
            admin: admin.as_ref().map(Admin::address),
            cluster_id: &broker.cluster_id,
            wal: &wal_name,
            recovered,
            took: began.elapsed(),
        }
        .text();
        let shutdown_timeout = options.shutdown_timeout;
        Ok(Running {
            broker,
            storage,
            mover,
            drain_timeout: options.bounds.mover.drain_timeout,
            collector,
            failover,
            incarnation,
            began: Instant::now(),
            right,
            shutdown,
            serving,
            admin,
            shutdown_timeout,
            banner,
            _stores: stores,
        })
    }
}

/// What the admin endpoint shows.
fn pages(options: &Options, broker: Arc<Broker>, meter: Arc<Meter>) -> Pages {
    let puts_per_second_max = match &options.wal {
        WalChoice::Object => Some(options.bounds.object_wal.puts_per_second_max),
        WalChoice::Block(_) => None,
    };
    let make = move || Usage::of(&broker, &meter, puts_per_second_max);
    let page = Arc::new(usage::Page::new(options.bounds.admin.usage_interval, make));
    Arc::new(move |path| match path {
        "/usage" => {
            let page = page.clone();
            Some(async move { page.get().await }.boxed())
        }
        _ => None,
    })
}

/// Brokers that get no partitions now.
fn avoided(peers: Arc<Peers>) -> mover::Avoided {
    Arc::new(move || peers.avoided())
}

/// Brokers that get none where others can take them.
fn unreached(peers: Arc<Peers>) -> mover::Avoided {
    Arc::new(move || peers.unreached())
}

fn lowest_in_flight(storage: Storage) -> LowestInFlight {
    Arc::new(move || storage.lowest_counter_in_flight())
}

fn partition_config(options: &Options, config: &BrokerConfig) -> partition::Config {
    let mut partition = options.bounds.partition.clone();
    partition.accept_lost_checkpoints = options.accept_lost_checkpoints;
    if partition.accept_lost_checkpoints {
        tracing::warn!(
            "partition-accept-lost-checkpoints is on: partitions whose newest checkpoint is lost open with what \
             DeleteRecords deleted lately; take it away once they are open"
        );
    }
    partition.limits.producer_expiration_ms = i64::from(config.producer_id_expiration_ms);
    partition
}

fn server_config(options: &Options, config: &BrokerConfig) -> server::Config {
    let bounds = options.bounds.server.clone();
    let request_bytes_max = config.socket_request_max_bytes.max(1) as usize;
    server::Config {
        request_bytes_max,
        queued_bytes_max: bounds.queued_bytes_max.max(request_bytes_max),
        idle_timeout: match u64::try_from(config.connections_max_idle_ms) {
            Ok(millis) => Duration::from_millis(millis.max(1)),
            // Kafka: a negative value means never.
            Err(_) => Duration::from_secs(u64::from(u32::MAX)),
        },
        ..bounds
    }
}

impl Running {
    /// What to tell the person who started it.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// Serves until one of the [`signals`] comes or it cannot go on.
    pub async fn until_stopped(
        mut self,
        mut signals: impl Stream<Item = &'static str> + Unpin,
    ) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            Some(name) = signals.next() => {
                tracing::info!("{name}: stopping; a second one stops at once");
                Ok(())
            }
            error = self.storage.failed() => Err(anyhow!(error).context("the storage engine cannot go on")),
            error = self.broker.metadata.failed() => Err(anyhow!(error).context("this broker cannot go on")),
            broken = broken(&self.broker, &self.collector, &self.failover, self.admin.as_ref()) => {
                Err(anyhow!(broken).context("this broker cannot go on"))
            }
            served = &mut self.serving => Err(match served {
                Ok(Ok(())) => anyhow!("the server ended by itself"),
                Ok(Err(error)) => anyhow!(error).context("the server cannot go on"),
                Err(panic) => anyhow!(panic).context("the server cannot go on"),
            }),
        };
        if let Err(error) = outcome {
            // Whoever is still connected hears nothing more from this process that could be wrong.
            self.right.revoke(format!("{error:#}"));
            self.shutdown.cancel();
            // Commands of ours end before the process does, or becomes another one.
            let _ = tokio::time::timeout(FAILED_CLOSE_TIMEOUT, self.failover.shutdown()).await;
            // Only to leave in order, and to know why; a store that does not answer must not hold up a process that has to
            // end. A device that refuses our writes tells of the fence before the metadata does.
            let _ = tokio::time::timeout(FAILED_CLOSE_TIMEOUT, async {
                let _ = self.broker.metadata.refresh().await;
                self.broker.metadata.close(false).await
            })
            .await;
            return Err(
                match deposed(&self.broker.metadata.image(), self.incarnation, self.began.elapsed()) {
                    Some(deposed) => error.context(deposed),
                    None => error,
                },
            );
        }
        let timeout = self.shutdown_timeout;
        let stopping = async {
            self.leave().await;
            tokio::time::timeout(timeout, self.stop()).await
        };
        tokio::select! {
            stopped = stopping => match stopped {
                Ok(stopped) => stopped,
                Err(_) => bail!(
                    "not everything was uploaded within shutdown-timeout ({timeout:?}); the next start recovers the rest \
                     from the write-ahead log"
                ),
            },
            Some(name) = signals.next() => bail!("{name} again: stopped at once; the next start recovers"),
        }
    }

    /// Hands over what it leads, if there is anybody. What cannot be handed over goes to others with the end.
    async fn leave(&self) {
        let own = self.broker.metadata.incarnation();
        if self.broker.metadata.image().serving().all(|(other, _)| Some(other) == own) {
            return;
        }
        let began = Instant::now();
        match tokio::time::timeout(self.drain_timeout, self.mover.drain()).await {
            Ok(Ok(0)) => tracing::info!("all partitions were handed over in {:?}", began.elapsed()),
            Ok(Ok(left)) => tracing::warn!(left, "nobody takes these partitions"),
            Ok(Err(error)) => tracing::warn!(%error, "partitions are not handed over"),
            Err(_) => {
                let left = own.map_or(0, |own| self.broker.metadata.image().led_count(own.broker));
                tracing::warn!(left, "not all partitions were handed over within drain-timeout");
            }
        }
        self.mover.stop();
        self.broker.partitions.notes_fetched().await;
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        // Before the listener closes, which would look like a crash.
        self.broker.peers.leave().await;
        self.shutdown.cancel();
        if !self.serving.is_finished() {
            (&mut self.serving).await.context("a connection panicked")??;
        }
        if let Some(admin) = &self.admin {
            admin.shutdown().await;
        }
        self.failover.shutdown().await;
        self.broker.groups.shutdown().await;
        self.broker.partitions.shutdown().await;
        ensure!(!self.collector.has_failed(), "{COLLECTOR_FAILED}");
        check(&self.broker)?;
        self.collector.shutdown().await;
        self.storage.shutdown().await.context("what is in the write-ahead log could not be uploaded")?;
        // Once more: nobody will ever look into the log again when the metadata says that nothing is left.
        check(&self.broker)?;
        self.broker.peers.close().await;
        self.broker.metadata.close(true).await?;
        tracing::info!("stopped in {:?}; nothing is left to recover", began.elapsed());
        Ok(())
    }
}

/// Resolves once a task that nobody waits for has met a broken invariant, with the reason. (The storage engine, the
/// metadata and the server tell of theirs by themselves.)
async fn broken(
    broker: &Broker,
    collector: &Collector,
    failover: &Failover,
    admin: Option<&Admin>,
) -> String {
    let admin = async {
        match admin {
            Some(admin) => admin.failed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        reason = broker.partitions.failed() => reason,
        reason = broker.groups.failed() => reason,
        reason = broker.peers.failed() => reason,
        reason = failover.failed() => reason,
        reason = admin => reason,
        () = collector.failed() => COLLECTOR_FAILED.to_owned(),
    }
}

const COLLECTOR_FAILED: &str = "a broken invariant in the collector: see the log";

/// Whether all was well so far behind a broker that stops.
fn check(broker: &Broker) -> anyhow::Result<()> {
    let failure = broker.partitions.failure().or_else(|| broker.groups.failure());
    match failure.or_else(|| broker.metadata.failure().map(|error| error.to_string())) {
        Some(reason) => bail!("{reason}; the next start recovers what is in the write-ahead log"),
        None => Ok(()),
    }
}

/// The signals that ask a process to end, by name. From here on they do nothing else.
pub fn signals() -> std::io::Result<impl Stream<Item = &'static str> + Unpin> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(futures::stream::poll_fn(move |context| {
        if terminate.poll_recv(context).is_ready() {
            return Poll::Ready(Some("SIGTERM"));
        }
        interrupt.poll_recv(context).map(|_| Some("SIGINT"))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{arguments, gather};

    /// A broker on a directory.
    async fn started() -> (Running, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let store = format!("--store=file:{}/store", directory.path().display());
        let given = ["serve", &store, "--wal=object", "--listen=127.0.0.1:0"];
        let matches = clap::Command::new("serve").args(arguments()).get_matches_from(given);
        let options = Options::from_values(&gather(&matches, []).unwrap()).unwrap();
        (crate::startup::start(options).await.unwrap(), directory)
    }

    /// F59: a broker never runs on with a part of it dead. The whole start and the whole stop.
    #[tokio::test]
    async fn a_broken_invariant_in_the_background_stops_the_broker_at_once() {
        for break_it in [
            |running: &Running| {
                drop(running.broker.partitions.tasks.spawn("a test", async { panic!("it is broken") }));
            },
            |running: &Running| running.broker.partitions.tasks.keep("a test", async {}),
        ] {
            let (running, _directory) = started().await;
            break_it(&running);
            let stopped = running.until_stopped(futures::stream::pending());
            let stopped = tokio::time::timeout(Duration::from_secs(120), stopped).await;
            let error = format!("{:#}", stopped.expect("it stops").expect_err("and says why"));
            assert!(error.contains("a test"), "{error}");
        }
    }

    /// A recovery that is under way, with the command that attaches a volume, does not go on beside the next life of this process.
    #[tokio::test]
    async fn a_broker_that_cannot_go_on_ends_its_fail_over_before_itself() {
        let (running, _directory) = started().await;
        let (goes_on, mut ended) = tokio::sync::oneshot::channel::<()>();
        let closing = running.failover.closing.clone();
        let recovery = async move {
            closing.cancelled().await;
            drop(goes_on);
        };
        running.failover.tasks.spawn("a recovery", recovery);
        drop(running.broker.partitions.tasks.spawn("a test", async { panic!("it is broken") }));
        let stopped = running.until_stopped(futures::stream::pending());
        let stopped = tokio::time::timeout(Duration::from_secs(120), stopped).await;
        stopped.expect("it stops").expect_err("and says why");
        let left = ended.try_recv();
        assert_eq!(left, Err(tokio::sync::oneshot::error::TryRecvError::Closed));
    }

    /// Nor does one that stops say that nothing is left when something has broken meanwhile.
    #[tokio::test]
    async fn a_broken_invariant_during_the_stop_is_no_stop_in_order() {
        for break_it in [
            |running: &Running| {
                running.broker.partitions.tasks.spawn("a test", async { panic!("it is broken") })
            },
            |running: &Running| {
                running.broker.metadata.tasks.spawn("a test", async { panic!("it is broken") })
            },
        ] {
            let (running, directory) = started().await;
            assert!(break_it(&running).await.is_err());
            let metadata = running.broker.metadata.clone();
            let stopped = tokio::time::timeout(Duration::from_secs(120), running.stop()).await;
            let error = format!("{:#}", stopped.expect("it stops").expect_err("and says why"));
            assert!(error.contains("a test"), "{error}");
            let incarnation = metadata.incarnation().unwrap();
            assert!(metadata.refresh().await.unwrap().is_live(incarnation), "its log is to be recovered");
            let _ = metadata.close(false).await;
            drop(directory);
        }
        let (running, _directory) = started().await;
        tokio::time::timeout(Duration::from_secs(120), running.stop()).await.unwrap().unwrap();
    }

    /// And a stream of them that ends says nothing.
    #[tokio::test]
    async fn a_signal_stops_the_broker_in_order() {
        let (running, _directory) = started().await;
        let signal = futures::stream::iter(["SIGTERM"]);
        let stopped = tokio::time::timeout(Duration::from_secs(120), running.until_stopped(signal)).await;
        stopped.expect("it stops").unwrap();
    }

    /// Whatever `serve` is told in its own options, and in Kafka's, for one part.
    #[test]
    fn bounds_and_kafka_configs_meet_in_a_parts_configuration() {
        let given = [
            "serve",
            "--connection-requests=3",
            "--partition-producers=7",
            "--group-memory=2MiB",
            "--request-memory=8MiB",
            "--kafka=socket.request.max.bytes=50000000",
            "--kafka=connections.max.idle.ms=-1",
            "--kafka=producer.id.expiration.ms=1234",
            "--kafka=group.max.size=9",
        ];
        let matches = clap::Command::new("serve").args(arguments()).get_matches_from(given);
        let options = Options::from_values(&gather(&matches, []).unwrap()).unwrap();
        let config = BrokerConfig::new(&options.kafka).unwrap();

        let server = server_config(&options, &config);
        assert_eq!((server.pipelined_requests_max, server.request_bytes_max), (3, 50_000_000));
        // The largest request must be able to be read at all.
        assert_eq!(server.queued_bytes_max, 50_000_000);
        assert_eq!(server.validate(), Ok(()));
        assert!(server.idle_timeout > Duration::from_secs(100 * 365 * 24 * 3600));

        let partition = partition_config(&options, &config);
        assert_eq!(partition.limits.producers_max, 7);
        assert_eq!(partition.limits.producer_expiration_ms, 1234);

        let group = options.bounds.group.clone().with_configs(&config);
        assert_eq!((group.state_bytes_max, group.rules.group_size_max), (2 << 20, 9));
    }
}
