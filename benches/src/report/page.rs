//! The report as one page that needs nothing else: styles and charts are in it.

use std::fmt::Write as _;

use super::{
    chart,
    data::{Cell, Column, Figure, Part, Report, Row, Table, shown},
};

const STYLE: &str = include_str!("style.css");
/// Rows whose names begin so are ours.
pub const OURS: &str = "bywash";
/// Above this share of the processors' time taken by others a run's figures are no measure, and the page says so first.
const BUSY_MAX: f64 = 0.1;

/// The page.
///
/// # Errors
/// What drawing a chart says.
pub fn html(report: &Report) -> Result<String, String> {
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>bywash: benchmarks</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
    );
    head(&mut out, report);
    for part in &report.parts {
        section(&mut out, part)?;
    }
    if !report.skipped.is_empty() {
        out.push_str("<h2 id=\"skipped\">What was not measured</h2>\n<ul>\n");
        for skipped in &report.skipped {
            let _ = writeln!(out, "<li><b>{}</b>: {}</li>", escaped(&skipped.what), with_links(&skipped.why));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</body>\n</html>\n");
    Ok(out)
}

fn head(out: &mut String, report: &Report) {
    let machine = &report.machine;
    if machine.busy_before > BUSY_MAX {
        let _ = writeln!(
            out,
            "<p class=\"warning\"><b>This run was made on a busy machine</b>: others took {:.0} % of its processors just before. \
             Its figures compare nothing.</p>",
            machine.busy_before * 100.0
        );
    }
    let _ = write!(
        out,
        "<h1>bywash: what it costs, and what it captures</h1>\n\
         <p>Each figure is the median of its rounds, with the least and the most of a round below it. Everybody in a table, and the \
         bare baseline, took turns in the same run on the same machine.</p>\n\
         <p class=\"soft\">{} · {} · {} × {}, {:.0} GiB memory, {} · {}, {} · {}: {} min {:02} s for a scale of {} s</p>\n<nav><ul>\n",
        escaped(&report.began),
        escaped(&report.source),
        machine.processors,
        escaped(&machine.processor),
        machine.memory_bytes as f64 / f64::from(1 << 30),
        escaped(&machine.filesystem),
        escaped(&machine.system),
        escaped(&machine.kernel),
        code(&report.command),
        report.took_seconds / 60,
        report.took_seconds % 60,
        report.scale_seconds,
    );
    for part in &report.parts {
        let unmet = part.goals.iter().filter(|goal| !goal.met).count();
        let note = if unmet > 0 {
            format!(" <span class=\"unmet\">{unmet} goal(s) not met</span>")
        } else {
            String::new()
        };
        let _ = writeln!(out, "<li><a href=\"#{}\">{}</a>{note}</li>", part.id, escaped(&part.title));
    }
    if !report.skipped.is_empty() {
        out.push_str("<li><a href=\"#skipped\">What was not measured</a></li>\n");
    }
    out.push_str("</ul></nav>\n");
}

fn section(out: &mut String, part: &Part) -> Result<(), String> {
    let _ = writeln!(out, "<h2 id=\"{}\">{}</h2>", part.id, escaped(&part.title));
    if !part.goals.is_empty() {
        out.push_str("<ul class=\"goals\">\n");
        for goal in &part.goals {
            let (class, mark) = if goal.met { ("met", "met") } else { ("unmet", "not met") };
            let _ = writeln!(
                out,
                "<li><span class=\"{class}\">{mark}</span>: {}; here: {}</li>",
                escaped(&goal.wanted),
                escaped(&goal.measured)
            );
        }
        out.push_str("</ul>\n");
    }
    for table in &part.tables {
        let _ = writeln!(out, "<h3>{}</h3>", escaped(&table.title));
        if let Some(svg) = chart::draw(table, OURS)? {
            let _ = writeln!(out, "<figure>{svg}</figure>");
        }
        print(out, table);
    }
    for paragraph in &part.method {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", with_links(paragraph));
    }
    Ok(())
}

fn print(out: &mut String, table: &Table) {
    let _ = write!(out, "<div class=\"scroll\"><table>\n<thead><tr><th>{}</th>", escaped(&table.of));
    for Column { name, unit } in &table.columns {
        let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
        let _ = write!(out, "<th>{}{}</th>", escaped(name), escaped(&unit));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for Row { name, cells } in &table.rows {
        let class = if name.starts_with(OURS) { " class=\"ours\"" } else { "" };
        let _ = write!(out, "<tr{class}><td>{}</td>", escaped(name));
        for cell in cells {
            let _ = match cell {
                Cell::Figure(figure) => write!(out, "<td>{}{}</td>", shown(figure.median), spread(figure)),
                Cell::Text(text) => write!(out, "<td class=\"none\">{}</td>", escaped(text)),
            };
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

fn spread(figure: &Figure) -> String {
    if figure.min < figure.max {
        format!("<span class=\"spread\">{}..{}</span>", shown(figure.min), shown(figure.max))
    } else {
        String::new()
    }
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escaped(text))
}

/// Text whose `https://` addresses lead there, and whose backquotes are code.
fn with_links(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let address = word.trim_end_matches([',', '.', ';', ')', ':']);
        match address.strip_prefix("https://") {
            Some(short) => {
                let (address, short) = (escaped(address), escaped(short));
                format!(
                    "<a href=\"{address}\">{short}</a>{}",
                    escaped(&word[word.len().min(address.len())..])
                )
            }
            None => escaped(word),
        }
    });
    let linked = words.collect::<Vec<_>>().join(" ");
    let pieces = linked.split('`').enumerate();
    pieces
        .map(|(i, piece)| if i % 2 == 1 { format!("<code>{piece}</code>") } else { piece.to_owned() })
        .collect()
}

/// Text for a place where markup is read.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::data::{Goal, Machine};

    fn report() -> Report {
        let row =
            |name: &str, figures: Vec<f64>| Row { name: name.to_owned(), cells: vec![Cell::of(figures)] };
        let table = Table {
            title: "Times".to_owned(),
            of: "who".to_owned(),
            columns: vec![Column::new("p99", "us")],
            rows: vec![row("bywash", vec![1.0, 2.0, 3.0]), row("<peer>", Vec::new())],
            charted: vec![0],
        };
        let goal = Goal { wanted: "less".to_owned(), measured: "more".to_owned(), met: false };
        let part = Part {
            id: "times".to_owned(),
            title: "Times & more".to_owned(),
            method: vec!["As `tail -F` does, https://example.org/a.html.".to_owned()],
            tables: vec![table],
            goals: vec![goal],
        };
        Report { parts: vec![part], ..Report::default() }
    }

    #[test]
    fn a_page_needs_nothing_else_and_says_everything() {
        let page = html(&report()).unwrap();
        for part in [
            "<a href=\"#times\">Times &amp; more</a> <span class=\"unmet\">1 goal(s) not met",
            "<td>2<span class=\"spread\">1..3</span></td>",
            "<td>&lt;peer&gt;</td><td class=\"none\">-</td>",
            "<code>tail -F</code> does, <a href=\"https://example.org/a.html\">example.org/a.html</a>.",
            "<svg",
        ] {
            assert!(page.contains(part), "{part} is missing:\n{page}");
        }
        for loaded in ["<script", "<link", "<img", "@import", "url("] {
            assert!(!page.contains(loaded), "{loaded}");
        }
    }

    #[test]
    fn a_page_of_a_busy_machine_says_so_first() {
        let busy = |busy_before| {
            let machine = Machine { busy_before, ..Machine::default() };
            html(&Report { machine, ..report() }).unwrap().contains("busy machine")
        };
        assert!(busy(0.5) && !busy(0.01));
    }

    #[test]
    fn the_report_comes_back_from_its_json() {
        let json = serde_json::to_string(&report()).unwrap();
        let back: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(back.parts[0].tables[0].median("bywash", "p99"), Some(2.0));
        assert_eq!(serde_json::to_string(&back).unwrap(), json);
    }
}
