//! Logs go to standard error, where journald picks them up.
//!
//! Two things leave by no log: what a terminal would obey ([`crate::escape`]), and secrets ([`crate::secrets`]).

use std::{
    fmt::{self, Debug, Write as _},
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::{
    clock::now_ns,
    escape::{in_json, in_lines},
    secrets::redacted,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// In front of a message's lines after its first one: no line of a log begins with it.
const CONTINUATION: &str = "\n    ";

/// Puts another filter in the place of the one that is in use.
type Replace = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// Set once logging is.
static REPLACE: OnceLock<Replace> = OnceLock::new();
/// Libraries whose log is of no use to an operator.
static QUIET: OnceLock<&[&str]> = OnceLock::new();

/// Sets logging up, for panics too. `RUST_LOG`, where set, replaces `level`. Of the libraries that `quiet` names (by what
/// their modules begin with) nothing but errors is logged unless `level` is less severe than information: the program says
/// what they say, and better.
pub(crate) fn init(level: Level, format: LogFormat, quiet: &'static [&'static str]) {
    let _ = QUIET.set(quiet);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| filter(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // Setting it twice in a process keeps the first.
    let _ = match format {
        LogFormat::Text => {
            let builder = builder.with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
            let builder = builder.event_format(Line).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = REPLACE.set(Box::new(move |filter| handle.reload(filter)));
            builder.finish().with(Remember).try_init()
        }
        LogFormat::Json => {
            let builder = builder.with_writer(Json).json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = REPLACE.set(Box::new(move |filter| handle.reload(filter)));
            builder.finish().with(Remember).try_init()
        }
    };
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!("{panic}\n{backtrace}");
    }));
}

/// From now on logs what is at least as severe as `level`.
pub(crate) fn set_level(level: Level) {
    if let Some(replace) = REPLACE.get()
        && let Err(error) = replace(filter(level))
    {
        tracing::warn!("cannot change what is logged to {level}: {error}");
    }
}

fn filter(level: Level) -> EnvFilter {
    let mut directives = level.as_str().to_owned();
    if level <= Level::INFO {
        for library in QUIET.get().copied().unwrap_or_default() {
            directives += &format!(",{library}=error");
        }
    }
    EnvFilter::new(directives)
}

/// The last warning or error that this process has logged, for who looks at it from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warning {
    /// How many there were up to this one.
    pub number: u64,
    /// When it was logged, in nanoseconds since the epoch.
    pub at_ns: u64,
    /// What it says, without secrets.
    pub text: String,
}

static WARNINGS: AtomicU64 = AtomicU64::new(0);
static LAST: Mutex<Warning> = Mutex::new(Warning { number: 0, at_ns: 0, text: String::new() });

/// The last warning or error, unless that is number `known`.
pub fn last_warning(known: u64) -> Option<Warning> {
    if WARNINGS.load(Ordering::Relaxed) == known {
        return None;
    }
    Some(LAST.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Remembers what is logged as a warning or an error.
struct Remember;

impl<S: Subscriber> Layer<S> for Remember {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        let text = redacted(message.0);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Warning { number: last.number + 1, at_ns: now_ns(), text };
        WARNINGS.store(last.number, Ordering::Relaxed);
    }
}

/// A line for people: time, level, message.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut message = Message(String::new());
        event.record(&mut message);
        let message = redacted(message.0);
        let level = *event.metadata().level();
        let (begin, end) = if out.has_ansi_escapes() { (colour(level), "\x1b[0m") } else { ("", "") };
        SystemTime.format_time(&mut out)?;
        writeln!(out, " {begin}{level:>5}{end} {}", in_lines(&message, CONTINUATION))
    }
}

/// The colours that levels have everywhere.
fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// The message, and other fields behind it.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Standard error for whole events in JSON.
struct Json;

impl MakeWriter<'_> for Json {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for Json {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = redacted(String::from_utf8_lossy(event).into_owned());
        io::stderr().write_all(in_json(&text).to_string().as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
