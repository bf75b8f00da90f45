//! `publisher check`: whether the configuration can be used.

use std::collections::BTreeSet;

use bywash_common::{
    config::{Config, Sink},
    exit::Exit,
};

use crate::{
    output,
    sink::{self, kafka, kinesis},
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

/// Checks the configuration, which has been read already, and what the sink makes of it.
///
/// # Errors
/// What is wrong with it; or with the brokers.
pub fn check(config: &Config, args: &CheckArgs) -> anyhow::Result<Exit> {
    sink::check(config)?;
    let mut text = String::new();
    if args.print {
        text.push_str(&config.print());
    }
    if args.connect {
        let lines = match config.publisher.sink {
            Sink::Kafka => kafka::connect(config, &topics(config))?,
            Sink::Kinesis => kinesis::connect(config, &topics(config))?,
            Sink::Stdout => vec!["stdout: nothing to connect to".to_owned()],
        };
        text.push_str(&lines.join("\n"));
        text.push('\n');
    }
    output::print(text.as_bytes())?;
    Ok(Exit::Ok)
}

/// All topics that events can go to.
pub fn topics(config: &Config) -> Vec<&str> {
    let own = config.directories.iter().filter_map(|d| d.topic.as_deref());
    let own = own.chain(config.fifos.iter().filter_map(|f| f.topic.as_deref()));
    own.chain([config.default_topic()]).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use bywash_common::config::DirectoryConfig;

    use super::*;

    #[test]
    fn each_topic_counts_once() {
        let directory = |path: &str, topic: Option<&str>| DirectoryConfig {
            topic: topic.map(str::to_owned),
            ..DirectoryConfig::at(path.into())
        };
        let directories = vec![directory("/a", Some("x")), directory("/b", None), directory("/c", Some("x"))];
        let config = Config { directories, ..Config::default() };
        assert_eq!(topics(&config), ["logs", "x"]);
    }
}
