//! Why a Kinesis sink cannot be set up.

use super::config::SettingError;

/// A Kinesis sink cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration asks for what Kinesis does not do.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The system says no.
    #[error("cannot start the Kinesis service: {0}")]
    Service(String),
}

impl OpenError {
    /// Whether the configuration has to change.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Setting(_))
    }
}
