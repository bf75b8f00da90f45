//! Logs go to standard error, where journald picks them up.

use std::{io::IsTerminal, sync::OnceLock};

use tracing::Level;
use tracing_subscriber::{EnvFilter, reload};

use crate::cli::LogFormat;

/// Puts another filter in the place of the one that is in use.
type Replace = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// Set once logging is.
static REPLACE: OnceLock<Replace> = OnceLock::new();

/// Sets logging up. `RUST_LOG`, where set, replaces `level`.
pub(crate) fn init(level: Level, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.as_str()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // Setting it twice in a process keeps the first.
    let _ = match format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = REPLACE.set(Box::new(move |filter| handle.reload(filter)));
            builder.try_init()
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = REPLACE.set(Box::new(move |filter| handle.reload(filter)));
            builder.try_init()
        }
    };
}

/// From now on logs what is at least as severe as `level`.
pub(crate) fn set_level(level: Level) {
    if let Some(replace) = REPLACE.get()
        && let Err(error) = replace(EnvFilter::new(level.as_str()))
    {
        tracing::warn!("cannot change what is logged to {level}: {error}");
    }
}
