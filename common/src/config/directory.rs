//! `[[directory]]`: what is watched, and how.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use toml::Value;

use crate::{
    glob::Globs,
    units::{ByteSize, Span},
};

use super::{
    context::{At, Context, Placed},
    framing::{self, FramingConfig},
    multiline,
    template::Topic,
    toml_values::{table, text, texts},
    words::words,
};

/// Directories of the system itself: an overlay there would take the machine down.
pub(super) const SYSTEM: [&str; 3] = ["/dev", "/proc", "/sys"];

/// `[[directory]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// Absolute, without `.`, `..` and trailing slash.
    pub path: PathBuf,
    /// Replaces `kafka.topic` for what is written here.
    pub topic: Option<Topic>,
    /// Make the directory if it does not exist.
    pub create: bool,
    /// What is not captured, by its path below the directory.
    pub exclude: Globs,
    /// How fast a file may be written to be captured in full.
    pub quota: Option<QuotaConfig>,
    /// What becomes one event.
    pub framing: FramingConfig,
    /// What becomes of filesystems that are mounted below the directory.
    pub submounts: Submounts,
}

/// What becomes of filesystems that are mounted below a watched directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Submounts {
    /// What is written to them is captured.
    #[default]
    Capture,
    /// They are left as they are.
    Pass,
}

words!(Submounts: "capture" => Submounts::Capture, "pass" => Submounts::Pass);

/// `quota` of a directory.
///
/// Each file has an account of bytes. It is credited with `bytes_per_second` as time passes, up to `burst_bytes`, with
/// which it also begins. A write is captured if the account is not overdrawn, and then its bytes are taken off, which
/// may overdraw it; otherwise it is withheld, and costs nothing. So in any T seconds at most `bytes_per_second` * T
/// + `burst_bytes` + one write are captured of a file, and a write that comes alone always is.
///
/// With a burst of 0 a write is withheld that comes before the one captured last is paid for.
///
/// That is [`QuotaRule::Account`]; fuse_kafka had [`QuotaRule::Write`], which has no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaConfig {
    /// What a file is credited with, in bytes per second; at least 1.
    pub bytes_per_second: ByteSize,
    /// The most that a file has to its credit, in bytes.
    pub burst_bytes: ByteSize,
    /// How many files have an account, 1 to [`FILES_TRACKED_MAX`]. With more, the one that was not written to for the
    /// longest time loses its account, and begins with a new one.
    pub files_tracked: u32,
    /// What decides about a write.
    pub rule: QuotaRule,
}

/// What decides whether a write is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuotaRule {
    /// The file's account.
    #[default]
    Account,
    /// The write alone, as in fuse_kafka: its bytes over the time since the last one, captured or not. A file's first is.
    Write,
}

words!(QuotaRule: "account" => QuotaRule::Account, "write" => QuotaRule::Write);

/// The most files that can have an account, at some 300 bytes each.
pub const FILES_TRACKED_MAX: u32 = 65_536;

/// As many as fuse_kafka tracked.
pub(super) const FILES_TRACKED_DEFAULT: u32 = 20;

impl DirectoryConfig {
    /// The directory at `path`, with every other key at its default.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            topic: None,
            create: false,
            exclude: Globs::default(),
            quota: None,
            framing: FramingConfig::default(),
            submounts: Submounts::default(),
        }
    }
}

/// The keys in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    path: At<PathBuf>,
    topic: Placed<String>,
    #[serde(default)]
    create: bool,
    exclude: Placed<Vec<String>>,
    quota: Option<QuotaTable>,
    framing: Placed<String>,
    line_bytes_max: Placed<ByteSize>,
    line_wait: Placed<Span>,
    multiline: Option<multiline::Table>,
    submounts: Placed<String>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct QuotaTable {
    bytes_per_second: At<ByteSize>,
    burst_bytes: Option<ByteSize>,
    files_tracked: Placed<u32>,
    rule: Placed<String>,
}

/// Reads one section of the file; returns its place, too.
pub(super) fn read(table: Table, context: &mut Context<'_>) -> (usize, DirectoryConfig) {
    let at = table.path.span().start;
    let Table {
        path,
        topic,
        create,
        exclude,
        quota,
        framing,
        line_bytes_max,
        line_wait,
        multiline,
        submounts,
    } = table;
    let mut new = DirectoryConfig { create, ..DirectoryConfig::at(path.into_inner()) };
    context.set(&mut new.topic, topic, |topic| Topic::parse(topic).map(Some));
    context.set(&mut new.exclude, exclude, Globs::new);
    new.quota = quota.map(|quota| apply_quota(quota, context));
    context.set(&mut new.submounts, submounts, |word| word.parse());
    let keys = framing::Keys { framing, line_bytes_max, line_wait, multiline };
    framing::apply(keys, &mut new.framing, context);
    (at, new)
}

fn apply_quota(table: QuotaTable, context: &mut Context<'_>) -> QuotaConfig {
    let mut quota = QuotaConfig {
        bytes_per_second: ByteSize(0),
        burst_bytes: table.burst_bytes.unwrap_or(ByteSize(0)),
        files_tracked: FILES_TRACKED_DEFAULT,
        rule: QuotaRule::default(),
    };
    context.set(&mut quota.rule, table.rule, |word| word.parse());
    context.set(&mut quota.bytes_per_second, Some(table.bytes_per_second), |rate| match rate.0 {
        0 => Err("a quota of `0` bytes per second captures nothing: use `exclude` for that".to_owned()),
        _ => Ok(rate),
    });
    context.set(&mut quota.files_tracked, table.files_tracked, |files| {
        if (1..=FILES_TRACKED_MAX).contains(&files) {
            return Ok(files);
        }
        Err(format!("`{files}` files cannot be tracked: use 1 to {FILES_TRACKED_MAX}"))
    });
    quota
}

/// One section, as the file has it.
pub(super) fn print(directory: &DirectoryConfig) -> Value {
    let mut keys = table([
        ("path", text(directory.path.display())),
        ("topic", directory.topic.as_ref().and_then(text)),
        ("create", Some(directory.create.into())),
        ("exclude", texts(directory.exclude.patterns())),
        ("quota", directory.quota.as_ref().map(print_quota)),
    ]);
    keys.extend(table(framing::print(&directory.framing)));
    keys.extend(table([("submounts", text(directory.submounts.word()))]));
    Value::Table(keys)
}

fn print_quota(quota: &QuotaConfig) -> Value {
    Value::Table(table([
        ("bytes_per_second", text(quota.bytes_per_second)),
        ("burst_bytes", text(quota.burst_bytes)),
        ("files_tracked", Some(i64::from(quota.files_tracked).into())),
        ("rule", text(quota.rule.word())),
    ]))
}

/// A path as sections compare it: without `.`, doubled and trailing slashes.
///
/// # Errors
/// If it is not absolute, contains `..`, or no file can have it.
pub(super) fn checked_path(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(format!("`{}` is not a path: no path has a NUL in it", shown.to_string().escape_debug()));
    }
    if !path.is_absolute() {
        return Err(format!("`{shown}` is not an absolute path: begin it with `/`"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("`{shown}` contains `..`: write the directory's own path"));
    }
    Ok(path.components().collect())
}
