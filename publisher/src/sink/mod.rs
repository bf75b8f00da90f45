//! Where messages go. Each sink is a folder of its own and a line in [`open`].

pub mod kafka;
pub mod kinesis;
mod stdout;

use std::sync::Arc;

use bywash_common::config::{Config, Delivery, Sink as SinkKind, Unusable};

use crate::delivery::{Frontier, Sink};

/// A sink cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum OpenError {
    /// Kafka's.
    Kafka(#[from] kafka::OpenError),
    /// Kinesis's.
    Kinesis(#[from] kinesis::OpenError),
}

impl OpenError {
    /// What of the configuration has to change.
    pub fn unusable(&self) -> Option<&Unusable> {
        match self {
            Self::Kafka(error) => error.unusable(),
            Self::Kinesis(error) => error.unusable(),
        }
    }
}

/// Checks what can be checked of the sink's configuration without a side effect.
///
/// # Errors
/// An [`OpenError`] that names what is wrong.
pub fn check(config: &Config) -> Result<(), OpenError> {
    match config.publisher.sink {
        SinkKind::Kafka => Ok(kafka::check(config)?),
        SinkKind::Stdout => Ok(()),
        SinkKind::Kinesis => Ok(kinesis::check(config).map_err(kinesis::OpenError::from)?),
    }
}

/// Sets the configured sink up. A broker that cannot be reached is no error.
///
/// # Errors
/// An [`OpenError`] that names what is wrong.
pub fn open(config: &Config, frontier: Arc<Frontier>) -> Result<Box<dyn Sink + Send>, OpenError> {
    Ok(match config.publisher.sink {
        SinkKind::Kafka => match config.kafka.delivery {
            Delivery::AtLeastOnce => Box::new(kafka::KafkaSink::open(config, frontier)?),
            Delivery::ExactlyOnce => Box::new(kafka::TransactionalSink::open(config, frontier)?),
        },
        SinkKind::Kinesis => Box::new(kinesis::KinesisSink::open(config, frontier)?),
        SinkKind::Stdout => Box::new(stdout::StdoutSink::new(std::io::stdout(), frontier)),
    })
}
