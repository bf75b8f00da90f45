//! Who is to capture what the script writes: ours, and what people use instead, as its own documents say it captures most.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bywash_benches::{
    cpu_time,
    report::score::{Event, marks},
};
use bywash_tests::harness::{
    Bywash, Process, Settings, temporary_directory,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::script;
use crate::{loggers, run::own_memory};

/// Whoever has said nothing new for so long has said all.
const QUIET_TIME: Duration = Duration::from_secs(2);
const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
const PROBE: &str = "probe";

/// Ours prints its events instead of sending them, as the others write theirs to a file.
const SETTINGS: Settings =
    Settings { publisher: "sink = \"stdout\"", directory: "exclude = [\"*.log.*\"]\n", ..Settings::DEFAULT };

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Nobody,
    Bywash,
    Rsyslog,
    SyslogNg,
    Tail,
    Bpftrace,
}

pub const SUBJECTS: [Subject; 6] =
    [Subject::Nobody, Subject::Bywash, Subject::Rsyslog, Subject::SyslogNg, Subject::Tail, Subject::Bpftrace];

/// One of them at work.
pub struct Watching {
    /// Where the script is to write.
    pub directory: PathBuf,
    subject: Subject,
    processes: Vec<Process>,
    bywash: Option<Bywash>,
    output: PathBuf,
    /// Removed with it.
    root: Box<dyn AsRef<Path>>,
}

/// What the publisher prints for an event.
#[derive(Deserialize)]
struct Printed {
    pid: Option<u32>,
    #[serde(rename = "@message")]
    message: Option<String>,
}

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Bywash => "bywash",
            Self::Rsyslog => "rsyslog imfile",
            Self::SyslogNg => "syslog-ng wildcard-file",
            Self::Tail => "tail -F (inotify)",
            Self::Bpftrace => "bpftrace",
        }
    }

    /// How it is set up, and by which document.
    pub fn settings(self) -> &'static str {
        match self {
            Self::Nobody => "",
            Self::Bywash => "defaults, `sink = \"stdout\"`, rotated files excluded.",
            Self::Rsyslog => {
                "`mode=\"inotify\"`, `reopenOnTruncate=\"on\"`, `addMetadata=\"on\"`: \
                 https://www.rsyslog.com/doc/configuration/modules/imfile.html"
            }
            Self::SyslogNg => {
                "`monitor-method(\"inotify\")`, `follow-freq(0.1)` instead of 1 s, `max-files()` and `log-iw-size()` beyond the number of \
                 files, flow control: https://syslog-ng.github.io/admin-guide/060_Sources/030_Wildcard-file/README.html"
            }
            Self::Tail => {
                "coreutils' `tail -n +1 -F` of every name that the script is going to use, which no tailer in practice knows: \
                 https://www.gnu.org/software/coreutils/manual/html_node/tail-invocation.html"
            }
            Self::Bpftrace => {
                "system call tracepoints of write, pwrite64, writev and pwritev by the script's programs, with the longest strings \
                 (`BPFTRACE_STRLEN=200`, so it has the first 200 bytes alone) and a buffer of 4 MiB a processor \
                 (`BPFTRACE_PERF_RB_PAGES=1024`): https://manpages.ubuntu.com/manpages/lunar/en/man8/bpftrace.8.html"
            }
        }
    }

    /// Why it cannot be measured here, if so.
    pub fn missing(self) -> Option<String> {
        let is_there = |program: &str| {
            let found = Command::new("which").arg(program).stdout(Stdio::null()).status();
            found.is_ok_and(|status| status.success())
        };
        match self {
            Self::Bpftrace if !is_there("bpftrace") => {
                Some("there is no bpftrace: apt-get install bpftrace".to_owned())
            }
            Self::Bpftrace => no_tracepoints(),
            _ => None,
        }
    }

    /// Starts it, and waits until it captures.
    pub fn start(self) -> Watching {
        let root = temporary_directory();
        let directory = root.path().join("logs");
        fs::create_dir(&directory).unwrap();
        let mut watching = Watching {
            directory,
            subject: self,
            processes: Vec::new(),
            bywash: None,
            output: root.path().join("captured"),
            root: Box::new(root),
        };
        match self {
            Self::Nobody => return watching,
            Self::Bywash => watching.start_bywash(),
            Self::Rsyslog => watching.start_rsyslog(),
            Self::SyslogNg => watching.start_syslog_ng(),
            Self::Tail => watching.start_tail(),
            Self::Bpftrace => watching.start_bpftrace(),
        }
        watching.probe();
        watching
    }
}

/// Why the kernel offers no tracepoints of system calls, if so: one is used.
fn no_tracepoints() -> Option<String> {
    let script = "tracepoint:syscalls:sys_enter_write { exit(); } interval:s:1 { exit(); }";
    let output = traced(&["-e", script]).output().ok()?;
    (!output.status.success()).then(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("the kernel gives it no tracepoints of system calls: {}", said.lines().last().unwrap_or(""))
    })
}

/// bpftrace with tracefs where it looks for it, which this machine may not have mounted; nobody else sees that mount.
fn traced(arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let script = "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; exec bpftrace \"$@\"";
    command.args(["--mount", "sh", "-c", script, "bpftrace"]).args(arguments);
    command.env("BPFTRACE_STRLEN", "200").env("BPFTRACE_PERF_RB_PAGES", "1024");
    command
}

impl Watching {
    fn root(&self) -> &Path {
        (*self.root).as_ref()
    }

    fn spawn(&mut self, name: &str, program: &Path, arguments: &[String]) {
        let process = Process::spawn(name, program, arguments, self.root(), Signal::SIGKILL);
        self.processes.push(process);
    }

    fn start_bywash(&mut self) {
        let mut bywash = Bywash::new("localhost:9", &SETTINGS);
        bywash.start_agent();
        bywash.start_publisher();
        self.directory = bywash.directory().to_owned();
        self.output = bywash.root().join("publisher.out");
        self.bywash = Some(bywash);
    }

    fn start_rsyslog(&mut self) {
        let (root, output, directory) =
            (self.root().to_owned(), self.output.display(), self.directory.display());
        let text = format!(
            "global(workDirectory=\"{}\" maxMessageSize=\"64k\")\n\
             module(load=\"imfile\" mode=\"inotify\")\n\
             template(name=\"line\" type=\"string\" string=\"%msg%\\n\")\n\
             ruleset(name=\"out\") {{ action(type=\"omfile\" file=\"{output}\" template=\"line\") }}\n\
             input(type=\"imfile\" file=\"{directory}/*.log\" tag=\"t\" addMetadata=\"on\" reopenOnTruncate=\"on\" ruleset=\"out\")\n",
            root.display()
        );
        self.processes.push(loggers::rsyslog(&root, &text));
    }

    fn start_syslog_ng(&mut self) {
        let (root, output, directory) = (self.root().to_owned(), self.output.clone(), self.directory.clone());
        let text = format!(
            r#"@version: 3.38
options {{ stats-freq(0); use-dns(no); }};
source s {{ wildcard-file(base-dir({directory:?}) filename-pattern("*.log") recursive(no) monitor-method("inotify") follow-freq(0.1)
    max-files(2000) log-iw-size(200000) log-fetch-limit(1000) log-msg-size(65536) flags(no-parse)); }};
destination d {{ file({output:?} template("$MESSAGE\n")); }};
log {{ source(s); destination(d); flags(flow-control); }};
"#
        );
        self.processes.push(loggers::syslog_ng(&root, &text));
    }

    fn start_tail(&mut self) {
        let names = script::names().chain([format!("{PROBE}.log")]);
        let paths = names.map(|name| self.directory.join(name).display().to_string());
        let arguments: Vec<String> = ["-n", "+1", "-F"].map(str::to_owned).into_iter().chain(paths).collect();
        self.spawn("tail", Path::new("tail"), &arguments);
        self.output = self.root().join("tail.out");
    }

    fn start_bpftrace(&mut self) {
        let named = "/comm == \"python3\" || comm == \"sh\"/";
        let of = |call: &str, bytes: &str| {
            format!(
                "tracepoint:syscalls:sys_enter_{call} {named} {{ printf(\"%d %r\\n\", pid, {bytes}); }}\n"
            )
        };
        let vector = "buf(((struct iovec *)args->vec)->iov_base, ((struct iovec *)args->vec)->iov_len)";
        let plain = "buf(args->buf, args->count)";
        let text =
            of("write", plain) + &of("pwrite64", plain) + &of("writev", vector) + &of("pwritev", vector);
        let script = self.root().join("writes.bt");
        fs::write(&script, text).unwrap();
        let command = traced(&[script.to_str().unwrap()]);
        let mut arguments: Vec<String> =
            ["BPFTRACE_STRLEN=200", "BPFTRACE_PERF_RB_PAGES=1024", "unshare"].map(str::to_owned).to_vec();
        arguments.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
        self.spawn("bpftrace", Path::new("env"), &arguments);
        self.output = self.root().join("bpftrace.out");
    }

    /// Writes lines until one of them has been captured.
    fn probe(&mut self) {
        let file = self.directory.join(format!("{PROBE}.log"));
        let mut number = 0;
        let begin = Instant::now();
        loop {
            let line = format!("@@{PROBE}-{number}@@ is anybody there?");
            let script = "echo \"$1\" >>\"$2\"";
            let done = Command::new("sh").args(["-c", script, "sh", &line]).arg(&file).status();
            assert!(done.is_ok_and(|status| status.success()), "the probe cannot be written");
            number += 1;
            std::thread::sleep(PROBE_INTERVAL);
            if self.captured().iter().any(|event| event.group == PROBE) {
                return;
            }
            let log = || self.processes.iter().map(Process::log).collect::<String>();
            assert!(begin.elapsed() < TIMEOUT, "{} captures nothing: {}", self.subject.name(), log());
        }
    }

    /// What it has said so far, in order.
    pub fn captured(&self) -> Vec<Event> {
        let bytes = fs::read(&self.output).unwrap_or_default();
        if self.subject == Subject::Nobody {
            return Vec::new();
        }
        let of_line = |line: &[u8]| match self.subject {
            Subject::Bywash => of_printed(line),
            Subject::Bpftrace => {
                let pid = line.split(|b| *b == b' ').next().unwrap_or_default();
                marks(line, String::from_utf8_lossy(pid).parse().ok())
            }
            _ => marks(line, None),
        };
        bytes.split(|b| *b == b'\n').flat_map(of_line).collect()
    }

    /// Waits until it has nothing more to say.
    pub fn settle(&self) {
        if self.subject == Subject::Nobody {
            return;
        }
        let len = || fs::metadata(&self.output).map_or(0, |file| file.len());
        let begin = Instant::now();
        let (mut last, mut since) = (len(), Instant::now());
        while since.elapsed() < QUIET_TIME && begin.elapsed() < SETTLE_TIME_MAX {
            std::thread::sleep(PROBE_INTERVAL);
            if len() != last {
                (last, since) = (len(), Instant::now());
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Process> {
        let ours = self.bywash.iter().flat_map(|bywash| [&bywash.agent, &bywash.publisher]).flatten();
        self.processes.iter().chain(ours)
    }

    /// Processor time that it has taken so far.
    pub fn cpu(&self) -> Duration {
        self.all().map(|process| cpu_time(process.pid().as_raw())).sum()
    }

    /// Memory that it has for itself, in bytes.
    pub fn memory(&self) -> u64 {
        self.all().map(own_memory).sum()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        for process in &mut self.processes {
            if process.ended().is_none() {
                process.signal(Signal::SIGTERM);
                wait::quietly(Duration::from_secs(3), || process.ended().is_some());
            }
        }
    }
}

fn of_printed(line: &[u8]) -> Vec<Event> {
    let Ok(Printed { pid, message: Some(message) }) = serde_json::from_slice(line) else { return Vec::new() };
    base64_simd::STANDARD.decode_to_vec(message).map_or_else(|_| Vec::new(), |bytes| marks(&bytes, pid))
}
