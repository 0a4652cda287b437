//! The docs page of Kafka's configs.

use std::fmt::Write;

use super::table;

/// `docs/config-kafka.md`, all of it.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Kafka configs\n\nGenerated from `broker/src/config/table.rs`. A config without effect is accepted, kept \
         and shown, so that tools that set it work.\n\nA topic's configs can be changed at any time, and so can the \
         broker configs that say so, for one broker or for all of them: with `ottla config`, `kafka-configs` or any \
         other client. A change acts at once, on topics that exist too. The other broker configs are given at the \
         start, with `--kafka NAME=VALUE`.\n",
    );
    section(&mut page, "Topic configs", table::TOPIC, |_| "any time");
    let changed = |row: &table::Row| if table::is_dynamic(row.name) { "any time" } else { "start" };
    section(&mut page, "Broker configs", table::BROKER, changed);
    page
}

fn section(page: &mut String, title: &str, rows: &[table::Row], set: impl Fn(&table::Row) -> &'static str) {
    let _ = write!(
        page,
        "\n## {title}\n\n| name | type | default | values | set | effect | |\n|---|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let (name, kind, default) = (row.name, row.kind.name(), row.default);
        let (values, effect) = (row.kind.range(), if row.effect { "yes" } else { "no" });
        let _ = writeln!(
            page,
            "| `{name}` | {kind} | `{default}` | {values} | {} | {effect} | {} |",
            set(row),
            row.doc
        );
    }
}
