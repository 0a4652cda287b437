//! Random histories, against a model that keeps every offset on its own.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What somebody tries, in numbers that are taken modulo whatever there is.
#[derive(Clone, Debug)]
enum Step {
    Register,
    Open {
        stale: bool,
    },
    Close {
        stale: bool,
    },
    Create {
        name: u8,
        partitions: u8,
    },
    Delete {
        topic: u8,
    },
    Commit {
        stale: bool,
        streams: Vec<(u8, u8)>,
        shift: i8,
    },
    Recover {
        stale: bool,
        streams: Vec<(u8, u8)>,
        last: bool,
        slots: bool,
    },
    Trim {
        stream: u8,
        to: u8,
    },
    ProducerIds {
        count: u8,
    },
    Grow {
        topic: u8,
        to: u8,
    },
    TopicConfigs {
        topic: u8,
        stale: bool,
        value: u8,
    },
    BrokerConfigs {
        broker: Option<u8>,
        stale: bool,
        value: u8,
    },
    Repeat {
        nth: u8,
    },
    Forget {
        pick: u8,
    },
    LowWater {
        stale: bool,
        ahead: u8,
    },
    /// Of each stream some parts, from the first picked one on; `wrong` picks a way to get it wrong.
    Replace {
        stale: bool,
        streams: Vec<(u8, u8, u8)>,
        wrong: u8,
        trim_first: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let streams = || prop::collection::vec((any::<u8>(), 1..6u8), 1..5);
    let rarely = || prop::bool::weighted(0.1);
    prop_oneof![
        1 => Just(Step::Register),
        3 => rarely().prop_map(|stale| Step::Open { stale }),
        1 => rarely().prop_map(|stale| Step::Close { stale }),
        3 => (0..6u8, 0..4u8).prop_map(|(name, partitions)| Step::Create { name, partitions }),
        1 => any::<u8>().prop_map(|topic| Step::Delete { topic }),
        8 => (rarely(), streams(), prop_oneof![9 => Just(0i8), 1 => -2..3i8])
            .prop_map(|(stale, streams, shift)| Step::Commit { stale, streams, shift }),
        4 => (rarely(), streams(), any::<bool>(), any::<bool>())
            .prop_map(|(stale, streams, last, slots)| Step::Recover { stale, streams, last, slots }),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(stream, to)| Step::Trim { stream, to }),
        1 => any::<u8>().prop_map(|count| Step::ProducerIds { count }),
        2 => (any::<u8>(), 0..7u8).prop_map(|(topic, to)| Step::Grow { topic, to }),
        2 => (any::<u8>(), any::<bool>(), 0..3u8)
            .prop_map(|(topic, stale, value)| Step::TopicConfigs { topic, stale, value }),
        2 => (prop::option::of(0..2u8), any::<bool>(), 0..3u8)
            .prop_map(|(broker, stale, value)| Step::BrokerConfigs { broker, stale, value }),
        2 => any::<u8>().prop_map(|nth| Step::Repeat { nth }),
        2 => any::<u8>().prop_map(|pick| Step::Forget { pick }),
        1 => (rarely(), 0..3u8).prop_map(|(stale, ahead)| Step::LowWater { stale, ahead }),
        6 => (rarely(), prop::collection::vec((any::<u8>(), any::<u8>(), 1..4u8), 1..4), 0..12u8, rarely())
            .prop_map(|(stale, streams, wrong, trim_first)| Step::Replace { stale, streams, wrong, trim_first }),
    ]
}

#[derive(Default)]
struct ModelStream {
    start: u64,
    end: u64,
    owner: Option<Incarnation>,
    epoch: u64,
    /// Which object holds each offset, by the record of all that was ever committed.
    held: BTreeMap<u64, ObjectId>,
    /// Where parts begin, by the same record.
    bases: BTreeSet<u64>,
}

#[derive(Default)]
struct Model {
    live: Option<Incarnation>,
    opened: bool,
    fenced: BTreeSet<Incarnation>,
    trims: BTreeMap<Incarnation, u64>,
    topics: BTreeMap<String, Vec<u64>>,
    /// One config, by the topic or broker that it was set for.
    topic_configs: BTreeMap<String, Vec<Config>>,
    broker_configs: BTreeMap<Option<u32>, Vec<Config>>,
    streams: BTreeMap<u64, ModelStream>,
    ever: u64,
    objects: BTreeSet<ObjectId>,
    /// Of those, what the collector has reported as deleted.
    forgotten: BTreeSet<ObjectId>,
    low_water: BTreeMap<Incarnation, u64>,
    /// Commits of the incarnation that lives.
    accepted: Vec<Commit>,
    producer_ids: i64,
    counter: u64,
}

impl Model {
    fn named(&self) -> BTreeSet<ObjectId> {
        let visible = |stream: &ModelStream| stream.held.range(stream.start..).map(|(_, id)| *id).collect();
        self.streams.values().flat_map(|stream| -> BTreeSet<ObjectId> { visible(stream) }).collect()
    }

    fn disown(&mut self, incarnation: Incarnation) {
        for stream in self.streams.values_mut().filter(|stream| stream.owner == Some(incarnation)) {
            stream.owner = None;
        }
        self.place();
    }

    /// What nobody owns is taken by the one broker there is, if it serves.
    fn place(&mut self) {
        let (Some(by), true) = (self.live, self.opened) else { return };
        for stream in self.streams.values_mut().filter(|stream| stream.owner.is_none()) {
            stream.owner = Some(by);
            stream.epoch += 1;
        }
    }

    /// An object whose parts extend (or, with `shift`, miss) the chosen streams, and whether it should be accepted.
    fn object(
        &mut self,
        id: ObjectId,
        owner: Incarnation,
        streams: &[(u8, u8)],
        shift: i8,
    ) -> (NewObject, bool) {
        let mut parts: Vec<StreamPart> = Vec::new();
        let mut ends = BTreeMap::new();
        let mut good = true;
        for (pick, len) in streams {
            let chosen = *pick as u64 % self.ever;
            let end = ends.entry(chosen).or_insert(self.streams.get(&chosen).map_or(5, |stream| stream.end));
            let base = end.saturating_add_signed(shift.into());
            if let Some(stream) = self.streams.get(&chosen) {
                good &= base == *end && stream.owner == Some(owner);
            }
            parts.push(part(StreamId(chosen), base, base + *len as u64));
            *end = base + *len as u64;
        }
        (NewObject { id, size_bytes: 1, parts }, good)
    }

    fn may_be_named(&self, id: ObjectId) -> bool {
        match id {
            ObjectId::Data { owner, counter } => {
                self.low_water.get(&owner).is_none_or(|low_water| counter >= *low_water)
            }
            ObjectId::Slot { .. } => true,
        }
    }

    fn add(&mut self, object: &NewObject) {
        self.objects.insert(object.id);
        for part in &object.parts {
            if let Some(stream) = self.streams.get_mut(&part.stream.0) {
                stream.held.extend((part.base..part.end).map(|offset| (offset, object.id)));
                stream.bases.insert(part.base);
                stream.end = part.end;
            }
        }
    }
}

/// None, or one with a value.
fn some_configs(value: u8) -> Vec<Config> {
    let config = || ("retention.ms".into(), value.to_string().into());
    (value > 0).then(config).into_iter().collect()
}

struct Run {
    log: Log,
    /// The same commands, applied to a state that is rebuilt from a snapshot now and then.
    twin: Log,
    model: Model,
    retired: Option<Incarnation>,
}

impl Run {
    fn new() -> Run {
        let log = Log::formatted();
        Run { twin: log.clone(), log, model: Model::default(), retired: None }
    }

    fn apply(&mut self, command: Command) -> Result<Outcome, Rejection> {
        let outcome = self.log.apply(command.clone());
        assert_eq!(outcome, self.twin.apply(command), "the same commands have the same outcomes");
        outcome
    }

    /// Who issues a command: the live incarnation, or one that must not any more.
    fn issuer(&self, stale: bool) -> Option<Incarnation> {
        if stale { self.retired } else { self.model.live }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Register => self.register(),
            Step::Open { stale } => self.open(*stale),
            Step::Close { stale } => self.close(*stale),
            Step::Create { name, partitions } => self.create(*name, *partitions),
            Step::Delete { topic } => self.delete(*topic),
            Step::Commit { stale, streams, shift } => self.commit(*stale, streams, *shift),
            Step::Recover { stale, streams, last, slots } => self.recover(*stale, streams, *last, *slots),
            Step::Trim { stream, to } => self.trim(*stream, *to),
            Step::ProducerIds { count } => self.producer_ids(*count),
            Step::Grow { topic, to } => self.grow(*topic, *to),
            Step::TopicConfigs { topic, stale, value } => self.topic_configs(*topic, *stale, *value),
            Step::BrokerConfigs { broker, stale, value } => {
                self.broker_configs(broker.map(u32::from), *stale, *value);
            }
            Step::Repeat { nth } => self.repeat(*nth),
            Step::Forget { pick } => self.forget(*pick),
            Step::LowWater { stale, ahead } => self.low_water(*stale, *ahead),
            Step::Replace { stale, streams, wrong, trim_first } => {
                self.replace(*stale, streams, *wrong, *trim_first);
            }
        }
    }

    fn register(&mut self) {
        let outcome = self.apply(self.log.registration(1)).unwrap();
        let Outcome::Registered(registered) = outcome else { panic!("{outcome:?}") };
        if let Some(previous) = self.model.live.replace(registered.incarnation) {
            if self.model.opened {
                self.model.fenced.insert(previous);
            }
            self.retired = Some(previous);
        }
        self.model.opened = false;
        self.model.accepted.clear();
        self.model.trims.insert(registered.incarnation, 0);
        let previous: BTreeSet<_> = registered.previous.iter().map(|previous| previous.incarnation).collect();
        assert_eq!(previous, self.model.fenced);
    }

    fn open(&mut self, stale: bool) {
        let Some(by) = self.issuer(stale) else { return };
        let outcome = self.apply(Command::OpenLeaderships { by });
        assert_eq!(outcome.is_ok(), !stale);
        if outcome.is_ok() {
            self.model.opened = true;
            self.model.place();
        }
    }

    fn close(&mut self, stale: bool) {
        let Some(by) = self.issuer(stale) else { return };
        let outcome = self.apply(Command::CloseBroker { by });
        assert_eq!(outcome.is_ok(), !stale);
        if !stale {
            (self.model.live, self.model.opened, self.retired) = (None, false, Some(by));
            self.model.disown(by);
            self.model.accepted.clear();
        }
    }

    fn create(&mut self, name: u8, partitions: u8) {
        let Some(by) = self.model.live else { return };
        let name = ["a.b", "a_b", "c", "d", "e", "bad name"][name as usize];
        let outcome = self.apply(create(by, name, partitions.into()));
        if !self.model.opened {
            assert!(outcome.is_err());
            return;
        }
        let collides = match name {
            "a.b" | "a_b" => self.model.topics.contains_key("a.b") || self.model.topics.contains_key("a_b"),
            name => self.model.topics.contains_key(name),
        };
        let Ok(Outcome::Created(created)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(created[0].is_ok(), !collides && partitions > 0 && name != "bad name");
        if let Ok(topic) = &created[0] {
            let ids: Vec<u64> = topic.partitions.iter().flat_map(|p| [p.log.0, p.checkpoint.0]).collect();
            for id in &ids {
                assert_eq!(*id, self.model.ever, "stream ids are handed out once, in order");
                self.model.ever += 1;
                self.model.streams.insert(*id, ModelStream { owner: Some(by), ..ModelStream::default() });
            }
            self.model.topics.insert(name.to_owned(), ids);
        }
    }

    fn delete(&mut self, topic: u8) {
        let (Some(by), false) = (self.model.live, self.model.topics.is_empty()) else { return };
        let name = self.model.topics.keys().nth(topic as usize % self.model.topics.len()).unwrap().clone();
        let id = self.log.image.topic_named(&name).unwrap().id;
        self.apply(Command::DeleteTopics { by, topics: vec![id] }).unwrap();
        for id in self.model.topics.remove(&name).unwrap() {
            self.model.streams.remove(&id);
        }
        self.model.topic_configs.remove(&name);
    }

    fn grow(&mut self, topic: u8, to: u8) {
        let (Some(by), false) = (self.model.live, self.model.topics.is_empty()) else { return };
        let name = self.model.topics.keys().nth(topic as usize % self.model.topics.len()).unwrap().clone();
        let id = self.log.image.topic_named(&name).unwrap().id;
        let outcome = self.apply(Command::CreatePartitions {
            by,
            topics: vec![GrownTopic { id, partitions: to.into(), leaders: Vec::new() }],
        });
        if !self.model.opened {
            assert!(outcome.is_err());
            return;
        }
        let Ok(Outcome::Grown(grown)) = outcome else { panic!("{outcome:?}") };
        let had = self.model.topics[&name].len() / 2;
        assert_eq!(grown[0].is_ok(), to as usize > had);
        if let Ok(topic) = &grown[0] {
            let ids: Vec<u64> = topic.partitions.iter().flat_map(|p| [p.log.0, p.checkpoint.0]).collect();
            assert_eq!(ids.len(), 2 * to as usize);
            assert_eq!(ids[..2 * had], self.model.topics[&name], "C3");
            for id in &ids[2 * had..] {
                assert_eq!(*id, self.model.ever, "stream ids are handed out once, in order");
                self.model.ever += 1;
                self.model.streams.insert(*id, ModelStream { owner: Some(by), ..ModelStream::default() });
            }
            self.model.topics.insert(name, ids);
        }
    }

    fn topic_configs(&mut self, topic: u8, stale: bool, value: u8) {
        let (Some(by), false) = (self.model.live, self.model.topics.is_empty()) else { return };
        let name = self.model.topics.keys().nth(topic as usize % self.model.topics.len()).unwrap().clone();
        let id = self.log.image.topic_named(&name).unwrap().id;
        let now = self.model.topic_configs.entry(name).or_default();
        let (was, shall) = (if stale { some_configs(9) } else { now.clone() }, some_configs(value));
        let accepted = !stale || *now == shall;
        if accepted {
            *now = shall.clone();
        }
        let outcome = self.apply(Command::SetTopicConfigs { by, topic: id, was, shall });
        assert_eq!(outcome.is_ok(), accepted, "{outcome:?}");
    }

    fn broker_configs(&mut self, broker: Option<u32>, stale: bool, value: u8) {
        let Some(by) = self.model.live else { return };
        let now = self.model.broker_configs.entry(broker).or_default();
        let (was, shall) = (if stale { some_configs(9) } else { now.clone() }, some_configs(value));
        let accepted = !stale || *now == shall;
        if accepted {
            *now = shall.clone();
        }
        let outcome = self.apply(Command::SetBrokerConfigs { by, broker, was, shall });
        assert_eq!(outcome.is_ok(), accepted, "{outcome:?}");
    }

    fn commit(&mut self, stale: bool, streams: &[(u8, u8)], shift: i8) {
        let (Some(by), true) = (self.issuer(stale), self.model.ever > 0) else { return };
        self.model.counter += 1;
        let id = ObjectId::Data { owner: by, counter: self.model.counter };
        let (object, good) = self.model.object(id, by, streams, shift);
        let trim = self.model.trims[&by] + 1;
        let commit = commit(by, trim, std::slice::from_ref(&object));
        let command = Command::CommitObjects { commit: commit.clone() };
        let good = good && self.model.may_be_named(id);
        let outcome = self.apply(command.clone());
        assert_eq!(outcome.is_ok(), good && !stale, "{outcome:?}");
        if outcome.is_ok() {
            self.model.add(&object);
            self.model.trims.insert(by, trim);
            self.model.accepted.push(commit);
            let before = self.log.image.encode();
            self.apply(command).expect("to repeat a commit is harmless");
            assert_eq!(before[9..], self.log.image.encode()[9..]);
        }
    }

    fn recover(&mut self, stale: bool, streams: &[(u8, u8)], last: bool, slots: bool) {
        let (Some(by), true) = (self.model.live, self.model.ever > 0) else { return };
        let Some(of) = self.model.fenced.first().copied().or(self.retired) else { return };
        self.model.counter += 1;
        let trim = self.model.trims[&of];
        let id = if slots {
            ObjectId::Slot { owner: of, slot: trim + self.model.counter }
        } else {
            ObjectId::Data { owner: by, counter: self.model.counter }
        };
        let (object, good) = self.model.object(id, of, streams, 0);
        let good = good && self.model.may_be_named(id);
        let from = Position(if stale { trim + 1 } else { trim });
        let to = from.0 + 1;
        let objects = std::slice::from_ref(&object);
        let commit = commit(of, to, objects);
        let outcome = self.apply(Command::CommitRecovered { by, of, from, commit, last });
        assert_eq!(outcome.is_ok(), good && !stale && self.model.fenced.contains(&of), "{outcome:?}");
        if outcome.is_ok() {
            self.model.add(&object);
            self.model.trims.insert(of, to);
            if last {
                self.model.fenced.remove(&of);
                self.model.disown(of);
            }
        }
    }

    fn trim(&mut self, stream: u8, to: u8) {
        let (Some(by), true) = (self.model.live, self.model.ever > 0) else { return };
        let id = stream as u64 % self.model.ever;
        let end = self.model.streams.get(&id).map_or(0, |stream| stream.end);
        let to = to as u64 % (end + 2);
        let outcome = self.apply(Command::TrimStreams { by, trims: vec![(StreamId(id), to)] });
        match self.model.streams.get_mut(&id) {
            None => assert!(outcome.is_ok()),
            Some(stream) => {
                assert_eq!(outcome.is_ok(), to <= end);
                if outcome.is_ok() {
                    stream.start = stream.start.max(to);
                }
            }
        }
    }

    fn replace(&mut self, stale: bool, picks: &[(u8, u8, u8)], wrong: u8, trim_first: bool) {
        let (Some(by), false) = (self.issuer(stale), self.model.streams.is_empty()) else { return };
        let mut parts = BTreeMap::new();
        let mut sources = BTreeSet::new();
        for (stream, first, count) in picks {
            let (id, stream) =
                self.model.streams.iter().nth(*stream as usize % self.model.streams.len()).unwrap();
            let mut bases: Vec<u64> = stream.bases.range(stream.start..).copied().collect();
            // What a trim cut begins at the start.
            if stream.start < stream.end && bases.first() != Some(&stream.start) {
                bases.insert(0, stream.start);
            }
            bases.push(stream.end);
            let first = *first as usize % bases.len();
            let last = (first + *count as usize).min(bases.len() - 1);
            if first < last {
                parts.insert(*id, (bases[first], bases[last]));
                sources.extend(stream.held.range(bases[first]..bases[last]).map(|(_, object)| *object));
            }
        }
        if parts.is_empty() {
            return;
        }
        match (wrong, parts.first_entry()) {
            (0, Some(mut part)) => part.get_mut().0 += 1,
            (1, Some(mut part)) => part.get_mut().1 += 1,
            (2, Some(mut part)) => part.get_mut().1 -= 1,
            (3, _) => drop(sources.pop_first()),
            (4, _) => drop(sources.insert(ObjectId::Slot { owner: by, slot: 4711 })),
            _ => {}
        }
        if trim_first && let Some(live) = self.model.live {
            let (id, (base, end)) = parts.first_key_value().map(|(id, range)| (*id, *range)).unwrap();
            let to = end.min(base + 1).min(self.model.streams[&id].end);
            self.apply(Command::TrimStreams { by: live, trims: vec![(StreamId(id), to)] }).unwrap();
            let stream = self.model.streams.get_mut(&id).unwrap();
            stream.start = stream.start.max(to);
        }
        self.model.counter += 1;
        let id = ObjectId::Data { owner: by, counter: self.model.counter };
        let good = !stale
            && self.model.may_be_named(id)
            && parts.values().all(|(base, end)| base < end)
            && parts.iter().all(|(id, (base, end))| {
                let stream = &self.model.streams[id];
                let base = (*base).max(stream.start);
                let begins = base == stream.start || stream.bases.contains(&base);
                let ends = *end == stream.end || stream.bases.contains(end);
                let all = (base..*end)
                    .all(|offset| stream.held.get(&offset).is_some_and(|id| sources.contains(id)));
                *end <= stream.start || (begins && ends && all)
            });
        let parts: Vec<_> = parts.iter().map(|(id, (base, end))| part(StreamId(*id), *base, *end)).collect();
        let object = NewObject { id, size_bytes: 1, parts };
        let replacement = Replacement { object: object.clone(), sources: sources.into_iter().collect() };
        let command = Command::ReplaceParts { by, replacements: vec![replacement] };
        let outcome = self.apply(command.clone());
        assert_eq!(outcome.is_ok(), good, "{command:?}: {outcome:?}");
        if outcome.is_ok() {
            self.model.objects.insert(id);
            for part in &object.parts {
                let stream = self.model.streams.get_mut(&part.stream.0).unwrap();
                let base = part.base.max(stream.start);
                if base < part.end {
                    stream.held.extend((base..part.end).map(|offset| (offset, id)));
                    stream.bases.retain(|cut| *cut <= base || *cut >= part.end);
                    stream.bases.insert(base);
                }
            }
            let before = self.log.image.encode();
            self.apply(command).expect("to repeat a replacement is harmless");
            assert_eq!(before[9..], self.log.image.encode()[9..]);
        }
    }

    fn producer_ids(&mut self, count: u8) {
        let Some(by) = self.model.live else { return };
        let outcome = self.apply(Command::AllocateProducerIds { by, count: count.into() });
        if count == 0 {
            assert!(outcome.is_err());
            return;
        }
        let first = self.model.producer_ids;
        self.model.producer_ids += i64::from(count);
        assert_eq!(outcome, Ok(Outcome::ProducerIds(first..self.model.producer_ids)));
    }

    fn repeat(&mut self, nth: u8) {
        if self.model.accepted.is_empty() {
            return;
        }
        let commit = self.model.accepted[nth as usize % self.model.accepted.len()].clone();
        for object in &commit.objects {
            self.model.forgotten.remove(&object.id);
        }
        self.apply(Command::CommitObjects { commit }).expect("to repeat a commit is harmless, whenever");
    }

    /// Tells of some garbage, and of something that is none, that it was deleted.
    fn forget(&mut self, pick: u8) {
        let Some(by) = self.model.live else { return };
        let picked = |id: &ObjectId| {
            let (ObjectId::Data { counter: number, .. } | ObjectId::Slot { slot: number, .. }) = id;
            number % 3 == u64::from(pick % 3)
        };
        let objects: Vec<ObjectId> = self.model.objects.iter().filter(|id| picked(id)).copied().collect();
        self.apply(Command::ForgetGarbage { by, objects: objects.clone() }).unwrap();
        let named = self.model.named();
        self.model.forgotten.extend(objects.into_iter().filter(|id| !named.contains(id)));
    }

    fn low_water(&mut self, stale: bool, ahead: u8) {
        let Some(by) = self.issuer(stale) else { return };
        let counter = self.model.counter + u64::from(ahead);
        let outcome = self.apply(Command::RaiseLowWater { by, counter });
        assert_eq!(outcome.is_ok(), !stale);
        if !stale {
            let low_water = self.model.low_water.entry(by).or_default();
            *low_water = counter.max(*low_water);
            assert_eq!(self.log.image.life(by).unwrap().low_water, *low_water);
        }
    }

    fn compare(&self) {
        let image = &self.log.image;
        assert_eq!(image.streams.size(), self.model.streams.len());
        for (id, expected) in &self.model.streams {
            let view = image.stream_view(StreamId(*id)).unwrap();
            assert_eq!((view.start, view.committed_end), (expected.start, expected.end));
            assert_eq!((view.owner, view.epoch), (expected.owner, expected.epoch));
            let parts = image.stream(StreamId(*id)).unwrap().parts();
            assert_eq!(parts.bytes(), parts.values().map(|part| part.bytes).sum::<u64>());
            let mut held = BTreeMap::new();
            for located in image.locate(StreamId(*id), 0, usize::MAX) {
                held.extend((located.part.base..located.part.end).map(|offset| (offset, located.object)));
            }
            let visible: BTreeMap<_, _> =
                expected.held.range(expected.start..).map(|(offset, id)| (*offset, *id)).collect();
            assert_eq!(held, visible);
        }
        for (name, streams) in &self.model.topics {
            let topic = image.topic_named(name).unwrap();
            assert_eq!(topic.partitions.len(), streams.len() / 2);
            let configs = self.model.topic_configs.get(name);
            assert_eq!(topic.configs[..], configs.map_or(&[][..], |configs| configs)[..]);
        }
        assert_eq!(
            image.partition_count(),
            self.model.topics.values().map(|ids| ids.len() / 2).sum::<usize>()
        );
        for (broker, configs) in &self.model.broker_configs {
            assert_eq!(image.broker_configs(*broker), configs);
        }
        let named = self.model.named();
        let objects: BTreeSet<_> = image.objects.keys().copied().collect();
        assert_eq!(objects, named);
        let garbage: BTreeSet<_> = image.garbage().map(|(id, _)| id).collect();
        assert_eq!(garbage, &(&self.model.objects - &named) - &self.model.forgotten);
        for incarnation in &self.model.fenced {
            assert_eq!(image.life(*incarnation).unwrap().trim.0, self.model.trims[incarnation]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants_and_equals_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut run = Run::new();
        run.register();
        run.open(false);
        for (at, step) in steps.iter().enumerate() {
            run.step(step);
            run.compare();
            let bytes = run.log.image.encode();
            prop_assert_eq!(&bytes, &run.twin.image.encode());
            if at % 7 == 0 {
                run.twin.image = Image::decode(&bytes).unwrap();
                prop_assert_eq!(&bytes, &run.twin.image.encode());
            }
        }
    }
}
