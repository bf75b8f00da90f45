use std::path::Path;

use super::*;

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
    refused("[kinesis]\nstream_name = 'a b'\n", &["b.toml:2", "kinesis.stream_name", "a b"]);
    refused("[kinesis]\nendpoint_url = 'here'\n", &["b.toml:2", "kinesis.endpoint_url", "here", "https://"]);
    refused("[kinesis]\nrole_arn = 'admin'\n", &["b.toml:2", "kinesis.role_arn", "admin", "arn:aws:iam"]);
    refused("[kinesis]\nrole_session_name = 'a b'\n", &["b.toml:2", "kinesis.role_session_name", "a b"]);
    refused("[kinesis]\nrecord_bytes_max = '11MiB'\n", &["b.toml:2", "record_bytes_max", "11MiB", "10MiB"]);
    refused("[kinesis]\nrequests_max = 0\n", &["b.toml:2", "kinesis.requests_max", "0"]);
    refused("[kinesis]\nrequest_timeout = 0\n", &["b.toml:2", "kinesis.request_timeout"]);
    refused("[ring\n", &["b.toml:1"]);
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
    assert_eq!(config.kafka.topic, "flag");
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
fn a_named_file_must_exist() {
    let args = ConfigArgs { config: Some("/nonexistent/b.toml".into()), ..ConfigArgs::default() };
    let message = Config::load(&args).unwrap_err().to_string();
    assert!(message.contains("/nonexistent/b.toml"), "{message}");
}

#[test]
fn what_is_printed_is_the_same_configuration_without_secrets() {
    let text = "[ring]\nsize = '1MiB'\ngroup = 'g'\n[event]\nencoder = 'text'\ntags = ['t']\n\
                fields = { b = '1', a = '2' }\n[[directory]]\npath = '/a'\ntopic = 'x'\n\
                [publisher]\nflush_interval = '200ms'\n[kafka]\nkey = 'k'\n\
                properties = { 'linger.ms' = 5, 'sasl.password' = 'hunter2' }\n";
    let mut config = parse(text).unwrap();
    let printed = config.print();
    assert!(!printed.contains("hunter2"), "{printed}");
    config.kafka.properties.insert("sasl.password".to_owned(), "[redacted]".to_owned());
    assert_eq!(parse(&printed), Ok(config));
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
    assert_eq!((config.default_topic(), config.topic_of(Path::new("/f"))), ("s", "s"));
}

#[test]
fn a_directory_decides_the_topic_of_what_is_below_it() {
    let config = parse("[[directory]]\npath = '/a'\ntopic = 'x'\n[[directory]]\npath = '/b'\n").unwrap();
    assert_eq!(config.topic_of(Path::new("/a/f")), "x");
    assert_eq!(config.topic_of(Path::new("/ab")), "logs");
    assert_eq!(config.topic_of(Path::new("/b/f")), "logs");
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
    let mut full = parse(&all).unwrap();
    full.directories[0].topic = Some("t".to_owned());
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
