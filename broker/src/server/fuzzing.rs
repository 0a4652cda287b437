//! A request as it comes off a connection, for `crate::fuzzing`.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestKind};

use super::dispatch::{self, Parsed};
use crate::api::layout::{self, Side, sample};
use crate::api::produce;
use crate::api::versions::SUPPORTED;
use crate::fuzzing::Check;

/// A frame without its length: header, then the body, decoded as the server does it.
pub fn decode(input: &Bytes) -> Option<Check> {
    let Ok(Parsed::Request(request)) = dispatch::parse(BytesMut::from(&input[..])) else { return None };
    let (api, version) = (request.api, request.header.version);
    let body = request.body.freeze();
    let walked = layout::check(api, Side::Request, version, &body).ok()?;
    if api == ApiKey::Produce {
        let _ = produce::parse(version, BytesMut::from(&body[..]));
    }
    let mut rest = body.clone();
    let decoded = RequestKind::decode(api, &mut rest, version).ok()?;
    Some(Box::new(move || {
        assert_eq!(walked.consumed, body.len() - rest.len(), "{api:?} {version}: walk and codec disagree");
        assert!(walked.decoded_bytes <= layout::decoded_bytes_max(Side::Request, body.len()));
        drop(decoded);
    }))
}

pub fn seal(_: &mut [u8]) {}

/// Every API in every version that is served, with one and with several elements in each array.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for row in SUPPORTED {
        for version in row.min..=row.max {
            for (elements, text_bytes) in [(0, 0), (1, 3), (3, 1)] {
                let mut frame = Vec::new();
                frame.put_i16(row.key as i16);
                frame.put_i16(version);
                frame.put_i32(7);
                frame.put_i16(4);
                frame.put_slice(b"kcat");
                if row.key.request_header_version(version) >= 2 {
                    frame.put_u8(0);
                }
                let body = sample::body(row.key, Side::Request, version, elements, text_bytes);
                frame.extend(body.expect("every API that is served has a layout"));
                seeds.push(frame);
            }
        }
    }
    seeds
}
