//! The loop from the ring to the sink.
//!
//! It reads records in order, hands each to the sink and goes on; delivery reports move the ring's head by way of the
//! [`Frontier`]. Nothing is kept here that the ring or the spool does not hold as well, so whatever ends this process costs
//! nothing but a second delivery under the same event ids.

mod attach;
mod dead_letters;
mod discard;
mod discarded;
mod expired;
mod input;
mod namer;
mod output;
mod recovery_limiter;
mod source;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bywash_common::{
    clock::now_ns,
    config::Config,
    logging::{Warning, last_warning},
    record::{Loss, Write},
    ring::{DamagedRange, Entry, Kind, ReadError, RingError, Skipped},
    status::PublisherCounter,
};
use uuid::Uuid;

use crate::{
    clock,
    delivery::{Bounds, Frontier, News, Outcome, Record, Sink, SinkError},
    lines::Lines,
    names::Names,
    reload::Reload,
    signals::Stop,
};

pub use attach::attach;
pub use dead_letters::DeadLetters;
pub use discard::{Emptied, EmptyError, empty_ring, empty_spool};
use discarded::Discarded;
use input::InputError;
pub use input::{Input, open_spool, spooled_records};
use output::Output;
use source::Taken;

/// How long an idle drain sleeps at most; a new record ends it at once, but for one whose agent was killed before it
/// could say so. With librdkafka's own three or four, an idle publisher wakes less than ten times a second.
const IDLE_WAIT: Duration = Duration::from_millis(250);
/// How long the drain waits for a delivery, with as much on its way as may be, before it looks for a stop.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// How long a disk that does not give what is in the spool is left alone before it is asked again, unless something is
/// delivered meanwhile.
const DISK_WAIT: Duration = Duration::from_millis(500);
/// After how many records a busy drain has the spool look at the ring; one that waits does so each time.
const LOOK_RECORDS: u64 = 256;
/// How many records a busy drain takes before it looks at everything else: at the clock, the configuration, dead letters, and
/// what of its own the sink has to do.
const TURN_RECORDS: u32 = 64;
/// How often an idle drain looks whether the agent has begun a new ring.
const SUCCESSOR_INTERVAL: Duration = Duration::from_secs(1);

/// Why draining ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The sink cannot go on.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The next ring cannot be attached to.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The spool is of no use any more.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// How much a configuration lets be on its way.
pub fn bounds(config: &Config) -> Bounds {
    let publisher = &config.publisher;
    Bounds {
        records: usize::try_from(publisher.in_flight_records).unwrap_or(usize::MAX),
        bytes: publisher.in_flight_bytes.0,
    }
}

/// Moves records from the ring to the sink.
pub struct Drain {
    input: Input,
    ring_name: String,
    output: Output,
    lines: Lines,
    frontier: Arc<Frontier>,
    stop: Stop,
    reload: Option<Reload>,
    /// The record that was read last.
    payload: Vec<u8>,
    /// Where in which ring that ends which was there at the start, until it is read.
    backlog: Option<(Uuid, u64)>,
    looked_for_successor: Instant,
    /// The ring that had a successor at the last look.
    seen_superseded: Option<Uuid>,
    /// The ring of which the log has said that it was cut short.
    said_broken: Option<Uuid>,
    /// Where in which ring the log, and an event, have said that its tail is damaged.
    said_tail: Option<(Uuid, u64)>,
    /// What an operator has discarded, until the first event tells of it.
    untold: Option<Discarded>,
    /// The number of the warning that `status` shows.
    told_warning: u64,
}

impl Drain {
    /// A drain from `input` to `sink`, which reports to `frontier`.
    pub fn new(
        config: &Config,
        mut input: Input,
        sink: Box<dyn Sink>,
        frontier: Arc<Frontier>,
        names: Names,
        stop: Stop,
        dead_letters: DeadLetters,
    ) -> Self {
        frontier.set_keeps_dead_letters(dead_letters.keeps());
        let output = Output::new(
            config.clone(),
            names,
            sink,
            Arc::clone(&frontier),
            stop.clone(),
            dead_letters,
            &input,
        );
        input.set_pace(config.publisher.recovery_bytes_per_second);
        let lines = Lines::new(config, Arc::clone(&frontier), input.ahead());
        let untold = Discarded::untold(&input.ring.status);
        let backlog = Some((input.ring.uuid, input.ring.gauge().tail()));
        Self {
            backlog,
            input,
            ring_name: config.ring.name.clone(),
            output,
            lines,
            frontier,
            stop,
            reload: None,
            payload: Vec::new(),
            looked_for_successor: clock::now(),
            seen_superseded: None,
            said_broken: None,
            said_tail: None,
            untold,
            told_warning: 0,
        }
    }

    /// Follows the configuration as it changes.
    pub fn follow_reloads(&mut self, reload: Reload) {
        self.reload = Some(reload);
    }

    /// Drains until a stop is asked for.
    ///
    /// # Errors
    /// A [`DrainError`] if it cannot go on; what is not delivered stays in the ring.
    pub fn run(&mut self) -> Result<(), DrainError> {
        while !self.stop.is_requested() {
            self.step()?;
        }
        Ok(())
    }

    /// Does what there is to do at the moment, or waits a little.
    ///
    /// # Errors
    /// A [`DrainError`] if it cannot go on.
    pub fn step(&mut self) -> Result<(), DrainError> {
        if let Some(config) = self.reload.as_ref().and_then(Reload::poll) {
            self.lines.reconfigure(&config, &mut self.output)?;
            self.output.reconfigure(&config);
            self.input.set_pace(config.publisher.recovery_bytes_per_second);
        }
        self.look_at_backlog();
        self.output.poll(self.backlog.is_some())?;
        if let Some(untold) = self.untold.take() {
            self.tell_of(&untold)?;
        }
        self.keep_room()?;
        self.take_turn()
    }

    fn look_at_backlog(&mut self) {
        let Some((ring, end)) = self.backlog.filter(|_| !self.input.is_at_former_ring()) else { return };
        if self.input.ring.uuid != ring || self.input.position() >= end {
            self.backlog = None;
        }
    }

    /// Takes records until there is something else to do.
    fn take_turn(&mut self) -> Result<(), DrainError> {
        for _ in 0..TURN_RECORDS {
            // What a stop has left unsent comes first after the restart: nothing may go before it.
            if self.stop.is_requested() || self.frontier.has_refused() {
                break;
            }
            if !self.frontier.has_room() || self.output.has_waiting() {
                return self.wait_for_room();
            }
            match self.input.next(&mut self.payload, &mut self.output.following(&self.lines)) {
                Ok(Taken::Record(entry)) => {
                    if entry.seq.is_multiple_of(LOOK_RECORDS) {
                        self.output.look_at_ring();
                    }
                    self.take(entry)?;
                }
                Ok(Taken::Gap { first_seq, records, end }) => self.output.gap(first_seq, records, end)?,
                Ok(Taken::Nothing) => return self.idle(),
                Ok(Taken::Blocked) => return Ok(self.wait_for_spool(DISK_WAIT)?),
                Ok(Taken::RateLimited(wait)) => {
                    self.wait_for_spool(wait)?;
                    return self.look_for_successor();
                }
                Ok(Taken::End) => return self.end_stream(),
                // Nothing behind it can be read either.
                Err(error @ ReadError::Truncated) => return self.leave_broken(&error),
                Err(error @ ReadError::Tail { .. }) => return self.wait_at_tail(&error),
                Err(error) => return Ok(self.pass_damage(&error)?),
            }
        }
        Ok(())
    }

    /// Delivers what was read, for at most `deliver_for`, and puts what the ring then holds into the spool, for at most
    /// `spool_for`.
    pub fn finish(self, deliver_for: Duration, spool_for: Duration) {
        let Self { input, ring_name, output, frontier, .. } = self;
        output.close(clock::now() + deliver_for);
        let has_spool = input.spool_waker().is_some();
        let used_bytes = input.finish(&ring_name, clock::now() + spool_for);
        let place = if has_spool { "the spool and the ring" } else { "the ring" };
        let outcomes = frontier.outcomes();
        let records = |outcome| outcomes.of(outcome).records;
        let (delivered, kept, lost) = (
            records(Outcome::Delivered),
            records(Outcome::DeadLettered),
            records(Outcome::Lost) + records(Outcome::Expired),
        );
        match frontier.in_flight() {
            0 if kept + lost == 0 => tracing::info!(
                "everything that was read is delivered; {used_bytes} bytes stay in the ring `{ring_name}`"
            ),
            0 => tracing::warn!(
                "of what was read {delivered} records are delivered, {kept} are dead letters and {lost} are lost, as events \
                 say; {used_bytes} bytes stay in the ring `{ring_name}`"
            ),
            records => tracing::warn!(
                "stopped before {records} records were confirmed: they are in {place} (`{ring_name}`, {used_bytes} \
                 bytes), and are sent again after the next start"
            ),
        }
    }

    fn take(&mut self, entry: Entry) -> Result<(), SinkError> {
        self.input.ring.status.add(PublisherCounter::ReadEvents, 1);
        self.lines.meet(entry.seq);
        let read_bytes = self.payload.len() as u64;
        match entry.kind {
            Kind::Write => {
                if let Ok((write, data)) = Write::decode(&self.payload) {
                    if self.output.is_expired(write.time_ns) {
                        self.input.refund(self.payload.len());
                    }
                    if self.output.has_message() {
                        self.lines.let_pass(&write, &mut self.output)?;
                        return self.output.write_encoded(entry, &write);
                    }
                    return self.lines.take(entry, &write, data, &mut self.output);
                }
            }
            Kind::Lost => {
                if let Ok((loss, path)) = Loss::decode(&self.payload) {
                    return self.output.loss(entry, &loss, Some(path).filter(|path| !path.is_empty()));
                }
            }
            // The loss that it is comes as a record of its own.
            Kind::Discarded => {
                let ticket = self.frontier.open(Record::of_news(entry.end, Some(entry.seq), now_ns()));
                self.frontier.settle(ticket, Outcome::PassedOver);
                return Ok(());
            }
        }
        self.output.corrupt(entry, read_bytes)
    }

    /// Sends the news that an operator has discarded writes, in front of what is read next.
    fn tell_of(&mut self, discarded: &Discarded) -> Result<(), SinkError> {
        let Discarded { before, records, bytes, first_ns, last_ns } = *discarded;
        tracing::warn!(
            "{records} writes ({bytes} bytes) were discarded by publisher discard; an event says so"
        );
        let ticket = self.frontier.open(Record::of_news(self.input.position(), None, last_ns));
        let news = News::Discarded { before, records };
        let numbers = [records, bytes, first_ns, last_ns];
        self.output.send_news(ticket, news, "discarded_by_operator", None, numbers).map(drop)
    }

    /// A line without an end must not keep others waiting.
    fn keep_room(&mut self) -> Result<(), SinkError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let (used_bytes, capacity_bytes) = self.input.ring.fill();
        if used_bytes > capacity_bytes / 2 || !self.frontier.has_room() {
            self.lines.make_room(&mut self.output)?;
        }
        Ok(())
    }

    fn wait_for_room(&mut self) -> Result<(), DrainError> {
        self.tell_warning();
        let seen = self.frontier.events();
        // What the sink holds back to send it with more would wait for ever.
        self.output.push()?;
        if !self.frontier.has_room() || self.output.has_waiting() {
            self.output.look_at_ring();
            self.frontier.wait_past(seen, ROOM_WAIT);
        }
        self.look_for_successor()
    }

    /// The disk does not give what comes next in the spool, or that shall not be sent yet.
    fn wait_for_spool(&mut self, wait: Duration) -> Result<(), SinkError> {
        self.tell_warning();
        let seen = self.frontier.events();
        self.output.push()?;
        self.output.look_at_ring();
        self.frontier.wait_past(seen, wait);
        Ok(())
    }

    /// Has `status` show what this process has warned of last.
    fn tell_warning(&mut self) {
        if let Some(Warning { number, at_ns, text }) = last_warning(self.told_warning) {
            self.input.ring.status.set_warning(at_ns, &text);
            self.told_warning = number;
        }
    }

    fn idle(&mut self) -> Result<(), DrainError> {
        self.tell_warning();
        let seen = self.frontier.events();
        self.lines.idle(&mut self.output)?;
        self.output.push()?;
        self.look_for_successor()?;
        self.output.look_at_ring();
        if self.output.is_holding() {
            // The next report lets it go on.
            self.frontier.wait_past(seen, IDLE_WAIT);
        } else {
            clock::pass(IDLE_WAIT, || self.input.ring.consumer.wait(IDLE_WAIT));
        }
        Ok(())
    }

    /// Now and then, turns to the ring that the agent writes to by now.
    fn look_for_successor(&mut self) -> Result<(), DrainError> {
        if clock::now().duration_since(self.looked_for_successor) < SUCCESSOR_INTERVAL {
            return Ok(());
        }
        self.looked_for_successor = clock::now();
        if !attach::is_superseded(&self.ring_name, &self.input.ring) {
            return Ok(());
        }
        // The agent may still write to this one for a moment after the next one is there: not at the first look.
        let uuid = self.input.ring.uuid;
        if self.seen_superseded.replace(uuid) != Some(uuid) {
            return Ok(());
        }
        let is_done = self.input.ring.is_drained() && self.frontier.in_flight() == 0;
        if is_done && !self.input.is_at_former_ring() {
            return self.follow_successor();
        }
        if self.input.overtake(&self.ring_name)? {
            self.frontier.set_ledger(self.input.ledger());
            self.output.follow(&self.input);
        } else {
            // Dead letters would keep it from ever being done.
            self.output.hold_dead_letters(true);
        }
        Ok(())
    }

    fn follow_successor(&mut self) -> Result<(), DrainError> {
        let Some(next) = attach(&self.ring_name, &self.stop)? else { return Ok(()) };
        self.input.follow(next)?;
        self.turn_to_stream();
        Ok(())
    }

    /// Somebody has cut the ring short: what was read is delivered, and then its successor is turned to. What was not read is
    /// the agent's to count, which knows how much it is.
    fn leave_broken(&mut self, error: &ReadError) -> Result<(), DrainError> {
        if self.said_broken != Some(self.input.ring.uuid) {
            self.said_broken = Some(self.input.ring.uuid);
            tracing::error!("{error}: going on with the ring that fs-agent begins in its place");
        }
        self.output.hold_dead_letters(true);
        self.lines.flush(&mut self.output)?;
        self.output.push()?;
        if self.frontier.in_flight() > 0 {
            let seen = self.frontier.events();
            self.frontier.wait_past(seen, ROOM_WAIT);
            return Ok(());
        }
        if attach::is_superseded(&self.ring_name, &self.input.ring) {
            return self.follow_successor();
        }
        clock::pass(ROOM_WAIT, || std::thread::sleep(ROOM_WAIT));
        Ok(())
    }

    /// The ring's tail is damaged, which says nothing of where records are: nothing is passed over. The agent repairs it with the
    /// next write, and begins another ring if it starts and finds it so.
    fn wait_at_tail(&mut self, error: &ReadError) -> Result<(), DrainError> {
        let place = (self.input.ring.uuid, self.input.ring.consumer.position());
        if self.said_tail != Some(place) {
            self.said_tail = Some(place);
            tracing::error!(
                "the ring is damaged: {error}; reading goes on once fs-agent has written to it again, or begun another"
            );
            self.output.damage(place.1, &DamagedRange::default())?;
        }
        self.lines.idle(&mut self.output)?;
        self.output.push()?;
        self.output.look_at_ring();
        let seen = self.frontier.events();
        if self.frontier.in_flight() == 0 && attach::is_superseded(&self.ring_name, &self.input.ring) {
            self.lines.flush(&mut self.output)?;
            if self.frontier.in_flight() == 0 {
                return self.follow_successor();
            }
        }
        self.frontier.wait_past(seen, ROOM_WAIT);
        Ok(())
    }

    /// All that there is of a former ring's records is read.
    fn end_stream(&mut self) -> Result<(), DrainError> {
        self.output.hold_dead_letters(true);
        self.lines.flush(&mut self.output)?;
        self.output.push()?;
        let seen = self.frontier.events();
        if self.frontier.in_flight() > 0 {
            self.output.look_at_ring();
            self.frontier.wait_past(seen, ROOM_WAIT);
            return self.look_for_successor();
        }
        if !self.input.next_stream() {
            return Ok(self.wait_for_spool(DISK_WAIT)?);
        }
        self.turn_to_stream();
        Ok(())
    }

    fn turn_to_stream(&mut self) {
        self.frontier.follow(self.input.ledger());
        self.output.follow(&self.input);
        self.output.hold_dead_letters(false);
        self.lines.follow(self.input.ahead());
    }

    fn pass_damage(&mut self, error: &ReadError) -> Result<(), SinkError> {
        let (begin, skipped) = self.input.pass_damage();
        let bytes = skipped.end(begin) - begin;
        if bytes == 0 {
            return Ok(());
        }
        tracing::error!("the ring is damaged: {error}; {bytes} bytes of it are lost, reading goes on behind");
        match skipped {
            Skipped::Record(entry) => {
                self.lines.meet(entry.seq);
                self.output.corrupt(entry, bytes)
            }
            Skipped::Range(range) => self.output.damage(begin, &range),
        }
    }
}
