//! The bounds of every part of the broker, as one value: what the parts take as their configuration.
//!
//! ```text
//!   Values (text) ──► table: kind, range, place ──► Bounds: the parts' own structs ──► startup hands them out
//!                                                     │
//!                                                     └─ RULES: what must hold between two options
//! ```
//!
//! - **Bo1** A row that names a field here has its default from the struct's `Default`: there is no second copy of it.
//! - **Bo2** Every field is named by a row, or is one that a Kafka config or another option decides.
//! - **Bo3** What is accepted here satisfies the `validate` of every part: a mistake is reported by its option's name,
//!   before anything is started.

use std::time::Duration;

use super::source::Values;
use super::table::{definitions, find};
use super::{Error, advanced};
use crate::api::fetch_session;
use crate::cluster::{self, mover};
use crate::{admin, failover, group, media, metadata, partition, server, store};

/// See the module. Kafka's configs are not in it yet.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    pub store: store::Limits,
    pub block_wal: wal::block::Config,
    pub object_wal: wal::object::Config,
    pub engine: s3stream::Config,
    pub collector: s3stream::gc::Config,
    pub metadata: metadata::Options,
    pub cluster: cluster::Config,
    pub mover: mover::Config,
    pub server: server::Config,
    pub partition: partition::Config,
    pub group: group::Options,
    pub fetch_session: fetch_session::Limits,
    pub admin: admin::Config,
    pub failover: failover::Config,
    pub media: media::Config,
}

/// A field that an option sets.
#[derive(Debug)]
pub enum Field<'a> {
    Usize(&'a mut usize),
    U64(&'a mut u64),
    U32(&'a mut u32),
    Duration(&'a mut Duration),
    /// A whole number.
    Float(&'a mut f64),
    /// A fraction, of which the option is the hundredfold.
    Percent(&'a mut f64),
}

macro_rules! field_from {
    ($($kind:ident($target:ty)),*) => {
        $(impl<'a> From<&'a mut $target> for Field<'a> {
            fn from(field: &'a mut $target) -> Field<'a> {
                Field::$kind(field)
            }
        })*
    };
}

field_from!(Usize(usize), U64(u64), U32(u32), Duration(Duration), Float(f64));

impl Field<'_> {
    /// Bytes, milliseconds or a count.
    pub fn get(&self) -> u64 {
        match self {
            Field::Usize(field) => **field as u64,
            Field::U64(field) => **field,
            Field::U32(field) => u64::from(**field),
            Field::Duration(field) => field.as_millis() as u64,
            Field::Float(field) => **field as u64,
            Field::Percent(field) => (**field * 100.0).round() as u64,
        }
    }

    /// # Panics
    /// If the row's range lets through what the field cannot hold.
    pub fn set(self, amount: u64) {
        match self {
            Field::Usize(field) => *field = usize::try_from(amount).expect("the row's range fits"),
            Field::U64(field) => *field = amount,
            Field::U32(field) => *field = u32::try_from(amount).expect("the row's range fits"),
            Field::Duration(field) => *field = Duration::from_millis(amount),
            Field::Float(field) => *field = amount as f64,
            Field::Percent(field) => *field = amount as f64 / 100.0,
        }
    }
}

/// The sum of some options, and so much on top, `times` so many, is at most another option.
#[derive(Debug)]
pub struct Rule {
    pub terms: &'static [&'static str],
    pub plus: u64,
    pub times: u64,
    pub most: &'static str,
    pub why: &'static str,
}

impl Bounds {
    pub(super) fn from_values(values: &Values) -> Result<Bounds, Error> {
        let mut bounds = Bounds::default();
        for definition in definitions() {
            if let Some(place) = definition.place() {
                place(&mut bounds).set(values.amount(definition)?);
            }
        }
        for rule in advanced::RULES {
            rule.check(values)?;
        }
        let object_wal = &mut bounds.object_wal;
        // One second's worth.
        object_wal.puts_burst_max = object_wal.puts_per_second_max;
        // Slots go only when nobody can hold a right any more that was granted before they were trimmed.
        object_wal.delete_delay = object_wal.delete_delay.max(bounds.metadata.lease * 10);
        bounds.validate().map_err(Error::Together)?;
        Ok(bounds)
    }

    /// Asks the parts themselves. Ranges and rules have found every mistake already.
    fn validate(&self) -> Result<(), String> {
        self.block_wal.validate().map_err(|error| error.to_string())?;
        self.object_wal.validate().map_err(|error| format!("the object WAL's {error}"))?;
        self.engine.validate().map_err(|error| format!("the storage engine's {error}"))?;
        self.collector.validate().map_err(|error| format!("the collector's {error}"))?;
        self.metadata.validate().map_err(|error| error.to_string())?;
        self.cluster.validate()?;
        self.metadata.log.validate().map_err(|error| error.to_string())
    }
}

impl Rule {
    fn check(&self, values: &Values) -> Result<(), Error> {
        let definition = |name: &str| find(name).expect("rules name options of the table");
        let mut sum = self.plus;
        let mut said = Vec::new();
        for name in self.terms {
            let term = values.amount(definition(name))?;
            sum = sum.saturating_add(term);
            said.push(format!("{name} ({})", definition(name).kind.show(term)));
        }
        let most = values.amount(definition(self.most))?;
        if sum.saturating_mul(self.times) <= most {
            return Ok(());
        }
        if self.plus > 0 {
            said.push(definition(self.most).kind.show(self.plus));
        }
        let share = match self.times {
            1 => String::new(),
            2 => "half of ".to_owned(),
            3 => "a third of ".to_owned(),
            4 => "a quarter of ".to_owned(),
            times => format!("1/{times} of "),
        };
        Err(Error::Together(format!(
            "{} must be at most {share}{} ({}): {}",
            said.join(" + "),
            self.most,
            definition(self.most).kind.show(most),
            self.why
        )))
    }
}

#[cfg(test)]
mod tests;
