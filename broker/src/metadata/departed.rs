//! Brokers that died a moment ago, as clients are still told of them.
//!
//! A client ends what it has for a broker that the answer to Metadata lacks. librdkafka does so in the middle of giving that broker's
//! partitions to their new leaders, if the same answer names those, and such a partition then has no leader for it until
//! it looks again, a second later. So a broker that was fenced stays in the list for a while. It costs an attempt to connect there, if
//! a client picks it for a request that any broker answers, as long as the client knew it before anyway.
//!
//! - **Z1** Nobody is told that a listed one leads, coordinates or controls anything: that is the image's to say.
//! - **Z2** Who was seen to leave in order is not listed any longer: nothing was led there in the end. (Where one look misses all of it, it
//!   is listed as if it had died.) Nor is anybody twice: a next life that serves is listed as itself.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use wal::Incarnation;

use super::challenges::Challenges;
use super::image::{BrokerInfo, Image, Life, lease_and_margin};
use super::{ImageRef, Metadata};
use crate::machine;

/// Who served as of some image, and who does not any more. Looks only ever at newer images.
#[derive(Debug)]
pub struct Departed(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    listed_for: Duration,
    number: u64,
    /// And whether it has left already, but for closing: it is being emptied, and led nothing any more.
    serving: BTreeMap<Incarnation, bool>,
    challenges: Challenges<Instant>,
    /// By id, since when. No more than there are ids, and forgotten when the time is over.
    gone: BTreeMap<u32, Instant>,
}

/// Whether nothing has to be waited for before the log of a dead broker is read, as far as the metadata tells: not so a volume that
/// nobody shares a kernel with.
fn is_read_at_once(image: &Image, life: Incarnation, known: &Life) -> bool {
    let machine = |broker| image.broker(broker).map_or("", |info| &*info.machine);
    let shares_kernel = |id| id != life.broker && machine::is_same_kernel(machine(id), machine(life.broker));
    !known.has_volume() || image.serving_brokers().any(|(id, _)| shares_kernel(id))
}

impl Departed {
    pub fn new(listed_for: Duration) -> Departed {
        Departed(Mutex::new(State::new(listed_for)))
    }

    /// Takes note of who is gone. To be called for each image, or nearly.
    pub fn look(&self, now: Instant, image: &ImageRef) {
        self.0.lock().look(now, image.number(), image);
    }

    /// Those of them that are fenced and not recovered, oldest first, whose logs could be read less than `within` ago, or soon; until
    /// when that is so. Without those whose log could not be read within that time of the fence.
    pub fn unrecovered(&self, now: Instant, image: &Image, within: Duration) -> Vec<(Incarnation, Instant)> {
        self.0.lock().unrecovered(now, image, within)
    }

    /// By id.
    pub fn listed<'a>(&self, now: Instant, image: &'a Image) -> Vec<(u32, &'a BrokerInfo)> {
        self.0.lock().listed(now, image)
    }
}

impl Metadata {
    /// Looks who has died since it was called last.
    pub fn note_departures(&self, image: &ImageRef) {
        self.departed.look(Instant::now(), image);
    }

    /// Where brokers were that died a moment ago, by id: clients are still told.
    pub fn departed<'a>(&self, image: &'a ImageRef) -> Vec<(u32, &'a BrokerInfo)> {
        self.note_departures(image);
        self.departed.listed(Instant::now(), image)
    }
}

impl State {
    pub(super) fn new(listed_for: Duration) -> State {
        State {
            listed_for,
            number: 0,
            serving: BTreeMap::new(),
            challenges: Challenges::default(),
            gone: BTreeMap::new(),
        }
    }

    pub(super) fn look(&mut self, now: Instant, number: u64, image: &Image) {
        if number <= self.number {
            return;
        }
        self.number = number;
        let has_left =
            |(life, known): (Incarnation, &Life)| (life, known.draining && image.led_count(life.broker) == 0);
        let serving: BTreeMap<_, _> = image.serving().map(has_left).collect();
        self.gone.retain(|_, since| *since + self.listed_for > now);
        for (life, has_left) in &self.serving {
            if !has_left && !serving.contains_key(life) {
                self.gone.insert(life.broker, now);
            }
        }
        self.serving = serving;
        self.challenges.look(now, image);
    }

    pub(super) fn listed<'a>(&self, now: Instant, image: &'a Image) -> Vec<(u32, &'a BrokerInfo)> {
        let serves = |broker: u32| image.live(broker).is_some_and(|(_, life)| life.opened);
        let listed = self.gone.iter().filter(|(id, since)| **since + self.listed_for > now && !serves(**id));
        listed.filter_map(|(broker, _)| Some((*broker, image.broker(*broker)?))).collect()
    }

    pub(super) fn unrecovered(
        &self,
        now: Instant,
        image: &Image,
        within: Duration,
    ) -> Vec<(Incarnation, Instant)> {
        let until = |(life, known): (Incarnation, &Life)| {
            let gone = *self.gone.get(&life.broker)?;
            let mut read = gone;
            if !is_read_at_once(image, life, known) {
                let lease_from = self.challenges.since(life).unwrap_or(gone);
                read = read.max(lease_from + lease_and_margin(known.lease));
            }
            let until = (read + within).min(gone + self.listed_for);
            Some((life, until)).filter(|_| read <= gone + within && until > now)
        };
        image.unrecovered().filter_map(until).collect()
    }
}
