//! `publisher check`: whether the configuration can be used.

use bywash_common::{cli::GlobalArgs, config::Sink, exit::Exit, output};

use crate::{
    sink::{self, kafka, kinesis},
    topics::{all_topics, topics},
};

/// Options of `publisher check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Print the effective configuration, secrets left out
    #[arg(long)]
    print: bool,
    /// Also ask the brokers whether they answer and know the topics
    #[arg(long)]
    connect: bool,
}

/// Checks the configuration, and what the sink makes of it; warns of what is unwise.
///
/// # Errors
/// What is wrong with it; or with the brokers.
pub fn check(global: &GlobalArgs, args: &CheckArgs) -> anyhow::Result<Exit> {
    let as_written = global.load_config()?;
    let config = &global.resolve(as_written.clone())?;
    sink::check(config)?;
    global.warn_of_unwise(&as_written);
    let mut text = String::new();
    if args.print {
        text.push_str(&config.print());
    }
    if args.connect {
        let lines = match config.publisher.sink {
            Sink::Kafka => kafka::connect(config, &all_topics(config))?,
            Sink::Kinesis => kinesis::connect(config, &topics(config))?,
            Sink::Stdout => vec!["stdout: nothing to connect to".to_owned()],
        };
        text.push_str(&lines.join("\n"));
        text.push('\n');
    }
    if text.is_empty() {
        text.push_str("the configuration is valid\n");
    }
    output::print_exact(text.as_bytes())?;
    Ok(Exit::Ok)
}
