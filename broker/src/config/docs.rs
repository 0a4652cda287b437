//! The docs page of Kafka's configs.

use std::fmt::Write;

use super::table;

/// `docs/config-kafka.md`, all of it.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Kafka configs\n\nGenerated from `broker/src/config/table.rs`. A config without effect is accepted, kept \
         and shown, so that tools that set it work.\n",
    );
    section(&mut page, "Topic configs", table::TOPIC);
    section(&mut page, "Broker configs", table::BROKER);
    page
}

fn section(page: &mut String, title: &str, rows: &[table::Row]) {
    let _ = write!(
        page,
        "\n## {title}\n\n| name | type | default | values | effect | |\n|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let (name, kind, default) = (row.name, row.kind.name(), row.default);
        let (values, effect) = (row.kind.range(), if row.effect { "yes" } else { "no" });
        let _ = writeln!(page, "| `{name}` | {kind} | `{default}` | {values} | {effect} | {} |", row.doc);
    }
}
