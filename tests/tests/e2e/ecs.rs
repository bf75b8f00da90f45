//! Events of the Elastic Common Schema, from write(2) to the topic and to the form for people.

use std::process::Command;

use bywash_tests::harness::{Broker, Bywash, Settings, process::must_run};
use serde_json::{Value, json};

use crate::append;

fn settings() -> Settings {
    Settings { encoder: "ecs", ..Settings::default() }
}

#[test]
fn a_write_has_the_schemas_fields_with_the_writers_values() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &settings());
    append(&bywash.file("f"), b"a \"line\"\n");
    append(&bywash.file("f"), b"\xff");
    let messages = broker.read("logs").messages(2);
    let event = |i: usize| serde_json::from_slice::<Value>(&messages[i].payload).unwrap();
    let (text, bytes) = (event(0), event(1));
    assert_eq!((&text["message"], &text["@version"]), (&json!("a \"line\"\n"), &json!("1")));
    assert_eq!(text["file"]["path"], bywash.file("f").to_str().unwrap());
    assert_eq!(text["process"]["pid"], std::process::id());
    assert!(text["process"]["command_line"].as_str().is_some_and(|line| !line.ends_with(' ')));
    let id = |of| must_run(Command::new("id").args(of)).trim().to_owned();
    assert_eq!(text["user"], json!({"id": id(["-u"].as_slice()), "name": id(&["-un"])}));
    assert_eq!(text["group"], json!({"id": id(&["-g"]), "name": id(&["-gn"])}));
    assert_eq!(text["host"]["name"], must_run(Command::new("uname").arg("-n")).trim());
    assert_eq!((&text["tags"], &text["labels"]), (&json!(["test"]), &json!({"hostname": "test"})));
    let time: jiff::Timestamp = text["@timestamp"].as_str().unwrap().parse().unwrap();
    assert!((jiff::Timestamp::now() - time).get_seconds() < 600, "{time}");
    assert_eq!((&bytes["message"], &bytes["bywash"]["offset"]), (&json!("\u{fffd}"), &json!(9)));
    assert_eq!(bytes["bywash"]["message_base64"], "/w==");
}

#[test]
fn people_see_dotted_names_and_the_exact_message() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &settings());
    append(&bywash.file("f"), b"foo\n");
    let select = "message,message_size-added,file.path,labels.hostname";
    let seen =
        bywash.publisher_command(&["consume", "--from-beginning", "--max", "1", "--select", select]).stdout;
    let path = bywash.file("f");
    let expected = format!(
        "event:\n    message: foo\n    message_size-added: 4\n    file.path: {}\n    labels.hostname: test\n",
        path.display()
    );
    assert_eq!(seen, expected);
}
