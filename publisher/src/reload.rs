//! SIGHUP: the configuration is read again, and takes effect between two records.

use bywash_common::{
    cli::GlobalArgs,
    config::{Config, ConfigError},
};

use crate::{
    signals::Asked,
    sink::{self, OpenError},
};

/// Sections and keys that take effect at once, or are the agent's alone.
const AT_ONCE: [&str; 7] =
    ["agent.", "directory", "event.", "fifo", "kafka.topic", "kinesis.stream_name", "log."];

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Sink(#[from] OpenError),
}

/// Reads the configuration again when it is asked for.
pub struct Reload {
    args: GlobalArgs,
    asked: Asked,
    current: Config,
}

impl Reload {
    /// Listens to `asked`; `current` is in force.
    pub fn new(args: GlobalArgs, asked: Asked, current: Config) -> Self {
        Self { args, asked, current }
    }

    /// The configuration that is in force from now on, if it was asked for and can be used. What has to wait for a
    /// restart is in it as it was, and the log names it.
    pub fn poll(&mut self) -> Option<&Config> {
        if !self.asked.take() {
            return None;
        }
        match self.read() {
            Ok(new) => {
                self.current = new;
                self.args.log.follow(self.current.log.level);
                tracing::info!("SIGHUP: the configuration was read again and is in force");
                Some(&self.current)
            }
            Err(error) => {
                tracing::error!(
                    "SIGHUP: the new configuration is refused, the old one stays in force: {error}"
                );
                None
            }
        }
    }

    fn read(&self) -> Result<Config, Refusal> {
        let new = Config::load(&self.args.config)?;
        let changed = self.current.changed_keys(&new);
        let accepted = accepted(&self.current, new)?;
        for key in changed {
            if !AT_ONCE.iter().any(|known| key.starts_with(known)) {
                tracing::warn!(
                    "{key} has changed: that takes effect when the publisher is restarted, all else now"
                );
            }
        }
        Ok(accepted)
    }
}

/// What is in force after `new`. That must be possible too: it is neither the one nor the other configuration.
fn accepted(current: &Config, new: Config) -> Result<Config, OpenError> {
    sink::check(&new)?;
    let merged = merged(current, new);
    sink::check(&merged)?;
    Ok(merged)
}

/// What of `new` takes effect at once, and the rest of `current`.
fn merged(current: &Config, new: Config) -> Config {
    let mut merged = current.clone();
    merged.event = new.event;
    merged.directories = new.directories;
    merged.fifos = new.fifos;
    merged.kafka.topic = new.kafka.topic;
    merged.kinesis.stream_name = new.kinesis.stream_name;
    merged.log = new.log;
    merged
}

#[cfg(test)]
mod tests {
    use bywash_common::config::{Delivery, DirectoryConfig, Encoder, Framing, Sink};

    use super::*;

    #[test]
    fn what_would_not_fit_to_what_stays_until_a_restart_is_refused() {
        let mut current = Config::default();
        current.kafka.delivery = Delivery::ExactlyOnce;
        let mut directory = DirectoryConfig::at("/a".into());
        directory.framing.by = Framing::Line;
        let new = Config { directories: vec![directory], ..Config::default() };
        assert!(sink::check(&new).is_ok());
        assert!(accepted(&current, new).is_err());
    }

    #[test]
    fn what_takes_effect_at_once_is_taken_over_and_nothing_else() {
        let current = Config::default();
        let mut new = Config::default();
        new.event.encoder = Encoder::Raw;
        new.kafka.topic = "other".to_owned();
        let at_once = new.clone();
        new.publisher.sink = Sink::Stdout;
        new.kafka.brokers = vec!["other:1".to_owned()];
        assert_eq!(merged(&current, new.clone()), at_once);
        let late: Vec<_> = current.changed_keys(&new);
        let late = late.iter().filter(|key| !AT_ONCE.iter().any(|known| key.starts_with(known)));
        assert_eq!(late.collect::<Vec<_>>(), ["publisher.sink", "kafka.brokers"]);
    }
}
