//! F1 to F6: the caretaker by itself, and the fail-over of brokers that share a directory as their store.

mod attaching;
mod caretaker;
mod recovery;
mod volumes;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3stream::StreamId;
use s3stream::record::{KIND_DATA, RecordMeta};
use tokio::sync::watch;
use wal::{AckRight, Incarnation, Record, Vacated, Wal};

use super::recovery::Recoverer;
use super::{Config, Failover};
use crate::cluster::{Verdict, Verdicts, Why};
use crate::media::{Media, Ours, check_ours};
use crate::metadata::apply::At;
use crate::metadata::command::{Command, FORMAT_VERSION, Registration};
use crate::metadata::image::{Image, Listener, lease_and_margin};
use crate::metadata::{Metadata, Registering, TopicSpec, cluster_id};
use crate::options::{Options, arguments, gather};
use crate::store::{self, Stores};

const SECOND: Duration = Duration::from_secs(1);
const DEAD: Verdict = Verdict { why: Why::Silent, dead: true };
const SUSPECTED: Verdict = Verdict { why: Why::Silent, dead: false };

/// A history of a cluster, without a log.
pub(crate) struct History {
    pub(crate) image: Image,
    number: u64,
}

impl History {
    /// Brokers 1 to `brokers`, each on a machine of its own, all of which serve.
    pub(crate) fn serving(brokers: u32, wal: &str) -> (History, Vec<Incarnation>) {
        let mut history = History { image: Image::empty(), number: 0 };
        history.apply(Command::Format { cluster_id: "a cluster".into(), format: FORMAT_VERSION });
        let mut lives = Vec::new();
        for broker in 1..=brokers {
            let by = history.register(broker, wal, None);
            history.apply(Command::OpenLeaderships { by });
            lives.push(by);
        }
        (history, lives)
    }

    fn register(&mut self, broker: u32, wal: &str, replaces: Option<u64>) -> Incarnation {
        self.apply(Command::RegisterBroker(Registration {
            broker,
            wal_uri: wal.into(),
            lease_ms: 3_000,
            listener: Listener { host: "a host".into(), port: 9092 },
            rack: None,
            machine: format!("machine {broker}").into(),
            replaces,
            claim: None,
        }));
        Incarnation { broker, epoch: self.number }
    }

    pub(crate) fn apply(&mut self, command: Command) {
        self.number += 1;
        self.image.apply(At { number: self.number, time_ms: 0 }, &command).unwrap();
    }
}

/// A cluster in a directory.
struct Cluster {
    directory: tempfile::TempDir,
    stores: Arc<Stores>,
}

/// One of its brokers, as far as fail-over goes.
struct Member {
    metadata: Arc<Metadata>,
    media: Arc<Media>,
    life: Incarnation,
    ours: Ours,
    wal: Arc<dyn Wal>,
}

impl Cluster {
    fn new() -> Cluster {
        // Beside the build: a file system with direct I/O.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../target").unwrap();
        let options = options(directory.path(), "object", &[]);
        let stores = Arc::new(store::open(options.store, &options.access).unwrap());
        Cluster { directory, stores }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// A broker that serves; its log is `object`, or a file.
    async fn member(&self, id: u32, wal: &str, machine: &str) -> Member {
        self.member_with(id, wal, machine, &[]).await
    }

    fn options(&self, wal: &str, more: &[&str]) -> Options {
        let wal = match wal {
            "object" => wal.to_owned(),
            device if device.starts_with("/dev/") => format!("block://{device}"),
            file => format!("block://{}?capacity=2MiB", self.path(file).display()),
        };
        options(self.directory.path(), &wal, more)
    }

    async fn member_with(&self, id: u32, wal: &str, machine: &str, more: &[&str]) -> Member {
        let (recoverer, ours) = self.starting(id, wal, machine, more).await;
        let Recoverer { metadata, media, by: life, .. } = recoverer;
        let right = Arc::new(AckRight::unlimited());
        let wal = ours.medium.open(life, Vacated::nothing_left(), right).await.unwrap();
        metadata.open_leaderships().await.unwrap();
        Member { metadata, media, life, ours, wal }
    }

    /// One that has registered.
    async fn starting(&self, id: u32, wal: &str, machine: &str, more: &[&str]) -> (Recoverer, Ours) {
        self.starting_as(self.options(wal, more), id, machine).await
    }

    async fn starting_as(&self, options: Options, id: u32, machine: &str) -> (Recoverer, Ours) {
        let metadata =
            Metadata::open(self.stores.metadata.clone(), options.bounds.metadata.clone()).await.unwrap();
        let cluster = cluster_id::parse(&metadata.cluster_id()).unwrap();
        let media = Arc::new(Media::new(&options, cluster, self.stores.clone(), machine.to_owned()));
        let ours = media.ours().unwrap();
        let judged = check_ours(&media, &ours, &metadata.image(), id, false).unwrap();
        let registering = Registering {
            id,
            wal: ours.medium.uri(),
            listener: Listener { host: "a host".into(), port: id as u16 },
            rack: None,
            machine,
            replaces: metadata.image().last_registration(id),
            claim: judged.claim,
        };
        let by = metadata.register(registering).await.unwrap().incarnation;
        (Recoverer { metadata, media, engine: s3stream::Config::default(), by }, ours)
    }
}

fn options(directory: &Path, wal: &str, more: &[&str]) -> Options {
    let mut given = vec![
        "serve".to_owned(),
        format!("--store=file:{}", directory.join("store").display()),
        format!("--wal={wal}"),
        "--block-wal-zeroing-time=0ms".to_owned(),
    ];
    given.extend(more.iter().map(|option| (*option).to_owned()));
    let matches = clap::Command::new("serve").args(arguments()).get_matches_from(given);
    Options::from_values(&gather(&matches, []).unwrap()).unwrap()
}

impl Member {
    fn recoverer(&self) -> Recoverer {
        Recoverer {
            metadata: self.metadata.clone(),
            media: self.media.clone(),
            engine: s3stream::Config::default(),
            by: self.life,
        }
    }

    fn fail_over(&self) -> (Failover, watch::Sender<Arc<Verdicts>>) {
        let (sender, verdicts) = watch::channel(Arc::default());
        (Failover::start(Config::default(), self.recoverer(), verdicts, None), sender)
    }

    /// Takes `of`, which may still write, for dead, and leads the 20 records of `stream` when its lease is over, and not before.
    /// Time is tokio's, paused.
    async fn waits_out_the_lease_of(&self, of: Incarnation, stream: StreamId) {
        let (failover, verdicts) = self.fail_over();
        let accused = tokio::time::Instant::now();
        verdicts.send_replace(Arc::new(Verdicts::default().with(of, DEAD)));
        assert_eq!(self.outcome(of, stream).await, (Some(self.life.broker), 20));
        let lease = Duration::from_secs(3);
        assert!(accused.elapsed() >= lease_and_margin(lease), "after {:?}", accused.elapsed());
        failover.shutdown().await;
    }

    async fn append(&self, stream: StreamId, base: u64) {
        let meta = RecordMeta { stream, stream_epoch: 0, base, end: base + 1, max_timestamp: 1 };
        let body = Bytes::from(vec![base as u8; 100]);
        let append = self.wal.append(Record { kind: KIND_DATA, meta: meta.encode(), body }).unwrap();
        append.await.unwrap();
    }

    /// The log of partition 0 of a new topic that this broker leads, with records 0 to `count` acknowledged.
    async fn write(&self, count: u64) -> StreamId {
        let spec = TopicSpec {
            name: "t".into(),
            partitions: 1,
            configs: Vec::new(),
            leaders: vec![self.life.broker],
        };
        let topic = self.metadata.create_topics(vec![spec]).await.remove(0).unwrap();
        let stream = topic.partitions[0].log;
        for base in 0..count {
            self.append(stream, base).await;
        }
        stream
    }

    /// Waits until the life `of` is forgotten, and gives who leads the only partition, and where its log ends.
    async fn outcome(&self, of: Incarnation, stream: StreamId) -> (Option<u32>, u64) {
        let mut changed = self.metadata.changed();
        loop {
            let image = self.metadata.image();
            if image.life(of).is_none() {
                let topic = image.topic_named("t").unwrap();
                return (image.leader(&topic.partitions[0]), image.stream(stream).unwrap().committed_end);
            }
            changed.changed().await.unwrap();
        }
    }
}
