//! The publisher: drains the ring that fs-agent fills to Kafka or standard output.

mod check;
mod cli;
mod consume;
mod drain;
mod encode;
mod names;
mod output;
mod rate;
mod run;
mod signals;
mod sink;
mod status;

use std::process::ExitCode;

use bywash_common::{config::ConfigError, exit::Exit};
use clap::Parser;

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
