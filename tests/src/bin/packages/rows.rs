//! The rows of the table, in the order in which they happen to one machine.

use std::time::{Duration, Instant};

use bywash_tests::harness::wait::{self, TIMEOUT};

use crate::{
    arrivals::Written,
    installed::{Installed, WATCHED},
};

/// Does what a row is about, and gives what is worth saying of it.
///
/// # Panics
/// If something does not hold.
pub type Row = fn(&mut Installed) -> String;

/// How often the agent is restarted, and how often it is killed.
const AGENT_RESTARTS: u32 = 100;
const AGENT_KILLS: u32 = 20;
/// How often the publisher is restarted, and how often it is killed.
const PUBLISHER_RESTARTS: u32 = 5;
const PUBLISHER_KILLS: u32 = 10;
/// From the package to the first event.
const FIRST_EVENT_TIME_MAX: Duration = Duration::from_secs(60);
/// Lines that are written while nothing can be delivered.
const WAITING_LINES: u64 = 2_000;
/// Both units: what the package must neither start nor enable.
const SERVICES: [&str; 2] = ["fs-agent.service", "publisher.service"];

/// What all others need.
pub const NEEDED: [&str; 2] = ["install", "first event"];

/// In this order.
pub const ROWS: &[(&str, Row)] = &[
    ("install", install),
    ("the documents' first event", first_of_the_documents),
    ("first event", first_event),
    ("restart of the agent", restart_agent),
    ("restart of the publisher", restart_publisher),
    ("restart of both in one command", restart_both),
    ("kill of the agent", kill_agent),
    ("kill of the publisher", kill_publisher),
    ("reload, a good file", reload),
    ("reload, a bad file", reload_bad),
    ("watchdog", watchdog),
    ("full spool disk", full_spool),
    ("upgrade under load", upgrade),
    ("downgrade under load", downgrade),
    ("reboot while the broker is away", reboot),
    ("remove", remove),
    ("purge with undelivered events", purge_with_events),
    ("install again", install_again),
    ("purge", purge),
];

fn install(it: &mut Installed) -> String {
    let machine = &it.machine;
    machine.must("apt-get install -q -y --no-install-recommends /root/bywash.deb");
    for service in SERVICES {
        assert_eq!(machine.property(service, "ActiveState"), "inactive", "{service}");
        assert_eq!(machine.property(service, "UnitFileState"), "disabled", "{service}");
    }
    assert_eq!(machine.must("stat -c '%U:%G %a' /etc/bywash/bywash.toml"), "root:bywash 640");
    assert_eq!(machine.must("stat -c '%U:%G %a' /var/lib/bywash"), "bywash:bywash 750");
    // Neither can run as it is, and says what is missing.
    let check = machine.run("fs-agent check");
    assert!(check.code == Some(78) && check.stderr.contains("no directory"), "{check:?}");
    machine.must("runuser -u bywash publisher check");
    machine.must("test -z \"$(find /usr/bin/fs-agent /usr/bin/publisher -size +64M)\"");
    "not enabled, not started; configuration root:bywash 640".to_owned()
}

/// The command of `docs/install.md` as it is there, but for `sudo`: the machine has none, and everything is done as root.
fn first_of_the_documents(it: &mut Installed) -> String {
    let document = include_str!("../../../../docs/install.md");
    let section = document.split_once("## A first event\n").expect("a section").1;
    let command = section.split("```").nth(1).expect("a command").trim().strip_prefix("sudo ").expect("sudo");
    let begin = Instant::now();
    let shown = it.machine.run(command);
    let took = begin.elapsed();
    let event = shown.stdout.lines().find(|line| line.contains("\"path\":\"/tmp/bywash-test/bar\""));
    let event = event.unwrap_or_else(|| panic!("no event: {shown:?}"));
    assert!(event.contains("\"@message\":\"foo\\n\""), "{event}");
    assert!(took < FIRST_EVENT_TIME_MAX, "{took:?}");
    it.machine.must("! mountpoint -q /tmp/bywash-test && test ! -e /dev/shm/first.1.ring");
    format!("{} ms, the next command after the installation", took.as_millis())
}

fn first_event(it: &mut Installed) -> String {
    let begin = Instant::now();
    it.configure(&it.configuration(""));
    it.machine.must("systemctl enable -q --now fs-agent publisher");
    it.assert_runs();
    let (directory, written) = it.write("first", 1);
    it.arrivals.expect(&directory, written);
    let took = begin.elapsed();
    assert!(took < FIRST_EVENT_TIME_MAX, "{took:?}");
    format!("{} ms after the configuration was written", took.as_millis())
}

fn restart_agent(it: &mut Installed) -> String {
    let seen = it.live_through("restarts", |it| {
        for _ in 0..AGENT_RESTARTS {
            it.machine.must("systemctl restart fs-agent");
        }
    });
    it.assert_runs();
    format!("{AGENT_RESTARTS} times: {seen}")
}

fn restart_publisher(it: &mut Installed) -> String {
    let seen = it.live_through("publisher-restarts", |it| {
        for _ in 0..PUBLISHER_RESTARTS {
            it.machine.must("systemctl restart publisher");
        }
    });
    format!("{PUBLISHER_RESTARTS} times: {seen}")
}

/// The agent must not be away for as long as the publisher takes to stop.
fn restart_both(it: &mut Installed) -> String {
    let seen = it.live_through("both", |it| {
        it.broker.stop();
        it.machine.must("systemctl restart fs-agent publisher");
        it.broker.resume();
    });
    it.assert_runs();
    format!("the broker stood still: {seen}")
}

fn kill_agent(it: &mut Installed) -> String {
    let seen = it.live_through("kills", |it| {
        for _ in 0..AGENT_KILLS {
            it.machine.signal_and_replace("fs-agent", "KILL");
        }
    });
    format!("{AGENT_KILLS} times: {seen}")
}

fn kill_publisher(it: &mut Installed) -> String {
    let seen = it.live_through("publisher-kills", |it| {
        for _ in 0..PUBLISHER_KILLS {
            it.machine.signal_and_replace("publisher", "KILL");
        }
    });
    // The unit's limit of starts is not for tests.
    it.machine.must("systemctl reset-failed publisher");
    format!("{PUBLISHER_KILLS} times: {seen}")
}

fn reload(it: &mut Installed) -> String {
    it.configure(&it.configuration("[[directory]]\npath = \"/srv/second\"\ncreate = true\n"));
    it.machine.must("systemctl reload fs-agent publisher");
    wait::until("the second directory to be watched", TIMEOUT, || {
        let mounted = it.machine.run("mountpoint -q /srv/second");
        if mounted.code == Some(0) { Ok(()) } else { Err("it is not".to_owned()) }
    });
    it.machine.must("echo second >/srv/second/log");
    it.arrivals.expect("/srv/second", Written { writes: 1, bytes: 7 });
    "another directory is watched, its first write arrived".to_owned()
}

fn reload_bad(it: &mut Installed) -> String {
    let before = SERVICES.map(|service| it.machine.main_pid(service));
    it.configure(&it.configuration("[agent]\nno_such_key = 1\n"));
    for service in SERVICES {
        let refused = it.machine.run(&format!("systemctl reload {service}"));
        assert_ne!(refused.code, Some(0), "{service} took it");
    }
    let said = it.machine.journal("fs-agent");
    assert!(said.contains("no_such_key"), "{said}");
    it.assert_runs();
    assert_eq!(SERVICES.map(|service| it.machine.main_pid(service)), before, "the same processes");
    let (directory, written) = it.write("after-bad", 10);
    it.arrivals.expect(&directory, written);
    it.configure(&it.configuration(""));
    it.machine.must("systemctl reload fs-agent publisher");
    "refused, both go on, the journal names the key".to_owned()
}

/// With a shorter time than the unit's, by a drop-in.
fn watchdog(it: &mut Installed) -> String {
    let drop_in = "/run/systemd/system/fs-agent.service.d";
    it.machine.must(&format!(
        "mkdir -p {drop_in} && printf '[Service]\\nWatchdogSec=3s\\n' >{drop_in}/watchdog.conf && \
         systemctl daemon-reload && systemctl restart fs-agent"
    ));
    let seen = it.live_through("watchdog", |it| {
        it.machine.signal_and_replace("fs-agent", "STOP");
    });
    it.machine.must(&format!("rm -r {drop_in} && systemctl daemon-reload && systemctl restart fs-agent"));
    format!("SIGSTOP, replaced: {seen}")
}

/// The ring is 1 MiB, and so is the disk of the spool.
fn full_spool(it: &mut Installed) -> String {
    let machine = &it.machine;
    machine.must(
        "systemctl stop publisher && mkdir -p /srv/spool && mount -t tmpfs -o size=1m,mode=0750 spool /srv/spool && \
         chown bywash:bywash /srv/spool",
    );
    // The unit's sandbox leaves nothing else to be written to.
    let drop_in = "/run/systemd/system/publisher.service.d";
    machine.must(&format!(
        "mkdir -p {drop_in} && printf '[Service]\\nReadWritePaths=/srv/spool\\n' >{drop_in}/spool.conf && \
         systemctl daemon-reload"
    ));
    let text = it.configuration("[spool]\ndir = \"/srv/spool\"\nsegment_size = \"64KiB\"\n");
    it.configure(&text.replace("128MiB", "1MiB"));
    machine.must("systemctl restart fs-agent && systemctl start publisher");
    it.broker.stop();
    let file = format!("{WATCHED}/full/log");
    let (writes, size) = (1_500, 4_096);
    machine.must(&format!(
        "mkdir -p {WATCHED}/full && dd if=/dev/zero of={file} bs={size} count={writes} status=none"
    ));
    assert_eq!(machine.must(&format!("stat -c %s {file}")), (writes * size).to_string(), "in the file");
    it.broker.resume();
    let lost = it.arrivals.expect(&format!("{WATCHED}/full"), Written { writes, bytes: writes * size });
    assert!(lost.writes > 0, "nothing was lost: the disk was not full");
    it.machine.must(&format!(
        "systemctl stop publisher && rm -r {drop_in} && systemctl daemon-reload && umount /srv/spool"
    ));
    it.configure(&it.configuration(""));
    it.machine.must("systemctl restart fs-agent && systemctl start publisher");
    it.assert_runs();
    format!("{writes} writes: {} arrived, {} announced as lost", writes - lost.writes, lost.writes)
}

/// Replaces the package while everything runs.
#[track_caller]
fn replace(it: &mut Installed, name: &str, package: &str, revision: &str) -> String {
    // What an administrator has changed stays, without a question.
    let configuration = it.machine.must("cat /etc/bywash/bywash.toml");
    let seen = it.live_through(name, |it| {
        let before = SERVICES.map(|service| it.machine.main_pid(service));
        it.machine.must(&format!("apt-get install -q -y --allow-downgrades {package}"));
        let after = SERVICES.map(|service| it.machine.main_pid(service));
        assert!(before[0] != after[0] && before[1] != after[1], "{before:?} and {after:?}: restarted");
    });
    it.assert_runs();
    assert_eq!(it.machine.must("cat /etc/bywash/bywash.toml"), configuration);
    assert_eq!(it.machine.must("stat -c '%U:%G %a' /etc/bywash/bywash.toml"), "root:bywash 640");
    let version = it.machine.must("dpkg-query -W -f '${Version}' bywash");
    assert!(version.ends_with(revision), "{version}");
    format!("{version}: {seen}")
}

fn upgrade(it: &mut Installed) -> String {
    replace(it, "upgrade", "/root/next.deb", "-2")
}

fn downgrade(it: &mut Installed) -> String {
    replace(it, "downgrade", "/root/bywash.deb", "-1")
}

/// What is in the ring goes to the spool, and arrives once the machine is back.
fn reboot(it: &mut Installed) -> String {
    it.broker.stop();
    let (directory, written) = it.write("reboot", WAITING_LINES);
    let begin = Instant::now();
    it.machine.reboot();
    let took = begin.elapsed();
    it.assert_runs();
    it.broker.resume();
    it.arrivals.expect(&directory, written);
    format!("{} s; all {WAITING_LINES} writes from before arrived", took.as_secs())
}

fn remove(it: &mut Installed) -> String {
    let (directory, written) = it.write("remove", WAITING_LINES);
    it.machine.must("apt-get remove -q -y bywash");
    it.arrivals.expect(&directory, written);
    let machine = &it.machine;
    assert_ne!(machine.run(&format!("mountpoint -q {WATCHED}")).code, Some(0), "an overlay is left");
    assert_eq!(machine.must(&format!("wc -l <{directory}/log")), WAITING_LINES.to_string());
    machine.must(&format!("echo plain >{directory}/plain && test -e /etc/bywash/bywash.toml"));
    for service in SERVICES {
        assert_eq!(machine.property(service, "LoadState"), "not-found", "{service}");
    }
    assert_eq!(machine.run("pgrep -x 'fs-agent|publisher'").stdout, "");
    format!("no overlay, no process; all {WAITING_LINES} writes from before arrived")
}

fn purge_with_events(it: &mut Installed) -> String {
    it.machine.must("apt-get install -q -y /root/bywash.deb && systemctl start fs-agent publisher");
    it.assert_runs();
    it.broker.stop();
    it.write("kept", WAITING_LINES);
    let said = it.machine.run("apt-get purge -q -y bywash");
    it.broker.resume();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.stderr.contains("/var/lib/bywash is kept") || said.stdout.contains("/var/lib/bywash is kept"),
        "{said:?}"
    );
    it.machine.must("test ! -e /etc/bywash && ls /var/lib/bywash/spool/*.spool && id bywash");
    "the spool is kept, and that is said".to_owned()
}

/// What the spool held arrives.
fn install_again(it: &mut Installed) -> String {
    it.machine.must("apt-get install -q -y /root/bywash.deb");
    it.configure(&it.configuration(""));
    it.machine.must("systemctl start fs-agent publisher");
    it.assert_runs();
    let directory = format!("{WATCHED}/kept");
    let bytes = it.machine.must(&format!("stat -c %s {directory}/log")).parse().unwrap();
    it.arrivals.expect(&directory, Written { writes: WAITING_LINES, bytes });
    format!("all {WAITING_LINES} writes from before arrived")
}

fn purge(it: &mut Installed) -> String {
    let machine = &it.machine;
    machine.must("apt-get purge -q -y bywash");
    let left = machine.must("find / -xdev -iname '*bywash*' -not -path '/root/*' -not -path '/tmp/*'; ls /dev/shm; getent passwd bywash || true");
    assert_eq!(left, "", "left behind");
    let links = machine.must("find /etc/systemd -name '*fs-agent*' -o -name '*publisher*'");
    assert_eq!(links, "", "left behind");
    "no file, link, user, group or ring is left".to_owned()
}
