//! The JSON schema of the configuration file, for editors: made of the types that read it, and of the sample's comments.

use std::{borrow::Cow, fs, path::Path};

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Value, json};

use crate::units::{ByteSize, Span};

use super::{
    Delivery, EmptyLines, Encoder, FifoFraming, Framing, Fsync, LogLevel, OnAgentExit, OnFull, QuotaRule,
    Sink, Submounts, context::At, file::File, kafka::Property,
};

/// Where it is committed. `BYWASH_UPDATE_SCHEMA=1 cargo test -p bywash-common schema` writes it.
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/bywash.schema.json");
const SAMPLE: &str = include_str!("../../../conf/bywash.toml");

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

macro_rules! spelled {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

spelled!(Span, "duration", {
    "type": ["string", "number"], "minimum": 0, "pattern": "^ *[0-9.]+ *(us|ms|s|m|h|d)? *$",
});
spelled!(ByteSize, "size", {
    "type": ["string", "number"], "minimum": 0, "pattern": "^ *[0-9.]+ *([KMGT]i?B?|kB|B)? *$",
});
spelled!(Property, "property", { "type": ["string", "integer", "boolean"] });

/// Keys that take one of some words.
const WORDS: [(&str, &[&str]); 12] = [
    ("event.encoder", Encoder::WORDS),
    ("directory.framing", Framing::WORDS),
    ("directory.submounts", Submounts::WORDS),
    ("directory.quota.rule", QuotaRule::WORDS),
    ("fifo.framing", FifoFraming::WORDS),
    ("fifo.on_full", OnFull::WORDS),
    ("fifo.empty_lines", EmptyLines::WORDS),
    ("agent.on_agent_exit", OnAgentExit::WORDS),
    ("publisher.sink", Sink::WORDS),
    ("kafka.delivery", Delivery::WORDS),
    ("spool.fsync", Fsync::WORDS),
    ("log.level", LogLevel::WORDS),
];

/// Each key of the sample, dotted, and the comment in front of it.
fn comments() -> Vec<(String, String)> {
    let (mut section, mut comment, mut found) = (String::new(), Vec::new(), Vec::new());
    for line in SAMPLE.lines() {
        let set = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
        if let Some(text) = line.strip_prefix("# ") {
            comment.push(text);
        } else if let Some(header) = set.strip_prefix('[') {
            section = header.trim_matches(['[', ']']).to_owned();
            found.push((section.clone(), comment.join(" ")));
            comment.clear();
        } else if let Some((key, _)) = set.split_once(" = ") {
            found.push((format!("{section}.{key}"), comment.join(" ")));
            comment.clear();
        } else {
            comment.clear();
        }
    }
    found
}

/// What describes a key, dotted: of sections that repeat, of each of them.
fn at<'a>(schema: &'a mut Value, key: &str) -> &'a mut Value {
    let mut here = schema;
    for part in key.split('.') {
        if here["items"].is_object() {
            here = &mut here["items"];
        }
        let known = here["properties"].get(part).is_some();
        assert!(known, "the schema has no {key}");
        here = &mut here["properties"][part];
    }
    here
}

fn schema() -> String {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<File>().to_value();
    schema["title"] = "bywash.toml".into();
    for (key, comment) in comments() {
        if !comment.is_empty() {
            at(&mut schema, &key)["description"] = comment.into();
        }
    }
    for (key, words) in WORDS {
        at(&mut schema, key)["enum"] = json!(words);
    }
    format!("{schema:#}\n")
}

#[test]
fn the_committed_schema_is_that_of_the_types() {
    let made = schema();
    if std::env::var_os("BYWASH_UPDATE_SCHEMA").is_some() {
        fs::write(COMMITTED, &made).unwrap();
    }
    let committed = fs::read_to_string(Path::new(COMMITTED)).unwrap_or_default();
    assert!(
        committed == made,
        "{COMMITTED} is out of date: BYWASH_UPDATE_SCHEMA=1 cargo test -p bywash-common schema"
    );
}

/// What the schema says of a configuration, as far as types, words and unknown keys go.
fn complaints(schema: &Value, value: &Value, at: &str, into: &mut Vec<String>) {
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    let is_of = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        _ => false,
    };
    if !types.is_empty() && !types.iter().any(is_of) {
        into.push(format!("{at}: {value} is none of {types:?}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        into.push(format!("{at}: {value} is no word"));
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let here = format!("{at}.{key}");
        match (schema["properties"].get(key), &schema["additionalProperties"]) {
            (Some(schema), _) => complaints(schema, inner, &here, into),
            (None, Value::Bool(false)) => into.push(format!("{here} is unknown")),
            (None, schema) => complaints(schema, inner, &here, into),
        }
    }
    for inner in value.as_array().into_iter().flatten() {
        complaints(&schema["items"], inner, at, into);
    }
}

#[test]
fn the_schema_takes_the_sample_with_every_key_set_and_refuses_what_the_types_refuse() {
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    let check = |text: &str| {
        let table: toml::Table = text.parse().unwrap();
        let mut found = Vec::new();
        complaints(&schema, &serde_json::to_value(table).unwrap(), "", &mut found);
        found
    };
    let set = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    let all: Vec<String> = SAMPLE.lines().map(set).filter(|line| !line.starts_with(":schema")).collect();
    assert_eq!(check(&all.join("\n")), [""; 0]);
    assert!(SAMPLE.starts_with("#:schema "), "editors find it by the first line");
    for wrong in [
        "[ring]\nsise = 1",
        "[kafak]",
        "[kafka]\nbrokers = \"a:1\"",
        "[event]\nencoder = \"xml\"",
        "[[directory]]\npath = 1",
        "[[directory]]\npath = \"/a\"\nquota = { rule = \"none\" }",
    ] {
        assert!(!check(wrong).is_empty(), "{wrong}");
    }
}
