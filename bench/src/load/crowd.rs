//! A crowd: connections by the thousand that are open all the while, and each of which produces a record now and then.
//!
//! One thread serves them all: its timers, of a millisecond, are part of what is measured.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use kafka_protocol::messages::ApiVersionsRequest;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Target;
use super::produce::request;
use crate::batch::{self, Producer};
use crate::client::Connection;
use crate::cpu::{Meter, round};
use crate::latency::Latencies;

const VERSION: i16 = 8;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Records a second, of all connections together; each is a request
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Bytes of a record's value, at least 8
    #[arg(long, default_value_t = 100)]
    record_bytes: usize,
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
}

pub fn run(options: &Options) -> anyhow::Result<Value> {
    options.target.create_topic()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(all(options))
}

async fn all(options: &Options) -> anyhow::Result<Value> {
    let target = &options.target;
    let cpu = Meter::begin(target.pid)?;
    let began = Instant::now();
    let (mut open, mut refused) = (Vec::with_capacity(options.connections), 0usize);
    for _ in 0..options.connections {
        let mut connection = Connection::open_at(&target.bootstrap).await?;
        // A broker that has enough takes the connection and closes it.
        match connection.call(0, &ApiVersionsRequest::default()).await {
            Ok(answer) => {
                ensure!(answer.error_code == 0, "ApiVersions: error {}", answer.error_code);
                open.push(connection);
            }
            Err(_) => refused += 1,
        }
    }
    ensure!(!open.is_empty(), "the broker took no connection");
    let (opened, opening) = (open.len(), began.elapsed());
    let record = batch::encode(Producer::NONE, 0, [0].into_iter(), options.record_bytes);
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(options.seconds);
    let mut crowd = JoinSet::new();
    for (nth, mut connection) in open.into_iter().enumerate() {
        let request = request(&target.topic, nth as i32 % target.partitions, -1, record.clone());
        let (rate, opened) = (options.rate, opened);
        crowd.spawn(async move {
            let mut latencies = Latencies::default();
            for turn in 0.. {
                let due = began + Duration::from_secs_f64((turn * opened + nth) as f64 / rate);
                if due >= until {
                    break;
                }
                tokio::time::sleep_until(due).await;
                let answer = connection.call(VERSION, &request).await?;
                let code = answer.responses[0].partition_responses[0].error_code;
                ensure!(code == 0, "a record was refused: error {code}");
                latencies.record(due.elapsed());
            }
            // Those that have said all they had to say stay.
            tokio::time::sleep_until(until).await;
            anyhow::Ok((latencies, connection))
        });
    }
    let (mut latencies, mut failed, mut stay) = (Latencies::default(), 0usize, Vec::new());
    let mut failure = None;
    while let Some(ended) = crowd.join_next().await {
        match ended.context("it does not panic")? {
            Ok((one, connection)) => {
                latencies.merge(one);
                stay.push(connection);
            }
            Err(error) => {
                failed += 1;
                failure = Some(error.to_string());
            }
        }
    }
    let records = latencies.len();
    Ok(json!({
        "bench": "crowd", "label": target.label, "connections": options.connections, "opened": opened, "refused": refused,
        "failed": failed, "failure": failure, "opening_seconds": round(opening.as_secs_f64()),
        "rate": options.rate, "records": records, "acknowledged": latencies.summary(),
        "cpu": cpu.end((records * options.record_bytes).max(1) as u64)?,
    }))
}
