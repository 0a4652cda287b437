//! Tests of [`State`](super::State): by behaviour, and against a naive model.

use proptest::prelude::*;

use super::*;
use crate::partition::testing;

fn header(id: i64, epoch: i16, sequence: i32, count: i32) -> BatchHeader {
    let bytes = testing::batch(1, |spec| {
        (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (id, epoch, sequence);
    });
    let header = BatchHeader::parse(&bytes).unwrap();
    BatchHeader { count, last_offset_delta: count - 1, ..header }
}

fn append(state: &mut State, now: i64, header: &BatchHeader) -> Result<Verdict, Refused> {
    let verdict = state.check(now, header)?;
    if verdict == Verdict::Append {
        state.appended(now, header);
    }
    Ok(verdict)
}

fn state() -> State {
    State::new(Limits::default(), 0)
}

#[test]
fn behaviour_48_the_last_five_batches_are_duplicates_with_their_original_offset() {
    let mut state = state();
    for batch in 0..7 {
        assert_eq!(append(&mut state, 0, &header(1, 0, batch * 10, 10)), Ok(Verdict::Append));
    }
    for batch in 2..7 {
        let verdict = append(&mut state, 0, &header(1, 0, batch * 10, 10)).unwrap();
        assert!(
            matches!(verdict, Verdict::Duplicate(kept) if kept.base_offset == batch as u64 * 10),
            "{batch}: {verdict:?}"
        );
    }
    // Older ones, and ones that are not exactly the same, are out of order: not 46.
    for (sequence, count) in [(10, 10), (60, 9), (61, 9)] {
        assert_eq!(
            append(&mut state, 0, &header(1, 0, sequence, count)),
            Err(Refused::OutOfOrder { producer_id: 1, sequence, expected: 70 })
        );
    }
    assert_eq!(state.log_end(), 70);
}

#[test]
fn behaviour_49_sequences_follow_each_other_and_wrap() {
    let mut state = state();
    append(&mut state, 0, &header(1, 0, i32::MAX - 1, 2)).unwrap();
    assert_eq!(append(&mut state, 0, &header(1, 0, 0, 1)), Ok(Verdict::Append));
    assert!(append(&mut state, 0, &header(1, 0, 2, 1)).is_err());
    assert_eq!(append(&mut state, 0, &header(1, 0, 1, 1)), Ok(Verdict::Append));
}

/// P4.
#[test]
fn behaviour_49_nothing_overtakes_a_first_batch_that_found_no_room() {
    let mut state = state();
    for sequence in [0, 1, 2] {
        state.turned_away(0, &header(1, 3, sequence, 1));
    }
    let early = append(&mut state, 0, &header(1, 3, 1, 1));
    assert_eq!(early, Err(Refused::OutOfOrder { producer_id: 1, sequence: 1, expected: 0 }));
    for sequence in [0, 1, 2] {
        assert_eq!(append(&mut state, 0, &header(1, 3, sequence, 1)), Ok(Verdict::Append));
    }
    // A producer that gave its batch up comes with another epoch, and others are not concerned.
    state.turned_away(0, &header(2, 0, 0, 1));
    assert_eq!(append(&mut state, 0, &header(2, 1, 7, 1)), Ok(Verdict::Append));
    assert_eq!(append(&mut state, 0, &header(4, 0, 7, 1)), Ok(Verdict::Append));
    // What is known decides as ever, and what is remembered is bounded.
    state.turned_away(0, &header(1, 3, 9, 1));
    assert_eq!(append(&mut state, 0, &header(1, 3, 3, 1)), Ok(Verdict::Append));
    for id in 0..2 * TURNED_AWAY_MAX as i64 {
        state.turned_away(0, &header(10 + id, 0, 0, 1));
    }
    assert_eq!(state.turned_away.len(), TURNED_AWAY_MAX);
}

#[test]
fn behaviour_49_a_new_epoch_begins_at_zero_and_an_unknown_producer_anywhere() {
    let mut state = state();
    assert_eq!(append(&mut state, 0, &header(1, 3, 500, 1)), Ok(Verdict::Append));
    assert!(matches!(
        append(&mut state, 0, &header(1, 4, 501, 1)),
        Err(Refused::OutOfOrder { expected: 0, .. })
    ));
    assert_eq!(append(&mut state, 0, &header(1, 4, 0, 1)), Ok(Verdict::Append));
    // Batches of the old epoch are forgotten with it.
    assert!(matches!(append(&mut state, 0, &header(1, 3, 500, 1)), Err(Refused::Fenced { .. })));
}

#[test]
fn behaviour_50_an_older_epoch_is_fenced() {
    let mut state = state();
    append(&mut state, 0, &header(1, 3, 0, 1)).unwrap();
    assert_eq!(
        append(&mut state, 0, &header(1, 2, 1, 1)),
        Err(Refused::Fenced { producer_id: 1, epoch: 2, current: 3 })
    );
}

#[test]
fn behaviour_51_producers_expire_when_idle() {
    let limits = Limits { producer_expiration_ms: 100, ..Limits::default() };
    let mut state = State::new(limits, 0);
    append(&mut state, 0, &header(1, 0, 0, 1)).unwrap();
    assert!(append(&mut state, 100, &header(1, 0, 7, 1)).is_err());
    assert_eq!(append(&mut state, 101, &header(1, 0, 7, 1)), Ok(Verdict::Append));
    assert_eq!(append(&mut state, 101, &header(1, 0, 8, 1)), Ok(Verdict::Append));
    // The duplicate of a batch before the expiry is not one any more.
    assert!(append(&mut state, 101, &header(1, 0, 0, 1)).is_err());
}

#[test]
fn the_number_of_producers_is_bounded_and_the_oldest_goes_first() {
    let limits = Limits { producers_max: 3, ..Limits::default() };
    let mut state = State::new(limits, 0);
    for id in [1, 2, 3, 1, 4] {
        let sequence = if state.producers.contains_key(&id) { 1 } else { 0 };
        append(&mut state, 0, &header(id, 0, sequence, 1)).unwrap();
    }
    let mut kept: Vec<_> = state.producers().map(|(id, _)| id).collect();
    kept.sort();
    assert_eq!(kept, [1, 3, 4]);
}

#[test]
fn batches_without_a_producer_only_move_the_end() {
    let mut state = state();
    append(&mut state, 0, &header(-1, -1, -1, 5)).unwrap();
    append(&mut state, 0, &header(-1, -1, -1, 5)).unwrap();
    assert_eq!((state.log_end(), state.producer_count()), (10, 0));
}

/// Everything that was ever appended, looked through from the end.
#[derive(Default)]
struct Model {
    log: Vec<(i64, i16, i32, i32, u64)>,
    end: u64,
}

impl Model {
    fn append(&mut self, id: i64, epoch: i16, sequence: i32, count: i32) -> Option<Option<u64>> {
        let own: Vec<_> = self.log.iter().filter(|batch| batch.0 == id).collect();
        if let Some(last) = own.last() {
            if epoch < last.1 {
                return None;
            }
            let of_epoch: Vec<_> = own.iter().filter(|batch| batch.1 == epoch).collect();
            let same = |batch: &&&&(i64, i16, i32, i32, u64)| (batch.2, batch.3) == (sequence, count);
            if let Some(kept) = of_epoch.iter().rev().take(BATCHES_KEPT).find(same) {
                return Some(Some(kept.4));
            }
            let expected = if epoch > last.1 { 0 } else { last.2 + last.3 };
            if sequence != expected {
                return None;
            }
        }
        self.log.push((id, epoch, sequence, count, self.end));
        self.end += count as u64;
        Some(None)
    }
}

proptest! {
    #[test]
    fn agrees_with_the_model(
        batches in proptest::collection::vec((0i64..3, 0i16..3, 0i32..12, 1i32..4), 1..200)
    ) {
        let mut state = state();
        let mut model = Model::default();
        for (id, epoch, sequence, count) in batches {
            let expected = model.append(id, epoch, sequence, count);
            let found = match append(&mut state, 0, &header(id, epoch, sequence, count)) {
                Ok(Verdict::Append) => Some(None),
                Ok(Verdict::Duplicate(kept)) => Some(Some(kept.base_offset)),
                Err(_) => None,
            };
            prop_assert_eq!(found, expected);
            prop_assert_eq!(state.log_end(), model.end);
        }
    }
}
