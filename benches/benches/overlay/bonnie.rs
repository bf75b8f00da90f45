//! bonnie++, other people's benchmark of filesystems, in each directory.

use std::process::Command;

use crate::{subject::Subject, table};

/// What chooses it on the command line.
pub const NAME: &str = "bonnie++";

/// Debian has it where only root looks.
const PROGRAM: &str = "/usr/sbin/bonnie++";
/// The file that is written and read, and half of that in MiB: the memory that the machine is said to have, for bonnie++
/// insists on a file of twice the memory, which would measure the disk.
const FILE: &str = "512m";
const MEMORY: &str = "256";
/// Thousands of files that are made, looked at and removed.
const FILES: &str = "4";

/// Lines of the table, and where the comma-separated figures of bonnie++ 2.00 have them; by how much they are divided.
const FIGURES: [(&str, usize, f64); 10] = [
    ("write, MiB/s", 11, 1024.0),
    ("rewrite, MiB/s", 13, 1024.0),
    ("read, MiB/s", 17, 1024.0),
    ("seeks/s", 19, 1.0),
    ("create/s", 26, 1.0),
    ("stat/s", 28, 1.0),
    ("delete/s", 30, 1.0),
    ("create at random/s", 32, 1.0),
    ("stat at random/s", 34, 1.0),
    ("delete at random/s", 36, 1.0),
];

/// Runs it once in each directory, and prints what it says.
pub fn run(subjects: &[Subject]) {
    if !std::path::Path::new(PROGRAM).exists() {
        return println!("skipped bonnie++: there is no {PROGRAM}");
    }
    let all: Vec<Vec<String>> = subjects.iter().map(figures).collect();
    let rows = FIGURES.iter().enumerate().map(|(i, (name, ..))| {
        let cells = all.iter().map(|figures| figures[i].clone()).collect();
        ((*name).to_owned(), cells)
    });
    table::print("bonnie++, more is better; `-` is too quick for it to tell", subjects, rows);
}

fn figures(subject: &Subject) -> Vec<String> {
    eprintln!("bonnie++: {}", subject.name);
    let mut command = Command::new(PROGRAM);
    // -q: figures alone go to standard output; -f: nothing character by character, which measures the C library.
    command.args(["-q", "-f", "-u", "root", "-s", FILE, "-r", MEMORY, "-n", FILES, "-d"]);
    let output = command.arg(&subject.directory).output().expect("bonnie++ runs");
    assert!(output.status.success(), "{}: {}", subject.name, String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let fields: Vec<&str> = text.trim().split(',').collect();
    let figure = |(_, place, divisor): &(&str, usize, f64)| {
        let field = fields.get(*place).unwrap_or_else(|| panic!("field {place} of bonnie++'s {text:?}"));
        field.parse().map_or("-".to_owned(), |figure: f64| format!("{:.0}", figure / divisor))
    };
    FIGURES.iter().map(figure).collect()
}
