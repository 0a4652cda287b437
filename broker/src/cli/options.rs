//! `ottla options`: every option of `serve`, as text for people or as the docs page.

use clap::{Arg, ArgAction, ArgMatches, Command};

pub(super) fn command() -> Command {
    Command::new("options").about("List every option of `serve` with its variable, default and meaning").arg(
        Arg::new("markdown")
            .long("markdown")
            .action(ArgAction::SetTrue)
            .help("Print them as a page of documentation, docs/config.md"),
    )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let page = crate::options::markdown();
    if matches.get_flag("markdown") {
        print!("{page}");
    } else {
        // The page reads well enough as plain text without its table syntax.
        for line in page.lines().filter(|line| !line.starts_with("|---")) {
            println!("{}", line.trim_matches('|').replace(" | ", "  ").replace('`', ""));
        }
    }
    Ok(())
}
