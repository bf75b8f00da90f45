//! The counts of instructions that are accepted, and what is done with them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result};

/// So much more is not accepted. Less is, and is said.
pub const MORE_PERCENT_MAX: u64 = 2;

const HEAD: &str = "# Instructions of one run of each benchmark, as `make instructions` counts them. `make instructions ACCEPT=1` \
                    writes this file.\n";

/// Counts by the benchmark's name.
#[derive(Debug, PartialEq, Eq)]
pub struct Table(pub BTreeMap<String, u64>);

impl Table {
    fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("accepted.toml")
    }

    /// What is accepted.
    ///
    /// # Errors
    /// If the file cannot be read, or is no table of counts.
    pub fn load() -> Result<Self> {
        let path = Self::path();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self(toml::from_str(&text).with_context(|| path.display().to_string())?))
    }

    /// Has these accepted from now on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn store(&self) -> Result<()> {
        let lines = self.0.iter().map(|(name, count)| format!("{name:?} = {count}\n"));
        let text = [HEAD.to_owned()].into_iter().chain(lines).collect::<String>();
        fs::write(Self::path(), text).with_context(|| Self::path().display().to_string())
    }

    /// Whether each of the counts is accepted; prints them.
    pub fn holds(&self, counted: &Self) -> bool {
        println!("| instructions | accepted | now | |\n|---|---:|---:|---:|");
        let mut holds = true;
        for (name, now) in &counted.0 {
            let accepted = self.0.get(name).copied().unwrap_or(0);
            let is_more = is_more(accepted, *now);
            holds &= !is_more;
            let verdict = if is_more { ": TOO MANY" } else { "" };
            let change = (*now as f64 / accepted.max(1) as f64 - 1.0) * 100.0;
            println!("| {name} | {accepted} | {now} | {change:+.1}%{verdict} |");
        }
        for name in self.0.keys().filter(|name| !counted.0.contains_key(*name)) {
            println!("| {name} | | | is not counted any more |");
            holds = false;
        }
        holds
    }
}

/// Whether `now` is more than can be accepted where `accepted` is.
fn is_more(accepted: u64, now: u64) -> bool {
    now * 100 > accepted * (100 + MORE_PERCENT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_more_is_accepted_and_no_more_than_that() {
        let table = |count| Table(BTreeMap::from([("a".to_owned(), count)]));
        assert!(table(1000).holds(&table(1020)) && table(1000).holds(&table(1)));
        assert!(!table(1000).holds(&table(1021)));
        let none = Table(BTreeMap::new());
        assert!(!none.holds(&table(1)), "what is not in the table is not accepted");
        assert!(!table(1).holds(&none), "nor is what is there and not counted");
    }
}
