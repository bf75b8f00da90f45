//! syslog-ng doing the same: `pipe()` to `kafka-c()`.

use std::{fs, path::Path};

use bywash_tests::harness::{
    Broker, Process, temporary_directory, tool,
    wait::{self, TIMEOUT},
};
use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use rdkafka::consumer::BaseConsumer;

use crate::{Taken, count, measure, write_lines};

/// One line at first, for a topic that exists and a connection that stands before the clock runs, as ours stands.
const WARM_UP: usize = 1;

/// A line is not parsed, and becomes JSON with the keys that ours has. Its queue is as long as it needs to be, and its
/// writers wait while that is full.
fn configuration(fifo: &Path, broker: &str, topic: &str) -> String {
    format!(
        r#"@version: 3.38
options {{ stats-freq(0); keep-hostname(yes); use-dns(no); }};
source s {{ pipe({fifo:?} flags(no-parse) log-iw-size(100000) log-fetch-limit(1000)); }};
destination d {{
    kafka-c(
        topic({topic:?}) bootstrap-servers({broker:?}) log-fifo-size(200000) key({fifo:?})
        config(queue.buffering.max.ms("5"))
        message("$(format-json path={} @message=$MESSAGE @timestamp=$ISODATE @version=0.1.0 hostname=test @tags=test offset=$SEQNUM event_id=$SEQNUM sequence=$SEQNUM)")
    );
}};
log {{ source(s); destination(d); flags(flow-control); }};
"#,
        fifo.display()
    )
}

pub fn to_kafka(broker: &Broker, topic: &str, lines: usize, client: &BaseConsumer) -> Taken {
    let root = temporary_directory();
    let at = |name: &str| root.path().join(name);
    let fifo = at("lines.pipe");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    fs::write(at("conf"), configuration(&fifo, &broker.address(), topic)).unwrap();
    let arguments = [
        format!("LD_LIBRARY_PATH={}", tool("loggers/usr/lib/syslog-ng").display()),
        tool("loggers/usr/sbin/syslog-ng").display().to_string(),
        "--foreground".to_owned(),
        format!("--cfgfile={}", at("conf").display()),
        format!("--module-path={}", tool("loggers/syslog-ng-modules").display()),
        format!("--persist-file={}", at("persist").display()),
        format!("--control={}", at("control").display()),
        format!("--pidfile={}", at("pid").display()),
    ];
    let mut process = Process::spawn("syslog-ng", Path::new("env"), arguments, root.path(), Signal::SIGKILL);
    write_lines(&fifo, WARM_UP);
    wait::until("syslog-ng's first line in Kafka", TIMEOUT, || {
        assert!(process.ended().is_none(), "syslog-ng has ended: {}", process.log());
        if count(client, topic) == WARM_UP { Ok(()) } else { Err(process.log()) }
    });
    let taken = measure(&[&process], &fifo, lines, || count(client, topic) - WARM_UP);
    process.terminate(TIMEOUT);
    taken
}
