//! A broker that stalls: how long writes take meanwhile.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bywash_benches::{
    cpu_time,
    report::data::{Cell, Column, Goal, Part, Row, Table},
};
use bywash_tests::harness::{
    Broker, Bywash, Process, Settings, program, temporary_directory,
    wait::{self, TIMEOUT},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::Value;

use crate::{
    quantiles,
    run::{Run, memory_of, mib},
};

const ROUNDS: usize = 4;
/// How long each state lasts in all rounds together.
const STATE_TIME: Duration = Duration::from_secs(20);
const WRITE_BYTES: usize = 4096;
/// Writes begin at this interval: what a busy log has, so that nothing but the state decides how long they take.
const INTERVAL: Duration = Duration::from_millis(1);
/// The longest of 1,000 writes in a state may be this many times the one of the healthy state.
const RATIO_WANTED: f64 = 1.1;
const TOPIC: &str = "stalls";
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

const SETTINGS: Settings = Settings { topic: TOPIC, ..Settings::DEFAULT };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Bare,
    Healthy,
    Stopped,
    Killed,
    Restarted,
}

const STATES: [State; 5] = [State::Bare, State::Healthy, State::Stopped, State::Killed, State::Restarted];

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare directory",
            Self::Healthy => "bywash, healthy",
            Self::Stopped => "bywash, broker stopped",
            Self::Killed => "bywash, publisher killed",
            Self::Restarted => "bywash, agent restarted",
        }
    }
}

/// Who is measured. The agent has a supervisor, as under systemd.
struct World {
    broker: Broker,
    supervisor: Process,
    bywash: Bywash,
    bare: Box<dyn AsRef<Path>>,
}

/// What the rounds of a state gave.
#[derive(Default)]
struct Taken {
    times: [Vec<f64>; 4],
    cpu_us: Vec<f64>,
    memory: Vec<f64>,
    writes: usize,
}

pub fn measure(run: &mut Run) -> Part {
    let mut world = World::start();
    let time = run.scaled(STATE_TIME) / u32::try_from(ROUNDS).unwrap();
    let mut all: [Taken; STATES.len()] = Default::default();
    for round in 0..ROUNDS {
        run.say(&format!("round {} of {ROUNDS}: writes of 4 KiB while the broker stalls", round + 1));
        for turn in 0..STATES.len() {
            // Whoever comes first finds another machine than whoever comes last.
            let at = (turn + round) % STATES.len();
            world.measure(STATES[at], time, &mut all[at]);
        }
    }
    let written: usize =
        STATES.iter().zip(&all).filter(|(s, _)| **s != State::Bare).map(|(_, t)| t.writes).sum();
    let (arrived, lost) = (world.arrived(), world.lost());
    Part {
        id: "stalls".to_owned(),
        title: "A broker that stalls".to_owned(),
        method: method(time),
        goals: goals(&all, written, arrived, lost),
        tables: vec![table(all)],
    }
}

fn method(time: Duration) -> Vec<String> {
    vec![
        format!(
            "One program appends 4 KiB a millisecond to a file, as fast in each state, for {ROUNDS} rounds of {:.1} s. The broker is stopped by SIGSTOP: \
             connections stay open and nothing is answered. The publisher is killed by SIGKILL and started again after the round. The agent is \
             restarted in the middle of the round, as an upgrade does it; the longest write is the wait for that.",
            time.as_secs_f64()
        ),
        "CPU is that of agent and publisher, for one write; memory is what both have for themselves, without the ring, which is shared. \
         Ring (64 MiB) and spool have the default sizes. The broker runs on the same machine: stopped, it also takes no processor time."
            .to_owned(),
    ]
}

fn table(all: [Taken; STATES.len()]) -> Table {
    let row = |(state, taken): (&State, Taken)| {
        let [p50, p99, p999, max] = taken.times.map(Cell::of);
        let cells = vec![p50, p99, p999, max, Cell::of(taken.cpu_us), Cell::of(taken.memory)];
        Row { name: state.name().to_owned(), cells }
    };
    let columns = ["p50", "p99", "p99.9", "longest"].map(|name| Column::new(name, "µs"));
    let others = [Column::new("CPU a write", "µs"), Column::new("memory", "MiB")];
    Table {
        title: "How long a write of 4 KiB takes".to_owned(),
        of: "state".to_owned(),
        columns: columns.into_iter().chain(others).collect(),
        rows: STATES.iter().zip(all).map(row).collect(),
        charted: vec![0, 2],
    }
}

fn goals(all: &[Taken; STATES.len()], written: usize, arrived: usize, lost: u64) -> Vec<Goal> {
    let p999 = |state: State| {
        let place = STATES.iter().position(|s| *s == state).unwrap();
        bywash_benches::median(&mut all[place].times[2].clone())
    };
    let ratio = |state: State| {
        let ratio = p999(state) / p999(State::Healthy);
        Goal {
            wanted: format!("{}: p99.9 at most {RATIO_WANTED} times the healthy one", state.name()),
            measured: format!("{ratio:.2} times"),
            met: ratio <= RATIO_WANTED,
        }
    };
    let complete = Goal {
        wanted: "each write is in Kafka in the end, or counted as lost".to_owned(),
        measured: format!("{written} written, {arrived} events in Kafka, {lost} counted as lost"),
        met: arrived as u64 + lost >= written as u64,
    };
    vec![ratio(State::Stopped), ratio(State::Killed), complete]
}

impl World {
    fn start() -> Self {
        let broker = Broker::start();
        broker.create(TOPIC);
        let mut bywash = Bywash::new(&broker.address(), &SETTINGS);
        let state = bywash.root().join("state");
        bywash.edit("", &format!("\n[agent]\nstate_dir = {state:?}\n"));
        let config = bywash.config.display().to_string();
        let line = ["supervise", "--", "run", "--config", &config];
        let supervisor =
            Process::spawn("supervisor", &program("fs-agent"), line, bywash.root(), Signal::SIGTERM);
        bywash.environment.clear();
        let mut world = Self { broker, supervisor, bywash, bare: Box::new(temporary_directory()) };
        world.wait_for_agent(None);
        world.bywash.start_publisher();
        world
    }

    fn status(&self) -> Value {
        let said = self.bywash.fs_agent(&["status", "--json"]);
        serde_json::from_str(&said.stdout).unwrap_or_default()
    }

    /// Waits for an agent that listens and is not `old`; gives its process.
    fn wait_for_agent(&self, old: Option<i32>) -> i32 {
        wait::until("an agent to listen", TIMEOUT, || {
            let status = self.status();
            let pid = status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            match pid {
                Some(pid) if status["running"] == true && Some(pid) != old => Ok(pid),
                _ => Err(status.to_string()),
            }
        })
    }

    /// One round of a state, from and to a healthy one.
    fn measure(&mut self, state: State, time: Duration, taken: &mut Taken) {
        let agent = self.wait_for_agent(None);
        match state {
            State::Stopped => self.broker.stop(),
            State::Killed => self.bywash.publisher().kill9(),
            State::Bare | State::Healthy | State::Restarted => {}
        }
        let mut pids = vec![agent];
        if state != State::Killed {
            pids.push(self.bywash.publisher().pid().as_raw());
        }
        let cpu = || pids.iter().map(|&pid| cpu_time(pid)).sum::<Duration>();
        let before = cpu();
        let times = thread::scope(|scope| {
            if state == State::Restarted {
                scope.spawn(|| {
                    thread::sleep(time / 2);
                    kill(Pid::from_raw(agent), Signal::SIGTERM).expect("an agent that runs");
                });
            }
            let directory =
                if state == State::Bare { (*self.bare).as_ref() } else { self.bywash.directory() };
            write(&directory.join("file.log"), time)
        });
        let writes = times.len();
        if !matches!(state, State::Bare | State::Restarted) {
            taken.cpu_us.push(cpu().saturating_sub(before).as_secs_f64() * 1e6 / writes as f64);
        }
        if state != State::Bare {
            taken.memory.push(mib(pids.iter().map(|&pid| memory_of(pid)).sum()));
        }
        taken.writes += writes;
        for (all, figure) in taken.times.iter_mut().zip(quantiles(times)) {
            all.push(figure);
        }
        match state {
            State::Stopped => self.broker.resume(),
            State::Killed => self.bywash.start_publisher(),
            State::Restarted => drop(self.wait_for_agent(Some(agent))),
            State::Bare | State::Healthy => {}
        }
        self.bywash.drain(TIMEOUT * 4);
    }

    /// How many events the broker has.
    fn arrived(&self) -> usize {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", self.broker.address()).create().expect("a client");
        let marks = client.fetch_watermarks(TOPIC, 0, BROKER_TIMEOUT).expect("the topic's end");
        usize::try_from(marks.1).unwrap_or(0)
    }

    /// How many writes the agent counts as lost.
    fn lost(&self) -> u64 {
        let status = self.status();
        let reasons = status["lost"].as_object().cloned().unwrap_or_default();
        reasons.values().filter_map(|reason| reason["events"].as_u64()).sum()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // An agent outlives a supervisor that is killed.
        if self.supervisor.ended().is_none() {
            self.supervisor.signal(Signal::SIGTERM);
            wait::quietly(TIMEOUT, || self.supervisor.ended().is_some());
        }
    }
}

/// Appends to a new file at a steady pace; gives how long each write took.
fn write(path: &Path, time: Duration) -> Vec<Duration> {
    let mut file = File::options().append(true).create_new(true).open(path).expect("a new file");
    let bytes = vec![b'x'; WRITE_BYTES];
    let begin = Instant::now();
    let mut times = Vec::new();
    let mut due = begin;
    while due.duration_since(begin) < time {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let started = Instant::now();
        file.write_all(&bytes).expect("a write that succeeds");
        times.push(started.elapsed());
        due += INTERVAL;
    }
    drop(file);
    fs::remove_file(path).expect("a file");
    times
}
