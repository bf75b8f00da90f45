//! `publisher consume`: reads events back from the configured topics or streams and prints them for people.

mod kafka;
mod kinesis;
mod print;
mod source;

use std::time::Duration;

use anyhow::bail;
use bywash_common::{
    config::{Config, Sink},
    exit::Exit,
    output,
};

use crate::{
    signals::{self, Hangup},
    topics::topics,
};

pub use print::{Printer, Selection};
use source::Source;

/// How long the end may take: nothing is left behind, whatever it is that does not answer.
const STOP_TIMEOUT: Duration = Duration::ZERO;

/// Options of `publisher consume`.
#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    /// Print these keys alone, in this order, with commas or spaces between; `KEY_size-added` is the size of a text in
    /// bytes, such as `message_size-added` [environment, as fuse_kafka's: SELECT]
    #[arg(long, value_name = "KEYS", env = "SELECT", hide_env = true)]
    select: Option<Selection>,
    /// Begin with the oldest event instead of the next one
    #[arg(long)]
    from_beginning: bool,
    /// End after this many events
    #[arg(long, value_name = "N")]
    max: Option<u64>,
}

/// Prints events until there were enough, a signal comes, or nobody reads any more.
///
/// # Errors
/// If the configuration is wrong or the topics cannot be read.
pub fn consume(config: &Config, args: &ConsumeArgs) -> anyhow::Result<Exit> {
    let stop = signals::take_over(Hangup::Stops, STOP_TIMEOUT)?.stop;
    let printer = Printer::new(config.event.encoder, args.select.clone());
    let mut source: Box<dyn Source> = match config.publisher.sink {
        Sink::Kafka => Box::new(kafka::Topics::open(config, &topics(config), args.from_beginning)?),
        Sink::Kinesis => Box::new(kinesis::Streams::open(config, &topics(config), args.from_beginning)?),
        Sink::Stdout => bail!("nothing can be read back from standard output: use --sink kafka or kinesis"),
    };
    let mut left = args.max.unwrap_or(u64::MAX);
    let mut text = Vec::new();
    while left > 0 && !stop.is_requested() {
        let Some(event) = source.next()? else { continue };
        text.clear();
        printer.print(event.encoder.as_deref(), &event.payload, &mut text);
        if !output::print_exact(&text)? {
            break;
        }
        left -= 1;
    }
    Ok(Exit::Ok)
}
