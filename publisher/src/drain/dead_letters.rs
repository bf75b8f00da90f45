//! What becomes of messages that the sink refuses for good.

use std::time::{Duration, Instant};

use bywash_common::{
    config::Config,
    status::{PublisherCounter, PublisherStatus},
};

use crate::{
    delivery::{Frontier, Refused, Ticket},
    failed::{Again, FailedError, Retry, Store},
    rate::LogRate,
};

/// Refused messages are gathered for this long: each time that some are kept costs two fsyncs.
const GATHER_TIME: Duration = Duration::from_millis(100);
/// Or until they have this many bytes.
const GATHER_BYTES: usize = 1 << 20;
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
    log: LogRate,
}

impl DeadLetters {
    /// Opens the directory of dead letters.
    ///
    /// # Errors
    /// A [`FailedError`] if it was configured and cannot be used. If the default cannot be used, the log says so.
    pub fn open(config: &Config) -> Result<Self, FailedError> {
        let Some(dir) = config.failed.directory() else { return Ok(Self::without()) };
        match Store::open(dir, config.failed.size_max, config.ring.group.as_deref()) {
            Ok(store) => {
                let retry = Retry::new(store.path(), config.failed.retry_interval.0);
                Ok(Self { store: Some(store), retry: Some(retry), ..Self::without() })
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

    /// Keeps nothing.
    pub fn without() -> Self {
        Self {
            store: None,
            retry: None,
            gathered: Vec::new(),
            gathered_bytes: 0,
            since: Instant::now(),
            log: LogRate::new(LOG_INTERVAL),
        }
    }

    /// Whether a dead letter would be kept, as far as is known.
    pub fn keeps(&self) -> bool {
        self.store.as_ref().is_some_and(Store::has_room)
    }

    /// Takes over what the sink has refused, and keeps it once it is worth the while. Gives what cannot be kept.
    pub fn poll(&mut self, frontier: &Frontier, status: &PublisherStatus) -> Vec<Refused> {
        for refused in frontier.take_refused() {
            if self.retry.as_mut().is_some_and(|retry| retry.takes_back(refused.ticket)) {
                frontier.complete_as_dead_letter(refused.ticket);
                continue;
            }
            if self.gathered.is_empty() {
                self.since = Instant::now();
            }
            self.gathered_bytes += refused.letter.payload.len();
            self.gathered.push(refused);
        }
        let is_due = self.store.is_none()
            || self.gathered_bytes >= GATHER_BYTES
            || self.since.elapsed() >= GATHER_TIME;
        if is_due { self.keep(frontier, status) } else { Vec::new() }
    }

    /// The dead letters that are to be sent again now; [`Self::sent_again`] is to be told of each.
    pub fn letters(&mut self, frontier: &Frontier, status: &PublisherStatus) -> Vec<Again> {
        let (Some(retry), Some(store)) = (&mut self.retry, &mut self.store) else { return Vec::new() };
        if let Some((file, delivered)) = retry.settle(|ticket| frontier.is_done(ticket))
            && !delivered.is_empty()
        {
            match store.remove(&file, &delivered) {
                Ok(()) => tracing::info!("{} dead letters are delivered after all", delivered.len()),
                Err(error) => tracing::error!("{error}; what is delivered of it is sent again"),
            }
            status.add(PublisherCounter::RevivedLetters, delivered.len() as u64);
            frontier.set_keeps_letters(store.has_room());
        }
        retry.due()
    }

    /// A letter is on its way again.
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
        let refused = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let kept = self.store.as_mut().map(|store| {
            if refused.is_empty() {
                Ok(())
            } else {
                store.keep(refused.iter().map(|refused| &refused.letter))
            }
        });
        frontier.set_keeps_letters(self.keeps());
        let Some(first) = refused.first() else { return refused };
        let (id, reason) = (&first.letter.event_id, &first.letter.reason);
        let count = refused.len();
        status.add(PublisherCounter::FailedMessages, count as u64);
        let others = self.log.pass();
        match kept {
            Some(Ok(())) => {
                if let Some(others) = others {
                    tracing::error!(
                        "{count} messages cannot be delivered and are now dead letters (publisher failed list), the \
                         first of them event {id}: {reason}{others}"
                    );
                }
                status.add(PublisherCounter::DeadLetters, count as u64);
                refused.iter().for_each(|refused| frontier.complete_as_dead_letter(refused.ticket));
                return Vec::new();
            }
            Some(Err(error)) => {
                frontier.set_keeps_letters(false);
                if let Some(others) = others {
                    tracing::error!(
                        "{count} messages cannot be delivered and not be kept, so loss events replace them, the \
                         first of them event {id}: {reason}; {error}{others}"
                    );
                }
            }
            None => {
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
}
