//! The report for a terminal.

use std::fmt::Write as _;

use super::data::{Cell, Report, Table, shown};

/// All tables, goals and what is missing, as text.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    for part in &report.parts {
        let _ = write!(out, "\n{}\n{}\n", part.title, "=".repeat(part.title.chars().count()));
        for table in &part.tables {
            print(&mut out, table);
        }
        for goal in &part.goals {
            let mark = if goal.met { "met" } else { "NOT MET" };
            let _ = writeln!(out, "{mark}: {}; here: {}", goal.wanted, goal.measured);
        }
    }
    if !report.skipped.is_empty() {
        out.push('\n');
    }
    for skipped in &report.skipped {
        let _ = writeln!(out, "not measured: {}: {}", skipped.what, skipped.why);
    }
    out
}

fn print(out: &mut String, table: &Table) {
    let head = table.columns.iter().map(|column| match column.unit.as_str() {
        "" => column.name.clone(),
        unit => format!("{}, {unit}", column.name),
    });
    let mut lines = vec![std::iter::once(table.of.clone()).chain(head).collect::<Vec<_>>()];
    lines.extend(table.rows.iter().map(|row| {
        let cells = row.cells.iter().map(|cell| match cell {
            Cell::Figure(figure) if figure.min < figure.max => {
                format!("{} ({}..{})", shown(figure.median), shown(figure.min), shown(figure.max))
            }
            Cell::Figure(figure) => shown(figure.median),
            Cell::Text(text) => text.clone(),
        });
        std::iter::once(row.name.clone()).chain(cells).collect()
    }));
    let width = |place: usize| {
        lines.iter().filter_map(|line| line.get(place)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..=table.columns.len()).map(width).collect();
    let _ = writeln!(out, "\n{}\n", table.title);
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
            if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let _ = writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out.push('\n');
}
