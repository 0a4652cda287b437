//! Configs as DescribeConfigs and CreateTopics show them (Kafka's `ConfigHelper`).

use super::topic::broker_value;
use super::{BrokerConfig, table};
use crate::metadata::image::Config;

/// Where a value comes from, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    Topic = 1,
    StaticBroker = 4,
    Default = 5,
}

/// One config and all that can be asked about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    pub name: &'static str,
    pub value: String,
    pub source: Source,
    /// Cannot be changed while the broker runs.
    pub read_only: bool,
    /// Kafka's `ConfigType`.
    pub kind: i8,
    pub documentation: &'static str,
    /// All values of which the first is the one that holds: name, value, source.
    pub synonyms: Vec<(&'static str, String, Source)>,
}

/// Every config of a topic, by name.
pub fn topic(set: &[Config], broker: &BrokerConfig) -> impl Iterator<Item = Described> {
    table::TOPIC.iter().map(|row| {
        let mut synonyms = Vec::new();
        let own = set.binary_search_by(|(name, _)| name.as_ref().cmp(row.name)).ok().map(|at| &set[at].1);
        if let Some(own) = own.filter(|own| row.kind.validate(row.name, own).is_ok()) {
            synonyms.push((row.name, own.to_string(), Source::Topic));
        }
        if let Some((name, value)) = broker_value(row, broker) {
            synonyms.push((name, value.into_owned(), Source::StaticBroker));
        }
        if let Some((name, _)) = row.broker.first() {
            synonyms.push((name, row.default.to_owned(), Source::Default));
        }
        described(row, synonyms, false)
    })
}

/// Every config of the broker, by name. `actual` gives those that Ottla's own options decide.
pub fn broker(
    config: &BrokerConfig,
    actual: impl Fn(&str) -> Option<String>,
) -> impl Iterator<Item = Described> {
    table::BROKER.iter().map(move |row| {
        let mut synonyms = Vec::new();
        if let Some(value) = actual(row.name).or_else(|| config.set(row.name).map(str::to_owned)) {
            synonyms.push((row.name, value, Source::StaticBroker));
        }
        synonyms.push((row.name, row.default.to_owned(), Source::Default));
        described(row, synonyms, true)
    })
}

fn described(row: &table::Row, synonyms: Vec<(&'static str, String, Source)>, read_only: bool) -> Described {
    let (value, source) = match synonyms.first() {
        Some((_, value, source)) => (value.clone(), *source),
        None => (row.default.to_owned(), Source::Default),
    };
    Described {
        name: row.name,
        value,
        source,
        read_only,
        kind: row.kind.id(),
        documentation: row.doc,
        synonyms,
    }
}
