//! The table of `docs/testing.md` cannot rot: what it names is there, and nothing that it must name is missing.

use std::collections::BTreeSet;
use std::path::Path;

/// Failure modes that the table covers.
fn required() -> impl Iterator<Item = u32> {
    (1..=55).chain([57, 59, 60])
}

fn sources(directory: &Path, functions: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                sources(&path, functions);
            }
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for rest in text.split("fn ").skip(1) {
                functions.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
        }
    }
}

#[test]
fn every_test_that_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let mut functions = BTreeSet::new();
    sources(&root, &mut functions);
    let mut rows = BTreeSet::new();
    for line in page.lines() {
        let Some(cells) = line.strip_prefix("| F").map(|rest| rest.split(" | ").collect::<Vec<_>>()) else {
            continue;
        };
        let number = cells[0].split(' ').next().expect("a word");
        let number: u32 = number.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert_eq!(cells.len(), 3, "failure, what must hold, tests: {line}");
        assert!(rows.insert(number), "F{number} has two rows");
        // Names of tests stand in backquotes and have no other characters than these.
        let names: Vec<&str> = cells[2]
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| name.contains('_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
            .collect();
        let excused = ["not applicable: ", "not built yet: "].iter().any(|why| cells[1].starts_with(why));
        assert!(!names.is_empty() || excused, "no test: {line}");
        for name in names {
            assert!(functions.contains(name), "F{number} names {name}, which is no function");
        }
    }
    for number in required() {
        assert!(rows.contains(&number), "F{number} has no row");
    }
}
