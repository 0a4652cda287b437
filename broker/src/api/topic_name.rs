//! What a topic may be called (Kafka's `Topic.validate`).

/// Longest name, in characters.
pub const LENGTH_MAX: usize = 249;

/// The topic that holds groups and their offsets.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// The topic that holds the state of transactions.
pub const TRANSACTION_STATE: &str = "__transaction_state";
/// The topic that holds the state of share groups.
pub const SHARE_GROUP_STATE: &str = "__share_group_state";

/// Why a name is not one. The text is Kafka's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    #[error("Topic name is invalid: '{0}' is not allowed")]
    Dots(String),
    #[error(
        "Topic name is invalid: the length of a name of {0} characters is longer than the max allowed length {LENGTH_MAX}"
    )]
    TooLong(usize),
    #[error(
        "Topic name is invalid: '{0}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    )]
    Character(String),
}

pub fn validate(name: &str) -> Result<(), InvalidName> {
    match name {
        "" => return Err(InvalidName::Empty),
        "." | ".." => return Err(InvalidName::Dots(name.to_owned())),
        _ => {}
    }
    let characters = name.chars().count();
    if characters > LENGTH_MAX {
        return Err(InvalidName::TooLong(characters));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        return Err(InvalidName::Character(name.to_owned()));
    }
    Ok(())
}

/// Topics of the broker's own (behaviour 28).
pub fn is_internal(name: &str) -> bool {
    matches!(name, CONSUMER_OFFSETS | TRANSACTION_STATE | SHARE_GROUP_STATE)
}
