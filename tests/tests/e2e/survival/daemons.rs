//! Daemons that keep their files in a watched directory: databases and loggers of Debian, under load while the agent dies and is
//! restarted. None sees an error, what they have promised is there, and each of their writes is captured.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bywash_tests::harness::{
    Bywash, Capture, Process, Settings,
    process::must_run,
    tool,
    wait::{self, TIMEOUT},
};
use nix::{
    sys::signal::Signal,
    unistd::{Uid, User},
};
use serde_json::Value;

use super::{Books, KILL_INTERVAL, moment};
use crate::supervise::Supervised;

/// How often the agent ends, by turns restarted and killed.
const ENDS: u32 = 5;
/// The same at length.
const ENDS_AT_LENGTH: u32 = 20;

/// A watched directory whose agent dies and is restarted.
struct Stage {
    supervised: Supervised,
    capture: Capture,
    books: Books,
    ends: u32,
}

impl Stage {
    fn over(bywash: Bywash) -> Self {
        let supervised = Supervised::over(bywash, "");
        let capture = Capture::attach(&supervised.bywash.ring);
        Self { supervised, capture, books: Books::default(), ends: 0 }
    }

    fn directory(&self) -> &Path {
        self.supervised.bywash.directory()
    }

    fn root(&self) -> &Path {
        self.supervised.bywash.root()
    }

    /// Ends the agent once more, and waits for the next one.
    fn end_agent(&mut self) {
        let until = Instant::now() + KILL_INTERVAL + moment(self.ends);
        while Instant::now() < until {
            self.books.take(&mut self.capture);
        }
        let signal = if self.ends.is_multiple_of(2) { Signal::SIGKILL } else { Signal::SIGTERM };
        self.supervised.tell_agent(signal);
        self.ends += 1;
        // The first has the number 1.
        self.supervised.agent_in_a_row(u64::from(self.ends) + 1);
    }

    /// The file at `path` has just the bytes that were captured.
    #[track_caller]
    fn assert_captured(&mut self, path: &Path) {
        self.books.take(&mut self.capture);
        let content = fs::read(path).unwrap();
        let captured = self.books.contents.get(path).map_or(&[][..], Vec::as_slice);
        assert!(
            content == captured,
            "{}: {} bytes, {} captured",
            path.display(),
            content.len(),
            captured.len()
        );
    }
}

/// Two databases of SQLite, one of each journal mode, with a thread each that writes and one that reads, until the end of the input.
const SQLITE: &str = r#"
import json, sqlite3, sys, threading
over, said = threading.Event(), {}
def opened(mode):
    db = sqlite3.connect(f"{sys.argv[1]}/{mode}.db", timeout=60, isolation_level=None, check_same_thread=False)
    db.execute("pragma synchronous=full")
    return db
def rows(db):
    return db.execute("select count(*) from t").fetchone()[0]
def write(mode, db):
    done = 0
    while not over.is_set():
        db.execute("begin immediate")
        for i in range(3): db.execute("insert into t values (?, ?)", (3 * done + i, "x" * (done * 37 % 3000)))
        db.execute("commit")
        done += 1
    said[mode]["rows"] = 3 * done
def read(mode, db):
    before = 0
    while not over.wait(0.005):
        now = rows(db)
        assert now >= before and now % 3 == 0, (mode, before, now)
        before = now
def watched(work, mode, db):
    try: work(mode, db)
    except BaseException as error: said[mode]["errors"].append(repr(error))
threads = []
for mode in "wal", "delete":
    db = opened(mode)
    assert db.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
    db.execute("create table t (n integer primary key, text)")
    said[mode] = {"errors": [], "rows": -1}
    threads += [threading.Thread(target=watched, args=(work, mode, opened(mode))) for work in (write, read)]
for thread in threads: thread.start()
print("settled", flush=True)
sys.stdin.read()
over.set()
for thread in threads: thread.join()
for mode in said:
    db = opened(mode)
    said[mode]["found"] = rows(db)
    said[mode]["integrity"] = db.execute("pragma integrity_check").fetchone()[0]
    db.execute("pragma wal_checkpoint(truncate)")
print(json.dumps(said), flush=True)
"#;

fn keep_databases_of_sqlite(ends: u32) {
    if !Command::new("python3").args(["-c", "import sqlite3"]).status().is_ok_and(|status| status.success()) {
        return println!("skipped: this Python has no sqlite3");
    }
    let mut stage = Stage::over(Bywash::new("localhost:9", &Settings::default()));
    let mut databases = Command::new("python3")
        .args(["-c", SQLITE])
        .arg(stage.directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(databases.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "settled\n");
    for _ in 0..ends {
        stage.end_agent();
    }
    drop(databases.stdin.take());
    line.clear();
    output.read_line(&mut line).unwrap();
    assert!(databases.wait().unwrap().success(), "{line}");
    let said: Value = serde_json::from_str(&line).unwrap();
    println!("{ends} ends: {said}");
    for mode in ["wal", "delete"] {
        let said = &said[mode];
        assert_eq!(said["errors"], Value::Array(Vec::new()), "{mode}");
        assert_eq!(said["integrity"], "ok", "{mode}");
        assert!(said["rows"].as_u64().unwrap() > 0 && said["found"] == said["rows"], "{mode}: {said}");
        let path = stage.directory().join(format!("{mode}.db"));
        stage.assert_captured(&path);
    }
}

#[test]
fn databases_of_sqlite_stay_whole_while_the_agent_ends() {
    keep_databases_of_sqlite(ENDS);
}

#[test]
#[ignore = "make survival: half a minute"]
fn databases_of_sqlite_stay_whole_while_the_agent_ends_often() {
    keep_databases_of_sqlite(ENDS_AT_LENGTH);
}

/// A program of PostgreSQL's, the newest that is installed.
fn postgresql(name: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut versions: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path())).collect();
    versions.sort();
    versions.pop().map(|version| version.join("bin").join(name)).filter(|program| program.exists())
}

/// `program` of PostgreSQL's as its user.
fn as_postgres(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]);
    command.arg(postgresql(program).unwrap()).args(arguments);
    command
}

/// Starts the server, and waits until it answers at `socket`.
fn start_postgres(data: &str, socket: &str, log: &Path) -> Process {
    let server = postgresql("postgres").unwrap();
    let arguments =
        ["--reuid=postgres", "--regid=postgres", "--init-groups", "--", server.to_str().unwrap(), "-D", data];
    let started = Process::spawn("postgres", Path::new("setpriv"), arguments, log, Signal::SIGQUIT);
    wait::until("PostgreSQL to answer", TIMEOUT * 2, || {
        let asked = as_postgres("pg_isready", &["-h", socket]).stdout(Stdio::null()).status();
        if asked.is_ok_and(|status| status.success()) { Ok(()) } else { Err("it does not yet".to_owned()) }
    });
    started
}

#[track_caller]
fn stop_postgres(mut server: Process) {
    let status = server.terminate_by(Signal::SIGINT, TIMEOUT * 4);
    assert!(status.success(), "PostgreSQL ended with {status}");
}

#[test]
#[ignore = "make survival: a minute"]
fn a_database_of_postgresql_stays_whole_while_the_agent_ends() {
    let (Some(_), Ok(Some(user))) = (postgresql("pgbench"), User::from_name("postgres")) else {
        return println!("skipped: PostgreSQL is not installed");
    };
    if !Uid::effective().is_root() {
        return println!("skipped: only root can start PostgreSQL as its own user");
    }
    let bywash = Bywash::new("localhost:9", &Settings { ring_size: "256MiB", ..Settings::default() });
    fs::set_permissions(bywash.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let (data, socket) = (bywash.file("data"), bywash.root().join("socket"));
    for directory in [&data, &socket] {
        fs::create_dir(directory).unwrap();
        chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    let (data, socket) = (data.to_str().unwrap().to_owned(), socket.to_str().unwrap().to_owned());
    must_run(&mut as_postgres("initdb", &["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync", "-k"]));
    let settings = format!(
        "listen_addresses = ''\nunix_socket_directories = '{socket}'\nshared_buffers = 16MB\nlogging_collector = on\n\
         log_directory = 'log'\nlog_filename = 'server.log'\nlog_statement = 'all'\n"
    );
    let config = Path::new(&data).join("postgresql.conf");
    fs::OpenOptions::new().append(true).open(config).unwrap().write_all(settings.as_bytes()).unwrap();
    // Filled before anybody watches: that is a lot at once.
    let server = start_postgres(&data, &socket, bywash.root());
    must_run(&mut as_postgres("pgbench", &["-h", &socket, "-U", "postgres", "-i", "-q", "postgres"]));
    stop_postgres(server);
    let log = Path::new(&data).join("log/server.log");
    fs::remove_file(&log).unwrap();

    let mut stage = Stage::over(bywash);
    let server = start_postgres(&data, &socket, stage.root());
    let mut ran = 0;
    while stage.ends < ENDS_AT_LENGTH {
        let load = ["-h", &socket, "-U", "postgres", "-n", "-c", "4", "-T", "10", "postgres"];
        let mut load = as_postgres("pgbench", &load);
        let mut load = load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while load.try_wait().unwrap().is_none() {
            stage.end_agent();
        }
        let output = load.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("failed transactions: 0 "), "{said}\n{errors}");
        let number = said.split("actually processed: ").nth(1).unwrap();
        let number: String = number.chars().take_while(char::is_ascii_digit).collect();
        ran += number.parse::<u64>().unwrap();
    }
    let ask = |question: &str| {
        let asked = ["-h", &socket, "-U", "postgres", "-At", "-c", question, "postgres"];
        must_run(&mut as_postgres("psql", &asked)).trim().to_owned()
    };
    println!("{} ends, {ran} transactions", stage.ends);
    assert_eq!(ask("select count(*) from pgbench_history"), ran.to_string());
    let sums =
        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)";
    assert_eq!(ask(sums), "t");
    stop_postgres(server);
    must_run(&mut as_postgres("pg_checksums", &["--check", "-D", &data]));
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    let complaints: Vec<&str> = text
        .lines()
        .filter(|line| [" ERROR:", " FATAL:", " PANIC:", " WARNING:"].iter().any(|word| line.contains(word)))
        // Of who asks whether it answers before it does.
        .filter(|line| !line.contains("the database system is starting up"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    stage.assert_captured(&log);
}

/// Asks a server at `socket` for `/THREAD/0`, `/THREAD/1` and so on until it is over; gives how many it has asked for.
fn ask_for_pages(socket: &Path, thread: usize, over: &AtomicBool) -> u64 {
    let connection = UnixStream::connect(socket).unwrap();
    let (mut input, mut output) = (BufReader::new(connection.try_clone().unwrap()), connection);
    let mut asked = 0;
    while !over.load(Ordering::Relaxed) {
        write!(output, "GET /{thread}/{asked} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        asked += 1;
        let mut line = String::new();
        input.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            input.read_line(&mut line).unwrap();
        }
        let mut body = [0; 4];
        input.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"fine");
    }
    asked
}

fn nginx_configuration(root: &Path, directory: &Path) -> String {
    let (root, directory) = (root.display(), directory.display());
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths: String = kinds.iter().map(|kind| format!("  {kind}_temp_path {root}/{kind};\n")).collect();
    format!(
        "daemon off;\nworker_processes 2;\npid {root}/nginx.pid;\nerror_log {directory}/error.log notice;\nevents {{}}\n\
         http {{\n{paths}  keepalive_requests 1000000000;\n  access_log {directory}/access.log;\n\
         server {{ listen unix:{root}/nginx.socket; location / {{ return 200 fine; }} }}\n}}\n"
    )
}

#[test]
#[ignore = "make survival: half a minute"]
fn nginx_logs_each_request_once_while_the_agent_ends() {
    let nginx = Path::new("/usr/sbin/nginx");
    if !nginx.exists() {
        return println!("skipped: nginx is not installed");
    }
    let bywash = Bywash::new("localhost:9", &Settings::default());
    fs::set_permissions(bywash.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut stage = Stage::over(bywash);
    let (root, directory) = (stage.root().to_owned(), stage.directory().to_owned());
    let config = root.join("nginx.conf");
    fs::write(&config, nginx_configuration(&root, &directory)).unwrap();
    let error_log = directory.join("error.log");
    let arguments = ["-c", config.to_str().unwrap(), "-e", error_log.to_str().unwrap()];
    let mut server = Process::spawn("nginx", nginx, arguments, &root, Signal::SIGTERM);
    let socket = root.join("nginx.socket");
    wait::until("nginx to listen", TIMEOUT, || {
        UnixStream::connect(&socket).map(drop).map_err(|e| e.to_string())
    });
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|thread| {
            let (socket, over) = (socket.clone(), Arc::clone(&over));
            thread::spawn(move || ask_for_pages(&socket, thread, &over))
        })
        .collect();
    for end in 0..ENDS_AT_LENGTH {
        stage.end_agent();
        fs::rename(directory.join("access.log"), directory.join(format!("access.log.{end}"))).unwrap();
        server.signal(Signal::SIGUSR1);
        wait::until("nginx to begin another log", TIMEOUT, || {
            fs::metadata(directory.join("access.log")).map(drop).map_err(|error| error.to_string())
        });
    }
    over.store(true, Ordering::Relaxed);
    let asked: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    let status = server.terminate_by(Signal::SIGQUIT, TIMEOUT);
    assert!(status.success(), "nginx ended with {status}");
    stage.books.take(&mut stage.capture);
    let (mut logged, mut lines, mut bytes) = (HashSet::new(), 0, 0);
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("access.log") {
            let text = fs::read_to_string(path).unwrap();
            bytes += text.len();
            lines += text.lines().count() as u64;
            logged.extend(text.lines().filter_map(|line| line.split('"').nth(1).map(str::to_owned)));
        }
    }
    println!("{} ends, {asked} requests", stage.ends);
    assert_eq!((lines, logged.len() as u64), (asked, asked), "lines, and different ones");
    // A log that is renamed is written to under either name.
    let captured = stage.books.written_below("access.log");
    assert_eq!(captured, bytes, "bytes captured, and bytes in the logs");
    let said = fs::read_to_string(&error_log).unwrap();
    let is_error =
        |line: &&str| ["[error]", "[crit]", "[alert]", "[emerg]", "[warn]"].iter().any(|l| line.contains(l));
    assert_eq!(said.lines().find(is_error), None);
    stage.assert_captured(&error_log);
}

#[test]
#[ignore = "make survival: half a minute"]
fn rsyslog_logs_each_message_once_while_the_agent_ends() {
    let mut stage = Stage::over(Bywash::new("localhost:9", &Settings::default()));
    let (socket, messages) = (stage.root().join("log.socket"), stage.directory().join("messages"));
    let (config, pid) = (stage.root().join("rsyslog.conf"), stage.root().join("rsyslog.pid"));
    let text = format!(
        "module(load=\"imuxsock\" SysSock.Use=\"off\")\ninput(type=\"imuxsock\" Socket={socket:?} RateLimit.Interval=\"0\")\n\
         template(name=\"bare\" type=\"string\" string=\"%msg%\\n\")\naction(type=\"omfile\" file={messages:?} template=\"bare\")\n"
    );
    fs::write(&config, text).unwrap();
    let modules = tool("loggers/rsyslog-modules");
    let arguments =
        ["-n", "-f", config.to_str().unwrap(), "-i", pid.to_str().unwrap(), "-M", modules.to_str().unwrap()];
    let program = tool("loggers/usr/sbin/rsyslogd");
    let mut logger = Process::spawn("rsyslogd", &program, arguments, stage.root(), Signal::SIGKILL);
    let sender = UnixDatagram::unbound().unwrap();
    wait::until("rsyslog to listen", TIMEOUT, || sender.connect(&socket).map_err(|error| error.to_string()));
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let client = thread::spawn(move || {
        let mut expected = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let n = expected.len();
            let line = format!("message-{n}-{}", "x".repeat(n % 500));
            sender.send(format!("<13>daemon: {line}").as_bytes()).unwrap();
            expected.push(format!(" {line}"));
            thread::sleep(Duration::from_micros(300));
        }
        expected
    });
    for _ in 0..ENDS_AT_LENGTH {
        stage.end_agent();
    }
    over.store(true, Ordering::Relaxed);
    let expected = client.join().unwrap();
    wait::until("all messages", TIMEOUT, || {
        let count = fs::read_to_string(&messages).unwrap_or_default().lines().count();
        if count >= expected.len() { Ok(()) } else { Err(format!("{count} of {}", expected.len())) }
    });
    println!("{} ends, {} messages", stage.ends, expected.len());
    assert!(logger.terminate(TIMEOUT).success());
    let logged = fs::read_to_string(&messages).unwrap();
    assert!(logged.lines().eq(expected.iter().map(String::as_str)), "other messages, or in another order");
    stage.assert_captured(&messages);
}
