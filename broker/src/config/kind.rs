//! Types of configs and what values they take.

use super::Invalid;

/// A type, and the values of it that are valid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Boolean,
    /// Any text, or one of a few.
    Text(&'static [&'static str]),
    Int {
        min: i32,
        max: i32,
    },
    Short {
        min: i16,
    },
    Long {
        min: i64,
    },
    Double {
        min: f64,
        max: f64,
    },
    /// Elements separated by commas; any, or each one of a few.
    List(&'static [&'static str]),
}

impl Kind {
    /// Its number in DescribeConfigs (Kafka's `ConfigType`).
    pub fn id(&self) -> i8 {
        match self {
            Kind::Boolean => 1,
            Kind::Text(_) => 2,
            Kind::Int { .. } => 3,
            Kind::Short { .. } => 4,
            Kind::Long { .. } => 5,
            Kind::Double { .. } => 6,
            Kind::List(_) => 7,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Kind::Boolean => "boolean",
            Kind::Text(_) => "string",
            Kind::Int { .. } => "int",
            Kind::Short { .. } => "short",
            Kind::Long { .. } => "long",
            Kind::Double { .. } => "double",
            Kind::List(_) => "list",
        }
    }

    /// What values there are, for people.
    pub fn range(&self) -> String {
        match self {
            Kind::Boolean => "true, false".to_owned(),
            Kind::Text([]) | Kind::List([]) => String::new(),
            Kind::Text(of) | Kind::List(of) => of.join(", "),
            Kind::Int { min, max: i32::MAX } => format!("at least {min}"),
            Kind::Int { min, max } => format!("{min} to {max}"),
            Kind::Short { min } => format!("at least {min}"),
            Kind::Long { min } => format!("at least {min}"),
            Kind::Double { min, max } => format!("{min} to {max}"),
        }
    }

    /// Checks a value of the config `name`. The texts are Kafka's `ConfigException`'s.
    pub fn validate(&self, name: &str, value: &str) -> Result<(), Invalid> {
        let refuse =
            |why: String| Err(Invalid(format!("Invalid value {value} for configuration {name}: {why}")));
        let at_least = |min: String| refuse(format!("Value must be at least {min}"));
        match self {
            Kind::Boolean => match parse_boolean(value) {
                Some(_) => Ok(()),
                None => refuse("Expected value to be either true or false".to_owned()),
            },
            Kind::Text(of) if of.is_empty() || of.contains(&value.trim()) => Ok(()),
            Kind::Text(of) => refuse(format!("String must be one of: {}", of.join(", "))),
            Kind::Int { min, max } => match value.trim().parse::<i32>() {
                Ok(number) if number < *min => at_least(min.to_string()),
                Ok(number) if number > *max => refuse(format!("Value must be no more than {max}")),
                Ok(_) => Ok(()),
                Err(_) => refuse("Not a number of type INT".to_owned()),
            },
            Kind::Short { min } => match value.trim().parse::<i16>() {
                Ok(number) if number < *min => at_least(min.to_string()),
                Ok(_) => Ok(()),
                Err(_) => refuse("Not a number of type SHORT".to_owned()),
            },
            Kind::Long { min } => match value.trim().parse::<i64>() {
                Ok(number) if number < *min => at_least(min.to_string()),
                Ok(_) => Ok(()),
                Err(_) => refuse("Not a number of type LONG".to_owned()),
            },
            Kind::Double { min, max } => match value.trim().parse::<f64>() {
                Ok(number) if number < *min => at_least(min.to_string()),
                Ok(number) if number > *max => refuse(format!("Value must be no more than {max}")),
                Ok(number) if number.is_nan() => refuse("Not a number of type DOUBLE".to_owned()),
                Ok(_) => Ok(()),
                Err(_) => refuse("Not a number of type DOUBLE".to_owned()),
            },
            Kind::List(of) => match elements(value).find(|element| !of.is_empty() && !of.contains(element)) {
                None => Ok(()),
                Some(_) => refuse(format!("List must contain only: {}", of.join(", "))),
            },
        }
    }
}

/// Kafka takes any case.
pub(super) fn parse_boolean(value: &str) -> Option<bool> {
    let value = value.trim();
    if value.eq_ignore_ascii_case("true") {
        Some(true)
    } else if value.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Elements of a list, trimmed; none for an empty value.
pub(super) fn elements(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|element| !element.is_empty())
}
