//! What the codec would allocate for a message, found out before it does.
//!
//! The generated decoders take an array's count for true and reserve memory for so many elements, and one byte of an empty
//! string becomes thirty-two (behaviour 16; reliability F54). So each body is walked first, by the layout that
//! `table` has for its API: nothing is allocated, and a message is refused that
//!
//! - **Y1** counts more elements than the bytes that are left can hold,
//! - **Y2** would take more than [`decoded_bytes_max`] of its size once decoded,
//! - **Y3** has a known tagged field whose size is not that of its value: the codec does not look at the size, and would
//!   go on elsewhere than the walk.
//!
//! ```text
//!   body ──► check: walk, count, add up ──► codec: allocates what was added up, at most
//! ```
//!
//! The walk is not a validation: text that is not UTF-8, a null where none may be, and numbers without a meaning are the
//! codec's to find. A body that the walk and the codec both accept is read by both to the same byte.

mod table;

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use kafka_protocol::messages::ApiKey;

/// What clients send decodes to less than this many times its size, but for arrays of tiny elements.
const REQUEST_FACTOR: usize = 4;
/// In a Metadata response each partition has three lists of one broker, and takes five times its size.
const RESPONSE_FACTOR: usize = 8;
/// What any body may take beyond that, for arrays of tiny elements: a committed offset without metadata is 18 bytes, and 88
/// in memory, and tens of thousands of them in one request still pass. No option: it follows from the sizes of the decoded
/// structs.
const ALLOWANCE_BYTES: usize = 1 << 20;

/// In memory, by what [`Field`] says of the version: a string is a slice, an array a vector, a struct its fields and a map
/// of the tagged fields that the codec does not know.
const SLICE_BYTES: usize = 32;
const VECTOR_BYTES: usize = 24;
const TAGS_BYTES: usize = 24;
/// A node of that map, and how many unknown fields it holds at least.
const TAG_NODE_BYTES: usize = 512;
const TAGS_PER_NODE_MIN: usize = 5;

/// Which of an API's two messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// The most memory that a body of `bytes` may take once it is decoded, beside itself.
pub fn decoded_bytes_max(side: Side, bytes: usize) -> usize {
    let factor = match side {
        Side::Request => REQUEST_FACTOR,
        Side::Response => RESPONSE_FACTOR,
    };
    bytes.saturating_mul(factor).saturating_add(ALLOWANCE_BYTES)
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Bytes of the body that the message takes; the codec leaves the others as well.
    pub consumed: usize,
    /// What the decoded message takes beside the body itself, at most.
    pub decoded_bytes: usize,
}

/// Why a body is not given to the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it ends in the middle of a field")]
    Short,
    #[error("a number or a length is none that this field can have")]
    Length,
    #[error("{count} elements do not fit the {left} bytes that are left")]
    Count { count: usize, left: usize },
    #[error("decoded, it would take more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("tagged field {0} has another size than it says")]
    Tag(u32),
    #[error("there is no layout for this API")]
    Unknown,
}

/// Walks a message of `api` in `version` at the beginning of `body`.
pub fn check(api: ApiKey, side: Side, version: i16, body: &[u8]) -> Result<Walked, Refused> {
    let layout = layout(api, side).ok_or(Refused::Unknown)?;
    let limit = decoded_bytes_max(side, body.len());
    let flexible = api.request_header_version(version) >= 2;
    let mut walk = Walk { rest: body, version, flexible, decoded_bytes: 0, limit };
    walk.fields(layout)?;
    Ok(Walked { consumed: body.len() - walk.rest.len(), decoded_bytes: walk.decoded_bytes })
}

fn layout(api: ApiKey, side: Side) -> Option<&'static Struct> {
    let at = LAYOUTS.binary_search_by_key(&(api as i16), |(key, _)| *key).ok()?;
    let (request, response) = &LAYOUTS[at].1;
    Some(match side {
        Side::Request => request,
        Side::Response => response,
    })
}

/// By key.
static LAYOUTS: LazyLock<Vec<(i16, (Struct, Struct))>> = LazyLock::new(|| {
    let parsed =
        |row: &table::Row| (row.api as i16, (Struct::parse(row.request), Struct::parse(row.response)));
    table::ROWS.iter().map(parsed).collect()
});

#[derive(Debug)]
struct Struct {
    fields: Vec<Field>,
    /// Of one in memory.
    bytes: usize,
}

#[derive(Debug)]
struct Field {
    kind: Kind,
    versions: RangeInclusive<i16>,
    /// If it is among the tagged fields.
    tag: Option<u32>,
}

#[derive(Debug)]
enum Kind {
    /// Of so many bytes.
    Number(usize),
    String,
    Bytes,
    Array(Box<Kind>),
    Struct(Struct),
    /// A byte in front: 1 if it is there.
    Nullable(Struct),
}

impl Struct {
    /// # Panics
    /// If the table has a mistake.
    fn parse(text: &str) -> Struct {
        let mut rest = text;
        let parsed = Struct::parse_fields(&mut rest);
        assert!(rest.is_empty(), "{text:?} ends before {rest:?}");
        parsed
    }

    fn parse_fields(rest: &mut &str) -> Struct {
        let mut fields = Vec::new();
        while !rest.is_empty() && !rest.starts_with('}') {
            let (_name, kind) = rest.split_once(':').expect("NAME:KIND");
            *rest = kind;
            let kind = Kind::parse(rest);
            let mut versions = 0..=i16::MAX;
            if let Some(range) = rest.strip_prefix('@') {
                *rest = range;
                let from = number(rest);
                versions = from..=from;
                if let Some(open) = rest.strip_prefix('+') {
                    *rest = open;
                    versions = from..=i16::MAX;
                } else if let Some(upto) = rest.strip_prefix('-') {
                    *rest = upto;
                    versions = from..=number(rest);
                }
            }
            let tag = rest.strip_prefix('#').map(|tag| {
                *rest = tag;
                number(rest) as u32
            });
            *rest = rest.strip_prefix(' ').unwrap_or(rest);
            fields.push(Field { kind, versions, tag });
        }
        let bytes = TAGS_BYTES + fields.iter().map(|field| field.kind.bytes()).sum::<usize>();
        Struct { fields, bytes }
    }

    /// The fewest bytes that one takes on the wire.
    fn wire_bytes_min(&self, version: i16, flexible: bool) -> usize {
        let plain =
            self.fields.iter().filter(|field| field.tag.is_none() && field.versions.contains(&version));
        plain.map(|field| field.kind.wire_bytes_min(version, flexible)).sum::<usize>() + usize::from(flexible)
    }
}

/// Takes the digits at the front.
fn number(rest: &mut &str) -> i16 {
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (number, behind) = rest.split_at(digits);
    *rest = behind;
    number.parse().expect("a number")
}

impl Kind {
    fn parse(rest: &mut &str) -> Kind {
        let between = |rest: &mut &str| {
            let parsed = Struct::parse_fields(rest);
            *rest = rest.strip_prefix('}').expect("}");
            parsed
        };
        if let Some(element) = rest.strip_prefix('[') {
            *rest = element;
            let element = Kind::parse(rest);
            *rest = rest.strip_prefix(']').expect("]");
            return Kind::Array(Box::new(element));
        }
        if let Some(fields) = rest.strip_prefix('{') {
            *rest = fields;
            return Kind::Struct(between(rest));
        }
        if let Some(fields) = rest.strip_prefix("?{") {
            *rest = fields;
            return Kind::Nullable(between(rest));
        }
        let name = rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let (name, behind) = rest.split_at(name);
        *rest = behind;
        match name {
            "bool" | "i8" => Kind::Number(1),
            "i16" => Kind::Number(2),
            "i32" => Kind::Number(4),
            "i64" | "f64" => Kind::Number(8),
            "uuid" => Kind::Number(16),
            "str" => Kind::String,
            "bytes" => Kind::Bytes,
            _ => panic!("{name:?} is no kind of a field"),
        }
    }

    /// In memory, without what a vector points to.
    fn bytes(&self) -> usize {
        match self {
            Kind::Number(bytes) => bytes.next_multiple_of(8),
            Kind::String | Kind::Bytes => SLICE_BYTES,
            Kind::Array(_) => VECTOR_BYTES,
            Kind::Struct(of) => of.bytes,
            Kind::Nullable(of) => of.bytes + 8,
        }
    }

    /// As an element of a vector, where numbers lie side by side.
    fn element_bytes(&self) -> usize {
        if let Kind::Number(bytes) = self { *bytes } else { self.bytes() }
    }

    fn wire_bytes_min(&self, version: i16, flexible: bool) -> usize {
        match self {
            Kind::Number(bytes) => *bytes,
            Kind::String => {
                if flexible {
                    1
                } else {
                    2
                }
            }
            Kind::Bytes | Kind::Array(_) => {
                if flexible {
                    1
                } else {
                    4
                }
            }
            Kind::Struct(of) => of.wire_bytes_min(version, flexible),
            Kind::Nullable(_) => 1,
        }
    }
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    decoded_bytes: usize,
    limit: usize,
}

impl Walk<'_> {
    fn fields(&mut self, of: &Struct) -> Result<(), Refused> {
        for field in of.fields.iter().filter(|field| field.tag.is_none()) {
            if field.versions.contains(&self.version) {
                self.value(&field.kind)?;
            }
        }
        if self.flexible { self.tagged(of) } else { Ok(()) }
    }

    fn value(&mut self, kind: &Kind) -> Result<(), Refused> {
        match kind {
            Kind::Number(bytes) => self.skip(*bytes),
            Kind::String => {
                let length = if self.flexible { self.compact()? } else { self.signed::<2>()? };
                self.skip(length.unwrap_or(0))
            }
            Kind::Bytes => {
                let length = self.count()?;
                self.skip(length.unwrap_or(0))
            }
            Kind::Array(element) => {
                let count = self.count()?.unwrap_or(0);
                let least = element.wire_bytes_min(self.version, self.flexible).max(1);
                if count > self.rest.len() / least {
                    return Err(Refused::Count { count, left: self.rest.len() });
                }
                self.charge(count * element.element_bytes())?;
                (0..count).try_for_each(|_| self.value(element))
            }
            Kind::Struct(of) => self.fields(of),
            Kind::Nullable(of) => match self.signed_byte()? {
                1 => self.fields(of),
                _ => Ok(()),
            },
        }
    }

    fn tagged(&mut self, of: &Struct) -> Result<(), Refused> {
        let mut unknown = 0;
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let known = of.fields.iter().find(|field| field.tag == Some(tag));
            if let Some(field) = known {
                let before = self.rest.len();
                self.value(&field.kind)?;
                if before - self.rest.len() != size {
                    return Err(Refused::Tag(tag));
                }
            } else {
                self.skip(size)?;
                if unknown % TAGS_PER_NODE_MIN == 0 {
                    self.charge(TAG_NODE_BYTES)?;
                }
                unknown += 1;
            }
        }
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Refused> {
        self.decoded_bytes = self.decoded_bytes.saturating_add(bytes);
        if self.decoded_bytes > self.limit { Err(Refused::TooLarge { limit: self.limit }) } else { Ok(()) }
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Refused> {
        self.rest = self.rest.get(bytes..).ok_or(Refused::Short)?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Refused::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn signed_byte(&mut self) -> Result<i8, Refused> {
        let [byte] = self.take()?;
        Ok(byte as i8)
    }

    /// A big-endian length of `N` bytes, at most 4; `None` for -1.
    fn signed<const N: usize>(&mut self) -> Result<Option<usize>, Refused> {
        let bytes: [u8; N] = self.take()?;
        let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1i64 };
        match bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte)) {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Refused::Length),
        }
    }

    /// One more than a length; `None` for 0.
    fn compact(&mut self) -> Result<Option<usize>, Refused> {
        Ok((self.uvarint()? as usize).checked_sub(1))
    }

    fn count(&mut self) -> Result<Option<usize>, Refused> {
        if self.flexible { self.compact() } else { self.signed::<4>() }
    }

    /// At most 32 bits in five bytes. The codec would take longer ones, and leave bits out.
    fn uvarint(&mut self) -> Result<u32, Refused> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.take()?;
            if shift == 28 && byte > 0x0f {
                return Err(Refused::Length);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        unreachable!("the fifth byte ends it or is refused")
    }
}

/// Messages made from the layouts, for tests and as what a fuzzer begins with.
#[cfg(any(test, feature = "fuzzing"))]
pub mod sample {
    use super::*;

    /// A body with `elements` in each array, strings and byte fields of `text_bytes`, every tagged field and every
    /// struct that may be absent; numbers are 0. `None` for an API without a layout.
    pub fn body(
        api: ApiKey,
        side: Side,
        version: i16,
        elements: usize,
        text_bytes: usize,
    ) -> Option<Vec<u8>> {
        let flexible = api.request_header_version(version) >= 2;
        let mut to = Body { bytes: Vec::new(), version, flexible, elements, text_bytes };
        to.fields(layout(api, side)?);
        Some(to.bytes)
    }

    struct Body {
        bytes: Vec<u8>,
        version: i16,
        flexible: bool,
        elements: usize,
        text_bytes: usize,
    }

    impl Body {
        fn fields(&mut self, of: &Struct) {
            let here = |field: &&Field| field.versions.contains(&self.version);
            let (tagged, plain): (Vec<&Field>, Vec<&Field>) =
                of.fields.iter().filter(here).partition(|field| field.tag.is_some());
            plain.iter().for_each(|field| self.value(&field.kind));
            if self.flexible {
                self.uvarint(tagged.len());
                for field in tagged {
                    let before = std::mem::take(&mut self.bytes);
                    self.value(&field.kind);
                    let value = std::mem::replace(&mut self.bytes, before);
                    self.uvarint(field.tag.expect("it is tagged") as usize);
                    self.uvarint(value.len());
                    self.bytes.extend(value);
                }
            }
        }

        fn value(&mut self, kind: &Kind) {
            match kind {
                Kind::Number(bytes) => self.bytes.resize(self.bytes.len() + bytes, 0),
                Kind::String if !self.flexible => {
                    self.bytes.extend((self.text_bytes as i16).to_be_bytes());
                    self.text();
                }
                Kind::String | Kind::Bytes => {
                    self.count(self.text_bytes);
                    self.text();
                }
                Kind::Array(element) => {
                    self.count(self.elements);
                    (0..self.elements).for_each(|_| self.value(element));
                }
                Kind::Struct(of) => self.fields(of),
                Kind::Nullable(of) => {
                    self.bytes.push(1);
                    self.fields(of);
                }
            }
        }

        fn text(&mut self) {
            self.bytes.resize(self.bytes.len() + self.text_bytes, b'a');
        }

        fn count(&mut self, count: usize) {
            if self.flexible {
                self.uvarint(count + 1);
            } else {
                self.bytes.extend((count as i32).to_be_bytes());
            }
        }

        fn uvarint(&mut self, mut value: usize) {
            while value >= 0x80 {
                self.bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            self.bytes.push(value as u8);
        }
    }
}

#[cfg(test)]
mod tests;
