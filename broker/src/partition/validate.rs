//! What a produced batch must be like before it gets an offset (behaviours 33–38), and what is put right in it.
//!
//! The order of the checks is Kafka's: `ProduceRequest.validateRecords`, `UnifiedLog.analyzeAndValidateRecords`,
//! `LogValidator`. Each batch is read once for its checksum and once for its records.

use bytes::BytesMut;

use super::batch::{self, BatchHeader, Codec, Malformed};
use super::recompress::{Target, recompress};
use super::records::{self, Invalid};

/// A topic's rules for what may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Largest batch as sent, bytes (`max.message.bytes`).
    pub batch_bytes_max: usize,
    /// The broker's clock replaces the producers' (`message.timestamp.type=LogAppendTime`).
    pub log_append_time: bool,
    /// How far a timestamp may be behind and ahead of the broker's clock, milliseconds
    /// (`message.timestamp.before.max.ms`, `message.timestamp.after.max.ms`).
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    /// Records must have keys (`cleanup.policy=compact`).
    pub keys_required: bool,
    /// Largest sum of a batch's records when decompressed, bytes. A bound on the work, not on memory.
    pub decompressed_bytes_max: u64,
    /// What the batch is to be compressed with (`compression.type`); `None` leaves it as it was sent.
    pub compression: Option<Target>,
    /// Below Produce version 7 zstd is not allowed (KIP-110).
    pub zstd_allowed: bool,
}

/// Which error Kafka gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// CORRUPT_MESSAGE (2).
    Corrupt,
    /// MESSAGE_TOO_LARGE (10).
    TooLarge,
    /// INVALID_TIMESTAMP (32).
    Timestamp,
    /// INVALID_TXN_STATE (48): no transaction can be open on the partition, since there are none yet. It is what Kafka
    /// answers to a transactional batch for a partition that is not part of the transaction, and it is fatal to a
    /// producer rather than retried for ever.
    Transactional,
    /// UNSUPPORTED_COMPRESSION_TYPE (76).
    Compression,
    /// INVALID_RECORD (87).
    InvalidRecord,
}

/// A batch that is not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejected {
    pub reason: Reason,
    pub message: String,
    /// The records at fault, by index: at most [`RECORD_ERRORS_MAX`].
    pub records: Vec<(i32, String)>,
}

/// Record errors in one response, for each batch.
pub const RECORD_ERRORS_MAX: usize = 16;

fn reject<T>(reason: Reason, message: impl Into<String>) -> Result<T, Rejected> {
    Err(Rejected { reason, message: message.into(), records: Vec::new() })
}

/// A batch that may be appended: one, whole, of format 2, with the right checksum and timestamps.
#[derive(Debug)]
pub struct Checked {
    pub header: BatchHeader,
    pub bytes: BytesMut,
}

/// Checks what a client sent for one partition; `now_ms` is the broker's clock.
pub fn check(mut bytes: BytesMut, rules: &Rules, now_ms: i64) -> Result<Checked, Rejected> {
    let mut header = check_header(&bytes, rules)?;
    if header.is_transactional() {
        return reject(Reason::Transactional, "transactions are not supported by this version of the broker");
    }
    let max_timestamp = check_records(&header, &bytes, rules, now_ms)?;
    let max_timestamp = if rules.log_append_time { now_ms } else { max_timestamp };
    if rules.log_append_time || max_timestamp != header.max_timestamp {
        batch::set_max_timestamp(&mut bytes, max_timestamp, rules.log_append_time);
        header = BatchHeader::parse(&bytes).expect("it was parsed before");
    }
    match (header.codec(), rules.compression) {
        (Some(codec), Some(target)) if codec != target.codec => {
            compressed_anew(bytes, &header, codec, target, rules)
        }
        _ => Ok(Checked { header, bytes }),
    }
}

fn compressed_anew(
    bytes: BytesMut,
    header: &BatchHeader,
    codec: Codec,
    target: Target,
    rules: &Rules,
) -> Result<Checked, Rejected> {
    match recompress(&bytes, header, codec, target, rules.batch_bytes_max) {
        Ok(Some(bytes)) => {
            let header = BatchHeader::parse(&bytes).expect("a batch of our own making");
            Ok(Checked { header, bytes })
        }
        Ok(None) => reject(
            Reason::TooLarge,
            format!(
                "compressed as compression.type wants it, the batch exceeds max.message.bytes, {}",
                rules.batch_bytes_max
            ),
        ),
        Err(error) => reject(Reason::Corrupt, error.to_string()),
    }
}

fn check_header(bytes: &[u8], rules: &Rules) -> Result<BatchHeader, Rejected> {
    if bytes.is_empty() {
        return reject(Reason::InvalidRecord, "Produce requests must have exactly one record batch");
    }
    let header = match BatchHeader::parse(bytes) {
        Ok(header) => header,
        Err(Malformed::Magic(magic)) => {
            return reject(
                Reason::InvalidRecord,
                format!("record batches of magic {magic} are not accepted"),
            );
        }
        Err(error @ Malformed::Short(_)) => return reject(Reason::InvalidRecord, error.to_string()),
        Err(error @ Malformed::Length { .. }) => return reject(Reason::Corrupt, error.to_string()),
    };
    if header.size != bytes.len() {
        return reject(Reason::InvalidRecord, "Produce requests must have exactly one record batch");
    }
    match header.codec() {
        None => return reject(Reason::InvalidRecord, "unknown compression codec"),
        Some(Codec::Zstd) if !rules.zstd_allowed => {
            return reject(Reason::Compression, "zstd needs Produce version 7 or later");
        }
        Some(_) => {}
    }
    if header.base_offset != 0 {
        return reject(Reason::InvalidRecord, format!("the base offset is {}, not 0", header.base_offset));
    }
    if header.size > rules.batch_bytes_max {
        return reject(
            Reason::TooLarge,
            format!("a batch of {} bytes exceeds max.message.bytes, {}", header.size, rules.batch_bytes_max),
        );
    }
    // Before anything that a flipped bit may have changed: a damaged batch is to be sent again, an invalid one is not.
    if batch::checksum(bytes) != header.crc {
        return reject(Reason::Corrupt, "Record is corrupt (stored crc does not match the computed crc)");
    }
    if header.count <= 0 || header.last_offset_delta != header.count - 1 {
        return reject(
            Reason::InvalidRecord,
            format!("{} records with a last offset delta of {}", header.count, header.last_offset_delta),
        );
    }
    if header.is_control() {
        return reject(Reason::InvalidRecord, "Clients are not allowed to write control records");
    }
    if header.has_producer() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return reject(
            Reason::InvalidRecord,
            format!("sequence {} of producer {}", header.base_sequence, header.producer_id),
        );
    }
    Ok(header)
}

/// The largest timestamp among the records; -1 if they have none.
fn check_records(header: &BatchHeader, bytes: &[u8], rules: &Rules, now_ms: i64) -> Result<i64, Rejected> {
    let mut max_timestamp = -1;
    let mut at_fault = Vec::new();
    let mut reason = None;
    let mut fault = |index: i32, why: Reason, text: String| {
        reason.get_or_insert(why);
        if at_fault.len() < RECORD_ERRORS_MAX {
            at_fault.push((index, text));
        }
    };
    if header.is_log_append_time() {
        return reject(
            Reason::Timestamp,
            "Invalid timestamp type: producers must not set LogAppendTime on a batch",
        );
    }
    let earliest = now_ms.saturating_sub(rules.timestamp_before_max_ms);
    let latest = now_ms.saturating_add(rules.timestamp_after_max_ms);
    let walked = records::walk(header, bytes, rules.decompressed_bytes_max, |record| {
        max_timestamp = max_timestamp.max(record.timestamp);
        if record.offset_delta != record.index {
            fault(record.index, Reason::InvalidRecord, format!("offset delta {}", record.offset_delta));
        } else if rules.keys_required && !record.has_key {
            let text = "Compacted topic cannot accept message without key".to_owned();
            fault(record.index, Reason::InvalidRecord, text);
        } else if !rules.log_append_time
            && record.timestamp != -1
            && !(earliest..=latest).contains(&record.timestamp)
        {
            let text = format!("Timestamp {} is out of range [{earliest}, {latest}]", record.timestamp);
            fault(record.index, Reason::Timestamp, text);
        }
        true
    });
    if let Err(error) = walked {
        let reason = match error {
            Invalid::Decompression(_) => Reason::Corrupt,
            Invalid::Record { .. } | Invalid::TooLarge { .. } | Invalid::Trailing | Invalid::Codec(_) => {
                Reason::InvalidRecord
            }
        };
        return reject(reason, error.to_string());
    }
    if let Some(reason) = reason {
        let message = match reason {
            Reason::Timestamp => "One or more records have been rejected due to invalid timestamp",
            _ => "One or more records have been rejected",
        };
        return Err(Rejected { reason, message: message.to_owned(), records: at_fault });
    }
    Ok(max_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::testing::{self, Spec, seal};

    const NOW: i64 = 1_000_000;

    fn rules() -> Rules {
        Rules {
            batch_bytes_max: 1_048_588,
            log_append_time: false,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            keys_required: false,
            decompressed_bytes_max: 1 << 20,
            compression: None,
            zstd_allowed: true,
        }
    }

    fn reason(bytes: BytesMut, rules: &Rules) -> Option<Reason> {
        check(bytes, rules, NOW).err().map(|rejected| rejected.reason)
    }

    fn changed(change: impl FnOnce(&mut BytesMut)) -> BytesMut {
        let mut bytes = testing::batch(3, |_| {});
        change(&mut bytes);
        seal(&mut bytes);
        bytes
    }

    #[test]
    fn a_good_batch_keeps_every_byte() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let bytes = testing::batch(3, |spec| spec.codec = codec);
            let checked = check(bytes.clone(), &rules(), NOW).unwrap();
            assert_eq!(checked.bytes, bytes, "behaviours 35 and 43: {codec:?}");
        }
    }

    #[test]
    fn behaviour_33_exactly_one_batch_of_magic_2() {
        assert_eq!(reason(BytesMut::new(), &rules()), Some(Reason::InvalidRecord));
        let mut two = testing::batch(1, |_| {});
        two.extend_from_slice(&testing::batch(1, |_| {}));
        assert_eq!(reason(two, &rules()), Some(Reason::InvalidRecord));
        for magic in [0, 1, 3] {
            assert_eq!(reason(changed(|bytes| bytes[16] = magic), &rules()), Some(Reason::InvalidRecord));
        }
        let old = Rules { zstd_allowed: false, ..rules() };
        assert_eq!(
            reason(testing::batch(1, |spec| spec.codec = Codec::Zstd), &old),
            Some(Reason::Compression)
        );
    }

    #[test]
    fn behaviour_34_header_checks() {
        let mut flipped = testing::batch(3, |_| {});
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(reason(flipped, &rules()), Some(Reason::Corrupt));
        // Whatever a flipped bit makes of a batch: it is to be sent again.
        for at in 23..testing::batch(3, |_| {}).len() {
            for bit in 0..8 {
                let mut flipped = testing::batch(3, |_| {});
                flipped[at] ^= 1 << bit;
                assert_eq!(reason(flipped, &rules()), Some(Reason::Corrupt), "bit {bit} of byte {at}");
            }
        }
        let invalid: [fn(&mut BytesMut); 5] = [
            |bytes| bytes[7] = 1,
            |bytes| bytes[57..61].copy_from_slice(&0i32.to_be_bytes()),
            |bytes| bytes[57..61].copy_from_slice(&4i32.to_be_bytes()),
            |bytes| bytes[23..27].copy_from_slice(&(-1i32).to_be_bytes()),
            |bytes| bytes[22] |= 1 << 5,
        ];
        for (index, change) in invalid.into_iter().enumerate() {
            assert_eq!(reason(changed(change), &rules()), Some(Reason::InvalidRecord), "{index}");
        }
        let without_sequence = |spec: &mut Spec| (spec.producer_id, spec.producer_epoch) = (5, 0);
        assert_eq!(reason(testing::batch(1, without_sequence), &rules()), Some(Reason::InvalidRecord));
        let bytes = testing::batch(3, |_| {});
        let small = Rules { batch_bytes_max: bytes.len() - 1, ..rules() };
        assert_eq!(reason(bytes.clone(), &small), Some(Reason::TooLarge));
        let exact = Rules { batch_bytes_max: bytes.len(), ..rules() };
        assert_eq!(reason(bytes, &exact), None);
    }

    #[test]
    fn behaviour_36_inner_records_are_checked() {
        // The second record's offset delta, behind its length, attributes and timestamp delta.
        let record = testing::batch(1, |_| {}).len() - batch::HEADER_BYTES;
        let at = batch::HEADER_BYTES + record + 3;
        let rejected = check(changed(|bytes| bytes[at] = 8), &rules(), NOW).unwrap_err();
        assert_eq!((rejected.reason, rejected.records[0].0), (Reason::InvalidRecord, 1));
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut bytes = testing::batch(3, |spec| spec.codec = codec);
            let middle = batch::HEADER_BYTES + (bytes.len() - batch::HEADER_BYTES) / 2;
            bytes.truncate(middle);
            let length = (bytes.len() - batch::LENGTH_PREFIX_BYTES) as i32;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            seal(&mut bytes);
            assert!(
                matches!(reason(bytes, &rules()), Some(Reason::InvalidRecord | Reason::Corrupt)),
                "{codec:?}"
            );
        }
    }

    #[test]
    fn behaviour_37_a_compacted_topic_needs_keys() {
        let compacted = Rules { keys_required: true, ..rules() };
        assert_eq!(reason(testing::batch(2, |_| {}), &compacted), None);
        let rejected = check(testing::batch(2, |spec| spec.key = false), &compacted, NOW).unwrap_err();
        assert_eq!(rejected.reason, Reason::InvalidRecord);
        assert_eq!(rejected.records.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn behaviour_38_timestamps_have_bounds() {
        let at = |timestamp| testing::batch(2, |spec| spec.base_timestamp = timestamp);
        let rules = Rules { timestamp_before_max_ms: 1000, timestamp_after_max_ms: 500, ..rules() };
        assert_eq!(reason(at(NOW - 1000), &rules), None);
        assert_eq!(reason(at(NOW - 1001), &rules), Some(Reason::Timestamp));
        assert_eq!(reason(at(NOW + 499), &rules), None);
        let rejected = check(at(NOW + 500), &rules, NOW).unwrap_err();
        assert_eq!(
            (rejected.reason, rejected.records.len(), rejected.records[0].0),
            (Reason::Timestamp, 1, 1)
        );
        let none = testing::batch(1, |spec| spec.base_timestamp = -1);
        assert_eq!(reason(none, &rules), None);
        let marked = changed(|bytes| bytes[22] |= 1 << 3);
        assert_eq!(reason(marked, &rules), Some(Reason::Timestamp));
    }

    #[test]
    fn behaviour_35_log_append_time_is_the_brokers_clock() {
        let rules = Rules { log_append_time: true, timestamp_before_max_ms: 1, ..rules() };
        let checked = check(testing::batch(2, |spec| spec.base_timestamp = 5), &rules, NOW).unwrap();
        assert!(checked.header.is_log_append_time());
        assert_eq!(checked.header.max_timestamp, NOW);
        assert_eq!(checked.header.crc, batch::checksum(&checked.bytes));
    }

    #[test]
    fn a_wrong_max_timestamp_is_put_right() {
        let lying = changed(|bytes| bytes[35..43].copy_from_slice(&9_999_999i64.to_be_bytes()));
        let checked = check(lying, &rules(), NOW).unwrap();
        assert_eq!(checked.header.max_timestamp, 1_000_002);
        assert_eq!(checked.header.crc, batch::checksum(&checked.bytes));
    }

    #[test]
    fn transactional_batches_are_refused() {
        let bytes = testing::batch(1, |spec| {
            spec.attributes = 1 << 4;
            (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (5, 0, 0);
        });
        assert_eq!(reason(bytes, &rules()), Some(Reason::Transactional));
    }
}
