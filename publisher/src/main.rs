//! The publisher's program.

use std::process::ExitCode;

use bywash_common::{config::ConfigError, exit::Exit};
use mimalloc::MiMalloc;
use publisher::cli;

/// Of librdkafka too. A message is freed by another thread than the one that made it: with the C library's allocator these
/// two wait for each other's locks, and deliver a fifth less.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// AWS's SDK says of credentials that it cannot find what the publisher says too, in Rust's notation.
const QUIET: [&str; 1] = ["aws"];

fn main() -> ExitCode {
    let cli = match bywash_common::cli::parse::<cli::Cli>() {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    cli.global.log.init(&QUIET);
    end_with_any_thread();
    match cli.execute() {
        Ok(exit) => exit.into(),
        Err(error) => {
            let is_config = error.is::<ConfigError>();
            tracing::error!("{error:#}");
            ExitCode::from(if is_config { Exit::Config } else { Exit::Failed })
        }
    }
}

/// A thread that panics ends the process, after it has been logged: others would wait for ever for what it was to do. What was
/// on its way is in the ring, and whatever starts the publisher again sends it again.
fn end_with_any_thread() {
    let log = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        log(panic);
        std::process::abort();
    }));
}
