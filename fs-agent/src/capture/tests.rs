//! Records as a publisher reads them, through a real ring.

use std::sync::atomic::AtomicU64;

use bywash_common::{
    config::{DirectoryConfig, RingConfig},
    glob::Globs,
    record::{Loss, Origin},
    ring::{PublisherRing, SEGMENT_DIR},
    units::ByteSize,
};

use super::*;

/// A ring that is removed at the end.
struct Ring(RingConfig);

impl Ring {
    fn new(test: &str, size: u64) -> Self {
        let name = format!("capture-{test}-{}", std::process::id());
        Self(RingConfig { name, size: ByteSize(size), group: None })
    }

    fn capture(&self) -> Capture {
        Capture::new(AgentRing::open(&self.0).unwrap())
    }

    /// All records, each with what `look` makes of it.
    fn read<T>(&self, look: impl Fn(Kind, &[u8]) -> T) -> Vec<T> {
        let mut ring = PublisherRing::attach(&self.0.name, None).unwrap();
        let mut payload = Vec::new();
        let mut read = Vec::new();
        while let Some(entry) = ring.consumer.next(&mut payload).unwrap() {
            read.push(look(entry.kind, &payload));
        }
        read
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for role in ["ring", "ack"] {
            let _ = std::fs::remove_file(format!("{SEGMENT_DIR}/{}.1.{role}", self.0.name));
        }
    }
}

fn event(data: &[u8]) -> Event<'_> {
    let writer = Some(Writer { thread: std::process::id(), uid: 1, gid: 2 });
    Event { path: b"/srv/a", writer, offset: 10, handle: 3, data }
}

#[test]
fn a_write_is_one_record_that_says_who_where_and_what() {
    let ring = Ring::new("one", 1 << 20);
    let capture = ring.capture();
    capture.record(&event(b"data"));
    let seen = ring.read(|kind, payload| {
        let (write, data) = Write::decode(payload).unwrap();
        assert_eq!((kind, data, write.path), (Kind::Write, &b"data"[..], &b"/srv/a"[..]));
        assert_eq!((write.pid, write.uid, write.gid), (std::process::id(), 1, 2));
        assert_eq!((write.offset, write.handle, write.part, write.parts), (10, 3, 0, 1));
        assert!(write.origin == Origin::Write && write.time_ns > 0 && write.command.ends_with(b" "));
    });
    assert_eq!(seen.len(), 1);
    let counters = capture.ring().status.snapshot();
    assert_eq!(counters[AgentCounter::CapturedEvents as usize], 1);
    assert_eq!(counters[AgentCounter::CapturedBytes as usize], 4);
}

#[test]
fn what_was_excluded_stays_so_for_a_successor_until_the_patterns_change() {
    let ring = Ring::new("excluded", 1 << 20);
    let capture = Arc::new(ring.capture());
    let source = |patterns: &[&str]| {
        let exclude = Globs::new(patterns.iter().map(|pattern| (*pattern).to_owned()).collect()).unwrap();
        let directory = DirectoryConfig { exclude, ..DirectoryConfig::at("/srv".into()) };
        Source::new(Arc::clone(&capture), &directory)
    };
    let at = |path: &'static [u8]| move |matches: &dyn Fn(&[u8]) -> bool| matches(path);
    let note = AtomicU64::new(0);
    assert!(source(&["*.gz"]).excludes(&note, at(b"/srv/a.gz")));
    // Renamed meanwhile: what counts is the name by which it was opened.
    assert!(source(&["*.gz"]).excludes(&note, at(b"/srv/a")));
    assert!(!source(&["*.tmp"]).excludes(&note, at(b"/srv/a")));
    assert!(!source(&[]).excludes(&note, at(b"/srv/a.gz")));
}

#[test]
fn pages_of_a_mapping_are_nobodys() {
    let ring = Ring::new("mapping", 1 << 20);
    let capture = ring.capture();
    capture.record(&Event { writer: None, ..event(b"page") });
    ring.read(|_, payload| {
        let (write, _) = Write::decode(payload).unwrap();
        assert!(write.origin == Origin::Mapping && write.command.is_empty());
        assert_eq!((write.pid, write.uid, write.gid), (0, 0, 0));
    });
    assert_eq!(capture.ring().status.snapshot()[AgentCounter::UnattributedEvents as usize], 1);
}

#[test]
fn a_write_longer_than_a_record_comes_in_parts() {
    let ring = Ring::new("parts", 64 << 10);
    let capture = ring.capture();
    let data: Vec<u8> = (0..40_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    capture.record(&event(&data));
    let parts = ring.read(|_, payload| {
        let (write, data) = Write::decode(payload).unwrap();
        (write.part, write.parts, write.offset, data.to_vec())
    });
    let mut whole = Vec::new();
    for (i, (part, of, offset, data)) in parts.iter().enumerate() {
        assert_eq!((*part as usize, *of as usize), (i, parts.len()));
        assert_eq!(*offset, 10 + whole.len() as u64);
        whole.extend_from_slice(data);
    }
    assert!(parts.len() > 1 && whole == data);
    assert_eq!(capture.ring().status.snapshot()[AgentCounter::CapturedEvents as usize], 1);
}

#[test]
fn the_longest_write_fits_into_an_empty_ring_wherever_it_begins() {
    let ring = Ring::new("longest", 64 << 10);
    let capture = ring.capture();
    let longest = vec![1; usize::try_from(capture.write_bytes_max()).unwrap()];
    let mut publisher = PublisherRing::attach(&ring.0.name, None).unwrap();
    let mut payload = Vec::new();
    for shift in 0..200 {
        let shift = vec![0; shift * 40];
        for data in [&shift, &longest] {
            capture.record(&event(data));
            let mut bytes = 0;
            while let Some(entry) = publisher.consumer.next(&mut payload).unwrap() {
                assert_eq!(entry.kind, Kind::Write, "{} bytes behind {} are lost", data.len(), shift.len());
                bytes += Write::decode(&payload).unwrap().1.len();
                publisher.consumer.acker().ack(entry.end);
            }
            assert_eq!(bytes, data.len());
        }
    }
}

#[test]
fn what_has_no_room_is_counted_and_announced() {
    let ring = Ring::new("full", 64 << 10);
    let capture = ring.capture();
    let longer_than_the_ring = vec![0; 100_000];
    capture.record(&event(&longer_than_the_ring));
    capture.tidy();
    let losses = ring.read(|kind, payload| {
        assert_eq!(kind, Kind::Lost);
        let (loss, _) = Loss::decode(payload).unwrap();
        (loss.events, loss.bytes)
    });
    assert_eq!(losses, [(1, 100_000)]);
    assert_eq!(capture.ring().status.snapshot()[AgentCounter::CapturedEvents as usize], 0);
}
