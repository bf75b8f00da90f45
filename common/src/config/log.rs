//! `[log]`: what is logged.

use serde::Deserialize;
use toml::Value;
use tracing::Level;

use super::{
    context::{Context, Placed},
    toml_values::{table, text},
    words::words,
};

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: LogLevel,
}

/// How much is logged; each level has what the ones before it have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is lost, or someone has to act.
    Error,
    /// Something may have to be looked at.
    Warn,
    /// What goes on.
    #[default]
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// The keys in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    level: Placed<String>,
}

/// Takes over what the section says.
pub(super) fn apply(table: Table, to: &mut LogConfig, context: &mut Context<'_>) {
    context.set(&mut to.level, table.level, |word| word.parse());
}

/// The section, as the file has it.
pub(super) fn print(log: &LogConfig) -> Value {
    Value::Table(table([("level", text(log.level.word()))]))
}

words!(LogLevel:
    "error" => LogLevel::Error,
    "warn" => LogLevel::Warn,
    "info" => LogLevel::Info,
    "debug" => LogLevel::Debug,
    "trace" => LogLevel::Trace);
