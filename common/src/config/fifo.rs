//! `[[fifo]]`: named pipes that are read, and how.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use toml::Value;

use crate::units::{ByteSize, Span};

use super::{
    context::{At, Context, Placed},
    framing::Framing,
    template::Topic,
    toml_values::{table, text},
    words::words,
};

/// Whose owner may read it and whose group may write to it.
const MODE_DEFAULT: u32 = 0o620;
/// The permission bits that a FIFO has a use for (mkfifo(3)).
const MODE_BITS: u32 = 0o777;
/// Longer lines than this are refused as a limit: as much may be in memory for each FIFO.
const LINE_BYTES_LIMIT: ByteSize = ByteSize(64 << 20);
/// The smallest and the largest pipe that the kernel makes (F_SETPIPE_SZ in fcntl(2): pages, up to 2^31 bytes).
const PIPE_SIZES: [ByteSize; 2] = [ByteSize(4 << 10), ByteSize(1 << 30)];

/// `[[fifo]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FifoConfig {
    /// Absolute, without `.`, `..` and trailing slash.
    pub path: PathBuf,
    /// Make it if it does not exist, with the next three.
    pub create: bool,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner's name, if not whoever runs fs-agent.
    pub owner: Option<String>,
    /// Its group's name, if not that of whoever runs fs-agent.
    pub group: Option<String>,
    /// Replaces `kafka.topic` or `kinesis.stream_name` for what comes through it.
    pub topic: Option<Topic>,
    /// What becomes an event.
    pub framing: FifoFraming,
    /// What happens while the ring is full.
    pub on_full: OnFull,
    /// Whether lines without a byte become events.
    pub empty_lines: EmptyLines,
    /// The longest line, or chunk, that becomes one event.
    pub line_bytes_max: ByteSize,
    /// How long an unfinished line waits for its end while somebody still has the FIFO open for writing.
    pub line_idle: Span,
    /// What the pipe shall hold; the kernel may allow less.
    pub pipe_size: ByteSize,
}

/// What of a FIFO becomes an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoFraming {
    /// A line, without its end.
    Line,
    /// Whatever was there to be read at once.
    Chunk,
}

/// What happens to a FIFO's writers while the ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// They never wait: what does not fit is counted as lost.
    Drop,
    /// They wait until there is room.
    Wait,
}

/// What becomes of lines without a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyLines {
    /// Each is an event.
    Keep,
    /// They are passed over.
    Skip,
}

words!(FifoFraming: "line" => FifoFraming::Line, "chunk" => FifoFraming::Chunk);
words!(OnFull: "drop" => OnFull::Drop, "wait" => OnFull::Wait);
words!(EmptyLines: "keep" => EmptyLines::Keep, "skip" => EmptyLines::Skip);

impl FifoConfig {
    /// The FIFO at `path`, with every other key at its default.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            create: false,
            mode: MODE_DEFAULT,
            owner: None,
            group: None,
            topic: None,
            framing: FifoFraming::Line,
            on_full: OnFull::Drop,
            empty_lines: EmptyLines::Keep,
            line_bytes_max: ByteSize(1 << 20),
            line_idle: Span(Duration::from_secs(5)),
            pipe_size: ByteSize(1 << 20),
        }
    }
}

/// The keys in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    path: At<PathBuf>,
    create: Option<bool>,
    mode: Placed<String>,
    owner: Option<String>,
    group: Option<String>,
    topic: Placed<String>,
    framing: Placed<String>,
    on_full: Placed<String>,
    empty_lines: Placed<String>,
    line_bytes_max: Placed<ByteSize>,
    line_idle: Placed<Span>,
    pipe_size: Placed<ByteSize>,
}

/// Reads one section of the file; returns its place, too.
pub(super) fn read(table: Table, context: &mut Context<'_>) -> (usize, FifoConfig) {
    let at = table.path.span().start;
    let mut new = FifoConfig::at(table.path.into_inner());
    new.create = table.create.unwrap_or(new.create);
    new.owner = table.owner;
    new.group = table.group;
    context.set(&mut new.topic, table.topic, |topic| Topic::parse(topic).map(Some));
    context.set(&mut new.mode, table.mode, checked_mode);
    context.set(&mut new.framing, table.framing, checked_framing);
    context.set(&mut new.on_full, table.on_full, |word| word.parse());
    context.set(&mut new.empty_lines, table.empty_lines, |word| word.parse());
    context.set(&mut new.line_bytes_max, table.line_bytes_max, checked_line_bytes);
    context.set(&mut new.line_idle, table.line_idle, checked_idle);
    context.set(&mut new.pipe_size, table.pipe_size, checked_pipe_size);
    (at, new)
}

/// One section, as the file has it.
pub(super) fn print(fifo: &FifoConfig) -> Value {
    Value::Table(table([
        ("path", text(fifo.path.display())),
        ("create", Some(fifo.create.into())),
        ("mode", text(format_args!("{:04o}", fifo.mode))),
        ("owner", fifo.owner.clone().map(Value::from)),
        ("group", fifo.group.clone().map(Value::from)),
        ("topic", fifo.topic.as_ref().and_then(text)),
        ("framing", text(fifo.framing.word())),
        ("on_full", text(fifo.on_full.word())),
        ("empty_lines", text(fifo.empty_lines.word())),
        ("line_bytes_max", text(fifo.line_bytes_max)),
        ("line_idle", text(fifo.line_idle)),
        ("pipe_size", text(fifo.pipe_size)),
    ]))
}

fn checked_framing(word: String) -> Result<FifoFraming, String> {
    if word == Framing::Multiline.word() {
        return Err(format!(
            "`{word}` cannot be had of a FIFO, whose lines are captured one by one and without their ends: have the program write \
             to a file below a [[directory]] with framing = \"{word}\""
        ));
    }
    word.parse()
}

fn checked_mode(digits: String) -> Result<u32, String> {
    let is_octal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match u32::from_str_radix(&digits, 8) {
        Ok(mode) if is_octal && mode & !MODE_BITS == 0 => Ok(mode),
        _ => Err(format!("`{digits}` cannot be a FIFO's mode: use octal digits, such as \"0620\"")),
    }
}

fn checked_line_bytes(size: ByteSize) -> Result<ByteSize, String> {
    if (1..=LINE_BYTES_LIMIT.0).contains(&size.0) {
        Ok(size)
    } else {
        Err(format!("`{size}` cannot limit a line: use 1 to {LINE_BYTES_LIMIT}"))
    }
}

fn checked_idle(span: Span) -> Result<Span, String> {
    if span.0.is_zero() {
        Err("`0` would cut lines wherever a writer pauses: use 1s or more".to_owned())
    } else {
        Ok(span)
    }
}

fn checked_pipe_size(size: ByteSize) -> Result<ByteSize, String> {
    let [min, max] = PIPE_SIZES;
    if (min..=max).contains(&size) {
        Ok(size)
    } else {
        Err(format!("`{size}` cannot be a pipe's size: use {min} to {max}"))
    }
}
