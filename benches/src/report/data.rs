//! What a run has measured: what the page, the summary and the JSON say, and nothing else.

use serde::{Deserialize, Serialize};

use crate::median;

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// When the run began, in UTC, as RFC 3339.
    pub began: String,
    /// How long it took, in seconds.
    pub took_seconds: u64,
    /// What makes it again.
    pub command: String,
    /// Which source was measured, as git names it.
    pub source: String,
    /// Whose scale it had: how many seconds a whole run may take about.
    pub scale_seconds: u64,
    /// Where.
    pub machine: Machine,
    /// What was measured, in order.
    pub parts: Vec<Part>,
    /// What was not, and why.
    pub skipped: Vec<Skipped>,
}

/// The machine of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many the system has.
    pub processors: usize,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// The kernel's name and version.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// The filesystem on which everything happened.
    pub filesystem: String,
    /// The share of the processors' time that others took during ten seconds before the run, 0 to 1.
    pub busy_before: f64,
}

/// One question and its answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Unique among parts: the page's anchor and the argument of `--only`.
    pub id: String,
    /// For people.
    pub title: String,
    /// How it was measured, a paragraph each.
    pub method: Vec<String>,
    /// The answers.
    pub tables: Vec<Table>,
    /// What the answers were to be.
    pub goals: Vec<Goal>,
}

/// Rows are who was measured, columns are what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Unique within its part.
    pub title: String,
    /// What the rows are.
    pub of: String,
    /// What was measured.
    pub columns: Vec<Column>,
    /// Of whom.
    pub rows: Vec<Row>,
    /// Which columns are drawn: their places. None: no chart.
    pub charted: Vec<usize>,
}

/// What one column has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    /// For people.
    pub name: String,
    /// Of the figures, or nothing for counts.
    pub unit: String,
}

/// Figures of one subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Who.
    pub name: String,
    /// A figure for each column.
    pub cells: Vec<Cell>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// A figure of each round.
    Figure(Figure),
    /// There can be none, and why or what instead.
    Text(String),
}

/// The rounds' median, and between which figures all of them lay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Half of the rounds had at most this.
    pub median: f64,
    /// The least of a round.
    pub min: f64,
    /// The most of a round.
    pub max: f64,
    /// How many rounds.
    pub rounds: usize,
}

/// Something wanted, and whether this run shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// What.
    pub wanted: String,
    /// What there is.
    pub measured: String,
    /// Whether that is enough.
    pub met: bool,
}

/// Something that was not measured here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Who or what.
    pub what: String,
    /// The reason, and the way out where there is one.
    pub why: String,
}

impl Figure {
    /// Of what the rounds gave; nothing without rounds.
    pub fn of(mut rounds: Vec<f64>) -> Option<Self> {
        let median = median(&mut rounds);
        let (min, max) = (*rounds.first()?, *rounds.last()?);
        Some(Self { median, min, max, rounds: rounds.len() })
    }
}

impl Cell {
    /// Of what the rounds gave, or `-` without rounds.
    pub fn of(rounds: Vec<f64>) -> Self {
        Figure::of(rounds).map_or_else(|| Self::Text("-".to_owned()), Self::Figure)
    }

    /// The median, if there are figures.
    pub fn median(&self) -> Option<f64> {
        match self {
            Self::Figure(figure) => Some(figure.median),
            Self::Text(_) => None,
        }
    }
}

impl Column {
    /// A column of figures with that unit.
    pub fn new(name: &str, unit: &str) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned() }
    }
}

impl Table {
    /// The median in a row and a column, by their names.
    pub fn median(&self, row: &str, column: &str) -> Option<f64> {
        let place = self.columns.iter().position(|c| c.name == column)?;
        self.rows.iter().find(|r| r.name == row)?.cells.get(place)?.median()
    }
}

/// A figure for people, with as many digits as say something.
pub fn shown(figure: f64) -> String {
    let digits = match figure.abs() {
        0.0 => 0,
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{figure:.digits$}");
    let trimmed = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    grouped(trimmed)
}

/// Thousands apart.
fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_with_the_digits_that_say_something() {
        let all = [0.0, 0.004, 0.5, 1.0, 12.34, 123.4, 1234.5, -1_234_567.0];
        assert_eq!(all.map(shown), ["0", "0", "0.5", "1", "12.3", "123", "1,234", "-1,234,567"]);
    }

    #[test]
    fn a_figure_says_between_what_its_rounds_lay() {
        let figure = Figure::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((figure.median, figure.min, figure.max, figure.rounds), (2.0, 1.0, 3.0, 3));
        assert_eq!(Figure::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Cell::of(Vec::new()).median(), None);
    }
}
