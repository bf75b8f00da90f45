//! The publisher's metrics as a scraper sees them: a plain connection, and a parser that takes nothing but the text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4).

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufReader, Write},
    iter::Peekable,
    net::{SocketAddr, TcpStream},
    str::Lines,
};

use super::{http::HttpMessage, wait};

/// What a scraper asks.
const GET: &str = "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";

/// The metrics of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// What they are, in words.
    pub help: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Labels and value of each sample; those of a histogram have the label `sample`: bucket, sum or count.
    pub samples: Vec<(BTreeMap<String, String>, f64)>,
}

/// All metrics at one moment.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// By name.
    pub families: BTreeMap<String, Family>,
}

/// Connects, and sends what is given, which need not be a whole request.
#[track_caller]
pub fn connect(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(wait::TIMEOUT)).expect("a time-out");
    stream.write_all(request.as_bytes()).expect("a request to be sent");
    stream
}

/// Sends a request; gives the answer.
#[track_caller]
pub fn ask(address: SocketAddr, request: &str) -> HttpMessage {
    let answer = HttpMessage::read(&mut BufReader::new(connect(address, request)));
    answer.unwrap_or_else(|e| panic!("no answer: {e}")).expect("an answer before the end")
}

impl Scrape {
    /// Asks for the metrics.
    ///
    /// # Panics
    /// If the answer is anything but metrics in the text format.
    #[track_caller]
    pub fn of(address: SocketAddr) -> Self {
        let answer = ask(address, GET);
        let text = String::from_utf8(answer.body.clone()).expect("UTF-8");
        assert_eq!(answer.status(), 200, "{}: {text}", answer.start);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        parse(&text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"))
    }

    /// The value of the sample that has these labels, and maybe others.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let family = self.families.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        let has = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(label, text)| found.get(*label).is_some_and(|t| t == text))
        };
        let mut found = family.samples.iter().filter(|(labels, _)| has(labels)).map(|(_, value)| *value);
        let value = found.next();
        assert_eq!(found.next(), None, "{name} has more than one sample with {labels:?}");
        value
    }

    /// The value of a sample that is there.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("{name} has no sample with {labels:?}"))
    }
}

/// Reads a page; the error says what is wrong with it.
///
/// # Errors
/// If it is not in the format, or says something twice.
pub fn parse(text: &str) -> Result<Scrape, String> {
    let mut families = BTreeMap::new();
    if !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, help) = described(line, "HELP")?;
        let line = lines.next().ok_or_else(|| format!("{name} ends"))?;
        let (same, kind) = described(line, "TYPE")?;
        if same != name || !["counter", "gauge", "histogram"].contains(&kind) || help.is_empty() {
            return Err(format!("{name} is followed by: {line}"));
        }
        let samples = samples(&mut lines, name, kind)?;
        let family = Family { help: help.to_owned(), kind: kind.to_owned(), samples };
        if families.insert(name.to_owned(), family).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(Scrape { families })
}

/// The rest of a comment line of a kind: a name and a text.
fn described<'a>(line: &'a str, kind: &str) -> Result<(&'a str, &'a str), String> {
    let rest = line.strip_prefix("# ").and_then(|rest| rest.strip_prefix(kind)?.strip_prefix(' '));
    let (name, text) =
        rest.and_then(|rest| rest.split_once(' ')).ok_or_else(|| format!("no {kind}: {line}"))?;
    if is_name(name) { Ok((name, text)) } else { Err(format!("no name: {line}")) }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

type Samples = Vec<(BTreeMap<String, String>, f64)>;

fn samples(lines: &mut Peekable<Lines<'_>>, name: &str, kind: &str) -> Result<Samples, String> {
    let (mut samples, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
        let wrong = |what: &str| format!("{what}: {line}");
        let rest = line.strip_prefix(name).ok_or_else(|| wrong("another metric's sample"))?;
        let (part, rest) = match kind {
            "histogram" => part_of(rest).ok_or_else(|| wrong("no part of a histogram"))?,
            _ => (None, rest),
        };
        let (mut labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest).ok_or_else(|| wrong("labels"))?,
            None => (BTreeMap::new(), rest),
        };
        labels.extend(part.map(|part| ("sample".to_owned(), part.to_owned())));
        let value = rest.strip_prefix(' ').ok_or_else(|| wrong("no space"))?;
        // No time stamp, and nothing behind.
        let value: f64 = value.parse().map_err(|_| wrong("no value"))?;
        if !value.is_finite() || (kind == "counter" && (value < 0.0 || value.fract() != 0.0)) {
            return Err(wrong("impossible"));
        }
        if !seen.insert(labels.clone()) {
            return Err(wrong("twice"));
        }
        samples.push((labels, value));
    }
    Ok(samples)
}

/// Which part of a histogram a sample is, and what follows.
fn part_of(rest: &str) -> Option<(Option<&'static str>, &str)> {
    ["bucket", "sum", "count"].into_iter().find_map(|part| {
        let rest = rest.strip_prefix('_')?.strip_prefix(part)?;
        Some((Some(part), rest))
    })
}

/// Labels behind their `{`, and what follows their `}`.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        let (name, quoted) = rest.split_once("=\"")?;
        let (mut value, mut chars) = (String::new(), quoted.char_indices());
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    _ => return None,
                },
                (_, c) => value.push(c),
            }
        };
        if !is_name(name) || labels.insert(name.to_owned(), value).is_some() {
            return None;
        }
        rest = &quoted[end + 1..];
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        rest = rest.strip_prefix(',')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_is_read() {
        let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{p=\"x\\\"\\\\\\n}\",q=\"\"} 3\na_total 4\n\
                    # HELP b B.\n# TYPE b gauge\n";
        let scrape = parse(text).unwrap();
        assert_eq!(scrape.get("a_total", &[("p", "x\"\\\n}"), ("q", "")]), Some(3.0));
        assert_eq!((scrape.families["a_total"].samples.len(), scrape.get("b", &[])), (2, None));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let head = "# HELP a A.\n# TYPE a counter\n";
        for sample in [
            "a 1",
            "a  1\n",
            "a 1 \n",
            "a 1 1\n",
            "a -1\n",
            "a 1.5\n",
            "a NaN\n",
            "a\n",
            "b 1\n",
            "\n",
            "a{} 1\n",
            "a{b=\"c\"}1\n",
            "a{b=c} 1\n",
            "a{b=\"c} 1\n",
            "a{b=\"\\t\"} 1\n",
            "a{b=\"c\",} 1\n",
            "a{b=\"c\",b=\"d\"} 1\n",
            "a{1=\"c\"} 1\n",
            "a 1\na 2\n",
            "# TYPE a counter\n",
            "# HELP a A.\n# TYPE a gauge\n",
            "# HELP b B.\n# TYPE c gauge\n",
            "# EOF\n",
        ] {
            assert!(parse(&format!("{head}{sample}")).is_err(), "{sample}");
        }
    }
}
