//! Explores all models, and prints what it finds.
//!
//! ```text
//!   cargo run --release -p model              the tables of docs/testing.md
//!   cargo run --release -p model -- --deep    the law in wider bounds: minutes, and some gigabytes
//! ```

use std::process::ExitCode;
use std::time::Instant;

use model::block::Block;
use model::check::{Broken, Off, Subject, explore, grouped};
use model::handover::HandOver;
use model::numbers::Numbers;
use model::object::Object;
use model::page::tables;
use model::volumes::Volumes;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            let all =
                [tables::<Object>, tables::<Block>, tables::<Volumes>, tables::<Numbers>, tables::<HandOver>];
            all.iter().for_each(|tables| println!("{}", tables()));
            ExitCode::SUCCESS
        }
        ["--deep"] => {
            let all = [deep::<Object>, deep::<Block>, deep::<Volumes>, deep::<Numbers>, deep::<HandOver>];
            let broken = all.iter().filter(|deep| !deep()).count();
            ExitCode::from(u8::from(broken > 0))
        }
        _ => {
            eprintln!("model [--deep]");
            ExitCode::from(2)
        }
    }
}

/// The law in wider bounds. False if anything breaks.
fn deep<S: Subject>() -> bool {
    let mut holds = true;
    for (index, scenario) in S::scenarios().iter().enumerate() {
        let began = Instant::now();
        let explored = explore(S::model(index, true, Off::NONE));
        let (states, seconds) = (grouped(explored.states), began.elapsed().as_secs());
        println!(
            "{}, {}: {states} states, {} steps deep, {seconds} s",
            S::NAME,
            scenario.name,
            explored.depth
        );
        if let Some(Broken { property, history }) = explored.broken {
            println!("NOT \"{property}\":\n  {}", history.join("\n  "));
            holds = false;
        }
    }
    holds
}
