//! Load on a broker from outside, and what it costs there.
//!
//! ```text
//!   produce     raw batches, encoded once, on pipelined connections    throughput, acknowledgements, CPU
//!   consume     everything that is there, a reader a connection        throughput, CPU
//!   end-to-end  records that are due at fixed times                    due → acknowledged, due → consumed
//!   flood       more than the broker takes                             what was refused; what was lost; how long it took
//!   crowd       connections by the thousand                            how many were taken; acknowledgements
//! ```
//!
//! The broker is a process of its own, named by its address; whatever speaks Kafka's protocol will do. Its processor time is
//! read from the kernel (`--pid`), since on a machine that is shared it says more than throughput does. Client threads block
//! in system calls: nothing but a socket stands between the clock and the broker.

pub mod connection;
mod consume;
mod crowd;
mod end_to_end;
mod flood;
mod produce;

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use crate::client::Connection;

/// A broker, and the topic that the load is on.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// HOST:PORT of the broker
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    /// Made if it is not there
    #[arg(long, default_value = "bench")]
    topic: String,
    #[arg(long, default_value_t = 16)]
    partitions: i32,
    /// The broker's process, for its processor time and memory
    #[arg(long)]
    pid: Option<u32>,
    /// Said again in the result, to tell runs apart
    #[arg(long, default_value = "")]
    label: String,
}

#[derive(Debug, Subcommand)]
pub enum Load {
    /// Raw batches, encoded once, on pipelined connections
    Produce(produce::Options),
    /// Everything that is there, from the start
    Consume(consume::Options),
    /// Records that are due at fixed times, from there to their consumers
    EndToEnd(end_to_end::Options),
    /// More than the broker takes, read back at the end
    Flood(flood::Options),
    /// Connections by the thousand
    Crowd(crowd::Options),
}

pub fn run(load: &Load) -> anyhow::Result<()> {
    let line = match load {
        Load::Produce(options) => produce::run(options)?,
        Load::Consume(options) => consume::run(options)?,
        Load::EndToEnd(options) => end_to_end::run(options)?,
        Load::Flood(options) => flood::run(options)?,
        Load::Crowd(options) => crowd::run(options)?,
    };
    println!("{line}");
    Ok(())
}

impl Target {
    /// Returns once its partitions serve: Kafka elects their leaders behind the answer.
    fn create_topic(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connection = Connection::open_at(&self.bootstrap).await?;
            connection.create_topic(&self.topic, self.partitions, &[]).await
        })?;
        let partitions: Vec<i32> = (0..self.partitions).collect();
        let mut connection = connection::Connection::open(&self.bootstrap)?;
        let began = Instant::now();
        loop {
            match consume::offsets(&mut connection, &self.topic, &partitions, consume::LATEST) {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > READY_TIMEOUT => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The partitions that the connection `nth` of `count` is responsible for.
    fn share(&self, nth: usize, count: usize) -> Vec<i32> {
        if count <= self.partitions as usize {
            (0..self.partitions).filter(|partition| *partition as usize % count == nth).collect()
        } else {
            vec![(nth % self.partitions as usize) as i32]
        }
    }
}

/// How long the partitions of a new topic may take to serve.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
