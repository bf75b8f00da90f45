//! The other side of the sink: requests, their answers, and what follows from them, on one thread.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use aws_sdk_kinesis::{
    Client,
    operation::put_records::PutRecordsOutput,
    primitives::Blob,
    types::{PutRecordsRequestEntry, PutRecordsResultEntry},
};
use bywash_common::config::KinesisConfig;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::{sleep, sleep_until},
};

use crate::{
    dead_letter::{CircuitBreaker, FallbackTopics},
    delivery::{DeadLetter, Frontier, Outcome},
    sink_stats::sink_stats,
};

use super::{
    client::{Ready, ready},
    lanes::{Disposition, Entry, Limits},
    record::Record,
    renewal::{Generation, Renewal},
    retry::OPERATOR_BACK_OFF_MAX,
    shard_rates::Said,
    shards::{Listing, list},
    slices::Shard,
    stream::Stream,
    trouble::{Failure, Trouble},
};

/// How many batches of records are taken in before requests are looked at again.
const TAKE_IN_BATCHES: usize = 16;
/// What a throttled record's result says.
const THROTTLED: &str = "ProvisionedThroughputExceededException";

/// A record for a stream.
pub struct Handed {
    /// The stream's name.
    pub stream: Arc<str>,
    /// The record.
    pub record: Record,
}

/// What came of a request.
struct Answer {
    stream: usize,
    by: Generation,
    entries: Vec<Entry>,
    result: Result<PutRecordsOutput, Failure>,
}

/// What shards a stream has.
struct Listed {
    stream: usize,
    result: Result<Vec<Shard>, Failure>,
}

/// Sends what it is handed.
pub struct Service {
    config: KinesisConfig,
    limits: Limits,
    frontier: Arc<Frontier>,
    circuit_breaker: CircuitBreaker,
    fallback_topics: Arc<FallbackTopics>,
    streams: Vec<Stream>,
    /// The stream whose turn it is.
    turn: usize,
    requests: JoinSet<Answer>,
    /// One at most for each stream.
    listings: JoinSet<Listed>,
    renewal: Renewal,
    /// The client that will be the next, one at most.
    clients: JoinSet<Result<Ready, String>>,
    /// Nothing more is handed over.
    is_ending: bool,
}

impl Service {
    /// A service that reports to `frontier`.
    pub fn new(
        config: KinesisConfig,
        limits: Limits,
        (circuit_breaker, fallback_topics): (CircuitBreaker, Arc<FallbackTopics>),
        frontier: Arc<Frontier>,
    ) -> Self {
        Self {
            config,
            limits,
            frontier,
            circuit_breaker,
            fallback_topics,
            streams: Vec::new(),
            turn: 0,
            requests: JoinSet::new(),
            listings: JoinSet::new(),
            renewal: Renewal::default(),
            clients: JoinSet::new(),
            is_ending: false,
        }
    }

    /// Works until nothing more is handed over and all is delivered, or until `end` comes.
    pub async fn run(mut self, mut handed: mpsc::Receiver<Vec<Handed>>, mut end: oneshot::Receiver<()>) {
        let Ready { mut client, place } = tokio::select! {
            ready = self.connect() => ready,
            _ = &mut end => return,
        };
        tracing::info!("sending to Kinesis, {place}");
        while !(self.is_ending && self.streams.iter().all(|stream| stream.lanes.is_empty())) {
            self.renew();
            self.list(&client);
            self.send(&client);
            let due = self.next_due();
            tokio::select! {
                _ = &mut end => return,
                Some(answer) = self.requests.join_next() => self.heed(answer),
                Some(listed) = self.listings.join_next() => self.heed_listed(listed),
                Some(ready) = self.clients.join_next() => self.turn_to(ready, &mut client),
                batch = handed.recv(), if !self.is_ending => self.take_in(batch, &mut handed),
                () = wait(due) => {}
            }
        }
    }

    /// Sets the client up, however often that takes.
    async fn connect(&self) -> Ready {
        loop {
            match ready(&self.config).await {
                Ok(ready) => return ready,
                Err(reason) => tracing::error!("cannot send to Kinesis: {reason}; trying again"),
            }
            sleep(OPERATOR_BACK_OFF_MAX).await;
        }
    }

    /// Takes in what was handed over.
    fn take_in(&mut self, first: Option<Vec<Handed>>, handed: &mut mpsc::Receiver<Vec<Handed>>) {
        let now = Instant::now();
        let Some(first) = first else {
            self.is_ending = true;
            return self.streams.iter_mut().for_each(|stream| stream.lanes.flush());
        };
        let more = std::iter::from_fn(|| handed.try_recv().ok()).take(TAKE_IN_BATCHES);
        for Handed { stream: name, record } in std::iter::once(first).chain(more).flatten() {
            let name = self.fallback_topics.of(&name).unwrap_or(name);
            let stream = self.stream(name);
            let stream = &mut self.streams[stream];
            if self.frontier.keeps_dead_letters() && self.circuit_breaker.rejects(&stream.name) {
                let text = "it takes nothing, as was said before";
                self.frontier.give_up(record.ticket, dead_letter(&stream.name, &record, text));
            } else {
                stream.lanes.push(record, now);
            }
        }
    }

    /// Which stream has this name.
    fn stream(&mut self, name: Arc<str>) -> usize {
        let known = self.streams.iter().position(|stream| stream.name == name);
        known.unwrap_or_else(|| {
            self.streams.push(Stream::new(name, self.limits));
            self.streams.len() - 1
        })
    }

    /// Reads credentials again that were refused, once that is due.
    fn renew(&mut self) {
        if self.clients.is_empty() && self.renewal.due().is_some_and(|due| due <= Instant::now()) {
            let config = self.config.clone();
            self.clients.spawn(async move { ready(&config).await });
        }
    }

    /// Takes another client, if one could be made.
    fn turn_to(&mut self, made: Result<Result<Ready, String>, JoinError>, client: &mut Client) {
        match made.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Ok(ready) => {
                *client = ready.client;
                self.renewal.renewed();
            }
            Err(reason) => {
                tracing::error!("cannot read the credentials for Kinesis again: {reason}; trying again");
                self.renewal.put_off(Instant::now());
            }
        }
    }

    /// Asks for the shards of streams where that is due.
    fn list(&mut self, client: &Client) {
        if self.renewal.due().is_some() {
            return;
        }
        let now = Instant::now();
        for (index, stream) in self.streams.iter_mut().enumerate() {
            if stream.listing.due().is_some_and(|due| due <= now) {
                stream.listing = Listing::Out;
                let (client, name) = (client.clone(), Arc::clone(&stream.name));
                self.listings
                    .spawn(async move { Listed { stream: index, result: list(&client, &name).await } });
            }
        }
    }

    /// Takes in what shards a stream has.
    fn heed_listed(&mut self, listed: Result<Listed, JoinError>) {
        let Listed { stream, result } =
            listed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let (stream, now) = (&mut self.streams[stream], Instant::now());
        match result {
            Ok(shards) => {
                stream.listing.listed(now);
                stream.turn_to(&shards, now);
            }
            Err(failure) => stream.listing.failed(&stream.name, &failure, now),
        }
    }

    /// Makes the requests that are due, as far as there may be more. Streams take turns, a request each, so that a stream
    /// with a backlog cannot take all the places.
    fn send(&mut self, client: &Client) {
        if self.renewal.due().is_some() {
            return;
        }
        let mut passed = 0;
        while passed < self.streams.len() && self.requests.len() < self.config.requests_max as usize {
            let index = self.turn % self.streams.len();
            self.turn = index + 1;
            passed = if self.send_one(index, client) { 0 } else { passed + 1 };
        }
    }

    /// Makes a request of one stream, if one is due.
    fn send_one(&mut self, index: usize, client: &Client) -> bool {
        let (stream, now) = (&mut self.streams[index], Instant::now());
        if !stream.may_send(now) || !stream.lanes.is_due(stream.requests == 0, now) {
            return false;
        }
        let entries = stream.lanes.take(now);
        if entries.is_empty() {
            return false;
        }
        stream.requests += 1;
        let (name, by) = (Arc::clone(&stream.name), self.renewal.generation());
        self.requests.spawn(put(client.clone(), by, index, name, entries));
        true
    }

    fn next_due(&self) -> Option<Instant> {
        if let Some(due) = self.renewal.due() {
            return Some(due).filter(|_| self.clients.is_empty());
        }
        let listing = self.streams.iter().filter_map(|stream| stream.listing.due()).min();
        if self.requests.len() >= self.config.requests_max as usize {
            return listing;
        }
        self.streams.iter().filter_map(Stream::next_due).chain(listing).min()
    }

    /// Draws the conclusions from an answer.
    fn heed(&mut self, answer: Result<Answer, JoinError>) {
        let Answer { stream, by, entries, result } = match answer {
            Ok(answer) => answer,
            // A request's records are lost to this process: the ring has them, and a restart sends them again.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let now = Instant::now();
        let stream = &mut self.streams[stream];
        stream.requests -= 1;
        let (mut gives_up, mut reason, mut detour) = (false, String::new(), None);
        let settled = match result {
            Ok(output) => {
                self.renewal.accepted(by);
                self.circuit_breaker.record_success(&stream.name);
                self.fallback_topics.delivered(&stream.name);
                settle_each(stream, &self.frontier, entries, output.records(), now)
            }
            Err(failure) if failure.trouble == Trouble::Rejected => {
                settle_rejected(stream, &self.frontier, entries, &failure.text)
            }
            Err(failure) => {
                sink_stats().failed(&format!("{:?}", failure.trouble), 1);
                sink_stats().retried.fetch_add(1, Ordering::Relaxed);
                sink_stats().resent.fetch_add(entries.len() as u64, Ordering::Relaxed);
                stream.fail(&failure, now);
                if failure.trouble.is_of_credentials() {
                    self.renewal.refused(by, now);
                }
                if failure.trouble.is_streams_own() {
                    detour = self.fallback_topics.take(&stream.name, &failure.text);
                    gives_up = detour.is_none() && self.circuit_breaker.record_failure(&stream.name);
                }
                reason = failure.text;
                entries.into_iter().map(|entry| (entry, Disposition::Again)).collect()
            }
        };
        stream.settle(settled, now);
        if let Some(name) = detour {
            let records = stream.lanes.give_up();
            let fallback = self.stream(name);
            let lanes = &mut self.streams[fallback].lanes;
            records.into_iter().for_each(|record| lanes.push(record, now));
            return;
        }
        if gives_up && self.frontier.keeps_dead_letters() {
            for record in stream.lanes.give_up() {
                self.frontier.give_up(record.ticket, dead_letter(&stream.name, &record, &reason));
            }
        }
    }
}

/// Waits until then, or for ever.
async fn wait(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

/// Makes a request.
async fn put(client: Client, by: Generation, stream: usize, name: Arc<str>, entries: Vec<Entry>) -> Answer {
    let records = entries.iter().filter_map(|entry| {
        let hash_key = entry.hash_key.as_deref().map(str::to_owned);
        let record = PutRecordsRequestEntry::builder()
            .partition_key(entry.partition_key())
            .set_explicit_hash_key(hash_key)
            .data(Blob::new(entry.data()));
        // Fails without data or key, and both are there.
        record.build().ok()
    });
    let request = client.put_records().stream_name(&*name).set_records(Some(records.collect()));
    let begun = Instant::now();
    let sent = request.send().await;
    let messages = entries.iter().map(|entry| entry.records.len() as u64).sum();
    let bytes = entries.iter().map(|entry| entry.data().len() as u64).sum();
    sink_stats().answered(begun.elapsed(), messages, bytes);
    let result = match sent {
        // Anything may stand between Kinesis and us.
        Ok(output) if output.records().len() != entries.len() => {
            let text = format!("an answer for {} of {} records", output.records().len(), entries.len());
            Err(Failure { trouble: Trouble::Server, text })
        }
        Ok(output) => Ok(output),
        Err(error) => Err(Failure::of(&error)),
    };
    Answer { stream, by, entries, result }
}

/// Deals with each record as its result says.
fn settle_each(
    stream: &mut Stream,
    frontier: &Frontier,
    entries: Vec<Entry>,
    results: &[PutRecordsResultEntry],
    now: Instant,
) -> Vec<(Entry, Disposition)> {
    let mut said: BTreeMap<usize, Said> = BTreeMap::new();
    let mut has_failures = false;
    let settled: Vec<_> = entries
        .into_iter()
        .zip(results)
        .map(|(entry, result)| {
            let said = said.entry(entry.slice).or_default();
            let disposition = match result.error_code() {
                None => {
                    said.delivered = true;
                    if let Some(shard) = result.shard_id() {
                        stream.shard_rates.learn(entry.slice, shard);
                        if stream.lanes.slices().shard_of(entry.slice) != Some(shard) {
                            stream.listing.outdated(now);
                        }
                    }
                    entry
                        .records
                        .iter()
                        .for_each(|record| frontier.settle(record.ticket, Outcome::Delivered));
                    return (entry, Disposition::Done);
                }
                Some(THROTTLED) => {
                    said.throttled = true;
                    Disposition::Again
                }
                Some(_) => Disposition::AgainLater,
            };
            sink_stats().failed(result.error_code().unwrap_or_default(), 1);
            sink_stats().resent.fetch_add(1, Ordering::Relaxed);
            if !has_failures {
                let text = format!(
                    "a record failed: {}: {}",
                    result.error_code().unwrap_or_default(),
                    result.error_message().unwrap_or_default()
                );
                let trouble =
                    if disposition == Disposition::Again { Trouble::Throttled } else { Trouble::Server };
                stream.log_rates.trouble(&stream.name, trouble, &text);
            }
            has_failures = true;
            (entry, disposition)
        })
        .collect();
    stream.shard_rates.heed(&said, &mut stream.lanes, now);
    stream.succeed();
    if !has_failures {
        stream.log_rates.well(&stream.name);
    }
    settled
}

/// Finds the record that is at fault, and refuses it.
fn settle_rejected(
    stream: &mut Stream,
    frontier: &Frontier,
    entries: Vec<Entry>,
    text: &str,
) -> Vec<(Entry, Disposition)> {
    stream.succeed();
    if let [entry] = &entries[..]
        && let [record] = &entry.records[..]
    {
        frontier.refuse(record.ticket, dead_letter(&stream.name, record, text));
        return entries.into_iter().map(|entry| (entry, Disposition::Done)).collect();
    }
    stream.log_rates.rejected(&stream.name, text);
    entries.into_iter().map(|entry| (entry, Disposition::AgainAlone)).collect()
}

/// A record that Kinesis will never take.
fn dead_letter(stream: &str, record: &Record, text: &str) -> DeadLetter {
    // An event id that stands in for a key does so again when it is sent again.
    let key =
        (record.partition_key != record.id.to_string()).then(|| record.partition_key.clone().into_bytes());
    DeadLetter {
        topic: stream.to_owned(),
        key,
        payload: record.data.clone(),
        id: record.id,
        time_ms: record.time_ms,
        reason: format!("the Kinesis stream does not take it: {text}"),
    }
}
