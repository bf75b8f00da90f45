use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use bywash_common::{
    config::{Boundary, Pattern},
    record::{Origin, Write},
};
use proptest::prelude::*;

use super::{
    joiner::{Joiner, LATE},
    line::{Limits, Line, Record, Several},
};

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

const LIMITS: Limits = Limits { bytes_max: 10, wait: Duration::from_millis(50), several: None };
const WAIT_NS: u64 = 50_000_000;

fn sent(line: &Line<'_, u64>) -> Sent {
    Sent {
        handle: line.write.handle,
        path: line.write.path.to_vec(),
        offset: line.write.offset,
        time_ns: line.write.time_ns,
        message: line.message.to_vec(),
        sequence: line.sequence,
        stretch: line.stretch().map(|s| (s.begin, s.len)),
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
fn join(limits: &Limits, wrote: &[Wrote]) -> (Vec<Sent>, BTreeMap<u64, (u32, u32)>) {
    let mut joiner = Joiner::new();
    let mut all = Vec::new();
    let mut tickets: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    let now = Instant::now();
    let used = |tickets: &mut BTreeMap<u64, (u32, u32)>, lines: &[(Vec<u64>, Sent)]| {
        for ticket in lines.iter().flat_map(|(tickets, _)| tickets) {
            tickets.get_mut(ticket).expect("an open ticket").1 += 1;
        }
    };
    let tickets_of = |line: &Line<'_, u64>| [&[line.ticket], line.joined].concat();
    for (i, ((handle, path, offset, time_ns), w)) in (0..).zip(described(wrote).iter().zip(wrote)) {
        let write = write(*handle, path, *offset, *time_ns);
        let record = Record { write: &write, data: &w.data, from: 0, sequence: i };
        let mut lines = Vec::new();
        let mut send = |line: &Line<'_, u64>| -> Result<(), Infallible> {
            lines.push((tickets_of(line), sent(line)));
            Ok(())
        };
        let open = |events| {
            tickets.insert(i, (events, 0));
            i
        };
        joiner.take(&record, limits, now, open, &mut send).unwrap();
        used(&mut tickets, &lines);
        all.extend(lines.into_iter().map(|(_, line)| line));
    }
    let mut lines = Vec::new();
    let mut send = |line: &Line<'_, u64>| -> Result<(), Infallible> {
        lines.push((tickets_of(line), sent(line)));
        Ok(())
    };
    let (too_early, stale) = (now + limits.wait, now + limits.wait + LATE);
    joiner.flush_stale(too_early, &mut send).unwrap();
    joiner.flush_stale(stale, &mut send).unwrap();
    let early = lines.len();
    let mut send = |line: &Line<'_, u64>| -> Result<(), Infallible> {
        lines.push((tickets_of(line), sent(line)));
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
        prop_assert_eq!(join(&LIMITS, &wrote).0, model(&wrote));
    }

    #[test]
    fn the_events_of_a_handle_are_the_bytes_that_it_wrote_where_it_wrote_them(wrote in any_writes()) {
        let (all, _) = join(&LIMITS, &wrote);
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
        for (ticket, (told, used)) in join(&LIMITS, &wrote).1 {
            prop_assert_eq!(told, used, "record {}", ticket);
        }
    }
}

/// Lines that begin with an `x` begin an event.
fn several() -> Limits {
    let boundary = Boundary::Start(Pattern::new("^x".to_owned()).unwrap());
    Limits { bytes_max: 20, several: Some(Arc::new(Several { boundary, lines_max: 4 })), ..LIMITS }
}

/// The events of a file whose bytes are all there.
fn events(text: &[u8], limits: &Limits) -> Vec<Vec<u8>> {
    let several = limits.several.as_ref().unwrap();
    let mut events: Vec<Vec<&[u8]>> = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.chunks(limits.bytes_max)) {
        match events.last_mut() {
            Some(event)
                if event.len() < several.lines_max
                    && event.concat().len() + line.len() <= limits.bytes_max
                    && !line.starts_with(b"x") =>
            {
                event.push(line);
            }
            _ => events.push(vec![line]),
        }
    }
    events.iter().map(|event| event.concat()).collect()
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![3 => Just(b'a'), 2 => Just(b'x'), 2 => Just(b'\n')], 1..120)
}

proptest! {
    /// However the bytes are divided among writes, by one handle and with those of others in between.
    #[test]
    fn events_of_several_lines_are_the_same_wherever_the_writes_are_cut(
        texts in prop::collection::vec(any_text(), 1..4),
        cuts in prop::collection::vec((0..3_usize, 1..9_usize, 0..50_u64), 400),
    ) {
        let limits = several();
        let mut left: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let mut wrote = Vec::new();
        for (file, len, later) in cuts {
            let file = file % texts.len();
            let (piece, rest) = left[file].split_at(len.min(left[file].len()));
            left[file] = rest;
            if !piece.is_empty() {
                // The others may write meanwhile: all of them within the time.
                let later = later / 20;
                let data = piece.to_vec();
                wrote.push(Wrote { handle: file as u64, jumps: false, renamed: false, later, data });
            }
        }
        prop_assume!(left.iter().all(|left| left.is_empty()));
        let (all, tickets) = join(&limits, &wrote);
        for (file, text) in texts.iter().enumerate() {
            let of_file: Vec<_> =
                all.iter().filter(|sent| sent.handle == file as u64).map(|sent| sent.message.clone()).collect();
            prop_assert_eq!(of_file, events(text, &limits));
        }
        for (ticket, (told, used)) in tickets {
            prop_assert_eq!(told, used, "record {}", ticket);
        }
    }

    /// With pauses, jumps and other names: nothing is missing, twice or out of its place, and each record is told of what is sent
    /// or joined of it.
    #[test]
    fn events_of_several_lines_are_the_bytes_that_were_written_where_they_were_written(wrote in any_writes()) {
        let limits = several();
        let (all, tickets) = join(&limits, &wrote);
        let mut expected: HashMap<u64, Vec<(u64, u8)>> = HashMap::new();
        for ((handle, _, offset, _), w) in described(&wrote).iter().zip(&wrote) {
            expected.entry(*handle).or_default().extend((*offset..).zip(w.data.iter().copied()));
        }
        let mut found: HashMap<u64, Vec<(u64, u8)>> = HashMap::new();
        for event in &all {
            found.entry(event.handle).or_default().extend((event.offset..).zip(event.message.iter().copied()));
            prop_assert!(event.message.len() <= limits.bytes_max);
            prop_assert!(event.message.split_inclusive(|byte| *byte == b'\n').count() <= 4);
        }
        prop_assert_eq!(found, expected);
        let ids: HashSet<_> = all.iter().map(|event| (event.sequence, event.stretch)).collect();
        prop_assert_eq!(ids.len(), all.len());
        for (ticket, (told, used)) in tickets {
            prop_assert_eq!(told, used, "record {}", ticket);
        }
    }
}

#[test]
fn an_event_of_several_lines_is_waited_for_since_its_last_write() {
    let limits = several();
    let wrote = |later, data: &str| Wrote {
        handle: 1,
        jumps: false,
        renamed: false,
        later,
        data: data.as_bytes().to_vec(),
    };
    let messages = |wrote: &[Wrote]| -> Vec<String> {
        join(&limits, wrote).0.into_iter().map(|sent| String::from_utf8(sent.message).unwrap()).collect()
    };
    // 120 ms in all, never more than 50 at a time.
    let slow = [wrote(0, "x\n"), wrote(40, "a"), wrote(40, "b\n"), wrote(40, "c")];
    assert_eq!(messages(&slow), ["x\nab\nc"]);
    assert_eq!(messages(&[wrote(0, "x\na"), wrote(51, "b\n")]), ["x\na", "b\n"]);
    // A line that is cut short by the time is judged by what is there of it.
    assert_eq!(messages(&[wrote(0, "x\nx"), wrote(51, "b\n")]), ["x\n", "x", "b\n"]);
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
    joiner.take(&record, &LIMITS, Instant::now(), open, &mut send).unwrap();
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
        joiner.take(&record, &LIMITS, now, |_| offset, send).unwrap();
    };
    record(0, b"be", &mut joiner, &mut send);
    joiner.flush_stale(now, &mut send).unwrap();
    // This process stands still, between a look at the ring and this, while the line's end is written in time.
    joiner.flush_stale(now + 100 * LIMITS.wait, &mut send).unwrap();
    record(2, b"gun\n", &mut joiner, &mut send);
    assert_eq!(messages, [b"begun\n"]);
}
