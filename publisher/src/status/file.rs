//! `publisher status --file`: how far a file is delivered.
//!
//! Nothing that is captured leaves ring and spool before it is delivered, or kept as a dead letter. So a file is delivered up to the
//! first byte that a record of it there begins with. The ring is looked at first: records move from it to the spool, never back.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bywash_common::{
    config::Config,
    escape::in_line,
    exit::Exit,
    output,
    record::Write,
    ring::{self, Inspected, Kind, RingError, inspect_to_show},
    status::ListeningKind,
    text_report::counted,
};
use serde_json::json;

use crate::{dead_letter::Directory, delivery::DeadLetter, spool};

use super::WAIT_INTERVAL;

/// What of a file is not delivered.
#[derive(Debug, Default)]
struct Pending {
    /// Records that wait.
    records: u64,
    /// Where in the file the first of them begins.
    first_offset: Option<u64>,
}

impl Pending {
    fn meet(&mut self, kind: Kind, payload: &[u8], path: &[u8]) {
        let write = (kind == Kind::Write).then(|| Write::decode(payload).ok()).flatten();
        if let Some((write, _)) = write.filter(|(write, _)| write.path == path) {
            self.records += 1;
            self.first_offset = Some(self.first_offset.map_or(write.offset, |first| first.min(write.offset)));
        }
    }
}

/// Says how far a file is delivered, once all of it is, or after `wait`.
///
/// # Errors
/// If that cannot be found out.
pub fn file(config: &Config, path: &Path, wait: Option<Duration>, as_json: bool) -> anyhow::Result<Exit> {
    let path = whole(path)?;
    let begun = Instant::now();
    let (size, pending) = loop {
        let size = path.metadata().with_context(|| format!("cannot examine {}", path.display()))?.len();
        let pending = pending(config, &path)?;
        if pending.records == 0 || wait.is_none_or(|wait| begun.elapsed() >= wait) {
            break (size, pending);
        }
        sleep(WAIT_INTERVAL);
    };
    let dead_letters = dead_letters(config, &path)?;
    let upto = pending.first_offset.unwrap_or(size).min(size);
    let is_all = pending.records == 0;
    if as_json {
        let object = json!({
            "path": path.to_string_lossy(),
            "size_bytes": size,
            "delivered_bytes": upto,
            "pending_records": pending.records,
            "dead_letters": dead_letters,
        });
        output::print_json(&format!("{object}\n"))?;
    } else {
        let shown = in_line(path.as_os_str().as_bytes());
        let mut text = format!("{shown}: delivered up to byte {upto} of {size}");
        if !is_all {
            text.push_str(&format!("; {} of it wait", counted(pending.records, "record")));
        }
        if dead_letters > 0 {
            text.push_str(&format!(
                "; {} of it: see publisher failed list",
                counted(dead_letters, "dead letter")
            ));
        }
        output::print(&(text + "\n"))?;
    }
    Ok(if is_all { Exit::Ok } else { Exit::Behind })
}

/// The path as a writer sees it: absolute, without links.
fn whole(path: &Path) -> anyhow::Result<PathBuf> {
    let whole = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
    if !whole.is_file() {
        bail!("{} is no regular file: how far it is delivered is known of files alone", whole.display());
    }
    Ok(whole)
}

fn pending(config: &Config, path: &Path) -> anyhow::Result<Pending> {
    let name = &config.ring.name;
    let bytes = path.as_os_str().as_bytes();
    let mut pending = Pending::default();
    match inspect_to_show(name) {
        Ok(ring) => {
            must_be_watched(&ring, path)?;
            ring::undelivered(name, |entry, payload| pending.meet(entry.kind, payload, bytes))?;
        }
        Err(RingError::Missing { .. }) => {
            tracing::warn!("there is no ring `{name}`: fs-agent captures nothing at the moment");
        }
        Err(error) => return Err(error.into()),
    }
    spool::undelivered(&config.spool_place(), |kind, payload| pending.meet(kind, payload, bytes))?;
    Ok(pending)
}

/// Of a file that nobody captures all would seem to be delivered.
fn must_be_watched(ring: &Inspected, path: &Path) -> anyhow::Result<()> {
    if !ring.agent_running {
        tracing::warn!("fs-agent is not running: what is written now is not captured");
        return Ok(());
    }
    let is_over = |directory: &Path| path.starts_with(directory);
    let is_watched = ring.listening().any(|one| one.kind == ListeningKind::Directory && is_over(&one.path))
        || ring.unlisted > 0;
    if !is_watched {
        bail!(
            "{} lies in no directory that fs-agent listens to (see fs-agent status): nothing of it is captured",
            path.display()
        );
    }
    Ok(())
}

/// How many dead letters have the file's path as their key.
fn dead_letters(config: &Config, path: &Path) -> anyhow::Result<u64> {
    let Some(dir) = config.failed_directory().filter(|dir| dir.exists()) else { return Ok(0) };
    let directory = Directory::of_publisher(&dir)?;
    let mut count = 0;
    for file in directory.files()? {
        let content = directory.read(&file)?.unwrap_or_default();
        let dead_letters = content
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(|line| DeadLetter::from_line(line).ok());
        count += dead_letters
            .filter(|(dead_letter, _)| dead_letter.key.as_deref() == Some(path.as_os_str().as_bytes()))
            .count() as u64;
    }
    Ok(count)
}
