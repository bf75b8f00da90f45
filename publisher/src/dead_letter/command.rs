//! `publisher failed`: what an operator does about dead letters.

use std::{
    fmt::Write as _,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bywash_common::{config::Config, escape::in_line, exit::Exit, output, ring::inspect};
use nix::unistd::{setegid, seteuid, setgroups};

use crate::{delivery::DeadLetter, state_dir::other_owner};

use super::{directory::Directory, error::FailedError};

/// How long `retry` waits until the publisher has taken notice.
const NOTICE_WAIT: Duration = Duration::from_secs(5);
/// How long `drop` waits for another process that changes dead letters.
const BUSY_WAIT: Duration = Duration::from_secs(30);
/// How often they look.
const NOTICE_INTERVAL: Duration = Duration::from_millis(50);

/// Commands about dead letters.
#[derive(Debug, clap::Subcommand)]
pub enum FailedCommand {
    /// List the messages that cannot be delivered, oldest first
    List {
        /// Print each as a JSON object, as it is on disk
        #[arg(long)]
        json: bool,
    },
    /// Have the running publisher send all of them again now
    Retry,
    /// Remove them for good
    #[command(group = clap::ArgGroup::new("which").required(true).args(["event_ids", "all"]))]
    Drop {
        /// Those of these events
        #[arg(value_name = "EVENT_ID")]
        event_ids: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

/// Does what was asked for.
///
/// # Errors
/// What went wrong, for people.
pub fn failed(config: &Config, command: &FailedCommand) -> anyhow::Result<Exit> {
    let Some(dir) = &config.failed_directory() else {
        bail!("there are no dead letters: failed.size_max is 0");
    };
    // Before it acts as the directory's owner, whom the ring may be closed to.
    let has_publisher = inspect(&config.ring.name).is_ok_and(|ring| ring.publisher_running);
    act_as_owner(dir)?;
    match command {
        FailedCommand::List { json } => list(dir, *json),
        FailedCommand::Retry => retry(dir, &config.ring.name, has_publisher),
        FailedCommand::Drop { event_ids, all } => drop_dead_letters(dir, event_ids, *all),
    }
}

fn list(dir: &Path, json: bool) -> anyhow::Result<Exit> {
    if !dir.exists() {
        return Ok(Exit::Ok);
    }
    let directory = Directory::of_publisher(dir)?;
    for file in directory.files()? {
        // The publisher may have delivered it meanwhile.
        let Some(content) = directory.read(&file)? else { continue };
        let mut text = String::new();
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            if json {
                text.push_str(&String::from_utf8_lossy(line));
                continue;
            }
            let (dead_letter, time) =
                DeadLetter::from_line(line).with_context(|| file.display().to_string())?;
            // Writing to a string cannot fail.
            let (id, time, topic) = (dead_letter.id, in_line(&time), in_line(&dead_letter.topic));
            let _ = writeln!(text, "{id} {time} topic {topic}");
            if let Some(key) = &dead_letter.key {
                let _ = writeln!(text, "    key: {}", in_line(key));
            }
            let _ = writeln!(
                text,
                "    bytes: {}\n    reason: {}",
                dead_letter.payload.len(),
                in_line(&dead_letter.reason)
            );
        }
        if !(if json { output::print_json(&text)? } else { output::print(&text)? }) {
            break;
        }
    }
    Ok(Exit::Ok)
}

/// Has root do no more than the owner of the directory could.
fn act_as_owner(dir: &Path) -> anyhow::Result<()> {
    let Some((uid, gid)) = other_owner("failed.dir", dir)? else { return Ok(()) };
    let done = setgroups(&[]).and_then(|()| setegid(gid)).and_then(|()| seteuid(uid));
    done.with_context(|| format!("cannot act as uid {uid}, whose {} is", dir.display()))
}

fn retry(dir: &Path, ring: &str, has_publisher: bool) -> anyhow::Result<Exit> {
    if !has_publisher {
        tracing::error!("no publisher runs for the ring `{ring}`: dead letters are sent again once one does");
        return Ok(Exit::NotRunning);
    }
    let directory = Directory::of_publisher(dir)?;
    directory.ask()?;
    let begun = Instant::now();
    while directory.is_asked() {
        if begun.elapsed() > NOTICE_WAIT {
            tracing::warn!(
                "the publisher has not begun yet: it sends them as soon as the sink takes messages"
            );
            return Ok(Exit::Ok);
        }
        sleep(NOTICE_INTERVAL);
    }
    output::print("the publisher sends them again\n")?;
    Ok(Exit::Ok)
}

fn drop_dead_letters(dir: &Path, event_ids: &[String], all: bool) -> anyhow::Result<Exit> {
    if event_ids.is_empty() && !all {
        tracing::error!("which? name their event ids, as `publisher failed list` shows them, or --all");
        return Ok(Exit::Usage);
    }
    if !dir.exists() {
        bail!("there are no dead letters in {}", dir.display());
    }
    let is_dropped = |line: &[u8]| {
        all || DeadLetter::from_line(line)
            .is_ok_and(|(dead_letter, _)| event_ids.contains(&dead_letter.id.to_string()))
    };
    let directory = Directory::of_publisher(dir)?;
    let mut dropped = 0;
    for file in directory.files()? {
        dropped += remove_lines(&directory, &file, is_dropped)?;
    }
    if dropped == 0 && !all {
        bail!("none of these events is a dead letter in {}: see publisher failed list", dir.display());
    }
    output::print(&format!("{dropped} dead letters are dropped\n"))?;
    Ok(Exit::Ok)
}

/// Waits for others that change dead letters.
fn remove_lines(
    directory: &Directory,
    file: &Path,
    is_removed: impl Fn(&[u8]) -> bool,
) -> Result<usize, FailedError> {
    let begun = Instant::now();
    loop {
        match directory.remove_lines(file, &is_removed) {
            Err(FailedError::Busy(_)) if begun.elapsed() < BUSY_WAIT => sleep(NOTICE_INTERVAL),
            removed => return removed,
        }
    }
}
