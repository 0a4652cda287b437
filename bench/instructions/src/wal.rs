//! Appends to a block WAL on a file, one at a time. The log's threads are counted as well.

use std::sync::Arc;
use std::time::Duration;

use ::wal::block::{BlockMedium, Config};
use ::wal::{AckRight, Incarnation, Medium, Meta, Record, Uri, Vacated};
use anyhow::ensure;
use bytes::Bytes;
use uuid::Uuid;

use crate::{WARM_UP_ROUNDS, on_one_thread};

/// What a frame takes beside the body, at most.
const FRAME_BYTES_MAX: usize = 8 << 10;

pub fn append(body_bytes: usize, rounds: usize) -> anyhow::Result<()> {
    let rounds = WARM_UP_ROUNDS + rounds;
    // Where the program is, rather than in a temporary directory: that may be in memory, without direct I/O.
    let program = std::env::current_exe()?;
    let directory = tempfile::tempdir_in(program.parent().expect("a program lies in a directory"))?;
    let capacity = (64 << 20) + (rounds * (body_bytes + FRAME_BYTES_MAX)) as u64;
    let uri = Uri::block(&directory.path().join("wal"), Some(capacity))?;
    on_one_thread(async move {
        // Nothing is zeroed ahead: how much that would be depends on the device.
        let config = Config { zeroing_time_max: Duration::ZERO, ..Config::default() };
        let medium = BlockMedium::new(&uri, Uuid::nil(), config)?;
        let owner = Incarnation { broker: 1, epoch: 1 };
        let wal = medium.open(owner, Vacated::new_medium(), Arc::new(AckRight::unlimited())).await?;
        let body = Bytes::from(vec![0x5a; body_bytes]);
        let mut last = None;
        for _ in 0..rounds {
            let record = Record { kind: 1, meta: Meta::new(&[0; 40]), body: body.clone() };
            let position = wal.append(record)?.await?;
            ensure!(last < Some(position), "{position:?} behind {last:?}: two appends shared a write");
            last = Some(position);
        }
        wal.close().await;
        Ok(())
    })
}
