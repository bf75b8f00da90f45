//! Sending dead letters again, a file at a time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    clock,
    delivery::{DeadLetter, EventId, Failure, Ticket},
};

use super::directory::Directory;

/// The most bytes of dead letters that one round sends; the next goes on where it ended.
const ROUND_BYTES_MAX: u64 = 16 << 20;
/// How often it is looked whether someone has asked for a round.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);

/// How often a dead letter was sent before it became one.
const ATTEMPTS_BEFORE: u32 = 1;
/// Of so many dead letters it is remembered how often they were sent.
const ATTEMPTS_KNOWN_MAX: usize = 65_536;

/// A dead letter that is sent again, and the line that it is in its file.
#[derive(Clone, Debug)]
pub struct Again {
    /// The message.
    pub dead_letter: DeadLetter,
    /// It has failed again, and goes to the topic for dead letters.
    pub failure: Option<Failure>,
    line: Vec<u8>,
}

/// The dead letters of a file that are on their way.
struct Current {
    path: PathBuf,
    sent: Vec<Sent>,
    refused: HashSet<Ticket>,
}

/// A dead letter that is on its way.
struct Sent {
    ticket: Ticket,
    line: Vec<u8>,
    /// To the topic for dead letters.
    is_passed_on: bool,
}

/// The dead letters of a file that were delivered.
#[derive(Debug, Default)]
pub struct Settled {
    /// The file.
    pub path: PathBuf,
    /// Their lines in it.
    pub lines: Vec<Vec<u8>>,
    /// How many of them were delivered to the topic for dead letters.
    pub passed_on: usize,
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
    /// There is a topic for dead letters.
    passes_on: bool,
    /// Dead letters that are to go there now.
    to_pass_on: Vec<Again>,
    /// How often dead letters were refused that are there still.
    attempts: HashMap<EventId, u32>,
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
            passes_on: false,
            to_pass_on: Vec::new(),
            attempts: HashMap::new(),
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
                    tracing::warn!("{error}: its dead letters are sent again in the next round");
                    continue;
                }
            };
            self.round_bytes = self.round_bytes.saturating_sub(content.len() as u64);
            let again: Vec<Again> = content
                .split_inclusive(|byte| *byte == b'\n')
                .filter_map(|line| match DeadLetter::from_line(line) {
                    Ok((dead_letter, _)) => Some(Again { dead_letter, failure: None, line: line.to_vec() }),
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

    /// A dead letter is on its way under this ticket.
    pub fn sent(&mut self, again: &Again, ticket: Ticket) {
        if let Some(current) = &mut self.current {
            let is_passed_on = again.failure.is_some();
            current.sent.push(Sent { ticket, line: again.line.clone(), is_passed_on });
        }
    }

    /// Whether letters that are refused again go to a topic for dead letters.
    pub fn set_passes_on(&mut self, passes_on: bool) {
        self.passes_on = passes_on;
        if !passes_on {
            self.to_pass_on.clear();
            self.attempts.clear();
        }
    }

    /// The letters that are to go to the topic for dead letters now. [`Self::sent`] is to be told of each.
    pub fn to_pass_on(&mut self) -> Vec<Again> {
        std::mem::take(&mut self.to_pass_on)
    }

    /// Takes a refusal of a dead letter that was sent again: it stays where it is. Gives whether it was refused by the topic for dead letters;
    /// none for what is no such dead letter. One that its own topic refuses goes there next, and one that is refused there nowhere.
    pub fn takes_back(&mut self, ticket: Ticket) -> Option<bool> {
        let current = self.current.as_mut()?;
        let sent = current.sent.iter().find(|sent| sent.ticket == ticket)?;
        current.refused.insert(ticket);
        if self.passes_on
            && !sent.is_passed_on
            && let Ok((dead_letter, _)) = DeadLetter::from_line(&sent.line)
        {
            let known = self.attempts.get(&dead_letter.id).copied();
            let attempts = known.unwrap_or(ATTEMPTS_BEFORE).saturating_add(1);
            if known.is_some() || self.attempts.len() < ATTEMPTS_KNOWN_MAX {
                self.attempts.insert(dead_letter.id, attempts);
            }
            let failure =
                Failure { topic: dead_letter.topic.clone(), reason: dead_letter.reason.clone(), attempts };
            self.to_pass_on.push(Again { dead_letter, failure: Some(failure), line: sent.line.clone() });
        }
        Some(sent.is_passed_on)
    }

    /// Once all that was sent has been reported, as `is_done` says, gives what of a file is delivered.
    pub fn settle(&mut self, is_done: impl Fn(Ticket) -> bool) -> Option<Settled> {
        let is_settled = self.current.as_ref()?.sent.iter().all(|sent| is_done(sent.ticket));
        if !is_settled {
            return None;
        }
        let Current { path, sent, refused } = self.current.take()?;
        let delivered: Vec<Sent> = sent.into_iter().filter(|sent| !refused.contains(&sent.ticket)).collect();
        let passed_on = delivered.iter().filter(|sent| sent.is_passed_on).count();
        let lines: Vec<Vec<u8>> = delivered.into_iter().map(|sent| sent.line).collect();
        if !self.attempts.is_empty() {
            for (dead_letter, _) in lines.iter().filter_map(|line| DeadLetter::from_line(line).ok()) {
                self.attempts.remove(&dead_letter.id);
            }
        }
        Some(Settled { path, lines, passed_on })
    }
}
