//! The shell of the detector: keeps the links, hears what comes in, and says what follows.
//!
//! # Consistency
//! The verdicts are those of one moment, no more than a tick old. A hint is given before the answer to it goes out.
//!
//! # Cancellation
//! [`Peers::close`] ends everything. Until then the tasks live.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;
use wal::{AckRight, Incarnation};

use super::detector::{Detector, Member, Verdict, Verdicts};
use super::link::{Failure, Link};
use super::wire::{Answer, Beat, Heartbeat, Reply};
use super::{Config, Told};
use crate::clocks::SKEW_MAX;
use crate::metadata::image::Listener;
use crate::metadata::{Metadata, cluster_id};
use crate::tasks::Tasks;

/// How often people are told that two clocks are apart, as long as they are. No option: it is only about the log.
const CLOCK_TOLD_INTERVAL: Duration = Duration::from_secs(3600);

/// This broker among the others. See the [module](super).
#[derive(Debug)]
pub struct Peers {
    shared: Arc<Shared>,
    closing: CancellationToken,
    tasks: Tasks,
}

/// What is known of another life, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub life: Incarnation,
    pub address: Listener,
    /// Since it was last heard; `None` if it never was.
    pub heard: Option<Duration>,
    /// The last metadata entry that it said it knows.
    pub number: Option<u64>,
    pub verdict: Option<Verdict>,
    /// Why there is no connection to it, if there is none.
    pub unreached: Option<String>,
}

/// What the links, the server and the watch share.
#[derive(Debug)]
pub(super) struct Shared {
    pub config: Config,
    own: Incarnation,
    cluster: Uuid,
    metadata: Arc<Metadata>,
    right: Arc<AckRight>,
    began: Instant,
    detector: Mutex<Detector>,
    links: Mutex<BTreeMap<Incarnation, LinkState>>,
    verdicts: watch::Sender<Arc<Verdicts>>,
    leaving: AtomicBool,
    /// Of what this broker leads, bytes a second.
    load: AtomicU64,
    /// Counted up by whatever peers are to be told at once.
    news: watch::Sender<u64>,
    /// Woken by every answer.
    answers: watch::Sender<()>,
    /// Who is handing partitions to this broker. Only those that have a link.
    handing: Mutex<BTreeSet<Incarnation>>,
}

#[derive(Debug)]
struct LinkState {
    address: Listener,
    /// Dropping it ends the link.
    _running: tokio_util::sync::DropGuard,
    told: Told,
    /// Since when it does not work, and why.
    failure: Option<(Instant, String)>,
    /// It said that it does not reach this broker.
    misses_us: bool,
    /// When people were told that its clock and ours are apart, as long as they are.
    clock_told: Option<Instant>,
}

impl LinkState {
    fn has_failed_for(&self, time: Duration) -> bool {
        self.failure.as_ref().is_some_and(|(since, _)| since.elapsed() >= time)
    }
}

impl Peers {
    /// Begins to look after the others. `metadata` is registered; `right` says whether this broker reaches the store.
    ///
    /// # Panics
    /// If it is not registered.
    pub fn start(config: Config, metadata: Arc<Metadata>, right: Arc<AckRight>) -> Peers {
        let own = metadata.incarnation().expect("peers are told of a life");
        let cluster = cluster_id::parse(&metadata.cluster_id()).unwrap_or_default();
        let detector = Detector::new(config.detector.clone(), own, Duration::ZERO);
        let shared = Arc::new(Shared {
            config,
            own,
            cluster,
            metadata,
            right,
            began: Instant::now(),
            detector: Mutex::new(detector),
            links: Mutex::default(),
            verdicts: watch::Sender::new(Arc::default()),
            leaving: AtomicBool::new(false),
            load: AtomicU64::new(0),
            news: watch::Sender::new(0),
            answers: watch::Sender::new(()),
            handing: Mutex::default(),
        });
        let (tasks, closing) = (Tasks::default(), CancellationToken::new());
        let watch = Watch { shared: shared.clone(), tasks: tasks.clone() };
        let until = closing.clone();
        tasks.keep("the watch over the other brokers", async move { watch.run(until).await });
        Peers { shared, closing, tasks }
    }

    /// Who is not taken to be well. Changes wake it.
    pub fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.shared.verdicts.subscribe()
    }

    /// Answers a heartbeat.
    pub fn incoming(&self, heartbeat: Heartbeat) -> Answer {
        self.shared.incoming(heartbeat)
    }

    /// All other lives, by id.
    pub fn status(&self) -> Vec<PeerStatus> {
        let shared = &self.shared;
        let now = shared.now();
        let (detector, verdicts) = (shared.detector.lock(), shared.verdicts.borrow().clone());
        let links = shared.links.lock();
        let status = links.iter().map(|(life, link)| {
            let heard = detector.last_heard(now, *life);
            PeerStatus {
                life: *life,
                address: link.address.clone(),
                heard: heard.map(|(ago, _)| ago),
                number: heard.map(|(_, beat)| beat.number),
                verdict: verdicts.of(*life),
                unreached: link.failure.as_ref().map(|(_, reason)| reason.clone()),
            }
        });
        status.collect()
    }

    /// What is said to the others of the load of what this broker leads, bytes a second.
    pub fn set_load(&self, load: u64) {
        self.shared.load.store(load, Ordering::Relaxed);
    }

    /// The load of a life's partitions, bytes a second, as it has said itself; `None` if it has said nothing yet.
    pub fn load(&self, of: Incarnation) -> Option<u64> {
        let shared = &self.shared;
        if of == shared.own {
            return Some(shared.load.load(Ordering::Relaxed));
        }
        let detector = shared.detector.lock();
        detector.last_heard(shared.now(), of).map(|(_, beat)| beat.load)
    }

    /// Brokers that came later and that this one has not heard: they may never be (D10).
    pub fn untried(&self) -> BTreeSet<u32> {
        let shared = &self.shared;
        shared.detector.lock().untried(shared.now()).map(|life| life.broker).collect()
    }

    /// Brokers that nothing is handed to now: whoever is suspected, or untried.
    pub fn avoided(&self) -> BTreeSet<u32> {
        let suspected = self.shared.verdicts.borrow().iter().map(|(life, _)| life.broker).collect::<Vec<_>>();
        self.untried().into_iter().chain(suspected).collect()
    }

    /// Brokers that this one could not connect to for as long as silence lasts, though they may be heard: clients may not reach
    /// them either. Nobody, where it could not connect to any of several: then it is this one that cannot.
    pub fn unreached(&self) -> BTreeSet<u32> {
        let silence = self.shared.config.detector.silence;
        let links = self.shared.links.lock();
        let failed = links.iter().filter(|(_, link)| link.has_failed_for(silence));
        let unreached: BTreeSet<u32> = failed.map(|(life, _)| life.broker).collect();
        if links.len() > 1 && unreached.len() == links.len() { BTreeSet::new() } else { unreached }
    }

    /// Says to everybody that this broker is about to close its listener, and waits for their answers for a bounded time:
    /// so that they do not take it for dead.
    pub async fn leave(&self) {
        let shared = &self.shared;
        shared.leaving.store(true, Ordering::SeqCst);
        let upto = Told(shared.tell());
        let mut answers = shared.answers.subscribe();
        let everybody = async {
            while shared.links.lock().values().any(|link| link.failure.is_none() && link.told < upto) {
                if answers.changed().await.is_err() {
                    return;
                }
            }
        };
        if timeout(shared.config.request_timeout, everybody).await.is_err() {
            info!("not every other broker has answered that it knows that this one leaves");
        }
    }

    /// Resolves if a task of this broke.
    pub async fn failed(&self) -> String {
        self.tasks.failed().await
    }

    /// Ends all links, and waits for that. Idempotent.
    pub async fn close(&self) {
        self.tasks.close();
        self.closing.cancel();
        self.shared.links.lock().clear();
        self.tasks.wait().await;
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.tasks.close();
        self.closing.cancel();
    }
}

/// Keeps the links as the metadata says, and the verdicts as time does.
struct Watch {
    shared: Arc<Shared>,
    tasks: Tasks,
}

impl Watch {
    async fn run(self, closing: CancellationToken) {
        let shared = &self.shared;
        let mut changed = shared.metadata.changed();
        let mut appended = shared.metadata.appended();
        let mut handing = shared.metadata.handing();
        let interval = shared.config.detector.tick_interval();
        let mut tick_at = Instant::now();
        loop {
            changed.borrow_and_update();
            let others = self.follow(&closing);
            tokio::select! {
                biased;
                () = closing.cancelled() => break,
                // Alone it has nothing to wait for.
                () = sleep_until(tick_at), if others => {
                    tick_at = Instant::now() + interval;
                    shared.tick();
                }
                Ok(()) = appended.changed() => {
                    appended.borrow_and_update();
                    shared.tell();
                }
                Ok(()) = handing.changed() => {
                    handing.borrow_and_update();
                    shared.tell();
                }
                ended = changed.changed() => if ended.is_err() {
                    // The metadata ended; whoever waits for that ends the broker.
                    closing.cancelled().await;
                    break;
                },
            }
        }
        shared.links.lock().clear();
    }

    /// Links to all who live by now, and to nobody else (P1). Whether there is anybody.
    fn follow(&self, closing: &CancellationToken) -> bool {
        let shared = &self.shared;
        let image = shared.metadata.image();
        let lives = || {
            image.live_brokers().filter_map(|(id, info)| {
                let life = Incarnation { broker: id, epoch: info.epoch };
                Some((life, image.life(life)?, info))
            })
        };
        let members =
            lives().map(|(life, known, _)| (life, Member { open: known.opened, lease: known.lease }));
        shared.detector.lock().members(shared.now(), members);
        let mut links = shared.links.lock();
        links.retain(|life, _| image.is_live(*life));
        shared.metadata.skews.keep(|life| image.is_live(life));
        shared.metadata.note_departures(&image);
        shared.expect(|handing| handing.retain(|life| links.contains_key(life)));
        for (life, _, info) in lives().filter(|(life, ..)| *life != shared.own) {
            links.entry(life).or_insert_with(|| {
                let running = closing.child_token();
                let link = Link {
                    to: life,
                    address: info.listener.clone(),
                    shared: shared.clone(),
                    news: shared.news.subscribe(),
                };
                let until = running.clone();
                self.tasks.spawn("a link to another broker", async move {
                    until.run_until_cancelled(link.run()).await;
                });
                LinkState {
                    address: info.listener.clone(),
                    _running: running.drop_guard(),
                    told: Told(0),
                    failure: None,
                    misses_us: false,
                    clock_told: None,
                }
            });
        }
        !links.is_empty()
    }
}

impl Shared {
    fn now(&self) -> Duration {
        Instant::now() - self.began
    }

    /// Makes every link beat at once; the number of this piece of news.
    fn tell(&self) -> u64 {
        let mut number = 0;
        self.news.send_modify(|news| {
            *news += 1;
            number = *news;
        });
        number
    }

    fn tick(&self) {
        let mut detector = self.detector.lock();
        let was = detector.suspects();
        let now = self.now();
        detector.set_ailing(now, !self.right.holds());
        let verdicts = detector.tick(now);
        let suspects_differ = detector.suspects() != was;
        drop(detector);
        if suspects_differ {
            self.tell();
        }
        let before = self.verdicts.borrow().clone();
        if *before != verdicts {
            say(&before, &verdicts);
            self.verdicts.send_replace(Arc::new(verdicts));
        }
    }

    /// What this life says to `to` now.
    fn beat(&self, to: Incarnation) -> Beat {
        let detector = self.detector.lock();
        let (blind, suspects) = (detector.is_blind(self.now()), detector.suspects());
        drop(detector);
        let silence = self.config.detector.silence;
        let links = self.links.lock();
        let unreached = links.get(&to).is_some_and(|link| link.has_failed_for(silence));
        // Before the number: whoever hears that nothing is on its way any more must hear of the entry.
        let handing = self.metadata.handing().borrow().contains_key(&to.broker);
        Beat {
            from: self.own,
            number: self.metadata.image().number(),
            wall_ms: host::clock::wall_ms(),
            ailing: !self.right.holds(),
            leaving: self.leaving.load(Ordering::SeqCst),
            blind,
            unreached,
            handing,
            load: self.load.load(Ordering::Relaxed),
            suspects,
        }
    }

    pub fn heartbeat(&self, to: Incarnation) -> Heartbeat {
        Heartbeat { cluster: self.cluster, to, beat: self.beat(to) }
    }

    fn incoming(&self, heartbeat: Heartbeat) -> Answer {
        let Heartbeat { cluster, to, beat } = heartbeat;
        let from = beat.from;
        let reply = if cluster != self.cluster {
            Reply::OtherCluster
        } else {
            self.hear(beat, false);
            if to == self.own { Reply::Welcome } else { Reply::OtherLife }
        };
        Answer { reply, cluster: self.cluster, beat: self.beat(from) }
    }

    /// What the life at `address`, which is to be `to`'s, answered.
    ///
    /// # Errors
    /// It is not `to`.
    pub fn answered(
        &self,
        to: Incarnation,
        address: &Listener,
        answer: Answer,
        told: Told,
    ) -> Result<(), Failure> {
        let from = answer.beat.from;
        if answer.cluster != self.cluster || answer.reply == Reply::OtherCluster {
            let theirs = cluster_id::base64(answer.cluster);
            return Err(Failure::Stranger(format!("a broker of another cluster, {theirs}, listens there")));
        }
        if from == self.own {
            return Err(Failure::Stranger("this broker itself listens there".to_owned()));
        }
        self.hear(answer.beat, from == to);
        if from != to || answer.reply == Reply::OtherLife {
            return Err(Failure::Stranger(format!(
                "broker {} (epoch {}) listens there",
                from.broker, from.epoch
            )));
        }
        let mut links = self.links.lock();
        if let Some(link) = links.get_mut(&to) {
            link.told = link.told.max(told);
            if link.failure.take().is_some() {
                info!("connected to broker {} (epoch {}) at {}", to.broker, to.epoch, shown(address));
            }
        }
        drop(links);
        self.answers.send_replace(());
        Ok(())
    }

    /// A beat, from wherever it came.
    fn hear(&self, beat: Beat, answered: bool) {
        // Whoever is not known yet may have registered behind what was read (P2).
        self.metadata.hint(beat.number);
        let (from, misses_us, handing) = (beat.from, beat.unreached, beat.handing);
        if !self.detector.lock().heard(self.now(), beat, answered) {
            return;
        }
        let mut links = self.links.lock();
        let Some(link) = links.get_mut(&from) else { return };
        self.expect(|from_all| if handing { from_all.insert(from) } else { from_all.remove(&from) });
        if misses_us && !link.misses_us {
            let image = self.metadata.image();
            let address = image.broker(self.own.broker).map(|info| shown(&info.listener)).unwrap_or_default();
            warn!(
                "broker {} cannot connect to {address}, which is where this broker says that it is; clients there will \
                 not be able to either (--advertise)",
                from.broker
            );
        }
        link.misses_us = misses_us;
    }

    /// The clock of `life` is ahead of ours by so much.
    pub fn saw_clock(&self, life: Incarnation, skew_ms: i64) {
        let mut links = self.links.lock();
        let Some(link) = links.get_mut(&life) else { return };
        self.metadata.skews.saw(life, skew_ms);
        let skew = Duration::from_millis(skew_ms.unsigned_abs());
        let Incarnation { broker, epoch } = life;
        if skew <= SKEW_MAX {
            if link.clock_told.take().is_some() {
                info!("the clock of broker {broker} (epoch {epoch}) agrees with this broker's again");
            }
        } else if link.clock_told.is_none_or(|told| told.elapsed() >= CLOCK_TOLD_INTERVAL) {
            link.clock_told = Some(Instant::now());
            let which = if skew_ms > 0 { "ahead of" } else { "behind" };
            warn!(
                "the clock of broker {broker} (epoch {epoch}) is {} {which} this broker's: records get wrong \
                 timestamps, and retention goes by them; both should be set by one time service (NTP)",
                roughly(skew)
            );
        }
    }

    /// Changes who is handing partitions to this broker.
    fn expect<T>(&self, change: impl FnOnce(&mut BTreeSet<Incarnation>) -> T) {
        let mut handing = self.handing.lock();
        change(&mut handing);
        self.metadata.expect(!handing.is_empty());
    }

    pub fn link_failed(&self, to: Incarnation, address: &Listener, failure: &Failure) {
        if matches!(failure, Failure::Refused | Failure::Stranger(_)) {
            self.detector.lock().refused(self.now(), to);
        }
        let mut links = self.links.lock();
        let Some(link) = links.get_mut(&to) else { return };
        let reason = failure.to_string();
        let known = link.failure.as_ref().is_some_and(|(_, known)| *known == reason);
        if !known {
            info!(
                "no connection to broker {} (epoch {}) at {}: {reason}",
                to.broker,
                to.epoch,
                shown(address)
            );
        }
        // Whoever has not opened does not listen yet: that is no failure of its address.
        let opened = self.metadata.image().life(to).is_some_and(|life| life.opened);
        let since = link.failure.take().filter(|_| opened).map_or_else(Instant::now, |(since, _)| since);
        link.failure = Some((since, reason));
        drop(links);
        self.answers.send_replace(());
    }
}

/// `HOST:PORT`.
fn shown(address: &Listener) -> String {
    crate::options::HostPort { host: address.host.to_string(), port: address.port }.to_string()
}

/// A time in two units.
fn roughly(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds % 3600 / 60) {
        (0, 0) => format!("{:.1} s", time.as_secs_f64()),
        (0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// Tells people what has changed.
fn say(before: &Verdicts, now: &Verdicts) {
    for (life, verdict) in now.iter().filter(|(life, verdict)| before.of(*life) != Some(*verdict)) {
        let Incarnation { broker, epoch } = life;
        match verdict.dead {
            true => warn!("broker {broker} (epoch {epoch}) is taken to be dead: {}", verdict.why),
            false => info!("broker {broker} (epoch {epoch}) is suspected: {}", verdict.why),
        }
    }
    for (life, _) in before.iter().filter(|(life, _)| now.of(*life).is_none()) {
        info!("broker {} (epoch {}) is no longer suspected", life.broker, life.epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        let told = |seconds| roughly(Duration::from_secs_f64(seconds));
        assert_eq!(told(7.25), "7.2 s");
        assert_eq!(told(61.9), "1 min 1 s");
        assert_eq!(told(5.0 * 3600.0 - 0.5), "4 h 59 min");
        assert_eq!(roughly(Duration::from_millis(u64::MAX)), "5124095576030 h 25 min");
    }
}
