//! What `docs/testing.md` says of the models is what they show: E1 to E4 in every scenario and for every rule.
//! `OTTLA_WRITE_DOCS=1` writes it anew.

use std::path::PathBuf;
use std::sync::Mutex;

use model::check::Subject;
use model::page::{restated, stated, tables};

/// Tests of one program share the page.
static PAGE: Mutex<()> = Mutex::new(());

fn holds_what_the_page_says<S: Subject>() {
    let found = tables::<S>();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/testing.md");
    let _one_at_a_time = PAGE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let page = std::fs::read_to_string(&path).expect("docs/testing.md can be read");
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(&path, restated(&page, S::NAME, &found)).expect("docs/testing.md can be written");
    } else if let Some((found, stated)) =
        found.lines().zip(stated(&page, S::NAME).lines()).find(|(a, b)| a != b)
    {
        panic!(
            "docs/testing.md is stale: run the tests with OTTLA_WRITE_DOCS=1\n it says {stated}\n not     {found}"
        );
    } else {
        assert_eq!(found.lines().count(), stated(&page, S::NAME).lines().count(), "docs/testing.md is stale");
    }
}

#[test]
fn the_object_wal_is_safe_and_every_rule_has_its_reason() {
    holds_what_the_page_says::<model::object::Object>();
}

#[test]
fn the_block_wal_is_safe_and_every_rule_has_its_reason() {
    holds_what_the_page_says::<model::block::Block>();
}

#[test]
fn a_volume_has_one_writer_at_a_time_and_every_rule_has_its_reason() {
    holds_what_the_page_says::<model::volumes::Volumes>();
}

#[test]
fn the_metadata_logs_numbers_are_safe_and_every_rule_has_its_reason() {
    holds_what_the_page_says::<model::numbers::Numbers>();
}

#[test]
fn a_hand_over_is_safe_and_every_rule_has_its_reason() {
    holds_what_the_page_says::<model::handover::HandOver>();
}
