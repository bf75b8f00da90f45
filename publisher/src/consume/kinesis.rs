//! All shards of some streams, as one stream. Reading leaves no trace in them.

use std::{
    collections::VecDeque,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use aws_sdk_kinesis::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::{self, ShardIteratorType},
};
use bywash_common::config::Config;
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

/// A shard, and how far it is read.
struct Shard {
    stream: String,
    id: String,
    /// The shards that this one was split off or merged from: they come first.
    parents: Vec<String>,
    /// Where to begin; used until something was read.
    begin: ShardIteratorType,
    /// The last record that was read.
    reached: Option<String>,
    iterator: Option<String>,
    is_finished: bool,
    not_before: Instant,
}

/// Reads events.
pub struct Streams {
    runtime: Runtime,
    client: Client,
    names: Vec<String>,
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot set up a runtime for Kinesis")?;
        let ready = runtime.block_on(ready(&config.kinesis)).map_err(|reason| anyhow!(reason))?;
        Ok(Self {
            runtime,
            client: ready.client,
            names: streams.iter().map(ToString::to_string).collect(),
            from_beginning,
            shards: Vec::new(),
            events: VecDeque::new(),
            looked: None,
            log: LogRate::new(LOG_INTERVAL),
        })
    }

    /// Looks for shards that are not known yet.
    fn look_for_shards(&mut self) -> anyhow::Result<()> {
        let is_first_look = self.looked.is_none();
        self.looked = Some(Instant::now());
        // What comes into being while this runs is new to its reader as a whole.
        let from_beginning = self.from_beginning || !is_first_look;
        let begin = if from_beginning { ShardIteratorType::TrimHorizon } else { ShardIteratorType::Latest };
        for name in self.names.clone() {
            let listed = match self.runtime.block_on(list_shards(&self.client, &name)) {
                Ok(listed) => listed,
                Err(error) => {
                    self.complain(&name, &error, is_first_look)?;
                    continue;
                }
            };
            for shard in listed {
                if self.shards.iter().any(|known| known.stream == name && known.id == shard.shard_id) {
                    continue;
                }
                let parents = [shard.parent_shard_id, shard.adjacent_parent_shard_id];
                self.shards.push(Shard {
                    stream: name.clone(),
                    id: shard.shard_id,
                    parents: parents.into_iter().flatten().collect(),
                    begin: begin.clone(),
                    reached: None,
                    iterator: None,
                    is_finished: false,
                    not_before: Instant::now(),
                });
            }
        }
        Ok(())
    }

    /// Deals with an error: fails if only a person can do something about it, and says it otherwise.
    fn complain<E>(
        &mut self,
        stream: &str,
        error: &SdkError<E, HttpResponse>,
        is_new: bool,
    ) -> anyhow::Result<()>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let text = text_of(error);
        match Trouble::of(error, &text) {
            Trouble::Missing => {
                if is_new {
                    tracing::info!("stream {stream} does not exist yet: waiting for it");
                }
            }
            Trouble::Throttled => tracing::debug!("stream {stream}: {text}"),
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

    /// A shard that may be read now: its parents are read to their ends, and it was not read a moment ago.
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
        self.shards.iter().position(may_be_read)
    }

    fn read(&mut self, index: usize) -> anyhow::Result<()> {
        let shard = &mut self.shards[index];
        shard.not_before = Instant::now() + READ_INTERVAL;
        let iterator = match &shard.iterator {
            Some(iterator) => iterator.clone(),
            None => match self.runtime.block_on(iterator(&self.client, shard)) {
                Ok(iterator) => iterator,
                Err(error) => return self.put_off(index, &error),
            },
        };
        let page = self.runtime.block_on(self.client.get_records().shard_iterator(iterator).send());
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                // An iterator lasts five minutes: the next one begins behind what was read.
                self.shards[index].iterator = None;
                return self.put_off(index, &error);
            }
        };
        let shard = &mut self.shards[index];
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
        let stream = shard.stream.clone();
        if error.code() == Some("ExpiredIteratorException") {
            return Ok(());
        }
        self.complain(&stream, error, false)
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

async fn list_shards(
    client: &Client,
    stream: &str,
) -> Result<Vec<types::Shard>, SdkError<aws_sdk_kinesis::operation::list_shards::ListShardsError, HttpResponse>>
{
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
) -> Result<
    String,
    SdkError<aws_sdk_kinesis::operation::get_shard_iterator::GetShardIteratorError, HttpResponse>,
> {
    let request = client.get_shard_iterator().stream_name(&shard.stream).shard_id(&shard.id);
    let request = match &shard.reached {
        Some(reached) => request
            .shard_iterator_type(ShardIteratorType::AfterSequenceNumber)
            .starting_sequence_number(reached),
        None => request.shard_iterator_type(shard.begin.clone()),
    };
    Ok(request.send().await?.shard_iterator.unwrap_or_default())
}
