//! The overlay beside other directories: who is measured, and what is done in each.

pub mod bonnie;
mod subject;
mod work;

use std::{hint::black_box, time::Duration};

use bywash_common::ring::PublisherRing;

pub use subject::{OVERLAY, Subject, all as subjects};
pub use work::{Work, all as works};

/// The command line of this program that drains a ring begins so.
const DRAIN: &str = "drain";
/// How many records the drain reads before it acknowledges them.
const BATCH: usize = 256;

/// What a benchmark that has [`subjects`] does first: as the process that drains a ring it does nothing else.
///
/// # Panics
/// If the ring cannot be drained.
pub fn drain_if_told() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().is_some_and(|argument| argument == DRAIN) {
        drain(&arguments.next().expect("a ring's name"));
    }
}

/// The other process: drains the ring until it is killed.
fn drain(ring: &str) -> ! {
    let mut publisher = PublisherRing::attach(ring, None).expect("a ring that can be drained");
    let acker = publisher.consumer.acker();
    let mut payload = Vec::new();
    loop {
        let mut end = None;
        for _ in 0..BATCH {
            let Some(entry) = publisher.consumer.next(&mut payload).expect("a ring that can be drained")
            else {
                break;
            };
            end = Some(entry.end);
            black_box(&payload);
        }
        match end {
            Some(end) => acker.ack(end),
            None => publisher.consumer.wait(Duration::from_millis(100)),
        }
    }
}
