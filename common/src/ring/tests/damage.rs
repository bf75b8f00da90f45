//! What is passed over of a damaged ring.

use super::*;

/// Bytes of each record, without its header.
const PAYLOAD_BYTES: usize = 104;
/// Bytes from one record to the next.
const RECORD_BYTES: u64 = layout::RECORD_HEADER + PAYLOAD_BYTES as u64;

/// A ring with so many records, and the end that reads them. The agent is kept so that nothing is removed.
fn filled(records: u8) -> (TestRing, AgentRing, PublisherRing) {
    let ring = TestRing::new();
    let agent = ring.agent();
    for i in 0..records {
        agent.producer.push(Kind::Write, &[&[i; PAYLOAD_BYTES]], weight(PAYLOAD_BYTES)).unwrap();
    }
    let publisher = ring.publisher();
    (ring, agent, publisher)
}

/// Changes a byte of a record.
fn damage(ring: &TestRing, record: u64, at: u64) {
    overwrite(ring, record, at, b"#");
}

fn overwrite(ring: &TestRing, record: u64, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(ring.object("1.ring")).unwrap();
    file.write_all_at(bytes, layout::RECORDS as u64 + record * RECORD_BYTES + at).unwrap();
}

/// Reads up to the tail: numbers of records, and what was passed over.
fn read(consumer: &mut Consumer) -> Vec<Result<u64, Skipped>> {
    let (mut all, mut payload) = (Vec::new(), Vec::new());
    loop {
        match consumer.next(&mut payload) {
            Ok(Some(entry)) => all.push(Ok(entry.seq)),
            Ok(None) => return all,
            Err(_) => all.push(Err(consumer.skip_damage())),
        }
    }
}

fn record(seq: u64) -> Skipped {
    Skipped::Record(Entry { kind: Kind::Write, seq, end: (seq + 1) * RECORD_BYTES })
}

/// So many records from number `first` on, to the tail.
fn range(first: u64, records: u64) -> Skipped {
    let (first_seq, seq_behind) = (Some(first), Some(first + records));
    Skipped::Range(DamagedRange { bytes: records * RECORD_BYTES, first_seq, seq_behind })
}

#[test]
fn damaged_records_cost_themselves_alone_where_their_headers_hold() {
    let (ring, _agent, mut publisher) = filled(6);
    for damaged in [0, 2, 3, 5] {
        damage(&ring, damaged, layout::RECORD_HEADER + 1);
    }
    let expected = [Err(record(0)), Ok(1), Err(record(2)), Err(record(3)), Ok(4), Err(record(5))];
    assert_eq!(read(&mut publisher.consumer), expected);
}

#[test]
fn behind_a_header_that_is_wrong_reading_goes_on_at_the_tail() {
    // Its length, its kind, its number.
    for at in [0, 4, 8] {
        let (ring, agent, mut publisher) = filled(4);
        damage(&ring, 1, at);
        assert_eq!(read(&mut publisher.consumer), [Ok(0), Err(range(1, 3))]);
        agent.producer.push(Kind::Write, &[b"after"], weight(5)).unwrap();
        assert_eq!(read(&mut publisher.consumer), [Ok(4)]);
    }
}

#[test]
fn a_record_within_what_somebody_has_written_is_never_found() {
    let (ring, _agent, mut publisher) = filled(3);
    let inner = vec![b'x'; PAYLOAD_BYTES - layout::RECORD_HEADER as usize];
    let len = u32::try_from(PAYLOAD_BYTES).unwrap();
    let mut header = layout::RecordHeader { len, kind: Kind::Write as u8, seq: 1, crc: 0 };
    header.crc = layout::checksum(&inner) ^ header.mark();
    overwrite(&ring, 1, layout::RECORD_HEADER, &[&header.encode()[..], &inner].concat());
    // The outer one's length is gone, and no header leads to the inner one.
    damage(&ring, 1, 0);
    assert_eq!(read(&mut publisher.consumer), [Ok(0), Err(range(1, 2))]);
}

#[test]
fn the_last_record_costs_itself_alone_though_nothing_was_read_before() {
    let (ring, _agent, mut publisher) = filled(3);
    let last = std::iter::from_fn(|| publisher.consumer.next(&mut Vec::new()).unwrap()).nth(1).unwrap();
    publisher.consumer.acker().ack(last.end);
    drop(publisher);
    damage(&ring, 2, layout::RECORD_HEADER + 1);
    assert_eq!(read(&mut ring.publisher().consumer), [Err(record(2))]);
}
