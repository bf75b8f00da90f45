//! Why a Kinesis sink cannot be set up.

use bywash_common::config::Unusable;

/// A Kinesis sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration asks for what Kinesis does not do.
    #[error(transparent)]
    Setting(#[from] Unusable),
    /// The system says no.
    #[error("cannot start the Kinesis service: {0}")]
    Service(String),
}

impl OpenError {
    /// What of the configuration has to change.
    pub fn unusable(&self) -> Option<&Unusable> {
        match self {
            Self::Setting(unusable) => Some(unusable),
            Self::Service(_) => None,
        }
    }
}
