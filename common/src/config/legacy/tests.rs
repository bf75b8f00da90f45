use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::*;
use crate::config::{Encoder, LogLevel, QuotaRule, Sink};

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
    assert_eq!((config.kafka.topic.text(), config.publisher.sink), ("t", Sink::Stdout));
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
        assert_eq!(
            (quota.bytes_per_second.0, quota.files_tracked, quota.rule),
            (500_000, 20, QuotaRule::Write)
        );
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
    assert_eq!(config.kafka.topic.text(), "old");
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
    refused("\nfuse_kafka_topik=[]", &["f.properties:2", "fuse_kafka_topik", "fuse_kafka_topic"]);
    refused("fuse_kafka_topik=[\"a\"]", &["f.properties:1", "fuse_kafka_topik", "fuse_kafka_topic"]);
}

#[test]
fn where_zookeepers_are_given_brokers_count_for_nothing() {
    let config = parse("fuse_kafka_brokers=[\"b:1\"]\nfuse_kafka_zookeepers=[\"z:1\"]").unwrap();
    assert_eq!(config.kafka.zookeepers, ["z:1"]);
    assert_eq!(config.kafka.brokers, Config::default().kafka.brokers);
    let config = parse("fuse_kafka_brokers=[\"b:1\"]\nfuse_kafka_zookeepers=[]").unwrap();
    assert_eq!((config.kafka.zookeepers.len(), &*config.kafka.brokers[0]), (0, "b:1"));
}

#[test]
fn an_encoder_is_known_by_how_it_begins() {
    let encoder =
        |word: &str| parse(&format!("fuse_kafka_encoder=[\"{word}\"]")).map(|config| config.event.encoder);
    assert_eq!(encoder("logstash_base64_x"), Ok(Encoder::LogstashBase64));
    assert_eq!(encoder("logstash_x"), Ok(Encoder::Logstash));
    assert!(encoder("text_x").is_err() && encoder("logstash_base64_fpenzoyr").is_err());
}

#[test]
fn a_line_that_is_no_key_of_fuse_kafka_is_passed_over() {
    let config = parse("no key at all\nfoo=bar\n[x]\nfuse_kafka_topic=[\"t\"]\nfuse_kafka_tags\n").unwrap();
    assert_eq!((config.kafka.topic.text(), config.event.tags.len()), ("t", 0));
}

#[test]
fn excludes_match_what_they_matched_before() {
    let config = parse(
        "fuse_kafka_directories=[\"/a\"]\nfuse_kafka_excluded_files=[\"/a?b\", \"[/]x*\", \"*[[:digit:]]\", \"core\"]\n",
    )
    .unwrap();
    let exclude = &config.directories[0].exclude;
    for (path, expected) in
        [("/a/b", true), ("/axb", true), ("/x/y", true), ("/7", true), ("/core", false), ("/y", false)]
    {
        assert_eq!(exclude.match_path(path.as_bytes()), expected, "{path}");
    }
    assert_eq!(exclude.patterns(), ["fnmatch:/a?b", "fnmatch:[/]x*", "fnmatch:*[[:digit:]]"]);
}

/// What fuse_kafka's launcher, in Python, made of a file: the words that it gave its program for each key.
fn as_the_launcher(text: &str) -> Option<serde_json::Value> {
    const SCRIPT: &str = "
import json, sys
given = {}
for key, mark, value in (line.partition('=') for line in sys.stdin.read().splitlines(True)):
    ours = key.startswith(('fuse_kafka_', 'monitoring_logging_')) or key == 'monitoring_top_substitutions'
    if mark and ours:
        for part in ('monitoring_', 'fuse_kafka_', 'logging_', 'top_'):
            key = key.replace(part, '')
        value = json.loads(value)
        if isinstance(value, dict):
            value = [word for pair in value.items() for word in pair]
        given.setdefault(key, []).extend(str(word) for word in value)
print(json.dumps(given))
";
    let mut child = Command::new("python3")
        .args(["-c", SCRIPT])
        .env("PYTHONUTF8", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .inspect_err(|error| {
            println!("skipped: fuse_kafka's launcher was Python, and there is none: {error}")
        })
        .ok()?;
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{text}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn a_file_says_what_it_said_to_the_launcher() {
    let keys = [
        "fuse_kafka_tags",
        "monitoring_logging_tags",
        "fuse_kafka_fields",
        "monitoring_top_substitutions",
        "other",
        "#x",
        "",
    ];
    let values = [
        "[]",
        "{}",
        "[\"a\"]",
        "[\"a\", \"b\"]",
        " [ \"\" ] ",
        "[1, 2.50, 1e3, 0, -7, 18446744073709551615, 0.0001, 0.0]",
        "[true, false]",
        "{\"z\": \"1\", \"a\": 2}",
        "{\"z\": \"1\", \"a\": \"2\", \"z\": \"3\"}",
        "[\"é\\u00e9\\n\\\"=#\"]",
    ];
    let lines: Vec<String> =
        keys.iter().flat_map(|key| values.iter().map(move |value| format!("{key}={value}"))).collect();
    // Each line behind each of some others, so that keys are given again.
    for step in [1, 3, 7, 11] {
        let text: String =
            (0..lines.len()).map(|i| format!("{}\r\n", lines[i * step % lines.len()])).collect();
        let text = if step == 1 { text.replace('\r', "") } else { text };
        let Some(expected) = as_the_launcher(&text) else { return };
        let mut problems = Vec::new();
        let items = properties::parse(Path::new("f"), &text, &mut problems);
        assert_eq!(problems, []);
        let given = items.into_iter().map(|(key, given)| {
            let words: Vec<_> = given.items.into_iter().map(|item| item.text).collect();
            (key, serde_json::Value::from(words))
        });
        assert_eq!(serde_json::Value::Object(given.collect()), expected);
    }
}

#[test]
fn wrong_values_are_refused_with_file_line_key_and_value() {
    refused("fuse_kafka_topic=logs", &["f.properties:1", "fuse_kafka_topic", "`logs`", "[\"value\""]);
    refused("fuse_kafka_topic=\"logs\"", &["f.properties:1", "[\"value\""]);
    refused("fuse_kafka_topic=[[\"logs\"]]", &["f.properties:1"]);
    for number in ["18446744073709551616", "-0", "1e-9", "1e300"] {
        refused(&format!("fuse_kafka_tags=[{number}]"), &["f.properties:1", number, "in quotes"]);
    }
    refused("fuse_kafka_topic=[\"a b\"]", &["fuse_kafka_topic", "a b"]);
    refused(
        "fuse_kafka_directories=[\"logs\"]",
        &["fuse_kafka_directories", "`logs`", "absolute", "/logs`, if that is here"],
    );
    refused("fuse_kafka_directories=[\"/a/../b\"]", &["fuse_kafka_directories", "`/a/../b`", "own path"]);
    refused("fuse_kafka_brokers=[\"a:b\"]", &["fuse_kafka_brokers", "a:b"]);
    refused("fuse_kafka_fields=[\"name\"]", &["fuse_kafka_fields", "`name`"]);
}

const FUSE_KAFKA: &str = include_str!("../../../../docs/migrate-fuse_kafka.md");
const FIFO2KINESIS: &str = include_str!("../../../../docs/migrate-fifo2kinesis.md");

/// The rows of the documents' table of keys: the old key, and the new one if there is one.
fn documented_keys() -> Vec<(&'static str, Option<&'static str>)> {
    let bare = |cell: &'static str| cell.trim().strip_prefix('`')?.strip_suffix('`');
    let row = |line: &'static str| {
        let mut cells = line.split('|').skip(1);
        let old = bare(cells.next()?)?;
        old.starts_with("fuse_kafka_").then_some((old, bare(cells.next()?)))
    };
    FUSE_KAFKA.lines().filter_map(row).collect()
}

#[test]
fn the_documents_say_what_becomes_of_every_key() {
    let known: Vec<_> = KEYS.iter().map(|key| (key.name, key.becomes)).collect();
    assert_eq!(documented_keys(), known);
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

/// The rows of the documents' table of fifo2kinesis's flags: flag, variable, key.
fn documented_flags() -> Vec<(&'static str, &'static str, &'static str)> {
    let row = |line: &'static str| {
        let mut words = line.split('`').skip(1).step_by(2);
        let (flag, variable, key) = (words.next()?, words.next()?, words.next()?);
        line.starts_with("| `--").then_some((flag.strip_prefix("--")?, variable, key))
    };
    FIFO2KINESIS.lines().filter_map(row).filter(|row| row.1.starts_with(fifo2kinesis::PREFIX)).collect()
}

#[test]
fn the_documents_show_every_flag_of_fifo2kinesis_and_each_is_one_of_ours() {
    let rows = documented_flags();
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
        "FIFO_NAME" | "FAILED_ATTEMPTS_DIR" => Some("/run/x".into()),
        "BUFFER_QUEUE_LIMIT" | "FLUSH_INTERVAL" | "DEBUG" => Some("1".into()),
        "FLUSH_HANDLER" => Some("logger".into()),
        "ROLE_ARN" => Some("arn:aws:iam::1:role/r".into()),
        _ => Some("some".into()),
    };
    fifo2kinesis::flags(value, &mut problems).apply(&mut config, true, &mut problems);
    assert_eq!(problems, []);
    config
}

/// What differs from the originals, and the row of the documents that says so.
#[test]
fn the_documents_admit_what_is_different() {
    let lines = FUSE_KAFKA.lines().chain(FIFO2KINESIS.lines());
    let rows: Vec<&str> = lines.filter(|line| line.starts_with("| ")).collect();
    for (row, words) in [
        ("| `@timestamp`", &["local time", "UTC"][..]),
        ("| `text`", &["below the directory", "absolute"]),
        ("| `fuse_kafka_zookeepers`", &["before `fuse_kafka_brokers`"]),
        ("| `fuse_kafka_brokers`", &["passed over where zookeepers are given"]),
        ("| `fuse_kafka_encoder`", &["begins with `logstash_base64`"]),
        ("| `fuse_kafka_directories`", &["a relative path", "`..`", "in two lines"]),
        ("| `fuse_kafka_excluded_files`", &["`fnmatch:`"]),
        ("| `fuse_kafka_quota`", &["judged alone", "rule = \"write\""]),
        ("| `--debug`", &["--debug=false"]),
        ("| `--fifo-name`", &["relative"]),
        ("| `--failed-attempts-dir`", &["relative", "`fifo2kinesis-*`"]),
        ("| `--partition-key`", &["empty is random", "is refused"]),
        ("| `--flush-handler`", &["`INFO`"]),
    ] {
        let found =
            rows.iter().any(|line| line.starts_with(row) && words.iter().all(|word| line.contains(word)));
        assert!(found, "no row {row} with {words:?}");
    }
    assert!(FIFO2KINESIS.contains("of a flag given twice the last counts, as before"));
}
