//! The publisher's program.

use std::process::ExitCode;

use bywash_common::{config::ConfigError, exit::Exit};
use clap::Parser;
use publisher::{cli, sink};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli.global.log.init();
    match cli.execute() {
        Ok(exit) => exit.into(),
        Err(error) => {
            let is_config = error.is::<ConfigError>()
                || error.downcast_ref::<sink::OpenError>().is_some_and(sink::OpenError::is_config)
                || error.is::<sink::kafka::PropertyError>();
            tracing::error!("{error:#}");
            ExitCode::from(if is_config { Exit::Config } else { Exit::Failed })
        }
    }
}
