//! Brokers that died a moment ago, as clients are still told of them.
//!
//! A client ends what it has for a broker that the answer to Metadata lacks. librdkafka does so in the middle of giving that broker's
//! partitions to their new leaders, if the same answer names those, and such a partition then has no leader for it until
//! it looks again, a second later. So a broker that was fenced stays in the list for a while. It costs an attempt to connect there, if
//! a client picks it for a request that any broker answers, as long as the client knew it before anyway.
//!
//! - **Z1** Nobody is told that a listed one leads, coordinates or controls anything: that is the image's to say.
//! - **Z2** Who left in order is not listed any longer: nothing was led there in the end. Nor is anybody twice: a next life that serves
//!   is listed as itself.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use wal::Incarnation;

use super::ImageRef;
use super::image::{BrokerInfo, Image, Life};

/// Who served as of some image, and who does not any more. Looks only ever at newer images.
#[derive(Debug, Default)]
pub struct Departed(Mutex<State>);

#[derive(Debug, Default)]
pub(super) struct State {
    number: u64,
    /// And whether it has left already, but for closing: it is being emptied, and led nothing any more.
    serving: BTreeMap<Incarnation, bool>,
    /// By id, until when they are listed. No more than there are ids, and forgotten when the time is over.
    gone: BTreeMap<u32, Instant>,
}

impl Departed {
    /// Takes note of who is gone. To be called for each image, or nearly.
    pub fn look(&self, now: Instant, image: &ImageRef, listed_for: Duration) {
        self.0.lock().look(now, image.number(), image, listed_for);
    }

    /// By id.
    pub fn listed<'a>(&self, now: Instant, image: &'a Image) -> Vec<(u32, &'a BrokerInfo)> {
        self.0.lock().listed(now, image)
    }
}

impl State {
    pub(super) fn look(&mut self, now: Instant, number: u64, image: &Image, listed_for: Duration) {
        if number <= self.number {
            return;
        }
        self.number = number;
        let has_left =
            |(life, known): (Incarnation, &Life)| (life, known.draining && image.led_count(life.broker) == 0);
        let serving: BTreeMap<_, _> = image.serving().map(has_left).collect();
        self.gone.retain(|_, until| *until > now);
        for (life, has_left) in &self.serving {
            if !has_left && !serving.contains_key(life) {
                self.gone.insert(life.broker, now + listed_for);
            }
        }
        self.serving = serving;
    }

    pub(super) fn listed<'a>(&self, now: Instant, image: &'a Image) -> Vec<(u32, &'a BrokerInfo)> {
        let serves = |broker: u32| image.live(broker).is_some_and(|(_, life)| life.opened);
        let listed = self.gone.iter().filter(|(broker, until)| **until > now && !serves(**broker));
        listed.filter_map(|(broker, _)| Some((*broker, image.broker(*broker)?))).collect()
    }
}
