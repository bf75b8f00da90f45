//! What librdkafka marks as sensitive is left out where the configuration is shown: by its own list, whatever version is
//! built in.

// A test says that something does not hold by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, process::Command};

use bywash_common::config::is_sensitive;
use serde_json::Value;

/// Fewer than these would be another notation in librdkafka's source.
const KNOWN: [&str; 4] =
    ["sasl.password", "ssl.key.pem", "sasl.username", "sasl.oauthbearer.assertion.private.key.passphrase"];

/// librdkafka's table of properties.
fn table() -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let asked = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let metadata: Value = serde_json::from_slice(&asked.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let library = packages.iter().find(|package| package["name"] == "rdkafka-sys").unwrap();
    let manifest = Path::new(library["manifest_path"].as_str().unwrap());
    std::fs::read_to_string(manifest.with_file_name("librdkafka").join("src/rdkafka_conf.c")).unwrap()
}

#[test]
fn what_librdkafka_marks_as_sensitive_is_left_out() {
    let table = table();
    // `{_RK_GLOBAL | _RK_SENSITIVE, "sasl.password", ...`, maybe over two lines.
    let marked: Vec<&str> = table
        .split("_RK_SENSITIVE,")
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .collect();
    assert!(KNOWN.iter().all(|name| marked.contains(name)), "{marked:?}");
    let shown: Vec<_> = marked.iter().filter(|name| !is_sensitive(name)).collect();
    assert!(shown.is_empty(), "{shown:?}");
}
