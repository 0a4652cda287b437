//! Which partitions should move, so that brokers have equal shares: pure, and the same on every broker and in the CLI.
//!
//! ```text
//!   brokers that take partitions ┐
//!   who leads what, and its load ┴──► plan ──► moves, in the order in which they help most
//!                                      │
//!                                      ├─ 1. each topic over the brokers
//!                                      ├─ 2. all partitions over the brokers
//!                                      └─ 3. load over the brokers, by exchanges that leave 1 and 2 as they are
//! ```
//!
//! # Guarantees
//! - **L1** After all moves no topic, and no two brokers in all, differ by more than one partition, among what the brokers of
//!   the plan lead (with [`Slack::none`]).
//! - **L2** No partition moves twice, none that is on its way already moves at all, and what is balanced is left alone.
//! - **L3** Load moves only if the busiest broker has more than its share by [`Slack::load`], and each exchange relieves it by
//!   a [`WORTH_MIN`] of a share at least: so loads that waver move nothing to and fro.
//! - **L4** The same input gives the same moves, whatever its order.
//!
//! New partitions go to ([`place`]), in this order: the brokers that have the fewest of their topic; those that have about the
//! fewest in all, give or take [`ABOUT`] percent; those with the least load, in steps of a quarter of a share; the one with the
//! fewest in all; the lowest id. So:
//!
//! - **S1** Load never makes a topic uneven, nor a broker's number of partitions by more than that.
//! - **S2** Where load is even, or next to nothing, partitions go where `metadata/place.rs` would put them.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

/// What a partition costs its broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Produced and fetched.
    pub bytes_per_s: u64,
    /// Batches produced.
    pub batches_per_s: u64,
}

/// A batch costs about as much work as so many bytes. No option: it is a weight between two measures of one thing.
const BATCH_WEIGHT: u64 = 4 << 10;

impl Load {
    fn weight(self) -> u64 {
        self.bytes_per_s.saturating_add(self.batches_per_s.saturating_mul(BATCH_WEIGHT))
    }
}

/// A partition, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    pub topic: Uuid,
    pub index: i32,
    /// The broker that leads it, or is about to.
    pub broker: u32,
    pub load: Load,
    /// It is on its way: it counts where it goes to, and stays.
    pub moving: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub topic: Uuid,
    pub index: i32,
    pub from: u32,
    pub to: u32,
}

/// How much imbalance is left alone, and how much is done about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slack {
    /// Percent of an even share by which the broker with the fewest partitions may fall short before any are moved for their
    /// number.
    pub count: u32,
    /// Percent of an even share by which the busiest broker may exceed it before any are moved for their load.
    pub load: u32,
    pub moves_max: usize,
}

impl Slack {
    /// As even as possible.
    pub const fn none(moves_max: usize) -> Slack {
        Slack { count: 0, load: 20, moves_max }
    }

    /// For what happens without being asked for.
    pub const fn automatic(moves_max: usize) -> Slack {
        Slack { count: 20, load: 50, moves_max }
    }
}

/// Percent of an even share of the load that one exchange has to take off the busiest broker. No option: below that,
/// the reading of the load is no better.
pub const WORTH_MIN: u64 = 5;

/// The heaviest partitions of the busiest broker that are looked at for an exchange, and for each so many of the other's.
/// No option: it bounds the work of a plan.
const CANDIDATES_MAX: usize = 64;

/// See the module. Partitions on brokers that are not among `brokers` are left where they are.
pub fn plan(brokers: &BTreeSet<u32>, partitions: &[Placed], slack: Slack) -> Vec<Move> {
    let mut plan = Planning::new(brokers, partitions);
    if plan.brokers.len() > 1 && plan.total > 0 {
        if slack.count == 0 || falls_short(&plan.count, slack.count) {
            plan.spread_topics(slack.moves_max);
            plan.spread_counts(slack.moves_max);
        }
        plan.spread_load(slack);
    }
    plan.moves()
}

/// Where up to `moves_max` of the partitions of `from`, which is being emptied, go: each where its topic has least, then where
/// there is least in all.
pub fn evacuate(brokers: &BTreeSet<u32>, partitions: &[Placed], from: u32, moves_max: usize) -> Vec<Move> {
    let receivers: BTreeSet<u32> = brokers.iter().copied().filter(|broker| *broker != from).collect();
    if receivers.is_empty() {
        return Vec::new();
    }
    let mut in_all: BTreeMap<u32, usize> = receivers.iter().map(|broker| (*broker, 0)).collect();
    let mut of_topic: BTreeMap<(Uuid, u32), usize> = BTreeMap::new();
    let mut leaving = Vec::new();
    for placed in partitions {
        if let Some(count) = in_all.get_mut(&placed.broker) {
            *count += 1;
            *of_topic.entry((placed.topic, placed.broker)).or_default() += 1;
        } else if placed.broker == from {
            leaving.push(placed);
        }
    }
    leaving.sort_unstable_by_key(|placed| (placed.topic, placed.index));
    let place = |placed: &Placed| {
        let least = |broker: &u32| {
            (of_topic.get(&(placed.topic, *broker)).copied().unwrap_or(0), in_all[broker], *broker)
        };
        let to = receivers.iter().copied().min_by_key(least).expect("there is one");
        *of_topic.entry((placed.topic, to)).or_default() += 1;
        *in_all.get_mut(&to).expect("a receiver") += 1;
        Move { topic: placed.topic, index: placed.index, from, to }
    };
    leaving.into_iter().take(moves_max).map(place).collect()
}

/// A broker that new partitions can go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    pub broker: u32,
    /// Partitions of the topic that it leads.
    pub of_topic: usize,
    pub in_all: usize,
    /// Bytes a second of all that it leads.
    pub load: u64,
}

/// Percent of an even share by which a broker may have more partitions than the one with the fewest, and count as having as few.
pub const ABOUT: usize = 10;

/// Loads that differ by less than this are the same, bytes a second. No option: no broker feels it.
const LOAD_STEP_MIN: u64 = 256 << 10;

/// The leaders of `count` new partitions of a topic: see the module. `homes` are as they will be then; each partition is taken to
/// get as much load as partitions have on average.
pub fn place(homes: &mut [Home], count: usize) -> Vec<u32> {
    let brokers = homes.len().max(1);
    let partitions = homes.iter().map(|home| home.in_all).sum::<usize>();
    let load = homes.iter().fold(0u64, |sum, home| sum.saturating_add(home.load));
    let each = load / partitions.max(1) as u64;
    let step = (load / brokers as u64 / 4).max(LOAD_STEP_MIN);
    let slack = (partitions / brokers * ABOUT / 100).max(1);
    let mut leaders = Vec::with_capacity(count);
    while leaders.len() < count {
        let fewest = homes.iter().map(|home| home.in_all).min().unwrap_or(0);
        let order = |home: &&mut Home| {
            (home.of_topic, home.in_all > fewest + slack, home.load / step, home.in_all, home.broker)
        };
        let Some(home) = homes.iter_mut().min_by_key(order) else { break };
        home.of_topic += 1;
        home.in_all += 1;
        home.load = home.load.saturating_add(each);
        leaders.push(home.broker);
    }
    leaders
}

/// Whether any of them has a load that matters.
pub fn any_load(homes: &[Home]) -> bool {
    homes.iter().any(|home| home.load >= LOAD_STEP_MIN)
}

/// Whether some broker has fewer partitions than an even share by more than `percent` of it, and by more than rounding.
pub fn falls_short(counts: &[usize], percent: u32) -> bool {
    let least = counts.iter().min().copied().unwrap_or(0);
    let share = counts.iter().sum::<usize>() / counts.len().max(1);
    least < share && (share - least) * 100 > share * percent as usize
}

/// Positions of brokers and partitions in the lists of a [`Planning`].
type BrokerAt = usize;
type PartitionAt = usize;
type TopicAt = usize;

struct Planning<'a> {
    brokers: Vec<u32>,
    partitions: Vec<&'a Placed>,
    topic_of: Vec<TopicAt>,
    /// What may still move, per broker.
    movable: Vec<BTreeSet<PartitionAt>>,
    count: Vec<usize>,
    /// Per topic, per broker.
    topic_count: Vec<Vec<usize>>,
    load: Vec<u64>,
    total: usize,
    /// Where each is in the plan so far.
    broker_of: Vec<BrokerAt>,
    /// What was moved, in that order, some again and again: only where it came from and where it ends up counts.
    shifted: Vec<PartitionAt>,
}

impl<'a> Planning<'a> {
    fn new(brokers: &BTreeSet<u32>, all: &'a [Placed]) -> Planning<'a> {
        let brokers: Vec<u32> = brokers.iter().copied().collect();
        let at: BTreeMap<u32, BrokerAt> = brokers.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let mut partitions: Vec<&Placed> =
            all.iter().filter(|placed| at.contains_key(&placed.broker)).collect();
        partitions.sort_unstable_by_key(|placed| (placed.topic, placed.index));
        let mut planning = Planning {
            movable: vec![BTreeSet::new(); brokers.len()],
            count: vec![0; brokers.len()],
            load: vec![0; brokers.len()],
            topic_of: Vec::with_capacity(partitions.len()),
            topic_count: Vec::new(),
            total: partitions.len(),
            broker_of: Vec::with_capacity(partitions.len()),
            shifted: Vec::new(),
            brokers,
            partitions,
        };
        let mut last = None;
        for (partition, placed) in planning.partitions.iter().enumerate() {
            if last.replace(placed.topic) != Some(placed.topic) {
                planning.topic_count.push(vec![0; planning.brokers.len()]);
            }
            let (topic, broker) = (planning.topic_count.len() - 1, at[&placed.broker]);
            planning.topic_of.push(topic);
            planning.broker_of.push(broker);
            planning.topic_count[topic][broker] += 1;
            planning.count[broker] += 1;
            planning.load[broker] = planning.load[broker].saturating_add(placed.load.weight());
            if !placed.moving {
                planning.movable[broker].insert(partition);
            }
        }
        planning
    }

    fn weight(&self, partition: PartitionAt) -> u64 {
        self.partitions[partition].load.weight()
    }

    fn shift(&mut self, partition: PartitionAt, from: BrokerAt, to: BrokerAt) {
        let (topic, weight) = (self.topic_of[partition], self.weight(partition));
        assert!(self.movable[from].remove(&partition), "it is there, and not on its way");
        self.movable[to].insert(partition);
        self.broker_of[partition] = to;
        self.topic_count[topic][from] -= 1;
        self.topic_count[topic][to] += 1;
        self.count[from] -= 1;
        self.count[to] += 1;
        self.load[from] -= weight;
        self.load[to] = self.load[to].saturating_add(weight);
        self.shifted.push(partition);
    }

    fn moves(&self) -> Vec<Move> {
        let mut seen = BTreeSet::new();
        let moved =
            self.shifted.iter().filter(|partition| seen.insert(**partition)).filter_map(|partition| {
                let placed = self.partitions[*partition];
                let to = self.brokers[self.broker_of[*partition]];
                let done = Move { topic: placed.topic, index: placed.index, from: placed.broker, to };
                (placed.broker != to).then_some(done)
            });
        moved.collect()
    }

    /// Of the partitions of `from` that `fits`, the one that brings the loads of the two closest.
    fn choose(
        &self,
        from: BrokerAt,
        to: BrokerAt,
        fits: impl Fn(PartitionAt) -> bool,
    ) -> Option<PartitionAt> {
        let ideal = self.load[from].saturating_sub(self.load[to]) / 2;
        let fitting = self.movable[from].iter().copied().filter(|partition| fits(*partition));
        fitting.min_by_key(|partition| (self.weight(*partition).abs_diff(ideal), *partition))
    }

    /// Phase 1.
    fn spread_topics(&mut self, moves_max: usize) {
        for topic in 0..self.topic_count.len() {
            let mut stuck = BTreeSet::new();
            while self.shifted.len() < moves_max {
                let counts = &self.topic_count[topic];
                let brokers = 0..self.brokers.len();
                let from = brokers
                    .clone()
                    .filter(|broker| !stuck.contains(broker))
                    .max_by_key(|broker| (counts[*broker], self.count[*broker], *broker));
                let to = brokers.min_by_key(|broker| (counts[*broker], self.count[*broker], *broker));
                let (Some(from), Some(to)) = (from, to) else { break };
                if counts[from] < counts[to] + 2 {
                    break;
                }
                match self.choose(from, to, |partition| self.topic_of[partition] == topic) {
                    Some(partition) => self.shift(partition, from, to),
                    None => {
                        stuck.insert(from);
                    }
                }
            }
        }
    }

    /// Phase 2. Only partitions of topics of which the giver has more go, so that phase 1 stays true; while counts differ by
    /// two there is always one, unless it is on its way.
    fn spread_counts(&mut self, moves_max: usize) {
        let mut stuck = BTreeSet::new();
        while self.shifted.len() < moves_max {
            let brokers = 0..self.brokers.len();
            let from = brokers
                .clone()
                .filter(|broker| !stuck.contains(broker))
                .max_by_key(|broker| (self.count[*broker], self.load[*broker], *broker));
            let to = brokers.min_by_key(|broker| (self.count[*broker], self.load[*broker], *broker));
            let (Some(from), Some(to)) = (from, to) else { break };
            if self.count[from] < self.count[to] + 2 {
                break;
            }
            match self.choose(from, to, |partition| self.has_more(partition, from, to)) {
                Some(partition) => self.shift(partition, from, to),
                None => {
                    stuck.insert(from);
                }
            }
        }
    }

    fn has_more(&self, partition: PartitionAt, one: BrokerAt, other: BrokerAt) -> bool {
        let counts = &self.topic_count[self.topic_of[partition]];
        counts[one] > counts[other]
    }

    /// Phase 3.
    fn spread_load(&mut self, slack: Slack) {
        let share = self.load.iter().fold(0u64, |sum, load| sum.saturating_add(*load))
            / self.brokers.len().max(1) as u64;
        let bearable = share.saturating_add(share.saturating_mul(u64::from(slack.load)) / 100);
        let worth = (share.saturating_mul(WORTH_MIN) / 100).max(1);
        while self.shifted.len() + 2 <= slack.moves_max {
            let brokers = 0..self.brokers.len();
            let hot = brokers.clone().max_by_key(|broker| (self.load[*broker], *broker));
            let cold = brokers.min_by_key(|broker| (self.load[*broker], *broker));
            let (Some(hot), Some(cold)) = (hot, cold) else { return };
            if self.load[hot] <= bearable {
                return;
            }
            let Some((gives, takes)) = self.exchange(hot, cold, worth) else { return };
            self.shift(gives, hot, cold);
            if let Some(takes) = takes {
                self.shift(takes, cold, hot);
            }
        }
    }

    /// What `hot` should give and get for it, so that the larger of the two loads falls the most.
    fn exchange(
        &self,
        hot: BrokerAt,
        cold: BrokerAt,
        worth: u64,
    ) -> Option<(PartitionAt, Option<PartitionAt>)> {
        let gap = self.load[hot] - self.load[cold];
        let mut gives: Vec<PartitionAt> = self.movable[hot].iter().copied().collect();
        gives.sort_unstable_by_key(|partition| (std::cmp::Reverse(self.weight(*partition)), *partition));
        gives.retain(|partition| self.weight(*partition) > 0);
        let mut takes: Vec<PartitionAt> = self.movable[cold].iter().copied().collect();
        takes.sort_unstable_by_key(|partition| (self.weight(*partition), *partition));
        // Those that bring the two close by themselves, as well as the heaviest.
        let near = gives.partition_point(|partition| self.weight(*partition) > gap);
        let candidates = gives.iter().take(CANDIDATES_MAX).chain(gives[near..].iter().take(CANDIDATES_MAX));
        let mut best: Option<(u64, PartitionAt, Option<PartitionAt>)> = None;
        let mut consider = |gives: PartitionAt, takes: Option<PartitionAt>| {
            let moved = self.weight(gives).saturating_sub(takes.map_or(0, |takes| self.weight(takes)));
            // `hot` falls by `moved`, and `cold` rises to no more than `hot` was less what it is worth.
            let relieved = moved.min(gap.saturating_sub(moved));
            if relieved >= worth && best.is_none_or(|(most, ..)| relieved > most) {
                best = Some((relieved, gives, takes));
            }
        };
        for gives in candidates.copied() {
            if self.count[hot] > self.count[cold] && self.has_more(gives, hot, cold) {
                consider(gives, None);
            }
            let ideal = self.weight(gives).saturating_sub(gap / 2);
            let middle = takes.partition_point(|partition| self.weight(*partition) < ideal);
            let from = middle.saturating_sub(CANDIDATES_MAX / 2);
            for takes in takes[from..].iter().copied().take(CANDIDATES_MAX) {
                let same = self.topic_of[gives] == self.topic_of[takes];
                if same || (self.has_more(gives, hot, cold) && self.has_more(takes, cold, hot)) {
                    consider(gives, Some(takes));
                }
            }
        }
        best.map(|(_, gives, takes)| (gives, takes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placed(topic: u128, index: i32, broker: u32, bytes_per_s: u64) -> Placed {
        let load = Load { bytes_per_s, batches_per_s: 0 };
        Placed { topic: Uuid::from_u128(topic), index, broker, load, moving: false }
    }

    fn brokers(ids: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
        ids.into_iter().collect()
    }

    fn carry_out(partitions: &mut [Placed], moves: &[Move]) {
        for done in moves {
            let at = partitions
                .iter_mut()
                .find(|placed| (placed.topic, placed.index) == (done.topic, done.index))
                .expect("what moves is there");
            assert_eq!(at.broker, done.from);
            assert_ne!(at.broker, done.to);
            assert!(!at.moving);
            at.broker = done.to;
        }
    }

    fn spread(brokers: &BTreeSet<u32>, of: impl Fn(u32) -> u64) -> u64 {
        let counts = || brokers.iter().map(|broker| of(*broker));
        counts().max().unwrap_or(0) - counts().min().unwrap_or(0)
    }

    fn count(partitions: &[Placed], fits: impl Fn(&Placed) -> bool) -> u64 {
        partitions.iter().filter(|placed| fits(placed)).count() as u64
    }

    fn load_of(partitions: &[Placed], broker: u32) -> u64 {
        partitions.iter().filter(|placed| placed.broker == broker).map(|placed| placed.load.weight()).sum()
    }

    #[test]
    fn a_broker_that_joins_gets_its_share_and_no_more_moves() {
        let mut partitions: Vec<Placed> =
            (0..1000).map(|at| placed(at as u128 / 20, at % 20, 1 + (at % 3) as u32, 100)).collect();
        let all = brokers(1..=4);
        let moves = plan(&all, &partitions, Slack::automatic(10_000));
        assert!(moves.iter().all(|done| done.to == 4), "{moves:?}");
        assert_eq!(moves.len(), 250);
        carry_out(&mut partitions, &moves);
        assert!(spread(&all, |broker| count(&partitions, |placed| placed.broker == broker)) <= 1);
        assert!(plan(&all, &partitions, Slack::automatic(10_000)).is_empty());
    }

    #[test]
    fn small_differences_are_left_alone_unless_asked() {
        let partitions: Vec<Placed> =
            (0..100).map(|at| placed(1, at, if at < 46 { 1 } else { 2 }, 0)).collect();
        let all = brokers([1, 2]);
        assert!(plan(&all, &partitions, Slack::automatic(100)).is_empty());
        assert_eq!(plan(&all, &partitions, Slack::none(100)).len(), 4);
    }

    #[test]
    fn what_is_moving_counts_where_it_goes_to_and_stays() {
        let mut partitions: Vec<Placed> = (0..8).map(|at| placed(1, at, 1, 0)).collect();
        for on_its_way in &mut partitions[..4] {
            (on_its_way.broker, on_its_way.moving) = (2, true);
        }
        assert!(plan(&brokers([1, 2]), &partitions, Slack::none(100)).is_empty());
        for on_its_way in &mut partitions[4..] {
            (on_its_way.broker, on_its_way.moving) = (2, true);
        }
        assert!(plan(&brokers([1, 2]), &partitions, Slack::none(100)).is_empty());
    }

    #[test]
    fn a_broker_that_is_emptied_fills_the_others_evenly() {
        let partitions: Vec<Placed> =
            (0..90).map(|at| placed(at as u128 / 9, at % 9, 1 + (at % 3) as u32, 0)).collect();
        let all = brokers([1, 2, 3]);
        let moves = evacuate(&all, &partitions, 2, 1000);
        assert_eq!(moves.len(), 30);
        let to = |broker| moves.iter().filter(|done| done.to == broker).count();
        assert_eq!((to(1), to(2), to(3)), (15, 0, 15));
        assert_eq!(evacuate(&all, &partitions, 2, 7)[..], moves[..7], "in the same order");
        assert!(evacuate(&brokers([2]), &partitions, 2, 1000).is_empty());
        assert_eq!(evacuate(&brokers([3]), &partitions, 2, 1000).len(), 30);
    }

    #[test]
    fn load_is_evened_by_exchanges() {
        // The heavy ones are all on broker 1.
        let mut partitions: Vec<Placed> = (0..40)
            .map(|at| placed(1, at, 1 + (at % 2) as u32, if at % 2 == 0 { 1000 } else { 10 }))
            .collect();
        let all = brokers([1, 2]);
        let moves = plan(&all, &partitions, Slack::none(100));
        assert!(!moves.is_empty() && moves.len() <= 20, "{moves:?}");
        carry_out(&mut partitions, &moves);
        assert_eq!(spread(&all, |broker| count(&partitions, |placed| placed.broker == broker)), 0);
        let (one, two) = (load_of(&partitions, 1), load_of(&partitions, 2));
        assert!(one.max(two) * 2 <= (one + two) * 120 / 100, "{one} {two}");
        assert!(plan(&all, &partitions, Slack::none(100)).is_empty());
    }

    #[test]
    fn one_partition_that_is_heavier_than_a_share_moves_nothing_to_and_fro() {
        let partitions: Vec<Placed> =
            (0..10).map(|at| placed(1, at, 1 + (at % 2) as u32, if at == 0 { 100_000 } else { 1 })).collect();
        assert!(plan(&brokers([1, 2]), &partitions, Slack::none(100)).is_empty());
    }

    #[test]
    fn a_plan_for_a_hundred_brokers_is_made_in_bounded_work() {
        let partitions: Vec<Placed> = (0..20_000)
            .map(|at| placed(at as u128 / 50, at % 50, (at % 90) as u32, (at as u64 * 7919) % 5000))
            .collect();
        let all = brokers(0..100);
        let moves = plan(&all, &partitions, Slack::automatic(500));
        assert_eq!(moves.len(), 500);
    }

    fn home(broker: u32, in_all: usize, load: u64) -> Home {
        Home { broker, of_topic: 0, in_all, load }
    }

    #[test]
    fn new_partitions_keep_off_the_busiest_broker_as_far_as_counts_allow() {
        let mib = 1 << 20;
        let homes = || vec![home(1, 100, 50 * mib), home(2, 101, mib), home(3, 102, 2 * mib)];
        assert_eq!(place(&mut homes(), 1), [2]);
        assert_eq!(
            place(&mut homes(), 3),
            [2, 3, 1],
            "a topic is spread over all of them whatever their load (S1)"
        );
        let topics = (0..60).scan(homes(), |homes, _| {
            homes.iter_mut().for_each(|home| home.of_topic = 0);
            Some(place(homes, 1)[0])
        });
        let many: Vec<u32> = topics.collect();
        let got = |broker| many.iter().filter(|to| **to == broker).count();
        assert!(got(1) > 0 && got(1) < got(2), "{many:?}: at some time its number of partitions counts more");
        assert!(place(&mut [], 3).is_empty());
    }

    proptest! {
        #[test]
        fn s1_s2_new_partitions_are_even_first_and_go_by_load_then(
            known in proptest::collection::vec((0usize..5, 0usize..200, 0u64..100_000_000), 1..6),
            count in 1usize..50,
        ) {
            let homes: Vec<Home> = (1u32..).zip(&known).map(|(broker, (of_topic, others, load))| {
                Home { broker, of_topic: *of_topic, in_all: of_topic + others, load: *load }
            }).collect();
            let leaders = place(&mut homes.clone(), count);
            prop_assert_eq!(leaders.len(), count);
            let mut now = homes.clone();
            for leader in &leaders {
                let fewest = now.iter().map(|home| home.of_topic).min().unwrap_or(0);
                let home = now.iter_mut().find(|home| home.broker == *leader).expect("one of them");
                prop_assert_eq!(home.of_topic, fewest, "S1");
                (home.of_topic, home.in_all) = (home.of_topic + 1, home.in_all + 1);
            }
            // S2: by counts alone, as `metadata/place.rs` does.
            let mut idle: Vec<Home> = homes.iter().map(|home| Home { load: 0, ..*home }).collect();
            let mut plain = idle.clone();
            let expected: Vec<u32> = (0..count).map(|_| {
                let least = plain.iter_mut().min_by_key(|home| (home.of_topic, home.in_all, home.broker)).expect("one");
                (least.of_topic, least.in_all) = (least.of_topic + 1, least.in_all + 1);
                least.broker
            }).collect();
            prop_assert_eq!(place(&mut idle, count), expected);
        }

        #[test]
        fn l1_l2_l4_plans_even_out_and_end(
            ids in proptest::collection::btree_set(0u32..6, 1..6),
            homes in proptest::collection::vec((0u128..5, 0u32..6, 0u64..2000), 0..80),
            seed in 0usize..1000,
        ) {
            let mut partitions: Vec<Placed> = homes
                .iter()
                .enumerate()
                .map(|(at, (topic, broker, bytes))| placed(*topic, at as i32, *broker, *bytes))
                .collect();
            let moves = plan(&ids, &partitions, Slack::none(1000));
            let mut shuffled = partitions.clone();
            if !shuffled.is_empty() {
                let by = seed % shuffled.len();
                shuffled.rotate_left(by);
            }
            prop_assert_eq!(&plan(&ids, &shuffled, Slack::none(1000)), &moves);
            let moved: BTreeSet<_> = moves.iter().map(|done| (done.topic, done.index)).collect();
            prop_assert_eq!(moved.len(), moves.len(), "each moves once");
            let elsewhere = |placed: &&Placed| !ids.contains(&placed.broker);
            let before: Vec<Placed> = partitions.iter().filter(elsewhere).copied().collect();
            carry_out(&mut partitions, &moves);
            let after: Vec<Placed> = partitions.iter().filter(elsewhere).copied().collect();
            prop_assert_eq!(before, after);
            prop_assert!(spread(&ids, |broker| count(&partitions, |at| at.broker == broker)) <= 1);
            for topic in 0..5 {
                let topic = Uuid::from_u128(topic);
                let of = |broker| count(&partitions, |at| (at.topic, at.broker) == (topic, broker));
                prop_assert!(spread(&ids, of) <= 1);
            }
        }
    }
}
