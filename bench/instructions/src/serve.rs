//! Requests to a broker, and their answers.

use anyhow::ensure;
use bytes::{Buf, Bytes};
use kafka_protocol::messages::{FetchResponse, ProduceResponse, ResponseHeader};
use kafka_protocol::protocol::Decodable;

use crate::broker::{self, Running};
use crate::requests::{self, FETCH_VERSION, PRODUCE_VERSION};
use crate::{WARM_UP_ROUNDS, on_one_thread};

const TOPIC: &str = "instructions";
/// Of every Fetch: 16 batches of 64 KiB of records fit, with their overhead.
const FETCH_BYTES: i32 = 2 << 20;

/// `rounds` batches of `records` records.
pub fn produce(records: usize, value_bytes: usize, rounds: usize) -> anyhow::Result<()> {
    on_one_thread(produce_rounds(1, records, value_bytes, rounds))
}

/// `rounds` requests with one record for each partition.
pub fn produce_to_many(partitions: i32, value_bytes: usize, rounds: usize) -> anyhow::Result<()> {
    on_one_thread(produce_rounds(partitions, 1, value_bytes, rounds))
}

async fn produce_rounds(
    partitions: i32,
    records: usize,
    value_bytes: usize,
    rounds: usize,
) -> anyhow::Result<()> {
    let running = broker::start(broker::roomy()).await?;
    let topic = running.topic(TOPIC, partitions as u32).await?;
    let batch = requests::batch(records, value_bytes)?;
    let request = requests::frame(PRODUCE_VERSION, &requests::produce(TOPIC, partitions, &batch))?;
    let size = produce_once(&running, &request).await?;
    let rounds = WARM_UP_ROUNDS + rounds;
    for round in 0..rounds {
        let answered = running.peer.call(&request).await;
        ensure!(answered == size, "round {round}: an answer of {answered} bytes where the first had {size}");
    }
    for index in 0..partitions {
        let end = running.broker.partitions.get(&topic, index).await?.high_watermark();
        ensure!(end == ((1 + rounds) * records) as u64, "partition {index} ends at {end}");
    }
    Ok(())
}

/// Whose answer is looked at as a whole; its size.
async fn produce_once(running: &Running, request: &Bytes) -> anyhow::Result<usize> {
    let answer = running.peer.call_and_keep(request).await;
    let size = answer.len();
    let mut rest = Bytes::from(answer).slice(4..);
    ResponseHeader::decode(&mut rest, 1)?;
    let response = ProduceResponse::decode(&mut rest, PRODUCE_VERSION)?;
    for partition in response.responses.iter().flat_map(|topic| &topic.partition_responses) {
        ensure!(partition.error_code == 0, "{partition:?}");
    }
    Ok(size)
}

/// Fetches `batches` of `records` records of 1 KiB from the log cache.
pub fn fetch(batches: usize, records: usize, rounds: usize) -> anyhow::Result<()> {
    on_one_thread(async move {
        let running = broker::start(broker::roomy()).await?;
        running.topic(TOPIC, 1).await?;
        fill(&running, batches, records).await?;
        fetch_rounds(&running, batches, records, rounds).await
    })
}

/// Fetches 16 batches of 64 records of 1 KiB that are in the block cache alone.
pub fn fetch_cold(rounds: usize) -> anyhow::Result<()> {
    // The budget of the log cache is full long before the last batch, so that the first ones are not in it any more.
    let small = s3stream::Config { log_cache_bytes: 4 << 20, upload_bytes: 1 << 20, ..broker::roomy() };
    on_one_thread(async move {
        let running = broker::start(small).await?;
        let topic = running.topic(TOPIC, 1).await?;
        fill(&running, 256, 64).await?;
        running.storage.flush().await?;
        let partition = running.broker.partitions.get(&topic, 0).await?;
        ensure!(partition.read_cached(0, 1).is_none(), "the log cache still has the first batch");
        fetch_rounds(&running, 16, 64, rounds).await
    })
}

async fn fill(running: &Running, batches: usize, records: usize) -> anyhow::Result<()> {
    let batch = requests::batch(records, 1024)?;
    let request = requests::frame(PRODUCE_VERSION, &requests::produce(TOPIC, 1, &batch))?;
    for _ in 0..batches {
        produce_once(running, &request).await?;
    }
    Ok(())
}

async fn fetch_rounds(
    running: &Running,
    batches: usize,
    records: usize,
    rounds: usize,
) -> anyhow::Result<()> {
    let batch_bytes = requests::batch(records, 1024)?.len();
    let max_bytes = FETCH_BYTES.min((batches * batch_bytes) as i32);
    let request = requests::frame(FETCH_VERSION, &requests::fetch(TOPIC, 1, max_bytes))?;
    // The first is from the store, if anything is.
    fetch_once(running, &request).await?;
    let (fetched, size) = fetch_once(running, &request).await?;
    ensure!(fetched == batches * batch_bytes, "{fetched} bytes of {batches} batches of {batch_bytes}");
    for round in 0..WARM_UP_ROUNDS + rounds {
        let answered = running.peer.call(&request).await;
        ensure!(answered == size, "round {round}: an answer of {answered} bytes where {size} were due");
    }
    Ok(())
}

/// The bytes of records in an answer, and in all of it.
async fn fetch_once(running: &Running, request: &Bytes) -> anyhow::Result<(usize, usize)> {
    let answer = running.peer.call_and_keep(request).await;
    let size = answer.len();
    let mut rest = Bytes::from(answer).slice(4..);
    ResponseHeader::decode(&mut rest, 1)?;
    let response = FetchResponse::decode(&mut rest, FETCH_VERSION)?;
    ensure!(!rest.has_remaining() && response.error_code == 0, "{response:?}");
    let partition = &response.responses[0].partitions[0];
    ensure!(partition.error_code == 0, "{partition:?}");
    Ok((partition.records.as_ref().map_or(0, Bytes::len), size))
}
