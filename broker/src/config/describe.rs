//! Configs as DescribeConfigs and CreateTopics show them (Kafka's `ConfigHelper`).

use super::topic::broker_values;
use super::{BrokerConfig, table};
use crate::metadata::image::Config;

/// Where a value comes from, by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    Topic = 1,
    DynamicBroker = 2,
    DynamicDefault = 3,
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
        synonyms.extend(
            broker_values(row, broker).map(|(name, value, source)| (name, value.into_owned(), source)),
        );
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
        match actual(row.name) {
            Some(value) => synonyms.push((row.name, value, Source::StaticBroker)),
            None => synonyms.extend(
                config
                    .layers()
                    .into_iter()
                    .filter_map(|(source, layer)| Some((row.name, layer.get(row.name)?.clone(), source))),
            ),
        }
        synonyms.push((row.name, row.default.to_owned(), Source::Default));
        described(row, synonyms, !table::is_dynamic(row.name))
    })
}

/// What was set, while brokers ran, for all of them; by name.
pub fn cluster(config: &BrokerConfig) -> impl Iterator<Item = Described> {
    config.layers().into_iter().filter(|(source, _)| *source == Source::DynamicDefault).flat_map(
        |(source, layer)| {
            layer.iter().map(move |(name, value)| {
                let row = table::broker(name).expect("a row of the table");
                described(row, vec![(row.name, value.clone(), source)], false)
            })
        },
    )
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
