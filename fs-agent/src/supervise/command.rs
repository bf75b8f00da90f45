//! The command lines that a supervisor starts, made from its own.

use std::{
    env,
    ffi::{CString, OsString},
    os::unix::ffi::OsStringExt,
};

use anyhow::{Context, Result};
use bywash_common::cli::GlobalArgs;
use clap::Parser;

use super::program::c_string;
use crate::cli::{Cli, Command};

const SUPERVISE: &str = "supervise";
const RUN: &str = "run";
/// What takes overlays off whose agent does not come back.
const CLEANUP: [&str; 2] = ["cleanup", "--now"];
/// What stands before the agent's command line.
const END_OF_OPTIONS: &str = "--";

/// Command lines, each with the program's name first.
#[derive(Debug)]
pub struct Commands {
    global: GlobalArgs,
    own: Vec<CString>,
    run: Vec<CString>,
    cleanup: Vec<CString>,
}

impl Commands {
    /// From what this process was started with, which is `supervise`.
    ///
    /// # Errors
    /// If it supervises something else than `run`.
    pub fn from_own() -> Result<Self> {
        Self::new(env::args_os().collect())
    }

    fn new(own: Vec<OsString>) -> Result<Self> {
        let (run, agent) = without_supervise(&own)
            .context("only `run` can be supervised: fs-agent supervise -- run [OPTIONS]")?;
        let is_cleanup = |cli: &Cli| matches!(cli.command, Command::Cleanup { now: true });
        let (cleanup, _) = replaced(&run, RUN, &CLEANUP, is_cleanup)
            .context("a bug: no cleanup can be made of this command line")?;
        let strings = |line: Vec<OsString>| -> Result<Vec<CString>> {
            line.into_iter().map(|argument| c_string(argument.into_vec())).collect()
        };
        Ok(Self { global: agent.global, own: strings(own)?, run: strings(run)?, cleanup: strings(cleanup)? })
    }

    /// The options of the agent.
    pub fn global(&self) -> &GlobalArgs {
        &self.global
    }

    /// The supervisor's.
    pub fn own(&self) -> &[CString] {
        &self.own
    }

    /// The agent's.
    pub fn run(&self) -> &[CString] {
        &self.run
    }

    /// What takes its overlays off.
    pub fn cleanup(&self) -> &[CString] {
        &self.cleanup
    }
}

/// `fs-agent [A] supervise [B] -- C` is `fs-agent [A] [B] C`: options before and behind the command are the same.
fn without_supervise(own: &[OsString]) -> Option<(Vec<OsString>, Cli)> {
    let at = own.iter().position(|argument| argument == END_OF_OPTIONS)?;
    let (before, behind) = own.split_at(at);
    let joined =
        |before: Vec<OsString>| before.into_iter().chain(behind[1..].iter().cloned()).collect::<Vec<_>>();
    (1..before.len()).filter(|at| before[*at] == SUPERVISE).find_map(|at| {
        let mut before = before.to_vec();
        before.remove(at);
        accepted(joined(before), |cli| matches!(cli.command, Command::Run))
    })
}

/// `line` with the first `word` replaced for which the outcome is the command that is wanted: a value of an option may be the
/// same word.
fn replaced(
    line: &[OsString],
    word: &str,
    by: &[&str],
    is_wanted: impl Fn(&Cli) -> bool,
) -> Option<(Vec<OsString>, Cli)> {
    (1..line.len()).filter(|at| line[*at] == word).find_map(|at| {
        let mut line = line.to_vec();
        line.splice(at..=at, by.iter().map(OsString::from));
        accepted(line, &is_wanted)
    })
}

fn accepted(line: Vec<OsString>, is_wanted: impl Fn(&Cli) -> bool) -> Option<(Vec<OsString>, Cli)> {
    let cli = Cli::try_parse_from(&line).ok().filter(is_wanted)?;
    Some((line, cli))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Option<(String, String)> {
        let commands = Commands::new(text.split_whitespace().map(OsString::from).collect()).ok()?;
        let joined =
            |line: &[CString]| line.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
        Some((joined(commands.run()), joined(commands.cleanup())))
    }

    #[test]
    fn options_go_to_the_agent_wherever_they_stand() {
        let expected = |run: &str, cleanup: &str| Some((run.to_owned(), cleanup.to_owned()));
        assert_eq!(lines("fs-agent supervise -- run"), expected("fs-agent run", "fs-agent cleanup --now"));
        assert_eq!(
            lines("fs-agent --config a supervise --debug -- run --directory /b"),
            expected(
                "fs-agent --config a --debug run --directory /b",
                "fs-agent --config a --debug cleanup --now --directory /b"
            )
        );
    }

    #[test]
    fn words_that_are_values_stay() {
        assert_eq!(
            lines("fs-agent --ring supervise supervise -- --ring-size 64MiB run")
                .map(|(run, _)| run)
                .as_deref(),
            Some("fs-agent --ring supervise --ring-size 64MiB run")
        );
        assert_eq!(
            lines("fs-agent supervise -- --ring run run").map(|(_, cleanup)| cleanup).as_deref(),
            Some("fs-agent --ring run cleanup --now")
        );
    }

    #[test]
    fn nothing_but_run_is_supervised() {
        for line in
            ["fs-agent supervise", "fs-agent supervise -- status", "fs-agent supervise -- run --nonsense"]
        {
            assert_eq!(lines(line), None, "{line}");
        }
    }
}
