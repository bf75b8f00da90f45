//! Where events went before. What a change of the sink has left waiting goes to the new one: that is named when it begins.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use bywash_common::config::{Config, Sink};

/// The file with the destination of the last run, in the spool's directory, or that of the dead letters.
const FILE: &str = "destination";
/// It tells of brokers, and is the publisher's alone.
const MODE: u32 = 0o600;

/// What waits when a publisher begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes in the ring.
    pub ring_bytes: u64,
    /// Records in the spool.
    pub spool_records: u64,
    /// Bytes of dead letters.
    pub dead_letters_bytes: u64,
}

/// Notes where events go from now on, and says in the log what waits that was meant for somewhere else.
pub fn note(config: &Config, waiting: Waiting) {
    let Some(path) = place(config) else { return };
    let now = destination(config);
    let before = match fs::read_to_string(&path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return tracing::warn!("cannot read {}: {error}", path.display()),
    };
    if before.as_deref() == Some(&now) {
        return;
    }
    if let Some(line) = before.and_then(|before| leftovers(&before, &now, waiting)) {
        tracing::warn!("{line}");
    }
    if let Err(error) = write(&path, &now) {
        tracing::warn!("cannot write {}: {error}: a change of the sink goes unnoticed", path.display());
    }
}

/// What the log says of what waits.
fn leftovers(before: &str, now: &str, waiting: Waiting) -> Option<String> {
    let Waiting { ring_bytes, spool_records, dead_letters_bytes } = waiting;
    let mut what = Vec::new();
    let mut ways_out = Vec::new();
    if ring_bytes + spool_records > 0 {
        what.push(format!("{ring_bytes} bytes in the ring and {spool_records} records in the spool"));
        ways_out.push("publisher discard");
    }
    if dead_letters_bytes > 0 {
        what.push(format!("{dead_letters_bytes} bytes of dead letters"));
        ways_out.push("publisher failed drop");
    }
    if what.is_empty() {
        return None;
    }
    Some(format!(
        "events went to {before} before, and {} that wait go to {now} now: to give them up instead, stop the publisher and use {}",
        what.join(" and "),
        ways_out.join(" and ")
    ))
}

/// The first directory of the publisher's own that there is.
fn place(config: &Config) -> Option<PathBuf> {
    let dirs = [config.spool_directory(), config.failed_directory()];
    dirs.into_iter().flatten().find(|dir| dir.is_dir()).map(|dir| dir.join(FILE))
}

/// Where events go, for people.
fn destination(config: &Config) -> String {
    let (kafka, kinesis) = (&config.kafka, &config.kinesis);
    match config.publisher.sink {
        Sink::Kafka if !kafka.zookeepers.is_empty() => {
            format!("the Kafka topic {} (ZooKeeper {})", kafka.topic, kafka.zookeepers.join(","))
        }
        Sink::Kafka => format!("the Kafka topic {} ({})", kafka.topic, kafka.brokers.join(",")),
        Sink::Kinesis => {
            let place = [&kinesis.region, &kinesis.endpoint_url];
            let place: Vec<&str> =
                place.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
            let place = if place.is_empty() { String::new() } else { format!(" ({})", place.join(", ")) };
            format!("the Kinesis stream {}{place}", kinesis.stream_name)
        }
        Sink::Stdout => "standard output".to_owned(),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(MODE).open(&temporary)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_somewhere_else_is_named_with_the_way_out() {
        let (old, new) = ("the Kafka topic logs (a:1)", "standard output");
        assert_eq!(leftovers(old, new, Waiting::default()), None);
        let ring = leftovers(old, new, Waiting { ring_bytes: 7, ..Waiting::default() }).unwrap();
        for word in [old, new, "7 bytes", "publisher discard"] {
            assert!(ring.contains(word), "{ring}");
        }
        assert!(!ring.contains("failed drop"), "{ring}");
        let dead_letters =
            leftovers(old, new, Waiting { dead_letters_bytes: 9, ..Waiting::default() }).unwrap();
        assert!(
            dead_letters.contains("9 bytes of dead letters")
                && dead_letters.contains("publisher failed drop"),
            "{dead_letters}"
        );
        assert!(!dead_letters.contains("publisher discard"), "{dead_letters}");
    }

    #[test]
    fn another_topic_brokers_stream_or_sink_is_another_destination() {
        let mut config = Config::default();
        let mut seen = vec![destination(&config)];
        config.kafka.topic = "other".into();
        seen.push(destination(&config));
        config.kafka.brokers = vec!["b:1".to_owned()];
        seen.push(destination(&config));
        config.kafka.zookeepers = vec!["z:2181".to_owned()];
        seen.push(destination(&config));
        config.publisher.sink = Sink::Kinesis;
        config.kinesis.stream_name = "s".into();
        seen.push(destination(&config));
        config.kinesis.region = "eu-central-1".to_owned();
        seen.push(destination(&config));
        config.publisher.sink = Sink::Stdout;
        seen.push(destination(&config));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
