//! Fuzzing of every decoder of bytes from outside: clients, servers, volumes, buckets, operators.
//!
//! ```text
//!   fuzz/run ──► the engine (libFuzzer): mutates, guided by coverage ──┐
//!   cargo test ──► regressions/TARGET/*, and seeds, whole and damaged ──┴──► Target::run
//!                                                                             │ seal: checksums put right
//!                                                                             │ decode, under a counting allocator
//!                                                                             ▼ check what was accepted
//! ```
//!
//! The targets themselves stand in the module `fuzzing` of the crate whose decoder they call, behind its feature of that
//! name: so nothing becomes public for them. Here is the list of them, and what holds for all:
//!
//! - **Z1** No input makes a decoder panic.
//! - **Z2** While it decodes, it never holds more than [`FACTOR`] times the input's bytes and a constant that [`Target`]
//!   names; for a few formats whose elements are smaller than what they become, the factor is larger and says why.
//! - **Z3** What was accepted is what its encoder writes, and whatever else the target's check asserts.
//!
//! Every input runs twice: as it is, and with its checksums put right, which no mutation would guess.
//!
//! To add a decoder: a module with `decode`, `seal` and `seeds` in the crate's `fuzzing`, and a row in [`TARGETS`].

mod memory;

use bytes::Bytes;

pub use memory::Counting;

/// How many times its input a decoder may hold, unless its [`Target`] says otherwise.
pub const FACTOR: usize = 4;

/// What any decoder may hold beyond that: buffers of codecs, messages of errors, first nodes of maps.
const CONSTANT_BYTES: usize = 64 << 10;

/// A decoder and how to try it.
pub struct Target {
    pub name: &'static str,
    decode: fn(&Bytes) -> Option<wal::fuzzing::Check>,
    seal: fn(&mut [u8]),
    /// Bytes to begin with, from the encoder.
    pub seeds: fn() -> Vec<Vec<u8>>,
    factor: usize,
    constant_bytes: usize,
}

macro_rules! target {
    ($($path:ident)::+) => {
        Target {
            name: target!(@last $($path)::+),
            decode: $($path)::+::decode,
            seal: $($path)::+::seal,
            seeds: $($path)::+::seeds,
            factor: FACTOR,
            constant_bytes: CONSTANT_BYTES,
        }
    };
    (@last $name:ident) => { stringify!($name) };
    (@last $first:ident :: $($rest:ident)::+) => { target!(@last $($rest)::+) };
}

impl Target {
    /// Decoded elements may be smaller on the wire than in memory by this.
    const fn factor(mut self, factor: usize) -> Target {
        self.factor = factor;
        self
    }

    const fn constant(mut self, bytes: usize) -> Target {
        self.constant_bytes = bytes;
        self
    }
}

/// Every decoder of bytes from outside.
pub const TARGETS: &[Target] = &[
    // The block WAL. A record is 80 bytes, with its meta inside, and takes 8 on the volume.
    target!(wal::fuzzing::frame).factor(16),
    target!(wal::fuzzing::superblock),
    // The object WAL and the objects. A slot's records come with their metas, from a table of 28 bytes a record.
    target!(wal::fuzzing::seal),
    target!(s3stream::fuzzing::object).factor(16),
    target!(s3stream::fuzzing::record_meta),
    // Names and keys.
    target!(wal::fuzzing::uri),
    target!(wal::fuzzing::slot_key),
    target!(s3stream::fuzzing::object_key),
    // The metadata log. A command is a slice of 32 bytes, and takes 4 if it is empty.
    target!(metalog::fuzzing::entry).factor(10),
    target!(metalog::fuzzing::snapshot),
    // Names are allocated one by one, maps have nodes: several times what they are in the log.
    target!(ottla::fuzzing::command).factor(12),
    target!(ottla::fuzzing::history).constant(1 << 20),
    target!(ottla::fuzzing::image).factor(16),
    // The Kafka protocol: what `api::layout` lets through.
    target!(ottla::fuzzing::request).constant(2 << 20),
    target!(ottla::fuzzing::response).factor(9).constant(2 << 20),
    target!(ottla::fuzzing::peer),
    // Records. The constants are the windows and blocks of the decompressors and compressors.
    target!(ottla::fuzzing::batch).constant(32 << 20),
    target!(ottla::fuzzing::codec).constant(16 << 20),
    target!(ottla::fuzzing::fetched).constant(512 << 20),
    target!(ottla::fuzzing::group_record).factor(30),
    target!(ottla::fuzzing::group_batch).factor(16),
    target!(ottla::fuzzing::checkpoint).factor(12),
    // What operators write. A parsed TOML table has a map for each table, and errors show the text.
    target!(ottla::fuzzing::options_file).factor(64).constant(4 << 20),
    // An error shows the text, escaped: six bytes for a control character, in a string that grows.
    target!(ottla::fuzzing::option_value).factor(24),
    target!(ottla::fuzzing::kafka_config).constant(1 << 20),
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// Runs an input, as it is and sealed.
    ///
    /// # Panics
    /// If Z1, Z2 or Z3 does not hold.
    pub fn run(&self, input: &[u8]) {
        self.run_once(Bytes::copy_from_slice(input));
        let mut sealed = input.to_vec();
        (self.seal)(&mut sealed);
        if sealed != input {
            self.run_once(Bytes::from(sealed));
        }
    }

    fn run_once(&self, input: Bytes) {
        let (check, held) = memory::peak_of(|| (self.decode)(&input));
        let bound = input.len() * self.factor + self.constant_bytes;
        assert!(
            held <= bound,
            "{}: {held} bytes were held while {} bytes were decoded; the bound is {bound} (Z2)",
            self.name,
            input.len()
        );
        if let Some(check) = check {
            check();
        }
    }

    /// Whether an input, as it is, is accepted.
    pub fn accepts(&self, input: &[u8]) -> bool {
        (self.decode)(&Bytes::copy_from_slice(input)).is_some()
    }
}
