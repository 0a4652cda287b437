//! `ottla serve`: a broker, until it is told to stop.

use std::io::Write;

use anyhow::Context;
use clap::{ArgMatches, Command};
use tracing_subscriber::EnvFilter;

use crate::options::{Options, arguments, gather};
use crate::startup::{self, rejoin};

pub(super) fn command() -> Command {
    Command::new("serve")
        .about("Run a broker (also what `ottla` without a command does)")
        .long_about(
            "Run a broker.\n\n\
             Without options it listens on 127.0.0.1:9092 and keeps its data in ./ottla-data. It stops on SIGTERM or \
             Ctrl-C, after it has uploaded what is only in its write-ahead log; a second signal stops it at once, and \
             then the next start recovers that part.\n\n\
             Every option is also a variable (OTTLA_LISTEN=…) and a key of a TOML file (listen = \"…\").",
        )
        .after_help(
            "Examples:\n  ottla serve\n  ottla serve --store s3://bucket/prefix --listen 0.0.0.0:9092 --advertise \
             broker.example:9092\n  ottla serve --store s3://bucket/prefix --s3-endpoint http://127.0.0.1:9000 \
             --s3-allow-http\n  ottla serve --wal 'block:///dev/nvme1n1' --kafka num.partitions=4",
        )
        .args_override_self(true)
        .args(arguments())
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let options = Options::from_values(&gather(matches, std::env::vars_os())?)?;
    start_logging(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(options));
    // Whatever still blocks a thread (a store that does not answer) must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

/// From the start to the end, whoever asks for it, and whenever.
async fn serve(options: Options) -> anyhow::Result<()> {
    let mut signals = startup::signals()?;
    let outcome = match startup::start_unless(options, &mut signals).await {
        Ok(None) => return Ok(()),
        Ok(Some(running)) => {
            // A broker serves also where nobody reads what it says.
            let _ = writeln!(std::io::stdout(), "{}", running.banner());
            running.until_stopped(&mut signals).await
        }
        Err(error) => Err(error),
    };
    let Some(deposed) = outcome.as_ref().err().and_then(|error| error.downcast_ref::<rejoin::Deposed>())
    else {
        return outcome;
    };
    let Some(again) = rejoin::pause(deposed, &mut signals).await else { return Ok(()) };
    let error = again.start();
    tracing::error!("could not start again: {error}");
    outcome
}

fn start_logging(options: &Options) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.log).with_context(|| {
        format!("log: {:?} is not a filter such as info or ottla=debug,wal=info", options.log)
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // They would go to the standard error as well, by a macro that panics when that is full.
        .log_internal_errors(false);
    if options.log_json {
        subscriber.json().init();
    } else {
        subscriber.with_target(false).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
    Ok(())
}
