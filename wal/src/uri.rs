//! Names of WALs (W7), as they stand in configuration and in the metadata log.
//!
//! ```text
//!   block:///dev/nvme1n1                    a raw device, the whole of it
//!   block:///path/to/file?capacity=256MiB   a preallocated file
//!   object:                                 slots in the cluster's own bucket
//!   object:prefix/                          the same, under a prefix of their own
//!   memory:NAME                             tests
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Error;

/// A WAL's name, as it was written. [`Uri::target`] says what it means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uri(pub String);

/// What a [`Uri`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A device or file by absolute path. `capacity` in bytes; `None` means the device's size, or a new file's default.
    Block {
        path: PathBuf,
        capacity: Option<u64>,
    },
    /// Slots under `prefix` in the cluster's own bucket.
    Object {
        prefix: String,
    },
    Memory {
        name: String,
    },
}

impl Uri {
    /// The URI of a block WAL.
    ///
    /// # Errors
    /// [`Error::Refused`] if `path` is not absolute or not UTF-8, or could not be read back from a URI.
    pub fn block(path: &Path, capacity: Option<u64>) -> Result<Uri, Error> {
        let text = path.to_str().ok_or_else(|| refuse(&path.display(), "the path is not UTF-8"))?;
        let query = capacity.map(|bytes| format!("?capacity={}", ByteSize(bytes))).unwrap_or_default();
        format!("block://{text}{query}").parse()
    }

    /// Takes the name apart. A `Uri` that was parsed always has a target.
    ///
    /// # Errors
    /// [`Error::Refused`] with what is wrong and what would be right.
    pub fn target(&self) -> Result<Target, Error> {
        let (scheme, rest) = self.0.split_once(':').ok_or_else(|| {
            refuse(self, "it has no scheme; use block:///path/to/file?capacity=256MiB, or object:")
        })?;
        match scheme {
            "block" => self.block_target(rest),
            "object" if rest.contains(['?', '#']) || rest.starts_with('/') => Err(refuse(
                self,
                "an object WAL takes nothing but a prefix in the cluster's own bucket: object:wal/",
            )),
            "object" => Ok(Target::Object { prefix: rest.to_owned() }),
            "memory" if rest.is_empty() => Err(refuse(self, "a memory WAL needs a name: memory:NAME")),
            "memory" => Ok(Target::Memory { name: rest.to_owned() }),
            _ => Err(refuse(self, "there are the schemes block:, object: and memory:")),
        }
    }

    fn block_target(&self, rest: &str) -> Result<Target, Error> {
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(refuse(
                self,
                "a block WAL needs the absolute path of a device or file: block:///dev/nvme1n1",
            ));
        }
        if path.contains(['#', '\0']) {
            return Err(refuse(self, "the path holds a character that a WAL's name cannot carry"));
        }
        let mut capacity = None;
        for option in query.into_iter().flat_map(|query| query.split('&')) {
            let value = option.strip_prefix("capacity=").ok_or_else(|| {
                refuse(self, format!("the only option of a block WAL is capacity, not {option:?}"))
            })?;
            if capacity.is_some() {
                return Err(refuse(self, "capacity is given twice"));
            }
            capacity = Some(value.parse::<ByteSize>().map_err(|reason| refuse(self, reason))?.0);
        }
        Ok(Target::Block { path: PathBuf::from(path), capacity })
    }
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Uri, Error> {
        let uri = Uri(text.to_owned());
        uri.target().map(|_| uri)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn refuse(uri: &dyn fmt::Display, reason: impl fmt::Display) -> Error {
    Error::Refused(format!("{uri} does not name a write-ahead log: {reason}"))
}

/// A number of bytes as people write it: `4096`, `256MiB`, `1.5GiB`, `1GB`. KB, MB, GB and TB are powers of 1000, KiB and
/// so on powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let wrong = || format!("{text:?} is not a size; write it as 268435456, 256MiB, 1GiB or 1GB");
        let trimmed = text.trim();
        let digits_end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits_end);
        let unit = unit.trim();
        let factor = match unit {
            "" => 1,
            _ => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.len() > 9 {
            return Err(wrong());
        }
        let whole: u128 = whole.parse::<u64>().map_err(|_| wrong())?.into();
        let scale = 10u128.pow(fraction.len() as u32);
        let parts: u128 =
            if fraction.is_empty() { 0 } else { fraction.parse::<u64>().map_err(|_| wrong())?.into() };
        let scaled = (whole * scale + parts) * u128::from(factor);
        if !scaled.is_multiple_of(scale) {
            return Err(format!("{text:?} is not a whole number of bytes"));
        }
        u64::try_from(scaled / scale)
            .map(ByteSize)
            .map_err(|_| format!("{text:?} is more bytes than there are"))
    }
}

impl fmt::Display for ByteSize {
    /// The largest unit that loses nothing.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match exact {
            Some((name, factor)) if *factor > 1 => write!(formatter, "{}{name}", self.0 / factor),
            _ => write!(formatter, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_mean_what_they_say() {
        let cases = [
            ("block:///dev/nvme1n1", Target::Block { path: "/dev/nvme1n1".into(), capacity: None }),
            (
                "block:///a/b.wal?capacity=256MiB",
                Target::Block { path: "/a/b.wal".into(), capacity: Some(256 << 20) },
            ),
            ("object:", Target::Object { prefix: String::new() }),
            ("object:wal/", Target::Object { prefix: "wal/".into() }),
            ("memory:x", Target::Memory { name: "x".into() }),
        ];
        for (text, target) in cases {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(uri.target().unwrap(), target, "{text}");
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn wrong_names_say_what_is_wrong() {
        let cases = [
            ("/dev/nvme1n1", "scheme"),
            ("file:///x", "schemes"),
            ("block://relative/path", "absolute"),
            ("block:", "absolute"),
            ("block:///dir/", "absolute"),
            ("block:///x?size=1", "capacity"),
            ("block:///x?capacity=1&capacity=2", "twice"),
            ("block:///x?capacity=lots", "not a size"),
            ("object:/wal", "prefix"),
            ("memory:", "name"),
        ];
        for (text, needle) in cases {
            let error = text.parse::<Uri>().unwrap_err().to_string();
            assert!(error.contains(needle) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("256MiB", 256 << 20),
            ("256 mib", 256 << 20),
            ("1GiB", 1 << 30),
            ("1GB", 1_000_000_000),
            ("1.5KiB", 1536),
            ("7B", 7),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "MiB", "1.", ".5GiB", "-1", "1XB", "0.5B", "99999999TiB", "1.2.3", "１"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn sizes_round_trip(bytes in any::<u64>(), shift in 0u32..50) {
            let size = ByteSize((bytes >> shift) << (shift / 2));
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }

        #[test]
        fn block_names_round_trip(path in "(/[a-z0-9._ -]{1,9}){1,4}", capacity in any::<Option<u64>>()) {
            let uri = Uri::block(Path::new(&path), capacity).unwrap();
            prop_assert_eq!(uri.target().unwrap(), Target::Block { path: path.into(), capacity });
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Uri>();
            let _ = text.parse::<ByteSize>();
        }
    }
}
