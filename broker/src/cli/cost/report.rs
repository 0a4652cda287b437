//! From counts to money, and whose it is.
//!
//! A request for many topics at once, such as a slot of the write-ahead log or an upload, is shared among them by their
//! bytes:
//!
//! | purpose | shared by |
//! |---|---|
//! | wal, upload, compaction, collection | bytes that were appended |
//! | read | bytes that were read from data objects |
//! | metadata, recovery | nobody: the cluster's |
//! | storage | bytes that are stored; the objects' own overhead is the cluster's |
//!
//! - **R1** The rows add up to the total. What belongs to no topic that is there is in a row of its own.

use serde::Serialize;

use super::prices::Prices;
use crate::store::meter::{Purpose, Totals};
use crate::usage::Usage;

/// Of an average month, 730 hours: what clouds reckon with.
const MONTH_SECONDS: f64 = 730.0 * 3600.0;

const GIB: f64 = (1u64 << 30) as f64;

/// What was used, priced.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    #[serde(flatten)]
    pub usage: &'a Usage,
    pub prices: Prices,
    /// Requests and transfer, in the order of the usage's.
    pub by_purpose: Vec<Priced>,
    pub by_topic: Vec<TopicCost>,
    /// Of requests and transfer.
    pub cost: f64,
    /// The same for each GiB that was appended; absent if nothing was.
    pub cost_per_gib: Option<f64>,
    /// If all goes on as it was; absent if there is no time to go by.
    pub requests_month: Option<f64>,
    /// For what is stored now.
    pub storage_month: f64,
    pub month: Option<f64>,
    /// Of a broker that has one, once there is time to go by.
    pub budget: Option<Budget>,
}

/// PUTs and LISTs: what was allowed and what was sent.
#[derive(Debug, PartialEq, Serialize)]
pub struct Budget {
    pub per_second: f64,
    /// What it costs to use all of it.
    pub month: f64,
    pub sent_per_second: f64,
}

#[derive(Debug, Serialize)]
pub struct Priced {
    pub purpose: Purpose,
    pub cost: f64,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct TopicCost {
    /// A topic's name, or [`GONE`] or [`CLUSTER`], neither of which a topic can have.
    pub topic: String,
    pub appended_bytes: u64,
    pub read_bytes: u64,
    pub stored_bytes: u64,
    /// Of requests and transfer.
    pub cost: f64,
    pub month: Option<f64>,
}

/// Topics that were deleted meanwhile.
pub const GONE: &str = "(deleted)";
/// What no topic is to blame for.
pub const CLUSTER: &str = "(cluster)";

impl Prices {
    fn of(&self, totals: &Totals) -> f64 {
        let requests = [
            (totals.puts, self.put_1000),
            (totals.lists, self.list_1000),
            (totals.gets, self.get_1000),
            (totals.deletes, self.delete_1000),
        ];
        let transfer = [(totals.sent_bytes, self.sent_gib), (totals.received_bytes, self.received_gib)];
        let requests: f64 = requests.into_iter().map(|(count, price)| count as f64 / 1000.0 * price).sum();
        let transfer: f64 = transfer.into_iter().map(|(bytes, price)| bytes as f64 / GIB * price).sum();
        requests + transfer
    }
}

impl Usage {
    /// What was used since `earlier`, a reading of the same process.
    pub fn since(&self, earlier: &Usage) -> anyhow::Result<Usage> {
        anyhow::ensure!(
            self.started_ms == earlier.started_ms && self.requests.len() == earlier.requests.len(),
            "the broker was started anew between the two readings; try again"
        );
        anyhow::ensure!(
            self.seconds > earlier.seconds,
            "both readings are the same: the broker counts anew every second (its admin-usage-interval); watch it for longer, \
             with --over"
        );
        let mut usage = self.clone();
        usage.seconds = self.seconds - earlier.seconds;
        for (now, then) in usage.requests.iter_mut().zip(&earlier.requests) {
            now.totals = now.totals.combine(then.totals, u64::saturating_sub);
        }
        usage.appended_bytes = self.appended_bytes.saturating_sub(earlier.appended_bytes);
        usage.read_bytes = self.read_bytes.saturating_sub(earlier.read_bytes);
        for topic in &mut usage.topics {
            let Some(then) = earlier.topics.iter().find(|then| then.name == topic.name) else { continue };
            topic.appended_bytes = topic.appended_bytes.saturating_sub(then.appended_bytes);
            topic.read_bytes = topic.read_bytes.saturating_sub(then.read_bytes);
        }
        Ok(usage)
    }

    pub fn total(&self) -> Totals {
        let all = self.requests.iter().map(|asked| asked.totals);
        all.fold(Totals::default(), |sum, totals| sum.combine(totals, u64::saturating_add))
    }
}

impl Report<'_> {
    pub fn new(usage: &Usage, prices: Prices) -> Report<'_> {
        let by_purpose: Vec<Priced> = usage
            .requests
            .iter()
            .map(|asked| Priced { purpose: asked.purpose, cost: prices.of(&asked.totals) })
            .collect();
        let cost: f64 = by_purpose.iter().map(|priced| priced.cost).sum();
        let a_month = |cost: f64| (usage.seconds > 0.0).then(|| cost / usage.seconds * MONTH_SECONDS);
        let stored = |bytes: u64| bytes as f64 / GIB * prices.stored_gib_month;
        let storage_month = stored(usage.stored_bytes);
        let total = usage.total();
        let budget = usage.puts_per_second_max.filter(|_| usage.seconds > 0.0).map(|per_second| Budget {
            per_second,
            month: per_second * MONTH_SECONDS / 1000.0 * prices.put_1000.max(prices.list_1000),
            sent_per_second: (total.puts + total.lists) as f64 / usage.seconds,
        });
        Report {
            by_topic: by_topic(usage, &by_purpose, a_month, stored),
            by_purpose,
            cost,
            cost_per_gib: (usage.appended_bytes > 0).then(|| cost / (usage.appended_bytes as f64 / GIB)),
            requests_month: a_month(cost),
            storage_month,
            month: a_month(cost).map(|requests| requests + storage_month),
            budget,
            usage,
            prices,
        }
    }
}

fn by_topic(
    usage: &Usage,
    by_purpose: &[Priced],
    a_month: impl Fn(f64) -> Option<f64>,
    stored: impl Fn(u64) -> f64,
) -> Vec<TopicCost> {
    let (mut for_writes, mut for_reads, mut for_nobody) = (0.0, 0.0, 0.0);
    for priced in by_purpose {
        *match priced.purpose {
            Purpose::Wal | Purpose::Upload | Purpose::Compaction | Purpose::Collection => &mut for_writes,
            Purpose::Read => &mut for_reads,
            Purpose::Metadata | Purpose::Recovery => &mut for_nobody,
        } += priced.cost;
    }
    let sum = |of: fn(&crate::usage::TopicUsage) -> u64| usage.topics.iter().map(of).sum::<u64>();
    // A reading is not of one instant: never less than its parts.
    let appended = usage.appended_bytes.max(sum(|topic| topic.appended_bytes));
    let read = usage.read_bytes.max(sum(|topic| topic.read_bytes));
    let row = |name: &str, appended_bytes, read_bytes, stored_bytes, more| {
        let share = |bytes: u64, all: u64| if all == 0 { 0.0 } else { bytes as f64 / all as f64 };
        let cost = for_writes * share(appended_bytes, appended) + for_reads * share(read_bytes, read) + more;
        TopicCost {
            topic: name.to_owned(),
            appended_bytes,
            read_bytes,
            stored_bytes,
            cost,
            month: a_month(cost).map(|requests| requests + stored(stored_bytes)),
        }
    };
    let topics = usage.topics.iter();
    let mut rows: Vec<TopicCost> = topics
        .map(|topic| row(&topic.name, topic.appended_bytes, topic.read_bytes, topic.stored_bytes, 0.0))
        .collect();
    let gone_appended = appended - sum(|topic| topic.appended_bytes);
    let gone_read = read - sum(|topic| topic.read_bytes);
    if gone_appended + gone_read > 0 {
        rows.push(row(GONE, gone_appended, gone_read, 0, 0.0));
    }
    if appended == 0 {
        for_nobody += for_writes;
    }
    if read == 0 {
        for_nobody += for_reads;
    }
    let overhead = usage.stored_bytes.saturating_sub(sum(|topic| topic.stored_bytes));
    rows.push(row(CLUSTER, 0, 0, overhead, for_nobody));
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::prices::PriceList;
    use super::*;
    use crate::usage::{Asked, TopicUsage};

    fn usage(puts: [u64; 7], gets: [u64; 7], topics: &[(&str, u64, u64, u64)], gone: u64) -> Usage {
        let asked = |(at, purpose): (usize, Purpose)| {
            let totals = Totals { puts: puts[at], gets: gets[at], ..Totals::default() };
            Asked { purpose, totals }
        };
        let topics: Vec<TopicUsage> = topics
            .iter()
            .map(|&(name, appended_bytes, read_bytes, stored_bytes)| TopicUsage {
                name: name.to_owned(),
                appended_bytes,
                read_bytes,
                stored_bytes,
            })
            .collect();
        Usage {
            node_id: 1,
            cluster_id: "c".to_owned(),
            store: "s3://b".to_owned(),
            started_ms: 1,
            seconds: 3600.0,
            puts_per_second_max: Some(2.0),
            requests: Purpose::ALL.into_iter().enumerate().map(asked).collect(),
            appended_bytes: topics.iter().map(|topic| topic.appended_bytes).sum::<u64>() + gone,
            read_bytes: topics.iter().map(|topic| topic.read_bytes).sum(),
            stored_bytes: topics.iter().map(|topic| topic.stored_bytes).sum::<u64>() + 10,
            topics,
        }
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() <= 1e-9 * one.abs().max(other.abs()).max(1.0)
    }

    /// By hand: $0.005 for 1,000 PUTs, $0.0004 for 1,000 GETs, $0.023 a month for a GiB.
    #[test]
    fn what_a_known_load_costs() {
        let gib = 1 << 30;
        let topics = [("a", 3 * gib, 0, 3 * gib), ("b", gib, gib, gib)];
        // 400 PUTs of the log, 100 of uploads, 5,000 GETs for readers, 3,600 polls of the metadata.
        let used = usage([400, 100, 0, 0, 0, 0, 0], [0, 0, 0, 5_000, 0, 0, 3_600], &topics, 0);
        let report = Report::new(&used, PriceList::S3.prices());
        assert!(near(report.cost, 0.0025 + 0.002 + 0.00144), "{report:?}");
        assert!(near(report.cost_per_gib.unwrap(), report.cost / 4.0));
        assert!(near(report.requests_month.unwrap(), report.cost * 730.0));
        assert!(near(report.storage_month, 4.0 * 0.023 + 10.0 / GIB * 0.023));
        let budget = report.budget.as_ref().unwrap();
        assert!(near(budget.month, 2.0 * 3600.0 * 730.0 * 0.005 / 1000.0), "{budget:?}");
        assert!(near(budget.sent_per_second, 500.0 / 3600.0), "{budget:?}");
        let costs: Vec<(&str, f64)> =
            report.by_topic.iter().map(|row| (row.topic.as_str(), row.cost)).collect();
        let expected = [("a", 0.0025 * 0.75), ("b", 0.0025 * 0.25 + 0.002), (CLUSTER, 0.00144)];
        for ((name, cost), (expected_name, expected)) in costs.iter().zip(expected) {
            assert!(*name == expected_name && near(*cost, expected), "{costs:?}");
        }
        assert!(near(report.by_topic[0].month.unwrap(), 0.001875 * 730.0 + 3.0 * 0.023));
    }

    /// Each kind of request at a price of its own, each purpose with counts of its own: none is left out, taken for
    /// another, or laid upon the wrong shoulders.
    #[test]
    fn each_kind_has_its_price_and_each_purpose_who_pays_for_it() {
        let gib = 1 << 30;
        let prices = Prices {
            put_1000: 1_000.0,
            list_1000: 100_000.0,
            get_1000: 10_000_000.0,
            delete_1000: 1e9,
            sent_gib: 1e8,
            received_gib: 1e10,
            stored_gib_month: 0.0,
        };
        let mut used = usage([0; 7], [0; 7], &[("writes", gib, 0, 0), ("reads", 0, gib, 0)], 0);
        for (asked, times) in used.requests.iter_mut().zip(1..) {
            asked.totals = Totals {
                puts: times,
                lists: times,
                gets: times,
                deletes: times,
                sent_bytes: times * gib,
                received_bytes: times * gib,
            };
        }
        let once = 1.0 + 100.0 + 1e4 + 1e6 + 1e8 + 1e10;
        let report = Report::new(&used, prices);
        for (priced, times) in report.by_purpose.iter().zip(1..) {
            assert!(near(priced.cost, f64::from(times) * once), "{priced:?}");
        }
        // wal, upload, compaction, read, collection, recovery, metadata: 1 to 7.
        let expected = [("writes", 1 + 2 + 3 + 5), ("reads", 4), (CLUSTER, 6 + 7)];
        for (row, (name, times)) in report.by_topic.iter().zip(expected) {
            assert!(row.topic == name && near(row.cost, f64::from(times) * once), "{row:?}");
        }
        let budget = report.budget.as_ref().unwrap();
        assert!(near(budget.sent_per_second, 2.0 * 28.0 / 3600.0), "PUTs and LISTs: {budget:?}");
        assert!(near(budget.month, 2.0 * MONTH_SECONDS * 100.0), "at the price of the dearer: {budget:?}");
    }

    #[test]
    fn a_difference_is_of_one_process() {
        let then = usage([1; 7], [2; 7], &[("a", 10, 0, 0)], 5);
        let mut now = usage([4; 7], [2; 7], &[("a", 30, 1, 7), ("new", 8, 0, 0)], 5);
        now.seconds += 60.0;
        let used = now.since(&then).unwrap();
        assert_eq!((used.seconds, used.total().puts, used.total().gets), (60.0, 21, 0));
        assert_eq!(
            (used.appended_bytes, used.topics[0].appended_bytes, used.topics[0].stored_bytes),
            (28, 20, 7)
        );
        now.started_ms += 1;
        assert!(now.since(&then).is_err());
    }

    proptest! {
        /// R1, whatever was used.
        #[test]
        fn the_rows_add_up(
            puts in any::<[u16; 7]>(),
            gets in any::<[u16; 7]>(),
            topics in proptest::collection::vec((0u64..1 << 40, 0u64..1 << 40, 0u64..1 << 40), 0..5),
            gone in 0u64..1 << 40,
        ) {
            let topics: Vec<_> = topics.into_iter().map(|(a, r, s)| ("t", a, r, s)).collect();
            let used = usage(puts.map(u64::from), gets.map(u64::from), &topics, gone);
            let report = Report::new(&used, PriceList::S3Express.prices());
            let sum: f64 = report.by_topic.iter().map(|row| row.cost).sum();
            prop_assert!(near(sum, report.cost), "{sum} of {}", report.cost);
            let months: f64 = report.by_topic.iter().filter_map(|row| row.month).sum();
            prop_assert!(near(months, report.month.unwrap()), "{months} of {:?}", report.month);
            prop_assert!(report.by_topic.iter().all(|row| row.cost >= 0.0));
        }
    }
}
