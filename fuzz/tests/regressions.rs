//! Without the engine: what it found once stays found, and the seeds hold, whole and damaged.

use std::path::Path;

use fuzz::{Counting, TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The inputs that were committed for a target.
fn regressions(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target.name);
    let Ok(entries) = std::fs::read_dir(&directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a listing").path());
    paths.map(|path| (path.display().to_string(), std::fs::read(&path).expect("a readable file"))).collect()
}

#[test]
fn what_was_found_once_stays_found() {
    for target in TARGETS {
        for (path, input) in regressions(target) {
            println!("{path}");
            target.run(&input);
        }
    }
}

#[test]
fn directories_of_regressions_have_a_target() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for entry in std::fs::read_dir(all).expect("a listing") {
        let name = entry.expect("an entry").file_name();
        let known = name.to_str().is_some_and(|name| fuzz::target(name).is_some());
        assert!(known, "{name:?} is no target");
    }
}

#[test]
fn seeds_are_accepted() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        let accepted = seeds.iter().filter(|seed| target.accepts(seed)).count();
        assert!(
            2 * accepted > seeds.len(),
            "{}: {accepted} of {} seeds are accepted",
            target.name,
            seeds.len()
        );
        seeds.iter().for_each(|seed| target.run(seed));
    }
}

/// Z1 and Z2 near what is accepted: every truncation, and every byte made extreme.
#[test]
fn damaged_seeds_are_refused_or_harmless() {
    const SEED_BYTES_MAX: usize = 1024;
    for target in TARGETS {
        let mut seeds = (target.seeds)();
        seeds.retain(|seed| seed.len() <= SEED_BYTES_MAX);
        // Some have hundreds, of many versions that differ little.
        let step = seeds.len().div_ceil(12);
        for seed in seeds.iter().step_by(step.max(1)) {
            (0..seed.len()).for_each(|length| target.run(&seed[..length]));
            for at in 0..seed.len() {
                for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                    let mut damaged = seed.clone();
                    damaged[at] = byte;
                    target.run(&damaged);
                }
            }
        }
    }
}
