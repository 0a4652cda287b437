//! Names of WALs (W7): `block:///dev/nvme1n1?capacity=4GiB`, `object:wal/` (slots in the cluster's own bucket),
//! `memory:NAME` (tests).

/// A WAL's name, as it stands in the metadata log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uri(pub String);
