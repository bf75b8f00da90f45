//! What leaves to a terminal or a log leaves by one way, which makes visible what a terminal would obey.

// A test says that something does not hold by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Other ways out.
const WAYS_OUT: [&str; 15] = [
    "println!",
    "print!(",
    "eprint!(",
    "dbg!",
    "stdout()",
    "stderr()",
    "io::stderr",
    "io::stdout",
    "STDOUT_FILENO",
    "STDERR_FILENO",
    "/dev/tty",
    "/dev/std",
    "tracing_subscriber",
    "Cli::parse",
    "error.print()",
];

/// Who may, and why nothing that others have chosen gets past [`bywash_common::escape`] there.
const KEEPERS: [(&str, &[&str]); 4] = [
    ("common/src/output.rs", &["stdout()", "io::stdout", "stderr()", "io::stderr"]),
    ("common/src/logging.rs", &["stderr()", "io::stderr", "tracing_subscriber"]),
    // Help and the version are the program's own words.
    ("common/src/cli.rs", &["error.print()", "stderr()"]),
    // A sink's messages, which the sink escapes where it finds a terminal.
    ("publisher/src/sink/mod.rs", &["stdout()", "io::stdout"]),
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        let is_test =
            ["tests", "testing.rs", "simulation"].contains(&name.as_str()) || name.ends_with("tests.rs");
        if path.is_dir() && !is_test {
            sources(&path, found);
        } else if name.ends_with(".rs") && !is_test {
            found.push(path);
        }
    }
}

/// What ships, without comments.
fn code_of(text: &str) -> String {
    let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    shipped.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_leaves_to_a_terminal_or_a_log_by_another_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for program in ["common", "fs-agent", "publisher"] {
        sources(&root.join(program).join("src"), &mut files);
    }
    let mut others = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let kept = KEEPERS.iter().find(|(keeper, _)| *keeper == name).map_or(&[][..], |(_, kept)| kept);
        let code = code_of(&fs::read_to_string(&file).unwrap());
        for (at, line) in code.lines().enumerate() {
            let ways = WAYS_OUT.iter().filter(|way| line.contains(*way) && !kept.contains(way));
            others.extend(ways.map(|way| format!("{name}:{}: {way}", at + 1)));
        }
    }
    assert!(others.is_empty(), "use bywash_common::output or a log:\n{}", others.join("\n"));
    for (keeper, kept) in KEEPERS {
        let code = code_of(&fs::read_to_string(root.join(keeper)).unwrap());
        assert!(kept.iter().all(|way| code.contains(way)), "{keeper} does not need all of {kept:?}");
    }
}
