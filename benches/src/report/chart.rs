//! Charts: bars with whiskers from the least to the most of the rounds, as SVG that takes its colours from CSS.

use plotters::{
    coord::Shift,
    prelude::{
        DrawingArea, DrawingBackend, IntoDrawingArea, PathElement, RGBColor, Rectangle, SVGBackend, Text,
    },
    style::{Color, IntoFont, TextStyle, text_anchor},
};

use super::data::{Cell, Figure, Table, shown};

/// Width of the drawing in units that a phone shows at about 0.8 of their size.
const WIDTH: u32 = 460;
const BAR_HEIGHT: i32 = 18;
const BAR_GAP: i32 = 6;
const GROUP_GAP: i32 = 16;
const LEFT: i32 = 184;
const RIGHT: i32 = 60;
const TOP: i32 = 8;
const FONT: &str = "system-ui, sans-serif";
const FONT_SIZE: i32 = 13;
/// plotters makes text this much smaller than it is told.
const FONT_SHRINK: f64 = 1.24;
/// A bar that is this many times shorter than the longest could not be told from nothing: the scale is logarithmic then.
const LINEAR_SPREAD_MAX: f64 = 50.0;
/// A logarithmic scale begins at this share of the least figure.
const LOG_START: f64 = 0.5;

/// What plotters draws with, and the CSS colour that takes its place.
const COLOURS: [(RGBColor, &str, &str); 4] = [
    (RGBColor(1, 2, 3), "#010203", "var(--ink, #1d2329)"),
    (RGBColor(1, 2, 4), "#010204", "var(--soft, #67717b)"),
    (RGBColor(1, 2, 5), "#010205", "var(--ours, #0b6bcb)"),
    (RGBColor(1, 2, 6), "#010206", "var(--theirs, #9aa5b1)"),
];
const INK: RGBColor = COLOURS[0].0;
const SOFT: RGBColor = COLOURS[1].0;
const OURS: RGBColor = COLOURS[2].0;
const THEIRS: RGBColor = COLOURS[3].0;

/// For a chart that stands alone: both sets of colours, as the viewer's.
const ALONE: &str = "<style>:root{--ink:#1d2329;--soft:#67717b;--ours:#0b6bcb;--theirs:#9aa5b1}\
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#98a2ac;--ours:#58a6ff;--theirs:#6e7781}}</style>";

/// What is drawn under one heading.
struct Group<'a> {
    heading: String,
    bars: Vec<(&'a str, Figure)>,
}

/// Draws the charted columns of a table, a group of bars each; nothing where there are no figures. Rows whose names begin
/// with `ours` stand out.
///
/// # Errors
/// What plotters says.
pub fn draw(table: &Table, ours: &str) -> Result<Option<String>, String> {
    let groups: Vec<Group> = table.charted.iter().filter_map(|&column| group(table, column)).collect();
    if groups.is_empty() {
        return Ok(None);
    }
    let height: i32 = TOP + groups.iter().map(Group::height).sum::<i32>();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height.unsigned_abs())).into_drawing_area();
        let mut top = TOP;
        for group in &groups {
            group.draw(&root, top, ours).map_err(|e| e.to_string())?;
            top += group.height();
        }
        root.present().map_err(|e| e.to_string())?;
    }
    for (_, drawn, css) in COLOURS {
        svg = svg.replace(drawn, css);
    }
    // It is as wide as there is room for.
    let title = format!("<title>{}</title>", super::page::escaped(&table.title));
    let fixed = format!("<svg width=\"{WIDTH}\" height=\"{height}\"");
    let head = svg.find('>').unwrap_or(0) + 1;
    svg.insert_str(head, &title);
    Ok(Some(svg.replacen(&fixed, "<svg role=\"img\" width=\"100%\"", 1)))
}

/// The same as a file of its own.
///
/// # Errors
/// What plotters says.
pub fn file(table: &Table, ours: &str) -> Result<Option<String>, String> {
    let drawn = draw(table, ours)?;
    Ok(drawn.map(|svg| {
        let head = svg.find('>').unwrap_or(0) + 1;
        format!("{}{ALONE}{}\n", &svg[..head], &svg[head..])
    }))
}

fn group(table: &Table, column: usize) -> Option<Group<'_>> {
    let what = table.columns.get(column)?;
    let figure = |cell: &Cell| match cell {
        Cell::Figure(figure) => Some(*figure),
        Cell::Text(_) => None,
    };
    let bars: Vec<_> = table
        .rows
        .iter()
        .filter_map(|row| Some((row.name.as_str(), figure(row.cells.get(column)?)?)))
        .collect();
    let heading =
        if what.unit.is_empty() { what.name.clone() } else { format!("{}, {}", what.name, what.unit) };
    (!bars.is_empty()).then_some(Group { heading, bars })
}

impl Group<'_> {
    fn height(&self) -> i32 {
        let bars = i32::try_from(self.bars.len()).unwrap_or(i32::MAX);
        FONT_SIZE + BAR_GAP + bars * (BAR_HEIGHT + BAR_GAP) + GROUP_GAP
    }

    fn draw<B: DrawingBackend>(
        &self,
        root: &DrawingArea<B, Shift>,
        top: i32,
        ours: &str,
    ) -> Result<(), Box<dyn std::error::Error + 'static>>
    where
        B::ErrorType: 'static,
    {
        let scale = Scale::of(&self.bars);
        let note = if scale.is_log() { " (logarithmic)" } else { "" };
        root.draw(&Text::new(format!("{}{note}", self.heading), (0, top), style(SOFT)))?;
        let mut y = top + FONT_SIZE + BAR_GAP;
        for (name, figure) in &self.bars {
            let colour = if name.starts_with(ours) { OURS } else { THEIRS };
            let (end, least, most) = (scale.at(figure.median), scale.at(figure.min), scale.at(figure.max));
            let middle = y + BAR_HEIGHT / 2;
            let name_style = style(INK).pos(right());
            root.draw(&Text::new((*name).to_owned(), (LEFT - 8, middle), name_style))?;
            root.draw(&Rectangle::new([(LEFT, y), (end.max(LEFT + 1), y + BAR_HEIGHT)], colour.filled()))?;
            if most > least {
                root.draw(&PathElement::new([(least, middle), (most, middle)], INK))?;
                for x in [least, most] {
                    root.draw(&PathElement::new([(x, middle - 4), (x, middle + 4)], INK))?;
                }
            }
            let value = style(INK).pos(left());
            root.draw(&Text::new(shown(figure.median), (end.max(most) + 6, middle), value))?;
            y += BAR_HEIGHT + BAR_GAP;
        }
        Ok(())
    }
}

/// From figures to places.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    /// Linear unless the bars are too different for that.
    fn of(bars: &[(&str, Figure)]) -> Self {
        let most = bars.iter().map(|(_, f)| f.max).fold(0.0, f64::max);
        let medians = bars.iter().map(|(_, f)| f.median);
        let least = medians.filter(|&x| x > 0.0).fold(f64::INFINITY, f64::min);
        let log = least.is_finite() && most / least > LINEAR_SPREAD_MAX;
        Self { least: if log { least * LOG_START } else { 0.0 }, most: most.max(f64::MIN_POSITIVE) }
    }

    fn is_log(&self) -> bool {
        self.least > 0.0
    }

    fn at(&self, figure: f64) -> i32 {
        let share = if self.is_log() {
            (figure.max(self.least) / self.least).ln() / (self.most / self.least).ln()
        } else {
            figure / self.most
        };
        let room = f64::from(WIDTH.cast_signed() - LEFT - RIGHT);
        #[allow(clippy::cast_possible_truncation)] // Of a share of a few hundred.
        let x = (share.clamp(0.0, 1.0) * room).round() as i32;
        LEFT + x
    }
}

fn style(colour: RGBColor) -> TextStyle<'static> {
    (FONT, f64::from(FONT_SIZE) * FONT_SHRINK).into_font().color(&colour)
}

fn right() -> text_anchor::Pos {
    text_anchor::Pos::new(text_anchor::HPos::Right, text_anchor::VPos::Center)
}

fn left() -> text_anchor::Pos {
    text_anchor::Pos::new(text_anchor::HPos::Left, text_anchor::VPos::Center)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::data::{Column, Row};

    fn table(figures: &[f64]) -> Table {
        let row = |(i, figure): (usize, &f64)| Row {
            name: format!("row <{i}>"),
            cells: vec![Cell::of(vec![figure / 2.0, *figure, figure * 2.0])],
        };
        let rows = figures.iter().enumerate().map(row).collect();
        let columns = vec![Column::new("time", "us")];
        Table { title: "a & b".to_owned(), of: String::new(), columns, rows, charted: vec![0] }
    }

    #[test]
    fn a_chart_has_a_bar_for_each_row_and_colours_from_css_alone() {
        let svg = draw(&table(&[1.0, 2.0, 3.0]), "row <0>").unwrap().unwrap();
        assert_eq!(svg.matches("<rect").count(), 3, "{svg}");
        assert_eq!(svg.matches("fill=\"var(--ours").count(), 1, "{svg}");
        assert!(!svg.contains("\"#"), "{svg}");
        assert!(svg.contains("<title>a &amp; b</title>") && svg.contains("row &lt;0&gt;"), "{svg}");
        assert!(!svg.contains("(logarithmic)"));
    }

    #[test]
    fn figures_far_apart_have_a_logarithmic_scale() {
        assert!(draw(&table(&[1.0, 1000.0]), "").unwrap().unwrap().contains("(logarithmic)"));
    }

    #[test]
    fn without_figures_there_is_no_chart() {
        assert_eq!(draw(&table(&[]), "").unwrap(), None);
    }
}
