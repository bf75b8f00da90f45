//! SIGHUP: the configuration is read again, and takes effect between two records.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bywash_common::{
    cli::GlobalArgs,
    config::{Config, ConfigError},
};

use crate::{
    signals::Asked,
    sink::{self, OpenError},
};

/// Sections and keys that take effect at once, or are the agent's alone.
const AT_ONCE: [&str; 13] = [
    "agent.",
    "directory",
    "event.",
    "failed.topic",
    "fifo",
    "kafka.headers",
    "kafka.topic",
    "kinesis.stream_name",
    "log.",
    "publisher.age_max",
    "publisher.fallback_topic",
    "publisher.recovery_bytes_per_second",
    "publisher.topics_max",
];

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Sink(#[from] OpenError),
}

/// Reads the configuration again when it is asked for, in a thread of its own: looking for what is wrong with it takes
/// files, and the sink's library.
pub struct Reload {
    /// What can be used, and nobody has taken yet.
    ready: Arc<Mutex<Option<Config>>>,
    is_ready: Arc<AtomicBool>,
}

impl Reload {
    /// Listens to `asked`; `current` is in force.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start(args: GlobalArgs, asked: Asked, current: Config) -> io::Result<Self> {
        let (ready, is_ready) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let mut reader = Reader { args, current, ready: Arc::clone(&ready), is_ready: Arc::clone(&is_ready) };
        thread::Builder::new().name("reload".to_owned()).spawn(move || {
            loop {
                asked.wait();
                reader.read_again();
            }
        })?;
        Ok(Self { ready, is_ready })
    }

    /// Without a thread: see [`Self::offer`].
    #[cfg(test)]
    pub fn by_hand() -> Self {
        Self { ready: Arc::default(), is_ready: Arc::default() }
    }

    /// The same one, for who offers.
    #[cfg(test)]
    pub fn another(&self) -> Self {
        Self { ready: Arc::clone(&self.ready), is_ready: Arc::clone(&self.is_ready) }
    }

    /// Has a configuration be taken by the next look.
    #[cfg(test)]
    pub fn offer(&self, config: &Config) {
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(config.clone());
        self.is_ready.store(true, Ordering::Release);
    }

    /// The configuration that is in force from now on, if another one was asked for and can be used. What has to wait for a
    /// restart is in it as it was, and the log names it.
    pub fn poll(&self) -> Option<Config> {
        // A record is read between two looks: no need to take the line away from other processors for each.
        if !self.is_ready.load(Ordering::Acquire) {
            return None;
        }
        self.is_ready.store(false, Ordering::Release);
        let new = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        tracing::info!("SIGHUP: the configuration was read again and is in force");
        Some(new)
    }
}

/// The thread's own.
struct Reader {
    args: GlobalArgs,
    current: Config,
    ready: Arc<Mutex<Option<Config>>>,
    is_ready: Arc<AtomicBool>,
}

impl Reader {
    fn read_again(&mut self) {
        match self.read() {
            Ok(new) => {
                self.args.log.follow(new.log.level);
                self.current = new.clone();
                *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
                self.is_ready.store(true, Ordering::Release);
            }
            Err(error) => tracing::error!(
                "SIGHUP: the new configuration is refused, the old one stays in force: {error}"
            ),
        }
    }

    fn read(&self) -> Result<Config, Refusal> {
        let new = self.args.read_resolved()?;
        let changed = self.current.changed_keys(&new);
        let accepted = accepted(&self.current, new).map_err(|error| match error.unusable() {
            Some(unusable) => Refusal::Config(Config::placed(&self.args.config, unusable)),
            None => Refusal::Sink(error),
        })?;
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
    merged.publisher.topics_max = new.publisher.topics_max;
    merged.publisher.fallback_topic = new.publisher.fallback_topic;
    merged.failed.topic = new.failed.topic;
    merged.kafka.topic = new.kafka.topic;
    merged.kafka.headers = new.kafka.headers;
    merged.kinesis.stream_name = new.kinesis.stream_name;
    merged.log = new.log;
    merged.publisher.age_max = new.publisher.age_max;
    merged.publisher.recovery_bytes_per_second = new.publisher.recovery_bytes_per_second;
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
        new.kafka.topic = "other".into();
        new.failed.topic = Some("failed".to_owned());
        new.publisher.topics_max = 7;
        new.publisher.fallback_topic = Some("rest".to_owned());
        new.kafka.headers.insert("team".to_owned(), "web".to_owned());
        let at_once = new.clone();
        new.publisher.sink = Sink::Stdout;
        new.kafka.brokers = vec!["other:1".to_owned()];
        assert_eq!(merged(&current, new.clone()), at_once);
        let late: Vec<_> = current.changed_keys(&new);
        let late = late.iter().filter(|key| !AT_ONCE.iter().any(|known| key.starts_with(known)));
        assert_eq!(late.collect::<Vec<_>>(), ["publisher.sink", "kafka.brokers"]);
    }
}
