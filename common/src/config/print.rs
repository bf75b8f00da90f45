//! The effective configuration as TOML, for `check --print`.

use std::path::PathBuf;

use indexmap::IndexMap;
use toml::{Table, Value};

use super::{
    agent, directory,
    effective::Config,
    failed, fifo,
    kafka::Delivery,
    kinesis, log, metrics, spool,
    toml_values::{map, table, text, texts},
};

impl Config {
    /// The effective configuration as TOML, secrets left out.
    pub fn print(&self) -> String {
        print(self)
    }

    /// The keys, dotted, whose values are not the same in `new`; of sections that repeat, and where only a secret differs,
    /// the section.
    pub fn changed_keys(&self, new: &Self) -> Vec<String> {
        changed_keys(self, new)
    }
}

/// With what is in effect where nothing is set as comments: to set it would mean more than that.
fn print(config: &Config) -> String {
    let mut printed = toml::to_string_pretty(&whole(config)).unwrap_or_default();
    let spool = config.spool_directory().filter(|_| config.spool.dir.is_none());
    let failed = config.failed_directory().filter(|_| config.failed.dir.is_none());
    let is_exact = config.kafka.delivery == Delivery::ExactlyOnce && config.kafka.transactional_id.is_none();
    let shown = |path: PathBuf| format!("\"{}\", if that can be used", path.display());
    let unset = [
        ("spool.dir", spool.map(shown)),
        ("failed.dir", failed.map(shown)),
        ("kafka.transactional_id", is_exact.then(|| format!("\"{}\"", config.transactional_id()))),
    ];
    for (key, value) in unset {
        if let Some(value) = value {
            printed.push_str(&format!("\n# {key} is not set: {value}"));
        }
    }
    printed.push('\n');
    printed
}

/// The keys, dotted, whose values are not the same in both. Where only a secret differs, its section.
fn changed_keys(old: &Config, new: &Config) -> Vec<String> {
    let [before, after] = [whole(old), whole(new)].map(|whole| flat(&whole));
    let differs = |key: &&String| before.get(*key) != after.get(*key);
    let keys = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
    let mut changed: Vec<String> = keys.filter(differs).cloned().collect();
    for (section, differs) in [("kafka", old.kafka != new.kafka), ("kinesis", old.kinesis != new.kinesis)] {
        if differs && !changed.iter().any(|key| key.starts_with(section)) {
            changed.push(section.to_owned());
        }
    }
    changed
}

/// Values by dotted key; of sections that repeat, all under the section's name.
fn flat(whole: &Table) -> IndexMap<String, Value> {
    let mut flat = IndexMap::new();
    for (section, value) in whole {
        match value {
            Value::Table(table) => {
                flat.extend(table.iter().map(|(key, value)| (format!("{section}.{key}"), value.clone())));
            }
            other => drop(flat.insert(section.clone(), other.clone())),
        }
    }
    flat
}

fn whole(config: &Config) -> Table {
    let Config {
        ring,
        event,
        directories,
        fifos,
        agent,
        publisher,
        kafka,
        kinesis: streams,
        log: logged,
        spool: disk,
        failed: dead_letters,
        metrics: served,
    } = config;
    table([
        (
            "ring",
            Some(Value::Table(table([
                ("name", text(&ring.name)),
                ("size", text(ring.size)),
                ("group", ring.group.clone().map(Value::from)),
            ]))),
        ),
        (
            "event",
            Some(Value::Table(table([
                ("encoder", text(event.encoder.word())),
                ("fields", map(&event.fields)),
                ("tags", texts(&event.tags)),
                ("loss_topic", event.loss_topic.clone().map(Value::from)),
            ]))),
        ),
        ("directory", Some(directories.iter().map(directory::print).collect::<Vec<_>>().into())),
        ("fifo", Some(fifos.iter().map(fifo::print).collect::<Vec<_>>().into())),
        ("agent", Some(agent::print(agent))),
        (
            "publisher",
            Some(Value::Table(table([
                ("sink", text(publisher.sink.word())),
                ("flush_interval", publisher.flush_interval.and_then(text)),
                ("batch_records", publisher.batch_records.map(|n| i64::from(n).into())),
                ("batch_bytes", publisher.batch_bytes.and_then(text)),
                ("shutdown_timeout", text(publisher.shutdown_timeout)),
                ("in_flight_records", Some(i64::from(publisher.in_flight_records).into())),
                ("in_flight_bytes", text(publisher.in_flight_bytes)),
                ("topics_max", Some(i64::from(publisher.topics_max).into())),
                ("fallback_topic", publisher.fallback_topic.clone().map(Value::from)),
                ("recovery_bytes_per_second", text(publisher.recovery_bytes_per_second)),
                ("age_max", text(publisher.age_max)),
            ]))),
        ),
        ("kafka", Some(Value::Table(kafka.print()))),
        ("kinesis", Some(kinesis::print(streams))),
        ("log", Some(log::print(logged))),
        ("spool", Some(spool::print(disk))),
        ("failed", Some(failed::print(dead_letters))),
        ("metrics", Some(metrics::print(served))),
    ])
}
