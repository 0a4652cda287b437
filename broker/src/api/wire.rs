//! Kafka's primitive types, for the messages that are read and written by hand: those that carry records, and what answers a
//! Produce.
//!
//! Everything that is read is checked against what is there; element counts are checked against the bytes that so many
//! elements need at least (behaviour 16).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// The bytes are not such a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

/// Takes values off the front of a buffer. `flexible` is the encoding of KIP-482: compact lengths, tagged fields.
#[derive(Debug)]
pub struct Reader {
    pub bytes: BytesMut,
    pub flexible: bool,
}

macro_rules! take_number {
    ($($name:ident $try_get:ident $type:ty),*) => {$(
        pub fn $name(&mut self) -> Result<$type, Malformed> {
            self.bytes.$try_get().map_err(|_| Malformed)
        }
    )*};
}

impl Reader {
    take_number!(u8 try_get_u8 u8, i16 try_get_i16 i16, i32 try_get_i32 i32, u128 try_get_u128 u128);

    /// An unsigned LEB128 number of at most 32 bits.
    pub fn uvarint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            if shift == 28 && byte > 0x0f {
                return Err(Malformed);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub fn uuid(&mut self) -> Result<Uuid, Malformed> {
        self.u128().map(Uuid::from_u128)
    }

    /// Without a copy.
    pub fn bytes(&mut self, length: usize) -> Result<BytesMut, Malformed> {
        if length > self.bytes.len() {
            return Err(Malformed);
        }
        Ok(self.bytes.split_to(length))
    }

    pub fn nullable_string(&mut self) -> Result<Option<StrBytes>, Malformed> {
        let length = if self.flexible { i64::from(self.uvarint()?) - 1 } else { i64::from(self.i16()?) };
        let Some(bytes) = self.nullable(length)? else { return Ok(None) };
        StrBytes::from_utf8(bytes.freeze()).map(Some).map_err(|_| Malformed)
    }

    pub fn string(&mut self) -> Result<StrBytes, Malformed> {
        self.nullable_string()?.ok_or(Malformed)
    }

    /// Without a copy.
    pub fn nullable_bytes(&mut self) -> Result<Option<BytesMut>, Malformed> {
        let length = if self.flexible { i64::from(self.uvarint()?) - 1 } else { i64::from(self.i32()?) };
        self.nullable(length)
    }

    fn nullable(&mut self, length: i64) -> Result<Option<BytesMut>, Malformed> {
        if length == -1 {
            return Ok(None);
        }
        self.bytes(usize::try_from(length).map_err(|_| Malformed)?).map(Some)
    }

    /// The number of elements of an array; each takes at least `element_bytes`, which is not 0.
    pub fn array(&mut self, element_bytes: usize) -> Result<usize, Malformed> {
        let count = if self.flexible { i64::from(self.uvarint()?) - 1 } else { i64::from(self.i32()?) };
        let count = usize::try_from(count).map_err(|_| Malformed)?;
        if count > self.bytes.len() / element_bytes {
            return Err(Malformed);
        }
        Ok(count)
    }

    /// Skips tagged fields, known or not (behaviour 13). Nothing in an encoding without them.
    pub fn tagged_fields(&mut self) -> Result<(), Malformed> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let size = self.uvarint()? as usize;
            self.bytes(size)?;
        }
        Ok(())
    }
}

/// Appends values to a buffer.
#[derive(Debug)]
pub struct Writer {
    pub bytes: BytesMut,
    pub flexible: bool,
}

impl Writer {
    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }

    pub fn string(&mut self, value: &str) {
        if self.flexible {
            self.uvarint(value.len() as u32 + 1);
        } else {
            self.bytes.put_i16(value.len() as i16);
        }
        self.bytes.put_slice(value.as_bytes());
    }

    pub fn nullable_string(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.string(value),
            None if self.flexible => self.bytes.put_u8(0),
            None => self.bytes.put_i16(-1),
        }
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.bytes.put_u128(value.as_u128());
    }

    /// The number of elements that follow, or the length of bytes that follow.
    pub fn count(&mut self, count: usize) {
        if self.flexible {
            self.uvarint(count as u32 + 1);
        } else {
            self.bytes.put_i32(count as i32);
        }
    }

    pub fn null_array(&mut self) {
        if self.flexible {
            self.bytes.put_u8(0);
        } else {
            self.bytes.put_i32(-1);
        }
    }

    /// The tagged fields of a struct, ascending; nothing in an encoding without them.
    pub fn tagged_fields(&mut self, fields: &[(u32, Bytes)]) {
        if self.flexible {
            self.uvarint(fields.len() as u32);
            for (tag, value) in fields {
                self.uvarint(*tag);
                self.uvarint(value.len() as u32);
                self.bytes.put_slice(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviour_16_counts_are_checked_against_what_is_there() {
        for (flexible, bytes, good) in [
            (false, &b"\0\0\0\x03abcdef"[..], true),
            (false, b"\0\0\0\x04abcdef", false),
            (false, b"\x7f\xff\xff\xffabcdef", false),
            (false, b"\xff\xff\xff\xffabcdef", false),
            (true, b"\x04abcdef", true),
            (true, b"\x05abcdef", false),
            (true, b"\xff\xff\xff\xff\x0fabcdef", false),
            (true, b"\0abcdef", false),
        ] {
            let mut reader = Reader { bytes: BytesMut::from(bytes), flexible };
            assert_eq!(reader.array(2).is_ok(), good, "{flexible} {bytes:x?}");
        }
    }

    #[test]
    fn lengths_are_checked_against_what_is_there() {
        for (flexible, bytes) in [
            (false, &b"\0\x04abc"[..]),
            (false, b"\xff\xfeabc"),
            (false, b"\0\x01\xff"),
            (true, b"\x05abc"),
            (true, b"\xff\xff\xff\xff\x0f"),
        ] {
            let mut reader = Reader { bytes: BytesMut::from(bytes), flexible };
            assert!(reader.nullable_string().is_err(), "{flexible} {bytes:x?}");
        }
        let mut reader = Reader { bytes: BytesMut::from(&b"\x02\x01\x7fabc"[..]), flexible: true };
        assert!(reader.tagged_fields().is_err());
    }
}
