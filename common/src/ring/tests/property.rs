//! Random steps of both sides against a queue and a book of losses.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<usize>),
    PushSome(Vec<usize>),
    GiveUp(usize),
    Read(usize),
    Ack(usize),
    Announce,
    RestartAgent,
    RestartPublisher,
}

fn step() -> impl Strategy<Value = Step> {
    let max = CAPACITY_MIN as usize / 8 - 24;
    let len = prop_oneof![4 => 0..300usize, 2 => 0..=max, 1 => Just(max), 1 => Just(max + 1)];
    prop_oneof![
        8 => prop::collection::vec(len.clone(), 1..4).prop_map(Step::Push),
        4 => prop::collection::vec(len, 1..40).prop_map(Step::PushSome),
        1 => (0..300usize).prop_map(Step::GiveUp),
        4 => (0..20usize).prop_map(Step::Read),
        4 => (0..20usize).prop_map(Step::Ack),
        1 => Just(Step::Announce),
        1 => Just(Step::RestartAgent),
        1 => Just(Step::RestartPublisher),
    ]
}

/// What the ring must hold: the records that are not acknowledged, and the losses that are not announced.
#[derive(Default)]
struct Expected {
    records: VecDeque<(Kind, Vec<u8>)>,
    /// How many of them the publisher has read.
    read: usize,
    /// Events and bytes by reason.
    losses: [(u64, u64); LossReason::ALL.len()],
    pushes: u8,
}

impl Expected {
    /// A record goes in; all losses so far are announced in front of it.
    fn announce(&mut self) {
        for reason in LossReason::ALL {
            let (events, bytes) = std::mem::take(&mut self.losses[reason as usize]);
            if events > 0 {
                let loss = Loss { reason, events, bytes, first_ns: 1, last_ns: 1 };
                self.records.push_back((Kind::Lost, loss.encode()));
            }
        }
    }

    fn lose(&mut self, reason: LossReason, events: usize, bytes: usize) {
        let sum = &mut self.losses[reason as usize];
        *sum = (sum.0 + events as u64, sum.1 + bytes as u64);
    }
}

/// Runs the steps on a real ring and on the model, and compares what is read.
fn run(steps: &[Step]) {
    let ring = TestRing::new();
    let mut agent = Some(ring.agent());
    let mut publisher = Some(ring.publisher());
    let mut expected = Expected::default();
    let mut ends: VecDeque<u64> = VecDeque::new();
    let mut next_seq = 0;
    for step in steps.iter().chain([&Step::Announce, &Step::Read(usize::MAX)]) {
        let producer = &agent.as_ref().unwrap().producer;
        match step {
            Step::Push(lens) => {
                expected.pushes = expected.pushes.wrapping_add(1);
                let payloads: Vec<Vec<u8>> = lens.iter().map(|len| vec![expected.pushes; *len]).collect();
                let bytes = lens.iter().sum();
                let (used, capacity) = producer.fill();
                match producer.reserve(lens, weight(bytes)) {
                    Ok(reservation) => {
                        for (i, payload) in payloads.iter().enumerate() {
                            reservation.write(i, Kind::Write, &[payload]);
                        }
                        reservation.commit();
                        expected.announce();
                        expected.records.extend(payloads.into_iter().map(|p| (Kind::Write, p)));
                    }
                    Err(Lost(reason)) => {
                        // The most that the records, their paddings and announcements can take.
                        let wanted: usize = lens.iter().map(|len| 2 * (len + 32)).sum::<usize>() + 3 * 128;
                        let too_large = lens.iter().any(|len| *len > producer.payload_max());
                        assert_eq!(reason == LossReason::TooLarge, too_large);
                        assert!(
                            too_large || used + wanted as u64 > capacity,
                            "refused at {used} for {lens:?}"
                        );
                        expected.lose(reason, 1, bytes);
                    }
                }
            }
            Step::PushSome(lens) => {
                expected.pushes = expected.pushes.wrapping_add(1);
                let payloads: Vec<Vec<u8>> = lens.iter().map(|len| vec![expected.pushes; *len]).collect();
                let (used, capacity) = producer.fill();
                let reservation = producer.reserve_some(lens, weight(0));
                let taken = reservation.as_ref().map_or(0, Reservation::records);
                if let Some(next) = lens.get(taken).filter(|len| **len <= producer.payload_max()) {
                    let wanted: usize = lens[..taken].iter().map(|len| len + 32).sum();
                    let most = wanted + 2 * (next + 32) + 3 * 128 + capacity as usize / 8;
                    assert!(used as usize + most > capacity as usize, "{taken} of {lens:?} at {used}");
                }
                if let Some(reservation) = reservation {
                    for (i, payload) in payloads[..taken].iter().enumerate() {
                        reservation.write(i, Kind::Write, &[payload]);
                    }
                    reservation.commit();
                    expected.announce();
                    expected.records.extend(payloads[..taken].iter().map(|p| (Kind::Write, p.clone())));
                }
                let (events, bytes) = (lens.len() - taken, lens[taken..].iter().sum());
                if events > 0 {
                    producer.count_losses(LossReason::RingFull, events as u64, weight(bytes));
                    expected.lose(LossReason::RingFull, events, bytes);
                }
            }
            Step::GiveUp(len) => match producer.reserve(&[*len], weight(*len)) {
                Ok(reservation) => {
                    drop(reservation);
                    expected.announce();
                    expected.records.push_back((Kind::Discarded, Vec::new()));
                    expected.lose(LossReason::Discarded, 1, *len);
                }
                Err(Lost(reason)) => expected.lose(reason, 1, *len),
            },
            Step::Announce => {
                let before = producer.fill().0;
                producer.announce_losses();
                if producer.fill().0 > before {
                    expected.announce();
                }
            }
            Step::Read(count) => {
                let mut payload = Vec::new();
                for _ in 0..*count {
                    let Some(entry) = publisher.as_mut().unwrap().consumer.next(&mut payload).unwrap() else {
                        break;
                    };
                    assert_eq!(entry.seq, next_seq + expected.read as u64);
                    assert_eq!((entry.kind, &payload), {
                        let (kind, payload) = &expected.records[expected.read];
                        (*kind, payload)
                    });
                    expected.read += 1;
                    ends.push_back(entry.end);
                }
            }
            Step::Ack(count) => {
                let count = (*count).min(expected.read);
                if let Some(end) = ends.drain(..count).next_back() {
                    publisher.as_ref().unwrap().consumer.acker().ack(end);
                    expected.records.drain(..count);
                    expected.read -= count;
                    next_seq += count as u64;
                }
            }
            Step::RestartAgent => {
                agent = None;
                agent = Some(agent.unwrap_or_else(|| ring.agent()));
            }
            Step::RestartPublisher => {
                publisher = None;
                publisher = Some(publisher.unwrap_or_else(|| ring.publisher()));
                ends.clear();
                expected.read = 0;
            }
        }
    }
    assert_eq!(expected.read, expected.records.len(), "not all was read");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_was_written_or_a_loss_that_says_so(steps in prop::collection::vec(step(), 1..120)) {
        run(&steps);
    }

    // Guarantee: G7
    /// Whatever a hostile agent writes into its segment, the reader gives an error or records, and ends.
    #[test]
    fn any_bytes_in_the_data_segment_are_an_error_or_records(
        noise in prop::collection::vec((0usize..4096, any::<u64>()), 1..40),
        tail in prop_oneof![any::<u64>(), (0..CAPACITY_MIN * 2).prop_map(|t| t / 8 * 8)],
    ) {
        let ring = TestRing::new();
        let agent = ring.agent();
        for i in 0..20 {
            agent.producer.push(Kind::Write, &[&[i; 100]], weight(100)).unwrap();
        }
        let mut publisher = ring.publisher();
        let file = fs::OpenOptions::new().write(true).open(ring.object("1.ring")).unwrap();
        for (at, value) in noise {
            file.write_all_at(&value.to_ne_bytes(), layout::RECORDS as u64 + at as u64).unwrap();
        }
        file.write_all_at(&tail.to_ne_bytes(), layout::TAIL as u64).unwrap();
        let mut payload = Vec::new();
        // Each record takes at least 24 bytes, so more than that many would be a loop.
        for _ in 0..=CAPACITY_MIN / 24 {
            match publisher.consumer.next(&mut payload) {
                Ok(Some(entry)) => {
                    let written = payload.len() == 100 && payload.iter().all(|byte| *byte == payload[0]);
                    prop_assert!(entry.kind != Kind::Write || written, "noise was taken for a record");
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    let begin = publisher.consumer.position();
                    if publisher.consumer.skip_damage().end(begin) == begin {
                        return Ok(());
                    }
                }
            }
        }
        prop_assert!(false, "the reader does not come to an end");
    }

    /// Whatever a hostile publisher writes into its segment, the agent goes on and hands nothing out twice.
    #[test]
    fn any_head_is_believed_only_where_it_can_be_true(heads in prop::collection::vec(any::<u64>(), 1..20)) {
        let ring = TestRing::new();
        let agent = ring.agent();
        let mut publisher = ring.publisher();
        let file = fs::OpenOptions::new().write(true).open(ring.object("1.ack")).unwrap();
        let mut pushed = 0u64;
        while agent.producer.push(Kind::Write, &[&pushed.to_ne_bytes()], weight(8)).is_ok() {
            pushed += 1;
        }
        for head in heads {
            // What cannot be true: beyond the tail.
            let head = head | (1 << 63);
            file.write_all_at(&head.to_ne_bytes(), layout::HEAD as u64).unwrap();
            prop_assert!(agent.producer.push(Kind::Write, &[&[0; 8]], weight(8)).is_err());
        }
        let values: Vec<u64> =
            drain(&mut publisher.consumer).iter().map(|(_, p)| u64::from_ne_bytes(p[..].try_into().unwrap())).collect();
        prop_assert_eq!(values, (0..pushed).collect::<Vec<_>>());
    }
}
