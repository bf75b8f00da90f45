//! The publisher's encoders, and its way from the ring to an event.

use anyhow::{Context, Result, ensure};
use bywash_common::{
    config::{Encoder, EventConfig},
    record::Write,
    ring::{Acker, AgentRing, Follow, Kind, PublisherRing, Weight},
};

use super::{
    Bench, Counted,
    ring::{Ring, TIME_NS, description, text},
};
use crate::encode::{Early, Encode, WriteEvent, Writer, encoder};

fn encoder_of(format: &str) -> Result<Box<dyn Encode>> {
    let all = [Encoder::LogstashBase64, Encoder::Logstash, Encoder::Ecs, Encoder::Text, Encoder::Raw];
    let format = all.into_iter().find(|encoder| encoder.word() == format).context("no such format")?;
    let fields = [("hostname".to_owned(), "test".to_owned())].into_iter().collect();
    let config = EventConfig { encoder: format, fields, tags: vec!["test".to_owned()], loss_topic: None };
    Ok(encoder(&config))
}

fn event_of<'a>(write: &Write<'a>, message: &'a [u8]) -> WriteEvent<'a> {
    let id = ("0c4e8a52-11f2-4b6a-9a4e-7d1f2b6f6a11-1234567", 1_234_567);
    WriteEvent::of(write, Some(Writer::of(write, "root", "root")), id, message)
}

struct Encoding {
    encoder: Box<dyn Encode>,
    description: Vec<u8>,
    message: Vec<u8>,
    out: Vec<u8>,
}

/// The encoding of a write of `len` bytes in a format.
pub fn encode(format: &str, len: usize) -> Result<Box<dyn Bench>> {
    let (encoder, description, message) = (encoder_of(format)?, description(), text(len));
    Ok(Box::new(Encoding { encoder, description, message, out: Vec::new() }))
}

impl Bench for Encoding {
    fn round(&mut self, counted: Counted<'_>) -> Result<()> {
        let Self { encoder, description, message, out } = self;
        let (write, _) = Write::decode(description)?;
        let event = event_of(&write, message);
        out.clear();
        counted(&mut || encoder.write(&event, out));
        ensure!(out.len() >= message.len(), "an event of {} bytes", out.len());
        Ok(())
    }
}

struct Draining {
    agent: AgentRing,
    publisher: PublisherRing,
    acker: Acker,
    encoder: Box<dyn Encode>,
    early: Early,
    description: Vec<u8>,
    message: Vec<u8>,
    payload: Vec<u8>,
    ends: Vec<u8>,
    wanted: Vec<u8>,
    _ring: Ring,
}

/// A write of `len` bytes on its way out of the ring and into an event, as the drain does it.
pub fn drain(format: &str, len: usize) -> Result<Box<dyn Bench>> {
    let ring = Ring::new();
    let agent = AgentRing::open(ring.config())?;
    let publisher = PublisherRing::attach(&ring.config().name, None)?;
    let mut encoder = encoder_of(format)?;
    let (description, message, mut wanted) = (description(), text(len), Vec::new());
    encoder.write(&event_of(&Write::decode(&description)?.0, &message), &mut wanted);
    Ok(Box::new(Draining {
        agent,
        acker: publisher.consumer.acker(),
        publisher,
        early: Early::new(encoder.form()),
        encoder,
        description,
        message,
        payload: Vec::new(),
        ends: Vec::new(),
        wanted,
        _ring: ring,
    }))
}

struct All<'a>(&'a mut Early);

impl Follow for All<'_> {
    const PIECE_BYTES: usize = 128 << 10;

    fn begin(&mut self) {
        self.0.begin();
    }

    fn came(&mut self, payload: &mut Vec<u8>, left: usize) {
        self.0.came(payload, left, |_, _| true);
    }
}

impl Bench for Draining {
    fn round(&mut self, counted: Counted<'_>) -> Result<()> {
        let Self {
            agent, publisher, acker, encoder, early, description, message, payload, ends, wanted, ..
        } = self;
        let weight = Weight { bytes: message.len() as u64, time_ns: TIME_NS };
        let pushed = agent.producer.push(Kind::Write, &[description, message], weight);
        ensure!(pushed.is_ok(), "{pushed:?}");
        let mut end = None;
        counted(&mut || {
            let Ok(Some(entry)) = publisher.consumer.next_followed(payload, &mut All(early)) else { return };
            let Ok((write, _)) = Write::decode(payload) else { return };
            ends.clear();
            encoder.head(&event_of(&write, &[]), ends);
            let head_bytes = ends.len();
            encoder.tail(&event_of(&write, &[]), true, ends);
            let (head, tail) = ends.split_at(head_bytes);
            end = Some((entry.end, early.event(head, tail).len()));
        });
        let (end, len) = end.context("no record")?;
        ensure!(len == wanted.len(), "{len} bytes, not {}", wanted.len());
        acker.ack(end);
        Ok(())
    }
}
