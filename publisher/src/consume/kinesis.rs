//! All shards of some streams, as one stream. Reading leaves no trace in them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow, bail};
use aws_sdk_kinesis::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        describe_stream_summary::DescribeStreamSummaryError, get_shard_iterator::GetShardIteratorError,
        list_shards::ListShardsError,
    },
    primitives::DateTime,
    types::{self, ShardIteratorType},
};
use bywash_common::config::{Config, KinesisConfig};
use tokio::runtime::Runtime;

use crate::{
    rate::LogRate,
    sink::kinesis::{Trouble, aggregate::unpack, ready, text_of},
};

use super::source::{Event, Source};

/// Each shard is read this often: Kinesis lets all its readers together do so five times a second.
const READ_INTERVAL: Duration = Duration::from_millis(250);
/// How often new shards are looked for, and streams that do not exist yet.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How long a read waits where there is nothing: how soon a signal is heeded.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// How long a shard is left alone after a failure.
const FAILURE_WAIT: Duration = Duration::from_secs(1);
/// At most one line about trouble in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Where a shard is read from until something was read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Begin {
    Oldest,
    /// What comes from now on.
    Latest,
    /// What came from that moment on.
    Since(SystemTime),
}

/// A shard, and how far it is read.
struct Shard {
    stream: String,
    id: String,
    /// The shards that this one was split off or merged from: they come first.
    parents: Vec<String>,
    begin: Begin,
    /// The last record that was read.
    reached: Option<String>,
    iterator: Option<String>,
    is_finished: bool,
    not_before: Instant,
}

/// Reads events.
pub struct Streams {
    runtime: Runtime,
    config: KinesisConfig,
    client: Client,
    /// Kinesis has accepted the client's credentials.
    is_accepted: bool,
    names: Vec<String>,
    /// When each stream was made, where that may be known.
    created: HashMap<String, DateTime>,
    /// Streams that do not exist, as was said.
    missing: HashSet<String>,
    from_beginning: bool,
    shards: Vec<Shard>,
    events: VecDeque<Event>,
    looked: Option<Instant>,
    log: LogRate,
}

impl Streams {
    /// A reader of `streams`. One that does not exist yet is waited for, and then read from its beginning.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub fn open(config: &Config, streams: &[&str], from_beginning: bool) -> anyhow::Result<Self> {
        crate::sink::kinesis::check(config)?;
        if let Some(template) = config.templates().next() {
            tracing::warn!(
                "streams that templates name ({}) are not looked for: --stream-name NAME reads one of them",
                template.text()
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot set up a runtime for Kinesis")?;
        let ready = runtime.block_on(ready(&config.kinesis)).map_err(|reason| anyhow!(reason))?;
        Ok(Self {
            runtime,
            config: config.kinesis.clone(),
            client: ready.client,
            is_accepted: false,
            created: HashMap::new(),
            missing: HashSet::new(),
            names: streams.iter().map(ToString::to_string).collect(),
            from_beginning,
            shards: Vec::new(),
            events: VecDeque::new(),
            looked: None,
            log: LogRate::new(LOG_INTERVAL),
        })
    }

    /// Looks for shards that are not known yet, and for streams that were made again.
    fn look_for_shards(&mut self) -> anyhow::Result<()> {
        let is_first_look = self.looked.is_none();
        self.looked = Some(Instant::now());
        // What comes into being while this runs is new to its reader as a whole.
        let begin = if self.from_beginning || !is_first_look { Begin::Oldest } else { Begin::Latest };
        for name in self.names.clone() {
            match self.runtime.block_on(created(&self.client, &name)) {
                Ok(created) => self.take_in_age(&name, created),
                Err(error) if Trouble::of(&error, &text_of(&error)) == Trouble::Denied => {}
                Err(error) => {
                    self.complain(&name, &error)?;
                    continue;
                }
            }
            match self.runtime.block_on(list_shards(&self.client, &name)) {
                Ok(listed) => {
                    self.is_accepted = true;
                    if self.missing.remove(&name) {
                        tracing::info!("stream {name} exists now: reading it from its beginning");
                    }
                    self.take_in(&name, listed, begin);
                }
                Err(error) => self.complain(&name, &error)?,
            }
        }
        Ok(())
    }

    /// Takes in when a stream was made: its shards' ids are the same when it is made again.
    fn take_in_age(&mut self, name: &str, created: Option<DateTime>) {
        let Some(created) = created else { return };
        let known = self.created.insert(name.to_owned(), created);
        if known.is_some_and(|known| known != created) {
            tracing::warn!(
                "stream {name} was deleted and made again: reading the new one from its beginning"
            );
            self.shards.retain(|shard| shard.stream != name);
        }
    }

    /// Takes in what shards a stream has.
    fn take_in(&mut self, name: &str, listed: Vec<types::Shard>, begin: Begin) {
        for shard in listed {
            if self.shards.iter().any(|known| known.stream == name && known.id == shard.shard_id) {
                continue;
            }
            let mut new = Shard {
                stream: name.to_owned(),
                id: shard.shard_id,
                parents: [shard.parent_shard_id, shard.adjacent_parent_shard_id]
                    .into_iter()
                    .flatten()
                    .collect(),
                begin,
                reached: None,
                iterator: None,
                is_finished: false,
                not_before: Instant::now(),
            };
            if new.begin == Begin::Latest {
                // Now, and not when it is the shard's turn to be read. Where that fails, the moment counts.
                new.begin = Begin::Since(SystemTime::now());
                new.iterator = self.runtime.block_on(iterator(&self.client, &new, Begin::Latest)).ok();
            }
            self.shards.push(new);
        }
    }

    /// Deals with an error: fails if only a person can do something about it, and says it otherwise.
    fn complain<E>(&mut self, stream: &str, error: &SdkError<E, HttpResponse>) -> anyhow::Result<()>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let text = text_of(error);
        match Trouble::of(error, &text) {
            Trouble::Missing => {
                let was_there = self.shards.iter().any(|shard| shard.stream == stream);
                self.shards.retain(|shard| shard.stream != stream);
                self.created.remove(stream);
                if self.missing.insert(stream.to_owned()) {
                    let state = if was_there { "was deleted" } else { "does not exist yet" };
                    tracing::warn!("stream {stream} {state}: waiting for it");
                }
            }
            Trouble::Throttled => tracing::debug!("stream {stream}: {text}"),
            // Once for each client: those that are read again may be as bad.
            trouble if trouble.is_of_credentials() && std::mem::take(&mut self.is_accepted) => {
                tracing::warn!("stream {stream}: {text}; reading the credentials again");
                let ready = self.runtime.block_on(ready(&self.config)).map_err(|reason| anyhow!(reason))?;
                self.client = ready.client;
            }
            trouble if trouble.needs_operator() => {
                bail!("stream `{stream}` cannot be read: {text}: {}", trouble.way_out())
            }
            _ => {
                if let Some(others) = self.log.pass() {
                    tracing::warn!("stream {stream}: {text}; trying again{others}");
                }
            }
        }
        Ok(())
    }

    /// The shard whose turn it is, if one may be read now: its parents are read to their ends, and it was not read a moment
    /// ago. Of several the one that waits longest, so that none starves where reading all takes long.
    fn next_shard(&self) -> Option<usize> {
        let is_open = |stream: &str, id: &String| {
            self.shards.iter().any(|shard| shard.stream == stream && shard.id == *id && !shard.is_finished)
        };
        let now = Instant::now();
        let may_be_read = |shard: &Shard| {
            !shard.is_finished
                && shard.not_before <= now
                && !shard.parents.iter().any(|parent| is_open(&shard.stream, parent))
        };
        let readable = self.shards.iter().enumerate().filter(|(_, shard)| may_be_read(shard));
        readable.min_by_key(|(_, shard)| shard.not_before).map(|(index, _)| index)
    }

    fn read(&mut self, index: usize) -> anyhow::Result<()> {
        let shard = &mut self.shards[index];
        let now = SystemTime::now();
        shard.not_before = Instant::now() + READ_INTERVAL;
        let iterator = match &shard.iterator {
            Some(iterator) => iterator.clone(),
            None => match self.runtime.block_on(iterator(&self.client, shard, shard.begin)) {
                Ok(iterator) => iterator,
                Err(error) => return self.put_off(index, &error),
            },
        };
        // Kept where reading fails: what comes before the next attempt is not to be passed over.
        shard.iterator = Some(iterator.clone());
        let page = self.runtime.block_on(self.client.get_records().shard_iterator(iterator).send());
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.put_off(index, &error),
        };
        self.is_accepted = true;
        let shard = &mut self.shards[index];
        if shard.begin != Begin::Oldest {
            shard.begin = Begin::Since(now);
        }
        shard.is_finished = page.next_shard_iterator.is_none();
        shard.iterator = page.next_shard_iterator;
        for record in page.records {
            shard.reached = Some(record.sequence_number);
            let data = record.data.into_inner();
            match unpack(&data) {
                Some(users) => self.events.extend(users.iter().map(|user| event(user.data.to_vec()))),
                None => self.events.push_back(event(data)),
            }
        }
        Ok(())
    }

    fn put_off<E>(&mut self, index: usize, error: &SdkError<E, HttpResponse>) -> anyhow::Result<()>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let shard = &mut self.shards[index];
        shard.not_before = Instant::now() + FAILURE_WAIT;
        match error.code() {
            // It lasts five minutes: the next one begins behind what was read.
            Some("ExpiredIteratorException") => {
                shard.iterator = None;
                return Ok(());
            }
            // Not of this stream any more: the shards are looked at anew.
            Some("InvalidArgumentException") => {
                shard.iterator = None;
                self.looked = self.looked.map(|_| Instant::now() - LOOK_INTERVAL);
            }
            _ => {}
        }
        let stream = self.shards[index].stream.clone();
        self.complain(&stream, error)
    }
}

impl Source for Streams {
    fn next(&mut self) -> anyhow::Result<Option<Event>> {
        if self.events.is_empty() {
            if self.looked.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
                self.look_for_shards()?;
            }
            match self.next_shard() {
                Some(index) => self.read(index)?,
                None => sleep(IDLE_WAIT),
            }
        }
        Ok(self.events.pop_front())
    }
}

fn event(payload: Vec<u8>) -> Event {
    // Kinesis has no headers that could name the format.
    Event { encoder: None, payload }
}

/// When a stream was made.
async fn created(
    client: &Client,
    stream: &str,
) -> Result<Option<DateTime>, SdkError<DescribeStreamSummaryError, HttpResponse>> {
    let answer = client.describe_stream_summary().stream_name(stream).send().await?;
    Ok(answer.stream_description_summary.map(|summary| summary.stream_creation_timestamp))
}

async fn list_shards(
    client: &Client,
    stream: &str,
) -> Result<Vec<types::Shard>, SdkError<ListShardsError, HttpResponse>> {
    let mut shards = Vec::new();
    let mut page = client.list_shards().stream_name(stream).send().await?;
    loop {
        shards.append(page.shards.get_or_insert_default());
        // The token stands for the stream as well.
        let Some(token) = page.next_token else { return Ok(shards) };
        page = client.list_shards().next_token(token).send().await?;
    }
}

/// Where to read on in a shard.
async fn iterator(
    client: &Client,
    shard: &Shard,
    begin: Begin,
) -> Result<String, SdkError<GetShardIteratorError, HttpResponse>> {
    let request = client.get_shard_iterator().stream_name(&shard.stream).shard_id(&shard.id);
    let request = match (&shard.reached, begin) {
        (Some(reached), _) => request
            .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
            .starting_sequence_number(reached),
        (None, Begin::Oldest) => request.shard_iterator_type(ShardIteratorType::TrimHorizon),
        (None, Begin::Latest) => request.shard_iterator_type(ShardIteratorType::Latest),
        (None, Begin::Since(time)) => {
            request.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(time.into())
        }
    };
    Ok(request.send().await?.shard_iterator.unwrap_or_default())
}
