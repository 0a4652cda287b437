//! `ottla store create` and `ottla store check`: from nothing to a store that keeps the one promise that everything
//! rests on.

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::options::{Options, arguments, gather};
use crate::store;
use crate::store::create::Plan;

const DAYS: &str = "unfinished-upload-days";

pub(super) fn command() -> Command {
    Command::new("store")
        .about("Create and examine an object store")
        .subcommand_required(true)
        .subcommand(
            Command::new("create")
                .about("Create a bucket on S3, with the lifecycle rule that it should have, and check it")
                .long_about(
                    "Create a bucket on S3, with the lifecycle rule that it should have, and check it as `ottla store check` \
                     does.\n\n\
                     What is there stays: a bucket of yours is used as it is, and lifecycle rules of others are kept. A rule \
                     that would delete or move the cluster's objects is refused. Doing it again does nothing.\n\n\
                     Needs an ottla that was built with `--features aws-sdk`; any other says how it is done with the `aws` \
                     tool.",
                )
                .after_help(
                    "Examples:\n  ottla store create --store s3://bucket/prefix --s3-region eu-central-1\n  \
                     ottla store create --store s3://bucket--euc1-az1--x-s3/prefix --s3-region eu-central-1",
                )
                .args_override_self(true)
                .arg(
                    Arg::new(DAYS)
                        .long(DAYS)
                        .value_name("N")
                        .value_parser(value_parser!(u16).range(1..=365))
                        .default_value("1")
                        .help("Uploads in parts that were not finished are aborted after so many days"),
                )
                .args(store_arguments()),
        )
        .subcommand(
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
    let (command, matches) = matches.subcommand().expect("clap requires one");
    let options = Options::from_values(&gather(matches, std::env::vars_os())?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match command {
        "create" => {
            let days = *matches.get_one::<u16>(DAYS).expect("it has a default");
            let plan = Plan::new(&options.store, &options.access, days)?;
            runtime.block_on(create(&plan, &options))?;
            runtime.block_on(check(&options))
        }
        "check" => runtime.block_on(check(&options)),
        other => unreachable!("{other} is a subcommand without an arm"),
    }
}

async fn check(options: &Options) -> anyhow::Result<()> {
    let stores = store::open(options.store.clone(), &options.access)?;
    let report = metalog::probe::probe(stores.metadata.clone(), metalog::probe::Options::default())
        .await
        .with_context(|| format!("the store {} cannot be used", options.store))?;
    println!(
        "{}: ok. {} rounds of {} racing creates had exactly one winner each.",
        options.store, report.rounds, report.writers
    );
    Ok(())
}

#[cfg(feature = "aws-sdk")]
async fn create(plan: &Plan, options: &Options) -> anyhow::Result<()> {
    use crate::store::create::{Bucket, Done, Rule, carry_out};

    let Done { bucket, rule } = carry_out(plan, &options.access).await?;
    let Plan { bucket: name, key_prefix, region, unfinished_upload_days, .. } = plan;
    let place = plan.zone.as_ref().map_or_else(|| region.clone(), |zone| format!("{region}, zone {zone}"));
    match bucket {
        Bucket::Created => println!("bucket {name}: created ({place})."),
        Bucket::Ours => println!("bucket {name}: was there, and is yours."),
        Bucket::Usable(why) => println!(
            "bucket {name}: was there, and can be read. See that it is yours: the store did not say whose it is ({why})."
        ),
    }
    let what = match rule {
        Rule::Added => "added",
        Rule::Replaced => "changed",
        Rule::Unchanged => "was there",
    };
    let uploads = match key_prefix.as_str() {
        "" => "all unfinished uploads".to_owned(),
        prefix => format!("unfinished uploads under {prefix}"),
    };
    let days = crate::cli::output::counted(u64::from(*unfinished_upload_days), "day");
    println!("lifecycle rule {}: {what}; {uploads} are aborted after {days}.", plan.rule_id());
    Ok(())
}

#[cfg(not(feature = "aws-sdk"))]
async fn create(plan: &Plan, _: &Options) -> anyhow::Result<()> {
    anyhow::bail!(plan.without_the_sdk())
}
