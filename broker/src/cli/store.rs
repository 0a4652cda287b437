//! `ottla store check`: does a store keep the one promise that everything rests on?

use anyhow::Context;
use clap::{ArgMatches, Command};

use crate::options::{Options, arguments, gather};
use crate::store;

pub(super) fn command() -> Command {
    Command::new("store").about("Examine an object store").subcommand_required(true).subcommand(
        Command::new("check")
            .about("Try whether a store is safe to use: of racing creates exactly one must win")
            .long_about(
                "Race conditional creates against each other and see that exactly one wins each time.\n\n\
                 Ottla's metadata and its write-ahead log in a bucket rest on that. `ottla serve` does the same before it \
                 uses a new store. The objects of the check are deleted again.",
            )
            .after_help(
                "Examples:\n  ottla store check --store s3://bucket/prefix\n  \
                 ottla store check --store s3://bucket --s3-endpoint http://127.0.0.1:9000 --s3-allow-http",
            )
            .args_override_self(true)
            .args(store_arguments()),
    )
}

/// Of the options of `serve` those that say where the store is and how to reach it.
pub(super) fn store_arguments() -> impl Iterator<Item = clap::Arg> {
    arguments().into_iter().filter(|argument| {
        let name = argument.get_id().as_str();
        let of_store = ["store-", "s3-", "gcs-", "azure-"];
        name == "store" || name == "config" || of_store.iter().any(|prefix| name.starts_with(prefix))
    })
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let (_, matches) = matches.subcommand().expect("clap requires one");
    let options = Options::from_values(&gather(matches, std::env::vars_os())?)?;
    let stores = store::open(options.store.clone(), &options.access)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime
        .block_on(metalog::probe::probe(stores.metadata.clone(), metalog::probe::Options::default()))
        .with_context(|| format!("the store {} cannot be used", options.store))?;
    println!(
        "{}: ok. {} rounds of {} racing creates had exactly one winner each.",
        options.store, report.rounds, report.writers
    );
    Ok(())
}
