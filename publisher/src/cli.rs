//! The command line.

use bywash_common::{
    cli::{self, GlobalArgs},
    config::{Config, ConfigArgs, Unusable},
    exit::Exit,
    manual, output,
};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::{check, consume, dead_letter, discard, run, sink::OpenError, status, tap};

/// Sends what fs-agent captures to Kafka or Kinesis.
#[derive(Debug, Parser)]
#[command(name = "publisher", version, about, args_override_self = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drain the ring to the sink until SIGTERM or SIGINT
    Run,
    /// Show how far the publisher is behind; exits with 0 if it runs and 3 if not
    Status(status::StatusArgs),
    /// Check the configuration; exits with 0 if it can be used and 78 if not
    Check(check::CheckArgs),
    /// Read events back from the configured topics and print them for people
    Consume(consume::ConsumeArgs),
    /// Show events as they are captured, without disturbing the delivery
    Tap(tap::TapArgs),
    /// List, send again or drop the messages that cannot be delivered
    #[command(subcommand)]
    Failed(dead_letter::FailedCommand),
    /// Give up for good what waits in the ring and the spool, while no publisher runs
    Discard(discard::DiscardArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What went wrong, for people.
    pub fn execute(self) -> anyhow::Result<Exit> {
        let args = self.global.config.clone();
        self.obey().map_err(|error| placed(&args, error))
    }

    fn obey(self) -> anyhow::Result<Exit> {
        let config = || self.global.load_config();
        match self.command {
            Command::Run => run::run(&self.global),
            Command::Status(args) => status::status(&config()?, &args),
            Command::Check(args) => check::check(&self.global, &args),
            Command::Failed(command) => dead_letter::failed(&config()?, &command),
            Command::Discard(args) => discard::discard(&config()?, &args),
            Command::Consume(args) => consume::consume(&self.global.load_resolved()?, &args),
            Command::Tap(args) => tap::tap(&config()?, &args),
            Command::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "publisher", &mut text);
                output::print_exact(&text)?;
                Ok(Exit::Ok)
            }
            Command::Man => man(),
        }
    }
}

/// What the manual page says beside commands and flags.
const MANUAL: manual::Own = manual::Own {
    files: &[
        (
            "/var/lib/bywash/spool, /var/lib/bywash/failed",
            "Spool and dead letters of the ring bywash (spool.dir, failed.dir).",
        ),
        ("/var/lib/bywash/rings/NAME", "Those of the ring NAME."),
    ],
    signals: &[
        (
            "SIGTERM, SIGINT",
            "`run` delivers what it has, spools the rest of the ring, and ends; again: at once.",
        ),
        ("SIGHUP", "`run` reads the configuration again."),
    ],
    examples: &[
        (
            "Send to a Kafka nearby what an agent with the same ring captures, and read it back:",
            "publisher run --ring first --brokers localhost:9092 --topic first-event &\n\
             publisher consume --topic first-event --from-beginning --max 1",
        ),
        (
            "See whether all is well, and that the brokers answer:",
            "publisher status\npublisher check --connect",
        ),
        ("Watch what one program writes:", "publisher tap --pid 1234"),
        (
            "Before a file goes, wait until it is delivered:",
            "publisher status --file /var/log/app.log --drained=30s",
        ),
        ("Send again what was refused:", "publisher failed list\npublisher failed retry"),
    ],
    see_also: "fs-agent(1), systemctl(1)",
};

fn man() -> anyhow::Result<Exit> {
    output::print_exact(&manual::page(&cli::command::<Cli>(), &MANUAL)?)?;
    Ok(Exit::Ok)
}

/// An error that names the place of what is wrong with the configuration, if that is what is wrong.
fn placed(args: &ConfigArgs, error: anyhow::Error) -> anyhow::Error {
    let unusable = match error.downcast_ref::<OpenError>() {
        Some(error) => error.unusable(),
        None => error.downcast_ref::<Unusable>(),
    };
    unusable.map(|unusable| Config::placed(args, unusable).into()).unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
