//! What a user of fifo2kinesis has: its environment variables, and what holds where nothing is said.
//!
//! Its command line needs nothing of its own: both programs take its flags by their names.

use std::{ffi::OsString, str::FromStr, time::Duration};

use crate::units::Span;

use crate::config::{
    effective::Config,
    event::Encoder,
    flags::ConfigArgs,
    kinesis::PartitionKey,
    problem::{Origin, Problem},
    publisher::Sink,
};

/// The flags that its README names. docs/migrate-fifo2kinesis.md shows them; a test holds it to this list.
pub const FLAGS: [&str; 11] = [
    "fifo-name",
    "stream-name",
    "partition-key",
    "buffer-queue-limit",
    "failed-attempts-dir",
    "flush-interval",
    "flush-handler",
    "region",
    "role-arn",
    "role-session-name",
    "debug",
];

/// What begins the names of its environment variables.
pub const PREFIX: &str = "FIFO2KINESIS_";

/// The most items that it put into a request, and how many seconds it waited for them.
const QUEUE_LIMIT: u32 = 500;
const FLUSH_INTERVAL: Span = Span(Duration::from_secs(5));

/// Whether a switch is on, by the words that its library took (Go's `strconv.ParseBool`).
///
/// # Errors
/// If it is none of them.
pub fn switch(word: &str) -> Result<bool, String> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("`{word}` is neither `true` nor `false`")),
    }
}

/// Its variable that has it log more.
const DEBUG: &str = "FIFO2KINESIS_DEBUG";

/// Whether its variable has it log more.
pub fn is_debugged() -> bool {
    std::env::var(DEBUG).is_ok_and(|word| switch(&word) == Ok(true))
}

/// Its environment variables, as the flags that they stand for. `variable` gives a variable's value.
pub(in crate::config) fn flags(
    variable: impl Fn(&str) -> Option<OsString>,
    problems: &mut Vec<Problem>,
) -> ConfigArgs {
    // It did not tell an empty variable from none.
    let value = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut text = |name: &'static str| match value(name)?.into_string() {
        Ok(text) => Some(text),
        Err(value) => {
            let message = format!("{value:?} is not UTF-8: write it in letters that are");
            problems.push(Problem { origin: Origin::Variable(name), key: flag_of(name), message });
            None
        }
    };
    let debug = text(DEBUG);
    let (limit, interval) = (text("FIFO2KINESIS_BUFFER_QUEUE_LIMIT"), text("FIFO2KINESIS_FLUSH_INTERVAL"));
    let flags = ConfigArgs {
        fifo_name: value("FIFO2KINESIS_FIFO_NAME").map(Into::into),
        stream_name: text("FIFO2KINESIS_STREAM_NAME"),
        partition_key: text("FIFO2KINESIS_PARTITION_KEY"),
        flush_handler: text("FIFO2KINESIS_FLUSH_HANDLER"),
        region: text("FIFO2KINESIS_REGION"),
        role_arn: text("FIFO2KINESIS_ROLE_ARN"),
        role_session_name: text("FIFO2KINESIS_ROLE_SESSION_NAME"),
        failed_attempts_dir: value("FIFO2KINESIS_FAILED_ATTEMPTS_DIR").map(Into::into),
        buffer_queue_limit: parsed(limit, "FIFO2KINESIS_BUFFER_QUEUE_LIMIT", problems),
        flush_interval: parsed(interval, "FIFO2KINESIS_FLUSH_INTERVAL", problems),
        ..ConfigArgs::default()
    };
    if let Some(Err(message)) = debug.map(|word| switch(&word)) {
        problems.push(Problem { origin: Origin::Variable(DEBUG), key: flag_of(DEBUG), message });
    }
    flags
}

/// The flag that one of its variables stands for.
fn flag_of(variable: &str) -> String {
    format!("--{}", variable.trim_start_matches(PREFIX).to_ascii_lowercase().replace('_', "-"))
}

fn parsed<T: FromStr<Err: ToString>>(
    text: Option<String>,
    variable: &'static str,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    text?
        .parse()
        .map_err(|error: T::Err| {
            let (origin, message) = (Origin::Variable(variable), error.to_string());
            problems.push(Problem { origin, key: flag_of(variable), message });
        })
        .ok()
}

/// Whoever names a FIFO as fifo2kinesis's users do, `--fifo-name`, gets what they had where nothing else is said.
pub(in crate::config) fn set_defaults(config: &mut Config) {
    config.event.encoder = Encoder::Raw;
    config.publisher.sink = Sink::Kinesis;
    config.publisher.batch_records = Some(QUEUE_LIMIT);
    config.publisher.flush_interval = Some(FLUSH_INTERVAL);
    config.kinesis.partition_key = PartitionKey::Random;
}
