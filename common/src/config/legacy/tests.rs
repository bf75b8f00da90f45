use std::path::PathBuf;

use super::*;
use crate::config::{Encoder, LogLevel, Sink};

fn parse(text: &str) -> Result<Config, String> {
    let mut problems = Vec::new();
    let mut config = Config::default();
    apply(Path::new("f.properties"), text, &mut config, &mut problems);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }
}

/// The text is refused, and the message holds each of the words.
#[track_caller]
fn refused(text: &str, words: &[&str]) {
    let Err(message) = parse(text) else { panic!("accepted: {text}") };
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[test]
fn a_file_is_known_by_its_name_or_its_first_key() {
    for (path, text) in [
        ("x.properties", ""),
        ("fuse_kafka.conf", "# comment\n\n  fuse_kafka_topic=[\"a\"]\n"),
        ("x", "monitoring_logging_topic = [\"a\"]"),
        ("x", "monitoring_top_substitutions=[]"),
    ] {
        assert!(is_fuse_kafka(Path::new(path), text), "{path}: {text}");
    }
    for text in ["", "# fuse_kafka_topic=[]\n[kafka]\n", "[ring]\nfuse_kafka_topic=[]", "fuse_kafka_topic"] {
        assert!(!is_fuse_kafka(Path::new("bywash.toml"), text), "{text}");
    }
}

#[test]
fn keys_have_the_meaning_that_they_had() {
    let config = parse(
        "fuse_kafka_directories=[\"/a\", \"/b/\", \"/a/.\"]\nfuse_kafka_topic=[\"t\"]\n\
         fuse_kafka_brokers=[\"b1:1,b2:2\", \"b3:3\"]\nfuse_kafka_fields={\"z\": \"1\", \"a\": 2}\n\
         fuse_kafka_tags=[\"x\"]\nfuse_kafka_tags=[\"y\"]\nfuse_kafka_sleep=[\"/a\"]\n\
         fuse_kafka_output=[\"stdout\"]\nfuse_kafka_encoder=[\"text\"]\nfuse_kafka_debug=[\"false\"]\n\
         fuse_kafka_input=[\"overlay\"]\nfuse_kafka_persist=[]\nanother_programs_key=1\n",
    )
    .unwrap();
    let paths: Vec<_> = config.directories.iter().map(|d| (d.path.clone(), d.create)).collect();
    assert_eq!(paths, [(PathBuf::from("/a"), true), (PathBuf::from("/b"), true)]);
    assert_eq!((config.kafka.topic.as_str(), config.publisher.sink), ("t", Sink::Stdout));
    assert_eq!(config.kafka.brokers, ["b1:1", "b2:2", "b3:3"]);
    let fields: Vec<_> =
        config.event.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(fields, [("z", "1"), ("a", "2")]);
    assert_eq!(config.event.tags, ["x", "y"]);
    assert_eq!(config.event.encoder, Encoder::Text);
    assert_eq!(config.agent.sleep, [PathBuf::from("/a")]);
    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn excluded_files_and_the_quota_hold_for_all_directories() {
    let config = parse(
        "fuse_kafka_quota=[500000]\nfuse_kafka_excluded_files=[\"*.gz\", \"core\"]\n\
         fuse_kafka_directories=[\"/a\", \"/b\"]\n",
    )
    .unwrap();
    assert_eq!(config.directories.len(), 2);
    for directory in &config.directories {
        let quota = directory.quota.unwrap();
        assert_eq!((quota.bytes_per_second.0, quota.burst_bytes.0, quota.files_tracked), (500_000, 0, 20));
        assert!(directory.exclude.match_path(b"/x/y.gz") && !directory.exclude.match_path(b"/core"));
    }
    let two = parse("fuse_kafka_directories=[\"/a\"]\nfuse_kafka_quota=[1, \"7\"]").unwrap();
    assert_eq!(two.directories[0].quota.unwrap().files_tracked, 7);
    refused("fuse_kafka_quota=[0]", &["f.properties:1", "fuse_kafka_quota", "`0`"]);
    refused("fuse_kafka_quota=[\"fast\"]", &["fuse_kafka_quota", "fast"]);
}

#[test]
fn the_older_names_of_keys_are_taken_too() {
    let config = parse("monitoring_logging_topic=[\"old\"]\nmonitoring_top_substitutions=[\"x\"]\n").unwrap();
    assert_eq!(config.kafka.topic, "old");
}

#[test]
fn the_sample_configuration_is_taken_as_it_is() {
    let config = parse(include_str!("../../../../tests/fixtures/fuse_kafka.properties")).unwrap();
    assert_eq!(config.kafka.zookeepers, ["127.0.0.1:2181"]);
    assert_eq!(config.directories[0].path, Path::new("/tmp/fuse-kafka-test"));
}

#[test]
fn what_is_not_given_is_as_fuse_kafka_had_it() {
    assert_eq!(parse(""), Ok(Config::default()));
}

#[test]
fn what_has_no_counterpart_is_refused_by_name_with_the_new_way() {
    refused(
        "\nfuse_kafka_input=[\"example\"]",
        &["f.properties:2", "fuse_kafka_input", "example", "overlay"],
    );
    refused("fuse_kafka_input=[\"inotify_nonrecursive\"]", &["f.properties:1", "fuse_kafka_excluded_files"]);
    refused("fuse_kafka_input=[\"read_directory_changes\"]", &["read_directory_changes", "overlay"]);
    refused("fuse_kafka_output=[\"carrier\"]", &["fuse_kafka_output", "carrier", "kafka", "stdout"]);
    refused("fuse_kafka_encoder=[\"fpenzoyr_logstash\"]", &["fuse_kafka_encoder", "security.protocol"]);
    refused("fuse_kafka_log=[\"/l\"]", &["f.properties:1", "fuse_kafka_log", "StandardError=append:/l"]);
    refused(
        "fuse_kafka_brokers=[\"b:1\"]\n\nfuse_kafka_zookeepers=[\"z:1\"]",
        &["f.properties:3", "z:1", "fuse_kafka_brokers"],
    );
    refused("fuse_kafka_topik=[\"a\"]", &["f.properties:1", "fuse_kafka_topik", "fuse_kafka_topic"]);
}

#[test]
fn wrong_values_are_refused_with_file_line_key_and_value() {
    refused("fuse_kafka_topic=logs", &["f.properties:1", "fuse_kafka_topic", "`logs`", "[\"value\""]);
    refused("fuse_kafka_topic=\"logs\"", &["f.properties:1", "[\"value\""]);
    refused("fuse_kafka_topic=[[\"logs\"]]", &["f.properties:1"]);
    refused("fuse_kafka_topic=[\"a b\"]", &["fuse_kafka_topic", "a b"]);
    refused("fuse_kafka_directories=[\"logs\"]", &["fuse_kafka_directories", "`logs`", "absolute"]);
    refused("fuse_kafka_brokers=[\"a:b\"]", &["fuse_kafka_brokers", "a:b"]);
    refused("fuse_kafka_fields=[\"name\"]", &["fuse_kafka_fields", "`name`"]);
    refused("no key at all", &["f.properties:1", "no key at all"]);
}

/// The rows of README's table of keys: the old one, and the new one if there is one.
fn rows_of_readme() -> Vec<(&'static str, Option<&'static str>)> {
    let readme = include_str!("../../../../README.md");
    let bare = |cell: &'static str| cell.trim().strip_prefix('`')?.strip_suffix('`');
    let row = |line: &'static str| {
        let mut cells = line.split('|').skip(1);
        let old = bare(cells.next()?)?;
        old.starts_with("fuse_kafka_").then_some((old, bare(cells.next()?)))
    };
    readme.lines().filter_map(row).collect()
}

#[test]
fn readme_says_what_becomes_of_every_key() {
    let known: Vec<_> = KEYS.iter().map(|key| (key.name, key.becomes)).collect();
    assert_eq!(rows_of_readme(), known);
}

#[test]
fn every_key_is_taken_or_refused_with_a_way_out() {
    for Key { name, .. } in KEYS {
        let message = parse(&format!("{name}=[\"1\"]")).err().unwrap_or_default();
        assert!(!message.contains("knew no such key"), "{message}");
    }
}

#[test]
fn what_a_key_becomes_is_a_key_of_the_configuration() {
    let text = "fuse_kafka_directories=[\"/a\"]\nfuse_kafka_quota=[1]";
    let printed: toml::Table = toml::from_str(&parse(text).unwrap().print()).unwrap();
    for key in KEYS.iter().filter_map(|key| key.becomes) {
        let (section, name) = key.split_once('.').unwrap();
        let section = &printed[section];
        let table = section.as_table().or_else(|| section.as_array()?.first()?.as_table()).unwrap();
        assert!(table.contains_key(name), "{key}");
    }
}

#[test]
fn what_is_printed_is_a_configuration_to_go_on_with() {
    let config = parse(
        "fuse_kafka_directories=[\"/a\"]\nfuse_kafka_topic=[\"t\"]\nfuse_kafka_brokers=[\"b:1\"]\n\
         fuse_kafka_fields={\"hostname\": \"test\"}\nfuse_kafka_tags=[\"test\"]\nfuse_kafka_debug=[1]\n",
    )
    .unwrap();
    let (mut again, mut problems) = (Config::default(), Vec::new());
    crate::config::file::apply(Path::new("b.toml"), &config.print(), &mut again, &mut problems);
    assert_eq!((again, problems), (config, Vec::new()));
}

/// The rows of README's table of fifo2kinesis's flags: flag, variable, key.
fn flags_of_readme() -> Vec<(&'static str, &'static str, &'static str)> {
    let readme = include_str!("../../../../README.md");
    let row = |line: &'static str| {
        let mut words = line.split('`').skip(1).step_by(2);
        let (flag, variable, key) = (words.next()?, words.next()?, words.next()?);
        line.starts_with("| `--").then_some((flag.strip_prefix("--")?, variable, key))
    };
    readme.lines().filter_map(row).filter(|row| row.1.starts_with(fifo2kinesis::PREFIX)).collect()
}

#[test]
fn readme_shows_every_flag_of_fifo2kinesis_and_each_is_one_of_ours() {
    let rows = flags_of_readme();
    let shown: Vec<&str> = rows.iter().map(|(flag, ..)| *flag).collect();
    assert_eq!(shown, fifo2kinesis::FLAGS);
    let command = <crate::cli::GlobalArgs as clap::Args>::augment_args(clap::Command::new("any"));
    let printed: toml::Table = toml::from_str(&full().print()).unwrap();
    for (flag, variable, key) in rows {
        let names = flag.to_ascii_uppercase().replace('-', "_");
        assert_eq!(variable, format!("{}{names}", fifo2kinesis::PREFIX));
        let ours = command.get_arguments().find(|argument| argument.get_long() == Some(flag));
        let ours = ours.unwrap_or_else(|| panic!("--{flag} is no flag"));
        assert_eq!(ours.get_env().and_then(|name| name.to_str()), Some(&*format!("BYWASH_{names}")));
        let (section, key) = key.split_once('.').unwrap();
        let section = &printed[section];
        let section = section.as_array().map_or(section, |sections| &sections[0]);
        assert!(section.get(key).is_some(), "{key} is no key of {section}");
    }
}

/// A configuration in which every key that a flag of fifo2kinesis stands for is set.
fn full() -> Config {
    let (mut config, mut problems) = (Config::default(), Vec::new());
    let value = |name: &str| match name.strip_prefix(fifo2kinesis::PREFIX)? {
        "FIFO_NAME" | "FAILED_ATTEMPTS_DIR" => Some("/run/x".to_owned()),
        "BUFFER_QUEUE_LIMIT" | "FLUSH_INTERVAL" => Some("1".to_owned()),
        "FLUSH_HANDLER" => Some("logger".to_owned()),
        "ROLE_ARN" => Some("arn:aws:iam::1:role/r".to_owned()),
        _ => Some("some".to_owned()),
    };
    fifo2kinesis::flags(value, &mut problems).apply(&mut config, &mut problems);
    assert_eq!(problems, []);
    config
}
