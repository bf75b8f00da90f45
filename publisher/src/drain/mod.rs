//! The drain: the loop that reads records from the [`Input`] and sends events to the [`Output`].
//!
//! It reads records in order, opens an entry of the [`Frontier`] for each, hands its event to the sink and goes on. Delivery reports
//! move the ring's head by way of the frontier.
//!
//! Invariant: the drain holds nothing that the ring or the spool does not hold as well. So a kill at any moment costs at most a
//! second delivery under the same event ids.

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

/// The longest sleep of an idle drain. A new record wakes it at once, unless the agent is killed between the commit and the
/// wake-up. With the three or four wake-ups of librdkafka, an idle publisher wakes less than ten times a second.
const IDLE_WAIT: Duration = Duration::from_millis(250);
/// How long the drain waits for a delivery report, while the limit of what is in flight is reached, before it checks for a stop.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// The pause before the spool is read again after an I/O error. A delivery report ends it early.
const DISK_WAIT: Duration = Duration::from_millis(500);
/// The records after which a busy drain wakes the spool's feeder. A drain that waits wakes it each time.
const LOOK_RECORDS: u64 = 256;
/// The records that a busy drain takes before it looks at the clock, the configuration, dead letters and the sink's own work.
const TURN_RECORDS: u32 = 64;
/// How often the drain checks whether the agent has begun another generation of the ring.
const SUCCESSOR_INTERVAL: Duration = Duration::from_secs(1);

/// Why draining ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The sink cannot go on.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The ring's next generation cannot be attached.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The input cannot go on with the spool.
    #[error(transparent)]
    Input(#[from] InputError),
}

/// The limits of what is in flight, as configured.
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
    /// The ring, and the position in it, up to which records were there at the start. None once they are read.
    backlog: Option<(Uuid, u64)>,
    looked_for_successor: Instant,
    /// The ring that was superseded at the last check.
    seen_superseded: Option<Uuid>,
    /// The ring for which the log has said that it was cut short: once for each.
    said_broken: Option<Uuid>,
    /// The ring and position for which the log and a loss event have said that the tail is damaged: once for each.
    said_tail: Option<(Uuid, u64)>,
    /// What an operator has discarded and no loss event has announced yet.
    untold: Option<Discarded>,
    /// The number of the last warning that `status` was given.
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

    /// One round: follows reloads, polls the sink, and takes up to [`TURN_RECORDS`] records or waits for something to do.
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

    /// Takes records until [`TURN_RECORDS`] are taken or something else is to be done.
    fn take_turn(&mut self) -> Result<(), DrainError> {
        for _ in 0..TURN_RECORDS {
            // Order: a record that was left unsent at a stop is the first one after the restart, so no later record may be sent.
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
                // The memory behind is missing: no record behind can be read either.
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
            // A discarded reservation was counted as a loss, which a record of its own announces.
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

    /// Flushes the oldest unfinished line if it holds back the head while the ring is half full, or while the limit of what is
    /// in flight is reached.
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
        // A batch that the sink holds back for more records would wait for ever: nothing more is read meanwhile.
        self.output.push()?;
        if !self.frontier.has_room() || self.output.has_waiting() {
            self.output.look_at_ring();
            self.frontier.wait_past(seen, ROOM_WAIT);
        }
        self.look_for_successor()
    }

    /// Waits while the spool cannot be read, or while the recovery limit is used up.
    fn wait_for_spool(&mut self, wait: Duration) -> Result<(), SinkError> {
        self.tell_warning();
        let seen = self.frontier.events();
        self.output.push()?;
        self.output.look_at_ring();
        self.frontier.wait_past(seen, wait);
        Ok(())
    }

    /// Writes this process's last warning to the ring, where `status` reads it.
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
            // The sink has messages to send again and waits for delivery reports: a report lets it go on, a new record does not.
            self.frontier.wait_past(seen, IDLE_WAIT);
        } else {
            clock::pass(IDLE_WAIT, || self.input.ring.consumer.wait(IDLE_WAIT));
        }
        Ok(())
    }

    /// Every [`SUCCESSOR_INTERVAL`], turns to the ring's next generation if there is one.
    fn look_for_successor(&mut self) -> Result<(), DrainError> {
        if clock::now().duration_since(self.looked_for_successor) < SUCCESSOR_INTERVAL {
            return Ok(());
        }
        self.looked_for_successor = clock::now();
        if !attach::is_superseded(&self.ring_name, &self.input.ring) {
            return Ok(());
        }
        // The agent may still commit to this generation for a moment after the next one is there. So the drain turns to the next
        // one at the second check only, one interval later.
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
            // Redelivery would keep entries in flight, and this generation from ever being done.
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

    /// The ring's object was cut short. The records that were read are delivered, then the drain turns to the next generation. The
    /// agent counts the records that were not read: it knows how many there are.
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

    /// The ring's tail is damaged. That says nothing about where records end, so no record is passed over. The agent repairs the tail
    /// with its next commit; an agent that starts and finds it damaged begins another generation.
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

    /// All records of a former ring are read: turns to the next stream once they are delivered.
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
