//! The text format, version 0.0.4: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write};

/// The format's media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the values of a family mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, unless what counts it begins anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many values there were up to each of some bounds.
    Histogram,
}

impl Kind {
    /// The format's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A page of samples.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a family; `name` and `help` hold nothing that would have to be escaped.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
    }

    /// A sample of the family that was begun last.
    pub fn sample<'a>(
        &mut self,
        name: &str,
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        value: impl Display,
    ) {
        self.0.push_str(name);
        let mut before = '{';
        for (label, text) in labels {
            let _ = write!(self.0, "{before}{label}=\"");
            self.escaped(text);
            self.0.push('"');
            before = ',';
        }
        self.0.push_str(if before == ',' { "} " } else { " " });
        let _ = writeln!(self.0, "{value}");
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.0
    }
}
