//! Where values come from: the command line, `OTTLA_*`, a TOML file, the table's defaults.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};

use super::Error;
use super::table::{Definition, Kind, Section, definitions, find};
use super::value;

/// Every option's winning value, with its origin for messages.
#[derive(Clone, Debug, Default)]
pub struct Values {
    winning: HashMap<&'static str, Value>,
    /// Kafka configs of all sources, merged.
    pub(super) pairs: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Value {
    text: String,
    origin: String,
    /// Nobody has said it.
    preset: bool,
}

/// The environment variable of an option.
pub(super) fn variable(definition: &Definition) -> String {
    format!("OTTLA_{}", definition.name.to_ascii_uppercase().replace('-', "_"))
}

/// The table as arguments for the command line.
pub fn arguments() -> Vec<Arg> {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("A TOML file with any of these options; flags and OTTLA_* variables win over it. Variable: OTTLA_CONFIG")
        .help_heading(Section::Operation.title());
    definitions().map(argument).chain([file]).collect()
}

fn argument(definition: &'static Definition) -> Arg {
    let help = match definition.default_text() {
        Some(default) if definition.kind != Kind::Switch => {
            format!("{} [default: {default}]", definition.help)
        }
        _ => definition.help.to_owned(),
    };
    let argument = Arg::new(definition.name)
        .long(definition.name)
        .help(help)
        .help_heading(definition.section.title())
        .hide_short_help(definition.section == Section::Advanced);
    match definition.kind {
        Kind::Switch => argument.action(ArgAction::SetTrue),
        Kind::Pairs => argument.action(ArgAction::Append).value_name(definition.kind.placeholder()),
        _ => argument.value_name(definition.kind.placeholder()),
    }
}

/// Gathers all sources. A command that has only some of the table's arguments gets the others from the other sources.
/// `environment` ([`std::env::vars_os`]) is a parameter so that tests need not change the process's own.
///
/// # Errors
/// A value that its row does not take, wherever it comes from. A variable of somebody else's may be anything.
pub fn gather(
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Values, Error> {
    let environment = own_variables(environment)?;
    let path = matches
        .get_one::<PathBuf>("config")
        .cloned()
        .or_else(|| environment.get("OTTLA_CONFIG").map(PathBuf::from));
    let file = match &path {
        Some(path) => read_file(path)?,
        None => File::default(),
    };

    let mut values = Values { winning: HashMap::new(), pairs: file.pairs };
    for definition in definitions() {
        if definition.kind == Kind::Pairs {
            let variable = variable(definition);
            let from_environment = environment
                .get(&variable)
                .into_iter()
                .flat_map(|list| list.split(','))
                .map(|pair| (pair, &variable));
            let flag = format!("--{}", definition.name);
            let from_flags = matches
                .try_get_many::<String>(definition.name)
                .into_iter()
                .flatten()
                .flatten()
                .map(|pair| (pair.as_str(), &flag));
            for (pair, origin) in from_environment.chain(from_flags) {
                let (name, text) = value::parse_pair(pair)
                    .map_err(|detail| Error::Value { origin: origin.to_string(), detail })?;
                values.pairs.insert(name, text);
            }
        } else if let Some(value) = winning(definition, matches, &environment, &file.texts, path.as_deref()) {
            values.winning.insert(definition.name, value);
        }
    }
    Ok(values)
}

fn own_variables(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<HashMap<String, String>, Error> {
    let mut own = HashMap::new();
    for (name, value) in environment {
        // What is not UTF-8 is not the name of an option.
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with("OTTLA_") {
            continue;
        }
        match value.into_string() {
            Ok(value) => drop(own.insert(name, value)),
            // Not shown: it may be a secret.
            Err(_) => return Err(Error::Value { origin: name, detail: "its value is not UTF-8".to_owned() }),
        }
    }
    Ok(own)
}

fn winning(
    definition: &Definition,
    matches: &ArgMatches,
    environment: &HashMap<String, String>,
    file: &HashMap<String, String>,
    path: Option<&Path>,
) -> Option<Value> {
    let flag = if definition.kind == Kind::Switch {
        matches
            .try_get_one::<bool>(definition.name)
            .ok()
            .flatten()
            .is_some_and(|given| *given)
            .then(|| "true".to_owned())
    } else {
        matches.try_get_one::<String>(definition.name).ok().flatten().cloned()
    };
    if let Some(text) = flag {
        return Some(Value { text, origin: format!("--{}", definition.name), preset: false });
    }
    let variable = variable(definition);
    if let Some(text) = environment.get(&variable) {
        return Some(Value { text: text.clone(), origin: variable, preset: false });
    }
    if let Some(text) = file.get(definition.name) {
        let path = path.map(|path| path.display().to_string()).unwrap_or_default();
        let origin = format!("{} in {path}", definition.name);
        return Some(Value { text: text.clone(), origin, preset: false });
    }
    let origin = format!("the default of {}", definition.name);
    definition.default_text().map(|text| Value { text, origin, preset: true })
}

#[derive(Default)]
struct File {
    texts: HashMap<String, String>,
    pairs: BTreeMap<String, String>,
}

fn read_file(path: &Path) -> Result<File, Error> {
    let fault = |error: std::io::Error| Error::File { path: path.to_owned(), detail: error.to_string() };
    parse_file(path, &std::fs::read_to_string(path).map_err(fault)?)
}

/// The text of the file `path`.
fn parse_file(path: &Path, text: &str) -> Result<File, Error> {
    let fault = |detail: String| Error::File { path: path.to_owned(), detail };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| fault(error.to_string()))?;
    let scalar = |key: &str, value: &toml::Value| match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(switch) => Ok(switch.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        other => Err(fault(format!("{key} is a {}, not a plain value", other.type_str()))),
    };
    let mut file = File::default();
    for (key, value) in &table {
        let Some(definition) = find(key) else {
            return Err(fault(format!("{key} is not an option; see `ottla serve --help`")));
        };
        if definition.kind == Kind::Pairs {
            let pairs = value.as_table().ok_or_else(|| fault(format!("{key} must be a table: [{key}]")))?;
            flatten("", pairs, &mut |name, value| {
                file.pairs.insert(name.to_owned(), scalar(name, value)?);
                Ok(())
            })?;
        } else {
            file.texts.insert(key.clone(), scalar(key, value)?);
        }
    }
    Ok(file)
}

/// `num.partitions = 4` is a nested table to TOML; here it is a name with dots again.
fn flatten(
    prefix: &str,
    table: &toml::Table,
    each: &mut dyn FnMut(&str, &toml::Value) -> Result<(), Error>,
) -> Result<(), Error> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten(&name, inner, each)?,
            value => each(&name, value)?,
        }
    }
    Ok(())
}

impl Values {
    /// What a file with this text alone gives.
    #[cfg(feature = "fuzzing")]
    pub fn of_file(text: &str) -> Result<Values, Error> {
        let path = Path::new("fuzzed");
        let file = parse_file(path, text)?;
        let mut values = Values { winning: HashMap::new(), pairs: file.pairs };
        let matches = clap::Command::new("fuzzed").args(arguments()).get_matches_from(["fuzzed"]);
        for definition in definitions().filter(|definition| definition.kind != Kind::Pairs) {
            if let Some(value) = winning(definition, &matches, &HashMap::new(), &file.texts, Some(path)) {
                values.winning.insert(definition.name, value);
            }
        }
        Ok(values)
    }

    /// With other defaults for some options, by their names.
    pub(super) fn with_presets(&self, presets: &[(&'static str, &str)]) -> Values {
        let mut values = self.clone();
        for (name, text) in presets {
            let value = values.winning.get_mut(name).filter(|value| value.preset);
            if let Some(value) = value {
                value.text = (*text).to_owned();
            }
        }
        values
    }

    /// Whether nobody has said anything of it, and it has a default.
    pub(super) fn is_preset(&self, name: &str) -> bool {
        self.winning.get(name).is_some_and(|value| value.preset)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.winning.get(name).map(|value| value.text.as_str())
    }

    pub(super) fn fault(&self, name: &str, detail: String) -> Error {
        let origin = self.winning.get(name).map_or_else(|| name.to_owned(), |value| value.origin.clone());
        Error::Value { origin, detail }
    }

    pub(super) fn optional<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Error> {
        self.text(name).map(parse).transpose().map_err(|error| self.fault(name, error.to_string()))
    }

    /// # Panics
    /// If the table gives `name` no default.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<T, Error> {
        Ok(self.optional(name, parse)?.expect("the table has a default for it"))
    }

    pub(super) fn switch(&self, name: &str) -> Result<bool, Error> {
        self.parsed(name, value::parse_switch)
    }

    pub(super) fn number(&self, name: &str) -> Result<u64, Error> {
        self.amount(find(name).expect("the option is in the table"))
    }

    pub(super) fn duration(&self, name: &str) -> Result<Duration, Error> {
        self.number(name).map(Duration::from_millis)
    }

    /// What a row with a range says: bytes, milliseconds or a count.
    ///
    /// # Panics
    /// If it is a row without a range or without a default.
    pub(super) fn amount(&self, definition: &Definition) -> Result<u64, Error> {
        let Definition { name, kind, .. } = definition;
        let amount = self.parsed(name, |text| match kind {
            Kind::Bytes { .. } => value::parse_bytes(text),
            Kind::Duration { .. } => value::parse_duration(text)
                .map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
            _ => text.trim().parse().map_err(|_| format!("{text:?} is not a number")),
        })?;
        let (min, max) = kind.range().expect("only rows with a range are asked for an amount");
        let beyond = if amount < min {
            format!("below the least, {}", kind.show(min))
        } else if amount > max {
            format!("over the most, {}", kind.show(max))
        } else {
            return Ok(amount);
        };
        Err(self.fault(name, format!("{} is {beyond}", kind.show(amount))))
    }
}
