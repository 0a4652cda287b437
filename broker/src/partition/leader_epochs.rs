//! Which epoch wrote what: Kafka's leader epoch cache (`LeaderEpochFileCache`) over the metadata's table of a stream's
//! epochs. Pure.

use s3stream::metadata::EpochStart;

/// The epoch in which `offset` was written; -1 if the table does not reach back so far.
pub fn epoch_of(epochs: &[EpochStart], offset: u64) -> i32 {
    let after = epochs.partition_point(|epoch| epoch.start <= offset);
    after.checked_sub(1).map_or(-1, |at| epochs[at].epoch as i32)
}

/// The largest epoch that is not above `epoch`, and where it ends, in a log that ends at `log_end`
/// (`LeaderEpochFileCache.endOffsetFor`): an epoch below all that are known ends where the first of those begins; of one
/// above all, or of none (-1), nothing is known.
pub fn end_of_epoch(epochs: &[EpochStart], epoch: i32, log_end: u64) -> Option<(i32, u64)> {
    if epoch < 0 {
        return None;
    }
    let above = epochs.partition_point(|known| known.epoch as i64 <= i64::from(epoch));
    let floor = above.checked_sub(1).map_or(epoch, |at| epochs[at].epoch as i32);
    match epochs.get(above) {
        Some(next) => Some((floor, next.start)),
        None => (floor == epoch && above > 0).then_some((epoch, log_end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviour_72_the_end_of_the_largest_epoch_that_is_not_above() {
        let epochs = [(2, 10), (3, 20), (6, 50)].map(|(epoch, start)| EpochStart { epoch, start });
        for (epoch, end) in [
            (0, Some((0, 10))),
            (1, Some((1, 10))),
            (2, Some((2, 20))),
            (3, Some((3, 50))),
            (4, Some((3, 50))),
            (5, Some((3, 50))),
            (6, Some((6, 70))),
            (7, None),
            (i32::MAX, None),
            (-1, None),
        ] {
            assert_eq!(end_of_epoch(&epochs, epoch, 70), end, "epoch {epoch}");
        }
        assert_eq!(end_of_epoch(&[], 0, 70), None);
        for (offset, epoch) in [(9, -1), (10, 2), (19, 2), (20, 3), (49, 3), (50, 6), (u64::MAX, 6)] {
            assert_eq!(epoch_of(&epochs, offset), epoch, "offset {offset}");
        }
    }
}
