//! The publisher's program.

use std::process::ExitCode;

use bywash_common::{config::ConfigError, exit::Exit};
use clap::Parser;
use mimalloc::MiMalloc;
use publisher::{cli, sink};

/// Of librdkafka too. A message is freed by another thread than the one that made it: with the C library's allocator these
/// two wait for each other's locks, and deliver a fifth less.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

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
