//! The text of `status` of both programs: lines of at most 80 columns.

use std::fmt::{Display, Write as _};

use crate::units::human_bytes;

/// Columns of a line's name.
const NAME_COLUMNS: usize = 13;
/// Columns of a bar, without its brackets.
const BAR_COLUMNS: u64 = 30;
/// Columns of a line.
const COLUMNS: usize = 80;

/// The lines of a status.
#[derive(Debug, Default)]
pub struct TextReport(String);

impl TextReport {
    /// A line as it is.
    pub fn say(&mut self, line: impl Display) {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.0, "{line}");
    }

    /// A line with its name in front. More lines of the same come without: their `name` is empty.
    pub fn row(&mut self, name: &str, text: impl Display) {
        let _ = writeln!(self.0, "{name:<NAME_COLUMNS$} {text}");
    }

    /// A row that shows how much of something is used.
    pub fn fill(&mut self, name: &str, used: u64, of: u64) {
        let percent = percent(used, of);
        let text = format!("{} {percent:>3}%  {} of {}", bar(used, of), human_bytes(used), human_bytes(of));
        self.row(name, text);
    }

    /// A row, broken into as many lines as it takes.
    pub fn wrapped(&mut self, name: &str, text: &str) {
        let mut name = name;
        let mut line = String::new();
        for word in text.split(' ') {
            if !line.is_empty() && NAME_COLUMNS + 1 + line.len() + 1 + word.len() > COLUMNS {
                self.row(name, &line);
                (name, line) = ("", String::new());
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.row(name, &line);
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}

/// A number of things, such as `1 event` or `2 events`.
pub fn counted(n: u64, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// How full something is, in percent; what is more than full is 100.
pub fn percent(used: u64, of: u64) -> u64 {
    u64::try_from((u128::from(used) * 100).checked_div(u128::from(of)).unwrap_or(0)).unwrap_or(100).min(100)
}

/// The same as a picture. What is not empty is seen.
fn bar(used: u64, of: u64) -> String {
    let tenths = u128::from(used) * u128::from(BAR_COLUMNS);
    let full = tenths.div_ceil(u128::from(of.max(1))).min(u128::from(BAR_COLUMNS)) as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR_COLUMNS as usize - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_what_is_not_empty_and_never_more_than_full() {
        for (used, of, full) in
            [(0, 64, 0), (1, u64::MAX, 1), (32, 64, 15), (64, 64, 30), (65, 64, 30), (0, 0, 0)]
        {
            let bar = bar(used, of);
            assert_eq!((bar.matches('#').count(), bar.len()), (full, 32), "{used} of {of}");
        }
        assert_eq!((percent(1, 0), percent(u64::MAX, u64::MAX), percent(1, 3)), (0, 100, 33));
    }

    #[test]
    fn no_line_of_advice_is_wider_than_a_terminal() {
        let mut text_report = TextReport::default();
        text_report.wrapped("next", &"word ".repeat(40));
        text_report.fill("spool", (1 << 50) - 1, 1 << 50);
        let text = text_report.finish();
        assert!(text.lines().count() > 2 && text.lines().all(|line| line.len() <= COLUMNS), "{text}");
    }
}
