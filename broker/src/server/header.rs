//! Request headers.
//!
//! | field | type | in |
//! |---|---|---|
//! | request_api_key | INT16 | all |
//! | request_api_version | INT16 | all |
//! | correlation_id | INT32 | all |
//! | client_id | NULLABLE_STRING, with a 16-bit length even in version 2 (behaviour 3) | 1, 2 |
//! | tagged fields | UVARINT count, then (UVARINT tag, UVARINT size, bytes) | 2 |
//!
//! Source: Kafka's `RequestHeader.json`. Versions by API are the codec's.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use kafka_protocol::messages::ApiKey;

use crate::api::wire::{Malformed, Reader};

/// Key, version and correlation id: what every request begins with, whatever its header's version.
pub(super) const PREFIX_BYTES: usize = 8;

/// A request whose header was understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub key: i16,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<Arc<str>>,
}

impl Header {
    /// Reads key, version and correlation id.
    pub fn peek(frame: &[u8]) -> Result<Header, Malformed> {
        if frame.len() < PREFIX_BYTES {
            return Err(Malformed);
        }
        let mut frame = frame;
        Ok(Header {
            key: frame.get_i16(),
            version: frame.get_i16(),
            correlation_id: frame.get_i32(),
            client_id: None,
        })
    }

    /// Takes the header off `frame`; the body remains.
    pub fn take(api: ApiKey, frame: &mut BytesMut) -> Result<Header, Malformed> {
        let version = Header::peek(frame)?.version;
        Header::take_version(api.request_header_version(version), frame)
    }

    /// The same, where no API of Kafka's says which header it has.
    pub fn take_version(header_version: i16, frame: &mut BytesMut) -> Result<Header, Malformed> {
        let mut header = Header::peek(frame)?;
        frame.advance(PREFIX_BYTES);
        let mut reader = Reader { bytes: std::mem::take(frame), flexible: false };
        if header_version >= 1 {
            // A copy, so that what outlives the request does not pin its buffer.
            header.client_id = reader.nullable_string()?.map(|client_id| client_id.as_str().into());
        }
        reader.flexible = header_version >= 2;
        reader.tagged_fields()?;
        *frame = reader.bytes;
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::RequestHeader;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    fn encoded(api: ApiKey, version: i16, client_id: Option<&'static str>) -> BytesMut {
        let mut bytes = BytesMut::new();
        RequestHeader::default()
            .with_request_api_key(api as i16)
            .with_request_api_version(version)
            .with_correlation_id(77)
            .with_client_id(client_id.map(StrBytes::from_static_str))
            .with_unknown_tagged_fields([(9, bytes::Bytes::from_static(b"later"))].into())
            .encode(&mut bytes, api.request_header_version(version))
            .unwrap();
        bytes
    }

    #[test]
    fn behaviour_3_client_id_has_a_16_bit_length_in_every_header() {
        for version in [0, 2, 3, 4] {
            for client_id in [None, Some(""), Some("kcat")] {
                let mut frame = encoded(ApiKey::ApiVersions, version, client_id);
                frame.extend_from_slice(b"body");
                let header = Header::take(ApiKey::ApiVersions, &mut frame).unwrap();
                assert_eq!((header.key, header.version, header.correlation_id), (18, version, 77));
                assert_eq!(header.client_id.as_deref(), client_id);
                assert_eq!(&frame[..], b"body");
            }
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        let whole = encoded(ApiKey::ApiVersions, 3, Some("client"));
        for length in 0..whole.len() {
            let mut frame = BytesMut::from(&whole[..length]);
            assert_eq!(Header::take(ApiKey::ApiVersions, &mut frame), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn hostile_lengths_are_malformed() {
        let prefix = [0u8, 18, 0, 3, 0, 0, 0, 1];
        for tail in [
            &b"\x7f\xff"[..],
            b"\xff\xfe",
            b"\x00\x01\xff",
            b"\xff\xff\xff\xff\xff\xff\x0f",
            b"\xff\xff\x01\x01\xff\xff\xff\xff\x0f",
            b"\xff\xff\xff\xff\xff\xff\xff",
        ] {
            let mut frame = BytesMut::from(&prefix[..]);
            frame.extend_from_slice(tail);
            assert_eq!(Header::take(ApiKey::ApiVersions, &mut frame), Err(Malformed), "{tail:x?}");
        }
    }
}
