//! The storage engine's settings. Sizes are bytes.

use std::time::Duration;

use crate::{block_cache, compaction};

/// Settings of a [`Storage`](crate::Storage).
#[derive(Clone, Debug)]
pub struct Config {
    /// Budget of the log cache: records not yet uploaded, records kept for tail reads, and admissions not yet used,
    /// each with [`RECORD_OVERHEAD_BYTES`](crate::RECORD_OVERHEAD_BYTES). Default 256 MiB.
    pub log_cache_bytes: usize,
    /// The active block of the log cache is sealed and uploaded at this size. Default 64 MiB.
    pub upload_bytes: usize,
    /// A block is uploaded no later than this after its first record; an empty one never. Default 60 s.
    pub upload_interval_max: Duration,
    /// The active block is sealed early when the WAL is fuller than this fraction of its capacity. Default 0.5.
    pub wal_used_fraction_max: f64,
    /// The active block is sealed early when the WAL holds at least so many slots, where it has such: each is a request of its own to
    /// whoever recovers it; but no more often than every 20 s. Default 400.
    pub wal_slots_max: u64,
    /// Blocks being uploaded at the same time; commits stay in block order. Default 2.
    pub uploads_in_flight_max: usize,
    /// PUTs of one block that run at the same time. Default 4.
    pub puts_in_flight_max: usize,
    /// A stream with at least this much in a block gets an object of its own, and streams share one until it has so
    /// much: a busy engine's PUTs are of this size and more. Default 32 MiB.
    pub stream_object_bytes: usize,
    /// Streams that share one object, at most; bounds the size of an index and of a metadata entry. Default 4096.
    pub object_streams_max: usize,
    /// Stream parts in one commit, at most; a block with more is committed in several entries. Default 4096.
    pub commit_parts_max: usize,
    /// Data blocks inside an object are cut at this size. Default 512 KiB.
    pub object_block_bytes: usize,
    /// One attempt of a PUT or of a read-back may take this long before it is tried again. Default 2 min.
    pub put_timeout: Duration,
    /// First pause between attempts; doubled each time, with full jitter. Default 50 ms.
    pub retry_pause_min: Duration,
    /// Longest pause between attempts. Default 5 s.
    pub retry_pause_max: Duration,
    /// Recovery writes and commits objects of about this size: its memory is a small multiple. Default 32 MiB.
    pub recovery_bytes: usize,
    /// Reads of data objects.
    pub block_cache: block_cache::Options,
    /// Few large objects out of many small ones.
    pub compaction: compaction::Options,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            log_cache_bytes: 256 << 20,
            upload_bytes: 64 << 20,
            upload_interval_max: Duration::from_secs(60),
            wal_used_fraction_max: 0.5,
            wal_slots_max: 400,
            uploads_in_flight_max: 2,
            puts_in_flight_max: 4,
            stream_object_bytes: 32 << 20,
            object_streams_max: 4096,
            commit_parts_max: 4096,
            object_block_bytes: 512 << 10,
            put_timeout: Duration::from_secs(120),
            retry_pause_min: Duration::from_millis(50),
            retry_pause_max: Duration::from_secs(5),
            recovery_bytes: 32 << 20,
            block_cache: block_cache::Options::default(),
            compaction: compaction::Options::default(),
        }
    }
}

impl Config {
    /// Says what is wrong with the settings, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("log_cache_bytes", self.log_cache_bytes),
            ("upload_bytes", self.upload_bytes),
            ("uploads_in_flight_max", self.uploads_in_flight_max),
            ("puts_in_flight_max", self.puts_in_flight_max),
            ("stream_object_bytes", self.stream_object_bytes),
            ("object_streams_max", self.object_streams_max),
            ("commit_parts_max", self.commit_parts_max),
            ("object_block_bytes", self.object_block_bytes),
            ("recovery_bytes", self.recovery_bytes),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        if self.upload_bytes > self.log_cache_bytes {
            return Err(format!(
                "upload_bytes ({}) must not exceed log_cache_bytes ({})",
                self.upload_bytes, self.log_cache_bytes
            ));
        }
        if !(self.wal_used_fraction_max > 0.0 && self.wal_used_fraction_max <= 1.0) {
            return Err("wal_used_fraction_max must be above 0 and at most 1".to_owned());
        }
        if self.upload_interval_max.is_zero() || self.put_timeout.is_zero() || self.retry_pause_min.is_zero()
        {
            return Err("upload_interval_max, put_timeout and retry_pause_min must not be zero".to_owned());
        }
        if self.retry_pause_max < self.retry_pause_min {
            return Err("retry_pause_max must not be below retry_pause_min".to_owned());
        }
        self.compaction.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_mistakes_are_named() {
        assert_eq!(Config::default().validate(), Ok(()));
        let wrong = Config { upload_bytes: 0, ..Config::default() };
        assert!(wrong.validate().unwrap_err().contains("upload_bytes"));
        let wrong = Config { upload_bytes: 2, log_cache_bytes: 1, ..Config::default() };
        assert!(wrong.validate().is_err());
        let wrong = Config { wal_used_fraction_max: f64::NAN, ..Config::default() };
        assert!(wrong.validate().is_err());
    }
}
