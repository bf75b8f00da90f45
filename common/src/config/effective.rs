//! The effective configuration: what the file, the environment and the flags say together.

use std::path::{Path, PathBuf};

use crate::{ring::RingConfig, units::ByteSize};

use super::{
    agent::AgentConfig,
    directory::{DirectoryConfig, SYSTEM, checked_path},
    event::EventConfig,
    failed::FailedConfig,
    fifo::FifoConfig,
    kafka::KafkaConfig,
    kinesis::KinesisConfig,
    log::LogConfig,
    metrics::MetricsConfig,
    publisher::{PublisherConfig, Sink},
    spool::SpoolConfig,
};

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The ring between the services.
    pub ring: RingConfig,
    /// How events look.
    pub event: EventConfig,
    /// What fs-agent is mounted over; no path is equal to, above or below another.
    pub directories: Vec<DirectoryConfig>,
    /// What fs-agent reads; no path is there twice.
    pub fifos: Vec<FifoConfig>,
    /// How fs-agent works.
    pub agent: AgentConfig,
    /// How the publisher works.
    pub publisher: PublisherConfig,
    /// Where Kafka is.
    pub kafka: KafkaConfig,
    /// Where Kinesis is.
    pub kinesis: KinesisConfig,
    /// What both services log.
    pub log: LogConfig,
    /// What the ring cannot hold waits on disk.
    pub spool: SpoolConfig,
    /// Where messages are kept that can never be delivered.
    pub failed: FailedConfig,
    /// Where the publisher serves what it counts.
    pub metrics: MetricsConfig,
}

/// The ring's name unless `ring.name` says otherwise.
const DEFAULT_RING: &str = "bywash";
/// Where the publisher keeps what outlasts it, unless it is told otherwise.
const STATE_DIR: &str = "/var/lib/bywash";

/// Where a ring's spool and dead letters are by default: each ring's publisher has its own, so that any number of them run
/// side by side.
fn default_state_dir(ring: &str) -> PathBuf {
    let dir = PathBuf::from(STATE_DIR);
    if ring == DEFAULT_RING { dir } else { dir.join("rings").join(ring) }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ring: RingConfig { name: DEFAULT_RING.to_owned(), size: ByteSize(64 << 20), group: None },
            event: EventConfig::default(),
            directories: Vec::new(),
            fifos: Vec::new(),
            agent: AgentConfig::default(),
            publisher: PublisherConfig::default(),
            kafka: KafkaConfig::default(),
            kinesis: KinesisConfig::default(),
            log: LogConfig::default(),
            spool: SpoolConfig::default(),
            failed: FailedConfig::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

impl Config {
    /// Adds a directory, if it can be watched beside the others. The same one twice counts once.
    pub(super) fn add_directory(&mut self, new: DirectoryConfig, mut refuse: impl FnMut(String)) {
        let path = match checked_path(&new.path) {
            Ok(path) => path,
            Err(message) => return refuse(message),
        };
        let shown = new.path.display().to_string();
        let new = DirectoryConfig { path, ..new };
        for system in SYSTEM {
            if new.path.starts_with(system) || Path::new(system).starts_with(&new.path) {
                return refuse(format!("`{shown}` cannot be watched: it is, contains or lies in {system}"));
            }
        }
        for other in &self.directories {
            if other.path == new.path {
                return tracing::info!("{shown} is configured twice: the first one counts");
            }
            if other.path.starts_with(&new.path) || new.path.starts_with(&other.path) {
                let other = other.path.display();
                return refuse(format!("`{shown}` and `{other}` contain one another: keep the outer one"));
            }
        }
        self.directories.push(new);
    }

    /// Adds a FIFO, if it can be read beside what else there is.
    pub(super) fn add_fifo(&mut self, new: FifoConfig, mut refuse: impl FnMut(String)) {
        let path = match checked_path(&new.path) {
            Ok(path) => path,
            Err(message) => return refuse(message),
        };
        let shown = path.display();
        if path.parent().is_none() {
            return refuse(format!("`{shown}` is the root directory: name the FIFO"));
        }
        if self.fifos.iter().any(|other| other.path == path) {
            return refuse(format!("`{shown}` is configured twice: keep one of the two"));
        }
        if let Some(directory) = self.directory_around(&path) {
            return refuse(format!(
                "`{shown}` lies under the watched directory `{}`: put the FIFO elsewhere, such as in /run",
                directory.display()
            ));
        }
        self.fifos.push(FifoConfig { path, ..new });
    }

    /// The watched directory that is at `path` or around it. A FIFO there would be two pipes, one on each side of the
    /// overlay.
    pub fn directory_around(&self, path: &Path) -> Option<&Path> {
        let mut directories = self.directories.iter().map(|directory| directory.path.as_path());
        directories.find(|directory| path.starts_with(directory))
    }

    /// Where the spool is, if there is one.
    pub fn spool_place(&self) -> PathBuf {
        self.spool.dir.clone().unwrap_or_else(|| default_state_dir(&self.ring.name).join("spool"))
    }

    /// The spool's directory in effect; nothing if there shall be no spool.
    pub fn spool_directory(&self) -> Option<PathBuf> {
        (self.spool.size_max.0 > 0).then(|| self.spool_place())
    }

    /// The dead letters' directory in effect; nothing if there shall be none.
    pub fn failed_directory(&self) -> Option<PathBuf> {
        let place =
            || self.failed.dir.clone().unwrap_or_else(|| default_state_dir(&self.ring.name).join("failed"));
        (self.failed.size_max.0 > 0).then(place)
    }

    /// The topic for dead letters in effect.
    pub fn failed_topic(&self) -> Option<&str> {
        self.failed.topic.as_deref().filter(|_| self.publisher.sink == Sink::Kafka)
    }

    /// The transactional id, which this publisher keeps over restarts and no other has.
    pub fn transactional_id(&self) -> String {
        self.kafka.transactional_id.clone().unwrap_or_else(|| {
            // proc_sys_kernel(5)
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("bywash-{}-{}", host.trim_end(), self.ring.name)
        })
    }
}
