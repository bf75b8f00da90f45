//! `[failed]`: the dead letters.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use toml::Value;

use crate::units::{ByteSize, Span};

use super::{
    context::{Context, Placed},
    directory::checked_path,
    kafka,
    toml_values::{table, text},
};

/// `[failed]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedConfig {
    /// Where messages are kept that the sink refuses for good; absolute. Without it they are kept in
    /// [`Config::failed_directory`] if that can be used, and nowhere if not.
    pub dir: Option<PathBuf>,
    /// How often they are sent again.
    pub retry_interval: Span,
    /// The most bytes that they take; 0 for no dead letters.
    pub size_max: ByteSize,
    /// How long an event waits for what only an operator can mend before it becomes a dead letter.
    pub give_up_after: Span,
    /// Where dead letters go that are refused again; none: they stay where they are kept.
    pub topic: Option<String>,
}

impl Default for FailedConfig {
    fn default() -> Self {
        Self {
            dir: None,
            retry_interval: Span(Duration::from_secs(30)),
            size_max: ByteSize(256 << 20),
            give_up_after: Span(Duration::from_secs(60)),
            topic: None,
        }
    }
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Failed {
    dir: Placed<PathBuf>,
    retry_interval: Placed<Span>,
    size_max: Option<ByteSize>,
    give_up_after: Option<Span>,
    topic: Placed<String>,
}

pub(super) fn apply(failed: Failed, to: &mut FailedConfig, context: &mut Context<'_>) {
    context.set(&mut to.dir, failed.dir, |dir: PathBuf| checked_path(&dir).map(Some));
    context.set(&mut to.retry_interval, failed.retry_interval, |span: Span| {
        if span.0.is_zero() { Err("`0s` is too short: use 1s or more".to_owned()) } else { Ok(span) }
    });
    to.size_max = failed.size_max.unwrap_or(to.size_max);
    to.give_up_after = failed.give_up_after.unwrap_or(to.give_up_after);
    context.set(&mut to.topic, failed.topic, |topic| kafka::checked_topic(topic).map(Some));
}

pub(super) fn print(failed: &FailedConfig) -> Value {
    Value::Table(table([
        ("dir", failed.dir.as_deref().and_then(|dir| text(dir.display()))),
        ("retry_interval", text(failed.retry_interval)),
        ("size_max", text(failed.size_max)),
        ("give_up_after", text(failed.give_up_after)),
        ("topic", failed.topic.as_ref().and_then(text)),
    ]))
}
