//! Between the protocol's strings, which pin the buffer of their request, and ours, which outlive it.

use std::sync::Arc;

use kafka_protocol::protocol::StrBytes;

/// A copy that does not pin the request's buffer.
pub fn shared(text: &StrBytes) -> Arc<str> {
    Arc::from(&**text)
}

pub fn wire(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
