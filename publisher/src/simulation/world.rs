//! An agent, a publisher, a disk and a broker in one thread.

use std::{
    collections::BTreeSet,
    fs::remove_file,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bywash_common::{
    config::{Config, DirectoryConfig, Encoder, RingConfig, SpoolConfig},
    record::{Origin, Write},
    ring::{AgentRing, Kind, PublisherRing, SEGMENT_DIR, Weight},
    units::{ByteSize, Span},
};
use nix::errno::Errno;

use crate::{
    clock::simulated,
    delivery::Frontier,
    disk::{Access, Disk},
    drain::{self, DeadLetters, Drain, Intake},
    failed::{Directory, Patience, Store},
    names::Names,
    signals::Stop,
    spool::{Log, stepped},
};

use super::{
    action::Action,
    broker::{Broker, Network, SimulatedSink, marker},
    disk::SimulatedDisk,
    fate::{Fate, Killed, Weather},
};

const TOPICS: [&str; 2] = ["even", "odd"];
/// Writes with such a number are poison, where there is poison.
pub const POISON_EVERY: u64 = 13;
const KEYS: usize = 4;
const SPOOL: &str = "/spool";
const FAILED: &str = "/failed";
/// So often the publisher may wait within an action.
const WAITS_MAX: u64 = 100;
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How large things are in a run.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub ring: u64,
    pub spool: u64,
    pub letters: u64,
    pub in_flight: u64,
}

/// A write that a program was told of.
#[derive(Clone, Debug)]
pub struct Written {
    /// The ring had room for it.
    pub is_captured: bool,
}

struct Publisher {
    drain: Drain,
    network: Network,
    frontier: Arc<Frontier>,
}

/// All there is.
pub struct World {
    pub fate: Fate,
    pub disk: SimulatedDisk,
    pub broker: Broker,
    pub written: Vec<Written>,
    /// Numbers of writes that were in a ring alone when the machine lost its memory.
    pub forgotten: BTreeSet<u64>,
    pub sizes: Sizes,
    has_forgotten_losses: bool,
    config: Config,
    ring: RingConfig,
    agent: Option<AgentRing>,
    publisher: Option<Publisher>,
    /// For what goes on while the drain waits.
    network: Arc<Mutex<Option<Network>>>,
}

static RUNS: AtomicU64 = AtomicU64::new(0);

impl World {
    pub fn new(seed: u64, sizes: Sizes, is_traced: bool) -> Self {
        let fate = Fate::new(seed, is_traced);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let name = format!("bywash-test-{}-sim{run}", process::id());
        let ring = RingConfig { name: name.clone(), size: ByteSize(sizes.ring), group: None };
        let mut config = Config { ring: ring.clone(), ..Config::default() };
        config.event.encoder = Encoder::Logstash;
        config.publisher.in_flight_records = u32::try_from(sizes.in_flight).unwrap();
        config.spool = SpoolConfig {
            size_max: ByteSize(sizes.spool),
            segment_size: ByteSize(6000),
            high_mark: 30,
            ..SpoolConfig::default()
        };
        config.failed.size_max = ByteSize(sizes.letters);
        config.failed.retry_interval = Span(RETRY_INTERVAL);
        config.failed.give_up_after = Span(Duration::from_secs(3));
        config.directories = TOPICS
            .iter()
            .map(|topic| DirectoryConfig {
                topic: Some((*topic).to_owned()),
                ..DirectoryConfig::at(format!("/{topic}").into())
            })
            .collect();
        let network: Arc<Mutex<Option<Network>>> = Arc::default();
        let (meanwhile, chance) = (Arc::clone(&network), fate.clone());
        simulated::begin(move |_| {
            chance.wait();
            if chance.happens(500) {
                stepped::step();
            }
            let network = meanwhile.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            if let Some(network) = network {
                network.step();
            }
        });
        let agent = AgentRing::open(&ring).expect("a ring");
        Self {
            disk: SimulatedDisk::new(fate.clone(), 4 << 20),
            fate,
            broker: Broker::default(),
            written: Vec::new(),
            forgotten: BTreeSet::new(),
            sizes,
            has_forgotten_losses: false,
            config,
            ring,
            agent: Some(agent),
            publisher: None,
            network,
        }
    }

    /// Does one thing.
    ///
    /// # Errors
    /// What the publisher should never do.
    pub fn act(&mut self, action: Action) -> Result<(), String> {
        self.fate.note(|| format!("-- {action:?}"));
        self.fate.set_patience(WAITS_MAX);
        match action {
            Action::Write { writes, bytes } => (0..writes).for_each(|_| self.write(bytes)),
            Action::Drain(turns) => (0..turns).try_for_each(|_| self.drain_once())?,
            Action::Feed(rounds) => (0..rounds).try_for_each(|_| self.feed_once())?,
            Action::Network(steps) => (0..steps).try_for_each(|_| {
                self.within(|publisher| {
                    publisher.network.step();
                    Ok(())
                })
            })?,
            Action::Wait(ms) => simulated::advance(Duration::from_millis(ms)),
            Action::Kill(steps) => self.fate.set_kill(Some(steps)),
            Action::Start => self.start()?,
            Action::Restart => {
                self.stop();
                self.start()?;
            }
            Action::Reboot => {
                self.fate.set_weather(Weather::default());
                // However many stops are cut off, the last one is not.
                self.fate.set_kill(None);
                self.start()?;
                self.stop();
                self.fate.note(|| format!("the spool at the end: {:?}", self.spool()));
                // A small spool may have no room for all.
                self.lose_memory(self.sizes.spool < 1 << 20);
            }
            Action::CutPower => {
                self.kill();
                self.lose_memory(true);
                self.disk.cut_power();
            }
            Action::Generation => self.begin_generation(),
            Action::DiskTrouble { of_1000, errno } => {
                let errno = errno.map(Errno::from_raw);
                self.fate.set_weather(Weather { disk_errors: of_1000, errno, short: 100 });
            }
            Action::DiskCalm => self.fate.set_weather(Weather::default()),
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
            Action::Poison(is_on) => {
                self.broker.change(|mood| mood.poison_every = if is_on { POISON_EVERY } else { 0 })
            }
        }
        self.check_bounds()
    }

    fn write(&mut self, bytes: usize) {
        let number = self.written.len() as u64;
        let key = self.fate.below(KEYS as u64) as usize;
        let path = format!("/{}/{key}", TOPICS[key % TOPICS.len()]);
        let mut data = format!("<#{number:08}>").into_bytes();
        data.resize(data.len().max(bytes), b'.');
        let write = Write {
            path: path.as_bytes(),
            pid: 0,
            uid: 0,
            gid: 0,
            time_ns: 1_000_000 + number,
            command: b"",
            offset: 0,
            handle: 0,
            origin: Origin::Fifo,
            part: 0,
            parts: 1,
        };
        let mut description = Vec::new();
        write.encode_into(&mut description);
        let weight = Weight { bytes: data.len() as u64, time_ns: write.time_ns };
        let agent = self.agent.as_ref().expect("an agent");
        let is_captured = agent.producer.push(Kind::Write, &[&description, &data], weight).is_ok();
        if !is_captured {
            self.fate.note(|| format!("write {number} finds no room"));
        }
        self.written.push(Written { is_captured });
    }

    fn begin_generation(&mut self) {
        self.agent = None;
        // The publisher's counters, and what it is to deliver, are in the former one.
        let larger = self.ring.size.0 + 8192;
        self.ring.size = ByteSize(larger);
        self.agent = Some(AgentRing::open(&self.ring).expect("a generation"));
    }

    /// Runs a part of the publisher, if it runs. A kill leaves nothing of it.
    fn within(&mut self, part: impl FnOnce(&mut Publisher) -> Result<(), String>) -> Result<(), String> {
        let Some(mut publisher) = self.publisher.take() else { return Ok(()) };
        let ran = catch_unwind(AssertUnwindSafe(|| part(&mut publisher)));
        match ran {
            Ok(Ok(())) => self.publisher = Some(publisher),
            Ok(Err(error)) => {
                self.publisher = Some(publisher);
                self.kill();
                return Err(error);
            }
            Err(panic) if panic.is::<Killed>() => {
                self.publisher = Some(publisher);
                self.kill();
            }
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
        self.fate.set_kill(None);
        *self.network.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        self.publisher = None;
        self.disk.unlock_all();
    }

    /// Starts the publisher, unless it runs. While the disk fails, that may take several attempts.
    fn start(&mut self) -> Result<(), String> {
        if self.publisher.is_some() {
            return Ok(());
        }
        let opened = catch_unwind(AssertUnwindSafe(|| self.open()));
        match opened {
            Ok(Ok(publisher)) => {
                *self.network.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    Some(publisher.network.clone());
                self.publisher = Some(publisher);
                self.fate.note(|| "the publisher runs".to_owned());
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
        let letters = DeadLetters::in_store(store, RETRY_INTERVAL);
        let log = Log::open_on(disk, Path::new(SPOOL), access, &self.config.spool, &self.ring.name, 1);
        let log = match log {
            Ok(log) => Some(Arc::new(Mutex::new(log))),
            Err(error) if error.to_try_again().is_some() => return Err(None),
            Err(error) => return Err(Some(format!("the spool is refused: {error}"))),
        };
        let stop = Stop::default();
        let ring = drain::attach(&self.ring.name, &stop).map_err(|error| Some(error.to_string()))?;
        let ring = ring.ok_or(None)?;
        let intake = Intake::open(ring, log, self.config.spool.high_mark).map_err(|e| Some(e.to_string()))?;
        let frontier = Arc::new(Frontier::new(drain::bounds(&self.config), intake.ledger()));
        let patience = Patience::new(&self.config.failed);
        let network = Network::new(self.broker.clone(), self.fate.clone(), Arc::clone(&frontier), patience);
        let sink = Box::new(SimulatedSink(network.clone()));
        let names = Names::of_the_system().map_err(|error| Some(error.to_string()))?;
        let drain = Drain::new(&self.config, intake, sink, Arc::clone(&frontier), names, stop, letters);
        Ok(Publisher { drain, network, frontier })
    }

    fn stop(&mut self) {
        let Some(publisher) = self.publisher.take() else { return };
        let Publisher { drain, .. } = publisher;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            drain.finish(Duration::from_secs(2), Duration::from_secs(2));
        }));
        self.kill();
        match ended {
            Ok(()) => {}
            Err(panic) if panic.is::<Killed>() => {}
            Err(panic) => resume_unwind(panic),
        }
    }

    /// The rings go. `is_sudden` says whether what they held may be lost with them.
    fn lose_memory(&mut self, is_sudden: bool) {
        if is_sudden {
            let mut payload = Vec::new();
            // One generation after the other.
            while let Ok(mut ring) = PublisherRing::attach(&self.ring.name, None) {
                while let Ok(Some(entry)) = ring.consumer.next(&mut payload) {
                    if entry.kind == Kind::Write
                        && let Some(number) = marker(&payload)
                    {
                        self.forgotten.insert(number);
                    }
                }
                let end = ring.consumer.position();
                let newest = !ring.has_successor().unwrap_or(false);
                ring.consumer.acker().ack(end);
                if newest {
                    break;
                }
            }
        }
        // What was to be announced is forgotten, too.
        self.has_forgotten_losses = true;
        self.agent = None;
        self.remove_rings();
        self.agent = Some(AgentRing::open(&self.ring).expect("a ring after a reboot"));
    }

    fn remove_rings(&self) {
        for generation in 1..=64 {
            for role in ["ring", "ack"] {
                let path: PathBuf = format!("{SEGMENT_DIR}/{}.{generation}.{role}", self.ring.name).into();
                if remove_file(path).is_err() && role == "ring" && generation > 40 {
                    return;
                }
            }
        }
    }

    fn check_bounds(&self) -> Result<(), String> {
        let spool = self.disk.bytes(Path::new(SPOOL));
        // Both marks and the ring's name are beside; a batch that was refused may not be cut off yet.
        if spool > self.sizes.spool + 4096 + (1 << 20) {
            return Err(format!("the spool takes {spool} bytes"));
        }
        let letters = self.disk.bytes(Path::new(FAILED));
        if letters > 2 * self.sizes.letters {
            return Err(format!("dead letters take {letters} bytes"));
        }
        if let Some(publisher) = &self.publisher
            && publisher.frontier.in_flight() as u64 > self.sizes.in_flight + 64
        {
            return Err(format!("{} records are on their way", publisher.frontier.in_flight()));
        }
        Ok(())
    }

    /// Everything is well from now on: what there is arrives, or comes to its end otherwise.
    ///
    /// # Errors
    /// If something is left.
    pub fn come_to_rest(&mut self) -> Result<(), String> {
        self.fate.note(|| "-- all is well from now on".to_owned());
        self.fate.set_weather(Weather::default());
        self.fate.set_kill(None);
        self.fate.set_patience(10_000);
        self.broker.change(|mood| {
            mood.is_stalled = false;
            mood.is_mute = false;
            mood.barred.clear();
        });
        // Answers that were lost are asked for again by the next publisher alone.
        self.kill();
        self.start()?;
        let mut turns_at_rest = 0;
        for turn in 0..5000 {
            if turn % 50 == 0
                && let Some(agent) = &self.agent
            {
                agent.producer.announce_losses();
            }
            self.drain_once()?;
            self.feed_once()?;
            if self.publisher.is_none() {
                return Err("the publisher does not run".to_owned());
            }
            simulated::advance(Duration::from_millis(200));
            turns_at_rest += u64::from(self.is_at_rest());
            // As long as several rounds of letters, which are on their way again now and then.
            if turns_at_rest > 150 && self.is_at_rest() {
                return self.check_bounds();
            }
        }
        let in_flight = self.publisher.as_ref().map(|publisher| publisher.frontier.in_flight());
        let ring = bywash_common::ring::inspect(&self.ring.name).map(|ring| (ring.used, ring.used_records));
        Err(format!(
            "it does not come to rest: in flight {in_flight:?}, ring {ring:?}, spool {:?}",
            self.spool()
        ))
    }

    fn is_at_rest(&self) -> bool {
        let Ok(ring) = bywash_common::ring::inspect(&self.ring.name) else { return false };
        // Letters may be on their way once more.
        ring.used == 0 && !self.spool().iter().any(|(name, _)| name.ends_with(".spool"))
    }

    /// Whether the machine has lost its memory with losses in it that were not announced.
    pub fn forgets_losses(&self) -> bool {
        self.has_forgotten_losses
    }

    /// Names and sizes in the spool.
    pub fn spool(&self) -> Vec<(String, usize)> {
        self.disk.files(Path::new(SPOOL)).into_iter().map(|(name, content)| (name, content.len())).collect()
    }

    /// Dead letters, line by line.
    pub fn letters(&self) -> Vec<Vec<u8>> {
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
        self.agent = None;
        self.remove_rings();
        simulated::end();
    }
}
