//! What stores charge.

use std::path::Path;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Price lists that need not be typed. They change, and differ by region: a file with one's own is what counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PriceList {
    /// AWS S3 Standard in us-east-1
    #[default]
    S3,
    /// AWS S3 Express One Zone in us-east-1
    S3Express,
    /// Google Cloud Storage, Standard, in us-central1
    Gcs,
}

/// In dollars, or whatever the bill is in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prices {
    pub put_1000: f64,
    pub list_1000: f64,
    pub get_1000: f64,
    pub delete_1000: f64,
    /// Of what is sent to the store, by GiB.
    pub sent_gib: f64,
    /// Of what comes from it. (Traffic that leaves the region or zone is billed elsewhere: add it here.)
    pub received_gib: f64,
    /// Of a GiB for a month.
    pub stored_gib_month: f64,
}

impl PriceList {
    /// <https://aws.amazon.com/s3/pricing/> (Express: the example in <https://aws.amazon.com/s3/faqs/>) and
    /// <https://cloud.google.com/storage/pricing-examples>, as published in 2025: storage of the first 50 TB, requests from
    /// within the region. (A GB in all of them is a GiB. Google's class A are PUT, POST and LIST, class B GET and HEAD.)
    pub fn prices(self) -> Prices {
        let standard = Prices {
            put_1000: 0.005,
            list_1000: 0.005,
            get_1000: 0.0004,
            delete_1000: 0.0,
            sent_gib: 0.0,
            received_gib: 0.0,
            stored_gib_month: 0.023,
        };
        match self {
            PriceList::S3 => standard,
            PriceList::S3Express => Prices {
                put_1000: 0.00113,
                list_1000: 0.00113,
                get_1000: 0.00003,
                sent_gib: 0.0032,
                received_gib: 0.0006,
                stored_gib_month: 0.11,
                ..standard
            },
            PriceList::Gcs => Prices { stored_gib_month: 0.02, ..standard },
        }
    }
}

/// A file of prices: what it does not name is the list's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    price_list: PriceList,
    put_1000: Option<f64>,
    list_1000: Option<f64>,
    get_1000: Option<f64>,
    delete_1000: Option<f64>,
    sent_gib: Option<f64>,
    received_gib: Option<f64>,
    stored_gib_month: Option<f64>,
}

impl Prices {
    pub fn from_file(path: &Path) -> anyhow::Result<Prices> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("the prices in {}", path.display()))?;
        Prices::parse(&text).with_context(|| format!("the prices in {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Prices> {
        let file: File = toml::from_str(text)?;
        let mut prices = file.price_list.prices();
        for (name, given, price) in [
            ("put-1000", file.put_1000, &mut prices.put_1000),
            ("list-1000", file.list_1000, &mut prices.list_1000),
            ("get-1000", file.get_1000, &mut prices.get_1000),
            ("delete-1000", file.delete_1000, &mut prices.delete_1000),
            ("sent-gib", file.sent_gib, &mut prices.sent_gib),
            ("received-gib", file.received_gib, &mut prices.received_gib),
            ("stored-gib-month", file.stored_gib_month, &mut prices.stored_gib_month),
        ] {
            if let Some(given) = given {
                ensure!(given.is_finite() && given >= 0.0, "{name} is {given}, which is no price");
                *price = given;
            }
        }
        Ok(prices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changes_what_it_names() {
        assert_eq!(Prices::parse("").unwrap(), PriceList::S3.prices());
        let text = "price-list = \"s3-express\"\nput-1000 = 0.002\nstored-gib-month = 0";
        let expected = Prices { put_1000: 0.002, stored_gib_month: 0.0, ..PriceList::S3Express.prices() };
        assert_eq!(Prices::parse(text).unwrap(), expected);
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for text in ["put-1000 = -1", "get-1000 = nan", "sent-gib = inf", "puts = 1", "price-list = \"tape\""]
        {
            Prices::parse(text).expect_err(text);
        }
    }
}
