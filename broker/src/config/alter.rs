//! What AlterConfigs and IncrementalAlterConfigs make of the configs that were set: the next ones, or why not.
//!
//! Pure, so that it can be done again on a newer image where somebody else came in between (C1 of the metadata's
//! changes). The texts are Kafka's (`ConfigAdminManager`, `ConfigurationControlManager`, `DynamicBrokerConfig`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::kind::{Kind, elements};
use super::topic::{check_length, check_value, effective};
use super::{BrokerConfig, Invalid, table, validate_topic, validate_topic_internal};
use crate::metadata::image::Config;

/// What is to be done with one config (Kafka's `AlterConfigOp.OpType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Set,
    /// The default holds again.
    Delete,
    /// Adds elements to a list, but those that are in it.
    Append,
    /// Takes elements out of a list, if they are in it.
    Subtract,
}

impl Op {
    /// By its number on the wire.
    pub fn of(number: i8) -> Option<Op> {
        Some(match number {
            0 => Op::Set,
            1 => Op::Delete,
            2 => Op::Append,
            3 => Op::Subtract,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Op::Set => "SET",
            Op::Delete => "DELETE",
            Op::Append => "APPEND",
            Op::Subtract => "SUBTRACT",
        }
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    pub name: &'a str,
    pub op: Op,
    /// Not used by [`Op::Delete`].
    pub value: &'a str,
}

/// Which changes a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes<'a> {
    /// These, and what is not named stays (IncrementalAlterConfigs).
    Some(Vec<Change<'a>>),
    /// These values and no others (AlterConfigs).
    All(Vec<(&'a str, &'a str)>),
}

/// Why a resource keeps its configs, by the error that Kafka gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// INVALID_CONFIG (40).
    #[error(transparent)]
    Config(#[from] Invalid),
    /// INVALID_REQUEST (42).
    #[error("{0}")]
    Request(String),
}

/// The configs of a topic that has `set`. `internal`: it is one of the broker's own.
pub fn topic(
    set: &[Config],
    changes: &Changes<'_>,
    broker: &BrokerConfig,
    internal: bool,
) -> Result<Vec<Config>, Refused> {
    let row =
        |name: &str| table::topic(name).ok_or_else(|| Invalid(format!("Unknown topic config name: {name}")));
    let current = |row: &table::Row| effective(row, set, broker).into_owned();
    let next = next(set, changes, row, current)?;
    if internal {
        validate_topic_internal(&next, broker)?;
    } else {
        validate_topic(&next, broker)?;
    }
    Ok(next)
}

/// What was set while brokers ran, which is what a change of broker configs begins with and replaces a part of.
#[derive(Clone, Copy, Debug)]
pub struct Dynamic<'a> {
    /// For all brokers.
    pub cluster: &'a [Config],
    /// For the one that is asked.
    pub own: &'a [Config],
}

/// The configs that are set for the broker that runs with `config`, or with `for_all` those of all brokers.
pub fn broker(
    set: Dynamic<'_>,
    changes: &Changes<'_>,
    config: &BrokerConfig,
    for_all: bool,
) -> Result<Vec<Config>, Refused> {
    let fixed: BTreeSet<&str> =
        changes.names().filter(|name| table::broker(name).is_some() && !table::is_dynamic(name)).collect();
    if !fixed.is_empty() {
        let fixed: Vec<&str> = fixed.into_iter().collect();
        let message = format!("Cannot update these configs dynamically: {}", fixed.join(", "));
        return Err(Refused::Request(message));
    }
    let row = |name: &str| {
        table::broker(name).ok_or_else(|| Invalid(format!("Unknown broker config name: {name}")))
    };
    let current = |row: &table::Row| config.set(row.name).unwrap_or(row.default).to_owned();
    let next = next(if for_all { set.cluster } else { set.own }, changes, row, current)?;
    let request = |invalid: Invalid| Refused::Request(invalid.0);
    for (name, value) in &next {
        check_value(row(name)?, value).map_err(request)?;
    }
    // What a topic gets that sets nothing must be possible, also once this broker sets nothing of its own.
    let possible = |cluster, own| validate_topic(&[], &config.with_dynamic(cluster, own)).map_err(request);
    if for_all {
        possible(&next, &[])?;
        possible(&next, set.own)?;
    } else {
        possible(set.cluster, &next)?;
    }
    Ok(next)
}

impl<'a> Changes<'a> {
    fn names(&self) -> impl Iterator<Item = &'a str> {
        let (some, all) = match self {
            Changes::Some(changes) => (&changes[..], &[][..]),
            Changes::All(values) => (&[][..], &values[..]),
        };
        some.iter().map(|change| change.name).chain(all.iter().map(|(name, _)| *name))
    }
}

/// The configs after `changes`, by name, ascending. Values are not checked yet. `current` is the value that holds for a
/// config, whoever set it.
fn next(
    set: &[Config],
    changes: &Changes<'_>,
    row: impl Fn(&str) -> Result<&'static table::Row, Invalid>,
    current: impl Fn(&table::Row) -> String,
) -> Result<Vec<Config>, Refused> {
    let mut names = BTreeSet::new();
    if !changes.names().all(|name| names.insert(name)) {
        return Err(Refused::Request("Error due to duplicate config keys".to_owned()));
    }
    let mut next: BTreeMap<Arc<str>, Arc<str>> = match changes {
        Changes::All(_) => BTreeMap::new(),
        Changes::Some(_) => set.iter().cloned().collect(),
    };
    match changes {
        Changes::All(values) => {
            for (name, value) in values {
                next.insert(row(name)?.name.into(), (*value).into());
            }
        }
        Changes::Some(changes) => {
            for change in changes {
                apply(&mut next, change, &row, &current)?;
            }
        }
    }
    Ok(next.into_iter().collect())
}

fn apply(
    next: &mut BTreeMap<Arc<str>, Arc<str>>,
    change: &Change<'_>,
    row: &impl Fn(&str) -> Result<&'static table::Row, Invalid>,
    current: &impl Fn(&table::Row) -> String,
) -> Result<(), Refused> {
    // To unset what there is not is done already, whether there could be such a config or not.
    if change.op == Op::Delete {
        next.remove(change.name);
        return Ok(());
    }
    let row = row(change.name)?;
    // Before it is taken apart.
    check_length(row.name, change.value)?;
    let value = match change.op {
        Op::Set | Op::Delete => change.value.to_owned(),
        Op::Append | Op::Subtract => {
            if !matches!(row.kind, Kind::List(_)) {
                return Err(Refused::Config(Invalid(format!(
                    "Can't {} to key {} because its type is not LIST.",
                    change.op.name(),
                    row.name
                ))));
            }
            // The list that is shown is the one that is changed, also where it is somebody else's default.
            let now = next.get(row.name).map_or_else(|| current(row), |value| value.to_string());
            let mut list: Vec<&str> = elements(&now).collect();
            for element in elements(change.value) {
                let at = list.iter().position(|known| *known == element);
                match (change.op, at) {
                    (Op::Append, None) => list.push(element),
                    (Op::Subtract, Some(at)) => drop(list.remove(at)),
                    _ => {}
                }
            }
            list.join(",")
        }
    };
    next.insert(row.name.into(), value.into());
    Ok(())
}

#[cfg(test)]
mod tests;
