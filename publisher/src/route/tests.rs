use std::fmt::Write as _;

use bywash_common::config::{DirectoryConfig, FifoConfig, MessageKey, PartitionKey, Sink, Template};
use proptest::prelude::*;

use super::*;
use crate::encode::Writer;

/// A configuration with one watched directory, a FIFO, and templates for topic and key.
fn config(topic: &str, key: &str) -> Config {
    let topic = Template::parse(topic).unwrap().map_or_else(|| topic.into(), Topic::Made);
    let mut config = Config::default();
    config.publisher.fallback_topic = Some("rest".to_owned());
    config.kafka.topic = topic;
    config.kafka.key = MessageKey::parse(key.to_owned()).unwrap();
    config.directories.push(DirectoryConfig::at("/var/log/app".into()));
    config.fifos.push(FifoConfig::at("/run/app/in.pipe".into()));
    config.event.tags = vec!["a".to_owned(), "b".to_owned()];
    config.event.fields.insert("team".to_owned(), "web shop".to_owned());
    config
}

fn event<'a>(path: &'a [u8], user: Option<&'a str>) -> WriteEvent<'a> {
    let writer = |user| Writer { pid: 1, uid: 2, gid: 3, user, group: "g", command: b"" };
    WriteEvent {
        path,
        writer: user.map(writer),
        unattributed: false,
        time_ns: 0,
        offset: 0,
        event_id: "u-1",
        sequence: 1,
        part: None,
        piece: None,
        message: b"m",
    }
}

/// The topic and the key of what a user writes to `path`.
fn routed(routes: &mut Routes, path: &[u8], user: Option<&str>) -> (String, Vec<u8>) {
    let Route { topic, key } = routes.of(&event(path, user));
    (topic.to_owned(), key.unwrap_or_default().to_vec())
}

#[test]
fn each_placeholder_stands_for_what_the_documents_say() {
    let path = b"/var/log/app/web/v1/access.log.1";
    for (template, expected) in [
        ("l.{path}", "l.-var-log-app-web-v1-access.log.1"),
        ("l.{directory}", "l.app"),
        ("l.{dir1}.{dir2}.{dir3}", "l.web.v1.none"),
        ("l.{file}", "l.access.log.1"),
        ("l.{stem}", "l.access"),
        ("l.{user}", "l.jo"),
        ("l.{tags}", "l.a-b"),
        ("l.{fields.team}", "l.web-shop"),
    ] {
        let (topic, _) = routed(&mut Routes::new(config(template, "path")), path, Some("jo"));
        assert_eq!(topic, expected, "{template}");
    }
    let (topic, key) = routed(
        &mut Routes::new(config("l.{user}", "{fields.team}/{dir1}{path}")),
        b"/var/log/app/\xff",
        None,
    );
    assert_eq!((&*topic, &*key), ("l.none", &b"web shop/none/var/log/app/\xff"[..]));
    let mut routes = Routes::new(config("l.{directory}.{dir1}.{stem}", "none"));
    assert_eq!(routed(&mut routes, b"/run/app/in.pipe", None).0, "l.app.none.in");
    let host = routed(&mut Routes::new(config("{host}", "none")), path, None).0;
    assert_eq!(host, std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim_end());
}

#[test]
fn a_stem_is_the_same_over_a_rotation_and_keeps_a_leading_dot() {
    let mut routes = Routes::new(config("l.{stem}", "path"));
    for (file, stem) in
        [("a.log", "a"), ("a.log.2.gz", "a"), (".hidden.log", ".hidden"), ("plain", "plain"), (".x", ".x")]
    {
        let path = format!("/var/log/app/{file}");
        assert_eq!(routed(&mut routes, path.as_bytes(), None).0, format!("l.{stem}"), "{file}");
    }
}

#[test]
fn without_a_template_nothing_is_made_and_nobody_is_told() {
    let mut routes = Routes::new(config("logs", "path"));
    assert!(routes.made.is_none());
    assert_eq!(routed(&mut routes, b"/x", None), ("logs".to_owned(), b"/x".to_vec()));
    assert_eq!(routes.take_new(), None);
    assert_eq!(routes.key_bytes(&event(b"/x", None)), 2);
}

#[test]
fn names_beyond_the_bound_go_to_the_fallback_and_those_before_stay() {
    let mut config = config("l.{dir1}", "path");
    config.publisher.topics_max = 2;
    let mut routes = Routes::new(config);
    let mut topic =
        |number: usize| routed(&mut routes, format!("/var/log/app/{number}/f").as_bytes(), None).0;
    assert_eq!([topic(0), topic(1), topic(2), topic(3)], ["l.0", "l.1", "rest", "rest"]);
    // Whatever was remembered of them is gone by now.
    (4..200).for_each(|number| assert_eq!(topic(number), "rest"));
    assert_eq!([topic(0), topic(1), topic(2)], ["l.0", "l.1", "rest"]);
    let told: Vec<_> = std::iter::from_fn(|| routes.take_new()).map(|name| name.to_string()).collect();
    assert_eq!(told, ["l.1", "l.0"]);
}

#[test]
fn news_of_a_file_go_where_its_events_go_and_others_where_no_event_decides() {
    let mut config = config("l.{dir1}", "{dir1}");
    let of = |routes: &mut Routes, path: Option<&[u8]>| {
        routes.of_news(path, |route| (route.topic.to_owned(), route.key.map(<[u8]>::to_vec)))
    };
    let mut routes = Routes::new(config.clone());
    assert_eq!(of(&mut routes, Some(b"/var/log/app/x/f")), ("l.x".to_owned(), Some(b"x".to_vec())));
    assert_eq!(of(&mut routes, None), ("rest".to_owned(), None));
    config.event.loss_topic = Some("losses".to_owned());
    assert_eq!(of(&mut Routes::new(config), Some(b"/var/log/app/x/f")).0, "losses");
}

#[test]
fn a_stream_and_its_key_are_made_alike() {
    let mut config = config("logs", "path");
    config.publisher.sink = Sink::Kinesis;
    config.kinesis.stream_name = Topic::Made(Template::parse("s.{dir1}").unwrap().unwrap());
    config.kinesis.partition_key = PartitionKey::parse("{dir1}".to_owned()).unwrap();
    let deep = format!("/var/log/app/{}/f", "x".repeat(200));
    let (stream, key) = routed(&mut Routes::new(config), deep.as_bytes(), None);
    assert_eq!((stream.len(), key.len()), (128, 200));
}

/// What Kafka has as a topic's name (`org.apache.kafka.common.internals.Topic`).
fn is_topic(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=249).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != ".."
}

proptest! {
    /// Whatever the path, and however often it is asked for among others.
    #[test]
    fn what_comes_of_a_template_is_a_topic_and_the_same_each_time(
        paths in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
        pieces in prop::collection::vec(0..9_usize, 0..5),
        begin in prop::sample::select(vec!["l", ".", "{fields.team}"]),
    ) {
        const VALUES: [&str; 9] =
            ["{path}", "{directory}", "{dir1}", "{dir9}", "{file}", "{stem}", "{user}", "{tags}", "{host}"];
        let template = pieces.iter().fold(begin.to_owned(), |mut text, piece| {
            let _ = write!(text, "{}", VALUES[*piece]);
            text
        });
        let mut routes = Routes::new(config(&template, "{stem}"));
        let fresh: Vec<_> = paths.iter().map(|path| routed(&mut Routes::new(config(&template, "{stem}")), path, Some("u"))).collect();
        for _ in 0..2 {
            for (path, fresh) in paths.iter().zip(&fresh) {
                let made = routed(&mut routes, path, Some("u"));
                prop_assert_eq!(&made, fresh);
                prop_assert!(begin == "." && made.0 == "." && pieces.is_empty() || is_topic(&made.0), "{}", made.0);
                prop_assert!(!made.1.is_empty());
                prop_assert_eq!(routes.key_bytes(&event(path, Some("u"))), made.1.len());
            }
        }
    }
}

const DOCUMENT: &str = include_str!("../../../docs/topics.md");

#[test]
fn the_documents_example_is_a_configuration() {
    let example = DOCUMENT.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bywash.toml");
    std::fs::write(&file, example).unwrap();
    let args = bywash_common::config::ConfigArgs { config: Some(file), ..Default::default() };
    let config = Config::load(&args).unwrap();
    assert_eq!((config.templates().count(), config.fallback_topic()), (2, "logs-rest"));
    let mut routes = Routes::new(config);
    assert_eq!(routed(&mut routes, b"/var/log/app/shop/v1/access.log", None).0, "logs.app.shop");
    assert_eq!(routed(&mut routes, b"/srv/www/site/error.log", None).0, "www.web.error");
}

#[test]
fn the_documents_table_says_what_each_placeholder_stands_for() {
    let mut config = config("logs", "path");
    config.event.tags.clear();
    config.event.fields.insert("NAME".to_owned(), "web".to_owned());
    let mut rows = 0;
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| `{")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let first = |cell: &'static str| cell.split('`').nth(1).unwrap();
        let (placeholder, expected) = (first(cells[1]), first(cells[3]));
        if placeholder != "{host}" {
            config.kafka.key = MessageKey::parse(placeholder.to_owned()).unwrap();
            let path = b"/var/log/app/shop/v1/access.log.1";
            let (_, key) = routed(&mut Routes::new(config.clone()), path, Some("www-data"));
            assert_eq!(String::from_utf8(key).unwrap(), expected, "{line}");
        }
        rows += 1;
    }
    assert_eq!(rows, 9);
}
