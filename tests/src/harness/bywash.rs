//! Both services with a configuration, a ring and directories of their own.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::Value;

use super::{
    Broker, PREFIX, Process, mounts,
    process::{self, Finished},
    program, temporary_directory, wait,
};

/// Where segments are.
const SEGMENTS: &str = "/dev/shm";
/// An orderly end takes less than this when no broker has to be waited for.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// Credentials that any service takes which does not look at signatures, and nothing of whoever runs the test.
const AWS_ENVIRONMENT: [&str; 5] = [
    "AWS_ACCESS_KEY_ID=test",
    "AWS_SECRET_ACCESS_KEY=test",
    "AWS_CONFIG_FILE=/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
    "AWS_EC2_METADATA_DISABLED=true",
];

/// What a test may want otherwise.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `event.encoder`
    pub encoder: &'static str,
    /// `ring.size`
    pub ring_size: &'static str,
    /// Names of the watched directories.
    pub directories: &'static [&'static str],
    /// More lines for each of them.
    pub directory: &'static str,
    /// `kafka.topic`
    pub topic: &'static str,
    /// More lines for `[publisher]`.
    pub publisher: &'static str,
    /// More lines for `[kafka]`.
    pub kafka: &'static str,
    /// More lines for `[kinesis]`.
    pub kinesis: &'static str,
    /// More lines for `[failed]`.
    pub failed: &'static str,
    /// More lines for `[spool]`.
    pub spool: &'static str,
}

impl Settings {
    /// What most tests want.
    pub const DEFAULT: Self = Self {
        encoder: "logstash_base64",
        ring_size: "64MiB",
        directories: &["logs"],
        directory: "",
        topic: "logs",
        publisher: "",
        kafka: "",
        kinesis: "",
        failed: "",
        spool: "",
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A configured pair of services.
pub struct Bywash {
    /// The running agent.
    pub agent: Option<Process>,
    /// The running publisher.
    pub publisher: Option<Process>,
    /// The configuration file.
    pub config: PathBuf,
    /// The ring's name.
    pub ring: String,
    directories: Vec<PathBuf>,
    /// What both programs find in their environment, `NAME=value`.
    pub environment: Vec<String>,
    root: tempfile::TempDir,
}

impl Bywash {
    /// Writes a configuration for a Kafka broker; starts nothing.
    pub fn new(brokers: &str, settings: &Settings) -> Self {
        let brokers: Vec<&str> = brokers.split(',').collect();
        let Settings { topic, publisher, kafka, .. } = settings;
        let sink = format!(
            "[publisher]\n{publisher}\n\n[kafka]\nbrokers = {brokers:?}\ntopic = {topic:?}\n{kafka}\n"
        );
        Self::with_sink(&sink, settings)
    }

    /// Writes a configuration for Kinesis at a URL, with credentials in the environment; starts nothing.
    pub fn for_kinesis(url: &str, settings: &Settings) -> Self {
        let Settings { topic, publisher, kinesis, .. } = settings;
        let sink = format!(
            "[publisher]\nsink = \"kinesis\"\n{publisher}\n\n[kinesis]\nendpoint_url = {url:?}\nregion = \"us-east-1\"\n\
             stream_name = {topic:?}\n{kinesis}\n"
        );
        let mut bywash = Self::with_sink(&sink, settings);
        bywash.environment = AWS_ENVIRONMENT.map(str::to_owned).to_vec();
        bywash.environment.push(format!("AWS_ENDPOINT_URL_STS={url}"));
        bywash
    }

    fn with_sink(sink: &str, settings: &Settings) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let ring = format!("{PREFIX}-{pid}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let root = temporary_directory();
        let directories: Vec<_> = settings.directories.iter().map(|name| root.path().join(name)).collect();
        let Settings { encoder, ring_size, directory: more, failed, spool, .. } = settings;
        let (failed_dir, spool_dir) = (root.path().join("failed"), root.path().join("spool"));
        let mut text = format!(
            "[ring]\nname = {ring:?}\nsize = {ring_size:?}\n\n\
             [event]\nencoder = {encoder:?}\nfields = {{ hostname = \"test\" }}\ntags = [\"test\"]\n"
        );
        for directory in &directories {
            std::fs::create_dir(directory).expect("a new directory");
            write!(text, "\n[[directory]]\npath = {directory:?}\n{more}").expect("a string takes text");
        }
        write!(
            text,
            "\n{sink}\n\n[failed]\ndir = {failed_dir:?}\n{failed}\n\n[spool]\ndir = {spool_dir:?}\n{spool}\n"
        )
        .expect("a string takes text");
        let config = root.path().join("bywash.toml");
        std::fs::write(&config, text).expect("a configuration file");
        Self { agent: None, publisher: None, config, ring, directories, environment: Vec::new(), root }
    }

    /// Replaces a part of the configuration file, or appends to it where `part` is empty; tells nobody.
    #[track_caller]
    pub fn edit(&self, part: &str, by: &str) {
        let text = std::fs::read_to_string(&self.config).expect("a configuration file");
        assert!(text.contains(part), "{part:?} is not in the configuration:\n{text}");
        let edited = if part.is_empty() { text + by } else { text.replacen(part, by, 1) };
        std::fs::write(&self.config, edited).expect("a configuration file");
    }

    /// Has the agent read a FIFO beside the watched directories, from its next start or reload on; `keys` are more lines of
    /// its section. It is made here, unless the agent is to.
    pub fn add_fifo(&self, name: &str, keys: &str) -> PathBuf {
        let path = self.root().join(name);
        if !keys.contains("create") {
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a new FIFO");
        }
        self.edit("", &format!("\n[[fifo]]\npath = {path:?}\n{keys}\n"));
        path
    }

    /// Has the agent read its configuration again; gives what it said of that.
    #[track_caller]
    pub fn reload_agent(&mut self) -> String {
        reload(self.agent.as_ref().expect("a started agent"))
    }

    /// Has the publisher read its configuration again; gives what it said of that.
    #[track_caller]
    pub fn reload_publisher(&mut self) -> String {
        reload(self.publisher.as_ref().expect("a started publisher"))
    }

    /// Starts both services for a broker.
    pub fn start(broker: &Broker, settings: &Settings) -> Self {
        let mut bywash = Self::new(&broker.address(), settings);
        bywash.start_agent();
        bywash.start_publisher();
        bywash
    }

    /// The first watched directory.
    pub fn directory(&self) -> &Path {
        &self.directories[0]
    }

    /// A path in the first watched directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// The temporary directory with the configuration and the logs; not watched.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Starts the agent and waits until it listens to every directory.
    #[track_caller]
    pub fn start_agent(&mut self) {
        let process = spawn_in(&self.environment, "fs-agent", &self.config, self.root.path());
        let process = self.agent.insert(process);
        let (config, directories) = (&self.config, &self.directories);
        wait::until("fs-agent to listen", wait::TIMEOUT, || {
            assert!(process.ended().is_none(), "fs-agent ended: {:?}", process.ended());
            let status = command("fs-agent", &["status"], config);
            let listens = |d: &PathBuf| {
                status.stdout.lines().any(|line| line == format!("listening on {}", d.display()))
            };
            if status.code == Some(0) && directories.iter().all(listens) {
                return Ok(());
            }
            Err(format!("its status is {status:?}"))
        });
    }

    /// Ends the agent in an orderly way: afterwards the directories are plain ones.
    #[track_caller]
    pub fn stop_agent(&mut self) {
        let status = self.agent().terminate(wait::TIMEOUT);
        assert_eq!(status.code(), Some(0), "fs-agent ended with {status}");
    }

    /// Starts the publisher and waits until it drains the ring.
    #[track_caller]
    pub fn start_publisher(&mut self) {
        let (environment, config) = (&self.environment, &self.config);
        let process = self.publisher.insert(spawn_in(environment, "publisher", config, self.root.path()));
        wait::until("the publisher to run", wait::TIMEOUT, || {
            assert!(process.ended().is_none(), "the publisher ended: {:?}", process.ended());
            let status = command("publisher", &["status"], config);
            if status.code == Some(0) { Ok(()) } else { Err(format!("its status is {status:?}")) }
        });
    }

    /// The running agent.
    #[track_caller]
    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("a started agent")
    }

    /// The running publisher.
    #[track_caller]
    pub fn publisher(&mut self) -> &mut Process {
        self.publisher.as_mut().expect("a started publisher")
    }

    /// Runs an `fs-agent` command with this configuration.
    #[track_caller]
    pub fn fs_agent(&self, arguments: &[&str]) -> Finished {
        command("fs-agent", arguments, &self.config)
    }

    /// Runs a `publisher` command with this configuration.
    #[track_caller]
    pub fn publisher_command(&self, arguments: &[&str]) -> Finished {
        command_in(&self.environment, "publisher", arguments, &self.config)
    }

    /// `fs-agent status --json`.
    #[track_caller]
    pub fn agent_status(&self) -> Value {
        status_json(&self.fs_agent(&["status", "--json"]))
    }

    /// `publisher status --json`.
    #[track_caller]
    pub fn publisher_status(&self) -> Value {
        status_json(&self.publisher_command(&["status", "--json"]))
    }

    /// Waits until everything captured is delivered.
    #[track_caller]
    pub fn drain(&self, within: Duration) {
        wait::until("the ring to be drained", within, || {
            let status = self.publisher_status();
            if status["lag_bytes"] == 0 { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// The directory of the dead letters.
    pub fn failed(&self) -> PathBuf {
        self.root.path().join("failed")
    }

    /// The directory of the spool.
    pub fn spool(&self) -> PathBuf {
        self.root.path().join("spool")
    }

    /// Whether the first watched directory has its overlay.
    pub fn is_mounted(&self) -> bool {
        mounts::is_mounted(self.directory())
    }

    /// The ring's objects that exist.
    pub fn segments(&self) -> Vec<PathBuf> {
        let listing = std::fs::read_dir(SEGMENTS).expect("the directory of shared memory");
        let mine = format!("{}.", self.ring);
        let entries = listing.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&mine));
        entries.map(|entry| entry.path()).collect()
    }
}

impl Drop for Bywash {
    fn drop(&mut self) {
        for process in [&mut self.publisher, &mut self.agent].into_iter().flatten() {
            if process.ended().is_none() {
                process.signal(Signal::SIGCONT);
                process.signal(Signal::SIGTERM);
                wait::quietly(STOP_TIME_MAX, || process.ended().is_some());
            }
        }
        mounts::detach_below(self.root.path());
        for segment in self.segments() {
            drop(std::fs::remove_file(segment));
        }
    }
}

/// Sends SIGHUP, and waits for what is said of it.
#[track_caller]
fn reload(service: &Process) -> String {
    let before = service.log().len();
    service.signal(Signal::SIGHUP);
    wait::until("the service to have reloaded", wait::TIMEOUT, || {
        let said = service.log()[before..].to_owned();
        if said.contains("SIGHUP: ") && said.ends_with('\n') { Ok(said) } else { Err(said) }
    })
}

/// Runs a command of one of the two programs.
#[track_caller]
pub fn command(name: &str, arguments: &[&str], config: &Path) -> Finished {
    command_in(&[], name, arguments, config)
}

#[track_caller]
fn command_in(environment: &[String], name: &str, arguments: &[&str], config: &Path) -> Finished {
    let mut command = Command::new("env");
    command.args(environment).arg(program(name)).args(arguments).arg("--config").arg(config);
    process::run(&mut command, wait::TIMEOUT)
}

/// Starts one of the two services, and does not wait for it.
pub fn spawn(name: &str, config: &Path, log_directory: &Path) -> Process {
    spawn_in(&[], name, config, log_directory)
}

/// The same with more in its environment, `NAME=value`.
pub fn spawn_in(environment: &[String], name: &str, config: &Path, log_directory: &Path) -> Process {
    assert!(Path::new("/dev/fuse").exists(), "there is no /dev/fuse: load the fuse module (modprobe fuse)");
    let program = program(name);
    let run = [program.as_os_str(), "run".as_ref(), "--config".as_ref(), config.as_os_str()];
    let arguments = environment.iter().map(AsRef::as_ref).chain(run);
    // SIGTERM: should this process be killed, the agent still takes its mounts away.
    Process::spawn(name, Path::new("env"), arguments, log_directory, Signal::SIGTERM)
}

#[track_caller]
fn status_json(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "status says that it does not run: {finished:?}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("status --json: {e}: {finished:?}"))
}
