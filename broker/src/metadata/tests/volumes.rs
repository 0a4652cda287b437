//! N4 to N6: who may write to a volume.

use super::*;
use crate::metadata::volumes::{CLAIMS_MAX, may_be_same};

fn lives(log: &Log, volume: u128) -> Vec<Incarnation> {
    log.image.claims(Uuid::from_u128(volume)).iter().map(|claim| claim.life).collect()
}

/// N5: it is claimed by a life that was fenced before it opened, and by one that is recovered.
#[test]
fn a_claim_outlives_what_is_known_of_its_life_otherwise() {
    let mut log = Log::formatted();
    let claim = claiming(&log.image, 7);
    let one = log.claim(1, claim).unwrap();
    let by = log.serving(2);
    log.apply(Command::Fence { by, of: one }).unwrap();
    assert!(log.image.life(one).is_none());
    assert_eq!(lives(&log, 7), [one]);
    let beside = Claiming { alone: false, ..claiming(&log.image, 7) };
    let next = log.claim(1, beside).unwrap();
    log.apply(Command::OpenLeaderships { by: next }).unwrap();
    log.apply(Command::Fence { by, of: next }).unwrap();
    log.recovered(by, next);
    assert_eq!(lives(&log, 7), [one, next]);

    // What its issuer vouches for goes, and only that.
    let some = Claiming { alone: false, gone: vec![next], ..claiming(&log.image, 7) };
    let third = log.claim(1, some).unwrap();
    assert_eq!(lives(&log, 7), [one, third]);
    log.apply(Command::CloseBroker { by: third }).unwrap();
    assert_eq!(lives(&log, 7), [one], "an orderly end is the end of one");
    let all = claiming(&log.image, 7);
    let last = log.claim(2, all).unwrap();
    assert_eq!(lives(&log, 7), [last]);
    log.apply(Command::CloseBroker { by: last }).unwrap();
    assert_eq!(log.image.claimed_volumes().count(), 0);
}

/// N4: two that judged the same state; the second one has not judged the first.
#[test]
fn whoever_claims_a_volume_has_judged_all_who_did_before() {
    let mut log = Log::formatted();
    let both = claiming(&log.image, 7);
    let one = log.claim(1, both.clone()).unwrap();
    assert!(matches!(log.claim(2, both.clone()), Err(Rejection::Conflict(_))));
    assert!(matches!(log.claim(1, both.clone()), Err(Rejection::Conflict(_))), "its own next life as well");
    assert!(log.image.is_live(one), "whoever is rejected fences nobody");
    let other = Claiming { volume: Uuid::from_u128(8), ..both };
    log.claim(2, other).unwrap();
    log.claim(1, claiming(&log.image, 7)).unwrap();
}

/// N4: blank volumes have no name.
#[test]
fn of_blank_volumes_that_may_be_one_each_is_judged_by_the_next() {
    let mut log = Log::formatted();
    let state = log.image.clone();
    let blank = |state: &Image, volume, device: &str| Claiming {
        blank: true,
        device: device.into(),
        ..claiming(state, volume)
    };
    let one = log.claim(1, blank(&state, 7, "naa.1")).unwrap();
    log.claim(2, blank(&state, 8, "naa.2")).expect("another device for certain");
    for device in ["", "naa.1"] {
        assert!(matches!(log.claim(3, blank(&state, 9, device)), Err(Rejection::Conflict(_))), "{device}");
    }
    log.claim(3, claiming(&state, 9)).expect("which has an owner");
    assert_eq!(log.image.blank_claims("naa.1").count(), 1);
    log.apply(Command::OpenLeaderships { by: one }).unwrap();
    assert_eq!(log.image.blank_claims("naa.1").count(), 0, "it is formatted");
    assert_eq!(log.image.claims(Uuid::from_u128(7)).len(), 1, "and still its own");
    log.claim(4, blank(&state, 10, "naa.1")).unwrap();
    assert!(may_be_same("", "x") && may_be_same("x", "x") && !may_be_same("x", "y"));
}

/// N6.
#[test]
fn a_volume_has_so_many_claims_at_most() {
    let mut log = Log::formatted();
    for _ in 0..CLAIMS_MAX {
        let claim = Claiming { alone: false, ..claiming(&log.image, 7) };
        log.claim(1, claim).unwrap();
    }
    let more = Claiming { alone: false, ..claiming(&log.image, 7) };
    assert!(matches!(log.claim(1, more), Err(Rejection::Invalid(_))));
    log.claim(1, claiming(&log.image, 7)).unwrap();
    assert_eq!(lives(&log, 7).len(), 1);
}
