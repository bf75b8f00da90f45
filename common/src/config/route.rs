//! Where events go, as far as the configuration alone says it.

use std::path::Path;

use super::{
    directory::DirectoryConfig,
    effective::Config,
    kafka::{self, MessageKey, TOPIC_BYTES_MAX},
    kinesis::{self, PartitionKey, STREAM_NAME_BYTES_MAX},
    places::Places,
    problem::Problem,
    publisher::Sink,
    template::{Template, Topic},
};

impl Config {
    /// The watched directory that `path` is below.
    pub fn directory_of(&self, path: &Path) -> Option<&DirectoryConfig> {
        self.directories.iter().find(|directory| path.starts_with(&directory.path))
    }

    /// The topics or streams that directories and FIFOs have of their own, each with its key in the file.
    pub fn own_topics(&self) -> impl Iterator<Item = (&'static str, &Topic)> {
        let directories = self.directories.iter().map(|directory| ("directory.topic", &directory.topic));
        let fifos = self.fifos.iter().map(|fifo| ("fifo.topic", &fifo.topic));
        directories.chain(fifos).filter_map(|(key, topic)| Some((key, topic.as_ref()?)))
    }

    /// The topic or stream for what is written to `path`.
    pub fn topic_of(&self, path: &Path) -> &Topic {
        let fifo = self.fifos.iter().find(|fifo| path == fifo.path).map(|fifo| &fifo.topic);
        let directory = || self.directory_of(path).map(|directory| &directory.topic);
        fifo.or_else(directory).and_then(Option::as_ref).unwrap_or(self.default_topic())
    }

    /// The key of what is written to `path`, or of news that belong to no file: messages of one key keep their order. None where there
    /// is none, or where [`Self::key_template`] makes it.
    pub fn key_of<'a>(&'a self, path: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let (kafka, kinesis) = (&self.kafka.key, &self.kinesis.partition_key);
        match self.publisher.sink {
            Sink::Kinesis => match kinesis {
                PartitionKey::Path => path,
                PartitionKey::Random | PartitionKey::Made(_) => None,
                PartitionKey::Constant(key) => Some(key.as_bytes()),
            },
            Sink::Kafka | Sink::Stdout => match kafka {
                MessageKey::Path => path,
                MessageKey::None | MessageKey::Made(_) => None,
                MessageKey::Constant(key) => Some(key.as_bytes()),
            },
        }
    }

    /// What makes the key of an event, where events decide it.
    pub fn key_template(&self) -> Option<&Template> {
        match (self.publisher.sink, &self.kafka.key, &self.kinesis.partition_key) {
            (Sink::Kafka, MessageKey::Made(template), _)
            | (Sink::Kinesis, _, PartitionKey::Made(template)) => Some(template),
            _ => None,
        }
    }

    /// The topic or stream of what no directory and no FIFO gives another.
    pub fn default_topic(&self) -> &Topic {
        match self.publisher.sink {
            Sink::Kafka | Sink::Stdout => &self.kafka.topic,
            Sink::Kinesis => &self.kinesis.stream_name,
        }
    }

    /// The topic or stream of what belongs to no event: news that are about no file, how far transactions reach.
    pub fn fixed_topic(&self) -> &str {
        self.default_topic().named().or(self.publisher.fallback_topic.as_deref()).unwrap_or_default()
    }

    /// The topic or stream of events for which a template names one that they cannot go to.
    pub fn fallback_topic(&self) -> &str {
        self.publisher.fallback_topic.as_deref().unwrap_or(self.fixed_topic())
    }

    /// What makes the topics or streams of events.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let all = self.own_topics().map(|(_, topic)| topic).chain([self.default_topic()]);
        // Standard output is one for all.
        all.filter(|_| self.publisher.sink != Sink::Stdout).filter_map(Topic::template)
    }

    /// The most bytes of the name of a topic or stream.
    pub fn name_bytes_max(&self) -> usize {
        match self.publisher.sink {
            Sink::Kafka | Sink::Stdout => TOPIC_BYTES_MAX,
            Sink::Kinesis => STREAM_NAME_BYTES_MAX,
        }
    }
}

/// A stream of its own has a name.
fn checked_stream(name: String) -> Result<String, String> {
    match kinesis::checked_stream_name(name)? {
        name if name.is_empty() => {
            Err("`` cannot name a stream: leave the key out for kinesis.stream_name".to_owned())
        }
        name => Ok(name),
    }
}

/// What is wrong with where events go, by the rules of the sink.
pub(super) fn check(config: &Config, places: &Places<'_>, problems: &mut Vec<Problem>) {
    let check_name = match config.publisher.sink {
        Sink::Kafka | Sink::Stdout => kafka::checked_topic,
        Sink::Kinesis => checked_stream,
    };
    for (key, topic) in config.own_topics() {
        if let Err(message) = topic.clone().checked(check_name) {
            problems.push(places.problem(key, topic.text(), message));
        }
    }
    if let Some(Err(message)) = config.publisher.fallback_topic.clone().map(check_name) {
        problems.push(places.problem("publisher.fallback_topic", "", message));
    }
    check_failed(config, places, problems);
    check_default(config, places, problems);
    check_fields(config, places, problems);
}

/// Dead letters can have a topic of their own.
fn check_failed(config: &Config, places: &Places<'_>, problems: &mut Vec<Problem>) {
    let Some(topic) = config.failed.topic.as_deref() else { return };
    let mut refuse = |message: String| problems.push(places.problem("failed.topic", topic, message));
    if config.publisher.sink == Sink::Kinesis {
        refuse(format!(
            "`{topic}`: a record of Kinesis has no headers to say what failed and why: leave the key out; dead letters stay in \
             failed.dir, with their reasons (publisher failed list)"
        ));
    }
    if config.failed.size_max.0 == 0 {
        refuse(format!(
            "`{topic}`: dead letters go there from failed.dir, and failed.size_max is 0: give them some room, or leave the key out"
        ));
    }
    if topic == config.fixed_topic() || topic == config.fallback_topic() {
        refuse(format!("`{topic}` is the topic of events: name one for dead letters alone"));
    }
}

/// What belongs to no event needs a topic that no event decides.
fn check_default(config: &Config, places: &Places<'_>, problems: &mut Vec<Problem>) {
    let Some(template) = config.default_topic().template().filter(|_| config.publisher.sink != Sink::Stdout)
    else {
        return;
    };
    if config.publisher.fallback_topic.is_none() {
        let (text, max) = (template.text(), config.publisher.topics_max);
        let message = format!(
            "`{text}` is made for each event: what belongs to none (news, how far transactions reach), and events beyond \
             publisher.topics_max = {max}, need a topic too: set publisher.fallback_topic"
        );
        problems.push(places.problem(default_key(config), text, message));
    }
}

/// The key of the topic of what no directory and no FIFO gives another.
fn default_key(config: &Config) -> &'static str {
    if config.publisher.sink == Sink::Kinesis { "kinesis.stream_name" } else { "kafka.topic" }
}

/// The fields that templates name are there.
fn check_fields(config: &Config, places: &Places<'_>, problems: &mut Vec<Problem>) {
    let topics = config.own_topics().chain([(default_key(config), config.default_topic())]);
    let made = topics.filter_map(|(key, topic)| Some((key, topic.template()?)));
    let key = if config.publisher.sink == Sink::Kinesis { "kinesis.partition_key" } else { "kafka.key" };
    let keys = config.key_template().map(|template| (key, template));
    for (key, template) in made.chain(keys) {
        let Some(missing) = template.fields().find(|field| !config.event.fields.contains_key(*field)) else {
            continue;
        };
        let there: Vec<&str> = config.event.fields.keys().map(String::as_str).collect();
        let there =
            if there.is_empty() { "is empty".to_owned() } else { format!("has {}", there.join(", ")) };
        let text = template.text();
        let message = format!("`{text}`: there is no field `{missing}`: event.fields {there}");
        problems.push(places.problem(key, text, message));
    }
}
