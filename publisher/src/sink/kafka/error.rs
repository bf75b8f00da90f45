//! Why a Kafka sink cannot be set up.

use bywash_common::config::Unusable;

use super::zookeepers::LookUpError;

/// A Kafka sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong.
    #[error(transparent)]
    Setting(#[from] Unusable),
    /// ZooKeeper knows no brokers.
    #[error(transparent)]
    Zookeepers(#[from] LookUpError),
    /// The system or the library says no.
    #[error("cannot set up the Kafka producer: {0}")]
    Producer(String),
}

impl OpenError {
    /// What of the configuration has to change.
    pub fn unusable(&self) -> Option<&Unusable> {
        match self {
            Self::Setting(unusable) => Some(unusable),
            Self::Zookeepers(_) | Self::Producer(_) => None,
        }
    }
}
