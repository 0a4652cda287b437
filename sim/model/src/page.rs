//! The tables, and the place in `docs/testing.md` where they stand.

use crate::check::{Subject, law, rules};

/// Checks everything that the tables of `S` claim, and returns them.
pub fn tables<S: Subject>() -> String {
    format!("\n{}\n{}\n", law::<S>(), rules::<S>())
}

/// Where the tables called `name` begin and end in `page`.
fn place(page: &str, name: &str) -> std::ops::Range<usize> {
    let (begin, end) = (format!("<!-- model: {name} -->"), format!("<!-- end of model: {name} -->"));
    let missing = |marker: &str| -> ! { panic!("docs/testing.md has no {marker:?}") };
    let from = page.find(&begin).unwrap_or_else(|| missing(&begin)) + begin.len();
    let to = page.find(&end).unwrap_or_else(|| missing(&end));
    from..to
}

/// What `page` has for `name`.
pub fn stated<'a>(page: &'a str, name: &str) -> &'a str {
    &page[place(page, name)]
}

/// `page` with other tables for `name`.
pub fn restated(page: &str, name: &str, tables: &str) -> String {
    let mut page = page.to_owned();
    page.replace_range(place(&page, name), tables);
    page
}
