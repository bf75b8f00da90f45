//! A broker, and the sink that sends to it: both keep their promises, and everything else may happen.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    clock,
    dead_letter::CircuitBreaker,
    delivery::{DeadLetter, EventId, Frontier, Message, Outcome, SendError, Sink, SinkError, Ticket},
};

use super::{
    content::{self, Event, Piece},
    random::Random,
};

/// So many messages are on their way at most.
const FLIGHTS_MAX: usize = 40;
/// How long the sink waits before it tries a topic again that took nothing.
const BACK_OFF: Duration = Duration::from_secs(1);

/// A message that the broker has.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub id: EventId,
    pub event: Event,
    pub is_dead_letter: bool,
}

/// What the broker does.
#[derive(Clone, Debug, Default)]
pub struct Mood {
    /// It answers nothing.
    pub is_stalled: bool,
    /// It takes messages, and its answers are lost.
    pub is_mute: bool,
    /// Topics that take nothing until an operator acts.
    pub barred: BTreeSet<String>,
    /// Some messages are never taken.
    pub has_poison: bool,
}

#[derive(Default)]
struct State {
    log: Vec<Accepted>,
    /// What was refused once: it has lost its place.
    refused: BTreeSet<Piece>,
    /// What was refused for good, and by nobody's fault but its own.
    poisoned: BTreeSet<Piece>,
    /// The first message that nobody understands.
    nonsense: Option<String>,
    mood: Mood,
}

/// The broker, which outlives publishers.
#[derive(Clone, Default)]
pub struct Broker(Arc<Mutex<State>>);

impl Broker {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that it has, in the order in which it came.
    ///
    /// # Errors
    /// What is wrong with a message that was sent.
    pub fn log(&self) -> Result<Vec<Accepted>, String> {
        let state = self.lock();
        state.nonsense.clone().map_or_else(|| Ok(state.log.clone()), Err)
    }

    /// What it has refused once.
    pub fn refused(&self) -> BTreeSet<Piece> {
        self.lock().refused.clone()
    }

    /// What it never takes, where there is poison, and was asked to.
    pub fn poisoned(&self) -> BTreeSet<Piece> {
        self.lock().poisoned.clone()
    }

    /// What it does.
    pub fn mood(&self) -> Mood {
        self.lock().mood.clone()
    }

    /// Changes what it does.
    pub fn change(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.lock().mood);
    }

    /// Takes a message.
    pub fn take(&self, message: Accepted) {
        self.lock().log.push(message);
    }

    /// Notes that a message was refused.
    pub fn refuse(&self, event: &Event, is_poison: bool) {
        let mut state = self.lock();
        state.refused.extend(event.piece());
        if is_poison {
            state.poisoned.extend(event.piece());
        }
    }

    /// What a message says.
    pub fn read(&self, payload: &[u8]) -> Event {
        content::read(payload).unwrap_or_else(|error| {
            self.lock().nonsense.get_or_insert(error);
            Event::Lost { reason: "nonsense".to_owned(), events: 0 }
        })
    }
}

/// A message on its way.
struct Flight {
    message: Accepted,
    topic: String,
    key: Vec<u8>,
    payload: Vec<u8>,
    ticket: Ticket,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waits,
    /// Its topic took nothing.
    Held,
    /// The broker has it, and has not said so.
    Taken,
    /// The broker refuses it.
    Refused(Reason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Poison,
    Barred,
}

struct Line {
    flights: VecDeque<Flight>,
    circuit_breaker: CircuitBreaker,
    not_before: Instant,
}

/// What connects the sink to the broker; the network goes on while the drain waits.
#[derive(Clone)]
pub struct Network {
    broker: Broker,
    random: Random,
    frontier: Arc<Frontier>,
    line: Arc<Mutex<Line>>,
    payload_bytes_max: usize,
}

impl Network {
    /// A new connection.
    pub fn new(
        broker: Broker,
        random: Random,
        frontier: Arc<Frontier>,
        circuit_breaker: CircuitBreaker,
        payload_bytes_max: usize,
    ) -> Self {
        let line = Line { flights: VecDeque::new(), circuit_breaker, not_before: clock::now() };
        Self { broker, random, frontier, line: Arc::new(Mutex::new(line)), payload_bytes_max }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some of what is on its way arrives, and some answers do.
    pub fn step(&self) {
        let mood = self.broker.mood();
        if mood.is_stalled {
            return;
        }
        self.arrive(&mood);
        let mut reports = Vec::new();
        {
            let mut line = self.line();
            let mut i = 0;
            while i < line.flights.len() {
                let is_told = match line.flights[i].progress {
                    Progress::Taken => !mood.is_mute && self.random.happens(700),
                    Progress::Refused(_) => true,
                    Progress::Waits | Progress::Held => false,
                };
                if is_told {
                    reports.extend(line.flights.remove(i));
                } else {
                    i += 1;
                }
            }
        }
        reports.into_iter().for_each(|flight| self.report(flight));
    }

    fn arrive(&self, mood: &Mood) {
        let mut line = self.line();
        let may_try = clock::now() >= line.not_before;
        let mut blocked: Vec<Vec<u8>> = Vec::new();
        let Line { flights, circuit_breaker, not_before } = &mut *line;
        let waiting =
            flights.iter_mut().filter(|flight| matches!(flight.progress, Progress::Waits | Progress::Held));
        for flight in waiting {
            let is_held = flight.progress == Progress::Held;
            if is_held && !may_try || blocked.contains(&flight.key) || self.random.happens(300) {
                blocked.push(flight.key.clone());
                continue;
            }
            let Flight { message, topic, progress, .. } = flight;
            if mood.has_poison && message.event.is_poison() {
                self.broker.refuse(&message.event, true);
                *progress = Progress::Refused(Reason::Poison);
            } else if mood.barred.contains(topic) {
                // A dead letter that fails again is refused at once.
                let is_over = circuit_breaker.record_failure(topic) && self.frontier.keeps_dead_letters();
                if message.is_dead_letter || is_over {
                    self.broker.refuse(&message.event, false);
                    *progress = Progress::Refused(Reason::Barred);
                } else {
                    *progress = Progress::Held;
                    *not_before = clock::now() + BACK_OFF;
                    blocked.push(flight.key.clone());
                }
            } else {
                circuit_breaker.record_success(topic);
                *progress = Progress::Taken;
                let (key, as_what) =
                    (flight.key.escape_ascii(), if message.is_dead_letter { ", a dead letter" } else { "" });
                self.random.note(|| format!("the broker takes {} ({key}{as_what})", message.id));
                self.broker.take(message.clone());
            }
        }
    }

    fn report(&self, flight: Flight) {
        let Flight { message, topic, key, payload, ticket, progress } = flight;
        let id = message.id;
        let Progress::Refused(reason) = progress else {
            self.random.step("a report");
            self.random.note(|| format!("{id} is reported"));
            return self.frontier.settle(ticket, Outcome::Delivered);
        };
        self.random.step("a refusal");
        self.random.note(|| format!("{id} is refused: {reason:?}"));
        let dead_letter =
            DeadLetter { topic, key: Some(key), payload, id, time_ms: 0, reason: format!("{reason:?}") };
        match reason {
            Reason::Poison => self.frontier.refuse(ticket, dead_letter),
            Reason::Barred => self.frontier.give_up(ticket, dead_letter),
        }
    }
}

/// What the drain sends to.
pub struct SimulatedSink(pub Network);

impl Sink for SimulatedSink {
    fn payload_bytes_max(&self, _: usize) -> usize {
        self.0.payload_bytes_max
    }

    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError> {
        let network = &self.0;
        network.random.step("a send");
        let mut line = network.line();
        let is_held = line.flights.iter().any(|flight| flight.progress == Progress::Held);
        if line.flights.len() >= FLIGHTS_MAX || is_held || network.random.happens(50) {
            return Err(SendError::Full);
        }
        let Message { topic, key, payload, id, is_dead_letter, .. } = *message;
        let event = network.broker.read(payload);
        if !is_dead_letter && network.frontier.keeps_dead_letters() && line.circuit_breaker.rejects(topic) {
            network.broker.refuse(&event, false);
            return Err(SendError::GivenUp("the topic takes nothing".to_owned()));
        }
        line.flights.push_back(Flight {
            message: Accepted { id, event, is_dead_letter },
            topic: topic.to_owned(),
            key: key.unwrap_or_default().to_vec(),
            payload: payload.to_vec(),
            ticket,
            progress: Progress::Waits,
        });
        Ok(())
    }

    fn poll(&mut self) -> Result<(), SinkError> {
        self.0.step();
        Ok(())
    }

    fn push(&mut self) -> Result<(), SinkError> {
        self.0.step();
        Ok(())
    }

    fn close(self: Box<Self>, deadline: Instant) {
        while clock::now() < deadline && !self.0.line().flights.is_empty() {
            self.0.step();
            clock::pass(Duration::from_millis(100), || {});
        }
    }
}
