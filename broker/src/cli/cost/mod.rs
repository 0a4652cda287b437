//! `ottla cost`: what a broker asks of its store, and what that costs.
//!
//! ```text
//!   broker's admin endpoint ── GET /usage ──► Usage ── prices ──► report ──► table or JSON
//! ```
//!
//! The broker counts; prices are the operator's affair, and never reach it.

mod fetch;
mod prices;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;

use super::output;
use crate::options::HostPort;
use crate::store::meter::Totals;
use crate::usage::Usage;
use prices::{PriceList, Prices};
use report::Report;

#[derive(Debug, Args)]
#[command(
    after_help = "The broker must have an admin endpoint: ottla serve --admin-listen 127.0.0.1:9644\n\n\
                  Examples:\n  ottla cost\n  ottla cost --over 1m\n  ottla cost --prices prices.toml --json\n\n\
                  A file of prices is TOML; what it leaves out is the price list's:\n  \
                  price-list = \"s3\"\n  put-1000 = 0.005\n  list-1000 = 0.005\n  get-1000 = 0.0004\n  \
                  delete-1000 = 0\n  sent-gib = 0\n  received-gib = 0\n  stored-gib-month = 0.023"
)]
pub struct Cost {
    /// The broker's admin endpoint: what it was given as --admin-listen
    #[arg(long, env = "OTTLA_ADMIN", default_value = "127.0.0.1:9644", value_name = "HOST:PORT", value_parser = crate::options::parse_host_port)]
    admin: HostPort,

    /// Prices that come with the program
    #[arg(long, value_enum, default_value_t, conflicts_with = "prices")]
    price_list: PriceList,

    /// Prices of your own, in a TOML file
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,

    /// Watch for so long, as in 30s or 5m, instead of taking everything since the broker started
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    over: Option<Duration>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// How long to wait for the broker, as in 500ms or 10s
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub async fn run(cost: Cost) -> anyhow::Result<()> {
    let prices = match &cost.prices {
        Some(path) => Prices::from_file(path)?,
        None => cost.price_list.prices(),
    };
    let mut usage = fetch::usage(&cost.admin, cost.timeout).await?;
    if let Some(over) = cost.over {
        tokio::time::sleep(over).await;
        usage = fetch::usage(&cost.admin, cost.timeout).await?.since(&usage)?;
    }
    let report = Report::new(&usage, prices);
    let mut out = output::stdout();
    if cost.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        print(&mut out, &report, cost.over.is_some())?;
    }
    Ok(out.flush()?)
}

fn print(out: &mut impl Write, report: &Report, is_difference: bool) -> std::io::Result<()> {
    let Usage { node_id, store, seconds, .. } = report.usage;
    let time = humantime::format_duration(Duration::from_secs(seconds.round() as u64));
    let since = if is_difference { "watched for" } else { "running for" };
    writeln!(out, "Broker {node_id} of {store}, {since} {time}.")?;
    if store.starts_with("file:") {
        writeln!(out, "Nobody bills a directory: this is what the same requests to a bucket would cost.")?;
    }
    writeln!(out)?;
    let cells = |name: &str, totals: &Totals, cost: f64| {
        let Totals { puts, lists, gets, deletes, sent_bytes, received_bytes } = totals;
        let counts = [puts, lists, gets, deletes].map(u64::to_string);
        let bytes = [sent_bytes, received_bytes].map(|bytes| HumanBytes(*bytes).to_string());
        [vec![name.to_owned()], counts.to_vec(), bytes.to_vec(), vec![money(cost)]].concat()
    };
    let headings = ["FOR", "PUT", "LIST", "GET", "DELETE", "SENT", "RECEIVED", "COST"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for (asked, priced) in report.usage.requests.iter().zip(&report.by_purpose) {
        rows.push(cells(asked.purpose.name(), &asked.totals, priced.cost));
    }
    rows.push(cells("total", &report.usage.total(), report.cost));
    output::table(out, &rows)?;

    writeln!(out)?;
    let headings = ["TOPIC", "WRITTEN", "READ", "STORED", "COST", "PER MONTH"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for topic in &report.by_topic {
        let bytes = [topic.appended_bytes, topic.read_bytes, topic.stored_bytes];
        let bytes = bytes.map(|bytes| HumanBytes(bytes).to_string());
        let costs = vec![money(topic.cost), topic.month.map_or_else(|| "-".to_owned(), money)];
        rows.push([vec![topic.topic.clone()], bytes.to_vec(), costs].concat());
    }
    output::table(out, &rows)?;

    writeln!(out)?;
    if let Some(cost) = report.cost_per_gib {
        let written = HumanBytes(report.usage.appended_bytes);
        writeln!(out, "For each GiB written {} ({written} were).", money(cost))?;
    }
    if let Some(budget) = &report.budget {
        writeln!(
            out,
            "The budget is {} PUTs and LISTs a second, {} a month at most; {:.1} a second were sent.",
            budget.per_second,
            money(budget.month),
            budget.sent_per_second
        )?;
    }
    if let (Some(month), Some(requests)) = (report.month, report.requests_month) {
        writeln!(
            out,
            "At this rate {} a month: {} for requests and transfer, {} for the {} that are stored now.",
            money(month),
            money(requests),
            money(report.storage_month),
            HumanBytes(report.usage.stored_bytes)
        )?;
    }
    Ok(())
}

/// Dollars, with two digits that say something.
fn money(dollars: f64) -> String {
    let digits =
        if dollars == 0.0 || dollars >= 0.1 { 2 } else { (1.0 - dollars.log10().floor()).min(12.0) as usize };
    format!("${dollars:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_sums_keep_two_digits() {
        for (dollars, text) in [
            (0.0, "$0.00"),
            (1234.5, "$1234.50"),
            (0.25, "$0.25"),
            (0.0123, "$0.012"),
            (0.0000005, "$0.00000050"),
        ] {
            assert_eq!(money(dollars), text);
        }
    }
}
