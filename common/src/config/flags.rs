//! The flags and environment variables of both programs that stand for keys of the file.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::units::{ByteSize, Span};

use super::{
    context,
    directory::{DirectoryConfig, checked_path},
    effective::Config,
    event::Encoder,
    fifo::FifoConfig,
    kafka,
    kinesis::{self, PartitionKey},
    layers::{Layers, Precedence},
    legacy::words,
    problem::Problem,
    publisher::Sink,
};

/// Where the configuration is looked for unless `--config` says otherwise. That it is missing is no error.
pub const DEFAULT_FILE: &str = "/etc/bywash/bywash.toml";

/// Flags that replace what the configuration file says. Both programs take them all, so that one set of
/// variables can stand in both services' environment.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// Where the values come from. The first field: the others take the values away.
    #[command(flatten)]
    pub layers: Layers,
    /// The configuration file [default: /etc/bywash/bywash.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "BYWASH_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// A directory to mount an overlay on; may be given more than once
    #[arg(long, value_name = "DIR", env = "BYWASH_DIRECTORY", global = true)]
    pub directory: Vec<PathBuf>,
    /// A FIFO to read; may be given more than once
    #[arg(long, value_name = "PATH", env = "BYWASH_FIFO", global = true)]
    pub fifo: Vec<PathBuf>,
    /// A FIFO to read, with fifo2kinesis's defaults: sink kinesis, encoder raw, 5s, 500 records, random partition keys
    #[arg(long, value_name = "PATH", env = "BYWASH_FIFO_NAME", global = true)]
    pub fifo_name: Option<PathBuf>,
    /// The ring's name in shared memory [default: bywash]
    #[arg(long, value_name = "NAME", env = "BYWASH_RING", global = true)]
    pub ring: Option<String>,
    /// The ring's size [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "BYWASH_RING_SIZE", global = true)]
    pub ring_size: Option<ByteSize>,
    /// Where events go: kafka, kinesis or stdout [default: kafka]
    #[arg(long, value_name = "SINK", env = "BYWASH_SINK", global = true)]
    pub sink: Option<String>,
    /// The same in fifo2kinesis's words: kinesis or logger, which is standard output
    #[arg(long, value_name = "HANDLER", env = "BYWASH_FLUSH_HANDLER", global = true)]
    pub flush_handler: Option<String>,
    /// Kafka brokers, host:port with commas between [default: localhost:9092]
    #[arg(long, value_name = "LIST", env = "BYWASH_BROKERS", value_delimiter = ',', global = true)]
    pub brokers: Vec<String>,
    /// The Kafka topic [default: logs]
    #[arg(long, value_name = "TOPIC", env = "BYWASH_TOPIC", global = true)]
    pub topic: Option<String>,
    /// The events' format: logstash_base64, logstash, ecs, text or raw [default: logstash_base64]
    #[arg(long, value_name = "FORMAT", env = "BYWASH_ENCODER", global = true)]
    pub encoder: Option<String>,
    /// How long an event may wait to be sent with others, such as 5s or 200ms
    #[arg(long, value_name = "TIME", env = "BYWASH_FLUSH_INTERVAL", global = true)]
    pub flush_interval: Option<Span>,
    /// The most events in a batch
    #[arg(long, value_name = "N", env = "BYWASH_BUFFER_QUEUE_LIMIT", global = true)]
    pub buffer_queue_limit: Option<u32>,
    /// The Kinesis stream
    #[arg(long, value_name = "STREAM", env = "BYWASH_STREAM_NAME", global = true)]
    pub stream_name: Option<String>,
    /// What decides an event's shard: random, or one key for all [default: the event's path]
    #[arg(long, value_name = "KEY", env = "BYWASH_PARTITION_KEY", global = true)]
    pub partition_key: Option<String>,
    /// The AWS region of the stream [default: what the AWS environment says]
    #[arg(long, value_name = "REGION", env = "BYWASH_REGION", global = true)]
    pub region: Option<String>,
    /// The ARN of the AWS role to assume
    #[arg(long, value_name = "ARN", env = "BYWASH_ROLE_ARN", global = true)]
    pub role_arn: Option<String>,
    /// The session's name when a role is assumed [default: bywash]
    #[arg(long, value_name = "NAME", env = "BYWASH_ROLE_SESSION_NAME", global = true)]
    pub role_session_name: Option<String>,
    /// Where messages are kept that can never be delivered [default: /var/lib/bywash/failed]
    #[arg(long, value_name = "DIR", env = "BYWASH_FAILED_ATTEMPTS_DIR", global = true)]
    pub failed_attempts_dir: Option<PathBuf>,
}

impl ConfigArgs {
    /// Takes over what the flags say.
    /// With `as_fifo2kinesis` in its sense, where that differs.
    pub(super) fn apply(&self, config: &mut Config, as_fifo2kinesis: bool, problems: &mut Vec<Problem>) {
        let mut refuse = |flag: &'static str, key: &str, message: String| {
            problems.push(Problem { origin: self.layers.origin(flag), key: key.to_owned(), message });
        };
        macro_rules! set {
            ($flag:literal, $key:literal, $value:expr, $to:expr, $check:expr) => {
                if let Some(value) = $value {
                    match $check(value) {
                        Ok(value) => $to = value,
                        Err(message) => refuse($flag, $key, message),
                    }
                }
            };
        }
        if !self.directory.is_empty() {
            config.directories.clear();
            for path in self.paths("directory", &self.directory) {
                let new = DirectoryConfig::at(path);
                config.add_directory(new, |message| refuse("directory", "directory.path", message));
            }
        }
        let fifos = self.fifos();
        if !fifos.is_empty() {
            config.fifos.clear();
            for (flag, path) in fifos {
                config.add_fifo(FifoConfig::at(path), |message| refuse(flag, "fifo.path", message));
            }
        }
        set!("ring", "ring.name", self.ring.clone(), config.ring.name, context::checked_ring_name);
        set!("ring-size", "ring.size", self.ring_size, config.ring.size, context::checked_ring_size);
        match (&self.sink, &self.flush_handler, self.layers.precedence("sink", "flush-handler")) {
            (Some(_), Some(handler), Precedence::Same) => {
                let other = self.layers.origin("sink");
                let message = format!("`{handler}` and {other} name the sink twice: keep one of the two");
                refuse("flush-handler", "publisher.sink", message);
            }
            (_, Some(handler), Precedence::Second) | (None, Some(handler), _) => {
                let to = &mut config.publisher.sink;
                set!("flush-handler", "publisher.sink", Some(handler.as_str()), *to, words::sink_of);
            }
            (Some(sink), ..) => {
                let to = &mut config.publisher.sink;
                set!("sink", "publisher.sink", Some(sink.as_str()), *to, |s: &str| s.parse::<Sink>());
            }
            (None, None, _) => {}
        }
        let brokers = (!self.brokers.is_empty()).then(|| self.brokers.clone());
        set!("brokers", "kafka.brokers", brokers, config.kafka.brokers, kafka::checked_brokers);
        set!("topic", "kafka.topic", self.topic.clone(), config.kafka.topic, kafka::checked_route);
        let encoder = self.encoder.as_deref();
        set!("encoder", "event.encoder", encoder, config.event.encoder, |s: &str| s.parse::<Encoder>());
        if self.flush_interval.is_some() {
            config.publisher.flush_interval = self.flush_interval;
        }
        let limit = self.buffer_queue_limit;
        set!("buffer-queue-limit", "publisher.batch_records", limit, config.publisher.batch_records, |n| {
            context::positive(n).map(Some)
        });
        let failed = self.failed_attempts_dir.as_deref().map(absolute);
        set!("failed-attempts-dir", "failed.dir", failed, config.failed.dir, |dir: PathBuf| {
            checked_path(&dir).map(Some)
        });
        self.apply_kinesis(config, as_fifo2kinesis, &mut refuse);
    }

    /// The flag, or its variable, that a key has its value from, if one was given.
    pub(super) fn flag_of(&self, key: &str) -> Option<&'static str> {
        let is_named = self.names_fifo_as_fifo2kinesis();
        let flags = [
            ("directory.path", "directory", !self.directory.is_empty()),
            ("event.encoder", "encoder", self.encoder.is_some()),
            ("failed.dir", "failed-attempts-dir", self.failed_attempts_dir.is_some()),
            ("fifo.path", "fifo-name", is_named),
            ("fifo.path", "fifo", !is_named && !self.fifo.is_empty()),
            ("kafka.brokers", "brokers", !self.brokers.is_empty()),
            ("kafka.topic", "topic", self.topic.is_some()),
            ("kinesis.partition_key", "partition-key", self.partition_key.is_some()),
            ("kinesis.region", "region", self.region.is_some()),
            ("kinesis.role_arn", "role-arn", self.role_arn.is_some()),
            ("kinesis.role_session_name", "role-session-name", self.role_session_name.is_some()),
            ("kinesis.stream_name", "stream-name", self.stream_name.is_some()),
            ("publisher.batch_records", "buffer-queue-limit", self.buffer_queue_limit.is_some()),
            ("publisher.flush_interval", "flush-interval", self.flush_interval.is_some()),
            ("publisher.sink", "sink", self.sink.is_some()),
            ("ring.name", "ring", self.ring.is_some()),
            ("ring.size", "ring-size", self.ring_size.is_some()),
        ];
        flags.into_iter().find_map(|(of, flag, is_given)| (is_given && of == key).then_some(flag))
    }

    /// The paths that a flag that may be given more than once holds. A variable holds several with colons between, as PATH does.
    fn paths(&self, flag: &str, paths: &[PathBuf]) -> Vec<PathBuf> {
        if !self.layers.is_variable(flag) {
            return paths.iter().map(|path| absolute(path)).collect();
        }
        let parts = paths.iter().flat_map(|list| list.as_os_str().as_bytes().split(|byte| *byte == b':'));
        let parts = parts.filter(|part| !part.is_empty());
        parts.map(|part| absolute(Path::new(OsStr::from_bytes(part)))).collect()
    }

    /// The FIFOs and the flags that name them.
    fn fifos(&self) -> Vec<(&'static str, PathBuf)> {
        let precedence = match (self.fifo.is_empty(), &self.fifo_name) {
            (false, Some(_)) => self.layers.precedence("fifo", "fifo-name"),
            _ => Precedence::Same,
        };
        let mut fifos = Vec::new();
        if precedence != Precedence::Second {
            fifos.extend(self.paths("fifo", &self.fifo).into_iter().map(|path| ("fifo", path)));
        }
        if precedence != Precedence::First {
            fifos.extend(self.fifo_name.as_deref().map(|path| ("fifo-name", absolute(path))));
        }
        fifos
    }

    /// Whether the FIFO is named as fifo2kinesis's users do.
    pub(super) fn names_fifo_as_fifo2kinesis(&self) -> bool {
        self.fifos().iter().any(|(flag, _)| *flag == "fifo-name")
    }

    fn apply_kinesis(
        &self,
        config: &mut Config,
        as_fifo2kinesis: bool,
        refuse: &mut impl FnMut(&'static str, &str, String),
    ) {
        let to = &mut config.kinesis;
        match self.stream_name.clone().map(kinesis::checked_route) {
            Some(Ok(stream)) => to.stream_name = stream,
            Some(Err(message)) => refuse("stream-name", "kinesis.stream_name", message),
            None => {}
        }
        let mut set = |flag: &'static str,
                       key: &str,
                       value: &Option<String>,
                       to: &mut String,
                       check: fn(String) -> Result<String, String>| {
            match value.clone().map(check) {
                Some(Ok(value)) => *to = value,
                Some(Err(message)) => refuse(flag, key, message),
                None => {}
            }
        };
        set("region", "kinesis.region", &self.region, &mut to.region, kinesis::checked_region);
        set("role-arn", "kinesis.role_arn", &self.role_arn, &mut to.role_arn, kinesis::checked_role_arn);
        let session = &mut to.role_session_name;
        let (key, check) = ("kinesis.role_session_name", kinesis::checked_session_name);
        set("role-session-name", key, &self.role_session_name, session, check);
        let parse = if as_fifo2kinesis { words::partition_key } else { PartitionKey::parse };
        match self.partition_key.clone().map(parse) {
            Some(Ok(key)) => to.partition_key = key,
            Some(Err(message)) => refuse("partition-key", "kinesis.partition_key", message),
            None => {}
        }
    }
}

/// A path on the command line begins where the program was started, if it does not begin with `/`.
fn absolute(path: &Path) -> PathBuf {
    // Of an empty one, and where there is no current directory, the check of the path says what is wrong.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
