//! bonnie++, other people's benchmark of filesystems.

use std::{path::Path, process::Command};

use super::Subject;

/// Its name for people, and what chooses it on the command line.
pub const NAME: &str = "bonnie++";

/// Debian has it where only root looks.
const PROGRAM: &str = "/usr/sbin/bonnie++";
/// The file that is written and read, and half of that in MiB: the memory that the machine is said to have, for bonnie++
/// insists on a file of twice the memory, which would measure the disk.
const FILE: &str = "512m";
const MEMORY: &str = "256";
/// Thousands of files that are made, looked at and removed.
const FILES: &str = "4";

/// What it measures and in which unit, and where the comma-separated figures of bonnie++ 2.00 have them; by how much they
/// are divided.
const FIGURES: [(&str, &str, usize, f64); 10] = [
    ("write", "MiB/s", 11, 1024.0),
    ("rewrite", "MiB/s", 13, 1024.0),
    ("read", "MiB/s", 17, 1024.0),
    ("seeks", "1/s", 19, 1.0),
    ("create", "1/s", 26, 1.0),
    ("stat", "1/s", 28, 1.0),
    ("delete", "1/s", 30, 1.0),
    ("create at random", "1/s", 32, 1.0),
    ("stat at random", "1/s", 34, 1.0),
    ("delete at random", "1/s", 36, 1.0),
];

/// Why it cannot run, if so.
pub fn missing() -> Option<String> {
    (!Path::new(PROGRAM).exists()).then(|| format!("there is no {PROGRAM}: apt-get install bonnie++"))
}

/// What it measures, with the units; more is better.
pub fn columns() -> impl Iterator<Item = (&'static str, &'static str)> {
    FIGURES.iter().map(|(name, unit, ..)| (*name, *unit))
}

/// Runs it once in a directory: a figure for each of [`columns`], nothing where it is too quick for bonnie++ to tell.
///
/// # Panics
/// If it fails.
pub fn measure(subject: &Subject) -> Vec<Option<f64>> {
    let mut command = Command::new(PROGRAM);
    // -q: figures alone go to standard output; -f: nothing character by character, which measures the C library.
    command.args(["-q", "-f", "-u", "root", "-s", FILE, "-r", MEMORY, "-n", FILES, "-d"]);
    let output = command.arg(&subject.directory).output().expect("bonnie++ runs");
    assert!(output.status.success(), "{}: {}", subject.name, String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields: Vec<&str> = text.trim().split(',').collect();
    let figure = |(_, _, place, divisor): &(&str, &str, usize, f64)| {
        let field = fields.get(*place).unwrap_or_else(|| panic!("field {place} of bonnie++'s {text:?}"));
        field.parse().ok().map(|figure: f64| figure / divisor)
    };
    FIGURES.iter().map(figure).collect()
}
