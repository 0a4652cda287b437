//! The bytes of an [`Image`]: what a snapshot of the metadata log holds. The log's own snapshot object puts a checksum
//! around them.
//!
//! A version byte (5), then the fields of the image in the order of its declaration, maps in ascending order of their
//! keys as lists of key and value, without the derived ones. `docs/formats/metadata.md` has the table. The order of the
//! maps makes the bytes a function of the state: two replicas at the same entry have the same snapshot.

use std::sync::Arc;
use std::time::Duration;

use s3stream::StreamId;
use s3stream::metadata::EpochStart;
use wal::{Incarnation, Position};

use super::codec::{Malformed, Reader, Writer};
use super::command::{FORMAT_VERSION, read_configs, write_configs};
use super::image::{
    BrokerInfo, Claim, Cluster, Garbage, Image, Life, Listener, Object, Part, PartitionInfo, Parts, Stream,
    Topic,
};

const SNAPSHOT_VERSION: u8 = 5;
/// Without challenges.
const SNAPSHOT_VERSION_4: u8 = 4;
/// Nor claims of volumes.
const SNAPSHOT_VERSION_3: u8 = 3;
/// Nor notes of partitions.
const SNAPSHOT_VERSION_2: u8 = 2;

impl Image {
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(SNAPSHOT_VERSION);
        to.i64(self.time_ms);
        to.u64(self.next_stream);
        to.i64(self.next_producer_id);
        to.option(self.halted.as_deref(), |to, reason| to.string(reason));
        to.option(self.cluster.as_ref(), |to, cluster| {
            to.string(&cluster.id);
            to.u32(cluster.format);
            to.i64(cluster.formatted_ms);
        });
        to.count(self.brokers.size());
        for (id, broker) in &self.brokers {
            to.u32(*id);
            write_broker(&mut to, broker);
        }
        to.count(self.lives.size());
        for (incarnation, life) in &self.lives {
            to.incarnation(*incarnation);
            write_life(&mut to, life);
        }
        to.count(self.topics.size());
        self.topics.values().for_each(|topic| write_topic(&mut to, topic));
        to.count(self.streams.size());
        for (id, stream) in &self.streams {
            to.u64(id.0);
            write_stream(&mut to, stream);
        }
        to.count(self.objects.size());
        for (id, object) in &self.objects {
            to.object(*id);
            to.u64(object.size_bytes);
            to.u32(object.parts);
        }
        to.count(self.garbage.size());
        for (id, garbage) in &self.garbage {
            to.object(*id);
            to.u64(garbage.size_bytes);
            to.i64(garbage.since_ms);
            to.u64(garbage.since);
        }
        to.count(self.configs.size());
        for (broker, configs) in &self.configs {
            to.option(*broker, |to, broker| to.u32(broker));
            write_configs(&mut to, configs);
        }
        to.count(self.volumes.size());
        for (id, claims) in &self.volumes {
            to.uuid(*id);
            to.count(claims.len());
            claims.iter().for_each(|claim| write_claim(&mut to, claim));
        }
        to.0
    }

    /// Refuses whatever could not have come from [`encode`](Image::encode): beyond the form, the invariants of
    /// [`image`](super::image) that cost a pass are checked.
    pub fn decode(bytes: &[u8]) -> Result<Image, Malformed> {
        let mut from = Reader::new(bytes);
        let version = from.u8()?;
        if !(SNAPSHOT_VERSION_2..=SNAPSHOT_VERSION).contains(&version) {
            return Err(from.malformed("a snapshot of an unknown version"));
        }
        let mut image = Image::empty();
        image.time_ms = from.i64()?;
        image.next_stream = from.u64()?;
        image.next_producer_id = from.i64()?;
        if from.option(|from| from.string())?.is_some() {
            return Err(from.malformed("a snapshot of a program that could not follow the log"));
        }
        image.cluster = from.option(read_cluster)?;
        if image.cluster.as_ref().is_some_and(|cluster| cluster.format > FORMAT_VERSION) {
            return Err(from.malformed("a snapshot of a newer format"));
        }
        for (id, broker) in from.map(23, |from| Ok((from.u32()?, read_broker(from)?)))? {
            image.brokers.insert_mut(id, broker);
        }
        for (incarnation, life) in
            from.map(45, |from| Ok((from.incarnation()?, read_life(from, version)?)))?
        {
            image.lives.insert_mut(incarnation, life);
        }
        let by_id = |topic: Topic| (topic.id, topic);
        for (_, topic) in from.map(34, |from| read_topic(from, version).map(by_id))? {
            image.put_topic(Arc::new(topic));
        }
        for (id, stream) in from.map(41, |from| Ok((StreamId(from.u64()?), read_stream(from)?)))? {
            image.streams.insert_mut(id, stream);
        }
        for (id, object) in
            from.map(33, |from| Ok((from.object()?, Object { size_bytes: from.u64()?, parts: from.u32()? })))?
        {
            image.objects.insert_mut(id, object);
        }
        for (id, garbage) in from.map(45, |from| {
            let id = from.object()?;
            Ok((id, Garbage { size_bytes: from.u64()?, since_ms: from.i64()?, since: from.u64()? }))
        })? {
            image.garbage.insert_mut(id, garbage);
        }
        for (broker, configs) in
            from.map(5, |from| Ok((from.option(|from| from.u32())?, read_configs(from)?)))?
        {
            image.configs.insert_mut(broker, configs.into());
        }
        if version > SNAPSHOT_VERSION_3 {
            for (id, claims) in
                from.map(20, |from| Ok((from.uuid()?, from.list(CLAIM_BYTES_MIN, read_claim)?)))?
            {
                image.volumes.insert_mut(id, claims.into());
            }
        }
        let end = Malformed { what: "a snapshot that contradicts itself", at: bytes.len() };
        from.end()?;
        if image.check().is_err() {
            return Err(end);
        }
        Ok(image)
    }

    /// Checks I1 to I6, and I9 and I10; the first violation, in words.
    pub fn check(&self) -> Result<(), String> {
        let mut named = std::collections::BTreeMap::new();
        for (id, stream) in &self.streams {
            let mut at = stream.start;
            for (base, part) in &stream.parts {
                if *base != at || part.end <= at {
                    return Err(format!("stream {} has a gap or an overlap at {at} (I1)", id.0));
                }
                at = part.end;
                *named.entry(part.object).or_insert(0u32) += 1;
            }
            if at != stream.committed_end {
                return Err(format!("stream {} does not reach its committed end (I1)", id.0));
            }
            if id.0 >= self.next_stream {
                return Err(format!("stream {} has an id that is still to be handed out (I7)", id.0));
            }
            if stream.owner.is_some_and(|owner| !self.lives.contains_key(&owner)) {
                return Err(format!("stream {} belongs to an unknown incarnation (I4)", id.0));
            }
            let ascending =
                stream.epochs.is_sorted_by(|one, next| one.epoch < next.epoch && one.start < next.start);
            let within = |epoch: &EpochStart| epoch.start <= stream.committed_end;
            if !ascending || stream.epochs.last().is_none_or(|last| last.epoch != stream.epoch) {
                return Err(format!("stream {} has epochs out of order (I6)", id.0));
            }
            if !stream.epochs.iter().all(within) {
                return Err(format!("stream {} has an epoch that begins beyond its end (I6)", id.0));
            }
        }
        let counted: std::collections::BTreeMap<_, _> =
            self.objects.iter().map(|(id, object)| (*id, object.parts)).collect();
        if named != counted {
            return Err("objects do not count the parts that name them (I2)".to_owned());
        }
        if let Some((id, _)) = self.garbage.iter().find(|(id, _)| self.objects.contains_key(*id)) {
            return Err(format!("{id:?} is garbage and is not (I2)"));
        }
        self.check_topics()?;
        for (id, life) in &self.lives {
            if !life.fenced && self.brokers.get(&id.broker).map(|broker| broker.epoch) != Some(id.epoch) {
                return Err(format!(
                    "broker {} epoch {} lives and is not its last one (I5)",
                    id.broker, id.epoch
                ));
            }
            if life.challenged.is_some_and(|entry| entry <= id.epoch) {
                return Err(format!(
                    "broker {} epoch {} was challenged before it was there (N4)",
                    id.broker, id.epoch
                ));
            }
        }
        if self.configs.values().any(|configs| configs.is_empty()) {
            return Err("a broker's configs are there and empty".to_owned());
        }
        self.check_claims()
    }

    fn check_topics(&self) -> Result<(), String> {
        let mut streams = std::collections::BTreeSet::new();
        for topic in self.topics.values() {
            for partition in topic.partitions.iter() {
                self.check_owner(topic, partition)?;
                for id in [partition.log, partition.checkpoint] {
                    if !streams.insert(id) || !self.streams.contains_key(&id) {
                        return Err(format!("topic {} has a stream of somebody else's (I3)", topic.name));
                    }
                }
                if self.streams.get(&partition.log).map(|log| log.epoch)
                    != Some(partition.leader_epoch as u64)
                {
                    return Err(format!(
                        "topic {} has a leader epoch that is not its stream's (I6)",
                        topic.name
                    ));
                }
            }
        }
        if streams.len() != self.streams.size() {
            return Err("a stream belongs to no partition (I3)".to_owned());
        }
        let topics = self.topics.size();
        if self.names.size() != topics || self.canonical.size() != topics {
            return Err("two topics have the same name".to_owned());
        }
        Ok(())
    }
}

impl Image {
    fn check_owner(&self, topic: &Topic, partition: &PartitionInfo) -> Result<(), String> {
        let owner = |id| self.streams.get(&id).and_then(|stream| stream.owner);
        let (log, checkpoint) = (owner(partition.log), owner(partition.checkpoint));
        let opened = |owner| self.lives.get(&owner).is_some_and(|life| life.opened);
        let right = log.is_none_or(|owner| owner.broker == partition.leader && opened(owner));
        if right && log == checkpoint {
            return Ok(());
        }
        Err(format!(
            "a partition of topic {} is led by broker {} and belongs to {log:?} and {checkpoint:?} (I9)",
            topic.name, partition.leader
        ))
    }
}

fn read_cluster(from: &mut Reader<'_>) -> Result<Cluster, Malformed> {
    Ok(Cluster { id: from.string()?, format: from.u32()?, formatted_ms: from.i64()? })
}

fn write_broker(to: &mut Writer, broker: &BrokerInfo) {
    to.string(&broker.listener.host);
    to.u16(broker.listener.port);
    to.option(broker.rack.as_deref(), |to, rack| to.string(rack));
    to.string(&broker.machine);
    to.u64(broker.epoch);
}

fn read_broker(from: &mut Reader<'_>) -> Result<BrokerInfo, Malformed> {
    Ok(BrokerInfo {
        listener: Listener { host: from.string()?, port: from.u16()? },
        rack: from.option(|from| from.string())?,
        machine: from.string()?,
        epoch: from.u64()?,
    })
}

fn write_life(to: &mut Writer, life: &Life) {
    to.string(&life.wal_uri);
    // Set from milliseconds in 32 bits.
    to.u32(life.lease.as_millis() as u32);
    to.u64(life.trim.0);
    to.bool(life.fenced);
    to.bool(life.opened);
    to.bool(life.draining);
    to.i64(life.registered_ms);
    to.u64(life.low_water);
    to.option(life.challenged, |to, entry| to.u64(entry));
}

fn read_life(from: &mut Reader<'_>, version: u8) -> Result<Life, Malformed> {
    let mut life = Life {
        wal_uri: from.string()?,
        lease: Duration::from_millis(from.u32()?.into()),
        trim: Position(from.u64()?),
        fenced: from.bool()?,
        opened: from.bool()?,
        draining: from.bool()?,
        challenged: None,
        registered_ms: from.i64()?,
        low_water: from.u64()?,
    };
    if version > SNAPSHOT_VERSION_4 {
        life.challenged = from.option(|from| from.u64())?;
    }
    Ok(life)
}

/// Life 12, three texts of 2, two flags.
const CLAIM_BYTES_MIN: usize = 20;

fn write_claim(to: &mut Writer, claim: &Claim) {
    to.incarnation(claim.life);
    to.string(&claim.machine);
    to.string(&claim.wal_uri);
    to.string(&claim.device);
    to.bool(claim.blank);
    to.bool(claim.alone);
}

fn read_claim(from: &mut Reader<'_>) -> Result<Claim, Malformed> {
    Ok(Claim {
        life: from.incarnation()?,
        machine: from.string()?,
        wal_uri: from.string()?,
        device: from.string()?,
        blank: from.bool()?,
        alone: from.bool()?,
    })
}

fn write_topic(to: &mut Writer, topic: &Topic) {
    to.uuid(topic.id);
    to.string(&topic.name);
    to.i64(topic.created_ms);
    write_configs(to, &topic.configs);
    to.count(topic.partitions.len());
    for partition in topic.partitions.iter() {
        to.u32(partition.leader);
        to.i32(partition.leader_epoch);
        to.u64(partition.log.0);
        to.u64(partition.checkpoint.0);
        to.option(partition.target, |to, target| to.u32(target));
        to.option(partition.note, |to, note| to.hash(note));
    }
}

fn read_topic(from: &mut Reader<'_>, version: u8) -> Result<Topic, Malformed> {
    Ok(Topic {
        id: from.uuid()?,
        name: from.string()?,
        created_ms: from.i64()?,
        configs: read_configs(from)?.into(),
        partitions: from
            .list(25, |from| {
                Ok(PartitionInfo {
                    leader: from.u32()?,
                    leader_epoch: from.i32()?,
                    log: StreamId(from.u64()?),
                    checkpoint: StreamId(from.u64()?),
                    target: from.option(|from| from.u32())?,
                    note: if version > SNAPSHOT_VERSION_2 { from.option(|from| from.hash())? } else { None },
                })
            })?
            .into(),
    })
}

fn write_stream(to: &mut Writer, stream: &Stream) {
    to.u64(stream.epoch);
    to.u64(stream.start);
    to.u64(stream.committed_end);
    to.option(stream.owner, |to, owner: Incarnation| to.incarnation(owner));
    to.count(stream.epochs.len());
    for epoch in stream.epochs.iter() {
        to.u64(epoch.epoch);
        to.u64(epoch.start);
    }
    to.count(stream.parts.size());
    for (base, part) in &stream.parts {
        to.u64(*base);
        to.u64(part.end);
        to.object(part.object);
        to.i64(part.max_timestamp);
        to.u64(part.bytes);
        to.i64(part.committed_ms);
    }
}

fn read_stream(from: &mut Reader<'_>) -> Result<Stream, Malformed> {
    let mut stream = Stream {
        epoch: from.u64()?,
        start: from.u64()?,
        committed_end: from.u64()?,
        owner: from.option(|from| from.incarnation())?,
        epochs: Arc::new(from.list(16, |from| Ok(EpochStart { epoch: from.u64()?, start: from.u64()? }))?),
        parts: Parts::new(),
    };
    let parts = from.map(61, |from| {
        let base = from.u64()?;
        let part = Part {
            end: from.u64()?,
            object: from.object()?,
            max_timestamp: from.i64()?,
            bytes: from.u64()?,
            committed_ms: from.i64()?,
        };
        Ok((base, part))
    })?;
    for (base, part) in parts {
        stream.parts.insert_mut(base, part);
    }
    Ok(stream)
}
