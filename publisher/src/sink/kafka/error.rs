//! Why a Kafka sink cannot be set up.

use super::{config::PropertyError, zookeepers::LookUpError};

/// A Kafka sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong.
    #[error(transparent)]
    Property(#[from] PropertyError),
    /// Lines are made of several writes, which a checkpoint between records cannot tell apart.
    #[error(
        "kafka.delivery: `exactly_once` cannot be had with framing = \"line\", which `{0}` has: keep one of the two"
    )]
    LinesInTransactions(String),
    /// ZooKeeper knows no brokers.
    #[error(transparent)]
    Zookeepers(#[from] LookUpError),
    /// The system or the library says no.
    #[error("cannot set up the Kafka producer: {0}")]
    Producer(String),
}

impl OpenError {
    /// Whether the configuration has to change.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Property(_) | Self::LinesInTransactions(_))
    }
}
