//! The command line.

use anyhow::Result;
use bywash_common::{
    cli::{self, GlobalArgs},
    exit::Exit,
    manual, output,
    units::Span,
};
use clap::{CommandFactory, Parser, Subcommand};

/// Mounts overlays over directories and records every write under them
#[derive(Debug, Parser)]
#[command(name = "fs-agent", version, args_override_self = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount the overlays and record, until SIGTERM or SIGINT
    Run,
    /// Show what a running agent listens to and has captured; exit code 3 if none runs
    Status(StatusArgs),
    /// List the rings in shared memory and what was left behind; remove what nobody uses
    #[command(args_conflicts_with_subcommands = true)]
    Rings(RingsArgs),
    /// Check the configuration without side effects; exit code 78 if it is wrong
    Check {
        /// Print the effective configuration, without secrets
        #[arg(long)]
        print: bool,
    },
    /// Run the agent as a child process that is started again when it ends, and keep meanwhile what it has open, so that
    /// programs under the overlays wait rather than fail: for containers and shells, where systemd does not do that
    ///
    /// SIGTERM and SIGINT stop both. SIGHUP reloads the configuration. SIGUSR2 has the supervisor become the program that is at
    /// its path by then, while the agent goes on; SIGTERM to the agent has another agent take its place.
    Supervise {
        /// The agent's command line: `run` with its options
        #[arg(last = true, required = true, value_name = "run [OPTIONS]")]
        command: Vec<std::ffi::OsString>,
    },
    /// Take overlays away that do not answer within 2 s; never hangs itself
    Cleanup {
        /// Do not wait up to `agent.restart_wait` for an agent that is to come back
        #[arg(long)]
        now: bool,
    },
    /// Stop listening to the directories under `agent.sleep`, until `wake` or a reboot
    Sleep,
    /// Listen again to what sleeps
    Wake,
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Ask the overlay that standard input is on, and say by the exit code whether it answers
    #[command(hide = true)]
    Probe,
}

/// Options of `fs-agent status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// As a JSON object
    #[arg(long)]
    pub json: bool,
    /// Wait until the agent listens to everything, at most this long; then show it
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "30s")]
    pub wait: Option<Span>,
    /// Show it again each second, with the rates of that second, until interrupted
    #[arg(long)]
    pub watch: bool,
}

/// Options of `fs-agent rings`.
#[derive(Debug, clap::Args)]
pub struct RingsArgs {
    /// As a JSON object
    #[arg(long)]
    pub json: bool,
    /// What to do beside showing them.
    #[command(subcommand)]
    pub command: Option<RingsCommand>,
}

/// What to do about rings.
#[derive(Debug, clap::Subcommand)]
pub enum RingsCommand {
    /// Remove rings that no agent and no publisher uses, and free their memory; as root, those of all users
    Remove {
        /// Their names, as `fs-agent rings` shows them
        #[arg(value_name = "RING", required_unless_present = "leftovers")]
        names: Vec<String>,
        /// Also those that hold what is not delivered: it is lost then
        #[arg(long)]
        discard: bool,
        /// What processes that were killed have left, in shared memory and in agent.state_dir
        #[arg(long)]
        leftovers: bool,
    },
}

/// Prints the completions for a shell.
///
/// # Errors
/// If standard output cannot be written to.
pub fn completions(shell: clap_complete::Shell) -> Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fs-agent", &mut text);
    output::print_exact(&text)?;
    Ok(Exit::Ok)
}

/// What the manual page says beside commands and flags.
const MANUAL: manual::Own = manual::Own {
    files: &[(
        "/run/bywash",
        "Sockets of supervisors, and that `fs-agent sleep` was called (agent.state_dir).",
    )],
    signals: &[
        (
            "SIGTERM, SIGINT",
            "`run` takes its overlays off and ends; `supervise` ends its agent, then itself.",
        ),
        ("SIGHUP", "`run` reads the configuration again."),
        ("SIGUSR2", "`supervise` becomes the program that is at its path by then."),
    ],
    examples: &[
        (
            "Watch a directory and show each write, without configuration and broker:",
            "fs-agent run --ring first --directory /tmp/watched &\npublisher run --ring first --sink stdout &\n\
             fs-agent status --ring first --wait\necho foo >/tmp/watched/bar",
        ),
        (
            "Start and stop it as a service:",
            "systemctl enable --now fs-agent publisher\nsystemctl stop fs-agent",
        ),
        ("Free the ring of a test:", "fs-agent rings\nfs-agent rings remove first"),
    ],
    see_also: "publisher(1), systemctl(1)",
};

/// Prints the manual page.
///
/// # Errors
/// If standard output cannot be written to.
pub fn man() -> Result<Exit> {
    output::print_exact(&manual::page(&cli::command::<Cli>(), &MANUAL)?)?;
    Ok(Exit::Ok)
}

/// Prints lines for people to standard output.
///
/// # Errors
/// If standard output cannot be written to.
pub fn print(text: &str) -> Result<Exit> {
    // Nobody who reads is no failure.
    output::print(text)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
