//! How a command says what went wrong.

use std::io::Write;

use crate::store;
use crate::store::create;

/// Prints the error to standard error, and what to do about it where that is known.
pub fn print(error: &anyhow::Error) {
    let text = in_words(error);
    // There may be nobody who takes it, or no room.
    let _ = writeln!(std::io::stderr(), "ottla: {text}");
    if let Some(advice) = advice(error, &text) {
        let _ = writeln!(std::io::stderr(), "{advice}");
    }
}

/// What to do about `error`, of which `text` is all that is said.
fn advice(error: &anyhow::Error, text: &str) -> Option<&'static str> {
    let advice = store::advice(text)?;
    let is_idle = match error.downcast_ref::<create::Error>() {
        // These say it themselves.
        Some(create::Error::Foreign { .. } | create::Error::Closed { .. }) => true,
        // Whoever tries to create the bucket need not be told to.
        Some(_) => advice.contains("ottla store create"),
        None => false,
    };
    (!is_idle).then_some(advice)
}

/// The error and what caused it. Many errors have their cause's words in their own, some several times over: what was
/// said is not said again.
fn in_words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn nothing_is_said_twice() {
        let error = Err::<(), _>(anyhow!("no such file"))
            .context("reading x: no such file")
            .context("the store cannot be used")
            .unwrap_err();
        assert_eq!(in_words(&error), "the store cannot be used: reading x: no such file");
        assert_eq!(in_words(&anyhow!("alone")), "alone");
    }

    #[test]
    fn nobody_is_told_to_do_what_just_failed() {
        let refused = |detail: &str| create::Error::Request {
            doing: "listing the account's buckets".to_owned(),
            detail: detail.to_owned(),
        };
        let advice = |error: anyhow::Error| advice(&error, &in_words(&error)).is_some();
        assert!(advice(anyhow!("404: NoSuchBucket")));
        assert!(!advice(refused("404: NoSuchBucket").into()));
        assert!(advice(refused("403: InvalidAccessKeyId").into()));
    }
}
