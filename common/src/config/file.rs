//! The TOML file: its keys are the fields of these structures.

use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;
use toml::Spanned;

use crate::units::{ByteSize, Span};

use super::{
    Config, Origin, Problem, agent, directory, failed, fifo, kafka, kinesis, locate, log, metrics, spool,
};

/// A value and its place in the file.
pub(super) type Placed<T> = Option<At<T>>;

/// The same where it has to be there.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct At<T>(Spanned<T>);

impl<T> At<T> {
    /// Where in the text it is.
    pub(super) fn span(&self) -> std::ops::Range<usize> {
        self.0.span()
    }

    pub(super) fn get_ref(&self) -> &T {
        self.0.get_ref()
    }

    pub(super) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    ring: Option<Ring>,
    event: Option<Event>,
    #[serde(default)]
    directory: Vec<directory::Table>,
    #[serde(default)]
    fifo: Vec<fifo::Table>,
    agent: Option<agent::Table>,
    publisher: Option<Publisher>,
    kafka: Option<kafka::Section>,
    kinesis: Option<kinesis::Table>,
    log: Option<log::Table>,
    spool: Option<spool::Table>,
    failed: Option<failed::Failed>,
    metrics: Option<metrics::Table>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Ring {
    name: Placed<String>,
    size: Placed<ByteSize>,
    group: Placed<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Event {
    encoder: Placed<String>,
    fields: Option<IndexMap<String, String>>,
    tags: Option<Vec<String>>,
    loss_topic: Placed<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Publisher {
    sink: Placed<String>,
    flush_interval: Option<Span>,
    batch_records: Placed<u32>,
    batch_bytes: Placed<ByteSize>,
    shutdown_timeout: Option<Span>,
    in_flight_records: Placed<u32>,
    in_flight_bytes: Placed<ByteSize>,
    topics_max: Placed<u32>,
    fallback_topic: Placed<String>,
    recovery_bytes_per_second: Option<ByteSize>,
    age_max: Option<Span>,
}

/// Collects what is wrong, with the place of each value.
pub(super) struct Context<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Context<'_> {
    pub(super) fn refuse(&mut self, at: usize, message: impl Into<String>) {
        let origin = Origin::File(self.path.to_owned(), locate::line_of(self.text, at));
        let key = locate::key_of(self.text, at);
        self.problems.push(Problem { origin, key, message: message.into() });
    }

    /// Puts a value where it belongs unless `check` finds something wrong with it.
    pub(super) fn set<T, U>(
        &mut self,
        to: &mut U,
        from: Placed<T>,
        check: impl FnOnce(T) -> Result<U, String>,
    ) {
        let Some(value) = from else { return };
        let at = value.span().start;
        match check(value.into_inner()) {
            Ok(value) => *to = value,
            Err(message) => self.refuse(at, message),
        }
    }
}

/// Takes over what the file says.
pub(super) fn apply(path: &Path, text: &str, config: &mut Config, problems: &mut Vec<Problem>) {
    let mut context = Context { path, text, problems };
    let file: File = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            return context.refuse(at, with_way_out(error.message()));
        }
    };
    if let Some(ring) = file.ring {
        context.set(&mut config.ring.name, ring.name, checked_ring_name);
        context.set(&mut config.ring.size, ring.size, checked_ring_size);
        context.set(&mut config.ring.group, ring.group, |group| match group.is_empty() {
            true => Err("`` names no group: leave the key out".to_owned()),
            false => Ok(Some(group)),
        });
    }
    if let Some(event) = file.event {
        context.set(&mut config.event.encoder, event.encoder, |word| word.parse());
        config.event.fields = event.fields.unwrap_or_default();
        config.event.tags = event.tags.unwrap_or_default();
        context.set(&mut config.event.loss_topic, event.loss_topic, |topic| {
            kafka::checked_topic(topic).map(Some)
        });
    }
    for table in file.directory {
        directory::apply(table, config, &mut context);
    }
    // After the directories, which they must not lie in.
    for table in file.fifo {
        fifo::apply(table, config, &mut context);
    }
    if let Some(table) = file.agent {
        agent::apply(table, config, &mut context);
    }
    if let Some(publisher) = file.publisher {
        apply_publisher(publisher, config, &mut context);
    }
    if let Some(kafka) = file.kafka {
        kafka.apply(&mut config.kafka, &mut context);
    }
    if let Some(kinesis) = file.kinesis {
        kinesis::apply(kinesis, config, &mut context);
    }
    if let Some(table) = file.log {
        log::apply(table, config, &mut context);
    }
    if let Some(spool) = file.spool {
        spool::apply(spool, &mut config.spool, &mut context);
    }
    if let Some(failed) = file.failed {
        failed::apply(failed, &mut config.failed, &mut context);
    }
    if let Some(table) = file.metrics {
        metrics::apply(table, config, &mut context);
    }
}

/// What is wrong with a text that is no TOML, or not of the types that keys have, in words that say what to write.
fn with_way_out(message: &str) -> String {
    let quoted = |kind: &str| message.split(kind).nth(1).and_then(|rest| rest.split('`').nth(1));
    let is_list_wanted = message.contains("expected a sequence") || message.contains("expected an array");
    if is_list_wanted
        && let Some(text) = message.split('"').nth(1).filter(|_| message.contains("type: string"))
    {
        format!("{message}: write [\"{text}\"]")
    } else if message.contains("expected a string")
        && let Some(value) =
            quoted("integer").or_else(|| quoted("floating point")).or_else(|| quoted("boolean"))
    {
        format!("{message}: write \"{value}\", in quotes")
    } else if message.contains("key with no value") {
        format!("{message}: write key = value; a file of fuse_kafka's has a name that ends in .properties")
    } else if ["invalid float", "invalid integer", "string values must be quoted"]
        .iter()
        .any(|m| message.contains(m))
    {
        format!("{message}: write texts in quotes, key = \"text\"")
    } else {
        message.to_owned()
    }
}

fn apply_publisher(publisher: Publisher, config: &mut Config, context: &mut Context) {
    let to = &mut config.publisher;
    context.set(&mut to.sink, publisher.sink, |word| word.parse());
    if publisher.flush_interval.is_some() {
        to.flush_interval = publisher.flush_interval;
    }
    context.set(&mut to.batch_records, publisher.batch_records, |n| positive(n).map(Some));
    context.set(&mut to.batch_bytes, publisher.batch_bytes, |n| positive_size(n).map(Some));
    context.set(&mut to.in_flight_records, publisher.in_flight_records, positive);
    context.set(&mut to.in_flight_bytes, publisher.in_flight_bytes, positive_size);
    context.set(&mut to.topics_max, publisher.topics_max, positive);
    context
        .set(&mut to.fallback_topic, publisher.fallback_topic, |topic| kafka::checked_topic(topic).map(Some));
    to.recovery_bytes_per_second =
        publisher.recovery_bytes_per_second.unwrap_or(to.recovery_bytes_per_second);
    to.age_max = publisher.age_max.unwrap_or(to.age_max);
    if let Some(timeout) = publisher.shutdown_timeout {
        to.shutdown_timeout = timeout;
    }
}

pub(super) fn positive(n: u32) -> Result<u32, String> {
    if n == 0 { Err("`0` is too small: use 1 or more".to_owned()) } else { Ok(n) }
}

fn positive_size(size: ByteSize) -> Result<ByteSize, String> {
    if size.0 == 0 { Err("`0` is too small: use 1 or more".to_owned()) } else { Ok(size) }
}

pub(super) fn checked_ring_name(name: String) -> Result<String, String> {
    let bare = name.strip_prefix('/').unwrap_or(&name).to_owned();
    if crate::ring::name_is_valid(&bare) {
        Ok(bare)
    } else {
        Err(format!("`{name}` cannot name a ring: use 1 to 64 letters, digits, `-` or `_`"))
    }
}

pub(super) fn checked_ring_size(size: ByteSize) -> Result<ByteSize, String> {
    let (min, max) = (ByteSize(crate::ring::CAPACITY_MIN), ByteSize(crate::ring::CAPACITY_MAX));
    if size < min || size > max {
        return Err(format!("`{size}` cannot be a ring's size: use {min} to {max}"));
    }
    Ok(size)
}
