//! What becomes of messages that the sink refuses for good.

use std::{
    collections::VecDeque,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bywash_common::{
    config::Config,
    status::{PublisherCounter, PublisherStatus},
};

use crate::{
    clock,
    dead_letter::{Again, FailedError, Retry, Settled, Store},
    delivery::{DeadLetter, Frontier, Outcome, Refused, Ticket},
    faults::Fault,
    rate::LogRate,
    sink_stats::sink_stats,
};

/// Refused messages are gathered for this long: each time that some are kept costs two fsyncs.
const GATHER_TIME: Duration = Duration::from_millis(100);
/// Or until they have this many bytes.
const GATHER_BYTES: usize = 1 << 20;
/// How long a disk that does not take dead letters, or not let go of delivered ones, is left alone.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// How long it may go on not to take some before loss events replace these.
const DISK_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody has made room where there was none.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
/// At most one line about refused messages in this time; the others are counted in it.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps refused messages as dead letters.
pub struct DeadLetters {
    /// None if there shall be no dead letters, or cannot be.
    store: Option<Store>,
    retry: Option<Retry>,
    gathered: Vec<Refused>,
    gathered_bytes: usize,
    since: Instant,
    /// Since when the disk does not take what is gathered, and from when on it is asked again.
    refused_by_disk: Option<(Instant, Instant)>,
    /// Messages that found no room, of which an operator can make room or make them possible: they wait for either.
    waiting: VecDeque<Refused>,
    /// From when on it is looked whether there is room for more.
    look_at_room: Instant,
    /// Dead letters that are delivered and still in their file.
    delivered: Option<Settled>,
    /// Where dead letters go that are refused again.
    topic: Option<String>,
    /// From when on the disk is asked again to let go of them.
    delivered_not_before: Instant,
    log: LogRate,
    disk_log: LogRate,
    topic_log: LogRate,
}

impl DeadLetters {
    /// Opens the directory of dead letters.
    ///
    /// # Errors
    /// A [`FailedError`] if it was configured and cannot be used. If the default cannot be used, the log says so.
    pub fn open(config: &Config) -> Result<Self, FailedError> {
        let Some(dir) = config.failed_directory() else { return Ok(Self::without()) };
        match Store::open(&dir, config.failed.size_max, config.ring.group.as_deref()) {
            Ok(store) => {
                let mut dead_letters = Self::in_store(store, config.failed.retry_interval.0);
                dead_letters.reconfigure(config);
                Ok(dead_letters)
            }
            Err(error) if config.failed.dir.is_some() => Err(error),
            Err(error) => {
                tracing::warn!(
                    "there are no dead letters (set failed.dir): {error}; what the sink refuses for good is \
                     replaced by a loss event"
                );
                Ok(Self::without())
            }
        }
    }

    /// Keeps them in `store`, and sends them again every `retry_interval`.
    pub fn in_store(store: Store, retry_interval: Duration) -> Self {
        let retry = Retry::new(store.directory().clone(), retry_interval);
        Self { store: Some(store), retry: Some(retry), ..Self::without() }
    }

    /// Keeps nothing.
    pub fn without() -> Self {
        Self {
            store: None,
            retry: None,
            gathered: Vec::new(),
            gathered_bytes: 0,
            since: clock::now(),
            refused_by_disk: None,
            waiting: VecDeque::new(),
            look_at_room: clock::now(),
            delivered: None,
            topic: None,
            delivered_not_before: clock::now(),
            log: LogRate::new(LOG_INTERVAL),
            disk_log: LogRate::new(LOG_INTERVAL),
            topic_log: LogRate::new(LOG_INTERVAL),
        }
    }

    /// Follows what of another configuration takes effect at once.
    pub fn reconfigure(&mut self, config: &Config) {
        self.topic = config.failed_topic().map(str::to_owned);
        if let Some(retry) = &mut self.retry {
            retry.set_passes_on(self.topic.is_some());
        }
    }

    /// The topic for dead letters, if there is one.
    pub fn topic(&self) -> Option<&str> {
        self.topic.as_deref()
    }

    /// Whether a dead letter would be kept, as far as is known.
    pub fn keeps(&self) -> bool {
        self.store.as_ref().is_some_and(Store::has_room)
    }

    /// The bytes of what is kept.
    pub fn bytes(&self) -> u64 {
        self.store.as_ref().map_or(0, Store::bytes)
    }

    /// Takes over what the sink has refused, and keeps it once it is worth the while. Gives what cannot be kept.
    pub fn poll(&mut self, frontier: &Frontier, status: &PublisherStatus) -> Vec<Refused> {
        for refused in frontier.take_refused() {
            let taken_back = self.retry.as_mut().and_then(|retry| retry.takes_back(refused.ticket));
            if taken_back == Some(true)
                && let Some(others) = self.topic_log.pass()
            {
                let DeadLetter { topic, reason, .. } = &refused.dead_letter;
                tracing::error!(
                    "failed.topic `{topic}` does not take dead letters: {reason}; they stay in failed.dir{others}"
                );
            }
            if taken_back.is_some() && !Fault::DeadLetterKeptTwice.is_back() {
                frontier.settle_refused(refused.ticket, Outcome::DeadLettered);
                continue;
            }
            if self.gathered.is_empty() {
                self.since = clock::now();
            }
            self.gathered_bytes += refused.dead_letter.payload.len();
            self.gathered.push(refused);
        }
        self.look_for_room(frontier);
        let is_due = self.store.is_none()
            || self.gathered_bytes >= GATHER_BYTES
            || clock::now().duration_since(self.since) >= GATHER_TIME;
        if is_due { self.keep(frontier, status) } else { Vec::new() }
    }

    /// The first message that waits for an operator, to be handed to the sink again.
    pub fn waiting(&self) -> Option<&Refused> {
        self.waiting.front()
    }

    /// The first message that waited does so no longer.
    pub fn take_waiting(&mut self) {
        self.waiting.pop_front();
    }

    /// Looks now and then whether somebody has made room, so that what waits for that can be kept.
    fn look_for_room(&mut self, frontier: &Frontier) {
        let now = clock::now();
        let Some(store) = self.store.as_mut().filter(|store| !store.has_room()) else { return };
        if now < self.look_at_room {
            return;
        }
        self.look_at_room = now + ROOM_INTERVAL;
        match store.look_for_room() {
            Ok(has_room) => frontier.set_keeps_dead_letters(has_room),
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// The dead letters that are to be sent again now; [`Self::sent_again`] is to be told of each.
    pub fn dead_letters(&mut self, frontier: &Frontier, status: &PublisherStatus) -> Vec<Again> {
        let (Some(retry), Some(_)) = (&mut self.retry, &self.store) else { return Vec::new() };
        if let Some(settled) = retry.settle(|ticket| frontier.is_done(ticket))
            && !settled.lines.is_empty()
        {
            self.delivered = Some(settled);
            self.delivered_not_before = clock::now();
        }
        if !self.remove_delivered(frontier, status) {
            return Vec::new();
        }
        self.retry.as_mut().map_or_else(Vec::new, Retry::due)
    }

    /// Takes delivered dead letters out of their file. Gives whether none is left in it: another round would send it again.
    fn remove_delivered(&mut self, frontier: &Frontier, status: &PublisherStatus) -> bool {
        let (Some(settled), Some(store)) = (&self.delivered, &mut self.store) else { return true };
        let Settled { path, lines, passed_on } = settled;
        if clock::now() < self.delivered_not_before {
            return false;
        }
        if let Err(error) = store.remove(path, lines) {
            self.delivered_not_before = clock::now() + DISK_PAUSE;
            if let Some(others) = self.disk_log.pass() {
                tracing::error!("{error}: delivered dead letters stay there until that ends{others}");
            }
            return false;
        }
        if lines.len() > *passed_on {
            tracing::info!("{} dead letters are delivered after all", lines.len() - passed_on);
        }
        if let Some(topic) = self.topic.as_deref().filter(|_| *passed_on > 0) {
            tracing::info!("{passed_on} dead letters are in the topic `{topic}` now (failed.topic)");
            sink_stats().passed_on.fetch_add(*passed_on as u64, Ordering::Relaxed);
        }
        status.add(PublisherCounter::RedeliveredDeadLetters, lines.len() as u64);
        frontier.set_keeps_dead_letters(store.has_room());
        self.delivered = None;
        true
    }

    /// The dead letters that are to go to the topic for such now; [`Self::sent_again`] is to be told of each.
    pub fn to_pass_on(&mut self) -> Vec<Again> {
        self.retry.as_mut().map_or_else(Vec::new, Retry::to_pass_on)
    }

    /// A dead letter is on its way again.
    pub fn sent_again(&mut self, again: &Again, ticket: Ticket) {
        if let Some(retry) = &mut self.retry {
            retry.sent(again, ticket);
        }
    }

    /// Keeps what the sink has refused at once. Gives what cannot be kept.
    pub fn finish(&mut self, frontier: &Frontier, status: &PublisherStatus) -> Vec<Refused> {
        let mut unkept = self.poll(frontier, status);
        unkept.extend(self.keep(frontier, status));
        unkept
    }

    fn keep(&mut self, frontier: &Frontier, status: &PublisherStatus) -> Vec<Refused> {
        let Some(first) = self.gathered.first() else { return Vec::new() };
        let (id, reason) = (first.dead_letter.id, first.dead_letter.reason.clone());
        let kept = match &mut self.store {
            Some(store) => match self.refused_by_disk {
                Some((_, not_before)) if clock::now() < not_before => return Vec::new(),
                _ => store.keep(self.gathered.iter().map(|refused| &refused.dead_letter)).map(|()| true),
            },
            None => Ok(false),
        };
        if let Err(error @ FailedError::Io { .. }) = &kept
            && self.waits_for_disk(error)
        {
            return Vec::new();
        }
        self.refused_by_disk = None;
        let mut refused = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        frontier.set_keeps_dead_letters(self.keeps());
        if !matches!(kept, Ok(true)) {
            self.look_at_room = clock::now() + ROOM_INTERVAL;
            let waits = |one: &Refused| one.is_mendable && !Fault::MendableIsLost.is_back();
            let (mendable, lost): (Vec<_>, Vec<_>) = refused.into_iter().partition(waits);
            self.wait(mendable, kept.as_ref().err());
            refused = lost;
        }
        let count = refused.len();
        status.add(PublisherCounter::FailedMessages, count as u64);
        let others = if count > 0 { self.log.pass() } else { None };
        match kept {
            Ok(true) => {
                if let Some(others) = others {
                    tracing::error!(
                        "{count} messages cannot be delivered and are now dead letters (publisher failed list), the \
                         first of them event {id}: {reason}{others}"
                    );
                }
                status.add(PublisherCounter::DeadLetters, count as u64);
                let outcome = match Fault::DeadLettersCountAsDelivered.is_back() {
                    true => Outcome::Delivered,
                    false => Outcome::DeadLettered,
                };
                for refused in &refused {
                    frontier.settle_refused(refused.ticket, outcome);
                }
                return Vec::new();
            }
            Err(error) => {
                if let Some(store) = &mut self.store {
                    store.give_up();
                }
                if let Some(others) = others {
                    tracing::error!(
                        "{count} messages cannot be delivered and not be kept, so loss events replace them, the \
                         first of them event {id}: {reason}; {error}{others}"
                    );
                }
            }
            Ok(false) => {
                if let Some(others) = others {
                    tracing::error!(
                        "{count} messages cannot be delivered and are replaced by loss events, the first of them \
                         event {id}: {reason}{others}"
                    );
                }
            }
        }
        refused
    }

    /// Has messages wait for an operator, in the ring's order.
    fn wait(&mut self, mut mendable: Vec<Refused>, error: Option<&FailedError>) {
        let Some(first) = mendable.first() else { return };
        if let (Some(others), Some(error)) = (self.log.pass(), error) {
            let (reason, topic) = (&first.dead_letter.reason, &first.dead_letter.topic);
            tracing::error!(
                "{} messages for `{topic}` wait, and all behind them, until that takes them or there is room for dead \
                 letters: {reason}; {error}{others}",
                mendable.len()
            );
        }
        mendable.extend(self.waiting.drain(..));
        mendable.sort_by_key(|refused| (refused.ticket, refused.dead_letter.id.subject));
        self.waiting = mendable.into();
    }

    /// Whether what is gathered waits until the disk takes it, and is in the ring meanwhile.
    fn waits_for_disk(&mut self, error: &FailedError) -> bool {
        let now = clock::now();
        let (since, not_before) = self.refused_by_disk.get_or_insert((now, now));
        *not_before = now + DISK_PAUSE;
        if now.duration_since(*since) >= DISK_PATIENCE {
            return false;
        }
        if let Some(others) = self.disk_log.pass() {
            tracing::error!(
                "{error}: {} messages that cannot be delivered wait until they can be kept{others}",
                self.gathered.len()
            );
        }
        true
    }
}
