//! The log against a model: whatever is pushed, delivered, torn and opened again comes out once, in order.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, Ordering},
    },
};

use bywash_common::{
    config::SpoolConfig,
    ring::{Entry, Kind},
    units::ByteSize,
};
use nix::errno::Errno;
use proptest::prelude::*;
use uuid::Uuid;

use crate::disk::{Access, Disk, Open, Stored, SystemDisk};

use super::{
    Item, Log, Mark, Reader, SpoolError,
    log::Batch,
    segment::{self, Record},
};

const STREAM: Uuid = Uuid::from_u128(1);

fn config() -> SpoolConfig {
    // Segments so small that there are many.
    SpoolConfig { segment_size: ByteSize(600), ..SpoolConfig::default() }
}

fn open(dir: &Path) -> Log {
    Log::open(dir, &config(), "ring", None, 1).unwrap()
}

fn payload(seq: u64) -> Vec<u8> {
    (0..seq * 7 % 90).map(|i| (seq + i) as u8).collect()
}

fn record(seq: u64, payload: &[u8]) -> Record<'_> {
    Record { kind: Kind::Write, seq, end: (seq + 1) * 8, payload }
}

fn push(log: &mut Log, stream: Uuid, from: u64, count: u64) {
    let mut batch = Batch::default();
    for seq in from..from + count {
        batch.push(&record(seq, &payload(seq)));
    }
    log.append(stream, &batch).unwrap();
}

fn mark(stream: Uuid, next_seq: u64) -> Mark {
    Mark { uuid: stream, end: next_seq * 8, next_seq }
}

/// Everything that comes out of a stream behind what is delivered.
fn read(log: Log, stream: Uuid) -> (Vec<Item>, Log) {
    let start = log.delivered(stream).unwrap_or(Mark { uuid: stream, ..Mark::default() });
    let log = Mutex::new(log);
    let mut reader = Reader::new(stream, start.known_seq());
    let (mut items, mut after, mut bytes) = (Vec::new(), start.end, Vec::new());
    while let Some(item) = reader.next(&log, after, None, &mut bytes).unwrap() {
        if let Item::Record(entry) = item {
            assert_eq!(bytes, payload(entry.seq));
            after = entry.end;
        }
        items.push(item);
    }
    (items, log.into_inner().unwrap())
}

fn entry(seq: u64) -> Item {
    Item::Record(Entry { kind: Kind::Write, seq, end: (seq + 1) * 8 })
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = dir.read_dir().unwrap().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "spool"));
    paths.sort();
    paths
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64),
    Deliver(u64),
    /// The process dies having written this many bytes of another batch.
    Crash(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..12_u64).prop_map(Step::Push),
        3 => (0..15_u64).prop_map(Step::Deliver),
        1 => (0..300_usize).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_pushed_and_not_delivered_comes_out_once_and_in_order(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        let (mut pushed, mut delivered) = (0, 0);
        for step in steps {
            match step {
                Step::Push(count) => {
                    push(&mut log, STREAM, pushed, count);
                    pushed += count;
                }
                Step::Deliver(count) => {
                    delivered = (delivered + count).min(pushed);
                    log.deliver(mark(STREAM, delivered)).unwrap();
                    prop_assert!(segments(dir.path()).len() as u64 <= 2 + (pushed - delivered));
                }
                Step::Crash(torn_bytes) => {
                    drop(log);
                    tear(dir.path(), pushed, torn_bytes);
                    log = open(dir.path());
                    prop_assert_eq!(log.records(), pushed - delivered);
                }
            }
            let (items, again) = read(log, STREAM);
            log = again;
            prop_assert_eq!(items, (delivered..pushed).map(entry).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_damaged_byte_costs_the_record_that_it_is_in_and_says_so(place: prop::sample::Index, change in 1_u8..) {
        const RECORDS: u64 = 60;
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        for seq in 0..RECORDS {
            push(&mut log, STREAM, seq, 1);
        }
        log.deliver(mark(STREAM, 1)).unwrap();
        drop(log);
        let paths = segments(dir.path());
        // Damage to the first record or the last shows in the marks alone, which the drain compares.
        let path = place.get(&paths[..paths.len() - 1]);
        let mut bytes = fs::read(path).unwrap();
        let at = place.index(bytes.len());
        bytes[at] ^= change;
        fs::write(path, bytes).unwrap();
        let (items, _) = read(open(dir.path()), STREAM);
        let mut expected = 1;
        for item in items {
            match item {
                Item::Record(entry) => {
                    prop_assert_eq!(entry.seq, expected);
                    expected += 1;
                }
                Item::Gap { first_seq, records } => {
                    prop_assert_eq!(first_seq, expected);
                    expected += records;
                }
            }
        }
        prop_assert_eq!(expected, RECORDS);
    }
}

/// Leaves the beginning of a batch behind the last segment, as a process that is killed in its write does.
fn tear(dir: &Path, seq: u64, bytes: usize) {
    let mut batch = Vec::new();
    for seq in seq..seq + 3 {
        segment::push(&record(seq + 1000, &payload(seq)), &mut batch);
    }
    if let Some(last) = segments(dir).last() {
        let mut file = OpenOptions::new().append(true).open(last).unwrap();
        // Never a whole record: one of those counts as spooled.
        file.write_all(&batch[..bytes.min(segment::RECORD_HEADER_BYTES - 1)]).unwrap();
    }
}

#[test]
fn streams_are_told_apart_and_the_older_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let newer = Uuid::from_u128(2);
    let mut log = open(dir.path());
    push(&mut log, STREAM, 0, 3);
    push(&mut log, newer, 5, 2);
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.streams(), [STREAM, newer]);
    let (items, log) = read(log, STREAM);
    assert_eq!(items, [entry(0), entry(1), entry(2)]);
    let (items, mut log) = read(log, newer);
    assert_eq!(items, [entry(5), entry(6)]);
    log.forget(STREAM).unwrap();
    assert_eq!((log.streams(), log.spooled(newer)), (vec![newer], Some(mark(newer, 7))));
}

#[test]
fn a_spool_at_its_bound_takes_more_once_something_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let bounded = SpoolConfig { size_max: ByteSize(2000), ..config() };
    let mut log = Log::open(dir.path(), &bounded, "ring", None, 1).unwrap();
    let mut seq = 0;
    let refused = loop {
        let mut batch = Batch::default();
        batch.push(&record(seq, &payload(seq)));
        match log.append(STREAM, &batch) {
            Ok(()) => seq += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, SpoolError::Full { .. }), "{refused}");
    assert!(log.bytes() <= 2000);
    log.deliver(mark(STREAM, seq)).unwrap();
    assert_eq!((log.bytes(), log.records(), log.is_empty()), (0, 0, true));
    push(&mut log, STREAM, seq, 1);
}

#[test]
fn another_rings_spool_is_refused_until_it_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    push(&mut log, STREAM, 0, 1);
    drop(log);
    let Err(error) = Log::open(dir.path(), &config(), "other", None, 1) else { panic!("it was taken") };
    assert!(error.to_string().contains("`ring`") && error.to_string().contains("`other`"), "{error}");
    let mut log = open(dir.path());
    log.deliver(mark(STREAM, 1)).unwrap();
    drop(log);
    Log::open(dir.path(), &config(), "other", None, 1).unwrap();
}

#[test]
fn a_segment_without_a_header_is_put_aside_and_what_it_held_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for seq in 0..40 {
        push(&mut log, STREAM, seq, 1);
    }
    drop(log);
    let paths = segments(dir.path());
    assert!(paths.len() > 2);
    fs::write(&paths[1], b"nothing of the kind").unwrap();
    let (items, _) = read(open(dir.path()), STREAM);
    assert!(items.iter().any(|item| matches!(item, Item::Gap { .. })), "{items:?}");
    assert!(paths[1].with_extension("damaged").exists());
}

#[test]
fn a_stream_that_was_delivered_before_the_next_one_is_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    push(&mut log, STREAM, 0, 3);
    log.deliver(mark(STREAM, 3)).unwrap();
    // The next ring's records go past the spool.
    let next = Uuid::from_u128(2);
    log.deliver(mark(next, 5)).unwrap();
    assert_eq!((log.streams(), log.delivered(next)), (vec![], Some(mark(next, 5))));
    drop(log);
    let mut log = open(dir.path());
    assert!(log.streams().is_empty());
    push(&mut log, next, 5, 1);
    assert_eq!((log.streams(), read(log, next).0), (vec![next], vec![entry(5)]));
}

/// A disk that answers each open for reading of a segment with an errno, while it has one.
struct Refusing(AtomicI32);

impl Disk for Refusing {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(dir)
    }

    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn Stored>> {
        let errno = self.0.load(Ordering::Relaxed);
        let is_refused = matches!(how, Open::Read) && path.extension().is_some_and(|e| e == "spool");
        if errno != 0 && is_refused {
            return Err(io::Error::from_raw_os_error(errno));
        }
        SystemDisk.open(path, how)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn try_lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Send>>> {
        SystemDisk.try_lock(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        SystemDisk.sync_dir(dir)
    }
}

const TRANSIENT: [Errno; 7] =
    [Errno::EMFILE, Errno::ENFILE, Errno::EIO, Errno::ESTALE, Errno::ENOMEM, Errno::EACCES, Errno::ENOSPC];

#[test]
fn an_error_of_the_system_while_the_spool_is_read_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Refusing(AtomicI32::new(0)));
    let open_on = |tries| {
        let disk = Arc::clone(&disk) as Arc<dyn Disk>;
        Log::open_on(disk, dir.path(), Access::own(0o600), &config(), "ring", tries)
    };
    let mut log = open_on(1).unwrap();
    for seq in 0..40 {
        push(&mut log, STREAM, seq, 1);
    }
    let count = segments(dir.path()).len();
    assert!(count > 3, "{count}");
    drop(log);
    for errno in TRANSIENT {
        disk.0.store(errno as i32, Ordering::Relaxed);
        let Err(error) = open_on(1) else { panic!("{errno}: it was opened") };
        assert!(error.to_try_again().is_some(), "{error}");
        disk.0.store(0, Ordering::Relaxed);
        let log = Mutex::new(open_on(1).unwrap());
        let mut reader = Reader::new(STREAM, Some(0));
        let (mut after, mut bytes) = (0, Vec::new());
        for seq in 0..40 {
            disk.0.store(errno as i32, Ordering::Relaxed);
            let item = match reader.next(&log, after, None, &mut bytes) {
                Err(error) => {
                    assert!(error.to_try_again().is_some(), "{error}");
                    disk.0.store(0, Ordering::Relaxed);
                    reader.next(&log, after, None, &mut bytes).unwrap()
                }
                Ok(item) => item,
            };
            assert_eq!(item, Some(entry(seq)), "{errno}");
            after = (seq + 1) * 8;
        }
        assert_eq!(segments(dir.path()).len(), count, "{errno}");
    }
}

#[test]
fn what_is_passed_over_is_kept_aside_and_counts_towards_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for seq in 0..40 {
        push(&mut log, STREAM, seq, 1);
    }
    drop(log);
    let paths = segments(dir.path());
    let mut bytes = fs::read(&paths[1]).unwrap();
    bytes[segment::HEADER_BYTES + 40] ^= 1;
    fs::write(&paths[1], &bytes).unwrap();
    let (items, mut log) = read(open(dir.path()), STREAM);
    assert_eq!(items.iter().filter(|item| matches!(item, Item::Gap { records: 1, .. })).count(), 1);
    log.deliver(mark(STREAM, 40)).unwrap();
    assert!(log.is_empty());
    assert_eq!(fs::read(paths[1].with_extension("damaged")).unwrap(), bytes);
    drop(log);
    let bounded = SpoolConfig { size_max: ByteSize(bytes.len() as u64 + 64), ..config() };
    let mut log = Log::open(dir.path(), &bounded, "ring", None, 1).unwrap();
    let mut batch = Batch::default();
    batch.push(&record(40, &payload(40)));
    assert!(matches!(log.append(STREAM, &batch), Err(SpoolError::Full { .. })));
}

#[test]
fn what_the_ring_has_made_good_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    push(&mut log, STREAM, 0, 3);
    drop(log);
    tear(dir.path(), 3, 20);
    let mut log = open(dir.path());
    push(&mut log, STREAM, 3, 3);
    // The process dies in a segment's first batch.
    let torn = dir.path().join(format!("{:020}.spool", 9));
    fs::write(
        &torn,
        [segment::Header { uuid: STREAM, number: 9, created_ns: 1 }.encode().as_slice(), b"SPOL"].concat(),
    )
    .unwrap();
    drop(log);
    let (items, mut log) = read(open(dir.path()), STREAM);
    assert_eq!(items, (0..6).map(entry).collect::<Vec<_>>());
    log.deliver(mark(STREAM, 6)).unwrap();
    let left: Vec<_> = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("0000")), "{left:?}");
}

#[test]
fn what_was_delivered_before_a_restart_is_removed_though_nobody_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    (0..40).for_each(|seq| push(&mut log, STREAM, seq, 1));
    drop(log);
    assert!(segments(dir.path()).len() > 2);
    let mut log = open(dir.path());
    log.deliver(mark(STREAM, 39)).unwrap();
    assert!(!log.is_empty(), "the last record is not delivered");
    log.deliver(mark(STREAM, 40)).unwrap();
    assert!(log.is_empty());
    assert_eq!(segments(dir.path()), Vec::<PathBuf>::new());
}
