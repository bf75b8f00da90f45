//! The drain's output: turns records into events (user names, encoding, splitting) and sends these to the sink, with
//! back-pressure: while the sink is full, [`send`] waits.

mod event;
mod expiry;
mod parts;
mod redelivery;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bywash_common::{
    clock::now_ns,
    config::Config,
    fail_point::FailPoint,
    record::{Loss, LossReason, Write},
    ring::{DamagedRange, Entry},
    status::{PublisherCounter, PublisherStatus},
};

use crate::{
    delivery::{
        DeadLetter, EventId, Frontier, Message, NS_PER_MS, News, Outcome, Record, Refused, SendError, Sink,
        SinkError, Stretch, Subject, Ticket,
    },
    encode::{self, Early, Encode, LossEvent, Part, WriteEvent},
    faults::Fault,
    lines::Downstream,
    names::Names,
    route::{Route, Routes},
    signals::Stop,
    spool::SpoolWaker,
};

use super::{dead_letters::DeadLetters, expired::Expired, input::Input, namer::Namer};
use parts::{part_id, part_of};

/// How long the drain waits for a delivery, while the sink is full, before it looks at the sink and at a stop again.
const FULL_WAIT: Duration = Duration::from_millis(100);

/// The drain's output.
pub struct Output {
    routes: Routes,
    encoder: Box<dyn Encode>,
    early: Early,
    /// Of news, where they have a topic of their own.
    news_encoder: Option<Box<dyn Encode>>,
    names: Names,
    sink: Box<dyn Sink>,
    frontier: Arc<Frontier>,
    stop: Stop,
    status: PublisherStatus,
    /// Wakes the spool.
    spool_waker: Option<SpoolWaker>,
    namer: Namer,
    payload: Vec<u8>,
    dead_letters: DeadLetters,
    holds_dead_letters: bool,
    expired: Expired,
    /// When it was last polled: recent enough to tell whether a name is stale, and cheaper than the clock.
    polled: Instant,
}

impl Output {
    /// An outlet for the records of `ring`.
    pub fn new(
        config: Config,
        names: Names,
        sink: Box<dyn Sink>,
        frontier: Arc<Frontier>,
        stop: Stop,
        dead_letters: DeadLetters,
        input: &Input,
    ) -> Self {
        let encoder = encode::encoder(&config.event);
        Self {
            expired: Expired::new(&config),
            early: Early::new(encoder.form()),
            encoder,
            news_encoder: encode::news_encoder(&config),
            routes: Routes::new(config),
            names,
            sink,
            frontier,
            stop,
            status: input.ring.status.clone(),
            spool_waker: input.spool_waker(),
            namer: Namer::new(input.stream()),
            payload: Vec::new(),
            dead_letters,
            holds_dead_letters: false,
            polled: Instant::now(),
        }
    }

    /// Turns to the records of another ring.
    pub fn follow(&mut self, input: &Input) {
        self.status = input.ring.status.clone();
        self.spool_waker = input.spool_waker();
        self.namer = Namer::new(input.stream());
    }

    /// Has the spool look at the ring. To be called whenever the drain has to wait.
    pub fn look_at_ring(&self) {
        if let Some(spool_waker) = &self.spool_waker {
            spool_waker.look();
        }
    }

    /// Follows another configuration.
    pub fn reconfigure(&mut self, config: &Config) {
        self.encoder = encode::encoder(&config.event);
        self.early = Early::new(self.encoder.form());
        self.news_encoder = encode::news_encoder(config);
        self.sink.reconfigure(config);
        self.dead_letters.reconfigure(config);
        self.routes = Routes::new(config.clone());
        self.expired.reconfigure(config);
    }

    /// Lets the sink work on what does not move by itself, and deals with what it refuses for good. `has_backlog` says that what
    /// was there at the start is not read to its end.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn poll(&mut self, has_backlog: bool) -> Result<(), SinkError> {
        self.polled = Instant::now();
        self.expired.look();
        self.sink.poll()?;
        let unkept = self.dead_letters.poll(&self.frontier, &self.status);
        self.announce(&unkept)?;
        self.offer_waiting()?;
        self.send_dead_letters(has_backlog)
    }

    /// Whether the sink has something to send again, for which it waits for reports.
    pub fn is_holding(&self) -> bool {
        self.sink.is_holding()
    }

    /// Lets the sink send what it has gathered: there is nothing more at the moment.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn push(&mut self) -> Result<(), SinkError> {
        self.announce_expired()?;
        let unkept = self.dead_letters.finish(&self.frontier, &self.status);
        self.announce(&unkept)?;
        self.sink.push()
    }

    /// Closes the sink; see [`Sink::close`]. What it has refused is kept if it can be kept, and stays in the ring if not.
    pub fn close(mut self, deadline: Instant) {
        self.dead_letters.finish(&self.frontier, &self.status);
        self.sink.close(deadline);
        self.dead_letters.finish(&self.frontier, &self.status);
    }

    /// The most bytes of an event's payload. To be asked for before its message is made: the sink hears of a topic that is new.
    fn limit_bytes(&mut self, event: &WriteEvent<'_>) -> usize {
        let key_bytes = self.routes.key_bytes(event);
        self.introduce();
        self.sink.payload_bytes_max(key_bytes)
    }

    fn introduce(&mut self) {
        while let Some(topic) = self.routes.take_new() {
            self.sink.meet_topic(&topic);
        }
    }

    fn send_event(&mut self, id: EventId, event: &WriteEvent<'_>, ticket: Ticket) -> Result<(), SinkError> {
        let limit_bytes = self.limit_bytes(event);
        self.payload.clear();
        self.encoder.write(event, &mut self.payload);
        if self.payload.len() <= limit_bytes {
            return self.send_payload(id, event, ticket).map(drop);
        }
        match encode::cuts(&mut *self.encoder, event, limit_bytes, &mut self.payload) {
            Ok(ends) => self.send_parts(id, event, &ends, ticket),
            Err(error) => {
                self.payload.clear();
                self.encoder.write(event, &mut self.payload);
                let dead_letter =
                    dead_letter(&message(&mut self.routes, id, event, &self.payload), error.to_string());
                self.frontier.refuse(ticket, dead_letter);
                Ok(())
            }
        }
    }

    fn send_parts(
        &mut self,
        id: EventId,
        event: &WriteEvent<'_>,
        ends: &[usize],
        ticket: Ticket,
    ) -> Result<(), SinkError> {
        // A record is shorter than 4 GiB, and no part is empty.
        let count = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        self.frontier.expect_more(ticket, count.saturating_sub(1));
        let begins = std::iter::once(0).chain(ends.iter().copied());
        for (index, (begin, end)) in (0..count).zip(begins.zip(ends.iter().copied())) {
            let id = part_id(id, begin..end);
            let event_id = id.to_string();
            let part = part_of(event, &event_id, begin..end, Part { index, count });
            self.payload.clear();
            self.encoder.write(&part, &mut self.payload);
            if !self.send_payload(id, &part, ticket)? {
                break;
            }
        }
        Ok(())
    }

    fn send_payload(
        &mut self,
        id: EventId,
        event: &WriteEvent<'_>,
        ticket: Ticket,
    ) -> Result<bool, SinkError> {
        FailPoint::EventEncoded.reach();
        let message = message(&mut self.routes, id, event, &self.payload);
        send(&mut *self.sink, &self.frontier, &self.stop, self.spool_waker.as_ref(), &message, ticket)
    }

    /// Sends the news that the agent could not, or was not to, take some writes; of the file at `path`, if there is one.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn loss(&mut self, entry: Entry, loss: &Loss, path: Option<&[u8]>) -> Result<(), SinkError> {
        let reason = loss.reason.name();
        // What a quota withholds is as the operator wants it.
        if loss.reason == LossReason::Quota {
            tracing::debug!("{} writes ({} bytes) were withheld: {reason}", loss.events, loss.bytes);
        } else {
            tracing::error!("{} writes ({} bytes) were lost: {reason}", loss.events, loss.bytes);
        }
        let ticket = self.frontier.open(Record::of_news(entry.end, Some(entry.seq), loss.last_ns));
        let Loss { events, bytes, first_ns, last_ns, .. } = *loss;
        let numbers = [events, bytes, first_ns, last_ns];
        let news = News::Lost { sequence: entry.seq };
        self.send_news(ticket, news, reason, path, numbers).map(drop)
    }

    /// Sends the news that a record of `bytes` bytes cannot be decoded.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn corrupt(&mut self, entry: Entry, bytes: u64) -> Result<(), SinkError> {
        tracing::error!("record {} cannot be decoded: its {bytes} bytes are lost", entry.seq);
        self.status.add(PublisherCounter::CorruptSkips, 1);
        let now_ns = now_ns();
        let ticket = self.frontier.open(Record::of_news(entry.end, Some(entry.seq), now_ns));
        if Fault::DamageUnannounced.is_back() {
            self.frontier.settle(ticket, Outcome::PassedOver);
            return Ok(());
        }
        let news = News::Corrupt { sequence: entry.seq };
        self.send_news(ticket, news, "corrupt", None, [1, bytes, now_ns, now_ns]).map(drop)
    }

    /// Sends the news that the ring cannot be read from the position `begin` on.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn damage(&mut self, begin: u64, range: &DamagedRange) -> Result<(), SinkError> {
        self.status.add(PublisherCounter::CorruptSkips, 1);
        let (now_ns, len) = (now_ns(), range.bytes);
        let ticket = self.frontier.open(Record::of_news(begin + len, None, now_ns));
        let news = News::Damage { position: begin, len: Some(len) };
        let records = range.records().unwrap_or(0);
        self.send_news(ticket, news, "corrupt", None, [records, len, now_ns, now_ns]).map(drop)
    }

    /// Sends the news that records of the spool are missing: `records` from number `first` on, behind the position
    /// `end`. `records` is 0 where nobody knows how many.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn gap(&mut self, first: u64, records: u64, end: u64) -> Result<(), SinkError> {
        tracing::error!("the spool is damaged: {records} records are lost, from number {first} on");
        self.status.add(PublisherCounter::CorruptSkips, 1);
        self.status.add(PublisherCounter::SpoolLost, records);
        let now_ns = now_ns();
        // It stands for the last of them: the number behind is known.
        let last = if records > 0 { (first + records).checked_sub(1) } else { None };
        let ticket = self.frontier.open(Record::of_news(end, last, now_ns));
        let news = News::Gap { first, records: Some(records) };
        self.send_news(ticket, news, "corrupt", None, [records, 0, now_ns, now_ns]).map(drop)
    }

    /// Sends the news that writes cannot be delivered, and not be kept either, in those writes' place and on their
    /// tickets, so that the ring keeps each until the news is out.
    fn announce(&mut self, unkept: &[Refused]) -> Result<(), SinkError> {
        for Refused { ticket, record, .. } in unkept {
            match record.sequence.filter(|_| self.frontier.announce(*ticket)) {
                Some(sequence) => {
                    let numbers = [1, record.data_bytes, record.time_ns, record.time_ns];
                    let news = News::Undeliverable { sequence };
                    if !self.send_news(*ticket, news, "undeliverable", None, numbers)? {
                        // A stop came first: the ring keeps the write, and nothing is settled.
                        return Ok(());
                    }
                    self.frontier.replaced();
                }
                // A further part of what was announced, or an announcement.
                None => self.frontier.settle_refused(*ticket, Outcome::Lost),
            }
        }
        Ok(())
    }

    /// `numbers` are events, bytes, first and last time. Gives false if a stop came first.
    pub(super) fn send_news(
        &mut self,
        ticket: Ticket,
        news: News,
        reason: &str,
        path: Option<&[u8]>,
        numbers: [u64; 4],
    ) -> Result<bool, SinkError> {
        self.announce_expired()?;
        let [events, bytes, first_ns, last_ns] = numbers;
        let (id, event_id) = self.namer.name(Subject::News(news));
        let sequence = news.sequence();
        let event = LossEvent { reason, path, events, bytes, first_ns, last_ns, event_id, sequence };
        self.payload.clear();
        let encoder = self.news_encoder.as_mut().unwrap_or(&mut self.encoder);
        if !encoder.loss(&event, &mut self.payload) {
            tracing::error!(
                "the raw format cannot carry the news that {} (event.loss_topic gives them a topic)",
                event.sentence()
            );
            self.frontier.settle(ticket, Outcome::PassedOver);
            return Ok(true);
        }
        // It goes where the file's events go, if it is about one, unless news have a topic of their own.
        let (payload, time_ms) = (&self.payload[..], last_ns / NS_PER_MS);
        let sent = self.routes.of_news(path, |Route { topic, key }| {
            let message =
                Message { topic, key, payload, id, event_id, time_ms, is_dead_letter: false, failure: None };
            send(&mut *self.sink, &self.frontier, &self.stop, self.spool_waker.as_ref(), &message, ticket)
        });
        self.introduce();
        sent
    }
}

impl Downstream for Output {
    fn write(&mut self, entry: Entry, write: &Write<'_>, data: &[u8]) -> Result<(), SinkError> {
        let ticket = self.frontier.open(Record::of_write(entry, write, data));
        self.send_write(ticket, entry.seq, None, write, data)
    }

    fn send_write(
        &mut self,
        ticket: Ticket,
        sequence: u64,
        stretch: Option<Stretch>,
        write: &Write<'_>,
        message: &[u8],
    ) -> Result<(), SinkError> {
        if self.is_expired(write.time_ns) {
            return self.give_up(ticket, (sequence, stretch), write.time_ns, message.len());
        }
        self.announce_expired()?;
        let send = |output: &mut Self, id, event: &WriteEvent<'_>| output.send_event(id, event, ticket);
        self.with_event((sequence, stretch), write, message, send)
    }
}

/// Hands a message to the sink, however long that takes. Gives false if a stop came first; the record then stays open,
/// and the ring keeps it.
fn send(
    sink: &mut dyn Sink,
    frontier: &Frontier,
    stop: &Stop,
    spool_waker: Option<&SpoolWaker>,
    message: &Message<'_>,
    ticket: Ticket,
) -> Result<bool, SinkError> {
    loop {
        let seen = frontier.events();
        match sink.send(message, ticket) {
            Ok(()) => {
                FailPoint::EventSent.reach();
                return Ok(true);
            }
            Err(SendError::GivenUp(reason)) => {
                frontier.give_up(ticket, dead_letter(message, reason));
                return Ok(true);
            }
            Err(SendError::Refused(reason)) => {
                frontier.refuse(ticket, dead_letter(message, reason));
                return Ok(true);
            }
            Err(SendError::Broken(error)) => return Err(error),
            Err(SendError::Full) if stop.is_requested() => return Ok(false),
            Err(SendError::Full) => {
                sink.poll()?;
                if let Some(spool_waker) = spool_waker {
                    spool_waker.look();
                }
                frontier.wait_past(seen, FULL_WAIT);
            }
        }
    }
}

/// The message that carries an encoded write.
fn message<'a>(
    routes: &'a mut Routes,
    id: EventId,
    event: &WriteEvent<'a>,
    payload: &'a [u8],
) -> Message<'a> {
    let Route { topic, key } = routes.of(event);
    let (event_id, time_ms) = (event.event_id, event.time_ns / NS_PER_MS);
    Message { topic, key, payload, id, event_id, time_ms, is_dead_letter: false, failure: None }
}

fn dead_letter(message: &Message<'_>, reason: String) -> DeadLetter {
    DeadLetter {
        topic: message.topic.to_owned(),
        key: message.key.map(<[u8]>::to_vec),
        payload: message.payload.to_vec(),
        id: message.id,
        time_ms: message.time_ms,
        reason,
    }
}
