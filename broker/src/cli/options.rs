//! `ottla options`: every option of `serve`, as text for people or as the docs page.

use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::output;

pub(super) fn command() -> Command {
    Command::new("options").about("List every option of `serve` with its variable, default and meaning").arg(
        Arg::new("markdown")
            .long("markdown")
            .action(ArgAction::SetTrue)
            .help("Print them as a page of documentation, docs/config.md"),
    )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let page =
        if matches.get_flag("markdown") { crate::options::markdown() } else { crate::options::plain_text() };
    match std::io::stdout().lock().write_all(page.as_bytes()).map_err(anyhow::Error::from) {
        Err(error) if output::is_broken_pipe(&error) => Ok(()),
        written => written,
    }
}
