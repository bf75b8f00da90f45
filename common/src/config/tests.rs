use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::units::{ByteSize, Span};

fn parse(text: &str) -> Result<Config, String> {
    let mut problems = Vec::new();
    let mut config = Config::default();
    file::apply(Path::new("b.toml"), text, &mut config, &mut problems);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }
}

/// The text is refused, and the message holds each of the words.
fn refused(text: &str, words: &[&str]) {
    let Err(message) = parse(text) else { panic!("accepted: {text}") };
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse(""), Ok(Config::default()));
}

#[test]
fn unknown_keys_are_refused_with_file_line_and_key() {
    refused("[ring]\nname = 'x'\nsise = '1MiB'\n", &["b.toml:3", "ring.sise", "sise", "size"]);
    refused("[kafak]\n", &["b.toml:1", "kafak"]);
    refused("[[directory]]\npath = '/a'\nquote = 1\n", &["b.toml:3", "directory.quote"]);
}

#[test]
fn wrong_values_are_refused_with_file_line_key_and_value() {
    refused("[ring]\nsize = '1 parsec'\n", &["b.toml:2", "ring.size", "1 parsec"]);
    refused("[ring]\n\nsize = '1KiB'\n", &["b.toml:3", "ring.size", "1KiB", "64KiB"]);
    refused("[ring]\nname = 'a/b'\n", &["b.toml:2", "ring.name", "a/b"]);
    refused("[event]\nencoder = 'xml'\n", &["b.toml:2", "event.encoder", "xml", "logstash"]);
    refused("[publisher]\nsink = 'carrier pigeon'\n", &["b.toml:2", "publisher.sink", "carrier pigeon"]);
    refused("[publisher]\nflush_interval = '5 weeks'\n", &["b.toml:2", "flush_interval", "5 weeks"]);
    refused("[publisher]\nbatch_records = 0\n", &["b.toml:2", "publisher.batch_records", "0"]);
    refused("[kafka]\nbrokers = []\n", &["b.toml:2", "kafka.brokers"]);
    refused("[kafka]\nbrokers = ['a:b']\n", &["b.toml:2", "kafka.brokers", "a:b"]);
    refused("[kafka]\ntopic = 'a b'\n", &["b.toml:2", "kafka.topic", "a b"]);
    refused("[kafka.aws]\niam = true\nregion = 'Here'\n", &["b.toml:3", "kafka.aws.region", "Here"]);
    refused("[kafka.aws]\niam = true\nrole_arn = 'admin'\n", &["b.toml:3", "kafka.aws.role_arn", "admin"]);
    refused("[kafka]\naws = { profile = 'p' }\n", &["b.toml:2", "`p`", "kafka.aws.iam = true"]);
    refused("[kinesis]\nstream_name = 'a b'\n", &["b.toml:2", "kinesis.stream_name", "a b"]);
    refused("[kinesis]\nendpoint_url = 'here'\n", &["b.toml:2", "kinesis.endpoint_url", "here", "https://"]);
    refused("[kinesis]\nrole_arn = 'admin'\n", &["b.toml:2", "kinesis.role_arn", "admin", "arn:aws:iam"]);
    refused("[kinesis]\nrole_session_name = 'a b'\n", &["b.toml:2", "kinesis.role_session_name", "a b"]);
    refused("[kinesis]\nrecord_bytes_max = '11MiB'\n", &["b.toml:2", "record_bytes_max", "11MiB", "10MiB"]);
    refused("[kinesis]\nrequests_max = 0\n", &["b.toml:2", "kinesis.requests_max", "0"]);
    refused("[kinesis]\nrecord_bytes_max = '4KiB'\n", &["b.toml:2", "record_bytes_max", "4KiB", "64KiB"]);
    refused("[kinesis]\nrequest_timeout = '1ms'\n", &["b.toml:2", "kinesis.request_timeout", "100ms"]);
    refused("[kinesis]\nrequest_timeout = 0\n", &["b.toml:2", "kinesis.request_timeout"]);
    refused("[ring\n", &["b.toml:1"]);
}

#[test]
fn a_name_that_cannot_be_is_refused_as_what_it_names() {
    refused(
        "[kafka]\ntransactional_id = \"\"",
        &["kafka.transactional_id", "`` cannot be a transactional id"],
    );
    refused("[kafka]\ntopic = \"a b\"", &["kafka.topic", "`a b` cannot name a topic"]);
}

#[test]
fn each_ring_has_a_spool_and_dead_letters_of_its_own_unless_told_otherwise() {
    let mut config = Config::default();
    let of = |config: &Config| (config.spool_directory(), config.failed_directory());
    assert_eq!(
        of(&config),
        (Some("/var/lib/bywash/spool".into()), Some("/var/lib/bywash/failed".into())),
        "that of the default ring"
    );
    let mut seen = vec![of(&config)];
    // One of these would lie in the default ring's, were they beside it.
    for ring in ["web", "spool", "rings"] {
        config.ring.name = ring.to_owned();
        for dir in [config.spool_place(), config.failed_directory().unwrap()] {
            assert!(!dir.starts_with("/var/lib/bywash/spool") && !dir.starts_with("/var/lib/bywash/failed"));
        }
        assert!(!seen.contains(&of(&config)));
        seen.push(of(&config));
    }
    config.spool.dir = Some("/spool".into());
    assert_eq!(config.spool_directory(), Some("/spool".into()));
}

#[test]
fn directories_must_be_absolute_and_apart() {
    let two = |a: &str, b: &str| format!("[[directory]]\npath = '{a}'\n[[directory]]\npath = '{b}'\n");
    refused(&two("/a", "b"), &["b.toml:4", "directory.path", "`b`"]);
    refused(&two("/a", "/a/b"), &["b.toml:4", "directory.path", "`/a/b`", "`/a`"]);
    refused(&two("/a/b", "/a"), &["b.toml:4", "`/a/b`"]);
    refused(&two("/a", "/b/../a"), &["b.toml:4", ".."]);
    refused(&two("/a", "/dev/shm"), &["b.toml:4", "/dev"]);
    refused(&two("/a", "/"), &["b.toml:4"]);
    assert!(parse(&two("/a", "/ab")).is_ok());
}

#[test]
fn excludes_and_quotas_are_checked() {
    let with = |line: &str| format!("[[directory]]\npath = '/a'\n{line}\n");
    let at = "b.toml:3";
    refused(&with("exclude = ['*.gz', 'a[']"), &[at, "directory.exclude", "a["]);
    refused(&with("quota = { bytes_per_second = 0 }"), &[at, "directory.quota", "`0`"]);
    refused(&with("quota = { files_tracked = 5 }"), &[at, "bytes_per_second"]);
    refused(&with("quota = { bytes_per_second = 1, files_tracked = 0 }"), &[at, "`0` files", "65536"]);
    refused(&with("quota = { bytes_per_second = 1, per_minute = 0 }"), &[at, "per_minute"]);
    refused(&with("quota = { bytes_per_second = 1, rule = 'law' }"), &[at, "quota", "law", "`account`"]);
    let quota = parse(&with("quota = { bytes_per_second = '500kB' }")).unwrap().directories[0].quota;
    let expected = QuotaConfig {
        bytes_per_second: ByteSize(500_000),
        burst_bytes: ByteSize(0),
        files_tracked: 20,
        rule: QuotaRule::Account,
    };
    assert_eq!(quota, Some(expected));
}

#[test]
fn what_sleeps_is_given_by_absolute_paths() {
    refused("[agent]\nsleep = ['a']\n", &["b.toml:2", "agent.sleep", "`a`"]);
    refused("[agent]\nstate_dir = 'a'\n", &["b.toml:2", "agent.state_dir", "`a`"]);
    refused("[[directory]]\npath = '/a'\nsubmounts = 'eat'\n", &["b.toml:3", "submounts", "eat", "`pass`"]);
    refused("[agent]\nrestart_wait = '11m'\n", &["b.toml:2", "agent.restart_wait", "660s", "600s"]);
    refused("[agent]\nstop_grace = '1h'\n", &["b.toml:2", "agent.stop_grace", "3600s", "600s"]);
    refused("[agent]\non_agent_exit = 'panic'\n", &["b.toml:2", "on_agent_exit", "panic", "`keep`"]);
    let config = parse("[agent]\nsleep = ['/a/']\n").unwrap();
    assert_eq!(config.agent.sleep, [PathBuf::from("/a")]);
}

#[test]
fn the_same_directory_twice_counts_once() {
    let config = parse("[[directory]]\npath = '/a/'\ntopic = 'x'\n[[directory]]\npath = '/a'\n");
    let paths = config.map(|c| c.directories.iter().map(|d| d.path.clone()).collect::<Vec<_>>());
    assert_eq!(paths, Ok(vec![PathBuf::from("/a")]));
}

#[test]
fn flags_come_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, "[kafka]\ntopic = 'file'\nbrokers = ['file:1']\n[[directory]]\npath = '/file'\n")
        .unwrap();
    let args = ConfigArgs {
        config: Some(path),
        topic: Some("flag".to_owned()),
        directory: vec!["/flag".into()],
        ..ConfigArgs::default()
    };
    let config = Config::load(&args).unwrap();
    assert_eq!(config.kafka.topic.text(), "flag");
    assert_eq!(config.kafka.brokers, ["file:1"]);
    assert_eq!(config.directories[0].path, Path::new("/flag"));
}

#[test]
fn a_wrong_flag_is_named() {
    let args = ConfigArgs { sink: Some("fax".to_owned()), ..ConfigArgs::default() };
    let message = Config::load(&args).unwrap_err().to_string();
    assert!(message.contains("--sink") && message.contains("fax"), "{message}");
}

#[test]
fn the_rings_name_is_told_of_a_file_in_which_something_else_is_wrong() {
    let named = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let args = ConfigArgs { config: Some(file.path().to_owned()), ..ConfigArgs::default() };
        assert!(Config::load(&args).is_err() || text.is_empty());
        Config::ring_name(&args)
    };
    assert_eq!(named("nonsense = 1\n[ring]\nname = 'mine'\n").as_deref(), Some("mine"));
    assert_eq!(named("[event]\nencoder = 7\n").as_deref(), Some("bywash"));
    assert_eq!(named("[ring]\nname = 7\n"), None);
    assert_eq!(named("[ring\nname = 'mine'\n"), None);
    let args = ConfigArgs { config: Some("/nonexistent/b.toml".into()), ..ConfigArgs::default() };
    assert_eq!(Config::ring_name(&args), None);
    assert_eq!(
        Config::ring_name(&ConfigArgs { ring: Some("mine".to_owned()), ..args }).as_deref(),
        Some("mine")
    );
}

#[test]
fn a_named_file_must_exist() {
    let args = ConfigArgs { config: Some("/nonexistent/b.toml".into()), ..ConfigArgs::default() };
    let message = Config::load(&args).unwrap_err().to_string();
    assert!(message.contains("/nonexistent/b.toml"), "{message}");
}

#[test]
fn what_is_printed_is_the_same_configuration_without_secrets() {
    let text = "[ring]\nsize = '1MiB'\ngroup = 'g'\n[event]\nencoder = 'text'\ntags = ['t']\n\
                fields = { b = '1', a = '2' }\n[[directory]]\npath = '/a'\ntopic = 'x'\nexclude = ['*.gz']\nsubmounts = 'pass'\n\
                quota = { bytes_per_second = 7, files_tracked = 3, rule = 'write' }\n[agent]\nsleep = ['/a']\non_agent_exit = 'keep'\nstate_dir = '/s'\nrestart_wait = '7s'\nstop_grace = '0s'\n\
                [publisher]\nflush_interval = '200ms'\nrecovery_bytes_per_second = '2MiB'\nage_max = '6h'\n[kafka]\nkey = 'k'\n\
                properties = { 'linger.ms' = 5, 'sasl.password' = 'hunter2' }\n";
    let mut config = parse(text).unwrap();
    let printed = config.print();
    assert!(!printed.contains("hunter2"), "{printed}");
    config.kafka.properties.insert("sasl.password".to_owned(), "[redacted]".to_owned());
    assert_eq!(parse(&printed), Ok(config));
}

#[test]
fn several_lines_are_an_event_by_a_start_a_continuation_or_indentation() {
    let with = |keys: &str| format!("[[directory]]\npath = '/a'\nframing = 'multiline'\n{keys}\n");
    let framing = |keys: &str| parse(&with(keys)).map(|config| config.directories[0].framing.clone());
    let pattern = |text: &str| Pattern::new(text.to_owned()).unwrap();
    let expected =
        |multiline| Ok(FramingConfig { by: Framing::Multiline, multiline, ..FramingConfig::default() });
    assert_eq!(framing(""), expected(MultilineConfig::default()));
    let (boundary, lines_max) = (Boundary::Start(pattern(r"^\d")), 7);
    let (timeout, bytes_max) = (Span(Duration::from_secs(2)), ByteSize(1024));
    let all = r"multiline = { start = '^\d', lines_max = 7, timeout = '2s', bytes_max = '1KiB' }";
    assert_eq!(framing(all), expected(MultilineConfig { boundary, timeout, lines_max, bytes_max }));
    let config = parse(&with(all)).unwrap();
    assert_eq!(parse(&config.print()), Ok(config));
    let boundary = Boundary::Continuation(pattern("^x|^y"));
    let rest = MultilineConfig::default();
    assert_eq!(
        framing("multiline = { continuation = '^x|^y' }"),
        expected(MultilineConfig { boundary, ..rest })
    );
}

#[test]
fn what_is_wrong_with_events_of_several_lines_is_named() {
    let with =
        |keys: &str| format!("[[directory]]\npath = '/a'\nframing = 'multiline'\nmultiline = {{ {keys} }}\n");
    let at = "b.toml:4";
    refused(&with("start = '('"), &[at, "directory.multiline", "`(`", "unclosed group"]);
    refused(&with("continuation = 'a{99999999}'"), &[at, "directory.multiline", "`a{99999999}`"]);
    refused(&with("start = 'a', continuation = 'b'"), &[at, "directory.multiline", "exclude one another"]);
    refused(&with("timeout = 0"), &[at, "directory.multiline", "`0s`", "1m"]);
    refused(&with("timeout = '61s'"), &[at, "directory.multiline", "`61s`", "1m"]);
    refused(&with("lines_max = 0"), &[at, "directory.multiline", "`0` lines", "100000"]);
    refused(&with("bytes_max = '17MiB'"), &[at, "directory.multiline", "`17MiB`", "16MiB"]);
    refused(&with("end = 'x'"), &[at, "directory.multiline", "end", "continuation"]);
    let fifo = "[[fifo]]\npath = '/p'\nframing = 'multiline'\n";
    refused(fifo, &["b.toml:3", "fifo.framing", "`multiline`", "without their ends", "[[directory]]"]);
}

#[test]
fn the_documents_examples_are_configurations() {
    for document in [include_str!("../../../docs/multiline.md"), include_str!("../../../docs/recovery.md")] {
        let examples: Vec<&str> = document.split("```toml\n").skip(1).collect();
        assert!(examples.len() >= 2, "{document}");
        for example in examples {
            let (example, _) = example.split_once("```").unwrap();
            assert_ne!(parse(example), Ok(Config::default()), "{example}");
            parse(example).unwrap_or_else(|message| panic!("{message}\n{example}"));
        }
    }
}

#[test]
fn an_empty_partition_key_is_the_path_and_random_is_none() {
    let key = |text: &str| {
        parse(&format!("[kinesis]\npartition_key = '{text}'\n")).map(|c| c.kinesis.partition_key)
    };
    assert_eq!(key(""), Ok(PartitionKey::Path));
    assert_eq!(key("random"), Ok(PartitionKey::Random));
    assert_eq!(key("k"), Ok(PartitionKey::Constant("k".to_owned())));
    assert!(key(&"k".repeat(257)).is_err());
}

#[test]
fn with_kinesis_the_default_topic_is_the_stream() {
    let config = parse("[publisher]\nsink = 'kinesis'\n[kinesis]\nstream_name = 's'\n").unwrap();
    assert_eq!((config.fixed_topic(), config.topic_of(Path::new("/f")).text()), ("s", "s"));
}

#[test]
fn a_directory_decides_the_topic_of_what_is_below_it() {
    let config = parse("[[directory]]\npath = '/a'\ntopic = 'x'\n[[directory]]\npath = '/b'\n").unwrap();
    assert_eq!(config.topic_of(Path::new("/a/f")).text(), "x");
    assert_eq!(config.topic_of(Path::new("/ab")).text(), "logs");
    assert_eq!(config.topic_of(Path::new("/b/f")).text(), "logs");
}

const SAMPLE: &str = include_str!("../../../conf/bywash.toml");

#[test]
fn the_sample_file_is_the_default_configuration() {
    assert_eq!(parse(SAMPLE), Ok(Config::default()));
}

#[test]
fn the_sample_file_shows_every_key_and_no_other() {
    // What is set only as an example is a comment in the sample.
    let example = |line: &str| {
        let bare =
            line.strip_prefix('#').filter(|l| l.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()));
        bare.filter(|l| l.starts_with('[') || l.contains(" = ")).unwrap_or(line).to_owned()
    };
    let all: String = SAMPLE.lines().map(|line| example(line) + "\n").collect();
    parse(&all).unwrap_or_else(|message| panic!("{message}\n{all}"));
    let shown: toml::Table = toml::from_str(&all).unwrap();
    let full = parse(&all).unwrap();
    let printed: toml::Table = toml::from_str(&full.print()).unwrap();
    let keys = |table: &toml::Table| {
        let mut keys = Vec::new();
        for (section, value) in table {
            let table = value.as_table().or_else(|| value.as_array()?.first()?.as_table()).unwrap();
            keys.extend(table.keys().map(|key| format!("{section}.{key}")));
        }
        keys.sort();
        keys
    };
    assert_eq!(keys(&shown), keys(&printed));
}

#[test]
fn metrics_are_served_at_an_address_in_numbers_or_nowhere() {
    let listen = |text: &str| parse(&format!("[metrics]\nlisten = '{text}'\n")).map(|c| c.metrics.listen);
    assert_eq!((listen(""), Config::default().metrics.listen), (Ok(None), None));
    for address in ["127.0.0.1:9598", "[::1]:0", "0.0.0.0:65535"] {
        assert_eq!(listen(address), Ok(Some(address.parse().unwrap())));
        let config = parse(&format!("[metrics]\nlisten = '{address}'\n")).unwrap();
        assert_eq!(parse(&config.print()), Ok(config));
    }
    for wrong in
        ["localhost:9598", "127.0.0.1", ":9598", "9598", "127.0.0.1:65536", "::1:9598", " 127.0.0.1:1"]
    {
        let text = format!("\n[metrics]\nlisten = '{wrong}'\n");
        refused(&text, &["b.toml:3", "metrics.listen", &format!("`{wrong}`"), "IP:PORT", "not looked up"]);
    }
    refused("[metrics]\nlisten = 9598\n", &["b.toml:2", "metrics.listen", "9598"]);
    refused("[metrics]\nport = 9598\n", &["b.toml:2", "metrics.port", "listen"]);
}

#[test]
fn a_fifo_has_every_key() {
    let text = "[[fifo]]\npath = '/run//a.pipe'\ncreate = true\nmode = '0622'\nowner = 'o'\ngroup = 'g'\n\
                topic = 't'\nframing = 'chunk'\non_full = 'wait'\nempty_lines = 'skip'\nline_bytes_max = '1KiB'\n\
                line_idle = '200ms'\npipe_size = '64KiB'\n";
    let config = parse(text).unwrap();
    let expected = FifoConfig {
        create: true,
        mode: 0o622,
        owner: Some("o".to_owned()),
        group: Some("g".to_owned()),
        topic: Some("t".into()),
        framing: FifoFraming::Chunk,
        on_full: OnFull::Wait,
        empty_lines: EmptyLines::Skip,
        line_bytes_max: ByteSize(1024),
        line_idle: Span(Duration::from_millis(200)),
        pipe_size: ByteSize(64 << 10),
        ..FifoConfig::at("/run/a.pipe".into())
    };
    assert_eq!(config.fifos, [expected]);
    assert_eq!(parse(&config.print()), Ok(config));
}

#[test]
fn what_is_wrong_with_a_fifo_is_named() {
    let with = |key: &str| format!("[[fifo]]\npath = '/a'\n{key}\n");
    refused(&with("quota = 1"), &["b.toml:3", "fifo.quota"]);
    refused(&with("mode = '0999'"), &["b.toml:3", "fifo.mode", "0999"]);
    refused(&with("mode = '4755'"), &["b.toml:3", "fifo.mode", "4755"]);
    refused(&with("framing = 'word'"), &["b.toml:3", "fifo.framing", "word", "chunk"]);
    refused(&with("on_full = 'block'"), &["b.toml:3", "fifo.on_full", "block", "wait"]);
    refused(&with("empty_lines = 'no'"), &["b.toml:3", "fifo.empty_lines", "no", "skip"]);
    refused(&with("line_bytes_max = 0"), &["b.toml:3", "fifo.line_bytes_max", "0"]);
    refused(&with("line_bytes_max = '1GiB'"), &["b.toml:3", "fifo.line_bytes_max", "1GiB", "64MiB"]);
    refused(&with("line_idle = 0"), &["b.toml:3", "fifo.line_idle", "0"]);
    refused(&with("pipe_size = 1"), &["b.toml:3", "fifo.pipe_size", "4KiB"]);
    refused("[[fifo]]\npath = 'a'\n", &["b.toml:2", "fifo.path", "`a`"]);
    refused("[[fifo]]\npath = '/a'\n[[fifo]]\npath = '/a/'\n", &["b.toml:4", "fifo.path", "`/a`", "twice"]);
    let under = "[[fifo]]\npath = '/d/a'\n[[directory]]\npath = '/d'\n";
    refused(under, &["b.toml:2", "fifo.path", "`/d/a`", "`/d`"]);
}

#[test]
fn a_fifo_decides_its_topic() {
    let config = parse("[[fifo]]\npath = '/a'\ntopic = 'x'\n[[fifo]]\npath = '/b'\n").unwrap();
    assert_eq!(config.topic_of(Path::new("/a")).text(), "x");
    assert_eq!(config.topic_of(Path::new("/a/f")).text(), "logs");
    assert_eq!(config.topic_of(Path::new("/b")).text(), "logs");
}

/// What comes of flags, and of a file.
fn load(args: ConfigArgs, file: &str) -> Result<Config, String> {
    let file_path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file_path.path(), file).unwrap();
    let args = ConfigArgs { config: Some(file_path.path().to_owned()), ..args };
    Config::load(&args).map_err(|error| error.to_string())
}

/// The file is refused, also for what is only wrong as a whole, and the message holds each of the words.
fn refused_whole(text: &str, words: &[&str]) {
    let Err(message) = load(ConfigArgs::default(), text) else { panic!("accepted: {text}") };
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[test]
fn a_fifo_named_as_fifo2kinesis_did_brings_its_defaults_and_all_else_goes_before_them() {
    let flag = || ConfigArgs { fifo_name: Some("/run/p".into()), ..ConfigArgs::default() };
    let config = load(flag(), "").unwrap();
    assert_eq!(config.fifos, [FifoConfig::at("/run/p".into())]);
    assert_eq!((config.publisher.sink, config.event.encoder), (Sink::Kinesis, Encoder::Raw));
    assert_eq!(config.publisher.batch_records, Some(500));
    assert_eq!(config.publisher.flush_interval, Some(Span(Duration::from_secs(5))));
    assert_eq!(config.kinesis.partition_key, PartitionKey::Random);
    let file = "[publisher]\nsink = 'kafka'\nbatch_records = 7\n[event]\nencoder = 'text'\n[kinesis]\npartition_key = 'k'\n";
    let config = load(flag(), file).unwrap();
    assert_eq!((config.publisher.sink, config.event.encoder), (Sink::Kafka, Encoder::Text));
    assert_eq!(config.publisher.batch_records, Some(7));
    assert_eq!(config.kinesis.partition_key, PartitionKey::Constant("k".to_owned()));
    let logger =
        ConfigArgs { flush_handler: Some("logger".to_owned()), buffer_queue_limit: Some(1), ..flag() };
    let config = load(logger, file).unwrap();
    assert_eq!((config.publisher.sink, config.publisher.batch_records), (Sink::Stdout, Some(1)));
    let plain = ConfigArgs { fifo: vec!["/run/p".into()], ..ConfigArgs::default() };
    assert_eq!(load(plain, "").unwrap().event.encoder, Encoder::LogstashBase64);
}

#[test]
fn wrong_flags_of_fifo2kinesis_are_named() {
    let refused = |args: ConfigArgs, words: &[&str]| {
        let Err(message) = load(args, "") else { panic!("accepted: {words:?}") };
        words.iter().for_each(|word| assert!(message.contains(word), "`{word}` is not in: {message}"));
    };
    let args = ConfigArgs::default;
    refused(
        ConfigArgs { flush_handler: Some("fax".to_owned()), ..args() },
        &["--flush-handler", "fax", "logger"],
    );
    let both = ConfigArgs { flush_handler: Some("logger".into()), sink: Some("kafka".into()), ..args() };
    refused(both, &["--flush-handler", "--sink"]);
    refused(ConfigArgs { stream_name: Some("a b".to_owned()), ..args() }, &["--stream-name", "a b"]);
    refused(ConfigArgs { role_arn: Some("me".to_owned()), ..args() }, &["--role-arn", "me"]);
    refused(ConfigArgs { role_session_name: Some("?".to_owned()), ..args() }, &["--role-session-name", "?"]);
    refused(ConfigArgs { partition_key: Some("k".repeat(300)), ..args() }, &["--partition-key"]);
    let twice = ConfigArgs { fifo: vec!["/a".into()], fifo_name: Some("/a".into()), ..args() };
    refused(twice, &["--fifo-name", "/a", "twice"]);
}

#[test]
fn the_variables_of_fifo2kinesis_stand_for_its_flags() {
    let values = [
        ("FIFO_NAME", "/run/p"),
        ("STREAM_NAME", "s"),
        ("PARTITION_KEY", "k"),
        ("BUFFER_QUEUE_LIMIT", "1"),
        ("FLUSH_INTERVAL", "0"),
        ("FLUSH_HANDLER", "logger"),
        ("REGION", "eu-west-1"),
        ("ROLE_ARN", "arn:aws:iam::1:role/r"),
        ("ROLE_SESSION_NAME", "me"),
    ];
    let look_up = |name: &str| {
        let bare = name.strip_prefix(legacy::fifo2kinesis::PREFIX)?;
        values.iter().find(|(name, _)| *name == bare).map(|(_, value)| (*value).into())
    };
    let mut problems = Vec::new();
    let flags = legacy::fifo2kinesis::flags(look_up, &mut problems);
    let mut config = Config::default();
    flags.apply(&mut config, true, &mut problems);
    assert_eq!(problems, []);
    assert_eq!(config.fifos, [FifoConfig::at("/run/p".into())]);
    assert_eq!((config.publisher.batch_records, config.publisher.sink), (Some(1), Sink::Stdout));
    assert_eq!(config.publisher.flush_interval, Some(Span(Duration::ZERO)));
    assert_eq!((config.kinesis.stream_name.text(), &*config.kinesis.region), ("s", "eu-west-1"));
    assert_eq!(config.kinesis.partition_key, PartitionKey::Constant("k".to_owned()));
    assert_eq!(
        (&*config.kinesis.role_arn, &*config.kinesis.role_session_name),
        ("arn:aws:iam::1:role/r", "me")
    );

    let flags =
        legacy::fifo2kinesis::flags(|name| name.ends_with("INTERVAL").then(|| "soon".into()), &mut problems);
    assert_eq!(flags.flush_interval, None);
    assert!(
        problems[0].to_string().contains("FIFO2KINESIS_FLUSH_INTERVAL")
            && problems[0].message.contains("soon")
    );
    assert!(
        legacy::fifo2kinesis::flags(|_| Some("".into()), &mut problems).fifo_name.is_none(),
        "empty is unset"
    );
}

#[test]
fn a_variable_that_is_not_utf_8_is_refused_and_not_passed_over() {
    use std::os::unix::ffi::OsStringExt;
    let odd = || std::ffi::OsString::from_vec(b"/run/\xff".to_vec());
    for name in ["STREAM_NAME", "PARTITION_KEY", "BUFFER_QUEUE_LIMIT", "FLUSH_HANDLER", "REGION", "DEBUG"] {
        let mut problems = Vec::new();
        legacy::fifo2kinesis::flags(|variable| variable.ends_with(name).then(odd), &mut problems);
        let message = problems.iter().map(ToString::to_string).collect::<String>();
        assert!(
            message.contains(&format!("FIFO2KINESIS_{name}")) && message.contains("UTF-8"),
            "{name}: {message}"
        );
    }
    // A path may be any bytes.
    let flags = legacy::fifo2kinesis::flags(|name| name.ends_with("FIFO_NAME").then(odd), &mut Vec::new());
    assert_eq!(flags.fifo_name, Some(odd().into()));
}

/// The arguments of a command line, some of which are variables' values.
fn layered(args: ConfigArgs, variables: &[&str]) -> ConfigArgs {
    ConfigArgs { layers: Layers::of_variables(variables), ..args }
}

#[test]
fn what_is_typed_goes_before_a_variable_also_where_two_flags_stand_for_one_key() {
    let sink = |variables: &[&str]| {
        let args = ConfigArgs {
            sink: Some("kafka".to_owned()),
            flush_handler: Some("logger".to_owned()),
            ..ConfigArgs::default()
        };
        load(layered(args, variables), "").map(|config| config.publisher.sink)
    };
    assert_eq!(sink(&["sink"]), Ok(Sink::Stdout));
    assert_eq!(sink(&["flush-handler"]), Ok(Sink::Kafka));
    for (variables, words) in [
        (&[][..], ["--flush-handler", "--sink"]),
        (&["sink", "flush-handler"][..], ["BYWASH_FLUSH_HANDLER", "BYWASH_SINK"]),
    ] {
        let message = sink(variables).unwrap_err();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    let fifos = |variables: &[&str]| {
        let args =
            ConfigArgs { fifo: vec!["/a".into()], fifo_name: Some("/b".into()), ..ConfigArgs::default() };
        let config = load(layered(args, variables), "").unwrap();
        (config.fifos.into_iter().map(|fifo| fifo.path).collect::<Vec<_>>(), config.event.encoder)
    };
    assert_eq!(fifos(&["fifo-name"]), (vec!["/a".into()], Encoder::LogstashBase64));
    assert_eq!(fifos(&["fifo"]), (vec!["/b".into()], Encoder::Raw));
    assert_eq!(fifos(&[]).0, [Path::new("/a"), Path::new("/b")]);
}

#[test]
fn a_wrong_variable_is_named() {
    let args = ConfigArgs { topic: Some("a b".to_owned()), ..ConfigArgs::default() };
    let message = load(layered(args, &["topic"]), "").unwrap_err();
    assert!(message.contains("BYWASH_TOPIC") && message.contains("a b"), "{message}");
}

#[test]
fn a_path_on_the_command_line_begins_where_the_program_was_started() {
    let here = std::env::current_dir().unwrap();
    let args = ConfigArgs {
        fifo_name: Some("./p".into()),
        failed_attempts_dir: Some("failed".into()),
        directory: vec!["a".into()],
        ..ConfigArgs::default()
    };
    let config = load(args, "").unwrap();
    assert_eq!(config.fifos[0].path, here.join("p"));
    assert_eq!(config.failed.dir, Some(here.join("failed")));
    assert_eq!(config.directories[0].path, here.join("a"));
}

#[test]
fn a_variable_names_several_directories_with_colons_between() {
    let args = ConfigArgs { directory: vec!["/a:/b".into()], ..ConfigArgs::default() };
    let paths = |args| load(args, "").unwrap().directories.into_iter().map(|d| d.path).collect::<Vec<_>>();
    assert_eq!(paths(layered(args.clone(), &["directory"])), [Path::new("/a"), Path::new("/b")]);
    assert_eq!(paths(args), [Path::new("/a:/b")]);
}

#[test]
fn a_partition_key_means_to_fifo2kinesis_users_what_it_meant() {
    let key = |fifo_name: Option<&str>, key: &str| {
        let args = ConfigArgs {
            fifo_name: fifo_name.map(Into::into),
            partition_key: Some(key.to_owned()),
            ..ConfigArgs::default()
        };
        load(args, "").map(|config| config.kinesis.partition_key)
    };
    assert_eq!(key(Some("/p"), ""), Ok(PartitionKey::Random));
    assert_eq!(key(None, ""), Ok(PartitionKey::Path));
    assert!(key(Some("/p"), "random").is_err_and(|message| message.contains("--partition-key")));
    assert_eq!(key(None, "random"), Ok(PartitionKey::Random));
}

#[test]
fn topics_of_directories_and_fifos_are_checked_by_the_rules_of_their_sink() {
    let with = |sink: &str, section: &str, topic: &str| {
        let text = format!("[publisher]\nsink = '{sink}'\n[[{section}]]\npath = '/a'\ntopic = '{topic}'\n");
        load(ConfigArgs::default(), &text)
    };
    for section in ["directory", "fifo"] {
        for (sink, topic) in
            [("kafka", "a b"), ("kafka", ""), ("kinesis", "a b"), ("kinesis", ""), ("stdout", "a/b")]
        {
            let message = with(sink, section, topic).unwrap_err();
            assert!(message.contains(&format!(":5: {section}.topic: `{topic}`")), "{message}");
        }
        let long = "t".repeat(200);
        assert!(with("kafka", section, &long).is_ok() && with("kinesis", section, &long).is_err());
    }
}

#[test]
fn headers_that_each_message_has_or_none_can_have_are_refused() {
    let config = parse("[kafka]\nheaders = { team = 'web', b = '' }\n").unwrap();
    assert_eq!(config.kafka.headers.get_index(0), Some((&"team".to_owned(), &"web".to_owned())));
    assert!(config.print().contains("[kafka.headers]\nteam = \"web\""), "{}", config.print());
    refused(
        "[kafka]\nheaders = { event_id = 'x' }\n",
        &["b.toml:2", "kafka.headers", "`event_id`", "another"],
    );
    refused("[kafka.headers]\na = 'b'\nencoder = 'x'\n", &["b.toml:3", "kafka.headers.encoder", "`encoder`"]);
    refused("[kafka.headers]\n'' = 'x'\n", &["b.toml:2", "``"]);
    refused("[kafka.headers]\n\"a\\u0000\" = 'x'\n", &["b.toml:2", "a\\0", "control"]);
    let long = "x".repeat(9 << 10);
    refused(&format!("[kafka.headers]\na = '{long}'\nb = '{long}'\n"), &["b.toml:3", "`b`", "16384"]);
}

#[test]
fn a_topic_a_stream_and_a_key_can_be_templates() {
    let config = parse(
        "[publisher]\nfallback_topic = 'rest'\ntopics_max = 3\n[kafka]\ntopic = 'logs.{dir1}'\nkey = '{user}:{path}'\n\
         [[directory]]\npath = '/a'\ntopic = 'a.{stem}'\n[[fifo]]\npath = '/run/p'\ntopic = '{host}.{fields.app}'\n\
         [event]\nfields = { app = 'x' }\n",
    )
    .unwrap();
    let templates: Vec<_> = config.templates().map(Template::text).collect();
    assert_eq!(templates, ["a.{stem}", "{host}.{fields.app}", "logs.{dir1}"]);
    assert_eq!(config.key_template().unwrap().text(), "{user}:{path}");
    assert_eq!((config.fixed_topic(), config.fallback_topic(), config.key_of(None)), ("rest", "rest", None));
    let printed = config.print();
    for word in
        ["topic = \"logs.{dir1}\"", "key = \"{user}:{path}\"", "topics_max = 3", "topic = \"a.{stem}\""]
    {
        assert!(printed.contains(word), "`{word}` is not in: {printed}");
    }
    let kinesis = "[publisher]\nsink = 'kinesis'\n[[directory]]\npath = '/a'\ntopic = 'a.{stem}'\n[kinesis]\nstream_name = 's'\n";
    let config = parse(&format!("{kinesis}partition_key = '{{dir1}}'\n")).unwrap();
    assert_eq!((config.fixed_topic(), config.fallback_topic()), ("s", "s"));
    assert_eq!(config.key_template().unwrap().text(), "{dir1}");
    assert!(
        parse("[publisher]\nsink = 'stdout'\n[kafka]\ntopic = 'l.{dir1}'\n")
            .unwrap()
            .templates()
            .next()
            .is_none()
    );
}

#[test]
fn what_is_wrong_with_a_template_is_named_with_the_way_out() {
    refused_whole("[kafka]\ntopic = 'logs.{dirr}'\n", &[":2", "kafka.topic", "{dirr}", "{dir1} to {dir9}"]);
    refused_whole("[kafka]\ntopic = 'logs.{dir1}'\n", &[":2", "kafka.topic", "publisher.fallback_topic"]);
    refused_whole("[kafka]\ntopic = 'a b.{dir1}'\n", &[":2", "kafka.topic", "a b.x", "for each placeholder"]);
    refused_whole("[kafka]\nkey = '{pth}'\n", &[":2", "kafka.key", "{pth}", "{path}"]);
    refused_whole("[kafka]\nkey = '{fields.app}'\n", &[":2", "kafka.key", "`app`", "event.fields is empty"]);
    refused_whole("[publisher]\ntopics_max = 0\n", &[":2", "publisher.topics_max", "`0`"]);
    refused_whole("[publisher]\nfallback_topic = '{host}'\n", &[":2", "publisher.fallback_topic", "{host}"]);
    let directory = "[[directory]]\npath = '/a'\ntopic = ";
    refused_whole(
        &format!("{directory}'{{dir1}}'\n"),
        &[":3", "directory.topic", "every topic there is", "logs.{dir1}"],
    );
    refused_whole(
        &format!("{directory}'x.{{fields.no}}'\n[event]\nfields = {{ app = 'x' }}\n"),
        &["directory.topic", "`no`", "has app"],
    );
    let kinesis = "[publisher]\nsink = 'kinesis'\n[kinesis]\n";
    refused_whole(
        &format!("{kinesis}stream_name = 's.{{dir1}}'\n"),
        &[":4", "kinesis.stream_name", "fallback_topic"],
    );
    let long = "x".repeat(200);
    refused_whole(
        &format!("{kinesis}stream_name = 's'\n{directory}'{long}{{dir1}}'\n"),
        &["directory.topic", "128"],
    );
    assert!(parse(&format!("{directory}'{long}{{dir1}}'\n")).is_ok());
}

#[test]
fn a_topic_for_dead_letters_is_kafkas_and_theirs_alone() {
    let config = parse("[failed]\ntopic = 'dead'\n").unwrap();
    assert_eq!(config.failed_topic(), Some("dead"));
    assert!(config.print().contains("topic = \"dead\""), "{}", config.print());
    assert_eq!(
        parse("[publisher]\nsink = 'stdout'\n[failed]\ntopic = 'dead'\n").unwrap().failed_topic(),
        None
    );
    refused_whole("[failed]\ntopic = 'a b'\n", &[":2", "failed.topic", "a b"]);
    refused_whole("[failed]\ntopic = 'logs'\n", &[":2", "failed.topic", "`logs` is the topic of events"]);
    refused_whole(
        "[failed]\nsize_max = 0\ntopic = 'dead'\n",
        &[":3", "failed.topic", "failed.size_max is 0"],
    );
    refused_whole(
        "[publisher]\nsink = 'kinesis'\n[kinesis]\nstream_name = 's'\n[failed]\ntopic = 'dead'\n",
        &[":6", "failed.topic", "Kinesis has no headers", "leave the key out"],
    );
}

#[test]
fn the_examples_of_the_documents_are_configurations() {
    let document = include_str!("../../../docs/kafka.md");
    let examples = document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let checked = examples.map(|example| parse(example).unwrap_or_else(|error| panic!("{error}: {example}")));
    let topics: Vec<_> = checked.filter_map(|config| config.failed_topic().map(str::to_owned)).collect();
    assert_eq!(topics, ["bywash-failed"]);
}

#[test]
fn addresses_that_nobody_can_have_are_refused() {
    let brokers = |broker: &str| parse(&format!("[kafka]\nbrokers = ['{broker}']\n"));
    for broker in [
        "localhost:0",
        "http://a:9092",
        "a:9092:1",
        "a b:9092",
        ":9092",
        "::1:9092",
        "a:99999",
        "a:-1",
        "a:+1",
        "[::1",
        "a/b:1",
    ] {
        assert!(brokers(broker).is_err_and(|message| message.contains(broker)), "{broker}");
    }
    for broker in ["localhost", "a:9092", "[::1]:9092", "[::1]", "PLAINTEXT://a:9092", "ssl://[fe80::1]:1"] {
        assert!(brokers(broker).is_ok(), "{broker}");
    }
    let kinesis = |key: &str, value: &str| parse(&format!("[kinesis]\n{key} = '{value}'\n"));
    for (key, value) in [
        ("region", "moon base"),
        ("region", "US"),
        ("endpoint_url", "http://"),
        ("endpoint_url", "https://a b"),
        ("endpoint_url", "http://a:99999"),
        ("endpoint_url", "http://a:"),
        ("profile", "a]"),
    ] {
        assert!(kinesis(key, value).is_err_and(|message| message.contains(value)), "{key} = {value}");
    }
    for (key, value) in [
        ("region", "us-gov-west-1"),
        ("endpoint_url", "http://[::1]:4567/x"),
        ("endpoint_url", "https://[::1]"),
        ("endpoint_url", "https://vpce-1-2.kinesis.eu-west-1.vpce.amazonaws.com"),
    ] {
        assert!(kinesis(key, value).is_ok(), "{key} = {value}");
    }
    refused("[[fifo]]\npath = '/'\n", &["fifo.path", "root"]);
    refused("[[fifo]]\npath = \"/a\\u0000b\"\n", &["fifo.path", "NUL"]);
    refused("[[fifo]]\npath = '/a'\nmode = '+620'\n", &["fifo.mode", "+620"]);
    refused("[ring]\ngroup = ''\n", &["ring.group"]);
}

#[test]
fn what_is_no_toml_or_of_another_type_gets_the_way_out() {
    refused("[ring]\nname = new4\n", &["b.toml:2", "ring.name", "in quotes"]);
    refused("[kafka]\nbrokers = 'localhost:9092'\n", &["b.toml:2", "kafka.brokers", "[\"localhost:9092\"]"]);
    refused("[[fifo]]\npath = '/a'\nmode = 620\n", &["b.toml:3", "fifo.mode", "\"620\"", "in quotes"]);
    refused("junk\n", &["b.toml:1: key with no value", "key = value", ".properties"]);
    refused("[kafka]\nproperties = { a = 1.5 }\n", &["1.5", "whole number"]);
    refused("[publisher]\nshutdown_timeout = true\n", &["b.toml:2", "shutdown_timeout", "a duration"]);
    refused("[publisher]\nshutdown_timeout = '400d'\n", &["b.toml:2", "shutdown_timeout", "400d", "365d"]);
}

#[test]
fn what_is_in_effect_where_nothing_is_set_is_printed_as_a_comment() {
    let printed = |text: &str| parse(text).unwrap().print();
    let unset = printed("[kafka]\ndelivery = 'exactly_once'\n");
    for key in ["spool.dir", "failed.dir", "kafka.transactional_id"] {
        assert!(unset.contains(&format!("\n# {key} is not set: ")), "{unset}");
    }
    let set = printed("[spool]\ndir = '/s'\n[failed]\nsize_max = 0\n");
    assert!(!set.contains("is not set"), "{set}");
}
