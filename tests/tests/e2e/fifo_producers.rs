//! Programs that write to FIFOs, with the sample configurations of `conf/`: rsyslog and syslog-ng of Debian's packages.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use bywash_tests::harness::{
    Bywash, Capture, Process, Settings, tool,
    wait::{self, TIMEOUT},
};
use nix::sys::signal::Signal;

const MESSAGES: usize = 200;
/// Where the sample configurations have the FIFO.
const SAMPLE_FIFO: &str = "/run/bywash-syslog.pipe";

/// Logs by a logger that listens at `socket`, and checks that each message comes as a line.
#[track_caller]
fn log_and_check(socket: &Path, capture: &mut Capture, logger: &mut Process) {
    wait::until("the logger to listen", TIMEOUT, || {
        assert!(logger.ended().is_none(), "the logger has ended: {}", logger.log());
        if socket.exists() { Ok(()) } else { Err(logger.log()) }
    });
    let client = UnixDatagram::unbound().unwrap();
    for i in 0..MESSAGES {
        client.send_to(format!("<13>app[7]: message {i} of the test").as_bytes(), socket).unwrap();
    }
    let mut captured = Vec::new();
    wait::until("a line for each message", TIMEOUT, || {
        captured.extend(capture.take());
        if captured.len() >= MESSAGES { Ok(()) } else { Err(format!("{}: {}", captured.len(), logger.log())) }
    });
    for (i, line) in captured.iter().enumerate() {
        let text = String::from_utf8_lossy(&line.data);
        assert!(text.ends_with(&format!(" app[7]: message {i} of the test")), "{text}");
        assert!(text.starts_with("20"), "it begins with the time: {text}");
    }
    assert_eq!(logger.terminate(TIMEOUT).code(), Some(0), "{}", logger.log());
}

/// The sample configuration `name`, for a FIFO of the test's own, behind what it is to stand beside.
fn configuration(bywash: &Bywash, name: &str, beside: &str, fifo: &Path) -> PathBuf {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name);
    let sample = fs::read_to_string(sample).unwrap();
    assert!(sample.contains(SAMPLE_FIFO));
    let path = bywash.root().join("logger.conf");
    fs::write(&path, format!("{beside}\n{}", sample.replace(SAMPLE_FIFO, fifo.to_str().unwrap()))).unwrap();
    path
}

fn reading() -> (Bywash, PathBuf, Capture) {
    let mut bywash = Bywash::new("localhost:9", &Settings { directories: &[], ..Settings::default() });
    let fifo = bywash.add_fifo("syslog.pipe", "create = true");
    bywash.start_agent();
    let capture = Capture::attach(&bywash.ring);
    (bywash, fifo, capture)
}

#[test]
fn rsyslog_writes_its_messages_to_a_fifo() {
    let (bywash, fifo, mut capture) = reading();
    let socket = bywash.root().join("log");
    let beside = format!(
        "module(load=\"imuxsock\" SysSock.Use=\"off\")\ninput(type=\"imuxsock\" Socket={socket:?} \
         RateLimit.Interval=\"0\")"
    );
    let config = configuration(&bywash, "rsyslog/bywash.conf", &beside, &fifo);
    let (modules, pid) = (tool("loggers/rsyslog-modules"), bywash.root().join("pid"));
    let arguments = [
        "-n".as_ref(),
        "-f".as_ref(),
        config.as_os_str(),
        "-i".as_ref(),
        pid.as_os_str(),
        "-M".as_ref(),
        modules.as_os_str(),
    ];
    let program = tool("loggers/usr/sbin/rsyslogd");
    let mut logger = Process::spawn("rsyslogd", &program, arguments, bywash.root(), Signal::SIGKILL);
    log_and_check(&socket, &mut capture, &mut logger);
}

#[test]
fn syslog_ng_writes_its_messages_to_a_fifo() {
    let (bywash, fifo, mut capture) = reading();
    let socket = bywash.root().join("log");
    let beside = format!("@version: 3.38\nsource s_src {{ unix-dgram({socket:?}); }};");
    let config = configuration(&bywash, "syslog-ng/bywash.conf", &beside, &fifo);
    let at = |name: &str| bywash.root().join(name).display().to_string();
    let arguments = [
        format!("LD_LIBRARY_PATH={}", tool("loggers/usr/lib/syslog-ng").display()),
        tool("loggers/usr/sbin/syslog-ng").display().to_string(),
        "--foreground".to_owned(),
        format!("--cfgfile={}", config.display()),
        format!("--module-path={}", tool("loggers/syslog-ng-modules").display()),
        format!("--persist-file={}", at("persist")),
        format!("--control={}", at("control")),
        format!("--pidfile={}", at("pid")),
    ];
    let mut logger = Process::spawn("syslog-ng", Path::new("env"), arguments, bywash.root(), Signal::SIGKILL);
    log_and_check(&socket, &mut capture, &mut logger);
}
