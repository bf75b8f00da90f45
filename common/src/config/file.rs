//! The TOML file: its keys are the fields of these structures.

use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;

use crate::units::{ByteSize, Span};

use super::{
    agent,
    context::{Context, Placed, checked_ring_name, checked_ring_size, positive, positive_size},
    directory,
    effective::Config,
    failed, fifo, kafka, kinesis, log, metrics,
    problem::Problem,
    spool,
};

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

/// Takes over what the file says.
pub(super) fn apply(path: &Path, text: &str, config: &mut Config, problems: &mut Vec<Problem>) {
    let mut context = Context::new(path, text, problems);
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
        let (at, new) = directory::read(table, &mut context);
        config.add_directory(new, |message| context.refuse(at, message));
    }
    // After the directories, which they must not lie in.
    for table in file.fifo {
        let (at, new) = fifo::read(table, &mut context);
        config.add_fifo(new, |message| context.refuse(at, message));
    }
    if let Some(table) = file.agent {
        agent::apply(table, &mut config.agent, &mut context);
    }
    if let Some(publisher) = file.publisher {
        apply_publisher(publisher, config, &mut context);
    }
    if let Some(kafka) = file.kafka {
        kafka.apply(&mut config.kafka, &mut context);
    }
    if let Some(kinesis) = file.kinesis {
        kinesis::apply(kinesis, &mut config.kinesis, &mut context);
    }
    if let Some(table) = file.log {
        log::apply(table, &mut config.log, &mut context);
    }
    if let Some(spool) = file.spool {
        spool::apply(spool, &mut config.spool, &mut context);
    }
    if let Some(failed) = file.failed {
        failed::apply(failed, &mut config.failed, &mut context);
    }
    if let Some(table) = file.metrics {
        metrics::apply(table, &mut config.metrics, &mut context);
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
