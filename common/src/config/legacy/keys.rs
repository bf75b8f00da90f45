//! What each key of fuse_kafka's file becomes.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::{
    config::{
        directory::{
            DirectoryConfig, FILES_TRACKED_DEFAULT, FILES_TRACKED_MAX, QuotaConfig, QuotaRule, checked_path,
        },
        effective::Config,
        event::Encoder,
        kafka,
        log::LogLevel,
        problem::{Origin, Problem},
        publisher::Sink,
    },
    glob::{FNMATCH, Globs, fnmatch_reaches_paths},
    units::ByteSize,
};

use super::properties::{Given, Item, Items};

/// A key of fuse_kafka's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// The key of bywash that stands for it; none where there is nothing to configure.
    pub becomes: Option<&'static str>,
}

const fn key(name: &'static str, becomes: &'static str) -> Key {
    Key { name, becomes: Some(becomes) }
}

/// All keys that fuse_kafka knew. docs/migrate-fuse_kafka.md shows them; a test holds it to this list.
pub const KEYS: [Key; 16] = [
    key("fuse_kafka_directories", "directory.path"),
    key("fuse_kafka_excluded_files", "directory.exclude"),
    key("fuse_kafka_quota", "directory.quota"),
    key("fuse_kafka_sleep", "agent.sleep"),
    key("fuse_kafka_topic", "kafka.topic"),
    key("fuse_kafka_brokers", "kafka.brokers"),
    key("fuse_kafka_zookeepers", "kafka.zookeepers"),
    key("fuse_kafka_fields", "event.fields"),
    key("fuse_kafka_tags", "event.tags"),
    key("fuse_kafka_encoder", "event.encoder"),
    key("fuse_kafka_output", "publisher.sink"),
    key("fuse_kafka_debug", "log.level"),
    Key { name: "fuse_kafka_input", becomes: None },
    Key { name: "fuse_kafka_log", becomes: None },
    Key { name: "fuse_kafka_persist", becomes: None },
    Key { name: "fuse_kafka_substitutions", becomes: None },
];

/// Takes over what the file says.
pub(super) fn apply(items: Items, path: &Path, config: &mut Config, problems: &mut Vec<Problem>) {
    let mut file = File { path, items, problems };
    file.take_directories(config);
    file.take_excluded(config);
    file.take_quota(config);
    file.take_event(config);
    file.take_kafka(config);
    file.take_input();
    file.take_rest(config);
    file.refuse_unknown();
}

/// The items that are not taken yet, and what is wrong with those that are.
struct File<'a> {
    path: &'a Path,
    items: Items,
    problems: &'a mut Vec<Problem>,
}

impl File<'_> {
    fn take(&mut self, name: &str) -> Vec<Item> {
        self.items.shift_remove(name).unwrap_or_default().items
    }

    /// Of several items fuse_kafka used the first.
    fn take_first(&mut self, name: &str) -> Option<Item> {
        let items = self.take(name);
        if let Some(second) = items.get(1) {
            let (path, Item { text, line }) = (self.path.display(), second);
            tracing::warn!(
                "{path}:{line}: fuse_kafka_{name}: `{text}` is passed over: the first value counts"
            );
        }
        items.into_iter().next()
    }

    fn refuse(&mut self, name: &str, line: usize, message: impl Into<String>) {
        let origin = Origin::File(self.path.to_owned(), line);
        self.problems.push(Problem { origin, key: format!("fuse_kafka_{name}"), message: message.into() });
    }

    /// Puts the first item where it belongs unless `check` finds something wrong with it.
    fn set<T>(&mut self, name: &str, to: &mut T, check: impl FnOnce(String) -> Result<T, String>) {
        let Some(Item { text, line }) = self.take_first(name) else { return };
        match check(text) {
            Ok(value) => *to = value,
            Err(message) => self.refuse(name, line, message),
        }
    }

    /// The same for a list of host:port, with commas between them in an item.
    fn set_list(
        &mut self,
        name: &str,
        to: &mut Vec<String>,
        check: impl FnOnce(Vec<String>) -> Result<Vec<String>, String>,
    ) {
        let items = self.take(name);
        let Some(line) = items.first().map(|item| item.line) else { return };
        let list = items.iter().flat_map(|item| item.text.split(',')).map(|text| text.trim().to_owned());
        match check(list.collect()) {
            Ok(list) => *to = list,
            Err(message) => self.refuse(name, line, message),
        }
    }

    /// The launcher made directories that did not exist, and passed over those that were there twice.
    fn take_directories(&mut self, config: &mut Config) {
        for Item { text, line } in self.take("directories") {
            let new = DirectoryConfig { create: true, ..DirectoryConfig::at(PathBuf::from(&text)) };
            let from_here = match std::path::absolute(&text) {
                Ok(path) if !text.starts_with('/') && !text.is_empty() => {
                    format!(
                        "; fuse_kafka took it from where it was started: `{}`, if that is here",
                        path.display()
                    )
                }
                _ => String::new(),
            };
            config.add_directory(new, |message| self.refuse("directories", line, message + &from_here));
        }
    }

    /// fuse_kafka compared by fnmatch(3) without flags, and with the path below the directory behind a `/`.
    fn take_excluded(&mut self, config: &mut Config) {
        let mut patterns = Vec::new();
        for Item { text, line } in self.take("excluded_files") {
            if !fnmatch_reaches_paths(&text) {
                let path = self.path.display();
                tracing::warn!(
                    "{path}:{line}: fuse_kafka_excluded_files: `{text}` matches no file, as it did: paths begin \
                     with `/`, so write `*{text}` or `/{text}`"
                );
                continue;
            }
            match Globs::new(vec![format!("{FNMATCH}{text}")]) {
                Ok(globs) => patterns.extend_from_slice(globs.patterns()),
                Err(message) => self.refuse("excluded_files", line, message),
            }
        }
        match Globs::new(patterns) {
            Ok(globs) => {
                config.directories.iter_mut().for_each(|directory| directory.exclude = globs.clone());
            }
            Err(message) => self.refuse("excluded_files", 1, message),
        }
    }

    /// Bytes per second, then how many files are tracked.
    fn take_quota(&mut self, config: &mut Config) {
        let items = self.take("quota");
        let Some(first) = items.first() else { return };
        let mut numbers = [1_u32, FILES_TRACKED_DEFAULT];
        for (number, Item { text, line }) in numbers.iter_mut().zip(&items) {
            match text.parse() {
                Ok(n) if n > 0 => *number = n,
                _ => {
                    let message =
                        format!("`{text}` is not a number from 1 on: write [bytes per second, files]");
                    return self.refuse("quota", *line, message);
                }
            }
        }
        let [bytes_per_second, files_tracked] = numbers;
        if files_tracked > FILES_TRACKED_MAX {
            let message = format!("`{files_tracked}` files cannot be tracked: use 1 to {FILES_TRACKED_MAX}");
            return self.refuse("quota", first.line, message);
        }
        let bytes_per_second = ByteSize(bytes_per_second.into());
        let rule = QuotaRule::Write;
        let quota = QuotaConfig { bytes_per_second, burst_bytes: ByteSize(0), files_tracked, rule };
        config.directories.iter_mut().for_each(|directory| directory.quota = Some(quota));
    }

    fn take_event(&mut self, config: &mut Config) {
        let fields = self.take("fields");
        if let Some(Item { text, line }) = fields.last().filter(|_| fields.len() % 2 == 1) {
            self.refuse("fields", *line, format!("`{text}` has no value: write {{\"{text}\": \"value\"}}"));
        }
        config.event.fields = fields
            .chunks_exact(2)
            .map(|pair| (pair[0].text.clone(), pair[1].text.clone()))
            .collect::<IndexMap<_, _>>();
        config.event.tags = self.take("tags").into_iter().map(|item| item.text).collect();
        self.set("encoder", &mut config.event.encoder, |word| {
            if word.contains("fpenzoyr") {
                return Err(format!(
                    "`{word}` inverts the events' bytes: encrypt instead, by \"security.protocol\" = \"ssl\" in \
                     kafka.properties"
                ));
            }
            // It looked at how the word begins.
            match word.as_str() {
                word if word.starts_with("logstash_base64") => Ok(Encoder::LogstashBase64),
                word if word.starts_with("logstash") => Ok(Encoder::Logstash),
                word => word.parse::<Encoder>(),
            }
        });
    }

    fn take_kafka(&mut self, config: &mut Config) {
        self.set("topic", &mut config.kafka.topic, kafka::checked_route);
        // fuse_kafka looked at its brokers only without zookeepers.
        let zookeepers = self.items.get("zookeepers").filter(|given| !given.items.is_empty());
        if let (Some(Given { line, .. }), Some(_)) = (self.items.get("brokers"), zookeepers) {
            tracing::warn!(
                "{}:{line}: fuse_kafka_brokers is passed over, as it was: fuse_kafka_zookeepers says where the brokers are",
                self.path.display()
            );
            self.take("brokers");
        }
        self.set_list("brokers", &mut config.kafka.brokers, kafka::checked_brokers);
        self.set_list("zookeepers", &mut config.kafka.zookeepers, kafka::checked_zookeepers);
        self.set("output", &mut config.publisher.sink, |word| match word.parse::<Sink>() {
            Ok(sink @ (Sink::Kafka | Sink::Stdout)) => Ok(sink),
            _ => Err(format!("`{word}` is none of fuse_kafka's: write `kafka` or `stdout`")),
        });
    }

    /// Where fuse_kafka learned of writes. There is one way now.
    fn take_input(&mut self) {
        let Some(Item { text, line }) = self.take_first("input") else { return };
        let message = match text.as_str() {
            "overlay" => return,
            // The default file has it: the overlay sees all that inotify saw.
            "inotify" => {
                let path = self.path.display();
                return tracing::warn!(
                    "{path}:{line}: fuse_kafka_input: an overlay takes the place of `inotify`: it sees the same \
                     writes, and who wrote"
                );
            }
            "inotify_nonrecursive" => {
                "`inotify_nonrecursive` left out what is below subdirectories: use [\"overlay\"] and \
                 fuse_kafka_excluded_files=[\"/*/*\"]"
                    .to_owned()
            }
            other => format!("`{other}` is not there: the overlay is the only input; use [\"overlay\"]"),
        };
        self.refuse("input", line, message);
    }

    fn take_rest(&mut self, config: &mut Config) {
        for Item { text, line } in self.take("sleep") {
            match checked_path(Path::new(&text)) {
                Ok(path) => config.agent.sleep.push(path),
                Err(message) => self.refuse("sleep", line, message),
            }
        }
        // Any value turned it on.
        if !self.take("debug").is_empty() {
            config.log.level = LogLevel::Debug;
        }
        for Item { text, line } in self.take("log") {
            let message = format!(
                "`{text}`: logs go to standard error, where systemd's journal has them; for a file write \
                 StandardError=append:{text} into the units, or 2>> {text} behind the command, and remove this line"
            );
            self.refuse("log", line, message);
        }
        for name in ["persist", "substitutions"] {
            if let Some(Item { line, .. }) = self.take(name).first() {
                let path = self.path.display();
                tracing::warn!(
                    "{path}:{line}: fuse_kafka_{name} did nothing in fuse_kafka, and does nothing here"
                );
            }
        }
    }

    fn refuse_unknown(&mut self) {
        for (name, Given { line, .. }) in std::mem::take(&mut self.items) {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
            self.refuse(&name, line, format!("fuse_kafka knew no such key: use one of {}", known.join(", ")));
        }
    }
}
