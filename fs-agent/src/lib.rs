//! fs-agent: a FUSE overlay in place over directories; every write under them becomes a record in a ring in shared
//! memory, which the publisher drains. The program is all there is to it: nothing here is for others to build on.

#[doc(hidden)]
pub mod bench_support;
mod by_number;
mod capture;
mod check;
mod cleanup;
mod cli;
mod event;
mod fd_store;
mod fifo;
mod fuse;
mod manager;
mod mount;
mod overlay;
mod privilege;
mod process;
mod refused;
mod rings;
mod run;
mod services;
mod shares;
mod sleep;
mod state;
mod status;
mod supervise;
mod sync;
mod sys;
mod worker_pool;

use std::process::ExitCode;

use bywash_common::exit::Exit;

use cli::{Cli, Command};

/// The program.
pub fn main() -> ExitCode {
    let Cli { global, command } = match bywash_common::cli::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    global.log.init(&[]);
    let result = match command {
        Command::Probe => return ExitCode::from(mount::probe::run()),
        Command::Run => run::run(&global),
        Command::Status(args) => status::status(&global, &args),
        Command::Rings(args) => rings::rings(&global, &args),
        Command::Check { print } => check::check(&global, print),
        Command::Supervise { .. } => supervise::supervise(),
        Command::Cleanup { now } => cleanup::cleanup(&global, now),
        Command::Sleep => sleep::sleep(&global),
        Command::Wake => sleep::wake(&global),
        Command::Completions { shell } => cli::completions(shell),
        Command::Man => cli::man(),
    };
    let exit = result.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        check::exit_of(&error)
    });
    Exit::into(exit)
}
