//! What the command lines of both programs share.

use clap::{Args, ValueEnum};

use crate::{
    config::{ConfigArgs, fifo2kinesis},
    logging,
};

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How much is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of the log.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// The least severe level that is logged: error, warn, info, debug or trace; RUST_LOG says it per module
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "BYWASH_LOG_LEVEL", global = true)]
    pub log_level: tracing::Level,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text", env = "BYWASH_LOG_FORMAT", global = true)]
    pub log_format: LogFormat,
    /// The same as --log-level debug
    #[arg(long, env = "BYWASH_DEBUG", global = true)]
    pub debug: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

impl LogArgs {
    /// Sets logging up for the rest of the program's life.
    pub fn init(&self) {
        let debug =
            self.debug || std::env::var("FIFO2KINESIS_DEBUG").is_ok_and(|word| fifo2kinesis::is_on(&word));
        logging::init(if debug { tracing::Level::DEBUG } else { self.log_level }, self.log_format);
    }
}
