#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)] // A benchmark that cannot measure has to stop.
//! Encoding alone, on one core, beside serde_json: `cargo bench --bench encode`.
//!
//! ```text
//! cargo bench --bench encode -- [--rounds N]
//! ```
//!
//! Both make the same events, from the same lines of log, into a buffer that they reuse; that they say the same is checked first.

mod oracle;

use std::{hint::black_box, time::Duration};

use bywash_benches::median;
use bywash_common::config::{Encoder, EventConfig};
use nix::time::ClockId;
use publisher::encode::{WriteEvent, Writer, encoder};

/// Rounds of each measurement; the table shows medians.
const ROUNDS: usize = 9;
/// How long a measurement goes on at least.
const TIME_MIN: Duration = Duration::from_millis(100);
/// Events in a row before the clock is looked at.
const EVENTS: usize = 1000;
/// Bytes of messages in a nanosecond that the default format has to reach at least.
const WANTED: f64 = 1.0;
/// Bytes of a message.
const SIZES: [usize; 2] = [200, 4096];

fn main() {
    let mut rounds = ROUNDS;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // From cargo.
            "--bench" => {}
            "--rounds" => rounds = arguments.next().and_then(|n| n.parse().ok()).expect("a number of rounds"),
            other => panic!("{other} is no option"),
        }
    }
    println!(
        "| format | bytes | bywash ns | bywash GB/s of messages | serde_json ns | serde_json GB/s | ratio |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for format in [Encoder::LogstashBase64, Encoder::Logstash, Encoder::Ecs, Encoder::Text, Encoder::Raw] {
        for size in SIZES {
            measure(format, size, rounds);
        }
    }
    println!("\nWanted: logstash_base64 at {WANTED} GB/s of messages or more.");
}

fn measure(format: Encoder, size: usize, rounds: usize) {
    let fields = [("hostname".to_owned(), "test".to_owned())].into_iter().collect();
    let config = EventConfig { encoder: format, fields, tags: vec!["test".to_owned()], loss_topic: None };
    let messages: Vec<Vec<u8>> = (0..64).map(|i| line(i, size)).collect();
    let paths: Vec<String> = (0..8).map(|i| format!("/var/log/application/server-{i}.log")).collect();
    let event = |i: usize| WriteEvent {
        path: paths[i % paths.len()].as_bytes(),
        writer: Some(Writer {
            pid: 4711,
            uid: 0,
            gid: 0,
            user: "root",
            group: "root",
            command: b"/usr/bin/server --config /etc/server.conf ",
        }),
        unattributed: false,
        time_ns: 1_767_225_600_000_000_000 + i as u64 * 1000,
        offset: (i * size) as u64,
        event_id: "0c4e8a52-11f2-4b6a-9a4e-7d1f2b6f6a11-1234567",
        sequence: 1_234_567,
        part: None,
        piece: None,
        message: &messages[i % messages.len()],
    };
    let (mut out, mut theirs) = (Vec::new(), Vec::new());
    let mut ours = encoder(&config);
    let mut serde = oracle::Encoder::new(&config);
    ours.write(&event(7), &mut out);
    let is_compared = serde.as_mut().is_some_and(|serde| {
        serde.write(&event(7), &mut theirs);
        true
    });
    if let (true, Ok(a), Ok(b)) = (
        is_compared,
        serde_json::from_slice::<serde_json::Value>(&out),
        serde_json::from_slice::<serde_json::Value>(&theirs),
    ) {
        assert_eq!(a, b, "both make the same event");
    }
    let (mut our_ns, mut their_ns) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        our_ns.push(nanoseconds(|i| {
            out.clear();
            ours.write(&event(i), &mut out);
            black_box(&out);
        }));
        if let Some(serde) = &mut serde {
            their_ns.push(nanoseconds(|i| {
                theirs.clear();
                serde.write(&event(i), &mut theirs);
                black_box(&theirs);
            }));
        }
    }
    let (ours, theirs) = (median(&mut our_ns), median(&mut their_ns));
    let rate = |ns: f64| size as f64 / ns;
    let word = format.word();
    if theirs > 0.0 {
        let ratio = theirs / ours;
        println!(
            "| {word} | {size} | {ours:.0} | {:.2} | {theirs:.0} | {:.2} | {ratio:.1} |",
            rate(ours),
            rate(theirs)
        );
    } else {
        println!("| {word} | {size} | {ours:.0} | {:.2} | | | |", rate(ours));
    }
}

/// Nanoseconds of one call, of this thread's own time: others may be at work on the same core.
fn nanoseconds(mut encode: impl FnMut(usize)) -> f64 {
    let clock = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("a thread's clock"));
    let begin = clock();
    let mut calls = 0;
    loop {
        for i in 0..EVENTS {
            encode(black_box(i));
        }
        calls += EVENTS;
        let taken = clock() - begin;
        if taken > TIME_MIN {
            return taken.as_secs_f64() * 1e9 / calls as f64;
        }
    }
}

/// A line of log, with the quotes that such lines have.
fn line(i: usize, size: usize) -> Vec<u8> {
    let head =
        format!("2026-01-01T00:00:00.000Z INFO request={i} method=GET path=\"/api/v1/items\" status=200 ");
    let filler =
        "duration_ms=17 bytes=5123 client=10.0.0.1 cache=miss upstream=backend-3 trace=4bf92f3577b34da6 ";
    let mut line: Vec<u8> = head.bytes().chain(filler.bytes().cycle()).take(size - 1).collect();
    line.push(b'\n');
    line
}
