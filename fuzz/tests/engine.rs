//! The engine's program. The variable `OTTLA_FUZZ_TARGET` names the target, `OTTLA_FUZZ_SEEDS` a directory that its seeds
//! are written into first. `fuzz/run` is the way to call it.

#![no_main]

use std::sync::LazyLock;

use fuzz::{Counting, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("OTTLA_FUZZ_TARGET").expect("OTTLA_FUZZ_TARGET names a target");
    fuzz::target(&name).unwrap_or_else(|| panic!("there is no target {name}"))
});

fn write_seeds() {
    let directory = std::env::var("OTTLA_FUZZ_SEEDS").expect("OTTLA_FUZZ_SEEDS names a directory");
    for (number, seed) in (TARGET.seeds)().iter().enumerate() {
        std::fs::write(format!("{directory}/{number}"), seed).expect("a seed can be written");
    }
}

libfuzzer_sys::fuzz_target!(init: write_seeds(), |input: &[u8]| TARGET.run(input));
