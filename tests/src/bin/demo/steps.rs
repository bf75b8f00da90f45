//! What the demo does, step by step.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bywash_tests::harness::{
    Bywash, Event, Load, LoadReport, ledger, mounts,
    wait::{self, TIMEOUT},
};

use super::{
    destination::{Destination, Sink},
    story::{command, holds, latencies, output, say, step, time},
};

const WRITES: u64 = 6_000;
const WRITES_PER_SECOND: u32 = 2_000;
const WRITE_BYTES: usize = 200;
/// Each load writes to as many files in turns: with Kinesis each has one record on its way at a time.
const FILES: usize = 64;
/// Before anything is measured.
const WARM_UP_WRITES: u64 = 500;
/// How long all may take to arrive once the broker goes on.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(120);
/// What a busy machine may add to one write in thousands; waiting for a broker would take far longer.
const HICCUP_MAX: Duration = Duration::from_millis(500);

/// The load and what it has written.
type Done = (Load, LoadReport);

/// All steps.
pub fn run(sink: Sink) {
    println!("bywash: every write under a directory becomes an event, and no broker ever delays one.");
    let broker = start_broker(sink);
    let mut bywash = start_services(&broker);
    quickstart(&bywash);
    let mut done = vec![write(&bywash, 0, WARM_UP_WRITES)];

    step(3, &format!("{} is healthy", broker.subject()));
    done.push(write(&bywash, 1, WRITES));
    latencies("healthy", &done[1].1);

    step(4, &format!("{} stands still; writing goes on", broker.subject()));
    command(&broker.stall());
    done.push(write(&bywash, 2, WRITES));
    latencies("healthy", &done[1].1);
    latencies("standing still", &done[2].1);
    assert_same_latency(&done[1].1, &done[2].1);
    command("publisher status");
    output(&bywash.publisher_command(&["status"]).stdout);

    step(5, "The publisher is killed and started again; writing goes on");
    done.push(write_while_the_publisher_is_killed(&mut bywash, 3));

    step(6, &format!("{} goes on", broker.subject()));
    command(&broker.resume());
    assert_all_arrive(&broker, &done);

    step(7, "The end");
    stop_everything(bywash, broker);
}

fn start_broker(sink: Sink) -> Destination {
    step(1, "A broker, the agent and the publisher, each a process of its own");
    let broker = Destination::start(sink);
    say(&broker.description());
    broker
}

fn start_services(broker: &Destination) -> Bywash {
    let mut bywash = broker.services();
    let config = bywash.config.display().to_string();
    bywash.start_agent();
    bywash.start_publisher();
    say(&format!("agent:     fs-agent run, pid {}", bywash.agent().pid()));
    say(&format!("publisher: publisher run, pid {}", bywash.publisher().pid()));
    say(&format!("both with --config {config}"));
    command("fs-agent status");
    let status = bywash.fs_agent(&["status"]);
    output(&status.stdout);
    bywash
}

/// The seed's README.
fn quickstart(bywash: &Bywash) {
    step(2, "The quickstart: one write, read back");
    let bar = bywash.file("bar");
    command(&format!("bash -c 'echo \"foo\"' > {}", bar.display()));
    let file = File::create(&bar).expect("a file in the overlay");
    let written = Command::new("bash").args(["-c", "echo \"foo\""]).stdout(Stdio::from(file)).status();
    assert!(written.expect("bash").success(), "bash could not write");
    command("publisher consume --from-beginning --max 1");
    let consumed = bywash.publisher_command(&["consume", "--from-beginning", "--max", "1"]);
    output(&consumed.stdout);
    assert_eq!(consumed.code, Some(0), "consume failed: {}", consumed.stderr);
    let has = |expected: String| consumed.stdout.lines().any(|line| line.trim() == expected);
    let is_the_event = has("@message: foo".to_owned())
        && has("command: bash -c echo \"foo\"".to_owned())
        && has(format!("path: {}", bar.display()));
    holds("the event has the message, the command and the path", is_the_event);
}

fn load(bywash: &Bywash, id: u32, count: u64) -> Load {
    let files: Vec<PathBuf> = (0..FILES).map(|i| bywash.file(&format!("app-{id}-{i}.log"))).collect();
    Load { id, files, count, bytes: WRITE_BYTES, rate: WRITES_PER_SECOND }
}

fn write(bywash: &Bywash, id: u32, count: u64) -> Done {
    let load = load(bywash, id, count);
    let report = load.start(bywash.root()).finish(TIMEOUT);
    report.assert_complete(&load);
    (load, report)
}

fn assert_same_latency(healthy: &LoadReport, stopped: &LoadReport) {
    // What a noisy machine adds to equal numbers, and far below any time that a broker could cost.
    let p50_max = healthy.p50 * 2 + Duration::from_micros(100);
    let p99_max = healthy.p99 * 3 + Duration::from_millis(5);
    let max_max = healthy.max + HICCUP_MAX;
    let same = stopped.p50 <= p50_max && stopped.p99 <= p99_max && stopped.max <= max_max;
    let bounds = format!("p50 <= {}, p99 <= {}, max <= {}", time(p50_max), time(p99_max), time(max_max));
    holds(&format!("the latency is the same but for noise ({bounds})"), same);
}

fn write_while_the_publisher_is_killed(bywash: &mut Bywash, id: u32) -> Done {
    let load = load(bywash, id, WRITES);
    let mut writer = load.start(bywash.root());
    wait::until_true("the writer to get going", TIMEOUT, || load.files[0].exists());
    command(&format!("kill -KILL {}    # the publisher", bywash.publisher().pid()));
    bywash.publisher().kill9();
    bywash.start_publisher();
    say(&format!("publisher: started again, pid {}", bywash.publisher().pid()));
    assert!(writer.is_running(), "the writer was done before the publisher was killed and back");
    let report = writer.finish(TIMEOUT);
    report.assert_complete(&load);
    latencies("meanwhile", &report);
    (load, report)
}

fn assert_all_arrive(broker: &Destination, done: &[Done]) {
    let begin = Instant::now();
    // The quickstart's event is one more.
    let sent = 1 + done.iter().map(|(_, report)| report.written).sum::<u64>();
    let received =
        broker.read().events_within(usize::try_from(sent).expect("a count that fits"), ARRIVAL_TIME_MAX);
    let all = received.len();
    let (events, duplicates) = ledger::distinct(received);
    let lost = sent - (events.len() as u64).min(sent);
    say(&format!(
        "sent {sent}, received {} in {}, lost {lost}, duplicates {duplicates}",
        events.len(),
        time(begin.elapsed())
    ));
    if duplicates > 0 {
        say(&format!(
            "({all} messages: what the killed publisher had on its way came again, under the same event_id)"
        ));
    }
    holds(
        "every write arrived, each once but for repetitions of the same event",
        events.len() as u64 == sent,
    );
    assert_content_and_order(&events, done);
}

fn assert_content_and_order(events: &[Event], done: &[Done]) {
    let files = ledger::by_path(events);
    for (load, report) in done {
        for (path, content) in load.expected(report.written) {
            let events = &files[path.to_str().expect("a path of ASCII")];
            ledger::assert_contiguous(events);
            ledger::assert_same_bytes("a file", &content, &ledger::replay(events.iter().copied()));
        }
    }
    holds(&format!("the bytes and the order of all {} files are what was written", files.len() - 1), true);
}

fn stop_everything(mut bywash: Bywash, broker: Destination) {
    let publisher = bywash.publisher().terminate(TIMEOUT);
    let agent = bywash.agent().terminate(TIMEOUT);
    broker.terminate();
    let is_mounted = !mounts::below(bywash.root()).is_empty();
    holds("both services ended well", agent.success() && publisher.success());
    holds("nothing is mounted, nothing is running", !is_mounted);
}
