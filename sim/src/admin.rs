//! What an operator and other applications do meanwhile: partitions are moved, records deleted, topics come and go.
//!
//! - **A1** A log of which records were deleted begins where it was said to at least.
//! - **A2** A topic whose deletion was acknowledged does not come back.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, MetadataRequest,
};
use ottla::records::Builder;
use tokio::time::sleep;

use crate::client::{Client, name};
use crate::workload::{self, Deletes, PAUSE, Place, Sending, Shared, Topic};

const OFFSETS: &str = "__consumer_offsets";
/// As the brokers are told.
pub const OFFSETS_PARTITIONS: i32 = 2;
const TIMEOUT_MS: i32 = 5_000;
const UNKNOWN_TOPIC: i16 = 3;
/// How often something is tried that may come to nothing.
const ATTEMPTS: usize = 6;

/// How often a broker is asked that may not have heard of a deletion yet.
const HEARD_OF_AFTER: usize = 30;

/// Does this and that until the producers are to stop.
pub async fn admin(shared: Arc<Shared>) {
    let mut client = shared.client();
    let mut topics = 0;
    let mut passing = None;
    while !shared.is_stopped() {
        let pause = 200 + client.pick(3_000) as u64;
        sleep(Duration::from_millis(pause)).await;
        match client.pick(6) {
            0 | 1 => move_one(&shared, &mut client).await,
            2 | 3 => delete_records(&shared, &mut client).await,
            _ => match passing.take() {
                None => {
                    topics += 1;
                    passing = create(&shared, &mut client, topics).await;
                }
                Some(topic) => delete(&shared, &mut client, topic).await,
            },
        }
    }
}

async fn move_one(shared: &Shared, client: &mut Client) {
    let at = client.pick(shared.places.len() + OFFSETS_PARTITIONS as usize);
    let (topic, partition) = match shared.places.get(at) {
        Some((place, _)) => (place.topic.clone(), place.partition),
        None => (OFFSETS.to_owned(), (at - shared.places.len()) as i32),
    };
    let target = BrokerId(1 + client.pick(shared.brokers) as i32);
    let wanted =
        ReassignablePartition::default().with_partition_index(partition).with_replicas(Some(vec![target]));
    let moved = ReassignableTopic::default().with_name(name(&topic)).with_partitions(vec![wanted]);
    let request =
        AlterPartitionReassignmentsRequest::default().with_timeout_ms(TIMEOUT_MS).with_topics(vec![moved]);
    let answer = client.call_any(&request).await;
    let code = answer.map(|answer| match answer.error_code {
        0 => answer.responses[0].partitions[0].error_code,
        code => code,
    });
    shared.world.note(format_args!("move {topic}-{partition} to {target:?}: {code:?}"));
    if matches!(code, Ok(0)) {
        shared.state.lock().moves += 1;
    }
}

async fn delete_records(shared: &Shared, client: &mut Client) {
    let places: Vec<_> =
        shared.places.iter().filter(|(place, _)| shared.deletes(place) == Deletes::Asked).collect();
    let Some((place, key)) = places.get(client.pick(places.len())) else { return };
    let (start, end) = shared.known(*key, Duration::ZERO);
    if end <= start {
        return;
    }
    let offset = start + client.pick((end - start) as usize) as i64;
    {
        let mut state = shared.state.lock();
        let asked = state.asked.entry(*key).or_default();
        *asked = offset.max(*asked);
    }
    let Some(leader) = client.leader(&place.topic, place.partition) else {
        let _ = client.refresh(&shared.topics()).await;
        return;
    };
    let partition =
        DeleteRecordsPartition::default().with_partition_index(place.partition).with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(name(&place.topic)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
    let answer = client.call(leader, &request).await;
    let answer = answer.map(|answer| {
        let partition = &answer.topics[0].partitions[0];
        (partition.error_code, partition.low_watermark)
    });
    shared.world.note(format_args!("delete {place} up to {offset}: {answer:?}"));
    match answer {
        Ok((0, low)) => {
            if low < offset {
                shared.finding(format!("{place} was to begin at {offset}, and begins at {low}"));
            }
            shared.starts_at(place, *key, low);
        }
        _ => client.forget_leader(&place.topic, place.partition),
    }
}

/// A topic that was created, and whether its creation was asked for once.
struct Passing {
    name: String,
    once: bool,
}

/// Creates a topic and writes into it.
async fn create(shared: &Shared, client: &mut Client, number: usize) -> Option<Passing> {
    let partitions = 1 + client.pick(3) as i32;
    let topic = Topic { name: format!("passing-{number}"), partitions, deletes: Deletes::Nothing };
    let request =
        CreateTopicsRequest::default().with_topics(vec![topic.wanted()]).with_timeout_ms(TIMEOUT_MS);
    let mut created = None;
    for attempt in 0..ATTEMPTS {
        let answer = client.call_any(&request).await;
        if answer.is_ok_and(|answer| matches!(answer.topics[0].error_code, 0 | 36)) {
            created = Some(attempt == 0);
            break;
        }
        sleep(PAUSE).await;
    }
    let once = created?;
    let names = [topic.name.clone()];
    for _ in 0..ATTEMPTS {
        let place = Place { topic: topic.name.clone(), partition: client.pick(partitions as usize) as i32 };
        let mut batch = Builder::new(host::clock::wall_ms());
        batch.push(None, Some(b"passing"), &[]);
        let sent = workload::attempt(client, &names, &place, &batch.finish(None, -1)).await;
        if let Sending::Refused(code, why) = sent {
            shared.finding(format!("{place} refused a record with {code}: {why}"));
        }
    }
    Some(Passing { name: topic.name, once })
}

async fn delete(shared: &Shared, client: &mut Client, topic: Passing) {
    let request =
        DeleteTopicsRequest::default().with_topic_names(vec![name(&topic.name)]).with_timeout_ms(TIMEOUT_MS);
    for _ in 0..ATTEMPTS {
        let answer = client.call_any(&request).await;
        if answer.is_ok_and(|answer| answer.responses[0].error_code == 0) {
            // One that was asked for twice may be created once more.
            if topic.once {
                shared.state.lock().deleted.push(topic.name);
            }
            return;
        }
        sleep(PAUSE).await;
    }
}

/// A2, when all is quiet.
pub async fn deleted_topics_are_gone(shared: &Shared, client: &mut Client) {
    let deleted = shared.state.lock().deleted.clone();
    while client.refresh(&[]).await.is_err() {
        sleep(PAUSE).await;
    }
    for topic in deleted {
        let wanted = MetadataRequestTopic::default().with_name(Some(name(&topic)));
        let request =
            MetadataRequest::default().with_topics(Some(vec![wanted])).with_allow_auto_topic_creation(false);
        for node in client.nodes() {
            let mut seen = None;
            for _ in 0..HEARD_OF_AFTER {
                if let Ok(answer) = client.call(node, &request).await {
                    seen = Some(answer.topics[0].error_code).filter(|code| *code != UNKNOWN_TOPIC);
                    if seen.is_none() {
                        break;
                    }
                }
                sleep(PAUSE).await;
            }
            if let Some(code) = seen {
                shared.finding(format!("{topic} was deleted, and is there for broker {node}: {code}"));
            }
        }
    }
}
