//! Which operation goes wrong, and how.

use std::time::Duration;

use object_store::path::Path;

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Put,
    Get,
    Delete,
    List,
}

/// How it goes wrong; the crate's page has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Refuse,
    Fail,
    Expire,
    Forbid,
    Cut,
    LoseReply,
    HiddenRetry,
    Conflict,
    Late,
    Duplicate,
    Delay(Duration),
    Hang,
    /// The body ends after so many bytes.
    Truncate(usize),
    /// The connection breaks after so many bytes of the body.
    CutBody(usize),
    /// One bit of the body, counted from its beginning, modulo its length.
    FlipBit(u64),
    Hide,
}

/// One fault and where it strikes. The first rule that applies to a request decides.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(crate) operation: Operation,
    pub(crate) fault: Fault,
    pub(crate) prefix: String,
    pub(crate) skip: u64,
    pub(crate) times: u64,
    pub(crate) probability: f64,
}

impl Rule {
    /// Strikes every time.
    pub fn new(operation: Operation, fault: Fault) -> Rule {
        Rule { operation, fault, prefix: String::new(), skip: 0, times: u64::MAX, probability: 1.0 }
    }

    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// Only keys that begin so.
    pub fn under(mut self, prefix: &str) -> Rule {
        self.prefix = prefix.to_owned();
        self
    }

    /// Spares the first `skip` requests that would be hit.
    pub fn after(mut self, skip: u64) -> Rule {
        self.skip = skip;
        self
    }

    /// Strikes so often, then never again.
    pub fn times(mut self, times: u64) -> Rule {
        self.times = times;
        self
    }

    /// Strikes with this probability, by the store's seed.
    pub fn with_probability(mut self, probability: f64) -> Rule {
        self.probability = probability;
        self
    }

    /// Whether the rule strikes, given a coin in `[0, 1)`. Counts down.
    pub(crate) fn strikes(&mut self, operation: Operation, key: &Path, coin: f64) -> bool {
        if self.operation != operation || self.times == 0 || !key.as_ref().starts_with(&self.prefix) {
            return false;
        }
        if coin >= self.probability {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}
