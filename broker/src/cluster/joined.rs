//! Who has joined, and from when on it is given a share: pure, with time as an argument.
//!
//! - **J1** Nobody is given a share before [`Pauses::joining`] is over, since anybody joined: brokers often join together.
//! - **J2** Who died and is back is given none before [`Pauses::returning`] is over since it was seen to be gone. A client that lost
//!   a broker waits longer before each attempt to connect to it, librdkafka up to ten seconds
//!   (`reconnect.backoff.max.ms`), and whatever is led there waits with it. Others that have joined do not, however often it dies.
//! - **J3** Nothing is remembered of a broker that died longer ago than that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use wal::Incarnation;

/// How long those that have joined wait for a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// After the last change of who serves. Default 3 s.
    pub joining: Duration,
    /// Since it was seen to be gone, for a broker that died. Default 12 s.
    pub returning: Duration,
}

impl Default for Pauses {
    fn default() -> Pauses {
        Pauses { joining: Duration::from_secs(3), returning: Duration::from_secs(12) }
    }
}

/// Whether somebody has joined since it was settled last that everybody has a share.
pub(super) struct Joined {
    /// Who took partitions when it was looked last.
    known: BTreeSet<Incarnation>,
    /// By id, when its last life was seen to be gone.
    died: BTreeMap<u32, Instant>,
    /// From when on each of those that have joined is given a share.
    from: BTreeMap<Incarnation, Instant>,
    due: Option<Instant>,
}

impl Joined {
    /// Those that are there are known.
    pub fn new(takers: BTreeSet<Incarnation>) -> Joined {
        Joined { known: takers, died: BTreeMap::new(), from: BTreeMap::new(), due: None }
    }

    /// Takes note of who takes partitions. To be called for each image, or nearly: who leaves and comes again between two calls
    /// has not joined.
    pub fn see(
        &mut self,
        now: Instant,
        takers: BTreeSet<Incarnation>,
        is_live: impl Fn(Incarnation) -> bool,
        pauses: Pauses,
    ) {
        self.died.retain(|_, at| *at + pauses.returning > now);
        // Who is being emptied lives, and is no taker any more.
        let died = self.known.difference(&takers).filter(|life| !is_live(**life));
        self.died.extend(died.map(|life| (life.broker, now)));
        self.from.retain(|life, _| takers.contains(life));
        let joined = now + pauses.joining;
        for life in takers.difference(&self.known) {
            if let Some(died) = self.died.get(&life.broker) {
                self.from.insert(*life, joined.max(*died + pauses.returning));
            } else {
                self.from.insert(*life, joined);
                self.from.values_mut().for_each(|from| *from = joined.max(*from));
            }
        }
        self.known = takers;
    }

    /// Who has to wait still, if some of `takers` joined long enough ago, and somebody `falls_short` of a share by much; `None` if
    /// there is nothing to be done now.
    pub fn look(
        &mut self,
        now: Instant,
        takers: BTreeSet<Incarnation>,
        is_live: impl Fn(Incarnation) -> bool,
        falls_short: impl FnOnce(&BTreeSet<Incarnation>) -> bool,
        pauses: Pauses,
    ) -> Option<BTreeSet<u32>> {
        self.see(now, takers, is_live, pauses);
        if self.from.is_empty() || !falls_short(&self.known) {
            self.settled();
            return None;
        }
        let waiting = || self.from.iter().filter(|(_, from)| **from > now);
        self.due = waiting().map(|(_, from)| *from).min();
        let waiting: BTreeSet<u32> = waiting().map(|(life, _)| life.broker).collect();
        (waiting.len() < self.from.len()).then_some(waiting)
    }

    /// How long until it is worth looking again, whatever happens.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    pub fn settled(&mut self) {
        self.from.clear();
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses = Pauses { joining: Duration::from_secs(3), returning: Duration::from_secs(12) };

    fn life(broker: u32, epoch: u64) -> Incarnation {
        Incarnation { broker, epoch }
    }

    /// What a broker sees second by second.
    struct Observer {
        began: Instant,
        joined: Joined,
    }

    impl Observer {
        fn of(takers: &[Incarnation]) -> Observer {
            Observer { began: Instant::now(), joined: Joined::new(takers.iter().copied().collect()) }
        }

        /// Whether shares are given, where these take partitions and `emptied` live besides.
        fn look(&mut self, second: u64, takers: &[Incarnation], emptied: &[Incarnation]) -> bool {
            self.waiting(second, takers, emptied).is_some()
        }

        /// To whom not, if shares are given.
        fn waiting(
            &mut self,
            second: u64,
            takers: &[Incarnation],
            emptied: &[Incarnation],
        ) -> Option<BTreeSet<u32>> {
            let now = self.began + Duration::from_secs(second);
            let live = |life| takers.contains(&life) || emptied.contains(&life);
            self.joined.look(now, takers.iter().copied().collect(), live, |_| true, PAUSES)
        }

        fn due(&self, second: u64) -> Option<u64> {
            let now = self.began + Duration::from_secs(second);
            self.joined.due(now).map(|due| due.as_secs())
        }
    }

    /// J1.
    #[test]
    fn who_is_new_waits_for_others_that_join_with_it() {
        let [one, two, three] = [life(1, 1), life(2, 2), life(3, 3)];
        let mut observer = Observer::of(&[one]);
        assert!(!observer.look(0, &[one], &[]));
        assert_eq!(observer.due(0), None);
        assert!(!observer.look(1, &[one, two], &[]));
        assert!(!observer.look(3, &[one, two, three], &[]));
        assert_eq!(observer.due(3), Some(3));
        assert!(!observer.look(5, &[one, two, three], &[]));
        assert!(observer.look(6, &[one, two, three], &[]));
        observer.joined.settled();
        assert!(!observer.look(7, &[one, two, three], &[]));
    }

    /// J2.
    #[test]
    fn who_died_and_is_back_waits_until_clients_try_it_again() {
        let [one, two, back] = [life(1, 1), life(2, 2), life(2, 5)];
        let mut observer = Observer::of(&[one, two]);
        assert!(!observer.look(10, &[one], &[]));
        assert!(!observer.look(12, &[one, back], &[]));
        assert_eq!(observer.due(12), Some(10));
        assert!(!observer.look(21, &[one, back], &[]));
        assert!(observer.look(22, &[one, back], &[]));
    }

    /// J2: its next life may be the next thing that is seen.
    #[test]
    fn a_life_that_replaced_another_waits_too() {
        let [one, two, back] = [life(1, 1), life(2, 2), life(2, 5)];
        let mut observer = Observer::of(&[one, two]);
        assert!(!observer.look(10, &[one, back], &[]));
        assert_eq!(observer.due(10), Some(12));
    }

    /// Clients had left it before it went.
    #[test]
    fn who_was_emptied_first_is_as_good_as_new() {
        let [one, two, back] = [life(1, 1), life(2, 2), life(2, 5)];
        let mut observer = Observer::of(&[one, two]);
        assert!(!observer.look(10, &[one], &[two]));
        assert!(!observer.look(11, &[one], &[]));
        assert!(!observer.look(12, &[one, back], &[]));
        assert_eq!(observer.due(12), Some(3));
    }

    /// Though nobody asked meanwhile: a hand-over was under way.
    #[test]
    fn an_emptying_that_was_over_soon_was_seen() {
        let [one, two] = [life(1, 1), life(2, 2)];
        let mut observer = Observer::of(&[one, two]);
        for (second, takers) in [(1, &[one][..]), (2, &[one, two])] {
            let now = observer.began + Duration::from_secs(second);
            observer.joined.see(now, takers.iter().copied().collect(), |_| true, PAUSES);
        }
        assert!(observer.look(5, &[one, two], &[]));
    }

    /// J2: it dies every ten seconds.
    #[test]
    fn who_dies_again_and_again_keeps_nobody_else_from_a_share() {
        let (one, new) = (life(1, 1), life(3, 70));
        let mut observer = Observer::of(&[one, life(2, 2)]);
        let mut others = vec![one];
        for round in 0..9 {
            let (second, back) = (10 * round, life(2, 10 + round));
            observer.look(second, &others, &[]);
            if round == 2 {
                others.push(new);
            }
            let takers = [&others[..], &[back]].concat();
            observer.look(second + 1, &takers, &[]);
            let waiting = observer.waiting(second + 5, &takers, &[]);
            assert_eq!(waiting, (round >= 2).then(|| BTreeSet::from([2])), "in round {round}");
        }
    }

    /// J3.
    #[test]
    fn a_death_of_long_ago_counts_no_more() {
        let [one, two, back] = [life(1, 1), life(2, 2), life(2, 5)];
        let mut observer = Observer::of(&[one, two]);
        assert!(!observer.look(10, &[one], &[]));
        assert!(!observer.look(23, &[one, back], &[]));
        assert_eq!(observer.due(23), Some(3));
        assert!(observer.joined.died.is_empty());
    }
}
