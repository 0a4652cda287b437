//! `docs/config.md` and the text of `ottla options`, from the table.

use std::fmt::Write;

use super::source::variable;
use super::table::{DEFINITIONS, Kind, Section};

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
        let options = || DEFINITIONS.iter().filter(move |definition| definition.section == section);
        if options().next().is_none() {
            continue;
        }
        write!(
            page,
            "\n## {}\n\n| option | variable | value | default | meaning |\n|---|---|---|---|---|\n",
            section.title()
        )
        .expect("writing to a String");
        for definition in options() {
            writeln!(
                page,
                "| `{}` | `{}` | {} | {} | {} |",
                definition.name,
                variable(definition),
                definition.kind.placeholder().replace('|', "\\|"),
                definition.default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`")),
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
        for definition in DEFINITIONS.iter().filter(|definition| definition.section == section) {
            let default =
                definition.default.map_or_else(String::new, |default| format!(", default {default}"));
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
