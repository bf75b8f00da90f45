//! An agent, a publisher, a disk and a broker in one thread.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bywash_common::{
    config::{
        Boundary, Config, DirectoryConfig, Encoder, Framing, FramingConfig, MultilineConfig, Pattern,
        SpoolConfig,
    },
    ring::{Gauge, Inspected},
    status::PublisherCounter,
    units::{ByteSize, Span},
};
use nix::errno::Errno;
use uuid::Uuid;

use crate::{
    clock::simulated,
    dead_letter::{CircuitBreaker, Directory, Store},
    delivery::{DeadLetter, Frontier},
    disk::{Access, Disk},
    drain::{self, DeadLetters, Drain, Input},
    names::Names,
    reload::Reload,
    signals::Stop,
    spool::{Log, stepped},
};

use super::{
    action::Action,
    agent::Agent,
    broker::{Broker, Network, SimulatedSink},
    content,
    disk::SimulatedDisk,
    random::{Killed, Random, Weather},
};

const TOPICS: [&str; 2] = ["even", "odd"];
const SPOOL: &str = "/spool";
const FAILED: &str = "/failed";
/// So often the publisher may wait within an action.
const WAITS_MAX: u64 = 100;
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A batch that was refused may not be cut off yet, and the marks and the ring's name are beside.
const SPOOL_SLACK_BYTES: u64 = (1 << 20) + (16 << 10);
/// So many turns everything must have been at rest.
const TURNS_AT_REST: u64 = 12;
/// So many turns it may take at most.
const TURNS_MAX: u64 = 5000;

/// How large things are in a run.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub ring: u64,
    pub spool: u64,
    pub dead_letters: u64,
    pub in_flight: u64,
    /// Of a message.
    pub payload: usize,
    /// What of the first topic's becomes an event at the beginning.
    pub framing: Framing,
    /// `publisher.age_max`, in seconds.
    pub age_max: u64,
}

struct Publisher {
    drain: Drain,
    network: Network,
    frontier: Arc<Frontier>,
    reload: Reload,
    /// The ring to which it attached at its start.
    ring: (Uuid, Gauge),
    /// Whether what the ring holds goes to the spool.
    has_spool: bool,
}

/// All there is.
pub struct World {
    pub random: Random,
    pub agent: Agent,
    pub disk: SimulatedDisk,
    pub broker: Broker,
    pub sizes: Sizes,
    /// The machine has lost its memory, with losses in it that were not announced.
    pub has_forgotten_losses: bool,
    /// Lines are joined, or were for a while.
    pub has_joined_lines: bool,
    /// Nothing was killed, cut off or damaged, and no disk has failed: everything was counted once.
    pub is_calm: bool,
    config: Config,
    publisher: Option<Publisher>,
    /// For what goes on while the drain waits.
    network: Arc<Mutex<Option<Network>>>,
    /// How far the shared head of a ring was.
    head: (Uuid, u64),
}

/// Half of the lines begin an event.
fn framed(framing: Framing) -> FramingConfig {
    let start = Pattern::new("^[a-m]".to_owned()).unwrap();
    let (bytes, time) = (ByteSize(700), Span(Duration::from_millis(500)));
    FramingConfig {
        by: framing,
        line_bytes_max: bytes,
        line_wait: time,
        multiline: MultilineConfig {
            boundary: Boundary::Start(start),
            timeout: time,
            lines_max: 6,
            bytes_max: bytes,
        },
    }
}

impl World {
    pub fn new(seed: u64, sizes: Sizes, is_traced: bool) -> Self {
        let random = Random::new(seed, is_traced);
        fastrand::seed(seed);
        let network: Arc<Mutex<Option<Network>>> = Arc::default();
        let (meanwhile, chance) = (Arc::clone(&network), random.clone());
        simulated::begin(move |_| {
            chance.wait();
            if chance.happens(500) {
                stepped::step();
            }
            let network = meanwhile.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(network) = network {
                network.step();
            }
        });
        let agent = Agent::new(random.clone(), sizes.ring);
        let mut config = Config::default();
        config.ring.name = agent.name().to_owned();
        config.event.encoder = Encoder::Logstash;
        config.publisher.age_max = Span(Duration::from_secs(sizes.age_max));
        config.publisher.in_flight_records = u32::try_from(sizes.in_flight).unwrap();
        config.spool = SpoolConfig {
            size_max: ByteSize(sizes.spool),
            segment_size: ByteSize(6000),
            high_mark: 30,
            ..SpoolConfig::default()
        };
        config.failed.size_max = ByteSize(sizes.dead_letters);
        config.failed.retry_interval = Span(RETRY_INTERVAL);
        config.failed.give_up_after = Span(Duration::from_secs(3));
        config.directories = TOPICS
            .iter()
            .map(|topic| DirectoryConfig {
                topic: Some((*topic).into()),
                ..DirectoryConfig::at(format!("/{topic}").into())
            })
            .collect();
        config.directories[0].framing = framed(sizes.framing);
        Self {
            disk: SimulatedDisk::new(random.clone(), 4 << 20),
            random,
            agent,
            broker: Broker::default(),
            sizes,
            has_forgotten_losses: false,
            has_joined_lines: sizes.framing != Framing::Write,
            is_calm: true,
            config,
            publisher: None,
            network,
            head: (Uuid::nil(), 0),
        }
    }

    /// Does one thing.
    ///
    /// # Errors
    /// What the publisher should never do.
    pub fn act(&mut self, action: Action) -> Result<(), String> {
        self.random.note(|| format!("-- {action:?}"));
        self.random.set_patience(WAITS_MAX);
        match action {
            Action::Write { writes, bytes } => (0..writes).for_each(|_| self.agent.write(bytes)),
            Action::Drain(turns) => (0..turns).try_for_each(|_| self.drain_once())?,
            Action::Feed(rounds) => (0..rounds).try_for_each(|_| self.feed_once())?,
            Action::Network(steps) => (0..steps).try_for_each(|_| {
                self.within(|publisher| {
                    publisher.network.step();
                    Ok(())
                })
            })?,
            Action::Wait(ms) => simulated::advance(Duration::from_millis(ms)),
            Action::Kill(steps) => self.random.set_kill(Some(steps)),
            Action::Start => self.start()?,
            Action::Restart => {
                self.stop();
                self.start()?;
            }
            Action::Reboot => self.reboot()?,
            Action::CutPower => {
                self.kill();
                self.lose_memory(true);
                self.disk.cut_power();
            }
            Action::Generation => self.agent.begin_generation(),
            Action::Reload { is_base64, framing } => {
                self.config.event.encoder =
                    if is_base64 { Encoder::LogstashBase64 } else { Encoder::Logstash };
                self.has_joined_lines |= framing != Framing::Write;
                self.config.directories[0].framing = framed(framing);
                if let Some(publisher) = &self.publisher {
                    publisher.reload.offer(&self.config);
                }
            }
            Action::Spool(is_on) => {
                self.config.spool.size_max = ByteSize(if is_on { self.sizes.spool } else { 0 });
            }
            Action::Damage { of_1000 } => self.agent.damage(of_1000),
            Action::DiskTrouble { of_1000, errno } => {
                self.is_calm = false;
                let errno = errno.map(Errno::from_raw);
                self.random.set_weather(Weather { disk_errors: of_1000, errno, short: 100 });
            }
            Action::DiskCalm => self.random.set_weather(Weather::default()),
            Action::Stall(is_stalled) => self.broker.change(|mood| mood.is_stalled = is_stalled),
            Action::Mute(is_mute) => self.broker.change(|mood| mood.is_mute = is_mute),
            Action::Bar { topic, is_barred } => self.broker.change(|mood| {
                let topic = TOPICS[topic % TOPICS.len()].to_owned();
                if is_barred {
                    mood.barred.insert(topic)
                } else {
                    mood.barred.remove(&topic)
                };
            }),
            Action::Poison(is_on) => self.broker.change(|mood| mood.has_poison = is_on),
        }
        self.check_bounds()
    }

    /// Runs a part of the publisher, if it runs. A kill leaves nothing of it.
    fn within(&mut self, part: impl FnOnce(&mut Publisher) -> Result<(), String>) -> Result<(), String> {
        let Some(mut publisher) = self.publisher.take() else { return Ok(()) };
        let ran = catch_unwind(AssertUnwindSafe(|| part(&mut publisher)));
        self.publisher = Some(publisher);
        match ran {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.kill();
                return Err(error);
            }
            Err(panic) if panic.is::<Killed>() => self.kill(),
            Err(panic) => resume_unwind(panic),
        }
        Ok(())
    }

    fn drain_once(&mut self) -> Result<(), String> {
        self.within(|publisher| publisher.drain.step().map_err(|error| format!("the drain ends: {error}")))
    }

    fn feed_once(&mut self) -> Result<(), String> {
        self.within(|_| {
            stepped::step();
            Ok(())
        })
    }

    fn kill(&mut self) {
        self.random.set_kill(None);
        self.set_network(None);
        if self.publisher.take().is_some() {
            self.random.count_kill();
        }
        self.disk.unlock_all();
    }

    fn set_network(&self, network: Option<Network>) {
        *self.network.lock().unwrap_or_else(PoisonError::into_inner) = network;
    }

    /// Starts the publisher, unless it runs. While the disk fails, that may take several attempts.
    fn start(&mut self) -> Result<(), String> {
        if self.publisher.is_some() {
            return Ok(());
        }
        let opened = catch_unwind(AssertUnwindSafe(|| self.open()));
        match opened {
            Ok(Ok(publisher)) => {
                self.set_network(Some(publisher.network.clone()));
                self.publisher = Some(publisher);
                self.random.note(|| "the publisher runs".to_owned());
            }
            Ok(Err(None)) => self.kill(),
            Ok(Err(Some(error))) => return Err(error),
            Err(panic) if panic.is::<Killed>() => self.kill(),
            Err(panic) => resume_unwind(panic),
        }
        Ok(())
    }

    /// What `run` does. Gives no error where the disk is to be asked again.
    fn open(&self) -> Result<Publisher, Option<String>> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let access = Access::own(0o600);
        let directory = Directory::on(Arc::clone(&disk), Path::new(FAILED), access);
        let store = Store::open_on(directory, self.config.failed.size_max).map_err(|_| None)?;
        let dead_letters = DeadLetters::in_store(store, RETRY_INTERVAL);
        let name = self.agent.name();
        let log = if self.config.spool.size_max.0 == 0 && !self.has_segments() {
            None
        } else {
            match Log::open_on(disk, Path::new(SPOOL), access, &self.config.spool, name, 1) {
                Ok(log) => Some(Arc::new(Mutex::new(log))),
                Err(error) if error.to_try_again().is_some() => return Err(None),
                Err(error) => return Err(Some(format!("the spool is refused: {error}"))),
            }
        };
        let stop = Stop::default();
        let ring = drain::attach(name, &stop).map_err(|error| Some(error.to_string()))?.ok_or(None)?;
        let watched = (ring.uuid, ring.gauge());
        let input = Input::open(ring, log, self.config.spool.high_mark).map_err(|e| Some(e.to_string()))?;
        let frontier = Arc::new(Frontier::new(drain::bounds(&self.config), input.ledger()));
        let circuit_breaker = CircuitBreaker::new(&self.config.failed);
        let (random, to) = (self.random.clone(), Arc::clone(&frontier));
        let network = Network::new(self.broker.clone(), random, to, circuit_breaker, self.sizes.payload);
        let sink = Box::new(SimulatedSink(network.clone()));
        let told = Arc::clone(&frontier);
        let mut drain = Drain::new(&self.config, input, sink, told, Names::none(), stop, dead_letters);
        let reload = Reload::by_hand();
        drain.follow_reloads(reload.another());
        let has_spool = self.config.spool.size_max.0 > 0;
        Ok(Publisher { drain, network, frontier, reload, ring: watched, has_spool })
    }

    fn stop(&mut self) {
        let Some(publisher) = self.publisher.take() else { return };
        let Publisher { drain, frontier, .. } = publisher;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            drain.finish(Duration::from_secs(2), Duration::from_secs(2));
        }));
        self.kill();
        // A dead letter may be kept of what the next publisher delivers, as it lies behind something that is not confirmed.
        self.is_calm &= frontier.in_flight() == 0;
        match ended {
            Ok(()) => {}
            Err(panic) if panic.is::<Killed>() => {}
            Err(panic) => resume_unwind(panic),
        }
    }

    fn reboot(&mut self) -> Result<(), String> {
        self.random.set_weather(Weather::default());
        // However many stops are cut off, the last one is not.
        self.random.set_kill(None);
        self.start()?;
        // A small one may have no room for all.
        let has_spool = self.publisher.as_ref().is_some_and(|publisher| publisher.has_spool);
        self.stop();
        self.random.note(|| format!("the spool at the end: {:?}", self.spool()));
        self.lose_memory(!has_spool || self.sizes.spool < 1 << 20);
        Ok(())
    }

    fn lose_memory(&mut self, is_sudden: bool) {
        self.is_calm = false;
        // What was to be announced is forgotten, too.
        self.has_forgotten_losses = true;
        self.agent.lose_memory(is_sudden);
    }

    fn check_bounds(&mut self) -> Result<(), String> {
        let spool = self.disk.bytes(Path::new(SPOOL));
        if spool > self.sizes.spool + SPOOL_SLACK_BYTES {
            return Err(format!("the spool takes {spool} bytes"));
        }
        let dead_letters = self.disk.bytes(Path::new(FAILED));
        if dead_letters > 2 * self.sizes.dead_letters {
            return Err(format!("dead letters take {dead_letters} bytes"));
        }
        let Some(publisher) = &self.publisher else { return Ok(()) };
        let in_flight = publisher.frontier.in_flight() as u64;
        // Dead letters of a file go together, whatever else is on its way.
        let bound = self.sizes.in_flight + 64;
        if in_flight > bound && in_flight > bound + self.dead_letters().len() as u64 {
            return Err(format!("{in_flight} records are on their way"));
        }
        let (uuid, gauge) = &publisher.ring;
        let head = gauge.tail() - gauge.used();
        if *uuid == self.head.0 && head < self.head.1 {
            return Err(format!("the ring's head moves back from {} to {head}", self.head.1));
        }
        self.head = (*uuid, head);
        Ok(())
    }

    /// Everything is well from now on: what there is arrives, or comes to its end otherwise.
    ///
    /// # Errors
    /// If something is left.
    pub fn come_to_rest(&mut self) -> Result<(), String> {
        self.random.note(|| "-- all is well from now on".to_owned());
        self.random.set_weather(Weather::default());
        self.random.set_kill(None);
        self.random.set_patience(10_000);
        if self.broker.mood().is_mute {
            // Answers that were lost are asked for again by the next publisher alone.
            self.kill();
        }
        self.broker.change(|mood| {
            mood.is_stalled = false;
            mood.is_mute = false;
            mood.barred.clear();
        });
        self.start()?;
        let mut turns_at_rest = 0;
        for _ in 0..TURNS_MAX {
            self.agent.tick();
            self.drain_once()?;
            self.feed_once()?;
            if self.publisher.is_none() {
                return Err("the publisher does not run".to_owned());
            }
            simulated::advance(Duration::from_millis(200));
            // Dead letters are on their way again now and then.
            if self.is_at_rest() {
                turns_at_rest += 1;
                if turns_at_rest == TURNS_AT_REST {
                    return self.check_bounds();
                }
            }
        }
        let in_flight = self.publisher.as_ref().map(|publisher| publisher.frontier.in_flight());
        let ring = self.agent.look().map(|ring| (ring.used, ring.used_records));
        Err(format!(
            "it does not come to rest: in flight {in_flight:?}, ring {ring:?}, spool {:?}, dead letters {}",
            self.spool(),
            self.dead_letters().len()
        ))
    }

    fn is_at_rest(&self) -> bool {
        // What is on its way then is dead letters, which are refused again and again. A file that could not be made, nor removed, is
        // the next start's.
        let is_empty = |ring: Inspected| ring.used == 0 && ring.publisher(PublisherCounter::SpoolBytes) == 0;
        self.dead_letters().iter().all(|dead_letter| self.is_refused_for_good(dead_letter))
            && self.agent.look().is_some_and(is_empty)
    }

    /// Whether a dead letter stays one.
    fn is_refused_for_good(&self, line: &[u8]) -> bool {
        let Ok((dead_letter, _)) = DeadLetter::from_line(line) else { return false };
        self.broker.mood().has_poison
            && content::read(&dead_letter.payload).is_ok_and(|event| event.is_poison())
    }

    fn has_segments(&self) -> bool {
        self.disk.names(Path::new(SPOOL)).iter().any(|name| name.ends_with(".spool"))
    }

    /// Names and sizes in the spool.
    pub fn spool(&self) -> Vec<(String, usize)> {
        self.disk.files(Path::new(SPOOL)).into_iter().map(|(name, content)| (name, content.len())).collect()
    }

    /// Dead letters, line by line.
    pub fn dead_letters(&self) -> Vec<Vec<u8>> {
        let files =
            self.disk.files(Path::new(FAILED)).into_iter().filter(|(name, _)| name.ends_with(".jsonl"));
        files
            .flat_map(|(_, content)| {
                content.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.publisher = None;
        self.agent.end();
        simulated::end();
    }
}
