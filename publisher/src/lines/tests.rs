use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    time::{Duration, Instant},
};

use bywash_common::record::{Origin, Write};
use proptest::prelude::*;

use super::joiner::{Joiner, LATE, Limits, Line, Record};

/// One write of a test.
#[derive(Clone, Debug)]
struct Wrote {
    handle: u64,
    /// Not where the handle's last one ended.
    jumps: bool,
    /// Under another name than before.
    renamed: bool,
    /// Milliseconds after the one before.
    later: u64,
    data: Vec<u8>,
}

/// What has become an event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    handle: u64,
    path: Vec<u8>,
    offset: u64,
    time_ns: u64,
    message: Vec<u8>,
    sequence: u64,
    /// Begin and length, unless it is all of one write.
    stretch: Option<(usize, usize)>,
}

const LIMITS: Limits = Limits { bytes_max: 10, wait: Duration::from_millis(50) };
const WAIT_NS: u64 = 50_000_000;

fn sent(line: &Line<'_, u64>) -> Sent {
    Sent {
        handle: line.write.handle,
        path: line.write.path.to_vec(),
        offset: line.write.offset,
        time_ns: line.write.time_ns,
        message: line.message.to_vec(),
        sequence: line.sequence,
        stretch: line.stretch.map(|s| (s.begin, s.len)),
    }
}

fn write<'a>(handle: u64, path: &'a [u8], offset: u64, time_ns: u64) -> Write<'a> {
    let (pid, command, origin) = (7, b"cat ".as_slice(), Origin::Write);
    Write { path, pid, uid: 1, gid: 2, time_ns, command, offset, handle, origin, part: 0, parts: 1 }
}

/// Descriptions of the writes, in order.
fn described(wrote: &[Wrote]) -> Vec<(u64, Vec<u8>, u64, u64)> {
    let mut files: HashMap<u64, (u64, u32)> = HashMap::new();
    let mut time_ns = 0;
    let described = wrote.iter().map(|w| {
        let (end, name) = files.entry(w.handle).or_default();
        *end += if w.jumps { 1000 } else { 0 };
        *name += u32::from(w.renamed);
        time_ns += w.later * 1_000_000;
        let offset = *end;
        *end += w.data.len() as u64;
        (w.handle, format!("/{}/{name}", w.handle).into_bytes(), offset, time_ns)
    });
    described.collect()
}

/// What the joiner sends, and how often each ticket was used beside how often it said so.
fn join(wrote: &[Wrote]) -> (Vec<Sent>, BTreeMap<u64, (u32, u32)>) {
    let mut joiner = Joiner::new();
    let mut all = Vec::new();
    let mut tickets: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    let now = Instant::now();
    let used = |tickets: &mut BTreeMap<u64, (u32, u32)>, lines: &[(u64, Sent)]| {
        for (ticket, _) in lines {
            tickets.get_mut(ticket).expect("an open ticket").1 += 1;
        }
    };
    for (i, ((handle, path, offset, time_ns), w)) in (0..).zip(described(wrote).iter().zip(wrote)) {
        let write = write(*handle, path, *offset, *time_ns);
        let record = Record { write: &write, data: &w.data, from: 0, sequence: i };
        let mut lines = Vec::new();
        let mut send = |line: &Line<'_, u64>| -> Result<(), Infallible> {
            lines.push((line.ticket, sent(line)));
            Ok(())
        };
        let open = |events| {
            tickets.insert(i, (events, 0));
            i
        };
        joiner.take(&record, LIMITS, now, open, &mut send).unwrap();
        used(&mut tickets, &lines);
        all.extend(lines.into_iter().map(|(_, line)| line));
    }
    let mut lines = Vec::new();
    let mut send = |line: &Line<'_, u64>| -> Result<(), Infallible> {
        lines.push((line.ticket, sent(line)));
        Ok(())
    };
    let (too_early, stale) = (now + LIMITS.wait, now + LIMITS.wait + LATE);
    joiner.flush_stale(too_early, &mut send).unwrap();
    joiner.flush_stale(stale, &mut send).unwrap();
    let early = lines.len();
    let mut send = |line: &Line<'_, u64>| -> Result<(), Infallible> {
        lines.push((line.ticket, sent(line)));
        Ok(())
    };
    joiner.flush_stale(stale, &mut send).unwrap();
    assert!(early == 0 && joiner.is_empty() && joiner.oldest().is_none());
    used(&mut tickets, &lines);
    all.extend(lines.into_iter().map(|(_, line)| line));
    (all, tickets)
}

/// The same, byte by byte and with nothing clever.
fn model(wrote: &[Wrote]) -> Vec<Sent> {
    let mut pending: Vec<Sent> = Vec::new();
    let mut all = Vec::new();
    for (sequence, ((handle, path, offset, time_ns), w)) in (0..).zip(described(wrote).iter().zip(wrote)) {
        let mut late: Vec<Sent> =
            pending.iter().filter(|line| line.time_ns + WAIT_NS < *time_ns).cloned().collect();
        late.sort_by_key(|line| (line.time_ns, line.handle));
        pending.retain(|line| line.time_ns + WAIT_NS >= *time_ns);
        all.extend(late);
        let mut line = pending.iter().position(|line| line.handle == *handle).map(|at| pending.remove(at));
        if let Some(left) = line.take_if(|l| l.path != *path || l.offset + l.message.len() as u64 != *offset)
        {
            all.push(left);
        }
        for (at, byte) in w.data.iter().enumerate() {
            let current = line.get_or_insert_with(|| Sent {
                handle: *handle,
                path: path.clone(),
                offset: offset + at as u64,
                time_ns: *time_ns,
                message: Vec::new(),
                sequence,
                stretch: Some((at, 0)),
            });
            current.message.push(*byte);
            if *byte == b'\n' || current.message.len() == LIMITS.bytes_max {
                all.extend(line.take());
            }
        }
        pending.extend(line);
    }
    pending.sort_by_key(|line| line.sequence);
    all.extend(pending);
    for line in &mut all {
        let begin = line.stretch.map_or(0, |(begin, _)| begin);
        let first = &wrote[usize::try_from(line.sequence).unwrap()].data;
        line.stretch = Some((begin, line.message.len())).filter(|s| *s != (0, first.len()));
    }
    all
}

fn any_writes() -> impl Strategy<Value = Vec<Wrote>> {
    let data = prop::collection::vec(prop_oneof![3 => Just(b'x'), 1 => Just(b'\n'), 1 => any::<u8>()], 1..25);
    let one = (0..3_u64, prop::bool::weighted(0.1), prop::bool::weighted(0.1), 0..30_u64, data);
    let wrote =
        one.prop_map(|(handle, jumps, renamed, later, data)| Wrote { handle, jumps, renamed, later, data });
    prop::collection::vec(wrote, 0..40)
}

proptest! {
    #[test]
    fn lines_are_what_a_simple_model_says(wrote in any_writes()) {
        prop_assert_eq!(join(&wrote).0, model(&wrote));
    }

    #[test]
    fn the_events_of_a_handle_are_the_bytes_that_it_wrote_where_it_wrote_them(wrote in any_writes()) {
        let (all, _) = join(&wrote);
        let mut expected: HashMap<u64, Vec<(u64, u8)>> = HashMap::new();
        for ((handle, _, offset, _), w) in described(&wrote).iter().zip(&wrote) {
            expected.entry(*handle).or_default().extend((*offset..).zip(w.data.iter().copied()));
        }
        let mut found: HashMap<u64, Vec<(u64, u8)>> = HashMap::new();
        for line in &all {
            found.entry(line.handle).or_default().extend((line.offset..).zip(line.message.iter().copied()));
            prop_assert!(line.message.len() <= LIMITS.bytes_max);
            prop_assert!(!line.message[..line.message.len() - 1].contains(&b'\n'));
        }
        prop_assert_eq!(found, expected);
        let ids: HashSet<_> = all.iter().map(|line| (line.sequence, line.stretch)).collect();
        prop_assert_eq!(ids.len(), all.len());
    }

    #[test]
    fn each_record_is_told_how_many_lines_begin_in_it(wrote in any_writes()) {
        for (ticket, (told, used)) in join(&wrote).1 {
            prop_assert_eq!(told, used, "record {}", ticket);
        }
    }
}

#[test]
fn what_was_delivered_before_is_left_out() {
    let mut joiner = Joiner::new();
    let write = write(1, b"/f", 100, 0);
    let record = Record { write: &write, data: b"end\nnext\n", from: 4, sequence: 5 };
    let mut all = Vec::new();
    let mut send = |line: &Line<'_, u64>| -> Result<(), Infallible> {
        all.push(sent(line));
        Ok(())
    };
    let mut begun = 0;
    let open = |events| {
        begun = events;
        5
    };
    joiner.take(&record, LIMITS, Instant::now(), open, &mut send).unwrap();
    assert_eq!((begun, all.len()), (1, 1));
    assert_eq!((all[0].offset, all[0].message.as_slice()), (104, b"next\n".as_slice()));
    assert_eq!(
        all[0].stretch,
        Some((4, 5)),
        "under the id that it would have had behind the rest of the line"
    );
}

#[test]
fn how_long_the_ring_was_not_looked_at_is_not_the_writers_pause() {
    let (mut joiner, now) = (Joiner::new(), Instant::now());
    let mut messages = Vec::new();
    let mut send = |line: &Line<'_, u64>| -> Result<(), Infallible> {
        messages.push(line.message.to_vec());
        Ok(())
    };
    let record = |offset: u64, data: &'static [u8], joiner: &mut Joiner<u64>, send: &mut _| {
        let write = write(1, b"/f", offset, 0);
        let record = Record { write: &write, data, from: 0, sequence: offset };
        joiner.take(&record, LIMITS, now, |_| offset, send).unwrap();
    };
    record(0, b"be", &mut joiner, &mut send);
    joiner.flush_stale(now, &mut send).unwrap();
    // This process stands still, between a look at the ring and this, while the line's end is written in time.
    joiner.flush_stale(now + 100 * LIMITS.wait, &mut send).unwrap();
    record(2, b"gun\n", &mut joiner, &mut send);
    assert_eq!(messages, [b"begun\n"]);
}
