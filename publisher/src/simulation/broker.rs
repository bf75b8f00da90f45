//! A broker, and the sink that sends to it: both keep their promises, and everything else may happen.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    clock,
    delivery::{EventId, Frontier, Letter, Message, Outcome, SendError, Sink, SinkError, Ticket},
    failed::Patience,
};

use super::fate::Fate;

/// So many messages are on their way at most.
const FLIGHTS_MAX: usize = 40;
/// How long the sink waits before it tries a topic again that took nothing.
const BACK_OFF: Duration = Duration::from_secs(1);

/// A message that the broker has.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub id: EventId,
    pub topic: String,
    pub key: Vec<u8>,
    pub payload: Vec<u8>,
    pub is_letter: bool,
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
    /// Messages with such a number are never taken.
    pub poison_every: u64,
}

#[derive(Default)]
struct State {
    log: Vec<Accepted>,
    /// Numbers of messages that were refused once: they have lost their place.
    refused: BTreeSet<u64>,
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
    pub fn log(&self) -> Vec<Accepted> {
        self.lock().log.clone()
    }

    /// Whether it has refused a message once.
    pub fn has_refused(&self, number: u64) -> bool {
        self.lock().refused.contains(&number)
    }

    /// Changes what it does.
    pub fn change(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.lock().mood);
    }
}

/// A message on its way.
struct Flight {
    message: Accepted,
    ticket: Ticket,
    /// The broker has it, and has not said so.
    is_taken: bool,
    /// Its topic took nothing.
    is_held: bool,
}

struct Line {
    flights: VecDeque<Flight>,
    patience: Patience,
    not_before: Instant,
}

/// What connects the sink to the broker; the network goes on while the drain waits.
#[derive(Clone)]
pub struct Network {
    broker: Broker,
    fate: Fate,
    frontier: Arc<Frontier>,
    line: Arc<Mutex<Line>>,
}

/// The number in a payload that the world has written, if it is one of those.
pub fn marker(payload: &[u8]) -> Option<u64> {
    let at = payload.windows(2).position(|two| two == b"<#")?;
    let digits = payload.get(at + 2..at + 10)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Network {
    /// A new connection.
    pub fn new(broker: Broker, fate: Fate, frontier: Arc<Frontier>, patience: Patience) -> Self {
        let line = Line { flights: VecDeque::new(), patience, not_before: clock::now() };
        Self { broker, fate, frontier, line: Arc::new(Mutex::new(line)) }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some of what is on its way arrives, and some answers do.
    pub fn step(&self) {
        let mood = self.broker.lock().mood.clone();
        if mood.is_stalled {
            return;
        }
        let mut line = self.line();
        let may_try = clock::now() >= line.not_before;
        let mut refused = Vec::new();
        let mut blocked: BTreeSet<Vec<u8>> = BTreeSet::new();
        let Line { flights, patience, not_before } = &mut *line;
        for flight in flights.iter_mut().filter(|flight| !flight.is_taken) {
            let message = &flight.message;
            let waits =
                flight.is_held && !may_try || blocked.contains(&message.key) || self.fate.happens(300);
            if waits {
                blocked.insert(message.key.clone());
                continue;
            }
            let is_poison = mood.poison_every > 0
                && marker(&message.payload).is_some_and(|number| number % mood.poison_every == 0);
            if is_poison {
                refused.push((flight.ticket, "it is poison", false));
            } else if mood.barred.contains(&message.topic) {
                // A letter that fails again is refused at once.
                let is_over = patience.failed(&message.topic) && self.frontier.keeps_letters();
                if message.is_letter || is_over {
                    refused.push((flight.ticket, "its topic takes nothing", true));
                } else {
                    flight.is_held = true;
                    *not_before = clock::now() + BACK_OFF;
                    blocked.insert(message.key.clone());
                }
            } else {
                patience.delivered(&message.topic);
                flight.is_taken = true;
                flight.is_held = false;
                self.fate.note(|| format!("the broker takes {}", message.id));
                self.broker.lock().log.push(message.clone());
            }
        }
        let mut refusals = Vec::new();
        for (ticket, reason, is_barred) in refused {
            // Of several messages with one ticket the first that is not taken.
            let at = line.flights.iter().position(|flight| flight.ticket == ticket && !flight.is_taken);
            if let Some(flight) = at.and_then(|at| line.flights.remove(at)) {
                refusals.push((flight, reason, is_barred));
            }
        }
        let mut answers = Vec::new();
        if !mood.is_mute {
            let mut i = 0;
            while i < line.flights.len() {
                if line.flights[i].is_taken && self.fate.happens(700) {
                    answers.extend(line.flights.remove(i));
                } else {
                    i += 1;
                }
            }
        }
        drop(line);
        for (flight, reason, is_mendable) in refusals {
            let Accepted { id, topic, key, payload, .. } = flight.message;
            self.broker.lock().refused.extend(marker(&payload));
            self.fate.step("a refusal");
            self.fate.note(|| format!("{id} is refused: {reason}"));
            let letter = Letter { topic, key: Some(key), payload, id, reason: reason.to_owned() };
            if is_mendable {
                self.frontier.give_up(flight.ticket, letter);
            } else {
                self.frontier.refuse(flight.ticket, letter);
            }
        }
        for flight in answers {
            self.fate.step("a report");
            self.fate.note(|| format!("{} is reported", flight.message.id));
            self.frontier.settle(flight.ticket, Outcome::Delivered);
        }
    }
}

/// What the drain sends to.
pub struct SimulatedSink(pub Network);

impl Sink for SimulatedSink {
    fn payload_bytes_max(&self, _: usize) -> usize {
        1 << 20
    }

    fn send(&mut self, message: &Message<'_>, ticket: Ticket) -> Result<(), SendError> {
        let network = &self.0;
        network.fate.step("a send");
        let mut line = network.line();
        let is_held = line.flights.iter().any(|flight| flight.is_held);
        if line.flights.len() >= FLIGHTS_MAX || is_held || network.fate.happens(50) {
            return Err(SendError::Full);
        }
        if !message.is_letter && network.frontier.keeps_letters() && line.patience.refuses(message.topic) {
            network.broker.lock().refused.extend(marker(message.payload));
            return Err(SendError::GivenUp("the topic takes nothing".to_owned()));
        }
        let Message { topic, key, payload, id, is_letter, .. } = *message;
        line.flights.push_back(Flight {
            message: Accepted {
                id,
                topic: topic.to_owned(),
                key: key.unwrap_or_default().to_vec(),
                payload: payload.to_vec(),
                is_letter,
            },
            ticket,
            is_taken: false,
            is_held: false,
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
