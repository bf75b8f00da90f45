//! What is measured: directories, most of them served by a process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bywash_common::ring::SEGMENT_DIR;

/// Our overlay, captured and drained.
pub const OVERLAY: &str = "bywash";
/// The same with every file excluded from capture.
const UNCAPTURED: &str = "uncaptured";

/// Debian's, as those who care for speed and for what is below would mount them.
const PEERS: [(&str, &str); 2] = [
    ("mergerfs", "mergerfs -f -o cache.files=off,dropcacheonclose=false {source} {mountpoint}"),
    ("bindfs", "bindfs -f --multithreaded --no-allow-other {source} {mountpoint}"),
];

/// Where everybody is if they are pinned, but the drains.
const SERVING_CPU: usize = 0;
const DRAINING_CPU: usize = 1;

const START_TIME_MAX: Duration = Duration::from_secs(10);

/// A directory to work in, and who serves it.
pub struct Subject {
    /// For people.
    pub name: String,
    /// Where the work is done.
    pub directory: PathBuf,
    /// The directory below.
    pub source: PathBuf,
    /// Whoever serves it first, then who drains it.
    processes: Vec<Child>,
    ring: Option<String>,
}

/// The bare directory, the overlay, that of other builds, and what is there of others; this process and all of them on one
/// CPU, the drains on another, if they are `pinned`. Peers are commands with `{source}` and `{mountpoint}`.
///
/// # Panics
/// If one cannot be started.
pub fn all(
    root: &Path,
    peers: &[(String, String)],
    agents: &[(String, PathBuf)],
    pinned: bool,
) -> Vec<Subject> {
    if pinned {
        // And whatever this process starts.
        pin(std::process::id(), SERVING_CPU);
    }
    let own = PEERS.iter().map(|(name, command)| ((*name).to_owned(), (*command).to_owned()));
    let is_there = |(name, command): &(String, String)| {
        let program = command.split_whitespace().next().unwrap_or_default();
        let found =
            Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        if !found {
            println!("skipped {name}: there is no {program}");
        }
        found
    };
    let agent = std::env::current_exe().unwrap().parent().unwrap().with_file_name("fs-agent");
    let mut subjects = vec![
        Subject::new(root, "bare"),
        Subject::overlay(root, OVERLAY, &[], &agent, pinned),
        Subject::overlay(root, UNCAPTURED, &["*"], &agent, pinned),
    ];
    subjects.extend(agents.iter().map(|(name, agent)| Subject::overlay(root, name, &[], agent, pinned)));
    let others = own.chain(peers.iter().cloned()).filter(is_there);
    subjects.extend(others.map(|(name, command)| Subject::peer(root, &name, &command)));
    subjects
}

impl Subject {
    fn new(root: &Path, name: &str) -> Self {
        let directory = root.join(name.replace(|c: char| !c.is_alphanumeric(), "-"));
        fs::create_dir(&directory).unwrap();
        super::work::prepare(&directory);
        let source = directory.clone();
        Self { name: name.to_owned(), directory, source, processes: Vec::new(), ring: None }
    }

    fn overlay(root: &Path, name: &str, exclude: &[&str], agent: &Path, pinned: bool) -> Self {
        let mut subject = Self::new(root, name);
        let ring = format!("bywash-test-{}-{name}", std::process::id());
        let config = root.join(format!("{ring}.toml"));
        let directory = &subject.directory;
        let text = format!(
            "[ring]\nname = {ring:?}\nsize = \"64MiB\"\n\n[[directory]]\npath = {directory:?}\nexclude = {exclude:?}\n"
        );
        fs::write(&config, text).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert!(agent.exists(), "{} is missing: cargo build --release -p fs-agent", agent.display());
        subject.serve(Command::new(agent).arg("run").arg("--config").arg(config));
        let drain = guarded(Command::new(exe).args([super::DRAIN, &ring])).spawn().unwrap();
        if pinned {
            pin(drain.id(), DRAINING_CPU);
        }
        subject.processes.push(drain);
        subject.ring = Some(ring);
        subject
    }

    fn peer(root: &Path, name: &str, command: &str) -> Self {
        let mut subject = Self::new(root, name);
        subject.directory.set_extension("mount");
        fs::create_dir(&subject.directory).unwrap();
        let place = |word: &str| {
            let word = word.replace("{source}", subject.source.to_str().unwrap());
            word.replace("{mountpoint}", subject.directory.to_str().unwrap())
        };
        let words: Vec<String> = command.split_whitespace().map(place).collect();
        subject.serve(Command::new(&words[0]).args(&words[1..]));
        subject
    }

    /// Starts who serves the directory, and waits until it is mounted.
    fn serve(&mut self, command: &mut Command) {
        self.processes.push(guarded(command).spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
        let begin = Instant::now();
        while !self.is_mounted() {
            let ended = self.processes[0].try_wait().unwrap();
            assert!(ended.is_none(), "{command:?} has ended: {ended:?}");
            assert!(begin.elapsed() < START_TIME_MAX, "{command:?} mounts nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table
            .lines()
            .any(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == self.directory))
    }

    /// What who serves our overlay has for itself: shared memory, the ring, is not in it.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.ring.as_ref()?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.processes[0].id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.is_mounted() {
            drop(Command::new("umount").arg("-l").arg(&self.directory).status());
        }
        for process in self.processes.iter_mut().rev() {
            drop(process.kill());
            drop(process.wait());
        }
        if let Some(ring) = &self.ring {
            for end in ["1.ring", "1.ack"] {
                drop(fs::remove_file(format!("{SEGMENT_DIR}/{ring}.{end}")));
            }
        }
    }
}

fn pin(process: u32, cpu: usize) {
    let arguments = ["--pid", "--cpu-list", &cpu.to_string(), &process.to_string()];
    let done = Command::new("taskset").args(arguments).stdout(Stdio::null()).status();
    assert!(done.is_ok_and(|status| status.success()), "cannot keep process {process} on CPU {cpu}");
}

/// A process that does not outlive this one.
fn guarded(command: &Command) -> Command {
    let mut guarded = Command::new("setpriv");
    guarded.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
    guarded.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    guarded
}
