//! `fs-agent check`, and what else tells a wrong configuration from a failure.

use anyhow::Result;
use bywash_common::{
    cli::GlobalArgs,
    config::{Config, ConfigError},
    exit::Exit,
    output,
    ring::RingError,
};

use nix::unistd::Group;

use crate::{cli::print, fifo, mount::Unusable, services, sleep::NothingSleeps};

/// Says whether `run` would accept the configuration. Changes nothing.
///
/// # Errors
/// What is wrong with it.
pub fn check(args: &GlobalArgs, show: bool) -> Result<Exit> {
    let config = load(args)?;
    services::check(&config, &args.config)?;
    args.warn_of_unwise(&config);
    if show {
        output::print_exact(config.print().as_bytes())?;
        return Ok(Exit::Ok);
    }
    print("the configuration is valid\n")
}

/// Reads the configuration, and sees to it that there is something to do.
///
/// # Errors
/// What is wrong with it.
pub fn load(args: &GlobalArgs) -> Result<Config> {
    let config = args.load_config()?;
    if config.directories.is_empty() && config.fifos.is_empty() {
        return Err(Unusable::Nothing.into());
    }
    if let Some(group) = config.ring.group.as_ref().filter(|name| matches!(Group::from_name(name), Ok(None)))
    {
        return Err(RingError::Group(group.clone()).into());
    }
    Ok(config)
}

/// The exit code for an error.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    let is_config = error.is::<ConfigError>()
        || error.is::<Unusable>()
        || matches!(error.downcast_ref(), Some(RingError::Group(_)))
        || error.is::<NothingSleeps>()
        || error.downcast_ref::<fifo::Unusable>().is_some_and(fifo::Unusable::is_config);
    if is_config { Exit::Config } else { Exit::Failed }
}
