//! `docs/config.md` and the text of `ottla options`, from the table.

use std::fmt::Write;

use super::source::variable;
use super::table::{Definition, Kind, Section, definitions};

/// The page, whole.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Every option of `ottla serve`. The same name is a flag (`--log-cache 1GiB`), an environment variable \
         (`OTTLA_LOG_CACHE=1GiB`) and a key of the TOML file that `--config FILE` or `OTTLA_CONFIG` names \
         (`log-cache = \"1GiB\"`). Flags win over variables, variables over the file, the file over the defaults.\n\n\
         Sizes are written `64MiB`, `1GiB` or in plain bytes; times `250ms`, `10s`, `5m`.\n\n\
         This page is made from the program's own table by `ottla options --markdown`.\n",
    );
    for section in Section::ALL {
        let options = || definitions().filter(move |definition| definition.section == section);
        if options().next().is_none() {
            continue;
        }
        write!(page, "\n## {}\n", section.title()).expect("writing to a String");
        if section == Section::Advanced {
            page.push_str(
                "\nBounds on what a broker holds, queues, tries and waits for. Few installations need any of them. \
                 `ottla serve --help` shows them, `-h` does not.\n",
            );
        }
        page.push_str("\n| option | variable | value | default | meaning |\n|---|---|---|---|---|\n");
        for definition in options() {
            writeln!(
                page,
                "| `{}` | `{}` | {} | {} | {} |",
                definition.name,
                variable(definition),
                value(definition),
                definition.default_text().map_or_else(|| "–".to_owned(), |default| format!("`{default}`")),
                definition.help.replace('|', "\\|"),
            )
            .expect("writing to a String");
        }
    }
    page
}

/// The same for a terminal.
pub fn plain_text() -> String {
    let mut text = String::new();
    for section in Section::ALL {
        writeln!(text, "{}\n", section.title()).expect("writing to a String");
        for definition in definitions().filter(|definition| definition.section == section) {
            let default =
                definition.default_text().map_or_else(String::new, |default| format!(", default {default}"));
            let value = match definition.kind {
                Kind::Switch => String::new(),
                kind => format!(" <{}>", kind.placeholder()),
            };
            let (name, variable, help) = (definition.name, variable(definition), definition.help);
            writeln!(text, "  --{name}{value}  ({variable}{default})\n      {help}\n")
                .expect("writing to a String");
        }
    }
    text
}

/// What can be given, with its range.
fn value(definition: &Definition) -> String {
    let placeholder = definition.kind.placeholder().replace('|', "\\|");
    match definition.kind.range() {
        Some((min, max)) => {
            format!("{placeholder}, {} to {}", definition.kind.show(min), definition.kind.show(max))
        }
        None => placeholder,
    }
}
