//! `[spool]`: what the ring cannot hold waits on disk.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Value;

use crate::units::ByteSize;

use super::{
    context::{Context, Placed},
    directory::checked_path,
    toml_values::{table, text},
    words::words,
};

/// The smallest `spool.segment_size`.
const SEGMENT_SIZE_MIN: ByteSize = ByteSize(64 << 10);
/// The largest: the publisher reads a segment into memory as a whole.
const SEGMENT_SIZE_MAX: ByteSize = ByteSize(1 << 30);

/// `[spool]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Where it is; absolute. Without it, it is in [`Config::spool_place`] if that can be used, and nowhere if not.
    pub dir: Option<PathBuf>,
    /// The most bytes that it takes on disk; 0 for no spool.
    pub size_max: ByteSize,
    /// After how many bytes a new file is begun; a file is removed once all in it is delivered.
    pub segment_size: ByteSize,
    /// From which fill of the ring on, in percent, its oldest records are moved to the spool, until it is half that.
    pub high_mark: u32,
    /// When records must be on the disk itself.
    pub fsync: Fsync,
}

/// When spooled records must be on the disk itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before the ring gives up their space: they outlast a power cut.
    Always,
    /// When the kernel likes: they outlast the process.
    Never,
}

words!(Fsync: "always" => Fsync::Always, "never" => Fsync::Never);

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            dir: None,
            size_max: ByteSize(1 << 30),
            segment_size: ByteSize(16 << 20),
            high_mark: 50,
            fsync: Fsync::Always,
        }
    }
}

/// The keys in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    dir: Placed<PathBuf>,
    size_max: Option<ByteSize>,
    segment_size: Placed<ByteSize>,
    high_mark: Placed<u32>,
    fsync: Placed<String>,
}

/// Takes over what the section says.
pub(super) fn apply(table: Table, to: &mut SpoolConfig, context: &mut Context<'_>) {
    context.set(&mut to.dir, table.dir, |dir| checked_path(&dir).map(Some));
    to.size_max = table.size_max.unwrap_or(to.size_max);
    context.set(&mut to.segment_size, table.segment_size, |size| {
        if (SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&size) {
            return Ok(size);
        }
        Err(format!("`{size}` cannot be a segment's size: use {SEGMENT_SIZE_MIN} to {SEGMENT_SIZE_MAX}"))
    });
    context.set(&mut to.high_mark, table.high_mark, |percent| {
        if (1..=90).contains(&percent) {
            return Ok(percent);
        }
        Err(format!("`{percent}` cannot be a fill in percent: use 1 to 90"))
    });
    context.set(&mut to.fsync, table.fsync, |word| word.parse());
}

/// The section, as the file has it.
pub(super) fn print(spool: &SpoolConfig) -> Value {
    Value::Table(table([
        ("dir", spool.dir.as_deref().and_then(|dir| text(dir.display()))),
        ("size_max", text(spool.size_max)),
        ("segment_size", text(spool.segment_size)),
        ("high_mark", Some(i64::from(spool.high_mark).into())),
        ("fsync", text(spool.fsync.word())),
    ]))
}
