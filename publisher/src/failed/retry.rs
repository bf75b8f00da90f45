//! Sending dead letters again, a file at a time.

use std::{
    collections::{HashSet, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    clock,
    delivery::{Letter, Ticket},
};

use super::directory::Directory;

/// The most bytes of letters that one round sends; the next goes on where it ended.
const ROUND_BYTES_MAX: u64 = 16 << 20;
/// How often it is looked whether someone has asked for a round.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// A letter that is sent again, and the line that it is in its file.
#[derive(Clone, Debug)]
pub struct Again {
    /// The message.
    pub letter: Letter,
    line: Vec<u8>,
}

/// The letters of a file that are on their way.
struct Current {
    path: PathBuf,
    sent: Vec<(Ticket, Vec<u8>)>,
    refused: HashSet<Ticket>,
}

/// When dead letters are sent again, and what became of those that are.
pub struct Retry {
    directory: Directory,
    interval: Duration,
    last_round: Instant,
    last_look: Instant,
    /// What is left of this round's bytes.
    round_bytes: u64,
    queue: VecDeque<PathBuf>,
    current: Option<Current>,
}

impl Retry {
    /// Rounds every `interval`, the first after the first interval.
    pub fn new(directory: Directory, interval: Duration) -> Self {
        let now = clock::now();
        Self {
            directory,
            interval,
            last_round: now,
            last_look: now,
            round_bytes: 0,
            queue: VecDeque::new(),
            current: None,
        }
    }

    /// The letters that are to be sent now, all of one file. [`Self::sent`] is to be told of each.
    pub fn due(&mut self) -> Vec<Again> {
        if self.current.is_some() {
            return Vec::new();
        }
        if self.queue.is_empty() || self.round_bytes == 0 {
            self.begin_round();
        }
        while self.round_bytes > 0
            && let Some(path) = self.queue.pop_front()
        {
            let content = match self.directory.read(&path) {
                Ok(Some(content)) => content,
                // Someone has dropped it.
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!("{error}: its letters are sent again in the next round");
                    continue;
                }
            };
            self.round_bytes = self.round_bytes.saturating_sub(content.len() as u64);
            let again: Vec<Again> = content
                .split_inclusive(|byte| *byte == b'\n')
                .filter_map(|line| match Letter::from_line(line) {
                    Ok((letter, _)) => Some(Again { letter, line: line.to_vec() }),
                    Err(error) => {
                        tracing::error!("{}: a line is {error}; it is left alone", path.display());
                        None
                    }
                })
                .collect();
            if !again.is_empty() {
                self.current = Some(Current { path, sent: Vec::new(), refused: HashSet::new() });
                return again;
            }
        }
        Vec::new()
    }

    fn begin_round(&mut self) {
        let now = clock::now();
        if now.duration_since(self.last_look) < REQUEST_INTERVAL {
            return;
        }
        self.last_look = now;
        let is_asked = self.directory.take_request();
        if !is_asked && now.duration_since(self.last_round) < self.interval {
            return;
        }
        self.last_round = now;
        self.round_bytes = ROUND_BYTES_MAX;
        if is_asked {
            self.round_bytes = u64::MAX;
            self.queue.clear();
        }
        if self.queue.is_empty() {
            match self.directory.files() {
                Ok(files) => self.queue = files.into(),
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// A letter is on its way under this ticket.
    pub fn sent(&mut self, again: &Again, ticket: Ticket) {
        if let Some(current) = &mut self.current {
            current.sent.push((ticket, again.line.clone()));
        }
    }

    /// Whether a refusal is about a letter that was sent again: it then stays where it is.
    pub fn takes_back(&mut self, ticket: Ticket) -> bool {
        let Some(current) = &mut self.current else { return false };
        let is_mine = current.sent.iter().any(|(sent, _)| *sent == ticket);
        if is_mine {
            current.refused.insert(ticket);
        }
        is_mine
    }

    /// Once all that was sent has been reported, as `is_done` says, gives the file and the lines in it that are delivered.
    pub fn settle(&mut self, is_done: impl Fn(Ticket) -> bool) -> Option<(PathBuf, Vec<Vec<u8>>)> {
        let is_settled = self.current.as_ref()?.sent.iter().all(|(ticket, _)| is_done(*ticket));
        if !is_settled {
            return None;
        }
        let Current { path, sent, refused } = self.current.take()?;
        let delivered = sent.into_iter().filter(|(ticket, _)| !refused.contains(ticket));
        Some((path, delivered.map(|(_, line)| line).collect()))
    }
}
