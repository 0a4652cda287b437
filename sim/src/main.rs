//! A whole cluster in one process, under a seed.
//!
//! ```text
//!   cargo run --release -p sim -- --seeds 500        so many seeds, a process for each, on all cores
//!   cargo run --release -p sim -- --seed 77          one of them again, with the same trace
//!   cargo run --release -p sim -- --seed 77 --trace  and everything that happens in it
//! ```
//!
//! ```text
//!   scenario   what a seed stands for: the cluster, the load, the nemesis; what is judged at the end
//!   workload   clients that write, and what all clients share: the history for `checker`
//!   reading    clients that read
//!   members    members of consumer groups
//!   admin      moves, deletions, topics that come and go
//!   client     a small Kafka client
//!   machine    processes on machines: the real broker, one runtime a life
//!   net        connections, latency, cuts, resets
//!   device     volumes of block WALs: torn and lost writes, locks, late writes
//!   store      the bucket, exact, and the ways to it, which are not
//!   world      time, chance, order, the trace
//!   os         the C library's clock and random numbers
//! ```
//!
//! - **Sim1** The code under test is what is released: `ottla::startup::start` with options, and Kafka's protocol. What is
//!   simulated is the machine (`host`), its volumes and the object store.
//! - **Sim2** Same seed, same trace: no thread, no clock, no address and no random number of the real machine decides
//!   anything. A seed's process has one thread, and its addresses are not randomized; nothing follows from them (`--displace`).
//! - **Sim3** A panic anywhere in the code under test is a finding.

mod admin;
mod client;
mod detect;
mod device;
mod machine;
mod members;
mod net;
mod os;
mod reading;
mod scenario;
mod store;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Arg, ArgAction, value_parser};
use parking_lot::Mutex;

/// Panics so far, of any task.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What a seed may take of the real processor. Beyond it something runs in circles.
const CPU_TIME_MAX: u64 = 120;

fn main() -> ExitCode {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_parser(value_parser!(u64)).help(help)
    };
    let matches = clap::Command::new("sim")
        .about("A whole cluster in one process, under a seed")
        .arg(number("seed", "Run this one"))
        .arg(number("seeds", "Run so many"))
        .arg(number("first", "The first of them").default_value("1"))
        .arg(number("brokers", "At most so many brokers; 3 by default"))
        .arg(number("jobs", "Processes at once; all cores by default"))
        .arg(number("cpu-seconds", "Begin no further seed after so much processor time"))
        .arg(flag("detect", "Count the seeds that each planted defect takes (with the feature planted)"))
        .arg(flag("trace", "Print everything that happens"))
        .arg(Arg::new("log").long("log").help("Print the brokers' log, as far as this filter says"))
        .arg(
            number("displace", "Let so much memory lie elsewhere: the trace is the same")
                .hide(true)
                .default_value("0"),
        )
        .arg(flag("here", "In this process").hide(true))
        .arg(number("print", "Print the trace (1), the log (2)").hide(true))
        .get_matches();
    let brokers = matches.get_one::<u64>("brokers").map_or(BROKERS, |brokers| *brokers as usize);
    let log = matches.get_one::<String>("log").cloned();
    let print = matches.get_one::<u64>("print").copied().unwrap_or_default();
    let trace = matches.get_flag("trace") || print & PRINT_TRACE != 0;
    let displace = *matches.get_one::<u64>("displace").expect("it has a default");
    let one = One { brokers, trace, print_log: log.is_some() && print & PRINT_LOG != 0, log, displace };
    if let Err(why) = detect::chosen() {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    match matches.get_one::<u64>("seed") {
        Some(seed) if matches.get_flag("here") => run_here(*seed, &one),
        Some(seed) => {
            let status = one.command(*seed).status().expect("this program can be run");
            if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        None => {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
            let jobs = matches.get_one::<u64>("jobs").copied().unwrap_or(cores);
            if matches.get_flag("detect") {
                if !cfg!(feature = "planted") {
                    eprintln!("{}", detect::WITHOUT);
                    return ExitCode::FAILURE;
                }
                return detect::run(jobs, &one);
            }
            let seeds = matches.get_one::<u64>("seeds").copied().unwrap_or(100);
            let first = *matches.get_one::<u64>("first").expect("it has a default");
            let cpu_max = matches.get_one::<u64>("cpu-seconds").copied().map(Duration::from_secs);
            run_many(first, seeds, jobs, cpu_max, &one)
        }
    }
}

/// How a seed is run.
#[derive(Clone)]
struct One {
    brokers: usize,
    trace: bool,
    /// What is printed of the log, in the seed's own process.
    print_log: bool,
    log: Option<String>,
    /// How much memory is taken of each size before anything begins, and kept.
    displace: u64,
}

/// At most, if nobody says how many.
const BROKERS: usize = 3;

const PRINT_TRACE: u64 = 1;
const PRINT_LOG: u64 = 2;

/// The log is written whether anybody reads it or not: a seed is the same with it and without it.
const LOG: &str = "info";
const LOG_FILTER_LENGTH: usize = 120;

impl One {
    /// A process of its own, whose addresses are the same every time (Sim2).
    fn command(&self, seed: u64) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["--here", "--seed", &seed.to_string(), "--brokers", &self.brokers.to_string()]);
        // Of one length: where memory lies depends on it.
        let log = if self.log.is_some() { PRINT_LOG } else { 0 };
        let print = log | if self.trace { PRINT_TRACE } else { 0 };
        command.args(["--print", &print.to_string()]);
        command.args(["--displace", &self.displace.to_string()]);
        command.args(["--log", &format!("{:<LOG_FILTER_LENGTH$}", self.log.as_deref().unwrap_or(LOG))]);
        command.env_clear();
        for kept in ["OTTLA_PLANTED", "RUST_BACKTRACE"] {
            if let Ok(value) = std::env::var(kept) {
                command.env(kept, value);
            }
        }
        // SAFETY: both are system calls, which may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
                let limit = libc::rlimit { rlim_cur: CPU_TIME_MAX, rlim_max: CPU_TIME_MAX };
                libc::setrlimit(libc::RLIMIT_CPU, &raw const limit);
                Ok(())
            });
        }
        command
    }
}

/// What to say to see it again.
fn again(seed: u64, one: &One) -> String {
    replay(seed, one, detect::chosen().ok().flatten())
}

/// The same, with that defect.
fn replay(seed: u64, one: &One, planted: Option<String>) -> String {
    let (variable, feature) = match planted {
        Some(name) => (format!("OTTLA_PLANTED={name} "), " --features planted"),
        None => (String::new(), ""),
    };
    let brokers = if one.brokers == BROKERS { String::new() } else { format!(" --brokers {}", one.brokers) };
    format!("{variable}cargo run --release -p sim{feature} -- --seed {seed}{brokers}")
}

fn run_here(seed: u64, one: &One) -> ExitCode {
    let began = os::cpu_time();
    // What it allocates is there whether anything is printed or not.
    println!();
    displace(one.displace);
    os::simulate(seed);
    os::set_clocks(Duration::from_secs(1), world::EPOCH);
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.to_string();
        eprintln!("{text}\n{}", std::backtrace::Backtrace::capture());
        PANICS.lock().push(text);
    }));
    let print_log = one.print_log;
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(one.log.as_deref().unwrap_or(LOG).trim_end()))
        .with_ansi(false)
        .with_writer(move || -> Box<dyn std::io::Write> {
            if print_log { Box::new(std::io::stdout()) } else { Box::new(std::io::sink()) }
        })
        .init();
    let run = || scenario::run(seed, one.brokers, one.trace);
    let Ok(mut outcome) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) else {
        for panic in PANICS.lock().drain(..) {
            println!("FOUND a panic: {}", panic.replace('\n', " "));
        }
        println!("again: {}", again(seed, one));
        std::process::exit(1);
    };
    outcome.findings.extend(PANICS.lock().drain(..).map(|panic| format!("a panic: {panic}")));
    let strikes: Vec<String> =
        outcome.strikes.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!(
        "seed {seed}: {} events, trace {:016x}, {:.0} s simulated in {:.2} s, {} acknowledged, {} unknown, {} read, \
         {} commits, {} moves, {} lives, {} requests of the store; {}",
        outcome.events,
        outcome.trace,
        outcome.simulated.as_secs_f64(),
        (os::cpu_time() - began).as_secs_f64(),
        outcome.acknowledged,
        outcome.unknown,
        outcome.read,
        outcome.commits,
        outcome.moves,
        outcome.lives,
        outcome.requests,
        strikes.join(", ")
    );
    for finding in &outcome.findings {
        println!("FOUND {finding}");
    }
    let failed = !outcome.findings.is_empty();
    if failed {
        println!("again: {}", again(seed, one));
    }
    // Not by way of destructors: lives that were killed must stay so.
    std::process::exit(i32::from(failed));
}

/// Takes memory of all the small sizes, and keeps it: what comes later lies elsewhere, in another order.
fn displace(times: u64) {
    for _ in 0..times {
        for size in (16..2048).step_by(16) {
            std::mem::forget(std::hint::black_box(Vec::<u8>::with_capacity(size)));
        }
    }
}

fn run_many(first: u64, seeds: u64, jobs: u64, cpu_max: Option<Duration>, one: &One) -> ExitCode {
    let next = AtomicU64::new(first);
    let failed = Mutex::new(BTreeMap::new());
    let ran = AtomicU64::new(0);
    let began = os::real_time();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let spent = children_time();
                    if seed >= first + seeds || cpu_max.is_some_and(|most| spent >= most) {
                        return;
                    }
                    let output =
                        one.command(seed).stdin(Stdio::null()).output().expect("this program can be run");
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    ran.fetch_add(1, Ordering::Relaxed);
                    print!(
                        "{}",
                        text.lines()
                            .find(|line| line.starts_with("seed "))
                            .map(|line| format!("{line}\n"))
                            .unwrap_or_default()
                    );
                    if !output.status.success() {
                        let mut all = text;
                        all.push_str(&String::from_utf8_lossy(&output.stderr));
                        all.push_str(&format!("{}\nagain: {}\n", output.status, again(seed, one)));
                        println!("{all}");
                        failed.lock().insert(seed, all);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!(
        "{} seeds, {} failed, {:.0} s, {:.0} s of processor time",
        ran.into_inner(),
        failed.len(),
        (os::real_time() - began).as_secs_f64(),
        children_time().as_secs_f64()
    );
    for seed in failed.keys() {
        println!("failed: {}", again(*seed, one));
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Processor time of all seeds that have ended.
fn children_time() -> Duration {
    // SAFETY: the kernel writes one rusage to where there is one.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}
