//! Where a broker's config can have its value from.

use std::collections::BTreeMap;

use super::describe::Source;
use super::table;
use crate::metadata::image::Config;

/// The values that were set, by Kafka's names, under every source that there is. The first source that has one wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// While the broker ran, for itself.
    pub own: BTreeMap<&'static str, String>,
    /// While the broker ran, for all brokers.
    pub cluster: BTreeMap<&'static str, String>,
    /// When it was started.
    pub start: BTreeMap<&'static str, String>,
}

impl Layers {
    /// What of `configs` can be used. The rest counts as not set: another version may have written it.
    pub fn usable(configs: &[Config]) -> BTreeMap<&'static str, String> {
        configs
            .iter()
            .filter_map(|(name, value)| {
                let row = table::broker(name).filter(|row| table::is_dynamic(row.name))?;
                row.kind.validate(name, value).ok()?;
                Some((row.name, value.trim().to_owned()))
            })
            .collect()
    }

    /// With their sources, the one that wins first.
    pub fn all(&self) -> [(Source, &BTreeMap<&'static str, String>); 3] {
        [
            (Source::DynamicBroker, &self.own),
            (Source::DynamicDefault, &self.cluster),
            (Source::StaticBroker, &self.start),
        ]
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all().into_iter().find_map(|(_, layer)| layer.get(name)).map(String::as_str)
    }
}
