//! The command line.

use bywash_common::{
    cli::GlobalArgs,
    config::{Config, ConfigArgs, Unusable},
    exit::Exit,
    output,
};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::{check, consume, discard, failed, run, sink::OpenError, status, tap};

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
    Failed(failed::FailedCommand),
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
            Command::Failed(command) => failed::failed(&config()?, &command),
            Command::Discard(args) => discard::discard(&config()?, &args),
            Command::Consume(args) => consume::consume(&self.global.load_resolved()?, &args),
            Command::Tap(args) => tap::tap(&config()?, &args),
            Command::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "publisher", &mut text);
                output::print_exact(&text)?;
                Ok(Exit::Ok)
            }
            Command::Man => {
                let mut text = Vec::new();
                clap_mangen::Man::new(Self::command()).render(&mut text)?;
                output::print_exact(&text)?;
                Ok(Exit::Ok)
            }
        }
    }
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
