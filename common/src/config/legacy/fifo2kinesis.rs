//! What a user of fifo2kinesis has: its environment variables, and what holds where nothing is said.
//!
//! Its command line needs nothing of its own: both programs take its flags by their names.

use std::{str::FromStr, time::Duration};

use crate::units::Span;

use crate::config::{Config, ConfigArgs, Encoder, Origin, PartitionKey, Problem, Sink};

/// The flags that its README names. README shows them; a test holds it to this list.
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

/// Whether a switch is on, by the words that its library took for it (Go's `strconv.ParseBool`).
pub fn is_on(word: &str) -> bool {
    matches!(word, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Its environment variables, as the flags that they stand for. `variable` gives a variable's value.
pub(in crate::config) fn flags(
    variable: impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> ConfigArgs {
    // It did not tell an empty variable from none.
    let text = |name: &str| variable(&format!("{PREFIX}{name}")).filter(|value| !value.is_empty());
    ConfigArgs {
        fifo_name: text("FIFO_NAME").map(Into::into),
        stream_name: text("STREAM_NAME"),
        partition_key: text("PARTITION_KEY"),
        buffer_queue_limit: parsed(text("BUFFER_QUEUE_LIMIT"), "FIFO2KINESIS_BUFFER_QUEUE_LIMIT", problems),
        flush_interval: parsed(text("FLUSH_INTERVAL"), "FIFO2KINESIS_FLUSH_INTERVAL", problems),
        flush_handler: text("FLUSH_HANDLER"),
        region: text("REGION"),
        role_arn: text("ROLE_ARN"),
        role_session_name: text("ROLE_SESSION_NAME"),
        failed_attempts_dir: text("FAILED_ATTEMPTS_DIR").map(Into::into),
        ..ConfigArgs::default()
    }
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
            let flag = variable.trim_start_matches(PREFIX).to_ascii_lowercase().replace('_', "-");
            problems.push(Problem { origin, key: format!("--{flag}"), message });
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

/// The sink that a flush handler is.
pub(in crate::config) fn sink_of(handler: &str) -> Result<Sink, String> {
    match handler {
        "kinesis" => Ok(Sink::Kinesis),
        "logger" => Ok(Sink::Stdout),
        _ => Err(format!("`{handler}` is neither `kinesis` nor `logger`")),
    }
}
