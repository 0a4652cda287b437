//! How many commits one log takes from many replicas, on a store whose PUTs and GETs take their time.

use std::time::Duration;

use metalog::Error;
use tokio::time::Instant;

use crate::arena::{Arena, Conditions, paused};

#[derive(Clone, Debug)]
pub struct Race {
    pub conditions: Conditions,
    pub seconds: u64,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub proposed: u64,
    pub committed: u64,
    /// Neither committed nor known not to be.
    pub unknown: u64,
    pub entries: u64,
    pub puts: u64,
    pub gets: u64,
    /// From the proposal to the answer.
    pub p50: Duration,
    pub p99: Duration,
    /// Until the last answer.
    pub took: Duration,
}

pub fn run(race: &Race) -> Outcome {
    paused(go(race))
}

async fn go(race: &Race) -> Outcome {
    let arena = Arena::open(&race.conditions).await;
    let began = Instant::now();
    let mut calls = arena.traffic(&race.conditions, Duration::from_secs(race.seconds));
    let proposed = calls.len() as u64;
    let mut times = Vec::new();
    let (mut unknown, mut last) = (0, 0);
    while let Some(done) = calls.join_next().await {
        match done.expect("no call panics") {
            (Ok(number), took) => {
                times.push(took);
                last = last.max(number);
            }
            (Err(Error::Unknown(_)), _) => unknown += 1,
            (Err(Error::Unavailable(_)), _) => {}
            (Err(error), _) => panic!("{error}"),
        }
    }
    let took = began.elapsed();
    let counts = arena.store.counts();
    arena.close().await;
    times.sort_unstable();
    let quantile = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    Outcome {
        proposed,
        committed: times.len() as u64,
        unknown,
        entries: last,
        puts: counts.puts,
        gets: counts.gets,
        p50: quantile(0.5),
        p99: quantile(0.99),
        took,
    }
}
